"""What an attestation key vouches for: another key of its TPM (TPM2_Certify), and the PCRs (TPM2_Quote).

TPM 2.0 Library, revision 1.59: Part 3, sections 18.2 (TPM2_Certify) and 18.4 (TPM2_Quote); Part 2, sections 8.3
(object attributes) and 11.3 (signatures); Part 1, annexes B.6, B.7 (RSASSA, RSAPSS) and C.4 (ECDSA).

Every check is made over the octets that were signed, and each value returned was read from these octets or compared
with them. What is still open afterwards: whether the PCR values are good ones. `appraisal` judges that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestd.errors import EvidenceRefused
from attestd.protocol.evidence import BANKS, PcrSelection, PcrValues
from attestd.tpm.activation import VerifiedAk, VettedAk
from attestd.tpm.firmware import RH_ENDORSEMENT, qualified_name
from attestd.tpm.objects import (
    HASHES,
    Alg,
    Attributes,
    Hash,
    PublicKey,
    TpmPublic,
    TpmSignature,
    parse_public,
    parse_signature,
)
from attestd.tpm.statements import ClockInfo, Quote, parse_certification, parse_quote
from attestd.tpm.wire import u32

_MEND_CK = "Create the credential key as docs/protocol.md describes it; `attestd-agent enroll` does."


class SignatureSchemeMismatch(EvidenceRefused):
    """The signature is not by the attestation key's own scheme"""


class AttestationSignatureWrong(EvidenceRefused):
    """The signature is not the attestation key's over these octets"""


class NonceMismatch(EvidenceRefused):
    """The attestation answers another challenge"""

    remedy = "Begin again: quote and certify over the qualifying data of the newest challenge."


class CertifiedNameMismatch(EvidenceRefused):
    """The attestation certifies another key"""


class IdentityNameMismatch(EvidenceRefused):
    """The identity key is not the primary key that its public area describes"""

    remedy = "Send the IAK's own public area; it must be a primary key of the endorsement hierarchy."


class CkNotFixedTpm(EvidenceRefused):
    """The credential key can leave its TPM"""

    remedy = _MEND_CK


class CkNotFixedParent(EvidenceRefused):
    """The credential key can be moved to another parent"""

    remedy = _MEND_CK


class CkNotMadeByTpm(EvidenceRefused):
    """The credential key was not made by the TPM"""

    remedy = _MEND_CK


class CkNotSigning(EvidenceRefused):
    """The credential key does not sign"""

    remedy = _MEND_CK


class CkRestricted(EvidenceRefused):
    """The credential key is restricted and could sign no handshake"""

    remedy = _MEND_CK


class CkDecrypts(EvidenceRefused):
    """The credential key decrypts too"""

    remedy = _MEND_CK


class CkNameAlgUnsuitable(EvidenceRefused):
    """The credential key's Name is not by SHA-256"""

    remedy = _MEND_CK


class CkKeyUnsuitable(EvidenceRefused):
    """The credential key is not on P-256"""

    remedy = _MEND_CK


class CkSchemeUnsuitable(EvidenceRefused):
    """The credential key's scheme is neither free nor ECDSA with SHA-256"""

    remedy = _MEND_CK


class NothingSelected(EvidenceRefused):
    """No PCRs were asked for, so the quote could prove nothing"""

    remedy = "Name at least one PCR in every bank of the policy's selection."


class Sha1BankRefused(EvidenceRefused):
    """A SHA-1 PCR bank is no evidence"""

    remedy = "Activate the TPM's SHA-256 bank, or let the policy name SHA-1 banks."


class PcrSelectionMismatch(EvidenceRefused):
    """The quote covers other PCRs than were asked for"""

    remedy = "Quote exactly the banks and PCRs of the challenge."


class PcrValuesMismatch(EvidenceRefused):
    """The PCR values sent are not those of the quoted PCRs"""

    remedy = "Send one value of the bank's digest size for each quoted PCR, and no other."


class PcrDigestMismatch(EvidenceRefused):
    """The PCR values do not hash to the quoted digest"""

    remedy = "Read the PCRs and quote without an extension between them, then send both."


@dataclass(frozen=True, slots=True)
class VerifiedKey:
    """A credential key in the AK's TPM, as the AK certified it."""

    public: TpmPublic
    key: ec.EllipticCurvePublicKey

    @property
    def name(self) -> bytes:
        return self.public.name


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """PCR values that the AK's TPM had, bank by bank, when it was asked."""

    pcrs: PcrValues
    clock: ClockInfo
    firmware_version: int
    qualified_signer: bytes


def verify_identified_ak(
    identity: TpmPublic, ak: VettedAk, *, attest: bytes, signature: bytes, qualifying_data: bytes
) -> VerifiedAk:
    """An AK that a certified identity key (`identity`) certifies to be loaded in its own TPM.

    What activation is for an endorsed EK. Raises MalformedTpmStructure, or the error that names the check that failed.
    """
    # 1. Read the structure whole.
    certification = parse_certification(attest)
    # 2. The identity key signed these very octets; it is restricted, so a TPM composed them.
    _check_signature(AttestingKey.of(identity), attest, parse_signature(signature))
    # 3. It signed them for this challenge.
    _check_nonce(certification.extra_data, qualifying_data)
    # 4. The key that signed has the public area that was vetted: its qualified Name is that of a primary key of the
    # endorsement hierarchy with this Name, and no certificate says as much (Part 1, section 16).
    expected = qualified_name(identity, parent=u32(RH_ENDORSEMENT))
    if certification.qualified_signer != expected:
        raise IdentityNameMismatch(seen=certification.qualified_signer.hex(), expected=expected.hex())
    # 5. The Name certified is that of the AK that was vetted.
    if certification.certified_name != ak.name:
        raise CertifiedNameMismatch(seen=certification.certified_name.hex(), expected=ak.name.hex())
    return VerifiedAk(ak.public)


def verify_certified_key(
    ak: VerifiedAk, *, public: bytes, attest: bytes, signature: bytes, qualifying_data: bytes
) -> VerifiedKey:
    """A TPMT_PUBLIC that the AK certifies to be loaded in its own TPM, in answer to `qualifying_data`.

    Raises MalformedTpmStructure, or the error that names the check that failed.
    """
    # 1. Read both structures whole.
    unverified_key = parse_public(public)
    certification = parse_certification(attest)
    # 2. The AK signed these very octets.
    _check_signature(AttestingKey.of(ak.public), attest, parse_signature(signature))
    # 3. It signed them for this challenge.
    _check_nonce(certification.extra_data, qualifying_data)
    # 4. The Name certified is that of the public area in hand: so every attribute below is the TPM's word.
    if certification.certified_name != unverified_key.name:
        raise CertifiedNameMismatch(seen=certification.certified_name.hex(), expected=unverified_key.name.hex())
    # 5. The key is one that can carry a credential.
    return VerifiedKey(unverified_key, _vet_ck(unverified_key))


def verify_quote(
    ak: VerifiedAk,
    *,
    attest: bytes,
    signature: bytes,
    qualifying_data: bytes,
    pcrs: PcrValues,
    selection: PcrSelection,
    allow_sha1: bool = False,
) -> VerifiedQuote:
    """The AK's quote over exactly the PCRs of `selection`, in answer to `qualifying_data`, and their values.

    Raises MalformedTpmStructure, or the error that names the check that failed.
    """
    # 1. There is something to prove, and it is worth proving.
    if not selection or not all(selection.values()):
        raise NothingSelected(seen=dict(selection))
    if "sha1" in selection and not allow_sha1:
        raise Sha1BankRefused
    # 2. Read the structure whole.
    # 3. The AK signed these very octets.
    signed = verify_signed_quote(AttestingKey.of(ak.public), attest=attest, signature=parse_signature(signature))
    quote = signed.quote
    # 4. It signed them for this challenge.
    _check_nonce(quote.extra_data, qualifying_data)
    # 5. It covers what was asked for: neither less nor more.
    if dict(quote.selection) != {bank: tuple(sorted(indices)) for bank, indices in selection.items()}:
        raise PcrSelectionMismatch(seen=dict(quote.selection), expected=dict(selection))
    # 6. and 7. The values are those that were quoted.
    values = signed.match(pcrs)
    return VerifiedQuote(values, quote.clock, quote.firmware_version, quote.qualified_signer)


@dataclass(frozen=True, slots=True)
class AttestingKey:
    """A key that quotes are checked against, and its own scheme; None for a bare public key, which has none."""

    key: PublicKey
    scheme: Alg | None
    hash: Hash | None

    @classmethod
    def of(cls, public: TpmPublic) -> Self:
        return cls(public.key, public.scheme, public.scheme_hash)

    def check(self, signature: TpmSignature) -> None:
        """The signature is by this key's own scheme; by a bare key's, of its kind and over a strong hash."""
        if self.scheme is not None:
            if signature.scheme is self.scheme and signature.hash is self.hash:
                return
            expected = f"{self.scheme.name} with {self.hash.name if self.hash else 'no hash'}"
        else:
            on_curve = isinstance(self.key, ec.EllipticCurvePublicKey)
            fitting = (Alg.ECDSA,) if on_curve else (Alg.RSASSA, Alg.RSAPSS)
            if signature.scheme in fitting and signature.hash.alg is not Alg.SHA1:
                return
            expected = f"{' or '.join(scheme.name for scheme in fitting)} with SHA-2"
        raise SignatureSchemeMismatch(seen=f"{signature.scheme.name} with {signature.hash.name}", expected=expected)


@dataclass(frozen=True, slots=True)
class SignedQuote:
    """A quote by a key at hand. For whom it was made, and over which values, is still open."""

    quote: Quote
    scheme_hash: Hash

    def match(self, pcrs: PcrValues) -> PcrValues:
        """The quoted PCRs' values, if these are they: all of them and no other, since what a quote does not cover is
        not evidence. Raises PcrValuesMismatch and PcrDigestMismatch."""
        values = _match_values(self.quote, pcrs)
        # The digest is over the values in the quote's own order, by the hash of the signing scheme (Part 3, 18.4.1).
        in_order = b"".join([values[bank][index] for bank, indices in self.quote.selection for index in indices])
        digest = self.scheme_hash.digest(in_order)
        if digest != self.quote.digest:
            raise PcrDigestMismatch(seen=digest.hex(), expected=self.quote.digest.hex())
        return MappingProxyType(values)


def verify_signed_quote(key: AttestingKey, *, attest: bytes, signature: TpmSignature) -> SignedQuote:
    """Reads a TPMS_ATTEST of TPM2_Quote and proves that this key signed these very octets.

    Raises MalformedTpmStructure, or the error that names the check that failed.
    """
    quote = parse_quote(attest)
    return SignedQuote(quote, _check_signature(key, attest, signature))


def _check_signature(by: AttestingKey, attest: bytes, parsed: TpmSignature) -> Hash:
    """Proves the signature over `attest` and gives the scheme's hash.

    The scheme is the key's own: a signature that names another one is refused before any arithmetic.
    """
    by.check(parsed)
    key = by.key
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(encode_dss_signature(parsed.r, parsed.s), attest, _ECDSA[parsed.hash.name])
        else:
            # Part 1, annex B.7: TPMs differ in the salt's size (largest that fits, or the digest's), so it is read.
            algorithm = parsed.hash.algorithm
            pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.AUTO)
            key.verify(parsed.value, attest, pss if parsed.scheme is Alg.RSAPSS else padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        raise AttestationSignatureWrong from None
    return parsed.hash


def _check_nonce(extra_data: bytes, qualifying_data: bytes) -> None:
    if not qualifying_data or extra_data != qualifying_data:
        raise NonceMismatch(seen=extra_data.hex() or "nothing", expected=qualifying_data.hex() or "a challenge")


def _vet_ck(public: TpmPublic) -> ec.EllipticCurvePublicKey:
    """A credential key of version 1: P-256, signing freely, made in this TPM and bound to it."""
    if public.name_alg is not _SHA256:
        raise CkNameAlgUnsuitable(seen=public.name_alg.name, expected="sha256")
    attributes = public.attributes
    for attribute, wanted, refusal in _CK_ATTRIBUTES:
        if (attributes & attribute != 0) is not wanted:
            name = Attributes(attribute).name
            raise refusal(seen=f"0x{attributes:08x}", expected=f"{name} {'set' if wanted else 'clear'}")
    key = public.key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CkKeyUnsuitable(seen=f"{public.type.name} {public.bits}", expected="ECC P-256")
    if (public.scheme, public.scheme_hash) not in _CK_SCHEMES:
        raise CkSchemeUnsuitable(
            seen=public.signs_by,
            expected="NULL, or ECDSA with sha256",
        )
    return key


_CK_ATTRIBUTES: tuple[tuple[int, bool, type[EvidenceRefused]], ...] = (
    (Attributes.FIXED_TPM.value, True, CkNotFixedTpm),
    (Attributes.FIXED_PARENT.value, True, CkNotFixedParent),
    (Attributes.SENSITIVE_DATA_ORIGIN.value, True, CkNotMadeByTpm),
    (Attributes.SIGN.value, True, CkNotSigning),
    (Attributes.RESTRICTED.value, False, CkRestricted),
    (Attributes.DECRYPT.value, False, CkDecrypts),
)
_SHA256 = HASHES[Alg.SHA256]
_CK_SCHEMES = ((Alg.NULL, None), (Alg.ECDSA, _SHA256))
_ECDSA = {known.name: ec.ECDSA(known.algorithm) for known in HASHES.values()}


def _match_values(quote: Quote, pcrs: PcrValues) -> dict[str, Mapping[int, bytes]]:
    """The values sent, as a copy that nobody can change, if they are exactly those of the quoted PCRs.

    Their sizes count too: octets moved from one value to its neighbour would hash to the same digest.
    """
    banks = dict(quote.selection)
    if pcrs.keys() != banks.keys():
        raise PcrValuesMismatch(seen=", ".join(sorted(pcrs)), expected=", ".join(sorted(banks)))
    matched: dict[str, Mapping[int, bytes]] = {}
    for bank, indices in quote.selection:
        values = pcrs[bank]
        if tuple(sorted(values)) != indices:
            raise PcrValuesMismatch(seen=f"{bank}: {sorted(values)}", expected=f"{bank}: {list(indices)}")
        for index in indices:
            if len(values[index]) != BANKS[bank]:
                raise PcrValuesMismatch(
                    f"{bank} PCR {index} has the wrong size.",
                    seen=f"{len(values[index])} octets",
                    expected=f"{BANKS[bank]}",
                )
        matched[bank] = MappingProxyType({index: values[index] for index in indices})
    return matched
