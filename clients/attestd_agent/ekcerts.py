"""EK certificates as they lie in NV and in files: cut to size, split, never judged. Pure.

The service judges them. Here only as much is read as is needed to send whole certificates and to tell which key each
one names. Odd ones (other libraries refuse to load some makers' certificates) pass unchanged: only the outermost
SEQUENCE's length is read.

Sources: TCG EK Credential Profile 2.4, section 2.2.1.5 (NV indices; chain certificates are concatenated); the header of
older dumps is TCG_PCCLIENT_STORED_CERT (TCG PC Client Specific Implementation Specification for BIOS 1.2, 7.3.2).
"""

from __future__ import annotations

import base64
import binascii
import re

from attestd.errors import MalformedInput
from attestd.protocol.evidence import MAX_CERTIFICATE

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)
_STORED_CERT = b"\x10\x01\x00"  # tag 0x1001, certType TCG_FULL_CERT; size and tag 0x1002 follow: 7 octets in all
MAX_FILE = 256 * 1024


class NotACertificate(MalformedInput):
    """This is not an EK certificate"""

    remedy = "Give --ek-cert the TPM's own certificate as DER or PEM; issuers' certificates may follow in a PEM file."


def _sequence_size(data: bytes, start: int) -> int | None:
    """Octets of the DER SEQUENCE that begins at `start`, or None where none begins or it is not whole."""
    if data[start : start + 1] != b"\x30" or len(data) < start + 2:
        return None
    first = data[start + 1]
    octets = first & 0x7F if first & 0x80 else 0
    if octets > 3 or first == 0x80:
        return None
    length = int.from_bytes(data[start + 2 : start + 2 + octets], "big") if octets else first
    size = 2 + octets + length
    return size if start + size <= len(data) else None


def split_certificates(data: bytes) -> tuple[bytes, ...]:
    """The certificates at the head of an NV area, without header and padding; () where there is none.

    Several may follow one another; what follows the last is padding (00 or ff), and is dropped.
    """
    at = 7 if data.startswith(_STORED_CERT) else 0
    found: list[bytes] = []
    while (size := _sequence_size(data, at)) is not None:
        # A certificate holds a SEQUENCE first; an empty or tiny one is padding that looks like DER.
        if size <= MAX_CERTIFICATE and data[at + 2 : at + size].find(b"\x30") in range(4):
            found.append(data[at : at + size])
        at += size
    return tuple(found)


def read_certificate_file(data: bytes) -> tuple[bytes, ...]:
    """A file given by hand: DER (NV dumps too) or PEM, the TPM's own certificate first."""
    if len(data) > MAX_FILE:
        raise NotACertificate("The certificate file is too large.", seen=len(data), expected=f"at most {MAX_FILE}")
    found: list[bytes] = []
    blocks = _PEM.findall(data)
    for block in blocks:
        try:
            found.extend(split_certificates(base64.b64decode(b"".join(block.split()), validate=True))[:1])
        except binascii.Error:
            raise NotACertificate("A PEM block is not base64.") from None
    if not blocks:
        found.extend(split_certificates(data))
    if not found:
        raise NotACertificate("No certificate was found in the file.", expected="DER or PEM")
    return tuple(found)


def names_key(certificate: bytes, unique: bytes) -> bool:
    """Does the certificate hold this key's octets (RSA modulus, or ECC x)?

    A choice, not a check: it picks the certificate that belongs to a key. The service verifies the pair.
    """
    return len(unique) >= 24 and unique.lstrip(b"\0") in certificate
