"""What attestations came to, over time: results by status in half hours, and what was refused, why, where and to whom.

The act that records a result, or refuses one, appends a row; nobody waits for a counter. `fold` adds the rows up every
minute, and forgets what is older than `KEPT`. A reader sums both, so nothing is missing at any moment.

What strangers can fill is bounded: a half hour keeps at most MAX_KINDS kinds of refusal, the others as one without a
name, each with a few devices as examples; before that a refusal is one row, as it is in the audit trail.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Table, delete, func, insert, select, update

from attestd.ids import DeviceId, Site
from attestd.registry.acts import Step
from attestd.registry.statements import Statement
from attestd.registry.tables import refusal_counts, refusals, result_counts, result_marks, told

STEP: Final = 1800  # seconds that are counted as one
KEPT: Final = 8 * 24 * 3600  # seconds
BATCH: Final = 5000  # rows that one act adds up
MAX_KINDS: Final = 200  # of refusals in one step of time
OTHERS: Final = "others"  # why: beyond them
EXAMPLES: Final = 5
_WHY: Final = 200  # characters
_TURN: Final = "counted"
_MARK = Statement(insert(result_marks).inline(), columns=("at", "status"))
_REFUSE = Statement(insert(refusals).inline(), columns=("at", "verb", "why", "site", "device_id"))


@dataclass(frozen=True, slots=True)
class Results:
    """How many results of a status there were in the STEP seconds from `at` on."""

    at: int
    status: str
    count: int


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refusals for one reason. `why`: a problem's name, or the first reason of a contraindicated result. `sites`: the
    most frequent first; a stranger has none. `devices`: some of them."""

    why: str
    verb: str  # "attest" or "enroll"
    count: int
    last_at: int  # the step of time that the last one fell into
    sites: Sequence[tuple[str, int]]
    devices: Sequence[str]


# ---- In the acts themselves -------------------------------------------------------------------------------------


def marking(status: str, *, now: int) -> Step:
    """One result of a known device."""
    return Step(_MARK, {"at": now, "status": status})


def refusing(verb: str, why: str, *, site: Site | None, device: DeviceId | None, now: int) -> Step:
    """One refusal; nobody's, if the device is not known."""
    values = {"at": now, "verb": verb, "why": why[:_WHY], "site": str(site or ""), "device_id": str(device or "")}
    return Step(_REFUSE, values)


def contraindicating(
    verb: str, reasons: Sequence[str], *, site: Site | None, device: DeviceId | None, now: int
) -> list[Step]:
    """A result that must not be trusted is a result, and a refusal for its reasons."""
    why = "; ".join(reason.rstrip(".") for reason in reasons)
    return [marking("contraindicated", now=now), refusing(verb, why, site=site, device=device, now=now)]


# ---- Reading ----------------------------------------------------------------------------------------------------


def results(c: Connection, *, since: int) -> list[Results]:
    """By time and status, from the step that `since` falls into."""
    first = _step(since)
    sums: Counter[tuple[int, str]] = Counter()
    kept = select(result_counts.c.at, result_counts.c.status, result_counts.c["count"])
    for at, status, count in c.execute(kept.where(result_counts.c.at >= first)):
        sums[at, status] += count
    begins = (result_marks.c.at - result_marks.c.at % STEP).label("begins")
    some = select(begins, result_marks.c.status).where(result_marks.c.at >= first).subquery()
    for at, status, count in c.execute(
        select(some.c.begins, some.c.status, func.count()).group_by(some.c.begins, some.c.status)
    ):
        sums[at, status] += count
    return [Results(at, status, count) for (at, status), count in sorted(sums.items())]


def refused(c: Connection, *, since: int, limit: int = 20) -> list[Refusals]:
    """By reason, the most frequent first, from the step that `since` falls into."""
    first = _step(since)
    kinds: dict[tuple[str, str], list[tuple[int, str, int, Sequence[str]]]] = defaultdict(list)
    kept = select(refusal_counts).where(refusal_counts.c.at >= first).order_by(refusal_counts.c.at)
    for row in c.execute(kept).mappings():
        kinds[row["why"], row["verb"]].append((row["at"], row["site"], row["count"], row["devices"]))
    r = refusals.c
    fresh = select(r.why, r.verb, r.site, func.count(), func.max(r.at), func.max(r.device_id)).where(r.at >= first)
    for why, verb, site, count, at, device in c.execute(fresh.group_by(r.why, r.verb, r.site).limit(MAX_KINDS)):
        kinds[why, verb].append((_step(at), site, count, [device] if device else []))
    found = [_sum(why, verb, rows) for (why, verb), rows in kinds.items()]
    return sorted(found, key=lambda each: (-each.count, each.why, each.verb))[:limit]


def _sum(why: str, verb: str, rows: Sequence[tuple[int, str, int, Sequence[str]]]) -> Refusals:
    sites: Counter[str] = Counter()
    devices: dict[str, None] = {}
    for _, site, count, examples in rows:
        sites[site] += count
        devices |= dict.fromkeys(examples)
    return Refusals(
        why,
        verb,
        count=sum(sites.values()),
        last_at=max(at for at, *_ in rows),
        sites=sorted(((site, count) for site, count in sites.items() if site), key=lambda each: (-each[1], each[0])),
        devices=list(devices)[:EXAMPLES],
    )


# ---- Adding up --------------------------------------------------------------------------------------------------


def fold(c: Connection, *, now: int, limit: int = BATCH) -> int:
    """Adds up the first rows of both kinds, and forgets what is old; returns how many rows there were, of the kind
    that had more. Of several services on one database the next waits its turn."""
    c.execute(update(told).where(told.c.name == _TURN).values(until=told.c.until + 1))
    for table in (result_counts, refusal_counts):
        c.execute(delete(table).where(table.c.at < now - KEPT))
    marks = _take(c, result_marks, limit)
    for (at, status), count in Counter((_step(row.at), row.status) for row in marks).items():
        key = {"at": at, "status": status}
        _add(c, result_counts, key, count, {})
    refused = _take(c, refusals, limit)
    kinds: dict[tuple[int, str, str, str], list[str]] = defaultdict(list)
    for row in refused:
        kinds[_step(row.at), row.why, row.site, row.verb].append(row.device_id)
    for (at, why, site, verb), ids in kinds.items():
        _add_refusals(c, {"at": at, "why": why, "site": site, "verb": verb}, ids)
    return max(len(marks), len(refused))


def _take(c: Connection, table: Table, limit: int) -> Sequence[Any]:
    first = select(table.c.number).order_by(table.c.number).limit(limit)
    return c.execute(delete(table).where(table.c.number.in_(first)).returning(table)).all()


def _add_refusals(c: Connection, key: dict[str, Any], ids: Sequence[str]) -> None:
    known = _examples(c, key)
    if known is None:
        kinds = select(func.count()).select_from(refusal_counts).where(refusal_counts.c.at == key["at"])
        if int(c.execute(kinds).scalar_one()) >= MAX_KINDS:
            key = {**key, "why": OTHERS, "site": "", "verb": ""}
            known = _examples(c, key)
    examples = list(dict.fromkeys([*(known or []), *(each for each in ids if each)]))[:EXAMPLES]
    _add(c, refusal_counts, key, len(ids), {"devices": examples})


def _examples(c: Connection, key: dict[str, Any]) -> list[str] | None:
    fitting = [refusal_counts.c[name] == value for name, value in key.items()]
    found: list[str] | None = c.execute(select(refusal_counts.c.devices).where(*fitting)).scalar_one_or_none()
    return found


def _add(c: Connection, table: Table, key: dict[str, Any], count: int, values: dict[str, Any]) -> None:
    fitting = [table.c[name] == value for name, value in key.items()]
    changed = update(table).where(*fitting).values({"count": table.c["count"] + count, **values})
    if c.execute(changed).rowcount == 0:
        c.execute(insert(table).values({**key, "count": count, **values}))


def _step(at: int) -> int:
    return at - at % STEP
