"""The stages of a boot in the order in which they run, and which of them a PCR or a fact speaks of.

TCG PC Client Platform Firmware Profile, version 1.06 revision 52, section 3.3.4, for PCRs 0 to 7; docs/measured-boot.md
for the facts and for the PCRs after those.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from attestd.appraisal.differences import Difference


class Stage(StrEnum):
    """What ran, or was set."""

    FIRMWARE = "firmware"
    SETTINGS = "settings"
    SECURE_BOOT = "secure-boot"
    BOOT_LOADER = "boot-loader"
    KERNEL = "kernel"
    FILES = "files"


STAGES: Final = tuple(Stage)

_OF_PCR: Final = {
    0: Stage.FIRMWARE,
    1: Stage.SETTINGS,
    2: Stage.FIRMWARE,
    3: Stage.SETTINGS,
    4: Stage.BOOT_LOADER,
    5: Stage.SETTINGS,
    6: Stage.SETTINGS,
    7: Stage.SECURE_BOOT,
    10: Stage.FILES,
    14: Stage.BOOT_LOADER,
}

_PCR_OF_FACT: Final = {
    **dict.fromkeys(("firmware_version", "measuring_failed"), 0),
    **dict.fromkeys(("boot_options", "audit_mode", "deployed_mode"), 1),
    "drivers": 2,
    **dict.fromkeys(("loaders", "boot_attempts_omitted"), 4),
    **dict.fromkeys(("disks", "boot_services_exited"), 5),
    **dict.fromkeys(("secure_boot", "setup_mode", "pk", "kek", "db", "db_images", "signers", "authorities"), 7),
    **dict.fromkeys(("dbx_count", "dbx_digest", "dbx_certificates", "mok_used", "mok_validation_disabled"), 7),
    **dict.fromkeys(("shim", "sbat", "sbat_level"), 7),
    **dict.fromkeys(("firmware_debug_mode", "dma_protection_disabled", "firmware_actions"), 7),
    **dict.fromkeys(("grub_commands", "kernel_command_lines", "kernel_command_line"), 8),
    "boot_files": 9,
    **dict.fromkeys(("uki", "uki_sections", "initrd", "boot_phases"), 11),
    "system_extensions": 13,
    "mok_lists": 14,
}
_WINDOWS_PCR: Final = 12
_DOUBTED: Final = re.compile(r"pcr-([0-9]{1,2})-", re.ASCII)
_DOUBTED_FACTS: Final = {"secure-boot": 7, "pk-": 7, "kek-": 7, "db-": 7, "dbx-": 7, "secureboot-": 7, "too-many-si": 7}


def stage_of_pcr(pcr: int) -> Stage:
    """Who measures into a PCR; those above 14 are the system's."""
    return _OF_PCR.get(pcr, Stage.KERNEL)


def pcr_of(found: Difference) -> int | None:
    """The PCR that something rests on; None: on more than one."""
    if found.pcr is not None:
        return found.pcr
    if found.fact == "doubts" and isinstance(found.value, str):
        if match := _DOUBTED.match(found.value):
            return int(match[1])
        return next((pcr for begin, pcr in _DOUBTED_FACTS.items() if found.value.startswith(begin)), None)
    if found.fact.startswith("windows"):
        return _WINDOWS_PCR
    return _PCR_OF_FACT.get(found.fact)


def stage_of(found: Difference) -> Stage:
    """The stage that a difference is of; firmware answers for what is of no one stage."""
    pcr = pcr_of(found)
    return Stage.FIRMWARE if pcr is None else stage_of_pcr(pcr)
