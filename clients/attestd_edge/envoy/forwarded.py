"""X-Forwarded-Client-Cert, as Envoy writes it about the connection in front of it; text in, text out.

    Hash=<SHA-256>;Cert="<percent-encoded PEM>";Chain="…";Subject="…";URI=…;DNS=…

Envoy separates what several proxies said by commas. A proxy that writes the header anew (SANITIZE_SET) says one thing,
so more than one is refused: the others were said by whoever spoke before, and that may be the client.

Envoy writes By, URI and DNS without quotes and without escaping, from certificates that nobody has verified yet. So a
client can write whole pairs into the header, but none instead of Envoy's own: Hash and Cert must be there exactly once,
and the caller compares them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from attestd.errors import Unauthenticated

NAME: Final = "x-forwarded-client-cert"
MAX_HEADER: Final = 64 * 1024  # characters
_MAX_PAIRS: Final = 64
_PAIR: Final = re.compile(r'([A-Za-z]{2,16})=(?:"((?:[^"\\]|\\.)*+)"|([^",;]*+))', re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ONCE: Final = frozenset({"hash", "cert", "chain", "subject"})
_OFTEN: Final = frozenset({"by", "uri", "dns"})


class ForwardedCertMalformed(Unauthenticated):
    """The X-Forwarded-Client-Cert header can't be read"""

    remedy = (
        "Let Envoy write it anew: forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: cert."
    )


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What one proxy said: the SHA-256 of the certificate's DER (hexadecimal), and its PEM, percent-encoded."""

    digest: str
    certificate: str


def parse(text: str) -> Forwarded:
    """The only element of the header. Raises ForwardedCertMalformed."""
    pairs = _pairs(text)
    digest, certificate = pairs.get("hash", ""), pairs.get("cert", "")
    if not _DIGEST.fullmatch(digest):
        raise ForwardedCertMalformed("Hash is not a SHA-256.", seen=repr(digest[:80]), expected="64 digits")
    if not certificate:
        raise ForwardedCertMalformed("There is no Cert.", seen=", ".join(sorted(pairs)))
    return Forwarded(digest, certificate)


def _pairs(text: str) -> dict[str, str]:
    """The pairs by lower-case key; of By, URI and DNS, which may come often, the last."""
    if len(text) > MAX_HEADER:
        raise ForwardedCertMalformed(seen=f"{len(text)} characters", expected=f"at most {MAX_HEADER}")
    found: dict[str, str] = {}
    at = 0
    for _ in range(_MAX_PAIRS):
        pair = _PAIR.match(text, at)
        key = pair[1].lower() if pair is not None else ""
        if pair is None or key not in _ONCE | _OFTEN:
            raise ForwardedCertMalformed(seen=repr(text[at : at + 40]), expected="<key>=<value>")
        if key in found and key in _ONCE:
            raise ForwardedCertMalformed("One proxy says a thing twice.", seen=pair[1])
        found[key] = pair[3] if pair[2] is None else re.sub(r"\\(.)", r"\1", pair[2])
        if (at := pair.end()) == len(text):
            return found
        if text[at] == ",":
            raise ForwardedCertMalformed("More than one proxy has written into the header.", expected="one element")
        if text[at] != ";":
            raise ForwardedCertMalformed(seen=repr(text[at : at + 40]), expected=";")
        at += 1
    raise ForwardedCertMalformed(seen=f"more than {_MAX_PAIRS} pairs")
