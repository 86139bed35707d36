"""Public areas and signatures: `TPMT_PUBLIC` and `TPMT_SIGNATURE`, parsed whole or refused.

TPM 2.0 Library, Part 2: Structures, revision 1.59: sections 8.3 (TPMA_OBJECT), 11.1.7 (TPMT_SYM_DEF_OBJECT), 11.2
(asymmetric parameters), 11.3 (signatures) and 12.2 (public areas); Part 1, section 16 (Names).

What is parsed here (and in `statements`, and in the protocol's messages) is a NamedTuple: read-only like a frozen
dataclass, and made in a tenth of its time, which counts for what every request makes a dozen of.

Read here is what a fleet's EKs, AKs and credential keys are made of: RSA and NIST curves, SHA-1 and SHA-2. Which of
these is good enough for which key is for `activation`, `attest` and `ektemplates` to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestd.tpm.wire import MalformedTpmStructure, Reader


class UnknownTpmAlgorithm(MalformedTpmStructure):
    """A TPM structure names an algorithm that attestd does not read"""

    remedy = "Use RSA or a NIST curve, with SHA-2."


class ReservedBitsSet(MalformedTpmStructure):
    """A key's attributes have bits that the specification reserves"""


class UnusableTpmKey(MalformedTpmStructure):
    """A public area does not hold a valid public key"""

    remedy = "Send the public area as the TPM returned it; a real TPM makes no such key."


class Alg(IntEnum):
    """TPM_ALG_ID (Part 2, section 6.3), as far as it is used here."""

    RSA = 0x0001
    SHA1 = 0x0004
    AES = 0x0006
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    SM4 = 0x0013
    RSASSA = 0x0014
    RSAES = 0x0015
    RSAPSS = 0x0016
    OAEP = 0x0017
    ECDSA = 0x0018
    ECDH = 0x0019
    ECDAA = 0x001A
    SM2 = 0x001B
    ECSCHNORR = 0x001C
    ECMQV = 0x001D
    KDF1_SP800_56A = 0x0020
    KDF2 = 0x0021
    KDF1_SP800_108 = 0x0022
    ECC = 0x0023
    CAMELLIA = 0x0026
    CFB = 0x0043


class Attributes(IntFlag):
    """TPMA_OBJECT (Part 2, section 8.3.2). The two `…LIMITED` bits came with revision 1.83."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    FIRMWARE_LIMITED = 1 << 8
    SVN_LIMITED = 1 << 9
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


_RESERVED = 0xFFFFFFFF & ~sum(Attributes)


@dataclass(frozen=True, slots=True)
class Hash:
    """A hash algorithm in its three spellings: the TPM's, hashlib's and cryptography's. There is one of each kind."""

    alg: Alg
    name: str
    size: int
    algorithm: hashes.HashAlgorithm = field(compare=False)
    begin: Callable[[bytes], Any] = field(compare=False, repr=False)

    def digest(self, data: bytes) -> bytes:
        found: bytes = self.begin(data).digest()
        return found


HASHES = {
    # SHA-1: Names and banks of old objects; never trusted.
    Alg.SHA1: Hash(Alg.SHA1, "sha1", 20, hashes.SHA1(), hashlib.sha1),  # noqa: S303
    Alg.SHA256: Hash(Alg.SHA256, "sha256", 32, hashes.SHA256(), hashlib.sha256),
    Alg.SHA384: Hash(Alg.SHA384, "sha384", 48, hashes.SHA384(), hashlib.sha384),
    Alg.SHA512: Hash(Alg.SHA512, "sha512", 64, hashes.SHA512(), hashlib.sha512),
}
_HASH_BY_ID: dict[int, Hash] = {int(alg): found for alg, found in HASHES.items()}

# TPM_ECC_CURVE (Part 2, section 6.4) -> curve and the octets of a coordinate.
CURVES: dict[int, ec.EllipticCurve] = {0x0003: ec.SECP256R1(), 0x0004: ec.SECP384R1(), 0x0005: ec.SECP521R1()}
P256, P384, P521 = 0x0003, 0x0004, 0x0005

_RSA_BITS = (1024, 2048, 3072, 4096)
_MAX_NAME = 2 + 64  # TPMU_NAME: nameAlg and its digest (Part 2, section 10.5)
_DEFAULT_EXPONENT = 65537  # what zero stands for (Part 2, section 12.2.3.5)

# Looked up once: on the class of an enumeration, that is a function call each time.
_RSA, _RSAES, _ECDSA, _ECDAA, _NULL = Alg.RSA, Alg.RSAES, Alg.ECDSA, Alg.ECDAA, Alg.NULL
_KINDS = {int(alg): alg for alg in (Alg.RSA, Alg.ECC)}
_SYMMETRIC = {int(alg): alg for alg in (Alg.AES, Alg.SM4, Alg.CAMELLIA)}
# Schemes that carry a hash, that carry nothing, and what each key type allows (Part 2, sections 11.2.4.2 and 11.2.5.6).
_RSA_SCHEMES = {int(alg): alg for alg in (Alg.RSASSA, Alg.RSAPSS, Alg.OAEP, Alg.RSAES)}
_ECC_SCHEMES = {int(alg): alg for alg in (Alg.ECDSA, Alg.ECDH, Alg.ECDAA, Alg.SM2, Alg.ECSCHNORR, Alg.ECMQV)}
_SIGNATURES = {int(alg): alg for alg in (Alg.ECDSA, Alg.RSASSA, Alg.RSAPSS)}
_KDFS = {int(alg): alg for alg in (Alg.KDF1_SP800_56A, Alg.KDF2, Alg.KDF1_SP800_108)}

_HEAD = Struct(">HHIH")  # type, nameAlg, objectAttributes and authPolicy's size (Part 2, section 12.2.4)
_RSA_SIZES = Struct(">HI")  # keyBits and exponent (Part 2, section 12.2.3.5)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


def read_hash(reader: Reader, what: str) -> Hash:
    """A TPMI_ALG_HASH without the NULL option."""
    return _hash_of(reader.u16(), what)


def _hash_of(seen: int, what: str) -> Hash:
    found = _HASH_BY_ID.get(seen)
    if found is None:
        raise UnknownTpmAlgorithm(f"The {what} is unknown.", seen=f"0x{seen:04x}", expected="SHA-1 or SHA-2")
    return found


def read_name(reader: Reader) -> bytes:
    """A TPM2B_NAME's content: empty, a handle, or nameAlg and digest. Compared with a computed Name, never trusted."""
    return reader.sized(_MAX_NAME)


class Symmetric(NamedTuple):
    """TPMT_SYM_DEF_OBJECT (Part 2, section 11.1.7)."""

    alg: Alg
    bits: int
    mode: int


class TpmPublic(NamedTuple):
    """One TPMT_PUBLIC, every octet read, and the public key in it proven to be a key of its kind.

    `area` is the structure's exact octets; `name` is computed from them (Part 1, section 16: nameAlg ‖ H(area)).
    `attributes` are the bits of `Attributes` as a number: flags are ten times as slow to compare. `curve` is 0 for RSA
    keys, `bits` the modulus size or the curve's; `exponent` is 0 for ECC keys.
    """

    area: bytes
    type: Alg
    name_alg: Hash
    attributes: int
    auth_policy: bytes
    symmetric: Symmetric | None
    scheme: Alg
    scheme_hash: Hash | None
    bits: int
    curve: int
    exponent: int
    unique: bytes
    name: bytes
    key: PublicKey

    def __repr__(self) -> str:
        """Without the octets that make it this key."""
        return f"TpmPublic({self.type.name} {self.bits}, {self.signs_by}, attributes 0x{self.attributes:08x})"

    @property
    def signs_by(self) -> str:
        """The scheme and its hash, for people."""
        return self.scheme.name if self.scheme_hash is None else f"{self.scheme.name} with {self.scheme_hash.name}"


@lru_cache(maxsize=1024)  # an enrollment meets each of its three keys two or three times
def parse_public(area: bytes) -> TpmPublic:
    """Reads a TPMT_PUBLIC (Part 2, section 12.2.4), without the size field of a TPM2B_PUBLIC.

    Raises MalformedTpmStructure or one of its kinds.
    """
    reader = Reader(area, "public area")
    seen, name_alg_id, attributes, policy_size = reader.unpack(_HEAD)
    kind = _KINDS.get(seen)
    if kind is None:
        raise UnknownTpmAlgorithm("This object is no asymmetric key.", seen=f"0x{seen:04x}", expected="RSA or ECC")
    name_alg = _hash_of(name_alg_id, "public area's nameAlg")
    if attributes & _RESERVED:
        raise ReservedBitsSet(seen=f"0x{attributes:08x}", expected=f"none of 0x{_RESERVED:08x}")
    if policy_size not in (0, name_alg.size):
        raise MalformedTpmStructure(
            "The public area's authPolicy is no digest of its nameAlg.",
            seen=f"{policy_size} octets",
            expected=f"0 or {name_alg.size}",
        )
    auth_policy = reader.take(policy_size)
    symmetric = _read_symmetric(reader)
    read = _read_rsa if kind is _RSA else _read_ecc
    scheme, scheme_hash, bits, curve, exponent, unique, key = read(reader)
    reader.done()
    name = area[2:4] + name_alg.digest(area)  # nameAlg ‖ H(area) (Part 1, section 16)
    return TpmPublic(
        area,
        kind,
        name_alg,
        attributes,
        auth_policy,
        symmetric,
        scheme,
        scheme_hash,
        bits,
        curve,
        exponent,
        unique,
        name,
        key,
    )


def _read_symmetric(reader: Reader) -> Symmetric | None:
    seen = reader.u16()
    if seen == _NULL:
        return None
    alg = _SYMMETRIC.get(seen)
    if alg is None:
        raise UnknownTpmAlgorithm("The key's symmetric algorithm is unknown.", seen=f"0x{seen:04x}", expected="AES")
    return Symmetric(alg, reader.u16(), reader.u16())


def _read_scheme(reader: Reader, known: dict[int, Alg]) -> tuple[Alg, Hash | None]:
    seen = reader.u16()
    if seen == _NULL:
        return _NULL, None
    scheme = known.get(seen)
    if scheme is None:
        raise UnknownTpmAlgorithm("The key's scheme is unknown.", seen=f"0x{seen:04x}")
    if scheme is _RSAES:  # the one scheme without a hash (Part 2, section 11.2.2.2)
        return scheme, None
    scheme_hash = read_hash(reader, "scheme's hash")
    if scheme is _ECDAA:
        reader.u16()  # TPMS_SCHEME_ECDAA.count (Part 2, section 11.2.1.4)
    return scheme, scheme_hash


_Details = tuple[Alg, Hash | None, int, int, int, bytes, PublicKey]


def _read_rsa(reader: Reader) -> _Details:
    """TPMS_RSA_PARMS after `symmetric`, then TPM2B_PUBLIC_KEY_RSA (Part 2, sections 12.2.3.5 and 11.2.4.5)."""
    scheme, scheme_hash = _read_scheme(reader, _RSA_SCHEMES)
    bits, stated = reader.unpack(_RSA_SIZES)
    exponent = stated or _DEFAULT_EXPONENT
    if bits not in _RSA_BITS:
        raise UnusableTpmKey("This RSA key size is unknown.", seen=f"{bits} bits", expected="1024 to 4096")
    if exponent != _DEFAULT_EXPONENT:
        raise UnusableTpmKey("This RSA exponent is not accepted.", seen=exponent, expected=_DEFAULT_EXPONENT)
    modulus = reader.sized(512)
    number = int.from_bytes(modulus, "big")
    if len(modulus) * 8 != bits or number.bit_length() != bits or not number & 1:
        raise UnusableTpmKey(
            "The modulus is not an odd number of the stated size.",
            seen=f"{number.bit_length()} bits",
            expected=f"{bits} bits",
        )
    try:
        key = rsa.RSAPublicNumbers(exponent, number).public_key()
    except ValueError as refused:  # the library's own minimum, should it rise above what is known here
        raise UnusableTpmKey(seen=refused) from None
    return scheme, scheme_hash, bits, 0, exponent, modulus, key


def _read_ecc(reader: Reader) -> _Details:
    """TPMS_ECC_PARMS after `symmetric`, then TPMS_ECC_POINT (Part 2, sections 12.2.3.6 and 11.2.5.2).

    The point is proven to lie on the curve; on a NIST curve (cofactor 1) nothing more can be wrong with it.
    """
    scheme, scheme_hash = _read_scheme(reader, _ECC_SCHEMES)
    curve_id = reader.u16()
    curve = CURVES.get(curve_id)
    if curve is None:
        raise UnknownTpmAlgorithm(
            "This curve is unknown.", seen=f"0x{curve_id:04x}", expected="NIST P-256, P-384 or P-521"
        )
    if (kdf := reader.u16()) != _NULL:
        if kdf not in _KDFS:
            raise UnknownTpmAlgorithm("The key's derivation function is unknown.", seen=f"0x{kdf:04x}")
        read_hash(reader, "derivation function's hash")
    size = coordinate_size(curve)
    x, y = reader.sized(size), reader.sized(size)
    # Some TPMs strip leading zeros; Part 1, annex C.8 pads coordinates to the size of the field.
    unique = x.rjust(size, b"\0") + y.rjust(size, b"\0")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + unique)
    except ValueError:
        raise UnusableTpmKey(f"The point is not on {curve.name}.") from None
    return scheme, scheme_hash, curve.key_size, curve_id, 0, unique, key


def coordinate_size(curve: ec.EllipticCurve) -> int:
    """Octets of one coordinate of a point on this curve."""
    return (curve.key_size + 7) // 8


class TpmSignature(NamedTuple):
    """One TPMT_SIGNATURE. `value` is the RSA signature's octets; `r` and `s` are an ECDSA signature's numbers."""

    scheme: Alg
    hash: Hash
    value: bytes = b""
    r: int = 0
    s: int = 0


def parse_signature(data: bytes) -> TpmSignature:
    """Reads a TPMT_SIGNATURE (Part 2, section 11.3.4) by RSASSA, RSAPSS or ECDSA.

    Raises MalformedTpmStructure or one of its kinds.
    """
    reader = Reader(data, "signature")
    seen = reader.u16()
    scheme = _SIGNATURES.get(seen)
    if scheme is None:
        raise UnknownTpmAlgorithm(
            "The signature's scheme is unknown.", seen=f"0x{seen:04x}", expected="ECDSA, RSASSA or RSAPSS"
        )
    digest = read_hash(reader, "signature's hash")
    if scheme is _ECDSA:
        r, s = reader.sized(66), reader.sized(66)
        found = TpmSignature(scheme, digest, b"", int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    else:
        found = TpmSignature(scheme, digest, reader.sized(512))
    reader.done()
    return found
