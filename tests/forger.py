"""A software TPM for tests that tells the truth until asked to lie, in any one field.

It shares no code with attestd: the marshalling, Names, key derivations and signatures are written a second time here,
so that an error in one place does not excuse the same error in the other. Its keys are ordinary software keys; nothing
that it says is worth anything, except to a verifier that has the same opinion of the TPM 2.0 Library, revision 1.59.

    forger = Forger()                                  # EK L-2, AK ECDSA P-256, CK P-256
    forger.ek.public, forger.ak.public                 # TPMT_PUBLIC octets
    secret = forger.activate(credential_blob, encrypted_secret)
    attest, signature = forger.quote(nonce, {"sha256": {0: bytes(32)}})
    attest, signature = forger.quote(nonce, pcrs, magic=0)                 # one lie
    attest, signature = forger.certify(nonce, signer=other.ak)             # another
    Forger(ak=forge_key(attributes=AK_ATTRIBUTES & ~RESTRICTED))           # a key that lies in its public area
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

# TPM_ALG_ID, TPM_ECC_CURVE, TPMA_OBJECT and TPM_ST values (Part 2, sections 6.3, 6.4, 8.3 and 6.9).
RSA, ECC, AES, NULL, CFB_MODE = 0x0001, 0x0023, 0x0006, 0x0010, 0x0043
SHA1, SHA256, SHA384, SHA512 = 0x0004, 0x000B, 0x000C, 0x000D
RSASSA, RSAPSS, ECDSA, RSAES, OAEP, ECDAA = 0x0014, 0x0016, 0x0018, 0x0015, 0x0017, 0x001A
P256, P384, P521 = 0x0003, 0x0004, 0x0005
FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 0x2, 0x10, 0x20
USER_WITH_AUTH, ADMIN_WITH_POLICY, NO_DA = 0x40, 0x80, 0x400
RESTRICTED, DECRYPT, SIGN = 0x10000, 0x20000, 0x40000
MAGIC, CERTIFY, QUOTE, CREATION = 0xFF544347, 0x8017, 0x8018, 0x801A

_BOUND = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN
EK_LOW_ATTRIBUTES = _BOUND | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT
EK_HIGH_ATTRIBUTES = EK_LOW_ATTRIBUTES | USER_WITH_AUTH
AK_ATTRIBUTES = _BOUND | USER_WITH_AUTH | RESTRICTED | SIGN
CK_ATTRIBUTES = _BOUND | USER_WITH_AUTH | SIGN

AES_128_CFB = (AES, 128, CFB_MODE)
AES_256_CFB = (AES, 256, CFB_MODE)

_HASH_NAMES = {SHA1: "sha1", SHA256: "sha256", SHA384: "sha384", SHA512: "sha512"}
_HASH_IDS = {name: alg for alg, name in _HASH_NAMES.items()}
_HASH_CLASSES: dict[int, type[hashes.HashAlgorithm]] = {
    SHA1: hashes.SHA1,
    SHA256: hashes.SHA256,
    SHA384: hashes.SHA384,
    SHA512: hashes.SHA512,
}
_CURVES: dict[int, type[ec.EllipticCurve]] = {P256: ec.SECP256R1, P384: ec.SECP384R1, P521: ec.SECP521R1}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class ForgerRefused(Exception):
    """What a real TPM answers with an error code: this credential is not for these keys."""


class Attestation(NamedTuple):
    """TPMS_ATTEST and TPMT_SIGNATURE octets."""

    attest: bytes
    signature: bytes


# ---- Writers ----------------------------------------------------------------------------------------------------


def tpm2b(content: bytes) -> bytes:
    """A 16-bit size, then the content."""
    return struct.pack(">H", len(content)) + content


def u16s(*values: int) -> bytes:
    """16-bit integers, one after the other."""
    return struct.pack(f">{len(values)}H", *values)


def policy_a(alg: int) -> bytes:
    """PolicySecret(TPM_RH_ENDORSEMENT) (EK Credential Profile 2.5, annex B.6; Part 3, section 23.4)."""
    step = _digest(alg, bytes(_size(alg)) + struct.pack(">I", 0x151) + bytes.fromhex("4000000b"))
    return _digest(alg, step)


def policy_c(alg: int) -> bytes:
    """PolicyAuthorizeNV of the index that the profile reserves for this hash (annex B.6; Part 3, section 23.22)."""
    index = {SHA256: 0x01C07F01, SHA384: 0x01C07F02, SHA512: 0x01C07F03}[alg]
    nv_public = struct.pack(">IHI", index, alg, 0x220F1008) + tpm2b(policy_a(alg)) + struct.pack(">H", _size(alg) + 2)
    nv_name = struct.pack(">H", alg) + _digest(alg, nv_public)
    return _digest(alg, bytes(_size(alg)) + struct.pack(">I", 0x192) + nv_name)


def policy_b(alg: int) -> bytes:
    """PolicyOR(PolicyA, PolicyC) (annex B.6; Part 3, section 23.6)."""
    return _digest(alg, bytes(_size(alg)) + struct.pack(">I", 0x171) + policy_a(alg) + policy_c(alg))


def write_public(
    key: PrivateKey,
    *,
    type: int | None = None,
    name_alg: int = SHA256,
    attributes: int = AK_ATTRIBUTES,
    auth_policy: bytes = b"",
    symmetric: tuple[int, int, int] | None = None,
    scheme: tuple[int, ...] | None = None,
    bits: int | None = None,
    exponent: int = 0,
    curve: int | None = None,
    kdf: tuple[int, ...] = (NULL,),
    unique: bytes | tuple[bytes, bytes] | None = None,
    trailing: bytes = b"",
) -> bytes:
    """A TPMT_PUBLIC for this key: what is not overridden is the truth. `scheme` None means NULL."""
    is_rsa = isinstance(key, rsa.RSAPrivateKey)
    numbers = key.public_key().public_numbers()
    area = struct.pack(">HHI", type or (RSA if is_rsa else ECC), name_alg, attributes) + tpm2b(auth_policy)
    area += u16s(*(symmetric or (NULL,))) + u16s(*(scheme or (NULL,)))
    if isinstance(numbers, rsa.RSAPublicNumbers):
        modulus = numbers.n.to_bytes(key.key_size // 8, "big") if unique is None else cast("bytes", unique)
        area += struct.pack(">HI", key.key_size if bits is None else bits, exponent) + tpm2b(modulus)
    else:
        size = (numbers.curve.key_size + 7) // 8
        x, y = unique or (numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big"))
        identifier = next(i for i, c in _CURVES.items() if isinstance(numbers.curve, c))
        area += u16s(identifier if curve is None else curve, *kdf) + tpm2b(cast("bytes", x)) + tpm2b(cast("bytes", y))
    return area + trailing


@dataclass(frozen=True)
class ForgedKey:
    """A software key and the public area that claims it. `scheme` is what it really signs by."""

    private: PrivateKey
    public: bytes
    scheme: tuple[int, ...]
    name_alg: int = SHA256

    @property
    def name(self) -> bytes:
        """nameAlg ‖ H(public area) (Part 1, section 16)."""
        return struct.pack(">H", self.name_alg) + _digest(self.name_alg, self.public)

    def sign(self, message: bytes, *, scheme: tuple[int, ...] | None = None) -> bytes:
        """A TPMT_SIGNATURE by this key, by its own scheme or by another."""
        alg, digest = (*(scheme or self.scheme), SHA256)[:2]
        algorithm = _HASH_CLASSES[digest]()
        head = u16s(alg, digest)
        if isinstance(self.private, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
            how = pss if alg == RSAPSS else padding.PKCS1v15()
            return head + tpm2b(self.private.sign(message, how, algorithm))
        size = (self.private.curve.key_size + 7) // 8
        r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(algorithm)))
        return head + tpm2b(r.to_bytes(size, "big")) + tpm2b(s.to_bytes(size, "big"))


def new_private_key(kind: str = "p256") -> PrivateKey:
    """`p256`, `p384`, `p521`, `rsa1024`, `rsa2048`, `rsa3072`."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}[kind])


def forge_key(
    kind: str = "p256", *, private: PrivateKey | None = None, scheme: tuple[int, ...] | None = None, **lies: Any
) -> ForgedKey:
    """An AK by default: `kind` as for new_private_key; `lies` as for write_public.

    `scheme` None means ECDSA or RSASSA with SHA-256; `(NULL,)` a key without a scheme.
    """
    private = private or new_private_key(kind)
    scheme = scheme or (RSASSA if isinstance(private, rsa.RSAPrivateKey) else ECDSA, SHA256)
    signs_by = scheme if scheme != (NULL,) else (ECDSA, SHA256)
    return ForgedKey(private, write_public(private, scheme=scheme, **lies), signs_by, lies.get("name_alg", SHA256))


IAK_ATTRIBUTES = AK_ATTRIBUTES | ADMIN_WITH_POLICY


def forge_iak(kind: str = "p256", **lies: Any) -> ForgedKey:
    """An IAK: a primary key of the endorsement hierarchy, as TCG TPM 2.0 Keys for Device Identity, 7.3, has it."""
    policy = bytes.fromhex("5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07")
    return forge_key(kind, **{"attributes": IAK_ATTRIBUTES, "auth_policy": policy, **lies})


def forge_ck(kind: str = "p256", **lies: Any) -> ForgedKey:
    """A credential key: not restricted, without a scheme of its own."""
    return forge_key(kind, **{"attributes": CK_ATTRIBUTES, "scheme": (NULL,), **lies})


def forge_ek(template: str = "L-2", *, private: PrivateKey | None = None, **lies: Any) -> ForgedKey:
    """An endorsement key by a template of the EK Credential Profile, annex B: L-1, L-2, H-1, H-2, H-3 or H-6."""
    kind = {"L-1": "rsa2048", "L-2": "p256", "H-1": "rsa2048", "H-2": "p256", "H-3": "p384", "H-6": "rsa3072"}[template]
    low, large = template.startswith("L"), template in ("H-3", "H-6")
    name_alg = SHA384 if large else SHA256
    truth: dict[str, Any] = {
        "name_alg": name_alg,
        "attributes": EK_LOW_ATTRIBUTES if low else EK_HIGH_ATTRIBUTES,
        "auth_policy": policy_a(name_alg) if low else policy_b(name_alg),
        "symmetric": AES_256_CFB if large else AES_128_CFB,
        "scheme": (NULL,),
    }
    return forge_key(kind, private=private, **{**truth, **lies})


# ---- The forger -------------------------------------------------------------------------------------------------


class Forger:
    """One imitated TPM: an EK, an AK and a credential key, and the four commands that attestation needs of it."""

    def __init__(
        self,
        *,
        ek: ForgedKey | str = "L-2",
        ak: ForgedKey | None = None,
        ck: ForgedKey | None = None,
    ) -> None:
        self.ek = forge_ek(ek) if isinstance(ek, str) else ek
        self.ak = ak or forge_key()
        self.ck = ck or forge_ck()
        self.clock: dict[str, int] = {}  # what it says of its boots: clock, reset_count, restart_count, safe

    def activate(
        self,
        credential_blob: bytes,
        encrypted_secret: bytes,
        *,
        ek: ForgedKey | None = None,
        ak_name: bytes | None = None,
    ) -> bytes:
        """TPM2_ActivateCredential over a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET (Part 3, section 12.5).

        Raises ForgerRefused as a TPM answers TPM_RC_INTEGRITY or TPM_RC_VALUE.
        """
        ek, name = ek or self.ek, ak_name or self.ak.name
        seed = _recover_seed(ek, _content(encrypted_secret))
        blob = _content(credential_blob)
        (size,) = struct.unpack_from(">H", blob)
        integrity, encrypted = blob[2 : 2 + size], blob[2 + size :]
        hmac_key = _kdf_a(ek.name_alg, seed, b"INTEGRITY", b"", _size(ek.name_alg) * 8)
        if not hmac.compare_digest(hmac.digest(hmac_key, encrypted + name, _HASH_NAMES[ek.name_alg]), integrity):
            raise ForgerRefused("TPM_RC_INTEGRITY")
        bits = 128 if ek.name_alg == SHA256 else 256
        key = _kdf_a(ek.name_alg, seed, b"STORAGE", name, bits)
        return _content(Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor().update(encrypted))

    def quote(
        self,
        qualifying_data: bytes,
        pcrs: Mapping[str, Mapping[int, bytes]],
        *,
        type: int = QUOTE,
        selection: Sequence[tuple[int, bytes]] | None = None,
        digest: bytes | None = None,
        signer: ForgedKey | None = None,
        **lies: Any,
    ) -> Attestation:
        """TPM2_Quote over these PCR values, bank by bank in their order (Part 3, section 18.4).

        `selection` overrides the TPML_PCR_SELECTION by (hash id, bitmap octets) pairs; `lies` as for write_attest, and
        `signature`, `scheme` as for attestation signatures.
        """
        signer = signer or self.ak
        hash_name = _HASH_NAMES[signer.scheme[1]]
        if selection is None:
            selection = [
                (_HASH_IDS[bank], sum(1 << i for i in values).to_bytes(3, "little")) for bank, values in pcrs.items()
            ]
        if digest is None:
            values = [values[i] for values in pcrs.values() for i in sorted(values)]
            digest = hashlib.new(hash_name, b"".join(values)).digest()
        attested = struct.pack(">I", len(selection))
        attested += b"".join(struct.pack(">HB", alg, len(bitmap)) + bitmap for alg, bitmap in selection)
        return self._attest(qualifying_data, attested + tpm2b(digest), type, signer, lies)

    def certify(
        self,
        qualifying_data: bytes,
        *,
        type: int = CERTIFY,
        name: bytes | None = None,
        signer: ForgedKey | None = None,
        **lies: Any,
    ) -> Attestation:
        """TPM2_Certify of the credential key by the AK (Part 3, section 18.2); `lies` as for quote."""
        qualified_name = struct.pack(">H", SHA256) + hashlib.sha256(b"parent" + self.ck.name).digest()
        attested = tpm2b(self.ck.name if name is None else name) + tpm2b(qualified_name)
        return self._attest(qualifying_data, attested, type, signer or self.ak, lies)

    def identify(
        self, iak: ForgedKey, qualifying_data: bytes, *, hierarchy: int = 0x4000000B, **lies: Any
    ) -> Attestation:
        """TPM2_Certify of the AK by an identity key; the TPM says of which hierarchy that is (Part 1, section 16)."""
        parent = struct.pack(">I", hierarchy)
        signer = struct.pack(">H", iak.name_alg) + _digest(iak.name_alg, parent + iak.name)
        return self.certify(
            qualifying_data, **{"name": self.ak.name, "signer": iak, "qualified_signer": signer, **lies}
        )

    def _attest(
        self, qualifying_data: bytes, attested: bytes, type: int, signer: ForgedKey, lies: dict[str, Any]
    ) -> Attestation:
        scheme = lies.pop("scheme", None)
        signature = lies.pop("signature", None)
        attest = write_attest(
            **{"type": type, "extra_data": qualifying_data, "attested": attested, **self.clock, **lies}
        )
        return Attestation(attest, signer.sign(attest, scheme=scheme) if signature is None else signature)


def write_attest(
    *,
    type: int,
    extra_data: bytes,
    attested: bytes,
    magic: int = MAGIC,
    qualified_signer: bytes = struct.pack(">H", SHA256) + bytes(32),
    clock: int = 123_456,
    reset_count: int = 7,
    restart_count: int = 3,
    safe: int = 1,
    firmware_version: int = 0x2016_0511_0016_2800,
    trailing: bytes = b"",
) -> bytes:
    """A TPMS_ATTEST (Part 2, section 10.12.12)."""
    return (
        struct.pack(">IH", magic, type)
        + tpm2b(qualified_signer)
        + tpm2b(extra_data)
        + struct.pack(">QIIBQ", clock, reset_count, restart_count, safe, firmware_version)
        + attested
        + trailing
    )


# ---- What a TPM does inside -------------------------------------------------------------------------------------


def _recover_seed(ek: ForgedKey, secret: bytes) -> bytes:
    """Part 1, annexes B.10.4 (RSA) and C.6.4 (ECC)."""
    algorithm = _HASH_CLASSES[ek.name_alg]()
    if isinstance(ek.private, rsa.RSAPrivateKey):
        oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, b"IDENTITY\0")
        try:
            return ek.private.decrypt(secret, oaep)
        except ValueError:
            raise ForgerRefused("TPM_RC_VALUE") from None
    (x_size,) = struct.unpack_from(">H", secret)
    x, y = secret[2 : 2 + x_size], _content(secret[2 + x_size :])
    ephemeral = ec.EllipticCurvePublicKey.from_encoded_point(ek.private.curve, b"\x04" + x + y)
    z = ek.private.exchange(ec.ECDH(), ephemeral)
    own_x = ek.private.public_key().public_numbers().x.to_bytes(len(x), "big")
    # KDFe (section 11.4.10.3), one round: the seed is as long as the digest.
    return _digest(ek.name_alg, struct.pack(">I", 1) + z + b"IDENTITY\0" + x + own_x)


def _kdf_a(alg: int, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Part 1, section 11.4.10.2."""
    derived = b""
    counter = 0
    while len(derived) * 8 < bits:
        counter += 1
        message = struct.pack(">I", counter) + label + b"\0" + context + struct.pack(">I", bits)
        derived += hmac.digest(key, message, _HASH_NAMES[alg])
    return derived[: bits // 8]


def _content(sized: bytes) -> bytes:
    (size,) = struct.unpack_from(">H", sized)
    if len(sized) != 2 + size:
        raise ForgerRefused("TPM_RC_SIZE")
    return sized[2:]


def _digest(alg: int, data: bytes) -> bytes:
    return hashlib.new(_HASH_NAMES.get(alg, "sha256"), data).digest()


def _size(alg: int) -> int:
    return hashlib.new(_HASH_NAMES[alg]).digest_size
