"""Writes Microsoft cabinet files for tests, in which any one field can lie (MS-CAB, sections 2 and 3.1)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

BLOCK = 32_768


def checksum(data: bytes, seed: int = 0) -> int:
    while len(data) >= 4:
        seed ^= int.from_bytes(data[:4], "little")
        data = data[4:]
    return seed ^ int.from_bytes(data, "big")


def mszip(stream: bytes) -> list[bytes]:
    """Blocks whose deflate windows reach back into the ones before."""
    blocks = []
    for begin in range(0, len(stream), BLOCK):
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=stream[max(0, begin - BLOCK) : begin])
        blocks.append(b"CK" + deflater.compress(stream[begin : begin + BLOCK]) + deflater.flush())
    return blocks


def stored(stream: bytes) -> list[bytes]:
    return [stream[begin : begin + BLOCK] for begin in range(0, len(stream), BLOCK)]


def cabinet(
    files: Mapping[str, bytes],
    *,
    kind: int = 1,
    reserved: tuple[int, int, int] | None = None,
    checked: bool = True,
    after: bytes = b"",
    **lies: Any,
) -> bytes:
    """One cabinet with one folder. `lies` replace fields by name: `files_at`, `count`, `unpacked`, `offset`, …"""
    stream = b"".join(files.values())
    blocks = lies.get("blocks", (mszip if kind & 0xF == 1 else stored)(stream))
    around_header, around_folder, around_data = reserved or (0, 0, 0)
    head = 36 + (4 + around_header if reserved is not None else 0)
    entries, offset = b"", 0
    for name, content in files.items():
        length = lies.get("length", len(content))
        entries += struct.pack("<IIHHHH", length, lies.get("offset", offset), lies.get("folder", 0), 0, 0, 0x20)
        entries += name.encode() + lies.get("end", b"\0")
        offset += len(content)
    files_at = head + 8 + around_folder
    data_at = files_at + len(entries)
    data = b""
    for number, block in enumerate(blocks):
        size = min(BLOCK, len(stream) - number * BLOCK)
        sizes = struct.pack("<HH", lies.get("packed", len(block)), lies.get("unpacked", size))
        body = bytes(around_data) + block
        value = checksum(body, checksum(sizes)) if checked else 0
        data += struct.pack("<I", value ^ lies.get("spoil", 0)) + sizes + body
    total = data_at + len(data)
    flags = lies.get("flags", 4 if reserved is not None else 0)
    cab = struct.pack(
        "<4sIIIIIBBHHHHH",
        lies.get("signature", b"MSCF"),
        0,
        lies.get("total", total),
        0,
        lies.get("files_at", files_at),
        0,
        3,
        lies.get("major", 1),
        lies.get("folders", 1),
        lies.get("count", len(files)),
        flags,
        0,
        0,
    )
    if reserved is not None:
        cab += struct.pack("<HBB", *reserved) + bytes(around_header)
    cab += struct.pack("<IHH", lies.get("data_at", data_at), lies.get("data_count", len(blocks)), kind)
    return cab + bytes(around_folder) + entries + data + after
