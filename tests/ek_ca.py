"""A TPM maker for tests: root, intermediates and EK certificates, in which any one field can lie.

The certificates are written octet by octet with a DER writer of their own, so that the tests do not depend on the
parsers that they test, and so that rules can be broken which no library would break.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
START = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2040, 1, 1, tzinfo=UTC)

EK_PURPOSE = "2.23.133.8.1"
AIK_PURPOSE = "2.23.133.8.3"


# ---- A DER writer -----------------------------------------------------------------------------------------------


def der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def seq(*contents: bytes) -> bytes:
    return der(0x30, *contents)


def integer(value: int) -> bytes:
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = b""
    for arc in (40 * first + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        content += bytes(reversed(septets))
    return der(0x06, content)


def boolean(value: bool) -> bytes:
    return der(0x01, b"\xff" if value else b"\x00")


def bits(octets: bytes, unused: int = 0) -> bytes:
    return der(0x03, bytes([unused]), octets)


def utf8(text: str) -> bytes:
    return der(0x0C, text.encode())


def printable(text: str) -> bytes:
    return der(0x13, text.encode("ascii"))


def attribute(kind: str, value: str, write: Any = utf8) -> bytes:
    return seq(oid(kind), write(value))


def name(common_name: str, organization: str = "Test Maker") -> bytes:
    return seq(der(0x31, attribute("2.5.4.10", organization)), der(0x31, attribute("2.5.4.3", common_name)))


EMPTY_NAME = seq()


def time(moment: datetime) -> bytes:
    if 1950 <= moment.year < 2050:
        return der(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())
    return der(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


@dataclass(frozen=True)
class Extension:
    """`critical` None leaves the flag out, as DER wants it for false."""

    kind: str
    value: bytes
    critical: bool | None = None

    def encode(self) -> bytes:
        flag = b"" if self.critical is None else boolean(self.critical)
        return seq(oid(self.kind), flag, der(0x04, self.value))


def basic_constraints(ca: bool, path_length: int | None = None, *, critical: bool | None = True) -> Extension:
    inner = (boolean(True) if ca else b"") + (b"" if path_length is None else integer(path_length))
    return Extension("2.5.29.19", seq(inner), critical)


_USAGE_BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def key_usage(*usages: str) -> Extension:
    octet = sum(0x80 >> _USAGE_BITS.index(usage) for usage in usages)
    unused = (octet & -octet).bit_length() - 1 if octet else 0
    return Extension("2.5.29.15", bits(bytes([octet]), unused), True)


def purposes(*dotted: str, critical: bool | None = None) -> Extension:
    return Extension("2.5.29.37", seq(*map(oid, dotted)), critical)


TPM_RESIDENCY, TPM_FIXED, TPM_RESTRICTED = (f"2.23.133.11.1.{n}" for n in (1, 2, 3))


def policies(*dotted: str, critical: bool | None = None) -> Extension:
    return Extension("2.5.29.32", seq(*(seq(oid(each)) for each in dotted)), critical)


def hardware_module(
    serial: bytes = b"49465800:0123456789abcdef:4d5", *, kind: str = "2.23.133.1.2", type_id: str = "1.3.6.1.5.5.7.8.4"
) -> bytes:
    """A GeneralName: otherName with a HardwareModuleName (RFC 4108, section 5)."""
    return der(0xA0, oid(type_id), der(0xA0, seq(oid(kind), der(0x04, serial))))


def other_names(*names: bytes, critical: bool | None = None) -> Extension:
    """A subject alternative name of these GeneralNames."""
    return Extension("2.5.29.17", seq(*names), critical)


def subject_key_id(key: PublicKey) -> bytes:
    return hashlib.sha1(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def subject_key(identifier: bytes) -> Extension:
    return Extension("2.5.29.14", der(0x04, identifier))


def authority_key(identifier: bytes) -> Extension:
    return Extension("2.5.29.35", seq(der(0x80, identifier)))


def tpm_attributes(
    manufacturer: str | None = "id:49465800",
    model: str | None = "SLB 9670",
    version: str | None = "id:00070055",
    *,
    write: Any = utf8,
    one_set: bool = False,
) -> bytes:
    """A directoryName's Name with the TPM's attributes."""
    given = (("2.23.133.2.1", manufacturer), ("2.23.133.2.2", model), ("2.23.133.2.3", version))
    encoded = [attribute(kind, value, write) for kind, value in given if value is not None]
    if one_set:
        return seq(der(0x31, *sorted(encoded)))
    return seq(*(der(0x31, item) for item in encoded))


def alternative_name(*names: bytes, critical: bool | None = True) -> Extension:
    """Each name is a Name, written as a directoryName."""
    return Extension("2.5.29.17", seq(*(der(0xA4, item) for item in names)), critical)


# ---- Keys, made once for a test run -----------------------------------------------------------------------------


@cache
def rsa_key(label: str = "", size: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, size)


@cache
def ec_key(label: str = "", curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


def spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def oaep_spki(key: rsa.RSAPublicKey) -> bytes:
    """The same RSA key under id-RSAES-OAEP with its default parameters (RFC 4055, section 4.1)."""
    inner = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return seq(seq(oid("1.2.840.113549.1.1.7"), seq()), bits(inner))


_SHA = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_RSA_OIDS = {"sha1": 5, "sha256": 11, "sha384": 12, "sha512": 13}
_ECDSA_OIDS = {"sha1": "1.2.840.10045.4.1"} | {
    f"sha{n}": f"1.2.840.10045.4.3.{i}" for i, n in enumerate((256, 384, 512), 2)
}
NULL = der(0x05)


def algorithm_id(key: PrivateKey, digest: str, *, ecdsa_null: bool = False) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return seq(oid(f"1.2.840.113549.1.1.{_RSA_OIDS[digest]}"), NULL)
    return seq(oid(_ECDSA_OIDS[digest]), NULL if ecdsa_null else b"")


def sign(key: PrivateKey, data: bytes, digest: str) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), _SHA[digest])
    return key.sign(data, ec.ECDSA(_SHA[digest]))


# ---- Certificates -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A certificate before it is signed. Change any field with `but`; the lie is then signed like the truth."""

    subject: bytes
    issuer: bytes
    spki: bytes
    extensions: tuple[Extension, ...]
    serial: bytes = field(default_factory=lambda: integer(0x1234567890))
    not_before: datetime = START
    not_after: datetime = END
    version: bytes = field(default_factory=lambda: der(0xA0, integer(2)))
    digest: str = "sha256"
    ecdsa_null: bool = False
    algorithm: bytes | None = None
    outer_algorithm: bytes | None = None

    def but(self, **lies: Any) -> Form:
        return replace(self, **lies)

    def with_extension(self, *others: Extension) -> Form:
        """With these extensions in the place of those of their kind, or added."""
        kinds = {other.kind for other in others}
        kept = tuple(item for item in self.extensions if item.kind not in kinds)
        return replace(self, extensions=(*kept, *others))

    def without(self, kind: str) -> Form:
        return replace(self, extensions=tuple(item for item in self.extensions if item.kind != kind))

    def sign(self, key: PrivateKey, *, spoil: bool = False) -> bytes:
        algorithm = self.algorithm or algorithm_id(key, self.digest, ecdsa_null=self.ecdsa_null)
        tbs = seq(
            self.version,
            self.serial,
            algorithm,
            self.issuer,
            seq(time(self.not_before), time(self.not_after)),
            self.subject,
            self.spki,
            der(0xA3, seq(*(item.encode() for item in self.extensions))) if self.extensions else b"",
        )
        signature = sign(key, tbs + b"!" if spoil else tbs, self.digest)
        return seq(tbs, self.outer_algorithm or algorithm, bits(signature))


@dataclass(frozen=True)
class MakerCa:
    """A CA of a TPM maker: its key, name and certificate."""

    common_name: str
    key: PrivateKey
    certificate: bytes = b""

    @property
    def name(self) -> bytes:
        return name(self.common_name)

    def form(self, issuer: MakerCa, *, path_length: int | None = None) -> Form:
        """This CA's certificate, to be signed by `issuer`."""
        public = self.key.public_key()
        return Form(
            subject=self.name,
            issuer=issuer.name,
            spki=spki(public),
            extensions=(
                basic_constraints(True, path_length),
                key_usage("key_cert_sign", "crl_sign"),
                subject_key(subject_key_id(public)),
                authority_key(subject_key_id(issuer.key.public_key())),
            ),
        )

    def certified_by(self, issuer: MakerCa, form: Form | None = None, **lies: Any) -> MakerCa:
        return replace(self, certificate=(form or self.form(issuer)).but(**lies).sign(issuer.key))

    def self_signed(self, form: Form | None = None, **lies: Any) -> MakerCa:
        return self.certified_by(self, form, **lies)

    def ek_form(self, key: PublicKey) -> Form:
        """An EK certificate as the TCG's profile has it: an empty subject, a critical SAN."""
        usage = "key_encipherment" if isinstance(key, rsa.RSAPublicKey) else "key_agreement"
        return Form(
            subject=EMPTY_NAME,
            issuer=self.name,
            spki=spki(key),
            extensions=(
                alternative_name(tpm_attributes()),
                basic_constraints(False),
                key_usage(usage),
                purposes(EK_PURPOSE),
                authority_key(subject_key_id(self.key.public_key())),
            ),
        )

    def iak_form(self, key: PublicKey) -> Form:
        """An IAK's certificate by the TCG's specification of device identities, section 8."""
        return Form(
            subject=name("machine 1"),
            issuer=self.name,
            spki=spki(key),
            extensions=(
                other_names(hardware_module()),
                basic_constraints(False),
                key_usage("digital_signature"),
                policies(TPM_RESIDENCY, TPM_RESTRICTED),
                authority_key(subject_key_id(self.key.public_key())),
            ),
        )

    def ek_certificate(self, key: PublicKey, **lies: Any) -> bytes:
        return self.ek_form(key).but(**lies).sign(self.key)


@dataclass(frozen=True)
class Maker:
    """A maker with a root and one intermediate that certifies EKs."""

    root: MakerCa
    intermediate: MakerCa

    @property
    def roots(self) -> list[bytes]:
        return [self.root.certificate]

    def chain(self, leaf: bytes) -> list[bytes]:
        """What a device sends: the EK's certificate, then the intermediate."""
        return [leaf, self.intermediate.certificate]


@cache
def maker(label: str = "Maker", *, kind: str = "ec") -> Maker:
    """The same honest maker for the whole test run; `kind` "rsa" gives RSA CAs."""
    make: Any = ec_key if kind == "ec" else rsa_key
    root = MakerCa(f"{label} Root", make(f"{label} root")).self_signed()
    intermediate = MakerCa(f"{label} Intermediate", make(f"{label} intermediate"))
    return Maker(root, intermediate.certified_by(root, intermediate.form(root, path_length=0)))


def line_of_cas(count: int, *, label: str = "Line") -> Sequence[MakerCa]:
    """A root and `count - 1` CAs below it, each certified by the one before."""
    cas = [MakerCa(f"{label} 0", ec_key(f"{label} 0")).self_signed()]
    for number in range(1, count):
        cas.append(MakerCa(f"{label} {number}", ec_key(f"{label} {number}")).certified_by(cas[-1]))
    return cas


# ---- EK public areas (TCG EK Credential Profile, annex B: templates L-1, L-2, H-3 and H-6) ------------------------

_POLICY_A = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_POLICY_B_384 = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)


def ek_area(key: PublicKey) -> bytes:
    """The TPMT_PUBLIC of an EK with this key."""
    big = key.key_size in (384, 3072)
    attributes, policy = (0x000300F2, _POLICY_B_384) if big else (0x000300B2, _POLICY_A)
    kind = 0x0001 if isinstance(key, rsa.RSAPublicKey) else 0x0023
    head = struct.pack(">HHI", kind, 0x000C if big else 0x000B, attributes) + _sized(policy)
    head += struct.pack(">HHH", 0x0006, 256 if big else 128, 0x0043)
    if isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers().n.to_bytes(key.key_size // 8, "big")
        return head + struct.pack(">HHI", 0x0010, key.key_size, 0) + _sized(modulus)
    size = key.key_size // 8
    point = key.public_numbers()
    curve = {256: 3, 384: 4}[key.key_size]
    x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
    return head + struct.pack(">HHH", 0x0010, curve, 0x0010) + _sized(x) + _sized(y)


def _sized(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content
