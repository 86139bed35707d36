"""A key that a pinned root delegated to one purpose: its certificate travels in a JWS header's `x5c`.

During a root's rollover, what one root says for the other's key follows it there, for who pinned only one of them.

Bundles, times and audit heads are signed by such keys (docs/protocol.md, sections 5, 7 and 8).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography import x509

from attestd.credentials.certificates import CertificateRefused, IssuerMismatch, ParsedCertificate, PurposeWrong
from attestd.credentials.jws import MAX_HEADER
from attestd.credentials.x509 import UnknownIssuer
from attestd.protocol.encoding import MalformedJson, Members

# UUID 1819164a-05ca-461e-9365-cf535f70c2b8 (docs/adr/0009-object-ids.md): may sign bundles and times.
BUNDLE_EKU: Final = x509.ObjectIdentifier("1.2.840.113556.1.8000.2554.6169.5706.1482.17950.37733.13587295.7389880")
MAX_CROSSES = 2  # certificates between a signer's and a root


def delegated_signer(
    header: Members, roots: Sequence[bytes], purpose: x509.ObjectIdentifier
) -> tuple[ParsedCertificate, ...]:
    """As `delegated_path`, for the certificates in a JWS header's `x5c`."""
    chain = header.texts("x5c", most=1 + MAX_CROSSES, limit=MAX_HEADER)
    if not chain:
        raise MalformedJson("x5c holds no certificate.", expected="the signer's certificate")
    return delegated_path([standard_base64(text) for text in chain], roots, purpose)


def delegated_path(
    chain: Sequence[bytes], roots: Sequence[bytes], purpose: x509.ObjectIdentifier
) -> tuple[ParsedCertificate, ...]:
    """The signer whose certificate (DER) begins `chain`, then what stands above it up to the pinned root (DER) that it
    leads to. The signer is for `purpose` alone. Dates are not judged: each certificate's count.

    Raises MalformedInput, CertificateRefused.
    """
    return _path(tuple(chain), tuple(roots), purpose)


# Signatures do not change, and one signer's certificate comes with each bundle, time and head for months.
@lru_cache(maxsize=16)
def _path(
    chain: tuple[bytes, ...], roots: tuple[bytes, ...], purpose: x509.ObjectIdentifier
) -> tuple[ParsedCertificate, ...]:
    signer = ParsedCertificate.parse(chain[0])
    signer.check_leaf(purpose)
    if signer.purposes != frozenset((purpose,)):
        raise PurposeWrong("This key may do more than it was delegated to.", expected=purpose.dotted_string)
    refusal: CertificateRefused = UnknownIssuer("No pinned root issued the signer's certificate.")
    path: tuple[ParsedCertificate, ...] = (signer,)
    for cross in (None, *chain[1:]):
        if cross is not None:
            issuer = ParsedCertificate.parse(cross)
            issuer.check_authority(below=len(path) - 1)
            path[-1].check_issued_by(issuer)
            path = (*path, issuer)
        for der in roots:
            root = ParsedCertificate.parse(der)
            try:
                root.check_authority(below=len(path) - 1)
                path[-1].check_issued_by(root)
            except IssuerMismatch:
                continue
            except CertificateRefused as error:
                refusal = error
                continue
            return (*path, root)
    raise refusal


def standard_base64(text: str) -> bytes:
    """RFC 7515, 4.1.6: x5c is base64, not base64url. One spelling only."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedJson("x5c is not base64.") from None
    if base64.b64encode(data).decode("ascii") != text:
        raise MalformedJson("x5c is not canonical base64.")
    return data
