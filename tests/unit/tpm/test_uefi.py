"""UEFI's structures and device paths: read to the last octet, or no such thing."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.tpm.devicepaths import path_text
from attestd.tpm.uefi import (
    MalformedUefiStructure,
    printable,
    read_gpt_disk,
    read_load_option,
    read_signature_lists,
    read_variable,
)
from tests import logwriter as w


def test_a_variable() -> None:
    octets = w.variable(w.GLOBAL, "SecureBoot", b"\x01")
    assert read_variable(octets) == (w.GLOBAL, "SecureBoot", b"\x01")
    assert read_variable(w.variable(w.GLOBAL, "", b"")) == (w.GLOBAL, "", b"")


@pytest.mark.parametrize("octets", [b"", bytes(31), w.variable(w.GLOBAL, "x", b"y")[:-1], b"text" * 20])
def test_what_is_no_variable(octets: bytes) -> None:
    assert read_variable(octets) is None


def test_zeros_may_follow_a_variable_where_they_are_awaited() -> None:
    octets = w.variable(w.GLOBAL, "x", b"y")
    assert read_variable(octets + bytes(5)) is None
    assert read_variable(octets + bytes(5), padding=5) == (w.GLOBAL, "x", b"y")
    assert read_variable(octets + bytes(6), padding=5) is None
    assert read_variable(octets + b"\0\x01", padding=5) is None


@pytest.mark.parametrize("size", [1 << 31, 1 << 62, (1 << 64) - 1])
def test_sizes_of_a_variable_beyond_all_bounds(size: int) -> None:
    assert read_variable(w.GLOBAL + struct.pack("<QQ", size, 1) + bytes(40)) is None
    assert read_variable(w.GLOBAL + struct.pack("<QQ", 1, size) + bytes(40)) is None


def test_signature_lists() -> None:
    lists = read_signature_lists(w.signatures(b"a", b"bc") + w.signatures(b"12", b"34", each=False))
    assert [list(found) for found in lists] == [[b"a"], [b"bc"], [b"12", b"34"]]
    assert [len(found) for found in lists] == [1, 1, 2]
    assert read_signature_lists(b"") == []


def signature_list(whole: int, header: int, size: int, content: bytes) -> bytes:
    return w.X509 + struct.pack("<III", whole, header, size) + content


@pytest.mark.parametrize(
    "octets",
    [
        bytes(27),
        signature_list(28, 0, 16, b""),
        signature_list(27, 0, 17, b""),
        signature_list(29, 0, 17, b"x"),
        signature_list(28 + 17, 0, 17, bytes(16)),
        signature_list(28 + 17, 1, 17, bytes(17)),
        signature_list(0, 0, 17, b""),
        signature_list(28, 0xFFFFFFFF, 17, b""),
        signature_list(0xFFFFFFFF, 0, 17, bytes(64)),
        signature_list(28, 0, 17, b"") * 1025,
    ],
)
def test_lists_whose_sizes_lie(octets: bytes) -> None:
    with pytest.raises(MalformedUefiStructure):
        read_signature_lists(octets)


def test_a_load_option() -> None:
    option = read_load_option(w.load_option("debian", w.hard_drive(), w.file_path(r"\EFI\x.efi"), optional=b"more"))
    assert option == ("debian", rf"HD(1,GPT,{w.DISK})/\EFI\x.efi")


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        struct.pack("<HH", 0, 1),
        struct.pack("<IH", 1, 4) + w.utf16("no end"),
        struct.pack("<IH", 1, 0) + w.utf16("no path", end=True),
        struct.pack("<IH", 1, 9) + w.utf16("cut", end=True) + w.END,
        struct.pack("<IH", 1, 6) + w.utf16("no end of path", end=True) + w.node(1, 1, b"\0\0"),
        struct.pack("<IH", 1, 4) + w.utf16("x" * 5000, end=True) + w.END,
    ],
)
def test_what_is_no_load_option(octets: bytes) -> None:
    with pytest.raises(MalformedUefiStructure):
        read_load_option(octets)


def test_a_gpt_s_disk() -> None:
    assert read_gpt_disk(w.gpt()) == w.DISK
    for octets in (b"EFI PART", w.gpt()[:-1], w.gpt() + b"\0", b"x" + w.gpt()[1:]):
        with pytest.raises(MalformedUefiStructure):
            read_gpt_disk(octets)


GUID = uuid.UUID("821aca26-29ea-4993-839f-597fc021708d")


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([w.node(2, 1, struct.pack("<II", 0x0A0341D0, 0)), w.node(1, 1, b"\1\2")], "PciRoot(0x0)/Pci(0x2,0x1)"),
        ([w.node(2, 1, struct.pack("<II", 0x12345678, 1))], "Acpi(0x12345678)(0x1)"),
        ([w.node(1, 3, bytes(20)), w.node(1, 4, GUID.bytes_le)], f"MemoryMapped()/VenHw({GUID})"),
        ([w.node(3, 2, struct.pack("<HH", 1, 2))], "Scsi(0x1,0x2)"),
        ([w.node(3, 5, b"\3\4"), w.node(3, 10, GUID.bytes_le)], f"USB(0x3,0x4)/VenMsg({GUID})"),
        ([w.node(3, 11, bytes(range(6)) + bytes(26) + b"\1")], "MAC(000102030405,0x1)"),
        ([w.node(3, 12, bytes(4) + bytes([10, 0, 0, 7])), w.node(3, 13, bytes(56))], "IPv4(10.0.0.7)/IPv6()"),
        ([w.node(3, 18, struct.pack("<HHH", 0, 0xFFFF, 0))], "Sata(0x0,0xffff,0x0)"),
        ([w.node(3, 23, struct.pack("<I", 1) + bytes(range(8)))], "NVMe(0x1,07-06-05-04-03-02-01-00)"),
        ([w.node(3, 24, b"https://example.org/boot.efi")], "Uri(https://example.org/boot.efi)"),
        ([w.hard_drive()], f"HD(1,GPT,{w.DISK})"),
        ([w.node(4, 1, struct.pack("<IQQ", 2, 0, 0) + bytes.fromhex("78563412") + bytes(12) + b"\1\1")], "HD(2,MBR,0x"),
        ([w.node(4, 2, struct.pack("<I", 1) + bytes(16)), w.node(4, 3, GUID.bytes_le)], f"CDROM(0x1)/VenMedia({GUID})"),
        ([w.node(4, 7, GUID.bytes_le), w.node(4, 6, GUID.bytes_le)], f"Fv({GUID})/FvFile({GUID})"),
        ([w.node(4, 8, bytes(20)), w.node(5, 1, struct.pack("<HH", 2, 0) + b"Disk\0x")], "Offset()/BBS(2,Disk)"),
        ([w.node(9, 9, b"?")], "Path(9,9)"),
        ([w.node(1, 1, b"\1")], "Path(1,1)"),
        ([b"\1\1\3\0"], ""),
        ([b"\1\1\xff\xff"], ""),
        ([w.file_path("\x07bell")], "?bell"),
    ],
)
def test_device_paths(nodes: list[bytes], text: str) -> None:
    found = path_text(b"".join(nodes) + w.END)
    assert found == text if not text.endswith("0x") else found.startswith(text)


def test_a_device_path_is_bounded() -> None:
    assert len(path_text(w.file_path("x" * 400) * 100)) == 512
    assert path_text(w.node(9, 9) * 100).count("/") == 31


@given(st.binary(max_size=200))
def test_any_octets_are_a_path_s_text(octets: bytes) -> None:
    assert path_text(octets).isprintable()


def test_texts_for_people() -> None:
    assert printable("as it is", 8) == "as it is"
    assert printable("too long", 7) == "too lo…"
    assert printable("a\nb\x1b[2J", 20) == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[2J"
