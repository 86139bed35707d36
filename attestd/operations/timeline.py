"""What happened to one device, in one order: its results, certificates, crossings, and what was done to it.

Each source is read by its own numbers, the newest first, and what follows each other and is alike is told as one. So a
page costs a bounded look into each index, whatever a device has behind it; and nothing is left out between two pages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from attestd.appraisal.record import MAX_RECORD
from attestd.errors import MalformedInput
from attestd.ids import DeviceId
from attestd.protocol.encoding import b64decode, read_object
from attestd.registry import attestations, audit, devices, issued, receipts
from attestd.registry.attestations import Run
from attestd.registry.audit import AuditRecord
from attestd.registry.engine import Connection
from attestd.registry.issued import Issued
from attestd.registry.receipts import StoredReceipt

MAX_PAGE: Final = 200
_READ: Final = attestations.MAX_RUNS  # rows of one source for one page
_MAX_NUMBER: Final = 10**18 - 1
_MOST_REASONS: Final = 8
_MOST_TEXT: Final = 500  # characters of a text that others gave

# Acts that results and certificates tell as well, one by one for ever.
_TOLD_ELSEWHERE: Final = frozenset({"attest", "renew", "token"})
# Acts that machines repeat: told once, with how often.
_REPEATED: Final = frozenset({"refuse-attestation", "refuse-enrollment", "ask"})


class PlaceUnknown(MalformedInput):
    """This is no place in a timeline"""

    remedy = "Use `before` as the page before gave it."


class Place(NamedTuple):
    """Where the next page begins: below which number of each source. 1: nothing is left of it."""

    audit: int
    issued: int
    receipts: int
    runs: int

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises PlaceUnknown."""
        parts = text.split(".")
        if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) <= 18 for part in parts):
            raise PlaceUnknown(seen=repr(text[:80]), expected="four numbers with points between them")
        return cls(*map(int, parts))


KINDS: Final = ("act", "credential", "crossing", "attestation")  # in the order of a place
TOP: Final = Place(_MAX_NUMBER, _MAX_NUMBER, _MAX_NUMBER, _MAX_NUMBER)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened, or `count` alike between `first_at` and `at`. `said` depends on the kind."""

    kind: str  # attestation, credential, crossing, act
    at: int
    first_at: int
    count: int
    said: Mapping[str, Any]
    alike: Any = field(default=None, repr=False)  # what neighbours must share to be told as one; None: nothing

    def to_members(self) -> dict[str, Any]:
        return {"kind": self.kind, "at": self.at, "first_at": self.first_at, "count": self.count, **self.said}


class _Source:
    """One source's rows, the newest first, and where it stands."""

    def __init__(self, place: int, rows: Sequence[tuple[int, Entry | None]], *, whole: bool) -> None:
        self.place = place
        self.rows = deque(rows)
        self.whole = whole  # everything that is left of it has been read

    @property
    def ready(self) -> bool:
        """Whether the next row is known, or that there is none."""
        return bool(self.rows) or self.whole

    def take(self) -> Entry | None:
        self.place, entry = self.rows.popleft()
        return entry


def timeline(
    c: Connection, device_id: DeviceId, *, before: Place = TOP, limit: int = 50, only: str | None = None
) -> tuple[list[Entry], Place | None]:
    """A page, the newest first, and where the next begins; None after the last. `only`: entries of one kind.

    Raises UnknownDevice.
    """
    devices.by_id(c, device_id)
    if only is not None:
        before = Place(*(place if kind == only else 1 for kind, place in zip(KINDS, before, strict=True)))
    limit = min(limit, MAX_PAGE)
    sources = (
        _read(before.audit, audit.page(c, subject=str(device_id), before=before.audit, limit=_READ), _act),
        _read(before.issued, issued.page(c, device_id=device_id, before=before.issued, limit=_READ), _credential),
        _read(before.receipts, receipts.latest_of(c, device_id, before=before.receipts, limit=_READ), _crossing),
        _read(before.runs, attestations.page(c, device_id, before=before.runs, limit=_READ), _attestation),
    )
    found: list[Entry] = []
    while all(source.ready for source in sources):
        waiting = [source for source in sources if source.rows]
        if not waiting:
            break
        source = max(waiting, key=_when)
        _, entry = source.rows[0]
        if entry is not None and not _is_alike(found, entry) and len(found) == limit:
            break
        source.take()
        if entry is not None:
            _tell(found, entry)
    done = all(source.whole and not source.rows for source in sources)
    return found, None if done else Place(*(source.place for source in sources))


def _read(place: int, rows: Sequence[Any], read: Callable[[Any], Entry | None]) -> _Source:
    numbered = [(row.run if isinstance(row, Run) else row.number, read(row)) for row in rows]
    return _Source(place, numbered, whole=len(rows) < _READ)


def _when(source: _Source) -> int:
    """Rows that tell nothing go first: they only stand in the way."""
    _, entry = source.rows[0]
    return _MAX_NUMBER if entry is None else entry.at


def _is_alike(found: list[Entry], entry: Entry) -> bool:
    return bool(found) and entry.alike is not None and found[-1].alike == entry.alike


def _tell(found: list[Entry], entry: Entry) -> None:
    if _is_alike(found, entry):
        newer = found[-1]
        found[-1] = replace(newer, first_at=entry.first_at, count=newer.count + entry.count)
    else:
        found.append(entry)


# ---- What each source tells -------------------------------------------------------------------------------------


def _attestation(run: Run) -> Entry:
    result = read_object(run.result, limit=MAX_RECORD)
    said = {
        "first": run.first,
        "last": run.last,
        "status": result["status"],
        "reasons": [str(reason)[:_MOST_TEXT] for reason in result["reasons"][:_MOST_REASONS]],
        "boot": run.boot.rsplit(".", 1)[0],
        "ended_at": run.ended_at,
        "kept": run.inputs is not None,
    }
    return Entry("attestation", run.last_at, run.first_at, run.count, said)


def _credential(row: Issued) -> Entry:
    said = {
        "serial": str(row.serial),
        "profile": row.profile,
        "not_after": row.not_after,
        "revoked_at": row.revoked_at,
        "revoked_because": row.revoked_because,
    }
    return Entry("credential", row.not_before, row.not_before, 1, said, alike=("credential", row.revoked_because))


def _act(row: AuditRecord) -> Entry | None:
    if row.act in _TOLD_ELSEWHERE:
        return None
    detail = {name: _short(value) for name, value in row.detail.items()}
    said = {"act": row.act, "actor": row.actor, "number": row.number, "detail": detail}
    alike = (row.act, row.actor, detail.get("why")) if row.act in _REPEATED else None
    return Entry("act", row.at, row.at, 1, said, alike=alike)


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(each) for each in value[:_MOST_REASONS]]
    return value[:_MOST_TEXT] if isinstance(value, str) else value


def _crossing(row: StoredReceipt) -> Entry:
    said = _crossed(row.jws)
    members = {
        "edge": row.edge,
        "boundary": row.boundary,
        "decision": row.decision,
        "problem": said.get("problem", ""),
        "method": str(said.get("method", ""))[:_MOST_TEXT],
        "path": str(said.get("path", ""))[:_MOST_TEXT],
    }
    return Entry("crossing", row.at, row.at, 1, members, alike=(row.edge, row.boundary, members["problem"]))


def _crossed(jws: str) -> Mapping[str, Any]:
    """What a receipt says that was verified when it came."""
    payload = read_object(b64decode(jws.split(".")[1], name="payload"), limit=len(jws))
    found: Mapping[str, Any] = payload.get("crossing", {})
    return found
