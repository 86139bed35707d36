"""Credential activation: the attestation key lives in the very TPM that holds the endorsed EK.

TPM 2.0 Library, revision 1.59: Part 1, section 24 (credential protection); Part 2, section 8.3 (object attributes);
Part 3, sections 12.5 (TPM2_ActivateCredential) and 12.6 (TPM2_MakeCredential). TCG TPM 2.0 Keys for Device Identity
and Attestation, version 1.0: the attributes of an attestation key.

The walk, one type a step: `vet_ak` (untrusted octets) -> `VettedAk` -> `make_credential` -> the device -> proof ->
`verify_activation` -> `VerifiedAk`. A vetted key has the right shape, and nobody has shown yet that it exists; the TPM
that recovers the secret shows it, since it does so only for an object with this Name, and the Name covers every
attribute that was vetted.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from attestd.errors import EvidenceRefused
from attestd.protocol.derivations import completion_proof
from attestd.tpm.endorsement import VerifiedEndorsement
from attestd.tpm.makecred import Entropy, protect, share_seed
from attestd.tpm.objects import HASHES, P256, P384, Alg, Attributes, TpmPublic, parse_public

SECRET_SIZE = 32  # octets of an activation secret (docs/protocol.md, section 1)

_MEND = "Create the AK as docs/protocol.md describes it; `attestd-agent enroll` does."


class AkNotFixedTpm(EvidenceRefused):
    """The attestation key can leave its TPM"""

    remedy = _MEND


class AkNotFixedParent(EvidenceRefused):
    """The attestation key can be moved to another parent"""

    remedy = _MEND


class AkNotMadeByTpm(EvidenceRefused):
    """The attestation key was not made by the TPM"""

    remedy = _MEND


class AkNotRestricted(EvidenceRefused):
    """The attestation key is not restricted"""

    remedy = _MEND


class AkNotSigning(EvidenceRefused):
    """The attestation key does not sign"""

    remedy = _MEND


class AkDecrypts(EvidenceRefused):
    """The attestation key decrypts too"""

    remedy = _MEND


class AkNameAlgUnsuitable(EvidenceRefused):
    """The attestation key's Name is not by SHA-256"""

    remedy = _MEND


class AkSymmetricPresent(EvidenceRefused):
    """The attestation key carries a symmetric algorithm"""

    remedy = _MEND


class AkSchemeUnsuitable(EvidenceRefused):
    """The attestation key has no suitable signing scheme"""

    remedy = _MEND


class AkHashWeak(EvidenceRefused):
    """The attestation key signs by a weak hash"""

    remedy = _MEND


class AkKeyUnsuitable(EvidenceRefused):
    """The attestation key's size or curve is not accepted"""

    remedy = _MEND


class ActivationProofWrong(EvidenceRefused):
    """The device did not recover the activation secret"""

    remedy = "Begin again; the AK must be loaded in the same TPM as the EK, and the body must be sent unchanged."


# What must be SET. Unrestricted, the AK would sign octets of anybody's making, a forged quote among them.
_REQUIRED: tuple[tuple[int, type[EvidenceRefused]], ...] = (
    (Attributes.FIXED_TPM.value, AkNotFixedTpm),
    (Attributes.FIXED_PARENT.value, AkNotFixedParent),
    (Attributes.SENSITIVE_DATA_ORIGIN.value, AkNotMadeByTpm),
    (Attributes.RESTRICTED.value, AkNotRestricted),
    (Attributes.SIGN.value, AkNotSigning),
)
_DECRYPT = Attributes.DECRYPT.value
_SHA256, _ECC = HASHES[Alg.SHA256], Alg.ECC
_STRONG_HASHES = (_SHA256, HASHES[Alg.SHA384], HASHES[Alg.SHA512])
_SCHEMES = {Alg.ECC: (Alg.ECDSA,), Alg.RSA: (Alg.RSASSA, Alg.RSAPSS)}


@dataclass(frozen=True, slots=True)
class VettedAk:
    """A public area fit for an attestation key. Nothing shows yet that a TPM holds it."""

    public: TpmPublic

    @property
    def name(self) -> bytes:
        """The Name computed here, from the public area that was vetted."""
        return self.public.name


@dataclass(frozen=True, slots=True)
class VerifiedAk:
    """An attestation key that is known to live in an endorsed TPM, under every restriction that was vetted."""

    public: TpmPublic

    @property
    def name(self) -> bytes:
        return self.public.name


@dataclass(frozen=True, slots=True)
class MadeCredential:
    """What the device needs to activate: a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET, with their size fields."""

    credential_blob: bytes
    encrypted_secret: bytes


def vet_ak(area: bytes) -> VettedAk:
    """Reads a TPMT_PUBLIC and refuses it unless it is fit for an attestation key.

    userWithAuth, adminWithPolicy and noDA are the owner's business: they say who may use the key, not what it signs.
    Raises MalformedTpmStructure, or the error that names what is wrong.
    """
    public = parse_public(area)
    # 1. Name by SHA-256: every derivation of the protocol counts on 34 octets.
    if public.name_alg is not _SHA256:
        raise AkNameAlgUnsuitable(seen=public.name_alg.name, expected="sha256")
    # 2. Attributes (Part 2, section 8.3.3): made in this TPM, bound to it, signs only what the TPM itself composes.
    attributes = public.attributes
    for attribute, refusal in _REQUIRED:
        if not attributes & attribute:
            raise refusal(seen=f"0x{attributes:08x}", expected=f"{Attributes(attribute).name} set")
    if attributes & _DECRYPT:
        raise AkDecrypts(seen=f"0x{attributes:08x}", expected="DECRYPT clear")
    # 3. A signing key has no symmetric algorithm (Part 2, sections 12.2.3.5 and 12.2.3.6).
    if public.symmetric is not None:
        raise AkSymmetricPresent(seen=public.symmetric, expected="NULL")
    # 4. The scheme is fixed in the key and fits its kind.
    fitting = _SCHEMES[public.type]
    if public.scheme not in fitting:
        raise AkSchemeUnsuitable(seen=public.scheme.name, expected=" or ".join(scheme.name for scheme in fitting))
    if public.scheme_hash not in _STRONG_HASHES:
        raise AkHashWeak(seen=public.signs_by, expected="sha256, sha384 or sha512")
    # 5. The key is strong enough, and of a kind that clients are tested with.
    if public.curve not in (P256, P384) if public.type is _ECC else public.bits < 2048:
        raise AkKeyUnsuitable(
            seen=f"{public.type.name} {public.bits}", expected="ECC P-256 or P-384, RSA of 2048 bits or more"
        )
    return VettedAk(public)


def make_credential(
    endorsement: VerifiedEndorsement, ak: VettedAk, *, secret: bytes, entropy: Entropy
) -> MadeCredential:
    """Wraps `secret` so that only the endorsed TPM recovers it, and only with this very AK loaded.

    `secret` is fresh and random, 32 octets; `entropy(n)` gives n random octets.
    """
    _check_secret(secret)
    ek = endorsement.ek
    seed, encrypted_secret = share_seed(ek, entropy=entropy)
    return MadeCredential(
        credential_blob=protect(ek, seed=seed, name=ak.name, secret=secret),
        encrypted_secret=encrypted_secret,
    )


def verify_activation(
    endorsement: VerifiedEndorsement, ak: VettedAk, *, secret: bytes, body: bytes, proof: bytes
) -> VerifiedAk:
    """The AK is in the endorsed TPM: whoever sent `body` recovered `secret`, and says so over these exact octets.

    `endorsement`, `ak` and `secret` must come from the one challenge that `make_credential` was called for. Raises
    ActivationProofWrong; the comparison takes the same time whatever the proof is.
    """
    if endorsement.kind == "iak":
        raise ValueError("an EK that nobody vouches for activates nothing")
    check_proof(secret=secret, body=body, proof=proof)
    return VerifiedAk(ak.public)


def check_proof(*, secret: bytes, body: bytes, proof: bytes) -> None:
    """Whoever sent `body` recovered `secret`. With an endorsed EK that is activation; with any other it only shows
    that the challenge was meant for the sender. Raises ActivationProofWrong."""
    _check_secret(secret)
    if not hmac.compare_digest(completion_proof(secret=secret, body=body), proof):
        raise ActivationProofWrong


def recall_ak(area: bytes) -> VerifiedAk:
    """An AK that the registry vouches for: activated before, stored since. It is vetted again, not activated again."""
    return VerifiedAk(vet_ak(area).public)


def _check_secret(secret: bytes) -> None:
    """An empty or short secret would be everybody's; it can only be this program's own mistake."""
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"an activation secret has {SECRET_SIZE} octets")
