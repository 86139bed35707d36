"""What a device's TPM itself is worth: the claim "hardware" (draft-ietf-rats-ar4si-09, section 2.3.3).

A maker's certificate makes it affirming; an advisory that its kind of chip may be concerned by makes it a warning or
contraindicates it, as the advisory says; and an inventory entry alone, which names no maker, makes no claim at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from attestd.tpm.advisories import Advisories, Advisory
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.firmware import Firmware, read_certified, read_quoted
from attestd.tpm.objects import TpmPublic

UNKNOWN: Final = 0
GENUINE_HARDWARE: Final = 2
UNSAFE_HARDWARE: Final = 32  # genuine, with known vulnerabilities
CONTRAINDICATED_HARDWARE: Final = 96

CERTIFIED: Final = ("certificate", "iak")  # a maker's word, of the EK or of an identity key

# All facts of a credential share 1024 octets with the labels, so each of these is short.
_MAX_TEXT: Final = 40  # characters of one fact
MANY: Final = "many"  # stands for a list that is longer


@dataclass(frozen=True, slots=True)
class Chip:
    """What is proven of a TPM, and what is known against its kind.

    `certified`: a maker's certificate vouches for it. `firmware_version` is the certificate's word, of the day it was
    made; `firmware_now` what its quote proves, where it does. `accepted` are advisories that an operator lives with.
    """

    certified: bool
    manufacturer: str = ""
    model: str = ""
    firmware_version: str = ""
    firmware_now: Firmware | None = None
    quirks: tuple[str, ...] = ()
    advisories: tuple[Advisory, ...] = ()
    accepted: frozenset[str] = frozenset()

    def claim(self) -> tuple[int, tuple[str, ...]]:
        """The claim's value, and why it is not better."""
        if not self.certified:
            return UNKNOWN, ("No maker's certificate vouches for this TPM; the inventory alone knows it.",)
        open_ = [found for found in self.advisories if found.id not in self.accepted]
        reasons = tuple(
            f"{found.id}: {found.means} ({self.manufacturer} {self.model}, firmware {self._firmware})."
            for found in open_
        )
        if any(found.claim == "contraindicated" for found in open_):
            return CONTRAINDICATED_HARDWARE, reasons
        return (UNSAFE_HARDWARE, reasons) if open_ else (GENUINE_HARDWARE, ())

    @property
    def _firmware(self) -> str:
        if self.firmware_now is not None:
            return str(self.firmware_now)
        certified = read_certified(self.firmware_version)
        return f"{certified} when it was made" if certified else self.firmware_version

    def facts(self) -> Mapping[str, str]:
        """What policies can ask for, beside the facts of the boot: `tpm.maker` and so on; absent where not known.

        `tpm.advisories` and `tpm.quirks` list names, sorted, with spaces between; "many" where they are too long.
        """
        certified = read_certified(self.firmware_version)
        found = {
            "tpm.maker": self.manufacturer,
            "tpm.model": self.model,
            "tpm.firmware": str(certified) if certified else self.firmware_version,
            "tpm.firmware_now": str(self.firmware_now) if self.firmware_now else "",
            "tpm.advisories": _listed(advisory.id for advisory in self.advisories),
            "tpm.quirks": _listed(self.quirks),
        }
        return {name: text[:_MAX_TEXT].encode("ascii", "replace").decode() for name, text in found.items() if text}


@dataclass(frozen=True, slots=True)
class Endorsed:
    """What an endorsement says of a TPM. `kind` is "certificate", "iak" or "inventory"; `ek` the endorsed key, where
    it is known: with it a quote's firmware version can be told to be a plain one."""

    kind: str
    manufacturer: str = ""
    model: str = ""
    firmware_version: str = ""
    quirks: tuple[str, ...] = ()
    ek: TpmPublic | None = None

    def chip(self, quote: VerifiedQuote, ak: TpmPublic, advisories: Advisories, accepted: frozenset[str]) -> Chip:
        """The chip that made this quote, and what is known against its kind."""
        now = read_quoted(quote.firmware_version, qualified_signer=quote.qualified_signer, ak=ak, ek=self.ek)
        firmware = now or read_certified(self.firmware_version)
        return Chip(
            certified=self.kind in CERTIFIED,
            manufacturer=self.manufacturer,
            model=self.model,
            firmware_version=self.firmware_version,
            firmware_now=now,
            quirks=self.quirks,
            advisories=advisories.concerning(self.manufacturer, self.model, firmware),
            accepted=accepted,
        )


def _listed(names: Iterable[str]) -> str:
    text = " ".join(sorted(names))
    return text if len(text) <= _MAX_TEXT else MANY
