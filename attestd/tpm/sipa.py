"""What Windows measures of itself: events of its Secure Initialization and Attestation, in PCRs 12 and 13.

google/go-attestation, attest/win_events.go (numbers and meanings of the events; Microsoft's wbcl.h has the same). An
event is a type and a size of 32 bits each, little-endian, and its content; aggregations hold events. Windows' boot
manager and loader measure the same states each, up to the separator "WBCL".

Weaknesses count if any of them says so, strengths if all do. An event of an unknown type is stepped over: its octets
were measured with the others'. One measurement before the separator whose octets are not known, and nothing is
believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from attestd.errors import MalformedInput
from attestd.tpm.measured import Measured, Register
from attestd.tpm.uefi import printable

_PCRS: Final = (12, 13)
_HEAD = Struct("<II")
_MOST_DEPTH: Final = 4
_MOST_EVENTS: Final = 65_536
_MOST_MODULES: Final = 1024
_MOST_NAMES: Final = 64

_TRUST_BOUNDARY: Final = 0x40010001
_ELAM: Final = 0x40010002
_MODULE: Final = 0x40010003
_TRANSFER: Final = 0x00020003
_BITLOCKER: Final = 0x00020005
_CODE_INTEGRITY: Final = 0x00050002
_MODULE_DIGEST: Final = 0x00070004
_MODULE_VALIDATED: Final = 0x0007000A
_ELAM_NAME: Final = 0x00090001
_NORMAL_START: Final = 1  # the boot manager hands over to the loader, not to what resumes from hibernation

_WEAKNESSES: Final = {
    0x00040001: "windows_boot_debugging",
    0x00050001: "windows_kernel_debugging",
    0x00050003: "windows_test_signing",
    0x00050005: "windows_safe_mode",
    0x00050006: "windows_pe",
    0x0005000D: "windows_hypervisor_debugging",
    0x00050021: "windows_flight_signing",
}
_NUMBERS: Final = {  # the first that is said
    0x00020002: "windows_boot_count",
    0x0005000A: "windows_hypervisor_launch_type",
    0x00050012: "windows_vsm_launch_type",
}
_LARGEST: Final = (1 << 63) - 1  # what a policy engine's numbers can hold


class MalformedWindowsEvents(MalformedInput):
    """Windows' events in an event log can't be read"""


@dataclass(frozen=True, slots=True)
class WindowsFacts:
    """None: never measured, or not proven."""

    windows: bool | None = None
    windows_boot_debugging: bool | None = None
    windows_kernel_debugging: bool | None = None
    windows_test_signing: bool | None = None
    windows_flight_signing: bool | None = None
    windows_code_integrity: bool | None = None
    windows_safe_mode: bool | None = None
    windows_pe: bool | None = None
    windows_hypervisor_debugging: bool | None = None
    windows_hypervisor_launch_type: int | None = None
    windows_vsm_launch_type: int | None = None
    windows_bitlocker_unlocks: tuple[int, ...] | None = None
    windows_resumed: bool | None = None
    windows_boot_count: int | None = None
    windows_elam: tuple[str, ...] | None = None
    windows_modules: tuple[str, ...] | None = None
    windows_modules_not_validated: tuple[str, ...] | None = None


def windows_facts(measured: Measured, doubts: list[str]) -> WindowsFacts:
    """What PCRs 12 and 13 prove of Windows; `windows` is None where they say nothing of it."""
    registers = [measured[pcr] for pcr in _PCRS]
    if not any(register and _speaks_of_windows(measured, register) for register in registers):
        return WindowsFacts()
    blocks: list[bytes] = []
    for register in registers:
        if register is None or not register.separated:
            doubts.append("windows-events-not-proven")
            return WindowsFacts(windows=True)
        for measurement in register.before:
            if not _is_container(measurement.data) or not measured.proves(measurement.digest, measurement.data):
                doubts.append("windows-events-unexplained")
                return WindowsFacts(windows=True)
            blocks.append(measurement.data)
    try:
        return WindowsFacts(windows=True, **_read(blocks))
    except MalformedWindowsEvents:
        doubts.append("windows-events-unreadable")
        return WindowsFacts(windows=True)


def _is_container(data: bytes) -> bool:
    return (
        len(data) >= _HEAD.size
        and int.from_bytes(data[:4], "little") == _TRUST_BOUNDARY
        and int.from_bytes(data[4:8], "little") == len(data) - _HEAD.size
    )


def _speaks_of_windows(measured: Measured, register: Register) -> bool:
    return any(_is_container(m.data) and measured.proves(m.digest, m.data) for m in register.before)


def _events(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The events that these octets are, to the last one."""
    at, end = 0, len(data)
    while at < end:
        if end - at < _HEAD.size:
            raise MalformedWindowsEvents("An event ends too early.", seen=f"{end - at} octets")
        kind, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if size > end - at:
            raise MalformedWindowsEvents("An event ends too early.", seen=f"{end - at} octets", expected=size)
        yield kind, data[at : at + size]
        at += size


def _number(content: bytes) -> int:
    if not 1 <= len(content) <= 8:
        raise MalformedWindowsEvents("A number has no size of one.", seen=f"{len(content)} octets")
    return int.from_bytes(content, "little")


class _Found:
    """What the events said so far."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.unlocks: dict[int, None] = {}
        self.elam: dict[str, None] = {}
        self.modules: dict[str, None] = {}
        self.not_validated: dict[str, None] = {}
        self.count = 0

    def read(self, data: bytes, depth: int = 0) -> None:
        if depth > _MOST_DEPTH:
            raise MalformedWindowsEvents("Events are nested too deeply.", expected=f"at most {_MOST_DEPTH}")
        facts = self.facts
        for kind, content in _events(data):
            self.count += 1
            if self.count > _MOST_EVENTS:
                raise MalformedWindowsEvents("There are too many events.", expected=f"at most {_MOST_EVENTS}")
            if kind == _MODULE:
                self._module(content)
            elif kind in (_TRUST_BOUNDARY, _ELAM):
                self.read(content, depth + 1)
            elif (name := _WEAKNESSES.get(kind)) is not None:
                facts[name] = facts.get(name, False) or _number(content) != 0
            elif (name := _NUMBERS.get(kind)) is not None:
                facts.setdefault(name, _number(content) & _LARGEST)
            elif kind == _CODE_INTEGRITY:
                facts["windows_code_integrity"] = facts.get("windows_code_integrity", True) and _number(content) != 0
            elif kind == _TRANSFER:
                facts["windows_resumed"] = facts.get("windows_resumed", False) or _number(content) != _NORMAL_START
            elif kind == _BITLOCKER:
                self.unlocks[_number(content) & _LARGEST] = None
            elif kind == _ELAM_NAME:
                self.elam[printable(content.decode("utf-16-le", "replace").rstrip("\0"), 64)] = None

    def _module(self, data: bytes) -> None:
        digest, validated = "", True
        for kind, content in _events(data):
            self.count += 1
            if kind == _MODULE_DIGEST:
                digest = content[:64].hex()
            elif kind == _MODULE_VALIDATED:
                validated = _number(content) != 0
        if digest:
            self.modules[digest] = None
            if not validated:
                self.not_validated[digest] = None


def _read(blocks: list[bytes]) -> dict[str, Any]:
    found = _Found()
    for block in blocks:
        found.read(block)
    if len(found.modules) > _MOST_MODULES or max(len(found.unlocks), len(found.elam)) > _MOST_NAMES:
        raise MalformedWindowsEvents("Windows names more modules or drivers than it has.")
    return found.facts | {
        "windows_bitlocker_unlocks": tuple(found.unlocks),
        "windows_elam": tuple(found.elam),
        "windows_modules": tuple(found.modules),
        "windows_modules_not_validated": tuple(found.not_validated),
    }
