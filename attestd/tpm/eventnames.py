"""What an event of a boot says that it is, in a line for people. Never for policy: see `bootclaims`.

Data is the log's word, even where its digest is proven: an image's path, for one, is in no digest. What is not text is
not guessed at. Everything returned is printable and bounded.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from attestd.tpm import uefi
from attestd.tpm.devicepaths import path_text
from attestd.tpm.eventlog import Event
from attestd.tpm.eventtypes import (
    EFI_BOOT_SERVICES_APPLICATION,
    EFI_BOOT_SERVICES_DRIVER,
    NO_ACTION,
    S_CRTM_VERSION,
    SEPARATOR,
)
from attestd.tpm.uefi import MalformedUefiStructure, printable, read_load_option, read_signature_lists, read_variable

MAX_NAME: Final = 160  # characters
_IMAGE_LOAD = Struct("<QQQQ")
_IMAGES: Final = (EFI_BOOT_SERVICES_APPLICATION, EFI_BOOT_SERVICES_DRIVER, 0x80000005)
_VARIABLES: Final = (0x80000001, 0x80000002, 0x8000000C, 0x800000E0)
_DATABASES: Final = ("PK", "KEK", "db", "dbx", "dbr", "dbt")


def event_name(event: Event) -> str:
    """A line about one event; empty where its data says nothing to people."""
    if event.type == SEPARATOR:
        return "the end of what the firmware measures before the system"
    if event.type == NO_ACTION:
        return "says something, measures nothing"
    if event.type in _IMAGES:
        return printable(path_text(event.data[_IMAGE_LOAD.size :]), MAX_NAME)
    if event.type in _VARIABLES and (named := _variable(event.data)):
        return named
    if event.type == S_CRTM_VERSION or event.data[1:2] == b"\0":
        wide = event.data[: 2 * MAX_NAME].decode("utf-16-le", "replace").split("\0", 1)[0]
        if len(wide) > 1 and wide.isprintable():
            return printable(wide, MAX_NAME)
    text = event.data[: 2 * MAX_NAME].rstrip(b"\0")
    try:
        return printable(text.decode("utf-8"), MAX_NAME) if len(text) > 1 else ""
    except UnicodeDecodeError:
        return ""


def _variable(data: bytes) -> str:
    found = read_variable(data) or read_variable(data[:-1], padding=5)
    if found is None:
        return ""
    name, content = printable(found.name, 64), found.content
    if found.name.startswith("Boot") and found.vendor == uefi.GLOBAL:
        try:
            option = read_load_option(content)
        except MalformedUefiStructure:
            pass
        else:
            return printable(f"{name}: {option.description}, {option.path}", MAX_NAME)
    if found.name in _DATABASES:
        try:
            lists = read_signature_lists(content)
        except MalformedUefiStructure:
            return f"{name}, {len(content)} octets"
        return f"{name}, {sum(map(len, lists))} entries"
    if len(content) <= 8:
        return f"{name} = {content.hex() or 'empty'}"
    return f"{name}, {len(content)} octets"
