"""Which endorsement keys are endorsement keys: the default templates of the TCG EK Credential Profile.

TCG EK Credential Profile for TPM Family 2.0, version 2.5 revision 2 (and 2.6): annex B, templates L-1 and L-2 (low
range), H-1, H-2, H-3 and H-6 (high range); annex B.6, PolicyA and PolicyB.

A certificate says that a maker put this key into a chip. Only the template says what the chip will do with it: decrypt
inside the TPM (restricted, decrypt), never sign, never leave (fixedTPM, fixedParent). A certified key of any other
shape could open our challenges outside a TPM's rules, so it is refused even with a perfect certificate.

`swtpm_setup` 0.7 makes two: L-1 (at 0x81010001) and, with or without `--ecc`, the P-384 key of H-3 (at 0x81010016).
"""

from __future__ import annotations

from dataclasses import dataclass

from attestd.errors import EvidenceRefused
from attestd.tpm.objects import P256, P384, Alg, Attributes, Symmetric, TpmPublic


class EkTemplateUnknown(EvidenceRefused):
    """The endorsement key follows none of the TCG's templates"""

    remedy = "Create the EK from a default template of the TCG EK Credential Profile, for example tpm2_createek."


class EkAttributesWrong(EvidenceRefused):
    """The endorsement key's attributes are not its template's"""

    remedy = EkTemplateUnknown.remedy


class EkPolicyWrong(EvidenceRefused):
    """The endorsement key's authorization policy is not its template's"""

    remedy = EkTemplateUnknown.remedy


class EkProtectionWrong(EvidenceRefused):
    """The endorsement key does not protect secrets as its template does"""

    remedy = EkTemplateUnknown.remedy


_NULL = Alg.NULL
_LOW = int(
    Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
    | Attributes.ADMIN_WITH_POLICY
    | Attributes.RESTRICTED
    | Attributes.DECRYPT
)
_HIGH = _LOW | int(Attributes.USER_WITH_AUTH)

# PolicyA is PolicySecret(TPM_RH_ENDORSEMENT); PolicyB is PolicyOR(PolicyA, PolicyC), where PolicyC is PolicyAuthorizeNV
# of the index that the profile reserves for that hash (annex B.6). The tests derive them from these definitions.
POLICY_A_SHA256 = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
POLICY_B_SHA256 = bytes.fromhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0")
POLICY_B_SHA384 = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)

_AES_128 = Symmetric(Alg.AES, 128, Alg.CFB)
_AES_256 = Symmetric(Alg.AES, 256, Alg.CFB)


@dataclass(frozen=True, slots=True)
class _Template:
    name: str
    type: Alg
    bits: int
    curve: int
    name_alg: Alg
    attributes: int
    auth_policy: bytes
    symmetric: Symmetric


_TEMPLATES = (
    _Template("L-1", Alg.RSA, 2048, 0, Alg.SHA256, _LOW, POLICY_A_SHA256, _AES_128),
    _Template("L-2", Alg.ECC, 256, P256, Alg.SHA256, _LOW, POLICY_A_SHA256, _AES_128),
    _Template("H-1", Alg.RSA, 2048, 0, Alg.SHA256, _HIGH, POLICY_B_SHA256, _AES_128),
    _Template("H-2", Alg.ECC, 256, P256, Alg.SHA256, _HIGH, POLICY_B_SHA256, _AES_128),
    _Template("H-3", Alg.ECC, 384, P384, Alg.SHA384, _HIGH, POLICY_B_SHA384, _AES_256),
    _Template("H-6", Alg.RSA, 3072, 0, Alg.SHA384, _HIGH, POLICY_B_SHA384, _AES_256),
)


def check_ek_template(public: TpmPublic) -> str:
    """The name of the template that this EK follows in every field but its `unique` (annex B).

    Raises EkTemplateUnknown for another kind of key, and EkAttributesWrong, EkPolicyWrong or EkProtectionWrong where a
    key of a known kind differs in that field.
    """
    # 1. Type, size or curve, and nameAlg select the candidates: the low-range and the high-range one.
    candidates = [t for t in _TEMPLATES if t.bits == public.bits and t.curve == public.curve]  # a curve is 0 for RSA
    candidates = [t for t in candidates if t.name_alg is public.name_alg.alg]
    if not candidates:
        raise EkTemplateUnknown(
            seen=f"{public.type.name} {public.bits}, nameAlg {public.name_alg.name}",
            expected="RSA 2048 or 3072, ECC P-256 or P-384, each with its template's nameAlg",
        )
    # 2. objectAttributes, exactly: userWithAuth tells high from low range.
    template = next((t for t in candidates if t.attributes == public.attributes), None)
    if template is None:
        raise EkAttributesWrong(
            seen=f"0x{public.attributes:08x}", expected=" or ".join(f"0x{t.attributes:08x}" for t in candidates)
        )
    # 3. authPolicy, exactly.
    if public.auth_policy != template.auth_policy:
        raise EkPolicyWrong(seen=public.auth_policy.hex() or "none", expected=template.auth_policy.hex())
    # 4. The cipher that protects what is sent to the EK, and no scheme of its own.
    if public.symmetric != template.symmetric or public.scheme is not _NULL:
        raise EkProtectionWrong(
            seen=f"{public.symmetric}, scheme {public.scheme.name}", expected=f"{template.symmetric}, scheme NULL"
        )
    return template.name
