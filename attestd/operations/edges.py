"""Edges' reports are taken, each once, and say how every edge stands (docs/sites.md).

A report has a number in a ledger of the edge's. What was counted before its number is passed over with the same answer;
numbers that are left out are noted, and what comes is taken all the same: a count too few must not cost those after it.
Reports are no acts, so the audit trail has no row for each of them; it has one for what is missing, and for an edge
that was told as silent and is back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Final, Self

from attestd.config import Settings
from attestd.errors import InputTooLarge, MalformedInput
from attestd.operations.act import Act
from attestd.operations.guarded import Guarded, read_guarded, write_guarded
from attestd.protocol.encoding import MAX_SECONDS, Members
from attestd.registry import bundles, edges, proxies
from attestd.registry.bundles import BundleHead
from attestd.registry.edges import MAX_TOTAL, HourSum, StoredEdge
from attestd.registry.engine import Connection, Registry
from attestd.registry.proxies import Proxy

MAX_BOUNDARIES: Final = 64  # in the counts of one report
MAX_REASONS: Final = 32  # at one boundary
MAX_STANDING: Final = 256  # boundaries that a report says how stale they are
MAX_COUNT: Final = 10**10
MAX_HOURS: Final = 5000  # sums that are shown at once
_MAX_LEDGERS: Final = 8  # remembered for one edge
_MAX_NUMBER: Final = (1 << 53) - 1
_LEDGER: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME: Final = re.compile(r"[!-~]{1,64}", re.ASCII)


class ReportMalformed(MalformedInput):
    """The report can't be read"""

    remedy = "Bring the edge and the service to the same version."


class State(Enum):
    """How an edge stands, as far as the service knows."""

    CURRENT = "current"
    BEHIND = "behind"  # a newer bundle has been out for longer than it takes to push it
    SILENT = "silent"
    NEVER = "never"  # it has not reported yet
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Report:
    """What an edge says of itself, unverified: only that it is this edge that says it."""

    ledger: str
    sequence: int
    since: int
    until: int
    bundle: tuple[int, int, int] | None  # epoch, version, issued at
    counts: Mapping[tuple[str, str], int]
    receipts_waiting: int
    stale_for: Mapping[str, int]
    boundaries: Mapping[str, Guarded] | None = None  # None: an edge that does not tell them

    @classmethod
    def read(cls, message: Members) -> Self:
        """Raises MalformedInput or InputTooLarge."""
        ledger = message.text("ledger", limit=32)
        if not _LEDGER.fullmatch(ledger):
            raise ReportMalformed("This is not a ledger's name.", seen=repr(ledger))
        report = cls(
            ledger=ledger,
            sequence=message.number("sequence", least=1, most=_MAX_NUMBER),
            since=message.number("since", most=_MAX_NUMBER),
            until=message.number("until", most=_MAX_NUMBER),
            bundle=_bundle(message),
            counts=_counts(message.object("counts")),
            receipts_waiting=message.number("receipts_waiting", most=_MAX_NUMBER),
            stale_for=_stale_for(message.object("stale_for")),
            boundaries=read_guarded(message.object("boundaries")) if "boundaries" in message else None,
        )
        message.done()
        if report.until < report.since:
            raise ReportMalformed("The report ends before it begins.", seen=f"{report.since} to {report.until}")
        return report


def _bundle(message: Members) -> tuple[int, int, int] | None:
    if message.is_null("bundle"):
        return None
    said = message.object("bundle")
    found = (
        said.number("epoch", least=1, most=_MAX_NUMBER),
        said.number("version", least=1, most=_MAX_NUMBER),
        said.number("issued_at", most=_MAX_NUMBER),
    )
    said.done()
    return found


def _named(members: Members, most: int) -> Iterable[str]:
    names = [name for name, _ in members.items()]
    if len(names) > most:
        raise InputTooLarge("The report has too many entries.", seen=len(names), expected=f"at most {most}")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ReportMalformed("This is not a name.", seen=repr(name[:80]), expected="1 to 64 printable characters")
    return names


def _counts(members: Members) -> dict[tuple[str, str], int]:
    found = {}
    for boundary in _named(members, MAX_BOUNDARIES):
        said = members.object(boundary)
        found[boundary, ""] = said.number("allowed", most=MAX_COUNT)
        refused = said.object("refused")
        for reason in _named(refused, MAX_REASONS):
            found[boundary, reason] = refused.number(reason, most=MAX_COUNT)
        said.done()
    return {place: count for place, count in found.items() if count}


def _stale_for(members: Members) -> dict[str, int]:
    return {name: members.number(name, most=MAX_SECONDS) for name in _named(members, MAX_STANDING)}


@dataclass(frozen=True, slots=True)
class Standing:
    """One edge, and how it stands. `versions_behind` is None where its bundle is of another epoch, or unknown;
    `seconds_behind`: for how long there has been a newer one."""

    proxy: Proxy
    told: StoredEdge | None
    state: State
    versions_behind: int | None
    seconds_behind: int

    def bundle_age(self, now: int) -> int | None:
        """Seconds since its bundle was issued; None if it has none that is known."""
        if self.told is None or self.told.issued_at is None:
            return None
        return max(0, now - self.told.issued_at)


@dataclass(frozen=True, slots=True)
class Decided:
    """What an edge decided since a time: by boundary and reason, and by hour."""

    sums: Mapping[tuple[str, str], int]
    hours: Sequence[HourSum]


@dataclass(frozen=True, slots=True)
class EdgeBook:
    """Takes reports, and says how edges stand. One object serves any number of requests in any process."""

    registry: Registry
    settings: Settings

    def take(self, report: Report, *, edge: str, act: Act) -> int:
        """The report's number, which is the answer to it, however often it comes. Raises ReportedElsewhere."""
        with self.registry.acting() as c:
            stored = edges.hold(c, edge, now=act.at)
            told = self._heard(stored, report, act)
            ledgers = {str(name): int(number) for name, number in stored.ledgers}
            last = ledgers.pop(report.ledger, 0)
            if report.sequence > last:
                missing = report.sequence - last - 1
                if missing:
                    detail = {"ledger": report.ledger, "first": last + 1, "last": report.sequence - 1}
                    act.note(c, "miss-reports", edge, **detail)
                told = _counted(told, report, missing)
                edges.add(c, edge, at=self._hour(report, act.now), counts=report.counts)
                last = report.sequence
            ledgers[report.ledger] = last
            told = replace(told, ledgers=list(ledgers.items())[-_MAX_LEDGERS:])
            if stored.silent_since is not None:
                act.note(c, "edge-back", edge, silent_since=stored.silent_since, heard_at=stored.heard_at)
            edges.keep(c, told)
        return report.sequence

    def _heard(self, stored: StoredEdge, report: Report, act: Act) -> StoredEdge:
        epoch, version, issued_at = report.bundle or (None, None, None)
        return replace(
            stored,
            heard_at=act.at,
            epoch=epoch,
            version=version,
            issued_at=issued_at,
            receipts_waiting=report.receipts_waiting,
            stale_for=report.stale_for,
            silent_since=None,
            boundaries=stored.boundaries if report.boundaries is None else write_guarded(report.boundaries),
        )

    def _hour(self, report: Report, now: datetime) -> int:
        """The hour that the report is about, as far as it is one that sums are kept for."""
        oldest = int((now - self.settings.retention.edge_counts).timestamp())
        return max(oldest, min(report.until, int(now.timestamp())))

    def every(self, now: datetime) -> list[Standing]:
        """All proxies, in the order of their names. Raises the registry's errors."""
        with self.registry.reading() as c:
            return self.standings(c, now)

    def standings(self, c: Connection, now: datetime) -> list[Standing]:
        """As `every`, in the caller's view of the database."""
        heads, told = bundles.heads(c), edges.every(c)
        return [self._standing(proxy, told.get(proxy.name), heads, now) for proxy in proxies.every(c)]

    def one(self, name: str, *, since: int, now: datetime) -> tuple[Standing, Decided]:
        """One proxy, and what it decided since then. Raises UnknownProxy."""
        with self.registry.reading() as c:
            standing = self._standing(proxies.by_name(c, name), edges.known(c, name), bundles.heads(c), now)
            decided = Decided(edges.sums(c, name, since=since), edges.hours(c, name, since=since, limit=MAX_HOURS))
        return standing, decided

    def _standing(self, proxy: Proxy, told: StoredEdge | None, heads: Sequence[BundleHead], now: datetime) -> Standing:
        versions, seconds = _behind(told, heads, int(now.timestamp()))
        said = self.settings.edges
        if proxy.disabled_at is not None:
            state = State.DISABLED
        elif told is None:
            state = State.NEVER
        elif now.timestamp() - told.heard_at > said.silent_after.total_seconds():
            state = State.SILENT
        elif told.bundle is None or seconds > said.behind_after.total_seconds():
            state = State.BEHIND
        else:
            state = State.CURRENT
        return Standing(proxy, told, state, versions, seconds)


def _counted(told: StoredEdge, report: Report, missing: int) -> StoredEdge:
    allowed = sum(count for (_, reason), count in report.counts.items() if not reason)
    refused = sum(report.counts.values()) - allowed
    return replace(
        told,
        reports=told.reports + 1,
        missed=min(told.missed + missing, MAX_TOTAL),
        allowed=min(told.allowed + allowed, MAX_TOTAL),
        refused=min(told.refused + refused, MAX_TOTAL),
    )


def _behind(told: StoredEdge | None, heads: Sequence[BundleHead], now: int) -> tuple[int | None, int]:
    """By how many versions, and for how long there has been a newer bundle. `heads`: the newest first."""
    if told is None or told.bundle is None or not heads:
        return None, 0
    newer = [head for head in heads if (head.epoch, head.version) > told.bundle]
    if not newer:
        return 0, 0
    versions = heads[0].version - told.bundle[1] if heads[0].epoch == told.bundle[0] else None
    first = newer[-1]
    kept = (first.epoch, first.version) == (told.bundle[0], told.bundle[1] + 1) or len(newer) < len(heads)
    # Where the one after its own is not kept any more, its own is the last that is known of.
    began = first.issued_at if kept else min(told.issued_at or 0, first.issued_at)
    return versions, max(0, now - began)
