"""EFI device paths as text: where firmware says that it found an image.

UEFI Specification, version 2.10, sections 10.3 (nodes) and 10.6.1.6 (text). The kinds that boot paths are made of are
written by name, all others as Path(type,subtype).

A path is a hint for people wherever it stands: an image's digest does not cover the path in its event.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from struct import Struct
from typing import Final

_MOST_NODES = 32
_MOST_TEXT = 512
_END: Final = 0x7F
_NUMBER, _TWO_NUMBERS = Struct("<I"), Struct("<II")
_TWO_SHORTS, _THREE_SHORTS = Struct("<HH"), Struct("<HHH")
END_OF_PATH: Final = b"\x7f\xff\x04\0"  # the node that ends the entire path


def guid_text(data: bytes) -> str:
    """An EFI_GUID's text: its first three numbers are little-endian (UEFI 2.10, appendix A)."""
    return f"{data[3::-1].hex()}-{data[5:3:-1].hex()}-{data[7:5:-1].hex()}-{data[8:10].hex()}-{data[10:16].hex()}"


def _utf16(data: bytes) -> str:
    return data.decode("utf-16-le", "replace").split("\0", 1)[0]


def _pci(data: bytes) -> str:
    return f"Pci(0x{data[1]:x},0x{data[0]:x})"


def _acpi(data: bytes) -> str:
    hid, uid = _TWO_NUMBERS.unpack_from(data)
    kind = {0x0A0341D0: "PciRoot", 0x0A0841D0: "PcieRoot", 0x060441D0: "Floppy"}.get(hid, f"Acpi(0x{hid:08x})")
    return f"{kind}(0x{uid:x})"


def _hard_drive(data: bytes) -> str:
    (partition,) = _NUMBER.unpack_from(data)
    signature, kind = data[20:36], data[37]
    if kind == 2:
        return f"HD({partition},GPT,{guid_text(signature)})"
    return f"HD({partition},{'MBR,0x' + signature[3::-1].hex() if kind == 1 else kind})"


def _sata(data: bytes) -> str:
    port, multiplier, unit = _THREE_SHORTS.unpack_from(data)
    return f"Sata(0x{port:x},0x{multiplier:x},0x{unit:x})"


def _nvme(data: bytes) -> str:
    (namespace,) = _NUMBER.unpack_from(data)
    return f"NVMe(0x{namespace:x},{data[11:3:-1].hex('-').upper()})"


def _scsi(data: bytes) -> str:
    target, unit = _TWO_SHORTS.unpack_from(data)
    return f"Scsi(0x{target:x},0x{unit:x})"


def _bbs(data: bytes) -> str:
    kind, _ = _TWO_SHORTS.unpack_from(data)
    return f"BBS({kind},{data[4:].split(bytes(1), 1)[0].decode('ascii', 'replace')})"


_NODES: Final[dict[tuple[int, int], tuple[int, Callable[[bytes], str]]]] = {
    # (type, subtype): (least octets after the head, text)
    (0x01, 0x01): (2, _pci),
    (0x01, 0x03): (20, lambda data: "MemoryMapped()"),
    (0x01, 0x04): (16, lambda data: f"VenHw({guid_text(data)})"),
    (0x02, 0x01): (8, _acpi),
    (0x03, 0x02): (4, _scsi),
    (0x03, 0x05): (2, lambda data: f"USB(0x{data[0]:x},0x{data[1]:x})"),
    (0x03, 0x0A): (16, lambda data: f"VenMsg({guid_text(data)})"),
    (0x03, 0x0B): (33, lambda data: f"MAC({data[:6].hex()},0x{data[32]:x})"),
    (0x03, 0x0C): (8, lambda data: f"IPv4({IPv4Address(data[4:8])})"),
    (0x03, 0x0D): (32, lambda data: "IPv6()"),
    (0x03, 0x12): (6, _sata),
    (0x03, 0x17): (12, _nvme),
    (0x03, 0x18): (0, lambda data: f"Uri({data[:256].decode('ascii', 'replace')})"),
    (0x04, 0x01): (38, _hard_drive),
    (0x04, 0x02): (20, lambda data: f"CDROM(0x{int.from_bytes(data[:4], 'little'):x})"),
    (0x04, 0x03): (16, lambda data: f"VenMedia({guid_text(data)})"),
    (0x04, 0x04): (0, lambda data: _utf16(data[:1024])),
    (0x04, 0x06): (16, lambda data: f"FvFile({guid_text(data)})"),
    (0x04, 0x07): (16, lambda data: f"Fv({guid_text(data)})"),
    (0x04, 0x08): (20, lambda data: "Offset()"),
    (0x05, 0x01): (4, _bbs),
}


def path_text(data: bytes) -> str:
    """A device path, its nodes parted by "/"; bounded, printable, and cut where the octets stop making sense."""
    found: list[str] = []
    at = 0
    while at + 4 <= len(data) and len(found) < _MOST_NODES:
        kind, subtype = data[at], data[at + 1]
        size = int.from_bytes(data[at + 2 : at + 4], "little")
        if kind == _END or size < 4 or at + size > len(data):
            break
        content = data[at + 4 : at + size]
        least, text = _NODES.get((kind, subtype), (len(content) + 1, str))
        found.append(text(content) if len(content) >= least else f"Path({kind},{subtype})")
        at += size
    text_ = "/".join(found)[:_MOST_TEXT]
    return text_ if text_.isprintable() else "".join(c if c.isprintable() else "?" for c in text_)
