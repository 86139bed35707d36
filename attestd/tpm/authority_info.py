"""Where a certificate says that its issuer's certificate can be fetched. A hint by a stranger, and never more.

RFC 5280, section 4.2.2.1 (authority information access, id-ad-caIssuers). Only HTTP and HTTPS addresses are named; what
can't be read is no hint. Whether anything is fetched at all, from whom, and what becomes of it: `issuance.issuers`.
"""

from __future__ import annotations

from typing import Final

from attestd.tpm.claims import extension_of
from attestd.tpm.der import OID, Element, MalformedCertificate, children, read_oid, whole
from attestd.tpm.ekcert import MakerCertificate

AUTHORITY_INFO_ACCESS: Final = "1.3.6.1.5.5.7.1.1"
_CA_ISSUERS: Final = "1.3.6.1.5.5.7.48.2"
_URI = 0x86  # [6], implicit IA5String: GeneralName
MAX_URLS: Final = 4  # of one certificate; makers give one
_MAX_URL: Final = 512  # characters


def issuer_urls(certificate: MakerCertificate) -> tuple[str, ...]:
    """The first few addresses, in the certificate's order."""
    if AUTHORITY_INFO_ACCESS not in certificate.claims.extensions:
        return ()
    try:
        value = extension_of(certificate.tbs, AUTHORITY_INFO_ACCESS)
        urls = [_read(description) for description in children(whole(value or b""))]
    except MalformedCertificate:
        return ()
    return tuple(url for url in urls if url)[:MAX_URLS]


def _read(description: Element) -> str:
    """The address in an AccessDescription, or nothing."""
    parts = children(description)
    if len(parts) != 2 or parts[0].tag != OID or parts[1].tag != _URI or read_oid(parts[0].content) != _CA_ISSUERS:
        return ""
    octets = parts[1].content
    if len(octets) > _MAX_URL or not octets.isascii():
        return ""
    url = octets.decode("ascii")
    known = url.isprintable() and " " not in url and url.lower().startswith(("http://", "https://"))
    return url if known else ""
