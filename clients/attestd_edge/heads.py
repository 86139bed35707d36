"""HTTP/1.1 as far as a reverse proxy's question needs it: one request's head in, one answer out. No I/O.

The hop is authenticated, and what it hands on is not: a client chose most of the octets. So the reading is strict, and
whatever two readers might take in two ways is refused: llhttp reads the fields without any of its leniencies, the
request line has one form, a body is none of ours to read, and nothing is left over when the head ends (RFC 9112,
sections 2.2, 3, 5.1 and 6.3).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import httptools

from attestd.errors import MalformedInput
from attestd_edge.hop import Headers

MAX_HEAD: Final = 128 * 1024  # octets; an escaped certificate takes a few thousand, tokens and proofs as many
MAX_FIELDS: Final = 128
END: Final = b"\r\n\r\n"
_LINE: Final = re.compile(rb"([A-Z]{1,32}) (/[!\"$-~]*) HTTP/1\.([01])\r\n")
_REASONS: Final = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}  # fmt: skip


class HeadRefused(MalformedInput):
    """The request's head can't be read, or asks for what is not done here"""

    remedy = "Let the reverse proxy ask with a plain HTTP/1.1 request without a body (deploy/ has configurations)."
    status = 400


class HeadTooLarge(HeadRefused):
    """The request's head is too large"""

    remedy = "Let the reverse proxy bound the headers that it passes on."
    status = 431


@dataclass(slots=True)
class Head:
    """A request's method, its target as it was sent (a path with its query), its headers; `keep_alive` as it asks."""

    method: str
    target: str
    headers: Headers
    keep_alive: bool = True


class Answer(NamedTuple):
    """The octets of an answer, and whether the connection goes on."""

    octets: bytes
    keep_alive: bool


class HeadReader:
    """Reads the heads of one connection, one after the other. After a refusal it is of no further use."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._found: dict[str, tuple[str, ...]] = {}
        self._fields = self._ended = 0
        self._keeps = False

    def read(self, octets: bytes) -> Head:
        """A head with its end, and nothing behind it. Raises HeadRefused or HeadTooLarge."""
        line = _LINE.match(octets)
        if line is None:
            raise HeadRefused("The request line is none.", seen=repr(bytes(octets[:80])))
        if octets.find(END) + len(END) != len(octets):
            raise HeadRefused("The head has no end, or something is behind it.")
        self._found, self._fields, self._ended = {}, 0, 0
        try:
            self._parser.feed_data(octets)
        except httptools.HttpParserUpgrade:
            raise HeadRefused("Another protocol is asked for.") from None
        except httptools.HttpParserError as error:
            if isinstance(cause := error.__context__, HeadRefused):
                raise cause from None
            raise HeadRefused(str(error)[:200]) from None
        if self._ended != 1:
            raise HeadRefused("A body is announced.")
        return Head(
            line[1].decode("ascii"),
            line[2].decode("ascii"),
            Headers(self._found),
            self._keeps,
        )

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head (httptools)."""
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise HeadTooLarge(expected=f"at most {MAX_FIELDS} fields")
        key, found = name.decode("latin-1").lower(), self._found
        found[key] = (*found.get(key, ()), value.decode("latin-1"))

    def on_message_complete(self) -> None:
        """A message ended (httptools): here, since there is no body."""
        self._ended += 1
        self._keeps = self._parser.should_keep_alive()


def write(status: int, headers: Sequence[tuple[str, str]], body: bytes = b"", *, bodiless: bool = False) -> bytes:
    """An answer. `bodiless`: to HEAD, which is told the length and gets no body."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header holds a line break")
    start = f"HTTP/1.1 {status} {_REASONS[status]}\r\n{text}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
    return start if bodiless else start + body


def closing(answer: bytes) -> bytes:
    """The same answer, after which the connection ends."""
    return answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
