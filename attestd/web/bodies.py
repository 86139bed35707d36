"""Requests' bodies: never more octets than the route takes, of a media type that it takes, and few large ones at once.

A body is read before anybody can prove who sent it, so what strangers can make the service hold is bounded: `LARGE`
octets a thread, and the route's limit for the `LARGE_AT_ONCE` larger ones (a few times over, for decoded forms).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Self, cast

from flask import Request

from attestd.errors import InputTooLarge, MalformedInput, Unavailable
from attestd.protocol.encoding import MalformedJson, Members, read_object
from attestd.web.problems import ContentTypeWrong

LARGE = 1024 * 1024  # octets; a larger body needs a permit
LARGE_AT_ONCE = 4  # permits of one process
_PIECE = 64 * 1024
_MAX_REASON = 500  # characters
_MAX_VERSION = 1 << 53


class BodyCutShort(MalformedInput):
    """The body ended before its announced length"""

    remedy = "Send the request again; the connection was cut, or the Content-Length header is wrong."


class TooManyLargeBodies(Unavailable):
    """Too many large requests are being read"""


class ReasonUnprintable(MalformedInput):
    """The reason is not one line of printable text"""

    remedy = "Say why in one line."


class Permits:
    """How many large bodies one process holds at once."""

    def __init__(self, count: int = LARGE_AT_ONCE) -> None:
        self._free = threading.BoundedSemaphore(count)

    def take(self) -> Callable[[], None]:
        """The function that gives the permit back; to be called once. Raises TooManyLargeBodies."""
        if not self._free.acquire(blocking=False):
            raise TooManyLargeBodies
        return self._free.release


def require_media_type(request: Request, accepted: frozenset[str]) -> None:
    """The Content-Type is one of these. Raises ContentTypeWrong."""
    if request.mimetype not in accepted:
        raise ContentTypeWrong(
            "This address takes bodies of another media type.",
            seen=repr(request.mimetype[:80]),
            expected=" or ".join(sorted(accepted)),
        )


def read_body(request: Request, *, limit: int, large: Callable[[], None]) -> bytes:
    """The body's octets, at most `limit`, whatever the headers say. `large` is called once if it is a large one.

    Raises InputTooLarge, BodyCutShort and what `large` raises.
    """
    announced = request.content_length  # None for a chunked body, and for none
    if announced is None:
        return _read_chunked(request, limit, large) if request.headers.get("Transfer-Encoding") else b""
    if announced > limit:
        raise InputTooLarge("The body is too large.", seen=f"{announced} octets", expected=f"at most {limit}")
    if announced > LARGE:
        large()
    body = _read(request, announced)
    if len(body) < announced:
        raise BodyCutShort(seen=f"{len(body)} octets", expected=f"{announced} octets")
    return body


def _read_chunked(request: Request, limit: int, large: Callable[[], None]) -> bytes:
    """A body of unknown length. One octet more than allowed is read, which shows that there is too much."""
    body = _read(request, min(limit, LARGE) + 1)
    if LARGE < len(body) <= limit:
        large()
        body += _read(request, limit + 1 - len(body))
    if len(body) > limit:
        raise InputTooLarge("The body is too large.", seen=f"more than {limit} octets", expected=f"at most {limit}")
    return body


def _read(request: Request, most: int) -> bytes:
    """Up to `most` octets; fewer only where the body ends."""
    stream = cast("IO[bytes]", request.environ["wsgi.input"])
    pieces: list[bytes] = []
    while most > 0 and (piece := stream.read(min(_PIECE, most))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def read_message(body: bytes) -> Members:
    """An operator's or a proxy's message: a JSON object of version 1, which goes without saying. The reader calls
    `done()`. How large it may be, the route said before it was read."""
    members = Members(read_object(body, limit=len(body)), "message")
    if "v" in members:
        members.version()
    return members


def only_reason(body: bytes) -> str:
    """Of a message that says why, and nothing else."""
    message = read_message(body)
    reason = read_reason(message)
    message.done()
    return reason


def read_reason(message: Members) -> str:
    """Why, in one line: it is shown in terminals and stands in the audit trail."""
    reason = message.text("reason", limit=_MAX_REASON) if "reason" in message else ""
    if not reason.isprintable():
        raise ReasonUnprintable(seen=repr(reason[:80]))
    return reason


@dataclass(frozen=True, slots=True)
class Said:
    """What every act's message may hold: why, and which version of the device the operator saw."""

    reason: str
    expected_version: int | None

    @classmethod
    def read(cls, message: Members) -> Self:
        version = message.integer("expected_version") if "expected_version" in message else None
        if version is not None and not 0 < version < _MAX_VERSION:
            raise MalformedJson("expected_version is out of range.", expected=f"1 to {_MAX_VERSION - 1}")
        return cls(read_reason(message), version)
