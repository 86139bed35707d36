"""Origins that a device's identity may be shown to."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attestd.credentials.dpop import MalformedUri, normal_uri
from attestd.errors import Misconfigured

_ORIGIN = re.compile(r"https?://[^/]+")
_LOOPBACK = re.compile(r"http://(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]+)?", re.ASCII)


class OriginInvalid(Misconfigured):
    """A device's identity is shown over TLS, to a named origin"""

    remedy = "Name it as https://HOST[:PORT]; http:// is for this very machine only (127.0.0.1, localhost, [::1])."


def origin_of(url: str) -> str:
    """`https://host[:port]` of a URL, in its normal form. Raises MalformedUri."""
    match = _ORIGIN.match(normal_uri(url))
    if match is None:  # normal_uri's answer begins like this
        raise MalformedUri(seen=repr(url[:80]))
    return match[0]


def read_origins(texts: Iterable[str]) -> frozenset[str]:
    """Named origins, at least one. Raises OriginInvalid."""
    found = frozenset(map(_read, texts))
    if not found:
        raise OriginInvalid("No origin was named.")
    return found


def _read(text: str) -> str:
    try:
        origin = origin_of(text)
    except MalformedUri as error:
        raise OriginInvalid(seen=repr(text[:200])) from error
    if text.rstrip("/").count("/") != 2 or "?" in text or "#" in text:
        raise OriginInvalid("This is not an origin.", seen=repr(text[:200]), expected="https://<host>[:<port>]")
    if not origin.startswith("https://") and not _LOOPBACK.fullmatch(origin):
        raise OriginInvalid(seen=origin, expected="https://")
    return origin
