"""What is known of a device's chip: by whom it is endorsed, which firmware it was made with, which it has now where its
quote proves that, and which advisories its kind is named in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attestd.appraisal.hardware import Chip
from attestd.config import Settings
from attestd.issuance.makers import known_advisories
from attestd.registry.standing import Standing
from attestd.tpm.activation import VerifiedAk
from attestd.tpm.advisories import Advisories
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.endorsement import VerifiedEndorsement
from attestd.tpm.firmware import Firmware, read_certified, read_quoted
from attestd.tpm.objects import TpmPublic, parse_public

_CERTIFIED = ("certificate", "iak")  # a maker's word, of the EK or of an identity key


@dataclass(frozen=True, slots=True)
class Chips:
    """What is known of TPMs by their kind; read once, when the process starts."""

    advisories: Advisories
    accepted: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Chips:
        """Raises AdvisoriesInvalid."""
        return cls(known_advisories(settings.dir), frozenset(settings.endorsement.accept_advisories))

    def endorsed(self, endorsement: VerifiedEndorsement, quote: VerifiedQuote, ak: VerifiedAk) -> Chip:
        """The chip of a device that enrolls."""
        return self._chip(
            certified=endorsement.kind in _CERTIFIED,
            manufacturer=endorsement.manufacturer,
            model=endorsement.model,
            firmware_version=endorsement.firmware_version,
            firmware_now=_firmware_now(quote, ak, endorsement.ek),
            quirks=endorsement.quirks,
        )

    def known(self, device: Standing, quote: VerifiedQuote, ak: VerifiedAk) -> Chip:
        """The chip of a device that has enrolled. Its quirks are those that its last result names."""
        facts = (device.result or {}).get("facts", {})
        ek = None if device.ek_public is None else parse_public(device.ek_public)
        return self._chip(
            certified=device.endorsement in _CERTIFIED,
            manufacturer=device.manufacturer,
            model=device.model,
            firmware_version=device.firmware_version,
            firmware_now=_firmware_now(quote, ak, ek),
            quirks=tuple(str(facts.get("tpm.quirks", "")).split()),
        )

    def _chip(
        self, *, manufacturer: str, model: str, firmware_version: str, firmware_now: Firmware | None, **known: Any
    ) -> Chip:
        firmware = firmware_now or read_certified(firmware_version)
        return Chip(
            manufacturer=manufacturer,
            model=model,
            firmware_version=firmware_version,
            firmware_now=firmware_now,
            advisories=self.advisories.concerning(manufacturer, model, firmware),
            accepted=self.accepted,
            **known,
        )


def _firmware_now(quote: VerifiedQuote, ak: VerifiedAk, ek: TpmPublic | None) -> Firmware | None:
    return read_quoted(quote.firmware_version, qualified_signer=quote.qualified_signer, ak=ak.public, ek=ek)
