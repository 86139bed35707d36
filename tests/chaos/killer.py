"""Kills processes at random moments, by a seed, and sees to it that what must come back comes back."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.chaos.served import Served, alive, kill, until
from tests.postgres import Postgres

_ORPHANS_END = 30.0  # seconds until the workers of a dead supervisor must be gone; one that still starts takes a while


@dataclass
class Killer:
    """One service's bad luck, and its database's."""

    served: Served
    rng: random.Random
    answered: Callable[[], int]  # how many requests were, so far
    postgres: Postgres | None = None
    struck: Counter[str] = field(default_factory=Counter)

    def strike(self) -> None:
        """Waits a random while, then does one of the strikes.

        The while is mostly counted in answers, so that on a slow machine, too, there is work to fall into; but what
        comes up is struck now and then.
        """
        if self.rng.random() < 0.85:
            enough = self.answered() + self.rng.randint(1, 40)
            until(lambda: self.answered() >= enough, "clients are answered")
        time.sleep(self.rng.uniform(0.0, 0.3))
        strikes = self._strikes()
        chosen = self.rng.choices(list(strikes), weights=list(strikes.values()))[0]
        self.struck[chosen.__name__] += 1
        chosen()

    def _strikes(self) -> Mapping[Callable[[], None], float]:
        """What may happen, and how often of a hundred times."""
        own = {self.a_worker: 66.0, self.every_worker: 10.0, self.the_supervisor: 8.0, self.everything: 16.0}
        if self.postgres is None:
            return own
        return {**own, self.a_connection: 15.0, self.the_database: 8.0, self.the_database_in_a_hurry: 8.0}

    def a_worker(self) -> None:
        """One of them; it may have been born a moment ago. Its place is filled without anybody's help."""
        if workers := self.served.workers:
            kill(self.rng.choice(workers))

    def every_worker(self) -> None:
        """At once."""
        for pid in self.served.workers:
            kill(pid)

    def the_supervisor(self) -> None:
        """Its workers must not live on, or the next one finds the port taken."""
        orphans = self.served.kill_supervisor()
        until(lambda: not any(map(alive, orphans)), "the orphans have ended", patience=_ORPHANS_END)
        self._again()

    def everything(self) -> None:
        self.served.kill()
        self._again()

    def a_connection(self) -> None:
        """PostgreSQL ends one of the service's connections, in whatever it is."""
        assert self.postgres is not None
        with self.postgres.connect() as c:
            ours = c.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'attestd' ORDER BY pid").fetchall()
            if ours:
                c.execute("SELECT pg_terminate_backend(%s)", self.rng.choice(ours))

    def the_database(self) -> None:
        """PostgreSQL crashes, and recovers."""
        self._database_away(signal.SIGKILL)

    def the_database_in_a_hurry(self) -> None:
        """PostgreSQL's immediate shutdown."""
        self._database_away(signal.SIGQUIT)

    def _database_away(self, how: signal.Signals) -> None:
        assert self.postgres is not None
        self.postgres.kill(how)
        time.sleep(self.rng.uniform(0.0, 0.5))
        self.postgres.run()

    def _again(self) -> None:
        """As systemd does. Mostly it comes up before the next strike."""
        self.served.start(wait=self.rng.random() < 0.8)
