"""A second way in: an attestation key that the machine's maker certified, instead of an endorsed EK.

TCG TPM 2.0 Keys for Device Identity and Attestation, version 1.0 revision 12: section 7 (the keys), section 8 (their
certificates). RFC 4108, section 5 (HardwareModuleName). An IAK (initial attestation key) is a restricted signing key
in the endorsement hierarchy; whoever certified it says by policy OIDs that it saw it in a TPM. An IDevID is its sister
that signs anything: it tells a machine at a TLS handshake and vouches for nothing that a TPM says, so it is refused
here by its name.

What an IAK's certificate proves: *a* TPM holds this key, and the key signs only what that TPM composed. Then the IAK
certifies the agent's own attestation key, fresh for this enrollment (TPM2_Certify), and everything goes on as with an
activated one:

    certificate  ->  the IAK's key is in a TPM and restricted       (the maker's word, `verify_identity_certificate`)
    statement    ->  its public area is what the device said        (qualified Name: a primary key of the endorsement
                     and the AK with this Name is in the same TPM     hierarchy; `verify_identified_ak`)

What it does not prove: which EK the TPM has. The EK that comes with the request only carries the challenge's secret, so
that the messages stay what they are; the device is known by the IAK's hash in the EK's place, and one TPM that enrolls
by both is two devices, which an operator approves one by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.errors import EvidenceRefused
from attestd.tpm.chain import TrustAnchors, VerifiedPath, verify_certificate_chain
from attestd.tpm.claims import ALTERNATIVE_NAME, POLICIES, extension_of
from attestd.tpm.der import OCTETS, OID, Element, MalformedCertificate, children, expect, read_oid, whole
from attestd.tpm.ekcert import REFUSED_BY_DEFAULT, MakerCertificate, Quirk
from attestd.tpm.makers import ATTESTATION_KEY_CERTIFICATE, vendor_name
from attestd.tpm.objects import HASHES, Alg, Attributes, TpmPublic, parse_public
from attestd.tpm.weak_keys import has_roca_fingerprint

_USE_EK = "Enroll by the TPM's endorsement key instead, or ask the machine's maker for an IAK certificate."

TPM_RESIDENCY: Final = "2.23.133.11.1.1"  # tcg-cap-verifiedTPMResidency
TPM_FIXED: Final = "2.23.133.11.1.2"  # tcg-cap-verifiedTPMFixed
TPM_RESTRICTED: Final = "2.23.133.11.1.3"  # tcg-cap-verifiedTPMRestricted: fixedTPM and restricted were verified
HARDWARE_MODULE_NAME: Final = "1.3.6.1.5.5.7.8.4"
TPM_2_0: Final = "2.23.133.1.2"  # the hwType of a TPM 2.0
_ECC_SIZES: Final = frozenset({256, 384})
_SERIAL: Final = re.compile(r"[!-~]{1,160}", re.ASCII)
_VENDOR: Final = re.compile(r"([0-9A-Fa-f]{8}):", re.ASCII)


class IdentityCertificateIsCa(EvidenceRefused):
    """The identity key's certificate is a CA's"""

    remedy = _USE_EK


class IdentityKeyUsageWrong(EvidenceRefused):
    """The certificate lets its key do something else than an attestation key does"""

    remedy = _USE_EK


class IdentityKeyNotVerified(EvidenceRefused):
    """Nobody who certified this key saw it in a TPM"""

    remedy = _USE_EK


class IdentityKeyNotRestricted(EvidenceRefused):
    """The certified key may sign what no TPM said"""

    remedy = "This is an IDevID's certificate, or a kin of it: send the IAK's."


class HardwareModuleMissing(EvidenceRefused):
    """The certificate does not say which TPM its key is in"""

    remedy = _USE_EK


class HardwareModuleNotTpm(EvidenceRefused):
    """The certified key is not in a TPM 2.0"""

    remedy = _USE_EK


class WeakIdentityKey(EvidenceRefused):
    """The identity key is too weak"""

    remedy = _USE_EK


class IdentityKeyUnfit(EvidenceRefused):
    """The identity key's attributes or scheme are not an attestation key's"""

    remedy = _USE_EK


@dataclass(frozen=True, slots=True)
class VettedIdentityKey:
    """A public area fit for an IAK (section 7.3: restricted, signing, never leaving). Nothing shows yet that it is
    the certified key's own."""

    public: TpmPublic


_ATTRIBUTES: Final = (
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.RESTRICTED
    | Attributes.SIGN
)
_STRONG: Final = (HASHES[Alg.SHA256], HASHES[Alg.SHA384], HASHES[Alg.SHA512])


def vet_identity_key(area: bytes) -> VettedIdentityKey:
    """Reads a TPMT_PUBLIC and refuses it unless it is fit for an IAK. Raises MalformedTpmStructure, or
    IdentityKeyUnfit naming what is wrong."""
    public = parse_public(area)
    if public.attributes & (_ATTRIBUTES | Attributes.DECRYPT) != _ATTRIBUTES:
        raise IdentityKeyUnfit(seen=f"0x{public.attributes:08x}", expected=f"0x{_ATTRIBUTES:08x}, and no DECRYPT")
    fitting = (Alg.ECDSA,) if public.type is Alg.ECC else (Alg.RSASSA, Alg.RSAPSS)
    if public.scheme not in fitting or public.scheme_hash not in _STRONG or public.name_alg not in _STRONG:
        raise IdentityKeyUnfit(seen=f"{public.signs_by}, Name by {public.name_alg.name}", expected="SHA-2 throughout")
    return VettedIdentityKey(public)


@dataclass(frozen=True, slots=True)
class VerifiedIdentityCertificate:
    """A certificate that a trusted maker issued for an attestation key in some TPM.

    `hardware_serial` is the maker's name for the TPM (manufacturer, the EK certificate's issuer and serial number): a
    lifelong tracker, like the key. `manufacturer` is the TCG vendor id in it, as text, where it begins with one.
    """

    path: VerifiedPath
    hardware_serial: str = field(repr=False)
    manufacturer: str
    quirks: frozenset[Quirk]


def verify_identity_certificate(
    leaf: MakerCertificate,
    *,
    intermediates: Sequence[MakerCertificate] = (),
    anchors: TrustAnchors,
    now: datetime,
    refused: frozenset[Quirk] = REFUSED_BY_DEFAULT,
) -> VerifiedIdentityCertificate:
    """Proves that a certificate is an IAK's, of a trusted maker. Raises the error that names what it is not."""
    # 1. A valid path to a trusted root, through CAs that may vouch for attestation keys.
    path = verify_certificate_chain(
        leaf,
        intermediates=intermediates,
        anchors=anchors,
        now=now,
        purpose=ATTESTATION_KEY_CERTIFICATE,
        refused=refused,
    )
    # 2. No CA; a key that signs and does nothing else (section 8.1). Makers leave the purpose out; if it is there, it
    # is the attestation key's.
    claims = leaf.claims
    if claims.is_ca:
        raise IdentityCertificateIsCa(expected="basicConstraints with cA FALSE, or none")
    if claims.usages != frozenset({"digital_signature"}):
        seen = ", ".join(sorted(claims.usages or ())) or "no key usage"
        raise IdentityKeyUsageWrong(seen=seen, expected="digital_signature, and nothing else")
    if claims.purposes is not None and ATTESTATION_KEY_CERTIFICATE not in claims.purposes:
        raise IdentityKeyUsageWrong(
            "The certificate is for another purpose.",
            seen=", ".join(sorted(claims.purposes))[:200],
            expected=f"{ATTESTATION_KEY_CERTIFICATE} (tcg-kp-AIKCertificate), or none",
        )
    # 3. Its issuer saw the key in a TPM, and saw that it is restricted: without that, a quote by it means nothing.
    policies = _policies(leaf)
    if TPM_RESIDENCY not in policies:
        raise IdentityKeyNotVerified(
            seen=", ".join(sorted(policies))[:200] or "no policies",
            expected=f"{TPM_RESIDENCY} (tcg-cap-verifiedTPMResidency)",
        )
    if TPM_RESTRICTED not in policies:
        raise IdentityKeyNotRestricted(
            seen=", ".join(sorted(policies))[:200], expected=f"{TPM_RESTRICTED} (tcg-cap-verifiedTPMRestricted)"
        )
    # 4. It says which TPM (section 8.1: exactly one hardware module, of the type "TPM 2.0").
    serial = _hardware_serial(leaf)
    # 5. The key is of a kind and size that counts, and not known to be weak.
    _check_strength(leaf)
    vendor = _VENDOR.match(serial)
    return VerifiedIdentityCertificate(path, serial, vendor_name(vendor[1]) if vendor else "", path.quirks)


def _policies(leaf: MakerCertificate) -> frozenset[str]:
    """RFC 5280, section 4.2.1.4: the identifiers alone. What cannot be read was refused with the certificate."""
    value = extension_of(leaf.tbs, POLICIES)
    if value is None:
        return frozenset()
    return frozenset(read_oid(_first(policy, OID).content) for policy in children(whole(value)))


def _first(parent: Element, tag: int) -> Element:
    parts = children(parent)
    expect(parts[:1], tag)
    return parts[0]


_OTHER_NAME, _EXPLICIT = 0xA0, 0xA0  # GeneralName's [0], implicit; OtherName's value, [0], explicit


def _hardware_serial(leaf: MakerCertificate) -> str:
    value = extension_of(leaf.tbs, ALTERNATIVE_NAME)
    names = children(whole(value)) if value is not None else []
    modules = []
    for name in names:
        if name.tag == _OTHER_NAME:
            kind, content = expect(children(name), OID, _EXPLICIT)
            if read_oid(kind.content) == HARDWARE_MODULE_NAME:
                modules.append(whole(content.content))
    if len(modules) != 1:
        raise HardwareModuleMissing(seen=f"{len(modules)} hardware module names", expected="one")
    hardware, serial = expect(children(modules[0]), OID, OCTETS)
    if (seen := read_oid(hardware.content)) != TPM_2_0:
        raise HardwareModuleNotTpm(seen=seen, expected=f"{TPM_2_0} (TPM 2.0)")
    text = serial.content.decode("latin-1")
    if not _SERIAL.fullmatch(text):
        raise MalformedCertificate("A hardware serial number is not plain text.", seen=ascii(text[:80]))
    return text


def _check_strength(leaf: MakerCertificate) -> None:
    key = leaf.key
    fits = key.key_size >= 2048 if isinstance(key, rsa.RSAPublicKey) else key.key_size in _ECC_SIZES
    if not fits:
        raise WeakIdentityKey(seen=f"{key.key_size} bits", expected="RSA of 2048 bits or more, P-256 or P-384")
    if has_roca_fingerprint(key):
        raise WeakIdentityKey(
            "The identity key can be factored (CVE-2017-15361).", seen="the fingerprint of Infineon's RSALib"
        )
