"""A policy is tried before it is in force: what it would change of what crossed lately.

What edges' receipts say of crossings is decided again, the newest first, within bounds of number and time. A receipt
has all that policy saw of the request but the sender's claims; what policy saw of the device stands in the very
certificate that the receipt names, which the service keeps. Of tokens only their name is kept: their devices' newest
certificate of that time stands for them.

What edges counted beside that is told: boundaries that demand no receipts, and refusals that got none, are not covered.
One trial at a time in each process: a fleet's operators can't bring its service down by looking.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from attestd.credentials.certificates import ParsedCertificate
from attestd.credentials.facts import Facts
from attestd.credentials.receipts import Crossed, Receipt, read_unverified
from attestd.errors import AttestdError, Limited, NotFound
from attestd.ids import DeviceId, Serial, Site
from attestd.policy import Boundary, Crossing, PolicySet
from attestd.policy.comparing import Texts, compare
from attestd.policy.review import require_readable
from attestd.policy.situations import Situation
from attestd.policy.trying import Judge, Left, Trial
from attestd.registry import edges, issued, policies, proxies, receipts
from attestd.registry.engine import Connection, Registry
from attestd.registry.policies import StoredPolicy, UnknownPolicy
from attestd.registry.receipts import StoredReceipt

MAX_DECISIONS: Final = 20_000
MAX_LOOKED: Final = 100_000  # receipts that are read for them
MAX_SECONDS: Final = 8.0
MAX_WINDOW: Final = timedelta(days=31)
MAX_COVERED: Final = 100  # boundaries whose coverage is told
DENIED: Final = "crossing-denied"  # the problem of a refusal by policy (docs/adr/0012)
_PAGE: Final = 500
_CERTIFICATES: Final = 50  # of one device, among which that of a moment is looked for
_OLD_VERSIONS: Final = 16


class TrialRunning(Limited):
    """Another policy is being tried at the moment"""

    remedy = "Try again in some seconds; a trial takes at most ten."


class NoSuchPlace(NotFound):
    """There is no edge at this site"""

    remedy = "`attestd proxies list` shows the edges and their sites."


@dataclass(frozen=True, slots=True)
class Covered:
    """One boundary: what its edges counted in the window, and what of it could be judged again."""

    boundary: str
    allowed: int
    denied: int  # by policy
    judged: int
    judged_denied: int


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial found. `whole`: nothing was left out for want of time or room."""

    in_force: StoredPolicy
    texts: Texts
    trial: Trial
    since: int
    looked: int
    whole: bool
    by_nearest: int  # attempts with a token, judged by the device's certificate of that time
    covered: Sequence[Covered]


@dataclass(slots=True)
class _Run:
    """One trial while it runs."""

    trial: Trial
    judges: dict[int, Judge | None]
    facts: dict[tuple[str, str], Facts | None] = field(default_factory=dict)
    certificates: dict[DeviceId, list[tuple[int, bytes]]] = field(default_factory=dict)
    nearest: set[tuple[str, str]] = field(default_factory=set)
    by_nearest: int = 0
    looked: int = 0


class Trials:
    """Tries policies. One object a process."""

    def __init__(self, registry: Registry, monotonic: Callable[[], float]) -> None:
        self._registry = registry
        self._monotonic = monotonic
        self._running = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises TrialRunning while somebody else's is not done."""
        if not self._running.acquire(blocking=False):
            raise TrialRunning(retry_after=5)
        try:
            yield
        finally:
            self._running.release()

    def run(self, text: str | int, *, site: Site | None, window: timedelta, now: datetime) -> Tried:
        """`text`: a policy, or the version whose text it is. Raises PolicyInvalid, InputTooLarge, UnknownPolicy,
        NoSuchPlace or TrialRunning."""
        with self.alone():
            since = int((now - window).timestamp())
            with self._registry.reading() as c:
                stored = policies.latest(c)
                text = policies.by_version(c, text).text if isinstance(text, int) else text
                here = _edges_at(c, site)
                counted = edges.all_sums(c, since=since, site=site)
            require_readable(text)
            new = Judge(PolicySet.parse(text, stored.version + 1))
            in_force = Judge(PolicySet.parse(stored.text, stored.version))
            run = _Run(Trial(in_force, new), {stored.version: in_force})
            whole = self._replay(run, here, since)
            return Tried(
                in_force=stored,
                texts=compare(in_force.policies, new.policies),
                trial=run.trial,
                since=since,
                looked=run.looked,
                whole=whole,
                by_nearest=run.by_nearest,
                covered=_covered(counted, run.trial)[:MAX_COVERED],
            )

    def _replay(self, run: _Run, here: frozenset[str] | None, since: int) -> bool:
        """Whether it came to the window's end. A page at a time: no view of the database is held for long."""
        ends = self._monotonic() + MAX_SECONDS
        before: int | None = None
        while True:
            with self._registry.reading() as c:
                page = receipts.newest(c, before=before, limit=_PAGE)
                if not page:
                    return True
                before = page[-1].number
                run.looked += len(page)
                wanted = [one for one in page if one.at >= since and (here is None or one.edge in here)]
                read = [found for one in wanted if (found := _read(run, one)) is not None]
                _look_up(c, run, read)
                for receipt, said in read:
                    _consider(c, run, receipt, said)
                    if self._monotonic() > ends or run.trial.judged >= MAX_DECISIONS:
                        return False
            if page[-1].received_at < since:
                return True
            if run.looked >= MAX_LOOKED:
                return False


def _edges_at(c: Connection, site: Site | None) -> frozenset[str] | None:
    if site is None:
        return None
    found = frozenset(proxy.name for proxy in proxies.every(c) if proxy.site == site)
    if not found:
        raise NoSuchPlace(seen=site)
    return found


def _read(run: _Run, stored: StoredReceipt) -> tuple[Receipt, Crossed] | None:
    """A crossing that policy decided about; None for anything else. It was verified when it was delivered."""
    if stored.boundary is None:
        return None  # a chain's beginning
    try:
        receipt = read_unverified(stored.jws)
    except AttestdError:
        run.trial.left[Left.UNREADABLE] += 1
        return None
    said = receipt.said
    if not isinstance(said, Crossed) or not (said.allowed or said.problem == DENIED):
        run.trial.left[Left.NOT_POLICY] += 1
        return None
    return receipt, said


def _consider(c: Connection, run: _Run, receipt: Receipt, said: Crossed) -> None:
    who = said.who
    if who is None or said.policy_version is None:
        run.trial.left[Left.NOT_POLICY] += 1
        return
    try:
        tier, site, device = who.device
        facts = _facts_of(c, run, device, said.credential, receipt.time)
        if facts is None:
            run.trial.left[Left.NO_FACTS] += 1
            return
        there = said.where
        boundary = Boundary(there.boundary, there.from_tier, there.from_site, there.to_tier, there.to_site)
        situation = Situation(
            device,
            tier,
            site,
            facts,
            datetime.fromtimestamp(receipt.time, UTC),
            Crossing(boundary, said.method, said.path, said.labels),
        )
    except (AttestdError, ValueError, OverflowError, OSError):
        run.trial.left[Left.UNREADABLE] += 1
        return
    run.trial.consider(situation, allowed=said.allowed, by=_judge_of(c, run, said.policy_version))
    run.by_nearest += (device, said.credential) in run.nearest


def _judge_of(c: Connection, run: _Run, version: int) -> Judge | None:
    """The policy of that version, as an edge had it."""
    if version not in run.judges:
        judge = None
        if len(run.judges) < _OLD_VERSIONS:
            try:
                judge = Judge(PolicySet.parse(policies.by_version(c, version).text, version))
            except (AttestdError, UnknownPolicy):
                judge = None  # today's schema does not know it any more
        run.judges[version] = judge
    return run.judges[version]


def _look_up(c: Connection, run: _Run, read: Sequence[tuple[Receipt, Crossed]]) -> None:
    """The certificates that these receipts name, at once."""
    wanted: dict[Serial, tuple[str, str]] = {}
    for _, said in read:
        if said.who is None or (key := (said.who.path[-1], said.credential)) in run.facts:
            continue
        try:
            wanted[Serial.parse(said.credential)] = key
        except AttestdError:
            continue  # a token's name
    for serial, der in issued.contents(c, list(wanted)).items():
        run.facts[wanted[serial]] = _facts_in(der)


def _facts_of(c: Connection, run: _Run, device: DeviceId, credential: str, at: int) -> Facts | None:
    """What policy saw of the device: by the certificate of the receipt, or the device's newest one of that time."""
    key = str(device), credential
    if key not in run.facts:
        if device not in run.certificates:
            found = issued.page(c, device_id=device, limit=_CERTIFICATES)
            run.certificates[device] = [(one.not_before, one.der) for one in found]
        der = next((der for since, der in run.certificates[device] if since <= at), None)
        run.facts[key] = None if der is None else _facts_in(der)
        run.nearest.add(key)
    return run.facts[key]


def _facts_in(der: bytes) -> Facts | None:
    """A certificate of our own, so whole; None for one that says nothing about a device."""
    try:
        value = ParsedCertificate.parse(der).facts
        return None if value is None else Facts.from_extension(value)
    except AttestdError:
        return None


def _covered(sums: Mapping[tuple[str, str, str], int], trial: Trial) -> list[Covered]:
    """The boundaries about which least is known first."""
    allowed: Counter[str] = Counter()
    denied: Counter[str] = Counter()
    for (_, boundary, reason), count in sums.items():
        if not reason:
            allowed[boundary] += count
        elif reason == DENIED:
            denied[boundary] += count
    names = {*allowed, *denied, *trial.by_boundary}
    found = [
        Covered(name, allowed[name], denied[name], trial.by_boundary[name], trial.refused_by_boundary[name])
        for name in names
    ]
    return sorted(found, key=lambda each: (each.judged - each.allowed - each.denied, each.boundary))
