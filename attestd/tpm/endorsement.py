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
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.errors import EvidenceRefused, InputTooLarge
from attestd.ids import EkHash
from attestd.protocol.encoding import Members, b64encode
from attestd.protocol.messages import MAX_CERTIFICATE, MAX_CERTIFICATES, MAX_PUBLIC
from attestd.tpm.chain import TrustAnchors
from attestd.tpm.ekcert import REFUSED_BY_DEFAULT, MakerCertificate, Quirk, parse_certificate
from attestd.tpm.ekprofile import USE_INVENTORY, check_not_weak, verify_ek_certificate
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

    `certificate` and the SHA-256 fingerprints are None for kind "inventory", as are manufacturer, model and firmware
    version empty. `firmware_version` is the one at manufacture. The EK and its hash are lifelong trackers: not shown.

    Kind "iak": `identity` is the key that was certified and that the device is known by, `ek_hash` is its hash, and
    `ek` is an EK that nobody vouches for.
    """

    ek: TpmPublic = field(repr=False)
    ek_hash: EkHash = field(repr=False)
    kind: Literal["certificate", "inventory", "iak"]
    manufacturer: str = ""
    model: str = ""
    firmware_version: str = ""
    certificate: bytes | None = field(default=None, repr=False)
    certificate_sha256: bytes | None = field(default=None, repr=False)
    root_sha256: bytes | None = None
    quirks: tuple[str, ...] = ()
    identity: TpmPublic | None = field(default=None, repr=False)

    @property
    def area(self) -> bytes:
        """The public area of the key that the device is known by, whose hash is `ek_hash`."""
        return (self.identity or self.ek).area

    def to_members(self) -> dict[str, Any]:
        """What `recall_endorsement` makes this again from; for sealed storage only."""
        members: dict[str, Any] = {
            "ek": b64encode(self.ek.area),
            "kind": self.kind,
            "manufacturer": self.manufacturer,
            "model": self.model,
            "firmware_version": self.firmware_version,
            "quirks": list(self.quirks),
        }
        for name in ("certificate", "certificate_sha256", "root_sha256"):
            if (value := getattr(self, name)) is not None:
                members[name] = b64encode(value)
        if self.identity is not None:
            members["identity"] = b64encode(self.identity.area)
        return members


def recall_endorsement(members: Mapping[str, Any]) -> VerifiedEndorsement:
    """The endorsement that `to_members` wrote. Nothing is verified again: the members must come from a sealed place."""
    reader = Members(members, "endorsement")
    area, kind = reader.octets("ek", limit=MAX_PUBLIC), reader.text("kind")

    def optional(name: str, limit: int) -> bytes | None:
        return reader.octets(name, limit=limit) if name in reader else None

    identity = optional("identity", MAX_PUBLIC)
    recalled = VerifiedEndorsement(
        ek=parse_public(area),
        ek_hash=EkHash.of(area if identity is None else identity),
        kind=_KINDS[kind],
        identity=None if identity is None else parse_public(identity),
        manufacturer=reader.text("manufacturer"),
        model=reader.text("model"),
        firmware_version=reader.text("firmware_version"),
        certificate=optional("certificate", MAX_CERTIFICATE),
        certificate_sha256=optional("certificate_sha256", 32),
        root_sha256=optional("root_sha256", 32),
        quirks=reader.texts("quirks", most=len(Quirk)),
    )
    reader.done()
    return recalled


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
    if leaf.key.public_numbers() != ek.key.public_numbers():
        raise CertificateForAnotherKey(seen=_key_kind(leaf), expected=f"the {ek.type.name} key of the EK public area")
    # 4. and 5. A valid path from it to a trusted root, and an EK certificate at its end.
    intermediates += map(parse_certificate, fetched)
    verified = verify_ek_certificate(leaf, intermediates=intermediates, anchors=anchors, now=now, refused=refused)
    return VerifiedEndorsement(
        ek=ek,
        ek_hash=EkHash.of(ek_public),
        kind="certificate",
        manufacturer=verified.identity.manufacturer,
        model=verified.identity.model,
        firmware_version=verified.identity.firmware_version,
        certificate=leaf.der,
        certificate_sha256=leaf.sha256,
        root_sha256=verified.path.root.sha256,
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
    ek = _check_key(ek_public)
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
        ek=ek,
        ek_hash=EkHash.of(identity.public.area),
        kind="iak",
        manufacturer=verified.manufacturer,
        certificate=leaf.der,
        certificate_sha256=leaf.sha256,
        root_sha256=verified.path.root.sha256,
        quirks=tuple(sorted(verified.quirks)),
        identity=identity.public,
    )


def endorse_by_inventory(ek_public: bytes, *, known: EkHash) -> VerifiedEndorsement:
    """Accepts an EK whose public area's hash the inventory holds; it must still be a sound EK."""
    ek = _check_key(ek_public)
    if EkHash.of(ek_public) != known:
        raise EkNotInInventory
    return VerifiedEndorsement(ek=ek, ek_hash=known, kind="inventory")


def _check_key(ek_public: bytes) -> TpmPublic:
    ek = parse_public(ek_public)
    check_ek_template(ek)
    check_not_weak(ek.key)
    return ek


def _key_kind(certificate: MakerCertificate) -> str:
    return f"another {'RSA' if isinstance(certificate.key, rsa.RSAPublicKey) else 'ECC'} key"
