"""UEFI's own structures, as event logs carry them: variables, signature databases, load options, GPT headers.

UEFI Specification, version 2.10: sections 3.1.3 (EFI_LOAD_OPTION), 5.3.2 (GPT header) and 32.4.1 (EFI_SIGNATURE_LIST);
TCG PC Client Platform Firmware Profile, version 1.06 revision 52, sections 10.2.6 (UEFI_VARIABLE_DATA) and 10.2.7
(UEFI_GPT_DATA). Numbers are little-endian.

Each reader takes octets whose digest its caller has recomputed, and reads them to the last one or raises
MalformedUefiStructure: firmware, too, writes structures that are none.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from attestd.errors import MalformedInput
from attestd.tpm.devicepaths import END_OF_PATH, guid_text, path_text

_MOST_LISTS = 1024
_MOST_DESCRIPTION = 1024  # octets
_VARIABLE = Struct("<16sQQ")  # VariableName, UnicodeNameLength in characters, VariableDataLength in octets
_SIGNATURE_LIST = Struct("<16sIII")  # SignatureType, SignatureListSize, SignatureHeaderSize, SignatureSize
_OWNER = 16  # octets of a signature's SignatureOwner
_LOAD_OPTION = Struct("<IH")  # Attributes, FilePathListLength
_GPT_DISK = slice(56, 72)  # DiskGUID
_GPT_HEADER = 92
_COUNT = Struct("<Q")
_GPT_ENTRY = 128


class MalformedUefiStructure(MalformedInput):
    """A UEFI structure in an event log can't be read"""

    remedy = "Nothing can be said of it; tell the firmware's maker."


def _guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


# Vendors of variables (UEFI 2.10, sections 3.3 and 32.6.1; shim, lib/guid.c).
GLOBAL: Final = _guid("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY: Final = _guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SHIM_LOCK: Final = _guid("605dab50-e046-4300-abb6-3dd810dd8b23")

# Kinds of signature lists (UEFI 2.10, section 32.4.1).
X509: Final = _guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
IMAGE_SHA256: Final = _guid("c1c41626-504c-4092-aca9-41f936934328")


class Variable(NamedTuple):
    """A UEFI_VARIABLE_DATA: whose it is, its name and its content."""

    vendor: bytes
    name: str
    content: bytes


class SignatureList(NamedTuple):
    """An EFI_SIGNATURE_LIST: `size` octets an entry, its owner's GUID first."""

    kind: bytes
    size: int
    entries: bytes

    def __len__(self) -> int:
        return len(self.entries) // self.size

    def __iter__(self) -> Iterator[bytes]:
        """Each entry's signature data, without its owner."""
        entries, size = self.entries, self.size
        return iter([entries[at + _OWNER : at + size] for at in range(0, len(entries), size)])


class LoadOption(NamedTuple):
    """An EFI_LOAD_OPTION: what a Boot#### variable holds."""

    description: str
    path: str


def read_variable(octets: bytes, *, padding: int = 0) -> Variable | None:
    """A UEFI_VARIABLE_DATA, which at most `padding` zeros may follow, or None for octets that are no such thing."""
    if len(octets) < _VARIABLE.size:
        return None
    vendor, characters, size = _VARIABLE.unpack_from(octets)
    middle = _VARIABLE.size + 2 * characters
    end = middle + size
    if end != len(octets) and not (0 < len(octets) - end <= padding and not any(octets[end:])):
        return None
    return Variable(vendor, octets[_VARIABLE.size : middle].decode("utf-16-le", "replace"), octets[middle:end])


def read_signature_lists(content: bytes) -> list[SignatureList]:
    """A signature database. An empty one is no lists."""
    found: list[SignatureList] = []
    at, end = 0, len(content)
    while at < end:
        if end - at < _SIGNATURE_LIST.size or len(found) == _MOST_LISTS:
            raise MalformedUefiStructure("A signature database ends within a list, or has too many.", seen=end - at)
        kind, whole, header, size = _SIGNATURE_LIST.unpack_from(content, at)
        begin = at + _SIGNATURE_LIST.size + header
        at += whole
        if size <= _OWNER or at > end or begin > at or (at - begin) % size:
            raise MalformedUefiStructure(
                "A signature list's sizes contradict each other.",
                seen=f"{whole} octets, {header} of header, {size} each",
            )
        found.append(SignatureList(kind, size, content[begin:at]))
    return found


def read_load_option(octets: bytes) -> LoadOption:
    """An EFI_LOAD_OPTION; what follows its device path is its own and is not looked at."""
    if len(octets) < _LOAD_OPTION.size:
        raise MalformedUefiStructure("A load option ends too early.", seen=f"{len(octets)} octets")
    _, path_size = _LOAD_OPTION.unpack_from(octets)
    end = octets.find(b"\0\0", _LOAD_OPTION.size, _MOST_DESCRIPTION)
    while end % 2 and end > 0:  # half of a character's NUL and half of the end's
        end = octets.find(b"\0\0", end + 1, _MOST_DESCRIPTION)
    if end < 0:
        raise MalformedUefiStructure("A load option's description has no end.")
    begin = end + 2
    if not path_size or begin + path_size > len(octets):
        raise MalformedUefiStructure("A load option has no room for its device path.", seen=path_size)
    path = octets[begin : begin + path_size]
    if not path.endswith(END_OF_PATH):
        raise MalformedUefiStructure("A load option's device path has no end.", seen=path[-4:].hex())
    description = octets[_LOAD_OPTION.size : end].decode("utf-16-le", "replace")
    return LoadOption(printable(description, 128), path_text(path))


def read_gpt_disk(octets: bytes) -> str:
    """The disk's GUID in a UEFI_GPT_DATA."""
    if not octets.startswith(b"EFI PART") or len(octets) < _GPT_HEADER + _COUNT.size:
        raise MalformedUefiStructure("A partition table is none.", seen=f"{len(octets)} octets")
    (count,) = _COUNT.unpack_from(octets, _GPT_HEADER)
    if len(octets) != _GPT_HEADER + _COUNT.size + count * _GPT_ENTRY:
        raise MalformedUefiStructure("A partition table has another size than its entries.", seen=len(octets))
    return guid_text(octets[_GPT_DISK])


def printable(text: str, most: int) -> str:
    """A log's text for people and JSON: at most `most` characters, the last of them "…" where it was longer."""
    if not text.isprintable():
        text = text[: most + 1]
        for character in {c for c in text if not c.isprintable()}:
            text = text.replace(character, "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= most else text[: most - 1] + "…"
