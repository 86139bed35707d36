"""Which firmware a TPM has: as its certificate says for the day it was made, and as the TPM itself says now.

TCG EK Credential Profile for TPM Family 2.0, version 2.5, section 3.1.2 (tpmVersion: "id:" and hexadecimal digits).
TPM 2.0 Library, revision 1.59: Part 2, sections 6.13 (TPM_PT_FIRMWARE_VERSION_1 and _2) and 10.12.12 (TPMS_ATTEST's
firmwareVersion: the two in 64 bits); Part 1, section 16 (qualified Names) and 36.7 (obfuscation).

A certificate is never issued anew after an update, so its version is only where the firmware began. The TPM's own word
is in every quote, but a TPM obfuscates it for keys of the owner's hierarchy. Which hierarchy a key is of, its qualified
Name tells, and that is in every quote as well: so the version counts where the Name shows that it is a plain one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from attestd.tpm.objects import TpmPublic
from attestd.tpm.wire import u16, u32

RH_ENDORSEMENT, _RH_PLATFORM = 0x4000000B, 0x4000000C  # Part 2, section 7.4
_VERSION: Final = re.compile(r"id:(?:([0-9A-Fa-f]{2})([0-9A-Fa-f]{2})|([0-9A-Fa-f]{4})([0-9A-Fa-f]{4}))", re.ASCII)
_DOTTED: Final = re.compile(r"\d{1,5}(?:\.\d{1,5}){1,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Firmware:
    """A version of two to four numbers; what is not known of it is not in `parts`. Makers agree on the first two."""

    parts: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.parts))

    def may_be_within(self, first: Firmware, last: Firmware) -> bool:
        """Whether this may be one of the versions from `first` to `last`, both included.

        Numbers that are not known may be any: what is not shown to be mended may be broken.
        """
        size = max(len(first.parts), len(last.parts))
        highest = self.parts[:size] + (0xFFFF,) * (size - len(self.parts))
        lowest = self.parts[: len(last.parts)]
        return highest >= first.parts and lowest <= last.parts


def read_dotted(text: str) -> Firmware | None:
    """From text such as "7.62" or "7.2.0.1"; None for any other."""
    return Firmware(tuple(map(int, text.split(".")))) if _DOTTED.fullmatch(text) else None


def read_certified(version: str) -> Firmware | None:
    """From an EK certificate's tpmVersion: "id:00070055" and "id:073E" are major and minor version; else None."""
    found = _VERSION.fullmatch(version)
    return Firmware(tuple(int(digits, 16) for digits in found.groups() if digits)) if found else None


def read_quoted(
    version: int, *, qualified_signer: bytes, ak: TpmPublic, ek: TpmPublic | None = None
) -> Firmware | None:
    """From a verified quote, if `ak` is shown to be of a hierarchy where the TPM does not obfuscate; else None.

    Such are primary keys of the endorsement and the platform hierarchy, and keys right below the EK.
    """
    above = [u32(RH_ENDORSEMENT), u32(_RH_PLATFORM)]
    if ek is not None:
        above.append(qualified_name(ek, parent=u32(RH_ENDORSEMENT)))
    if not any(qualified_signer == qualified_name(ak, parent=parent) for parent in above):
        return None
    return Firmware(tuple(version >> shift & 0xFFFF for shift in (48, 32, 16, 0)))


def qualified_name(public: TpmPublic, *, parent: bytes) -> bytes:
    """Part 1, section 16: nameAlg ‖ H(QN of the parent ‖ Name); the QN of a hierarchy is its handle."""
    return u16(public.name_alg.alg) + public.name_alg.digest(parent + public.name)
