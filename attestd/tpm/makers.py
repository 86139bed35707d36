"""A TPM maker's certificate for the people who decide whom to trust: `attestd trust add` and `attestd trust list`.

What is shown here was read and, for a root, proven to be signed with its own key; whom to trust, a person says.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.errors import InputTooLarge
from attestd.tpm.chain import EK_CERTIFICATE
from attestd.tpm.der import MalformedCertificate, element, shown_name
from attestd.tpm.ekcert import parse_certificate
from attestd.tpm.vouching import ANY_PURPOSE, verify_signature

ATTESTATION_KEY_CERTIFICATE = "2.23.133.8.3"  # tcg-kp-AIKCertificate (TCG Credential Profiles 1.2, section 3)
MAX_FILE = 32 * 1024 * 1024  # all 2,240 known makers' certificates are 5 MiB of PEM


class CertificateFileTooLarge(InputTooLarge):
    """The file is too large to be read for certificates"""


@dataclass(frozen=True, slots=True)
class CertificateDescription:
    """One certificate as people see it. `der` is what to store: without header or padding.

    `kind`: a "root" is a CA whose own key signed it and can be trusted by itself; an "intermediate" is any other CA and
    only helps to reach a root; a "leaf" is no CA and has no place in a trust store. `purposes`: what it may vouch for,
    "any" where it names none. `key` is like "rsa-2048" or "ecc-384".
    """

    der: bytes
    sha256: bytes
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    kind: Literal["root", "intermediate", "leaf"]
    purposes: Literal["ek", "attestation", "any", "other"]
    key: str
    expired: bool
    quirks: tuple[str, ...]


def describe_certificate(der: bytes, *, now: datetime) -> CertificateDescription:
    """Reads one certificate; raises what `parse_certificate` raises, and BadCertificateSignature for a forged root."""
    certificate = parse_certificate(der)
    claims = certificate.claims
    kind: Literal["root", "intermediate", "leaf"] = "intermediate" if claims.is_ca else "leaf"
    if claims.is_ca and certificate.subject == certificate.issuer:
        same_key = claims.authority_key_id in (None, claims.subject_key_id)  # else a CA signed its own next key
        if same_key:
            verify_signature(certificate, certificate)
            kind = "root"
    return CertificateDescription(
        der=certificate.der,
        sha256=certificate.sha256,
        subject=shown_name(certificate.subject),
        issuer=shown_name(certificate.issuer),
        not_before=claims.not_before,
        not_after=claims.not_after,
        kind=kind,
        purposes=_purposes(claims.purposes),
        key=f"{'rsa' if isinstance(certificate.key, rsa.RSAPublicKey) else 'ecc'}-{certificate.key.key_size}",
        expired=now > claims.not_after,
        quirks=tuple(sorted(certificate.quirks)),
    )


def _purposes(named: frozenset[str] | None) -> Literal["ek", "attestation", "any", "other"]:
    """What a CA may vouch for, in one word; the path's checks (`vouching`) read the list itself."""
    if named is None or ANY_PURPOSE in named:
        return "any"
    if EK_CERTIFICATE in named:
        return "ek"
    return "attestation" if ATTESTATION_KEY_CERTIFICATE in named else "other"


_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


def certificates_in(file: bytes) -> tuple[bytes, ...]:
    """The DER certificates in a file: every PEM block (RFC 7468), or certificates in DER, one after another.

    They are cut, not parsed. Raises CertificateFileTooLarge, and MalformedCertificate where there is none or a broken
    one: half a file is never taken for the whole.
    """
    if len(file) > MAX_FILE:
        raise CertificateFileTooLarge(seen=f"{len(file)} octets", expected=f"at most {MAX_FILE}")
    found: list[bytes] = []
    blocks = file.split(_BEGIN)[1:]
    for block in blocks:
        text, end, _ = block.partition(_END)
        if not end:
            raise MalformedCertificate("A PEM block in this file does not end.", expected=_END.decode())
        try:
            found.append(base64.b64decode(b"".join(text.split()), validate=True))
        except binascii.Error:
            raise MalformedCertificate("A PEM block in this file is not base64.") from None
    at = 0
    while not blocks and file[at : at + 1] == b"\x30":
        found.append(element(file, at).raw)
        at += len(found[-1])
    if not found:
        raise MalformedCertificate("This file holds no certificate.", expected="PEM or DER")
    return tuple(found)


def vendor_name(digits: str) -> str:
    """Four ASCII characters, padded with zeros or spaces (TCG Vendor ID Registry); else the id as it is written."""
    text = bytes.fromhex(digits).rstrip(b"\0 ")
    if text and all(0x20 < octet < 0x7F for octet in text):
        return text.decode("ascii")
    return f"id:{digits.upper()}"
