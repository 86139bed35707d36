"""What of a device's evidence is not among the good values, thing by thing: the reasons of a result are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

# PCRs that measure code; the rest measures configuration (TCG PC Client Platform Firmware Profile, section 3.3.4).
CODE_PCRS: Final = frozenset({0, 2, 4, 6, 8, 9, 10, 11})
# Boot facts about what was loaded; the rest is about settings (docs/measured-boot.md).
CODE_FACTS: Final = frozenset(
    {"loaders", "drivers", "boot_files", "initrd", "uki", "uki_sections", "system_extensions", "authorities", "signers"}
    | {"firmware_version", "mok_lists", "shim", "sbat", "sbat_level"}
)
MAX_SHOWN: Final = 120  # characters of a value in a reason


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a manifest does not list as good: a PCR's value, or a fact, or one element of a fact.

    `value`: a PCR's octets, or what the fact is in its JSON form; None: it was not quoted, or is not proven.
    """

    manifest: str  # its name
    bank: str = ""
    pcr: int | None = None
    fact: str = ""
    value: Any = None

    @property
    def claim(self) -> str:
        """Which claim of the result it contradicts."""
        code = self.fact in CODE_FACTS if self.pcr is None else self.pcr in CODE_PCRS
        return "executables" if code else "configuration"

    @property
    def place(self) -> str:
        """Where it was measured, in a word or two."""
        return self.fact if self.pcr is None else f"{self.bank} PCR {self.pcr}"

    @property
    def digest(self) -> bytes | None:
        """The digest that was measured, where it is one."""
        value = self.value
        if isinstance(value, bytes):
            return value
        if isinstance(value, dict):
            value = value.get("certificate")
        if not isinstance(value, str) or len(value) not in (40, 64, 96, 128):
            return None
        try:
            return bytes.fromhex(value)
        except ValueError:
            return None

    @property
    def reason(self) -> str:
        """The sentence in the result."""
        if self.pcr is None:
            seen = "not proven" if self.value is None else f"{self.value!r}"[:MAX_SHOWN]
        else:
            seen = "not quoted" if self.value is None else self.value.hex()
        return f"{self.place} is {seen}, which {self.manifest!r} does not list as good."
