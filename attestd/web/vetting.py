"""The first look at a request, on the event loop: which class of work is it, and does its source get in?

A look and not a check: whatever is wrong here, the application refuses in its own words. It costs some microseconds,
so that what strangers invent costs little. Without a key an attacker can name any device, and can have nonces of this
service, as many as it asks for. So a signed request counts as a known party's only if its nonce opens, was not
refused before, and its sender has proven itself from this source lately; a nonce alone makes a newcomer. Refused
signatures use up the source's credit, and without credit what has not even a nonce is told to wait. A device that
shares its address with an attacker loses its place among the known at worst, never its service.
"""

from __future__ import annotations

import json
import time
from array import array
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from attestd.errors import Limited
from attestd.protocol.messages import MAX_SMALL
from attestd.protocol.signed import MAX_HEADER, SCHEME
from attestd.web.access import DOORS, Who
from attestd.web.admission import Work
from attestd.web.mounts import is_api
from attestd.web.sources import Buckets

MAX_PAGE: Final = 640 * 1024  # octets: a form with a whole policy in it
LOOKED_AT: Final = 64 * 1024  # octets; a larger body is not read on the event loop
_PROVEN: Final = 1 << 17  # slots of 8 octets
_REFUSED: Final = 1 << 15
_HEALTH: Final = frozenset({"/healthz", "/readyz", "/metrics"})

# A nonce's id if this service sealed it and it is alive, else None.
OpenNonce = Callable[[bytes], bytes | None]


class TooManyRequests(Limited):
    """Too many requests came from this address"""

    remedy = "Wait for the stated time; limits.* in attestd.toml says how many may come."


@dataclass(frozen=True, slots=True)
class Kind:
    """What a path is for: `limit` octets of a body; `bucket` holds its sources to a rate."""

    work: Work
    limit: int
    bucket: str = ""
    signed: str = ""  # "body" or "header"; "cookie": a page, whose application says afterwards who that was

    @property
    def of_devices(self) -> bool:
        """Whether devices come here, to enroll or with what they signed."""
        return self.signed == "body" or self.work is Work.ENROLLMENT


def _kinds() -> dict[str, Kind]:
    """From the table of callers, by path; of a route with a variable part, by what comes before it."""
    found: dict[str, Kind] = {}
    for route, door in DOORS.items():
        method, path = route.split(" ")
        path, variable, _ = path.partition("<")
        path += "*" if variable else ""
        limit = max(door.limit, found[path].limit if path in found else 0)
        if door.who is Who.DEVICE:
            found[path] = Kind(Work.NEWCOMER, limit, signed="body")
        elif door.who is not Who.PUBLIC:
            found[path] = Kind(Work.NEWCOMER, limit, signed="header")
        elif path in _HEALTH:
            found[path] = Kind(Work.HEALTH, limit)
        elif method == "POST":
            found[path] = Kind(Work.ENROLLMENT, limit, "enrollments")
        else:
            found[path] = Kind(Work.READ, limit, "reads")
    return found


class Marks:
    """A set that forgets: a fixed number of slots, where a newer mark takes an older one's place."""

    def __init__(self, slots: int) -> None:
        self._slots = array("Q", bytes(8 * slots))
        self._mask = slots - 1

    def __contains__(self, key: tuple[str | bytes, ...]) -> bool:
        slot, tag = self._place(key)
        return self._slots[slot] == tag

    def add(self, key: tuple[str | bytes, ...]) -> None:
        slot, tag = self._place(key)
        self._slots[slot] = tag

    def discard(self, key: tuple[str | bytes, ...]) -> None:
        slot, tag = self._place(key)
        if self._slots[slot] == tag:
            self._slots[slot] = 0

    def _place(self, key: tuple[str | bytes, ...]) -> tuple[int, int]:
        # Python keys its hash anew in each process, so nobody outside can aim at a slot.
        tag = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        return tag & self._mask, tag or 1


@dataclass(slots=True)
class Visit:
    """One request as the front sees it."""

    source: str
    kind: Kind
    work: Work
    kid: str = ""
    nonce: bytes = b""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second and at most, of one source."""

    reads: tuple[float, float] = (50, 500)
    enrollments: tuple[float, float] = (30, 600)
    failures: tuple[float, float] = (5, 100)


class Vetting:
    """Looks at requests, and remembers what became of them. Made once a process, for its event loop alone."""

    def __init__(
        self,
        rates: Rates | None = None,
        *,
        open_nonce: OpenNonce = lambda sealed: None,
        unlimited: Callable[[str], bool] = lambda source: False,
        clock: Callable[[], float] = time.monotonic,
        pages: bool = False,
    ) -> None:
        """`unlimited` names the sources that no rate holds; their requests have classes like others. `pages`: what is
        mounted beside the API answers browsers, whose forms may be larger than strangers' calls."""
        rates = rates or Rates()
        self._buckets = {name: Buckets(*getattr(rates, name)) for name in ("reads", "enrollments", "failures")}
        self._failures = self._buckets["failures"]
        self._open_nonce, self._unlimited, self._clock = open_nonce, unlimited, clock
        self._proven = Marks(_PROVEN)
        self._refused = Marks(_REFUSED)
        kinds = _kinds()
        self._kinds = {path: kind for path, kind in kinds.items() if not path.endswith("*")}
        self._below = tuple((path[:-1], kind) for path, kind in kinds.items() if path.endswith("*"))
        self._nothing = Kind(Work.UNKNOWN, MAX_SMALL, "reads")
        self._page = Kind(Work.READ, MAX_PAGE, "reads", signed="cookie") if pages else self._nothing

    def arrive(self, path: str, source: str) -> Visit:
        """What a request is by its path alone."""
        kind = self._kinds.get(path)
        if kind is None:
            nothing = self._nothing if is_api(path) else self._page
            kind = next((kind for prefix, kind in self._below if path.startswith(prefix)), nothing)
        return Visit(source, kind, kind.work)

    def admit(self, visit: Visit) -> None:
        """Before the body: at a public door, takes one of its source's tokens. Raises TooManyRequests."""
        bucket = visit.kind.bucket
        if bucket and not self._unlimited(visit.source):
            wait = self._buckets[bucket].take(visit.source, self._clock())
            if wait:
                raise TooManyRequests(f"Too many {bucket} from this address.", retry_after=int(wait) + 1)

    def look(self, visit: Visit, authorization: bytes, body: bytes | bytearray) -> None:
        """With the body: sets the class of a signed request. `authorization`: the header of its kind. Raises
        TooManyRequests."""
        if not visit.kind.signed:
            return
        if visit.kind.signed == "cookie":
            visit.kid = authorization[:MAX_HEADER].decode("latin-1")
            if visit.kid and (visit.source, visit.kid) in self._proven:
                visit.work = Work.OPERATOR
            return
        if visit.kind.signed == "header":
            protected = _detached(authorization)
        else:
            protected = _flattened(body) if len(body) <= LOOKED_AT else None
        visit.kid, sealed = _named(protected)
        visit.nonce = (self._open_nonce(sealed) or b"") if sealed else b""
        fresh = bool(visit.nonce) and (visit.nonce,) not in self._refused
        if fresh and (visit.source, visit.kid) in self._proven:
            visit.work = Work.OPERATOR if visit.kind.signed == "header" else Work.DEVICE
            return
        credit = self._unlimited(visit.source) or self._failures.has(visit.source, self._clock())
        large = len(body) > LOOKED_AT
        visit.work = Work.NEWCOMER if (fresh or large) and credit else Work.UNKNOWN
        if not credit and not fresh:
            raise TooManyRequests("Too many requests from this address were refused.", retry_after=5)

    def leave(self, visit: Visit, status: int, *, proven: bool | None = None) -> None:
        """What became of it: a proven sender is known from this source; a refused one used the source's credit.

        `proven`: what a page's application says of its session; None if it did not have to know.
        """
        if not visit.kind.signed:
            return
        if visit.kind.signed == "cookie":
            if proven and visit.kid:
                self._proven.add((visit.source, visit.kid))
            elif proven is False:
                self._proven.discard((visit.source, visit.kid))
            return
        if status < 400 or status in (403, 409):
            if visit.kid:
                self._proven.add((visit.source, visit.kid))
        elif status in (400, 401, 413, 415):
            self._failures.take(visit.source, self._clock())
            if visit.nonce:
                self._refused.add((visit.nonce,))
            if visit.kid:
                self._proven.discard((visit.source, visit.kid))


def _detached(authorization: bytes) -> str | None:
    scheme, _, compact = authorization[:MAX_HEADER].partition(b" ")
    return compact.partition(b".")[0].decode("latin-1") if scheme == SCHEME.encode() else None


def _flattened(body: bytes | bytearray) -> str | None:
    read = _object(body)
    protected = read.get("protected")
    return protected if isinstance(protected, str) and len(protected) <= 2 * MAX_HEADER else None


def _named(protected: str | None) -> tuple[str, bytes]:
    """The key id and the sealed nonce that a header names; empty where there is none."""
    if protected is None:
        return "", b""
    header = _object(_octets(protected))
    kid, nonce = header.get("kid"), header.get("nonce")
    return (kid[:2048] if isinstance(kid, str) else "", _octets(nonce[:512]) if isinstance(nonce, str) else b"")


def _object(text: bytes | bytearray) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _octets(text: str) -> bytes:
    try:
        return a2b_base64(text.translate(_URL_SAFE) + "==")
    except (NotBase64, ValueError):
        return b""


_URL_SAFE: Final = str.maketrans("-_", "+/")
