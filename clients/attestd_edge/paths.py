"""A request's path, read in one way or not at all."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from attestd.errors import Forbidden

MAX_TARGET = 8 * 1024  # characters of a request's path and query


class PathAmbiguous(Forbidden):
    """The request's path can be read in two ways"""

    remedy = "Send the path without dot segments, empty segments, backslashes or encoded slashes."


# Letters, digits and marks that stand for themselves, no segment empty or beginning with a dot: one reading, the first.
_PLAIN = re.compile(r"((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*+)++/?+|/)(?:\?.*)?", re.ASCII | re.DOTALL)
_ENCODED_SEPARATOR = re.compile(r"%(?:2f|5c|3b)", re.IGNORECASE)


def read_path(target: str) -> str:
    """The path that policies see, decoded once, or PathAmbiguous.

    Upstreams differ in what they make of `/a/../b`, `//`, `%2f`, `;` and backslashes; a policy about `/b` must not be
    passed by writing it in one of these ways (RFC 3986, section 6.2.2, names the ones that are equivalent).
    """
    if len(target) <= MAX_TARGET and (plain := _PLAIN.fullmatch(target)) is not None:
        return plain[1]
    raw, _, _ = target.partition("?")
    if len(target) > MAX_TARGET or not raw.startswith("/") or "#" in raw:
        raise PathAmbiguous("The request's target is not a path.", seen=repr(target[:80]), expected="/<path>")
    try:
        path = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise PathAmbiguous("The path is not UTF-8.", seen=repr(raw[:80])) from None
    segments = path.split("/")
    if (
        _ENCODED_SEPARATOR.search(raw)
        or any(mark in path for mark in ("//", "\\", ";", "%"))  # `%`: a second decoding would find something else
        or not path.isprintable()
        or "." in segments
        or ".." in segments
    ):
        raise PathAmbiguous(seen=repr(raw[:80]))
    return path


def encode_path(path: bytes) -> str:
    """A path's octets as a target: what `read_path` decodes to the same octets again."""
    return quote(path, safe="/~!$&'()*+,;=:@-._")
