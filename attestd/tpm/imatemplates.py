"""One entry of an IMA measurement list: its template, the fields of its template data, the digest of its file.

Linux 6.10, security/integrity/ima: ima_template.c (the templates and their fields), ima_template_lib.c (how each field
is written, in binary and as text), ima_crypto.c, ima_calc_field_array_hash_tfm (what a template digest is over);
include/uapi/linux/hash_info.h and crypto/hash_info.c (the hashes, their numbers and names).

"Template data" is here what the template digest is over. For every template but the oldest one these are the octets of
the binary list: each field behind its length. The oldest one, `ima`, has no lengths: a SHA-1 digest, then the name in
256 octets filled up with zeros.

Everything read here is untrusted. Nothing is copied that was not given, and the one error is `MalformedImaEntry`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final, Literal

from attestd.errors import MalformedInput

ByteOrder = Literal["little", "big"]

MAX_FIELDS = 15  # IMA_TEMPLATE_NUM_FIELDS_MAX
OLD_NAME_SIZE = 256  # IMA_EVENT_NAME_LEN_MAX and a NUL
SHA1_SIZE = 20
BOOT_AGGREGATE = b"boot_aggregate"

# The kernel's names of hashes, by the number in a signature's header, and the sizes of their digests in octets.
HASH_BY_NUMBER: Final = (
    "md4", "md5", "sha1", "rmd160", "sha256", "sha384", "sha512", "sha224", "rmd128", "rmd256", "rmd320", "wp256",
    "wp384", "wp512", "tgr128", "tgr160", "tgr192", "sm3", "streebog256", "streebog512", "sha3-256", "sha3-384",
    "sha3-512",
)  # fmt: skip
_SIZES = (16, 16, 20, 20, 32, 48, 64, 28, 16, 32, 40, 32, 48, 64, 16, 20, 24, 32, 32, 64, 32, 48, 64)
HASH_SIZES: Final = dict(zip(HASH_BY_NUMBER, _SIZES, strict=True))

TEMPLATES: Final[dict[bytes, tuple[str, ...]]] = {
    b"ima": ("d", "n"),
    b"ima-ng": ("d-ng", "n-ng"),
    b"ima-sig": ("d-ng", "n-ng", "sig"),
    b"ima-ngv2": ("d-ngv2", "n-ng"),
    b"ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    b"ima-buf": ("d-ng", "n-ng", "buf"),
    b"ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    b"evm-sig": (
        "d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode",
    ),
}  # fmt: skip
_FIELDS: Final = frozenset(field for fields in TEMPLATES.values() for field in fields)
_NUMBERS: Final = {"iuid": 4, "igid": 4, "imode": 2}  # octets
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*+")
U32: Final[dict[ByteOrder, Struct]] = {"little": Struct("<I"), "big": Struct(">I")}


class MalformedImaEntry(MalformedInput):
    """An entry of an IMA list can't be read"""

    remedy = "Send the kernel's list as it is: /sys/kernel/security/ima/binary_runtime_measurements."


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file's digest and what it is over: the file's data (`ima`), or its fs-verity descriptor (`verity`).

    Raises MalformedImaEntry unless the hash is one of the kernel's and the value has its size.
    """

    algorithm: str
    value: bytes
    kind: str = "ima"

    def __post_init__(self) -> None:
        if len(self.value) != (size := HASH_SIZES.get(self.algorithm)):
            raise MalformedImaEntry(
                "A digest is by a hash that the kernel has not, or has not its size.",
                seen=f"{len(self.value)} octets by {self.algorithm[:40]!r}",
                expected=size,
            )
        if self.kind not in _KINDS:
            raise MalformedImaEntry(
                "A digest is of an unknown kind.", seen=self.kind[:40], expected=" or ".join(_KINDS)
            )

    @classmethod
    def parse(cls, text: str) -> FileDigest:
        """`sha256:<hex>` or `verity:sha256:<hex>`, as text lists and policies have it. Raises MalformedImaEntry."""
        head, _, digits = text.rpartition(":")
        kind, _, algorithm = head.rpartition(":")
        return cls(algorithm, _unhex(digits), kind or "ima")

    @property
    def text(self) -> str:
        """As `parse` takes it; a digest of the file's data goes without its kind."""
        head = "" if self.kind == "ima" else f"{self.kind}:"
        return f"{head}{self.algorithm}:{self.value.hex()}"

    @property
    def field(self) -> bytes:
        """As the field `d-ng` has it, or `d-ngv2` for an fs-verity digest: one spelling for each digest."""
        head = "" if self.kind == "ima" else f"{self.kind}:"
        return f"{head}{self.algorithm}:\0".encode() + self.value


_KINDS = ("ima", "verity")


@dataclass(frozen=True, slots=True)
class ImaEvent:
    """What an entry says. Of fields that its template lacks, and of those that nobody uses here, nothing is kept."""

    digest: FileDigest
    name: bytes  # a path as the kernel wrote it (its spaces are underscores), or what the buffer is
    signature: bytes = b""  # security.ima, as it stood in the file's attributes
    buffer: bytes | None = None  # of a measured buffer: its octets
    modsig_digest: FileDigest | None = None  # of the file without its appended signature
    modsig: bytes = b""  # the appended signature, CMS SignedData in DER


@lru_cache(maxsize=64)
def fields_of(template: bytes) -> tuple[str, ...] | None:
    """The fields of a template by its name, or by its format as custom templates are named; None if there is no such.

    `ima_template_fmt=` on the kernel's command line makes a template without a name, whose format stands for it.
    """
    if template in TEMPLATES:
        return TEMPLATES[template]
    fields = tuple(template.decode("latin-1").split("|"))
    return fields if len(fields) <= MAX_FIELDS and all(field in _FIELDS for field in fields) else None


def known_fields(template: bytes) -> tuple[str, ...]:
    """As `fields_of`. Raises MalformedImaEntry for an unknown template."""
    fields = fields_of(template)
    if fields is None:
        raise MalformedImaEntry(
            "An entry's template is not known.",
            seen=repr(template[:40].decode("latin-1")),
            expected=", ".join(name.decode() for name in TEMPLATES),
        )
    return fields


def read_event(template: bytes, data: bytes, order: ByteOrder = "little") -> ImaEvent:
    """What this template data says, to its last octet. Raises MalformedImaEntry."""
    if template == b"ima":
        return _read_old(data)
    found: dict[str, bytes] = {}
    u32, at, end = U32[order], 0, len(data)
    for field in known_fields(template):
        if at + 4 > end:
            raise MalformedImaEntry("An entry's template data ends too early.", seen=f"{end} octets")
        (size,) = u32.unpack_from(data, at)
        at += 4
        found[field] = data[at : at + size]
        at += size
    if at != end:
        raise MalformedImaEntry("An entry's fields end elsewhere than its data.", seen=f"{at} octets", expected=end)
    digest = _read_digest(found)
    name = found.get("n-ng", found.get("n"))
    if name is None or digest is None:
        raise MalformedImaEntry("An entry names no file, or no digest of it.", seen=template[:80].decode("latin-1"))
    return ImaEvent(
        digest,
        _read_name(name),
        found.get("sig", b""),
        found.get("buf"),
        _read_labelled(found["d-modsig"]) if found.get("d-modsig") else None,
        found.get("modsig", b""),
    )


def _read_old(data: bytes) -> ImaEvent:
    digest, name = data[:SHA1_SIZE], data[SHA1_SIZE:]
    if len(name) != OLD_NAME_SIZE or name.rstrip(b"\0") != (text := name.partition(b"\0")[0]):
        raise MalformedImaEntry("An entry of the template `ima` has not a digest and a name of 255 octets at most.")
    return ImaEvent(FileDigest("sha1", digest), text)


def _read_digest(found: dict[str, bytes]) -> FileDigest | None:
    for field in ("d-ng", "d-ngv2"):
        if field in found:
            digest = _read_labelled(found[field])
            if (field == "d-ngv2") is not found[field].startswith(tuple(f"{kind}:".encode() for kind in _KINDS)):
                raise MalformedImaEntry(f"A digest is not of the form that {field} has.", seen=repr(found[field][:24]))
            return digest
    if "d" in found:
        return FileDigest("sha1" if len(found["d"]) == SHA1_SIZE else "md5", found["d"])
    return None


def _read_labelled(field: bytes) -> FileDigest:
    """`[kind:]algorithm:`, a NUL, the digest."""
    label, _, value = field.partition(b":\0")
    kind, _, algorithm = label.decode("latin-1").rpartition(":")
    return FileDigest(algorithm, value, kind or "ima")


def _read_name(field: bytes) -> bytes:
    if field[-1:] != b"\0" or b"\0" in field[:-1]:
        raise MalformedImaEntry("A file's name does not end with its only NUL.", seen=repr(field[-24:]))
    return field[:-1]


# ---- From text ---------------------------------------------------------------------------------------------------


def data_of_text(template: bytes, text: bytes, order: ByteOrder = "little") -> bytes:
    """The template data that an entry's text stands for: what follows the template's name and a space.

    Fields are parted by single spaces, of which names have none since the kernel writes them as underscores; a name
    that has some nevertheless takes what its neighbours leave. Whoever compares the template digest with that of these
    octets learns whether they were meant. Raises MalformedImaEntry.
    """
    fields = known_fields(template)
    parts = text.split(b" ")
    if (surplus := len(parts) - len(fields)) > 0:
        at = next((n for n, field in enumerate(fields) if field in ("n", "n-ng")), 0)
        parts[at : at + surplus + 1] = [b" ".join(parts[at : at + surplus + 1])]
    elif surplus < 0:  # some tools cut spaces off the ends of lines, and with them empty fields
        parts += [b""] * -surplus
    if template == b"ima":
        name = parts[1]
        if len(name) >= OLD_NAME_SIZE:
            raise MalformedImaEntry("A name is too long for the template `ima`.", seen=f"{len(name)} octets")
        return _unhex(parts[0].decode("latin-1")) + name.ljust(OLD_NAME_SIZE, b"\0")
    pack = U32[order].pack
    written = [_field_of_text(field, part, order) for field, part in zip(fields, parts, strict=True)]
    return b"".join(pack(len(octets)) + octets for octets in written)


def _field_of_text(field: str, text: bytes, order: ByteOrder) -> bytes:
    if field in ("n", "n-ng"):
        return text + b"\0"
    if field == "xattrnames":  # the kernel's own NUL ends the last name, if there is one
        return text and text + b"\0"
    if field in _NUMBERS:
        if not (text.isdigit() and len(text) <= 10 and int(text) < 1 << 8 * _NUMBERS[field]):
            raise MalformedImaEntry(f"A field {field} is not a number.", seen=repr(text[:24]))
        return int(text).to_bytes(_NUMBERS[field], order)
    if field in ("d-ng", "d-ngv2", "d-modsig") and text:
        label, _, digits = text.rpartition(b":")
        return label + b":\0" + _unhex(digits.decode("latin-1"))
    return _unhex(text.decode("latin-1"))


def _unhex(digits: str) -> bytes:
    if _HEX.fullmatch(digits) is None:
        raise MalformedImaEntry("What should be hexadecimal digits is not.", seen=repr(digits[:48]))
    return bytes.fromhex(digits)
