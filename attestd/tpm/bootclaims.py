"""What a log says beyond what can be proven: names for digests. For people, never for policy.

A loader's device path, a file's name in PCR 9 and a list's name in PCR 14 are in no digest (TCG PC Client Platform
Firmware Profile, version 1.06 revision 52, section 10.2.3; GNU GRUB manual 2.12, "Measured Boot"; shim, mok.c). Whoever
handles the log can write what he likes there; the digests beside the names are those that facts are made of.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from attestd.tpm.devicepaths import path_text
from attestd.tpm.eventlog import Event, UnverifiedEventLog
from attestd.tpm.eventtypes import EFI_BOOT_SERVICES_APPLICATION, EFI_BOOT_SERVICES_DRIVER, NO_ACTION
from attestd.tpm.uefi import printable

_IMAGE_LOAD = Struct("<QQQQ")  # location, length, link time address, length of the device path
_MOST: Final = 1024
_LINUX_TAGS: Final = {0x8F3B22EC: "initrd, says Linux", 0x8F3B22ED: "load options, says Linux"}


def boot_claims(log: UnverifiedEventLog, bank: str) -> dict[str, list[dict[str, Any]]]:
    """`loaders`, `drivers`, `boot_files` and `mok_lists`: each event's number, its digest in hexadecimal, its name."""
    position = log.banks.index(bank)
    found: dict[str, list[dict[str, Any]]] = {}
    for event in log.events if log.of_pcrs else ():
        digest = event.digests[position]
        kind, name = _named(event)
        if kind and digest is not None and len(found.setdefault(kind, [])) < _MOST:
            found[kind].append({"event": event.number, "digest": digest.hex(), "name": name})
    return found


def _named(event: Event) -> tuple[str, str]:
    if event.type == NO_ACTION:
        return "", ""
    if event.pcr in (2, 4) and event.type in (EFI_BOOT_SERVICES_APPLICATION, EFI_BOOT_SERVICES_DRIVER):
        return "loaders" if event.pcr == 4 else "drivers", path_text(event.data[_IMAGE_LOAD.size :])
    if event.pcr == 9:
        return "boot_files", _LINUX_TAGS.get(int.from_bytes(event.data[:4], "little")) or _text(event.data)
    if event.pcr == 14:
        return "mok_lists", _text(event.data)
    return "", ""


def _text(data: bytes) -> str:
    return printable(data[:256].rstrip(b"\0").decode("utf-8", "replace"), 128)
