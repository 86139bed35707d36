"""What an EK's certificate must say, and what it says of the chip: the TCG's profile, and two named departures from it.

TCG EK Credential Profile for TPM Family 2.0, version 2.5 revision 2, section 3.2 (the EK certificate's fields).

The one exception from the profile that is made here, quirk "google-cas": since 2022 Google Compute Engine certifies its
virtual TPMs' EKs by a private CA whose certificates have no EKU and no SAN. They are accepted under exactly one root
(pinned below), with Google's instance extension, and with a key usage that is encryption and nothing else: the same CA
certifies attestation keys, with digitalSignature.

Chips for TPM 1.2 have certificates after another profile, without key usage and sometimes without EKU. Their keys are
marked for RSAES-OAEP alone, a mark that allows what key encipherment allows and no signature (RFC 4055, section 1.2):
with it, and with a TPM's identity, the two may be absent (quirk "tpm12-profile"), if the caller lets that through.

Refused on purpose, though real chips have them: RSA EKs with keyAgreement (Microsoft Pluton, whose CA nobody
publishes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.errors import EvidenceRefused
from attestd.tpm.chain import (
    EK_CERTIFICATE,
    USE_INVENTORY,
    TrustAnchors,
    VerifiedPath,
    check_quirks,
    verify_certificate_chain,
)
from attestd.tpm.ekcert import REFUSED_BY_DEFAULT, MakerCertificate, Quirk
from attestd.tpm.makers import vendor_name
from attestd.tpm.objects import PublicKey
from attestd.tpm.weak_keys import has_roca_fingerprint


class EkCertificateIsCa(EvidenceRefused):
    """The EK certificate is a CA's"""

    remedy = USE_INVENTORY


class NotAnEkCertificate(EvidenceRefused):
    """The certificate is not for an endorsement key"""

    remedy = "Send the EK's certificate, not the one of an attestation key or a platform. " + USE_INVENTORY


class EkKeyUsageWrong(EvidenceRefused):
    """The certificate lets its key do something else than an endorsement key does"""

    remedy = NotAnEkCertificate.remedy


class TpmIdentityMissing(EvidenceRefused):
    """The EK certificate does not say which TPM it is for"""

    remedy = USE_INVENTORY


class TpmIdentityMalformed(EvidenceRefused):
    """The EK certificate says in no readable way which TPM it is for"""

    remedy = USE_INVENTORY


class WeakEndorsementKey(EvidenceRefused):
    """The endorsement key can be factored (CVE-2017-15361)"""

    remedy = (
        "Update the TPM's firmware as its vendor says (Infineon's advisory of October 2017), clear the TPM so that it "
        "makes a new EK, and enroll that one; or use another TPM."
    )


class EkKeyUnsuitable(EvidenceRefused):
    """The certificate's key is of no size or curve that an endorsement key has"""

    remedy = USE_INVENTORY


@dataclass(frozen=True, slots=True)
class VerifiedEkCertificate:
    """A certificate that a trusted maker issued for some TPM's EK. Whether anybody has that TPM is another question."""

    path: VerifiedPath
    identity: TpmIdentity
    quirks: frozenset[Quirk]


def verify_ek_certificate(
    leaf: MakerCertificate,
    *,
    intermediates: Sequence[MakerCertificate] = (),
    anchors: TrustAnchors,
    now: datetime,
    refused: frozenset[Quirk] = REFUSED_BY_DEFAULT,
) -> VerifiedEkCertificate:
    """Proves that a certificate is an EK's, of a trusted maker; nothing is known of the key but what it says."""
    # 1. A valid path to a trusted root.
    path = verify_certificate_chain(leaf, intermediates=intermediates, anchors=anchors, now=now, refused=refused)
    # 2. The key is one that an EK can have, and not known to be weak.
    _check_strength(leaf)
    # 3. It is an EK certificate, by the profile.
    identity, quirks = check_ek_certificate(path, refused=refused)
    # 4. Nothing odd about all this that is not to be let through.
    check_quirks(quirks, refused)
    return VerifiedEkCertificate(path, identity, quirks)


def check_not_weak(key: PublicKey) -> None:
    if has_roca_fingerprint(key):
        raise WeakEndorsementKey(seen="a modulus with the fingerprint of Infineon's RSALib", expected="any other")


def _check_strength(leaf: MakerCertificate) -> None:
    """What the templates of annex B allow, where there is a certificate alone."""
    kind, size = ("RSA", _RSA_SIZES) if isinstance(leaf.key, rsa.RSAPublicKey) else ("ECC", _ECC_SIZES)
    if leaf.key.key_size not in size:
        raise EkKeyUnsuitable(
            seen=f"{kind} {leaf.key.key_size}", expected=f"{kind} of {' or '.join(map(str, sorted(size)))} bits"
        )
    check_not_weak(leaf.key)


_RSA_SIZES, _ECC_SIZES = frozenset({2048, 3072}), frozenset({256, 384})


# ---- The EK certificate (EK Credential Profile, section 3.2) ----------------------------------------------------

# "EK/AK CA Root", Google Cloud: the one root under which the quirk "google-cas" holds.
_GOOGLE_CAS_ROOTS = frozenset({bytes.fromhex("594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2")})
_GOOGLE_INSTANCE = "1.3.6.1.4.1.11129.2.1.21"  # Compute Engine instance information

_SIGNING_USAGES = frozenset({"digital_signature", "content_commitment", "key_cert_sign", "crl_sign"})


@dataclass(frozen=True, slots=True)
class TpmIdentity:
    """What an EK certificate says about its chip. `manufacturer` is the TCG vendor id as text ("IFX", "STM")."""

    manufacturer: str
    model: str
    firmware_version: str


def check_ek_certificate(
    path: VerifiedPath, *, refused: frozenset[Quirk] = REFUSED_BY_DEFAULT
) -> tuple[TpmIdentity, frozenset[Quirk]]:
    """Proves that a valid path's leaf is an EK certificate; returns its chip and the quirks that were let through."""
    leaf = path.leaf
    if leaf.claims.is_ca:
        raise EkCertificateIsCa(expected="basicConstraints with cA FALSE, or none")
    # A key marked for OAEP alone says what key usage and purpose would say, where they say nothing.
    marked = Quirk.RSAES_OAEP_KEY in leaf.quirks and Quirk.TPM12_PROFILE not in refused
    quirks = path.quirks
    if marked and leaf.claims.usages is None:
        quirks |= {Quirk.TPM12_PROFILE}
    else:
        _check_key_usage(leaf)
    if _is_google_cas(path):
        return TpmIdentity("GOOG", "", ""), quirks | {Quirk.GOOGLE_CAS}
    purposes = leaf.claims.purposes
    if marked and purposes is None:
        quirks |= {Quirk.TPM12_PROFILE}
    elif purposes is None or EK_CERTIFICATE not in purposes:
        seen = "no extended key usage" if purposes is None else ", ".join(sorted(purposes))[:200]
        raise NotAnEkCertificate(seen=seen, expected=f"{EK_CERTIFICATE} (tcg-kp-EKCertificate)")
    return _read_tpm_identity(leaf), quirks


def _check_key_usage(leaf: MakerCertificate) -> None:
    """An RSA EK enciphers keys, an ECC EK agrees on keys, and neither signs. Absence fails."""
    usages = leaf.claims.usages or frozenset()
    wanted = "key_encipherment" if isinstance(leaf.key, rsa.RSAPublicKey) else "key_agreement"
    if wanted not in usages or usages & _SIGNING_USAGES:
        raise EkKeyUsageWrong(seen=", ".join(sorted(usages)) or "no key usage", expected=f"{wanted}, and no signing")


def _is_google_cas(path: VerifiedPath) -> bool:
    claims = path.leaf.claims
    return (
        path.root.sha256 in _GOOGLE_CAS_ROOTS
        and _GOOGLE_INSTANCE in claims.extensions
        and claims.purposes is None
        and not claims.directory_names
        and claims.usages is not None
        and len(claims.usages) == 1
    )


# Within the SAN's directoryName: tcg-at-tpmManufacturer, tcg-at-tpmModel, tcg-at-tpmVersion.
_MANUFACTURER, _MODEL, _VERSION = "2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3"
_VENDOR_ID = re.compile(r"id:([0-9A-Fa-f]{8})", re.ASCII)
_MOST_TEXT = 64  # characters of a model or version


def _read_tpm_identity(leaf: MakerCertificate) -> TpmIdentity:
    """The one directoryName with manufacturer, model and version, each once."""
    wanted = {_MANUFACTURER, _MODEL, _VERSION}
    about_tpm = [name for name in leaf.claims.directory_names if any(oid in wanted for oid, _ in name)]
    if not about_tpm:
        raise TpmIdentityMissing(expected="a directoryName with the TPM's manufacturer, model and version")
    attributes = [(oid, text) for name in about_tpm for oid, text in name if oid in wanted]
    if len(attributes) != 3 or {oid for oid, _ in attributes} != wanted:
        raise TpmIdentityMalformed(
            seen=", ".join(oid for oid, _ in attributes)[:200], expected="manufacturer, model and version, each once"
        )
    texts = dict(attributes)
    vendor = _VENDOR_ID.fullmatch(texts[_MANUFACTURER])
    if vendor is None:
        raise TpmIdentityMalformed(seen=ascii(texts[_MANUFACTURER][:40]), expected="id: and eight hexadecimal digits")
    for text in (texts[_MODEL], texts[_VERSION]):
        if len(text) > _MOST_TEXT or not text.isprintable():
            raise TpmIdentityMalformed(seen=ascii(text[:80]), expected=f"at most {_MOST_TEXT} printable characters")
    return TpmIdentity(vendor_name(vendor[1]), texts[_MODEL], texts[_VERSION])
