"""Answers nats-server's questions: one message in, one answer or none out. Whatever is not a leave is a refusal.

A question that can't be read gets no answer, and nats-server refuses after its timeout; all others get one at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from attestd.credentials.dpop import ReplayCache
from attestd.errors import AttestdError
from attestd_edge.edge import Edge
from attestd_edge.nats.keys import Keys
from attestd_edge.nats.ledger import Connection, Ledger, LedgerUnusable
from attestd_edge.nats.login import Login, log_in
from attestd_edge.nats.request import LoginRequest, read_request, user_jwt, write_answer
from attestd_edge.nats.settings import NatsSettings
from attestd_edge.nats.tallies import Tallies
from attestd_edge.problems import EdgeFailed

logger = logging.getLogger("attestd_edge.decisions.nats")

Tell = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Callout:
    """The answering side of one edge."""

    edge: Edge
    settings: NatsSettings
    audience: str | None
    keys: Keys
    ledger: Ledger
    tallies: Tallies
    replays: ReplayCache
    wall: Callable[[], datetime]
    entropy: Callable[[int], bytes]

    def answer_all(self, messages: Sequence[tuple[bytes, str | None]]) -> list[bytes | None]:
        """The answers to these messages with their senders, None for what is no question. Never raises.

        All logins are written down before anybody is answered; where that fails, each by itself, so that who can't be
        written down is refused by name.
        """
        try:
            with self.ledger.together():
                judged = [self._answer(data, sender) for data, sender in messages]
        except LedgerUnusable:
            judged = [self._answer(data, sender) for data, sender in messages]
        for _, tell in judged:
            tell()
        return [answer for answer, _ in judged]

    def answer(self, data: bytes, *, sender: str | None) -> bytes | None:
        """The answer to one message."""
        return self.answer_all([(data, sender)])[0]

    def _answer(self, data: bytes, sender: str | None) -> tuple[bytes | None, Tell]:
        """The answer, and what is to be logged and counted once it goes out."""
        started = time.perf_counter()
        record: dict[str, object] = {"request_id": self.entropy(8).hex()}
        try:
            request = read_request(
                data, sender=sender, ours=self.keys.sealing, issuer=self.keys.issuer.public, wall=self.wall()
            )
        except AttestdError as error:
            return None, partial(self._refused, error, record, started)
        except Exception as error:  # the door stays shut on what nobody foresaw
            logger.exception("a question could not be read", extra={"attestd": record})
            return None, partial(self._refused, _unforeseen(error), record, started)
        record |= {"server": request.server, "connection": request.connection, "host": request.host}
        tell: Tell
        try:
            said, tell = {"jwt": self._let_in(request, record)}, partial(self._allowed, record, started)
        except AttestdError as error:
            said, tell = self._no(error, record, started)
        except Exception as error:  # see above
            logger.exception("a login could not be judged", extra={"attestd": record})
            said, tell = self._no(_unforeseen(error), record, started)
        now = self.wall()
        answer = write_answer(
            request, said, now=now, key=self.keys.issuer, ours=self.keys.sealing, entropy=self.entropy
        )
        return answer, tell

    def _let_in(self, request: LoginRequest, record: dict[str, object]) -> str:
        now = self.edge.store.clock.now()
        login = log_in(
            self.edge.store.view(),
            self.settings,
            request,
            audience=self.audience,
            replays=self.replays,
            now=now,
        )
        record |= _shown(login)
        connection = Connection(
            request.server, request.connection, login.identity.device_id, login.permissions, login.until
        )
        # Written down first: what this edge could not disconnect, it does not let in.
        self.ledger.enter(login.identity, connection)
        return user_jwt(
            request,
            account=self.settings.account,
            name=str(login.identity.spiffe_id),
            permissions=login.permissions,
            now=self.wall(),
            until=login.until,
            key=self.keys.issuer,
            entropy=self.entropy,
        )

    def _no(self, error: AttestdError, record: dict[str, object], started: float) -> tuple[dict[str, str], Tell]:
        problem = f"{type(error).slug()} ({record['request_id']})"
        return {"error": problem}, partial(self._refused, error, record, started)

    def _allowed(self, record: dict[str, object], started: float) -> None:
        self.tallies.login("allowed", "", time.perf_counter() - started)
        logger.info("let in", extra={"attestd": record})

    def _refused(self, error: AttestdError, record: dict[str, object], started: float) -> None:
        self.tallies.login("refused", type(error).slug(), time.perf_counter() - started)
        logger.warning("refused: %s", error, extra={"attestd": record | {"problem": type(error).slug()}})


def _unforeseen(error: Exception) -> EdgeFailed:
    return EdgeFailed(f"{type(error).__name__}: {error}"[:300])


def _shown(login: Login) -> dict[str, object]:
    """For the log. Never a token or a proof."""
    return {
        "spiffe_id": str(login.identity.spiffe_id),
        "credential": login.identity.credential_id,
        "kind": login.identity.kind,
        "publish": login.permissions.publish,
        "subscribe": login.permissions.subscribe,
        "policies": sorted({name for one in login.asked for name in one.decision.policy_ids}),
        "until": int(login.until.timestamp()),
    }
