"""From a pinned root to the next one (docs/protocol.md, section 5; the model is The Update Framework's root rotation).

A root is replaced by cross-signing: the old root certifies the new root's key. Who pinned the old one believes the new
one for that alone, whoever handed the certificates over; so they may come from a bundle or from a plain download.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache

from attestd.credentials.certificates import CertificateRefused, ParsedCertificate
from attestd.errors import AttestdError

MAX_ROLLOVERS = 3  # that somebody may have slept through


def succeed(
    pinned: Sequence[bytes], roots: Iterable[bytes], crosses: Iterable[bytes], *, now: datetime
) -> tuple[bytes, ...]:
    """The roots to believe from now on: `pinned`, those of `roots` that they introduce, without those withdrawn (DER).

    1. A root is introduced by a certificate for its name and key, signed by a pinned root and valid now; or by one that
       a root in between signed, which was introduced in the same way and is gone since.
    2. It is of the same trust domain, and began later than the root that introduces it: there is no way back.
    3. A pinned root that `roots` names no more is let go of, if one that began later is named.

    What does not introduce anything is not looked at further: it may be meant for somebody else. Never empties the set.
    """
    offered = [parsed for parsed in _readable(roots) if _is_root(parsed.der)]
    between = [parsed for parsed in _readable(crosses) if not _is_root(parsed.der)]
    known = [_parsed(der) for der in pinned]
    for pin in tuple(known):
        words = _words(pin, between, now)
        held = {one.der for one in known}
        known += [root for root in offered if root.der not in held and _introduced(root, pin, words, now)]
    named = {root.der for root in offered}
    newest = max((one.not_before for one in known if one.der in named), default=None)
    return tuple(one.der for one in known if one.der in named or newest is None or one.not_before >= newest)


def _words(
    pin: ParsedCertificate, between: Sequence[ParsedCertificate], now: datetime
) -> tuple[ParsedCertificate, ...]:
    """The certificates that lead from a pinned root to others' keys."""
    found: list[ParsedCertificate] = []
    level = [pin]
    for _ in range(MAX_ROLLOVERS):
        level = [cross for cross in between if cross not in found and any(_says(one, cross, now) for one in level)]
        found += level
    return tuple(found)


def _says(above: ParsedCertificate, cross: ParsedCertificate, now: datetime) -> bool:
    try:
        above.check_dates(now)
        cross.check_dates(now)
    except CertificateRefused:
        return False
    return _vouches(above.der, cross.der)


def _introduced(
    root: ParsedCertificate, pin: ParsedCertificate, words: Iterable[ParsedCertificate], now: datetime
) -> bool:
    if root.uris != pin.uris or not pin.not_before < root.not_before or not root.not_before <= now <= root.not_after:
        return False
    subject = root.certificate.subject
    return any(word.key == root.key and word.certificate.subject == subject for word in words)


# What certificates say of each other does not change, and each bundle brings the same ones: only dates are asked anew.
_parsed = lru_cache(maxsize=64)(ParsedCertificate.parse)


@lru_cache(maxsize=256)
def _vouches(above_der: bytes, cross_der: bytes) -> bool:
    """Signed by it, an authority, and of the same trust domain."""
    above, cross = _parsed(above_der), _parsed(cross_der)
    try:
        cross.check_authority(below=0)
        cross.check_issued_by(above)
    except CertificateRefused:
        return False
    return cross.uris == above.uris


@lru_cache(maxsize=64)
def _is_root(der: bytes) -> bool:
    """Signed by itself, and an authority that may have issuers below it."""
    parsed = _parsed(der)
    try:
        parsed.check_authority(below=1)
        parsed.check_issued_by(parsed)
    except CertificateRefused:
        return False
    return True


def _readable(certificates: Iterable[bytes]) -> Iterable[ParsedCertificate]:
    for der in certificates:
        try:
            yield _parsed(der)
        except AttestdError:
            continue
