"""Keeps an edge current: bundles as a message broker or the service pushes them, its own certificate at half its life,
the time's floor every minute. Where nothing is pushed, it asks every second.

One thread a process; of several processes on one state folder, one fetches and the others read what it wrote. What
happens again and again is logged once, when it begins and when it ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from attestd.broker.messages import BundleMessage, order
from attestd.errors import AttestdError
from attestd.ids import TrustDomain
from attestd_edge.identity import ProxyIdentity, renewed, save
from attestd_edge.service import Fetched, Service, ServiceBusy, ServiceRefused
from attestd_edge.store import BundleStore
from attestd_edge.views import BundleUnusable, check_fresh

INTERVAL = 1.0  # seconds between fetches
LOOK_INTERVAL = 0.1  # seconds between looks at what another process fetched
MAX_BACKOFF = 5.0  # seconds between attempts while the service does not answer
LISTEN_AGAIN = timedelta(seconds=30)  # after the service did not push
ASK_AGAIN = timedelta(seconds=2)  # at least, between questions to the service beside a broker
_MOST_PATIENT = 16  # times as long, while the service does not answer
RENEWAL_PAUSE = timedelta(seconds=60)  # between attempts to renew

logger = logging.getLogger("attestd_edge.refresh")

Connection = Literal["starting", "connected", "listening", "cut off", "reading along"]


class Feed(Protocol):
    """What brings bundles besides the service (`attestd_edge.nats.feed`)."""

    def follow(self, known: Callable[[], str | None], /) -> Generator[BundleMessage | None, None, None]:
        """What leads on from the bundle that `known` names, or nothing newer for a sign of life of who publishes; None
        where neither came for about a second."""


class Refresher:
    """`tick` does one round; `start` runs rounds in a thread until `stop`."""

    def __init__(
        self,
        store: BundleStore,
        service: Service,
        *,
        load_identity: Callable[[], ProxyIdentity],
        certificate_file: Path,
        trust_domain: TrustDomain,
        chance: Callable[[], float],
        feed: Feed | None = None,
    ) -> None:
        """`load_identity` reads the proxy's key and chain from disk; `chance` gives numbers in [0, 1) for jitter."""
        self._store = store
        self._service = service
        self._load_identity = load_identity
        self._certificate_file = certificate_file
        self._trust_domain = trust_domain
        self._chance = chance
        self._feed = feed
        self._who: ProxyIdentity | None = None
        self._trusted = store.roots  # by `service`
        self._whole = False  # whether to ask for a whole bundle: what came last was refused
        self._failures = 0
        self._renew_at: datetime | None = None
        self._listen_at: datetime | None = None
        self._hear_at: datetime | None = None
        self._ask_at: datetime | None = None
        self._said: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.connection: Connection = "starting"

    def start(self) -> None:
        """Begins to refresh in the background. The first round runs at once."""
        self._thread = threading.Thread(target=self._run, name="attestd-edge-refresh", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, keeps the time's floor and lets another process fetch. Waits at most some seconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=15)
        if self.connection != "reading along":
            try:
                self._store.keep_time(at_once=True)
            except AttestdError as error:
                logger.warning("the time's floor was not kept: %s", error)
        self._store.disown()
        self._service.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pause = self.tick()
                if self._feed is not None and self.connection != "reading along" and self._may_hear():
                    pause = self.hear(self._feed)
                if self.connection == "connected" and self._may_listen():
                    pause = self.listen()
            except Exception:  # a thread that dies unseen would leave the edge to go stale in silence
                logger.exception("a round of refreshing failed in an unforeseen way")
                pause = MAX_BACKOFF
            self._stop.wait(pause)

    def tick(self) -> float:
        """One round; returns the seconds to wait before the next."""
        try:
            owner = self._store.own()
        except OSError as error:
            self._connect("cut off", f"the state folder can't be locked: {error.strerror}")
            return MAX_BACKOFF
        pause = self._fetch() if owner else self._read_along()
        self._watch_age(owner=owner)
        return pause * (0.9 + 0.2 * self._chance())

    def _may_listen(self) -> bool:
        """Whether the bundle is the service's newest, and nothing speaks against listening for the next one."""
        return not self._whole and (self._listen_at is None or self._store.clock.now() >= self._listen_at)

    def listen(self) -> float:
        """Takes what the service pushes as long as it does; returns the seconds to wait before the next round."""
        who, trusted = self._who, self._store.roots
        if who is None:
            return INTERVAL
        try:
            with closing(self._service.follow(who, known=self._store.name)) as events:
                for fetched in events:
                    self._connect("listening", "")
                    self._said.pop("stream", None)
                    if fetched is not None:
                        self._whole = True  # unless what came is taken
                        if self._take(fetched, who):
                            self._tell_bundle()
                        self._whole = False
                    self._renew()
                    self._watch_age(owner=True)
                    moved = (who, trusted) != (self._who, self._store.roots)
                    if self._stop.is_set() or moved or (self._feed is not None and self._may_hear()):
                        break
        except AttestdError as error:
            if self.connection != "listening":  # it does not push at all: an older one, or one that is full
                self._listen_at = self._store.clock.now() + LISTEN_AGAIN * (1 + self._chance())
            self._say("stream", f"nothing is pushed, so this edge asks: {type(error).slug()}: {error}")
        return INTERVAL * self._chance()

    def _may_hear(self) -> bool:
        return self._hear_at is None or self._store.clock.now() >= self._hear_at

    def hear(self, feed: Feed) -> float:
        """Takes what the message broker brings as long as it does, whether the service can be reached or not; returns
        the seconds to wait before the next round.

        The service is asked where the broker does not lead on: nothing is heard of a publisher yet, what came was not
        taken, something is missing, or nothing new comes for longer than the service would let it.
        """
        trusted = self._store.roots
        heard = behind = False
        try:
            with closing(feed.follow(lambda: self._store.name)) as told:
                for one in told:
                    if one is not None:
                        heard, self._hear_at = True, None
                        self._connect("listening", "")
                        self._said.pop("broker", None)
                        behind = order(one.name) > order(self._store.name) and not self._take_message(one)
                    if (not heard or behind or self._is_silent()) and self._ask():
                        behind = False
                    self._renew()
                    self._watch_age(owner=True)
                    if self._stop.is_set() or trusted != self._store.roots:
                        break
        except AttestdError as error:
            if not heard:  # the service serves meanwhile
                self._hear_at = self._store.clock.now() + LISTEN_AGAIN * (1 + self._chance())
            self._say("broker", f"no message broker brings bundles: {type(error).slug()}: {error}")
        return INTERVAL * self._chance()

    def _take_message(self, told: BundleMessage) -> bool:
        """Whether it was taken."""
        if not told.content:
            return False
        adopt = self._store.adopt_delta if told.is_delta else self._store.adopt
        try:
            if adopt(told.content, prove=partial(self._prove, told)):
                self._tell_bundle()
        except AttestdError as error:
            self._say("pushed", f"what the message broker brought is not taken: {type(error).slug()}: {error}")
            return False
        self._said.pop("pushed", None)
        return True

    def _prove(self, told: BundleMessage, log: int, first: int, second: int) -> Sequence[bytes]:
        """The proof that came along, or the service's."""
        if (path := told.proofs.get((log, first, second))) is not None:
            return path
        if self._who is None:
            self._who = self._load_identity()
        return self._service.consistency(self._who, log, first, second)

    def _is_silent(self) -> bool:
        """Whether a newer bundle should have come by now: one is signed six times in the staleness limit."""
        try:
            bundle = self._store.view().bundle
        except AttestdError:
            return True
        return self._store.clock.now().timestamp() - bundle.issued_at > bundle.stale_after / 4

    def _ask(self) -> bool:
        """Asks the service beside the broker, not too often; whether it answered."""
        now = self._store.clock.now()
        if self._ask_at is not None and now < self._ask_at:
            return False
        try:
            self._fetch_once()
            self._failures = 0
            self._said.pop("service", None)
        except AttestdError as error:
            self._failures += 1
            if isinstance(error, ServiceRefused):
                self._who = None  # somebody may have put a new certificate there
            self._say("service", f"the service is asked, and does not help: {type(error).slug()}: {error}")
        self._ask_at = now + ASK_AGAIN * (1 + self._chance()) * min(1 << min(self._failures, 10), _MOST_PATIENT)
        return self._failures == 0

    def _read_along(self) -> float:
        self._who = None  # the other process may renew it
        try:
            if self._store.load():
                self._tell_bundle()
            self._connect("reading along", "another process fetches the bundle")
        except AttestdError as error:
            self._connect("cut off", str(error))
        return LOOK_INTERVAL

    def _fetch(self) -> float:
        try:
            self._fetch_once()
            self._failures = 0
            self._connect("connected", "")
            self._renew()
        except BundleUnusable as error:
            # It was genuine, and nothing older may be used in its place.
            self._failures += 1
            self._connect("connected", str(error))
            return MAX_BACKOFF
        except AttestdError as error:
            self._failures += 1
            if isinstance(error, ServiceRefused):
                self._who = None  # somebody may have put a new certificate there
            self._connect("cut off", f"{type(error).slug()}: {error}")
            backoff = min(MAX_BACKOFF, INTERVAL * (1 << min(self._failures - 1, 10)))
            return max(backoff, float(error.retry_after)) if isinstance(error, ServiceBusy) else backoff
        return INTERVAL

    def _fetch_once(self) -> None:
        """Asks the service for what is new, and takes it. Raises AttestdError."""
        if self._who is None:
            self._who = self._load_identity()
        if self._trusted != self._store.roots:
            self._trusted = self._store.roots
            self._service.trust(self._trusted)
        # Named only while it is in use: a 304 must never stand for a bundle that was refused.
        fetched = self._service.bundle(self._who, known=None if self._whole else self._store.name)
        self._whole = True  # unless what came is taken
        if fetched is not None and self._take(fetched, self._who):
            self._tell_bundle()
        self._whole = False

    def _take(self, fetched: Fetched, who: ProxyIdentity) -> bool:
        adopt = self._store.adopt_delta if fetched.is_delta else self._store.adopt
        return adopt(fetched.content, prove=partial(self._service.consistency, who))

    def _renew(self) -> None:
        """Renews the proxy's certificate once half of its life is over; a failure is tried again later."""
        who, now = self._who, self._store.clock.now()
        if who is None or now < who.half_life or (self._renew_at is not None and now < self._renew_at):
            return
        self._renew_at = now + RENEWAL_PAUSE * (1 + self._chance())
        try:
            pem = self._service.renew(who)
            new = renewed(who, pem, roots=self._store.roots, trust_domain=self._trust_domain, now=now)
            save(new, self._certificate_file)
        except AttestdError as error:
            self._say("renewal", f"the proxy's certificate was not renewed: {type(error).slug()}: {error}")
            return
        self._who, self._renew_at = new, None
        self._said.pop("renewal", None)
        logger.info("the proxy's certificate was renewed; it ends %s", new.certificate.not_valid_after_utc.isoformat())

    def _watch_age(self, *, owner: bool) -> None:
        try:
            check_fresh(self._store.view().bundle, self._store.clock.now())
            stale = ""
        except AttestdError as error:
            stale = str(error)
        began = bool(stale) and "age" not in self._said
        if owner:
            try:
                # Once stale, stale: also for a process that starts later with its clock set back.
                self._store.keep_time(at_once=began)
                self._said.pop("disk", None)
            except AttestdError as error:
                self._say("disk", f"the time's floor was not kept: {error}")
        if stale:
            self._say("age", f"nothing crosses here: {stale}")
        elif self._said.pop("age", None):
            logger.info("the bundle is fresh again")

    def _tell_bundle(self) -> None:
        bundle = self._store.view().bundle
        logger.info(
            "bundle %d.%d in use, policy %d, %d authorities",
            bundle.epoch,
            bundle.version,
            bundle.policy_version,
            len(bundle.issuers),
        )

    def _connect(self, state: Connection, why: str) -> None:
        self.connection = state
        if self._said.get("connection") == state + why:
            return
        if why and state != "reading along":
            logger.warning("%s: %s", state, why)
        else:
            logger.info("%s", state)
        self._said["connection"] = state + why

    def _say(self, topic: str, text: str) -> None:
        """Logs what is wrong once, until it changes or ends."""
        if self._said.get(topic) != text:
            self._said[topic] = text
            logger.warning("%s", text)
