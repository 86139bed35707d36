"""The kinds of events in a TCG event log, by number and name.

TCG PC Client Platform Firmware Profile, version 1.06 revision 52, section 10.4.1; the TCG PC Client Specific
Implementation Specification for Conventional BIOS, version 1.21, section 11.3.1, for those without EFI in their name.

An event's type is in no digest, so anybody who handles the log can change it. Here it decides two things alone, and
the replay proves both: that EV_NO_ACTION extends nothing, and that EV_EFI_HCRTM_EVENT begins PCR 0 at 4.
"""

from __future__ import annotations

from typing import Final

NO_ACTION: Final = 0x00000003
SEPARATOR: Final = 0x00000004
S_CRTM_VERSION: Final = 0x00000008
IPL: Final = 0x0000000D
EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
EFI_BOOT_SERVICES_DRIVER: Final = 0x80000004
EFI_HCRTM_EVENT: Final = 0x80000010

_NAMES: Final = {
    0x00000000: "EV_PREBOOT_CERT",
    0x00000001: "EV_POST_CODE",
    0x00000002: "EV_UNUSED",
    NO_ACTION: "EV_NO_ACTION",
    SEPARATOR: "EV_SEPARATOR",
    0x00000005: "EV_ACTION",
    0x00000006: "EV_EVENT_TAG",
    0x00000007: "EV_S_CRTM_CONTENTS",
    S_CRTM_VERSION: "EV_S_CRTM_VERSION",
    0x00000009: "EV_CPU_MICROCODE",
    0x0000000A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0000000B: "EV_TABLE_OF_DEVICES",
    0x0000000C: "EV_COMPACT_HASH",
    IPL: "EV_IPL",
    0x0000000E: "EV_IPL_PARTITION_DATA",
    0x0000000F: "EV_NONHOST_CODE",
    0x00000010: "EV_NONHOST_CONFIG",
    0x00000011: "EV_NONHOST_INFO",
    0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x00000013: "EV_POST_CODE2",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    EFI_BOOT_SERVICES_APPLICATION: "EV_EFI_BOOT_SERVICES_APPLICATION",
    EFI_BOOT_SERVICES_DRIVER: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x8000000D: "EV_EFI_GPT_EVENT2",
    EFI_HCRTM_EVENT: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
    0x800000E3: "EV_EFI_SPDM_DEVICE_POLICY",
    0x800000E4: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}


def name_of(event_type: int) -> str:
    """The type's name in the specifications, or its number in hexadecimal."""
    return _NAMES.get(event_type) or f"0x{event_type:08x}"
