"""What PCRs 0 and 1 prove of the firmware and its settings, before their separators.

TCG PC Client Platform Firmware Profile, version 1.06 revision 52, sections 3.3.4.1 (PCR 0), 3.3.4.2 (PCR 1), 10.4.1
(EV_S_CRTM_VERSION: the digest is of the data; EV_EFI_VARIABLE_BOOT: of the variable's content in most firmware, of the
whole UEFI_VARIABLE_DATA in some, as EV_EFI_VARIABLE_BOOT2 has it).

Where the content alone was measured, the variable's name is the log's word: a boot option is told by being one, and its
number is not given. Options whose octets are not known are not seen, so the list may lack some.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from attestd.tpm.eventtypes import S_CRTM_VERSION
from attestd.tpm.measured import Measured, Measurement, Trace
from attestd.tpm.uefi import LoadOption, MalformedUefiStructure, printable, read_load_option, read_variable

_MOST_OPTIONS: Final = 64
_MOST_VERSION: Final = 64  # characters
_NAME: Final = "Boot"


@dataclass(frozen=True, slots=True)
class FirmwareFacts:
    """None: not proven, or not measured."""

    firmware_version: str | None = None
    boot_options: tuple[LoadOption, ...] | None = None
    measuring_failed: bool = False


def firmware_facts(measured: Measured, doubts: list[str]) -> FirmwareFacts:
    """The firmware's version, its boot options, and whether it says that it could not measure something."""
    failed = any(register.failed for register in measured.registers.values())
    if failed:
        doubts.append("firmware-could-not-measure")
    doubts += [f"pcr-{pcr}-separated-twice" for pcr in range(8) if (r := measured[pcr]) and r.called > 1]
    return FirmwareFacts(_version(measured), _boot_options(measured), failed)


def trace_firmware(measured: Measured) -> Iterator[Trace]:
    """Which event the version rests on."""
    if (found := _version_measured(measured)) is not None and (text := _text(found.data)) is not None:
        yield Trace(found.number, "firmware_version", text)


def _version(measured: Measured) -> str | None:
    found = _version_measured(measured)
    return None if found is None else _text(found.data)


def _version_measured(measured: Measured) -> Measurement | None:
    register = measured[0]
    if register is None or not register.separated:
        return None
    for measurement in register.before:
        if measurement.type == S_CRTM_VERSION and measured.proves(measurement.digest, measurement.data):
            return measurement
    return None


def _text(data: bytes) -> str | None:
    """Firmware writes its version in UTF-16 or ASCII, up to a NUL, or as a GUID."""
    for encoding, end in (("utf-16-le", b"\0\0"), ("ascii", b"\0")):
        try:
            text = data[: len(data) // len(end) * len(end)].decode(encoding).split("\0", 1)[0].strip()
        except UnicodeDecodeError:
            continue
        if text and text.isascii() and text.isprintable():
            return printable(text, _MOST_VERSION)
    return str(uuid.UUID(bytes_le=data)) if len(data) == 16 else None


def _boot_options(measured: Measured) -> tuple[LoadOption, ...] | None:
    register = measured[1]
    if register is None:
        return None
    found: dict[LoadOption, None] = {}
    for measurement in register.before:
        variable = read_variable(measurement.data)
        if variable is None or not variable.name.startswith(_NAME) or len(found) == _MOST_OPTIONS:
            continue
        if any(measured.proves(measurement.digest, octets) for octets in (variable.content, measurement.data)):
            try:
                found[read_load_option(variable.content)] = None
            except MalformedUefiStructure:
                continue  # BootOrder, for one
    return tuple(found)
