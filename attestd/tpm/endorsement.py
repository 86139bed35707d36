"""Which TPM is it, and who says so: a certificate, or the inventory, makes a TPM's key a `VerifiedEndorsement`.

TCG EK Credential Profile for TPM Family 2.0, version 2.5 revision 2: annex B (templates, in `ektemplates`); section 3.2
(the EK certificate) is in `ekprofile`, the certificate of an IAK in `identity`. RFC 5280, section 6, is in `chain` and
`vouching`. The odd certificates that real makers made are in `ekcert`, with the table of what is let through and why.

An endorsement proves that *a* TPM of a trusted maker holds this key. It proves neither that the caller has that TPM
(`activation` does) nor that this TPM is one of ours (the inventory, or an operator's approval, does).

"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.errors import EvidenceRefused, InputTooLarge
from attestd.ids import EkHash
from attestd.protocol.evidence import MAX_CERTIFICATES
from attestd.tpm.chain import USE_INVENTORY, TrustAnchors
from attestd.tpm.ekcert import REFUSED_BY_DEFAULT, MakerCertificate, Quirk, parse_certificate
from attestd.tpm.ekprofile import check_not_weak, verify_ek_certificate
from attestd.tpm.ektemplates import check_ek_template
from attestd.tpm.identity import VettedIdentityKey, verify_identity_certificate
from attestd.tpm.objects import TpmPublic, parse_public

__all__ = [
    "TrustAnchors",
    "VerifiedEndorsement",
    "endorse_by_inventory",
    "recall_endorsement",
    "verify_endorsement",
]


class NoEndorsementCertificate(EvidenceRefused):
    """The endorsement key has no certificate, and the inventory does not know it"""

    remedy = USE_INVENTORY


class TooManyCertificates(InputTooLarge):
    """More certificates were sent than a chain can need"""


class CertificateForAnotherKey(EvidenceRefused):
    """The certificate is not for this endorsement key"""

    remedy = "Send the EK certificate first, and the one that belongs to this very EK (RSA and ECC EKs have their own)."


class EkNotInInventory(EvidenceRefused):
    """This endorsement key is not the inventory's"""

    remedy = USE_INVENTORY


@dataclass(frozen=True, slots=True)
class VerifiedEndorsement:
    """A key that a trusted maker, or this fleet's inventory, vouches for; made by this module only.

    `certificate` is the key's own in DER, `issuers` are the SHA-256 of those above it, the root's last; there are none
    for kind "inventory", as manufacturer, model and firmware version are empty. `above` are the issuers' certificates
    that led to the root; a recalled endorsement has none. `firmware_version` is the one at manufacture. The EK's public
    area, its hash and its certificate are lifelong trackers: not shown.

    Kind "iak": `identity_area` is the key that was certified and that the device is known by, `ek_hash` is its hash,
    and the EK is one that nobody vouches for.
    """

    ek_area: bytes = field(repr=False)
    ek_hash: EkHash = field(repr=False)
    kind: Literal["certificate", "inventory", "iak"]
    manufacturer: str = ""
    model: str = ""
    firmware_version: str = ""
    certificate: bytes | None = field(default=None, repr=False)
    issuers: tuple[bytes, ...] = ()
    quirks: tuple[str, ...] = ()
    identity_area: bytes = field(default=b"", repr=False)
    above: tuple[bytes, ...] = field(default=(), repr=False, compare=False)

    @property
    def area(self) -> bytes:
        """The public area of the key that the device is known by, whose hash is `ek_hash`."""
        return self.identity_area or self.ek_area

    @property
    def ek(self) -> TpmPublic:
        """The key, read when it is asked for: what comes back from a seal is not used to make another credential."""
        return parse_public(self.ek_area)

    @property
    def identity(self) -> TpmPublic | None:
        """The identity key, likewise."""
        return parse_public(self.identity_area) if self.identity_area else None

    def to_parts(self) -> tuple[bytes, ...]:
        """What `recall_endorsement` makes this again from, all but the issuers' certificates. For sealed storage."""
        words = (self.kind, self.manufacturer, self.model, self.firmware_version, *self.quirks)  # none holds a NUL
        certificate = self.certificate or b""
        return self.ek_area, self.identity_area, certificate, b"".join(self.issuers), "\0".join(words).encode()


def recall_endorsement(parts: Sequence[bytes]) -> VerifiedEndorsement:
    """The endorsement that `to_parts` took apart. Nothing is verified again: the parts must come out of a seal."""
    area, identity_area, certificate, issuers, words = parts
    kind, manufacturer, model, firmware_version, *quirks = words.decode().split("\0")
    return VerifiedEndorsement(
        ek_area=area,
        ek_hash=EkHash.of(identity_area or area),
        kind=_KINDS[kind],
        manufacturer=manufacturer,
        model=model,
        firmware_version=firmware_version,
        certificate=certificate or None,
        issuers=tuple(issuers[at : at + 32] for at in range(0, len(issuers), 32)),
        quirks=tuple(quirks),
        identity_area=identity_area,
    )


_KINDS: Mapping[str, Literal["certificate", "inventory", "iak"]] = {
    "certificate": "certificate",
    "inventory": "inventory",
    "iak": "iak",
}


def verify_endorsement(
    ek_public: bytes,
    certificates: Sequence[bytes],
    *,
    anchors: TrustAnchors,
    now: datetime,
    fetched: Sequence[bytes] = (),
    refused: frozenset[Quirk] = REFUSED_BY_DEFAULT,
) -> VerifiedEndorsement:
    """Proves that a trusted maker certified this EK. `certificates` are DER: the EK's first, then intermediates.

    `fetched` are further intermediates that did not come with the request; `refused` are quirks not to let through.
    """
    # 1. The key itself: a well-formed public area, of one of the profile's templates, and not known to be weak.
    ek = _check_key(ek_public)
    # 2. The certificates, within bounds. No certificate is no endorsement.
    if not certificates:
        raise NoEndorsementCertificate(seen="no certificate", expected="the EK's certificate first, then its issuers'")
    if len(certificates) > MAX_CERTIFICATES:
        raise TooManyCertificates(seen=len(certificates), expected=f"at most {MAX_CERTIFICATES}")
    leaf, *intermediates = map(parse_certificate, certificates)
    # 3. The certificate is for this very key.
    if leaf.key != ek.key:
        raise CertificateForAnotherKey(seen=_key_kind(leaf), expected=f"the {ek.type.name} key of the EK public area")
    # 4. and 5. A valid path from it to a trusted root, and an EK certificate at its end.
    intermediates += map(parse_certificate, fetched)
    verified = verify_ek_certificate(leaf, intermediates=intermediates, anchors=anchors, now=now, refused=refused)
    return VerifiedEndorsement(
        ek_area=ek_public,
        ek_hash=EkHash.of(ek_public),
        kind="certificate",
        manufacturer=verified.identity.manufacturer,
        model=verified.identity.model,
        firmware_version=verified.identity.firmware_version,
        certificate=leaf.der,
        issuers=tuple(issuer.sha256 for issuer in verified.path.certificates[1:]),
        above=tuple(issuer.der for issuer in verified.path.certificates[1:]),
        quirks=tuple(sorted(verified.quirks)),
    )


def endorse_by_identity(
    ek_public: bytes,
    identity: VettedIdentityKey,
    certificates: Sequence[bytes],
    *,
    anchors: TrustAnchors,
    now: datetime,
    refused: frozenset[Quirk] = REFUSED_BY_DEFAULT,
) -> VerifiedEndorsement:
    """Proves that a trusted maker certified this IAK. The EK is nobody's: it only carries the challenge's secret.

    `certificates` are DER: the IAK's first, then intermediates. That the public area is the certified key's own, and
    that the AK is in its TPM, is still open: `attest.verify_identified_ak` proves both.
    """
    # 1. The EK can carry a secret as EKs do.
    _check_key(ek_public)
    # 2. The certificates, within bounds; the first is for this very key.
    if not certificates:
        raise NoEndorsementCertificate(seen="no certificate", expected="the IAK's certificate first")
    if len(certificates) > MAX_CERTIFICATES:
        raise TooManyCertificates(seen=len(certificates), expected=f"at most {MAX_CERTIFICATES}")
    leaf, *intermediates = map(parse_certificate, certificates)
    if leaf.key.public_numbers() != identity.public.key.public_numbers():
        raise CertificateForAnotherKey(seen=_key_kind(leaf), expected="the identity key that was sent")
    # 3. A maker that is trusted says that it is in a TPM, and restricted.
    verified = verify_identity_certificate(leaf, intermediates=intermediates, anchors=anchors, now=now, refused=refused)
    return VerifiedEndorsement(
        ek_area=ek_public,
        ek_hash=EkHash.of(identity.public.area),
        kind="iak",
        manufacturer=verified.manufacturer,
        certificate=leaf.der,
        issuers=tuple(issuer.sha256 for issuer in verified.path.certificates[1:]),
        above=tuple(issuer.der for issuer in verified.path.certificates[1:]),
        quirks=tuple(sorted(verified.quirks)),
        identity_area=identity.public.area,
    )


def endorse_by_inventory(ek_public: bytes, *, known: EkHash) -> VerifiedEndorsement:
    """Accepts an EK whose public area's hash the inventory holds; it must still be a sound EK."""
    _check_key(ek_public)
    if EkHash.of(ek_public) != known:
        raise EkNotInInventory
    return VerifiedEndorsement(ek_area=ek_public, ek_hash=known, kind="inventory")


def _check_key(ek_public: bytes) -> TpmPublic:
    ek = parse_public(ek_public)
    check_ek_template(ek)
    check_not_weak(ek.key)
    return ek


def _key_kind(certificate: MakerCertificate) -> str:
    return f"another {'RSA' if isinstance(certificate.key, rsa.RSAPublicKey) else 'ECC'} key"
