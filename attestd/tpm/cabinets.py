"""Microsoft's cabinet files, as far as `TrustedTpm.cab` needs them: stored and MSZIP-compressed, in one piece.

Microsoft Cabinet Format (MS-CAB): sections 2.1 (CFHEADER), 2.2 (CFFOLDER), 2.3 (CFFILE), 2.4 (CFDATA) and 3.1 (the
checksum); MS-MCI, section 2 (MSZIP: "CK" before a deflate stream, whose window reaches back into the blocks before).

Read here and not by a program beside us: two hundred octets of headers around deflate, which Python's zlib undoes, are
less to trust than a process that gets a stranger's file (docs/adr/0026-makers-roots.md). The signature that follows a
cabinet is not looked at: the manifest tells what the certificates are, and a person whether to trust them.

Everything read here is untrusted: sizes, counts and offsets are bounded before anything is made of them, and the only
errors are MalformedCabinet, one of its kinds, and CabinetTooLarge.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import xor
from struct import Struct, error, iter_unpack
from typing import Final

from attestd.errors import InputTooLarge, MalformedInput

SIGNATURE: Final = b"MSCF"
MAX_CABINET: Final = 32 * 1024 * 1024  # octets; TrustedTpm.cab of 2026 has 2.5 million
MAX_UNPACKED: Final = 64 * 1024 * 1024  # octets of all files together; that one has 5 million
MAX_FILES: Final = 16_384
_MAX_FOLDERS: Final = 64
_MAX_NAME: Final = 256  # octets (MS-CAB, 2.3: szName)
_BLOCK: Final = 32_768  # octets of a block, unpacked

_HEADER: Final = Struct("<4sIIIIIBBHHHHH")
_RESERVED: Final = Struct("<HBB")
_FOLDER: Final = Struct("<IHH")
_FILE: Final = Struct("<IIHHHH")
_DATA: Final = Struct("<IHH")
_HAS_PREVIOUS, _HAS_NEXT, _HAS_RESERVED = 1, 2, 4
_STORED, _MSZIP = 0, 1


class MalformedCabinet(MalformedInput):
    """The cabinet file can't be read"""

    remedy = "Download it again from its publisher, or unpack it with a program of your own and import the folder."


class CabinetUnsupported(MalformedCabinet):
    """The cabinet file is of a kind that is not read here"""

    remedy = "Unpack it with a program of your own (cabextract, expand.exe) and import the folder."


class CabinetDamaged(MalformedCabinet):
    """A checksum of the cabinet file is wrong"""


class CabinetTooLarge(InputTooLarge):
    """The cabinet file is too large"""


@dataclass(frozen=True, slots=True)
class PackedFile:
    """One file of a cabinet. `name` is what the cabinet says, with its backslashes: for people, never for a path."""

    name: str
    content: bytes = field(repr=False)


def unpack(data: bytes) -> tuple[PackedFile, ...]:
    """All files of a cabinet, in its order."""
    if len(data) > MAX_CABINET:
        raise CabinetTooLarge(seen=f"{len(data)} octets", expected=f"at most {MAX_CABINET}")
    try:
        return _unpack(data)
    except error:  # struct's, where the octets end within a header
        raise MalformedCabinet("The cabinet ends too early.", seen=f"{len(data)} octets") from None


def _unpack(data: bytes) -> tuple[PackedFile, ...]:
    # 1. The header: what follows where, and that it is all here.
    signature, _, size, _, files_at, _, _, major, folders, files, flags, _, _ = _HEADER.unpack_from(data)
    if signature != SIGNATURE:
        raise MalformedCabinet("This is not a cabinet.", seen=signature.hex(), expected=SIGNATURE.hex())
    if major != 1 or flags & (_HAS_PREVIOUS | _HAS_NEXT):
        raise CabinetUnsupported(seen=f"version {major}, flags {flags:#x}", expected="version 1, in one piece")
    if size > len(data):  # a signature may follow
        raise MalformedCabinet("The cabinet ends too early.", seen=f"{len(data)} octets", expected=size)
    if files > MAX_FILES or folders > _MAX_FOLDERS:
        raise CabinetTooLarge(
            seen=f"{files} files in {folders} folders", expected=f"at most {MAX_FILES} in {_MAX_FOLDERS}"
        )
    at, around_folder, around_data = _HEADER.size, 0, 0
    if flags & _HAS_RESERVED:
        around_header, around_folder, around_data = _RESERVED.unpack_from(data, at)
        at += _RESERVED.size + around_header
    # 2. The folders, each one stream of blocks.
    budget, streams = MAX_UNPACKED, []
    for _ in range(folders):
        begin, blocks, kind = _FOLDER.unpack_from(data, at)
        at += _FOLDER.size + around_folder
        streams.append(_stream(_blocks(data, begin, blocks, around_data), kind, budget))
        budget -= len(streams[-1])
    # 3. The files, each a part of one stream. They may overlap, so what is cut out of them is bounded, too.
    budget, found, at = MAX_UNPACKED, [], files_at
    for _ in range(files):
        length, offset, folder, _, _, _ = _FILE.unpack_from(data, at)
        at += _FILE.size
        end = data.find(b"\0", at, at + _MAX_NAME + 1)
        if end < 0:
            raise MalformedCabinet("A file's name in the cabinet does not end.", expected=f"{_MAX_NAME} octets")
        name, at = data[at:end].decode("utf-8", "replace"), end + 1
        if folder >= len(streams) or offset + length > len(streams[folder]):
            raise MalformedCabinet("A file of the cabinet lies outside its folder.", seen=ascii(name[:80]))
        budget -= length
        if budget < 0:
            raise CabinetTooLarge("The cabinet's files are too large.", expected=f"at most {MAX_UNPACKED} octets")
        found.append(PackedFile(name, streams[folder][offset : offset + length]))
    return tuple(found)


def _blocks(data: bytes, at: int, count: int, around: int) -> Iterator[tuple[bytes, int]]:
    """A folder's blocks: the packed octets, seen to be undamaged, and how many they are unpacked."""
    for number in range(count):
        checksum, packed, unpacked = _DATA.unpack_from(data, at)
        end = at + _DATA.size + around + packed
        if end > len(data) or unpacked > _BLOCK:
            raise MalformedCabinet("A block of the cabinet has no possible size.", seen=f"{packed}, {unpacked}")
        begin = at + _DATA.size
        if checksum and checksum != _checksum(data[begin:end], _checksum(data[at + 4 : begin])):
            raise CabinetDamaged(seen=f"block {number}")
        yield data[begin + around : end], unpacked
        at = end


def _stream(blocks: Iterable[tuple[bytes, int]], kind: int, budget: int) -> bytes:
    """One folder's octets, unpacked block by block."""
    if kind & 0xF not in (_STORED, _MSZIP):
        raise CabinetUnsupported("The cabinet is compressed in a way that is not read here.", seen=f"{kind:#06x}")
    stream = bytearray()
    for block, size in blocks:
        if len(stream) + size > budget:
            raise CabinetTooLarge("The cabinet's files are too large.", expected=f"at most {MAX_UNPACKED} octets")
        found = block if kind & 0xF == _STORED else _inflate(block, bytes(stream[-_BLOCK:]), size)
        if len(found) != size:
            raise MalformedCabinet("A block of the cabinet has another size than it says.", seen=len(found))
        stream += found
    return bytes(stream)


def _inflate(block: bytes, before: bytes, size: int) -> bytes:
    """One MSZIP block; `before` is the window that it may reach back into."""
    if block[:2] != b"CK":
        raise MalformedCabinet("A block of the cabinet is not MSZIP.", seen=block[:2].hex(), expected="434b")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, zdict=before)
    try:
        return inflater.decompress(block[2:], size + 1)  # never more than one octet too many
    except zlib.error as refusal:
        raise MalformedCabinet("A block of the cabinet can't be unpacked.", seen=str(refusal)[:80]) from None


def _checksum(data: bytes, seed: int = 0) -> int:
    """MS-CAB, section 3.1: the XOR of 32-bit numbers, the last octets as a number of their own."""
    whole = len(data) & ~3
    rest = int.from_bytes(data[whole:], "big")
    return reduce(xor, (word for (word,) in iter_unpack("<I", data[:whole])), seed ^ rest)
