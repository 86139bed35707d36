"""An IMA list writer for tests: what a kernel writes for each template, in binary and as text, and what it extends.

Written from Linux' own sources (security/integrity/ima/ima_fs.c, ima_template_lib.c, ima_queue.c, ima_crypto.c; 6.10)
and without the code that it tests, so that any one octet can lie.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.statements import ClockInfo

SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
NUMBERS = {"md5": 1, "sha1": 2, "sha256": 4, "sha384": 5, "sha512": 6, "sha224": 7, "sha3-256": 20}


def digest_of(data: bytes, algorithm: str = "sha256") -> bytes:
    return hashlib.new(algorithm.replace("-", "_"), data).digest()


@dataclass(frozen=True)
class Item:
    """One entry: its fields as (what the binary list has, what the text list shows)."""

    template: str
    fields: tuple[tuple[bytes, str], ...]
    pcr: int = 10
    violation: bool = False
    lies: dict[str, bytes] = field(default_factory=dict)  # "digest": another template digest

    def data(self, order: str = "<") -> bytes:
        """What the template digest is over."""
        if self.template == "ima":
            digest, name = self.fields
            return digest[0] + name[0].ljust(256, b"\0")
        return b"".join(struct.pack(f"{order}I", len(octets)) + octets for octets, _ in self.fields)

    def digest(self, algorithm: str = "sha1", order: str = "<") -> bytes:
        if self.violation:
            return bytes(SIZES[algorithm])
        return self.lies.get("digest", hashlib.new(algorithm, self.data(order)).digest())

    def binary(self, order: str = "<", algorithm: str = "sha1") -> bytes:
        name = self.template.encode()
        head = struct.pack(f"{order}I", self.pcr) + self.digest(algorithm, order)
        head += struct.pack(f"{order}I", len(name)) + name
        if self.template == "ima":
            digest, path = self.fields
            return head + digest[0] + struct.pack(f"{order}I", len(path[0])) + path[0]
        data = self.data(order)
        return head + struct.pack(f"{order}I", len(data)) + data

    def text(self, order: str = "<", algorithm: str = "sha1") -> str:
        shown = " ".join(text for _, text in self.fields)
        return f"{self.pcr:2} {self.digest(algorithm, order).hex()} {self.template} {shown}\n"

    def measured(self, bank: str, *, padded: bool = False, order: str = "<") -> bytes:
        """What the kernel extends into this bank."""
        by = "sha1" if padded else bank
        what = b"\xff" * SIZES[by] if self.violation else hashlib.new(by, self.data(order)).digest()
        return what.ljust(SIZES[bank], b"\0")


# ---- Fields, and the templates made of them ---------------------------------------------------------------------


def d_ng(digest: bytes, algorithm: str = "sha256", kind: str = "") -> tuple[bytes, str]:
    label = f"{kind}:{algorithm}" if kind else algorithm
    return f"{label}:\0".encode() + digest, f"{label}:{digest.hex()}"


def n_ng(path: str | bytes) -> tuple[bytes, str]:
    octets = path if isinstance(path, bytes) else path.encode()
    octets = octets.replace(b" ", b"_")
    return octets + b"\0", octets.decode("latin-1")


def hexed(octets: bytes) -> tuple[bytes, str]:
    return octets, octets.hex()


def old(path: str, content: bytes = b"content", **more: Any) -> Item:
    """The template `ima`: a SHA-1 digest and a name, without lengths."""
    digest = digest_of(content, "sha1")
    return Item("ima", ((digest, digest.hex()), (path.encode(), path)), **more)


def ng(path: str | bytes, content: bytes = b"content", algorithm: str = "sha256", **more: Any) -> Item:
    return Item("ima-ng", (d_ng(digest_of(content, algorithm), algorithm), n_ng(path)), **more)


def ngv2(path: str, content: bytes = b"content", kind: str = "ima", algorithm: str = "sha256", **more: Any) -> Item:
    return Item("ima-ngv2", (d_ng(digest_of(content, algorithm), algorithm, kind), n_ng(path)), **more)


def sig(path: str, content: bytes = b"content", signature: bytes = b"", **more: Any) -> Item:
    return replace(
        ng(path, content, **more), template="ima-sig", fields=(*ng(path, content, **more).fields, hexed(signature))
    )


def sigv2(path: str, content: bytes, signature: bytes, kind: str = "verity", algorithm: str = "sha256") -> Item:
    return Item("ima-sigv2", (d_ng(digest_of(content, algorithm), algorithm, kind), n_ng(path), hexed(signature)))


def buf(name: str, buffer: bytes, algorithm: str = "sha256", **more: Any) -> Item:
    return Item("ima-buf", (d_ng(digest_of(buffer, algorithm), algorithm), n_ng(name), hexed(buffer)), **more)


def modsig(path: str, whole: bytes, content: bytes | None, cms: bytes, signature: bytes = b"") -> Item:
    appended = d_ng(digest_of(content)) if content is not None else (b"", "")
    fields = (d_ng(digest_of(whole)), n_ng(path), hexed(signature), appended, hexed(cms))
    return Item("ima-modsig", fields)


def evm_sig(path: str, content: bytes = b"content") -> Item:
    names = b"security.selinux|security.capability"
    return Item(
        "evm-sig",
        (
            d_ng(digest_of(content)),
            n_ng(path),
            hexed(b"\5\2\4signature"),
            (names + b"\0", names.decode()),
            hexed(struct.pack("<II", 5, 3)),
            hexed(b"labelcap"),
            (struct.pack("<I", 1000), "1000"),
            (struct.pack("<I", 100), "100"),
            (struct.pack("<H", 0o100755), str(0o100755)),
        ),
    )


def boot_aggregate(pcrs: Sequence[bytes] = (), algorithm: str = "sha256") -> Item:
    """The kernel's first entry: the hash of PCRs 0 to 9, or for SHA-1 of 0 to 7."""
    digest = digest_of(b"".join(pcrs or PCRS_0_TO_9[: 8 if algorithm == "sha1" else 10]), algorithm)
    return Item("ima-ng", (d_ng(digest, algorithm), n_ng("boot_aggregate")))


def violation(path: str, algorithm: str = "sha256") -> Item:
    """The kernel leaves 20 zeros for the digest, whatever the hash (ima_eventdigest_init_common)."""
    return Item(
        "ima-ng", ((f"{algorithm}:\0".encode() + bytes(20), f"{algorithm}:{'00' * 20}"), n_ng(path)), violation=True
    )


# ---- Lists ------------------------------------------------------------------------------------------------------

PCRS_0_TO_9 = [bytes([index]) * 32 for index in range(10)]


def binary(items: Iterable[Item], order: str = "<", algorithm: str = "sha1") -> bytes:
    return b"".join(item.binary(order, algorithm) for item in items)


def text(items: Iterable[Item], order: str = "<", algorithm: str = "sha1") -> bytes:
    return "".join(item.text(order, algorithm) for item in items).encode("latin-1")


def pcr10(
    items: Iterable[Item], bank: str = "sha256", *, padded: bool = False, order: str = "<", start: bytes | None = None
) -> bytes:
    value = bytes(SIZES[bank]) if start is None else start
    for item in items:
        if item.pcr == 10:
            value = hashlib.new(bank, value + item.measured(bank, padded=padded, order=order)).digest()
    return value


def quote(items: Iterable[Item], *, boot: tuple[int, int] = (7, 0), **lies: Any) -> VerifiedQuote:
    """A quote over PCRs 0 to 10 in SHA-256 after these entries."""
    pcrs = {"sha256": {**dict(enumerate(PCRS_0_TO_9)), 10: pcr10(items)}}
    return VerifiedQuote(lies.get("pcrs", pcrs), ClockInfo(1000, *boot, True), 1, b"")


# ---- Signatures of files ----------------------------------------------------------------------------------------

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_HASHES: dict[str, Any] = {
    "sha1": hashes.SHA1, "sha224": hashes.SHA224, "sha256": hashes.SHA256, "sha384": hashes.SHA384,
    "sha512": hashes.SHA512, "sha3-256": hashes.SHA3_256,
}  # fmt: skip


def key_id(key: PrivateKey) -> bytes:
    """The SHA-1 of the subjectPublicKey's bits."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        return hashlib.sha1(public.public_bytes(Encoding.DER, PublicFormat.PKCS1)).digest()
    return hashlib.sha1(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).digest()


def raw_signature(key: PrivateKey, digest: bytes, algorithm: str = "sha256") -> bytes:
    hashed = Prehashed(_HASHES[algorithm]())
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(digest, padding.PKCS1v15(), hashed)
    return key.sign(digest, ec.ECDSA(hashed))


def sign(key: PrivateKey, digest: bytes, algorithm: str = "sha256", *, version: int = 2, **lies: Any) -> bytes:
    """`security.ima` as evmctl writes it; `lies` replace parts of the header or of what is signed."""
    kind, number = lies.get("kind", 6 if version == 3 else 3), lies.get("number", NUMBERS[algorithm])
    signed = lies.get("signed", digest)
    if version == 3:
        signed = digest_of(bytes((lies.get("signed_kind", kind), number)) + signed, algorithm)
    value = raw_signature(key, signed, algorithm)
    header = struct.pack(">BBB", kind, version, number) + lies.get("key_id", key_id(key)[-4:])
    return header + struct.pack(">H", lies.get("size", len(value))) + value


def certificate(
    key: PrivateKey, name: str = "modules", *, issuer: tuple[str, PrivateKey] | None = None, serial: int = 77
) -> bytes:
    """A certificate for this key, by itself or by `issuer`."""
    by, by_key = issuer or (name, key)
    subject, issuing = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, by))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(issuing, subject, key.public_key(), serial, start, start + timedelta(days=3650))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.sign(by_key, hashes.SHA256()).public_bytes(Encoding.DER)


def pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
