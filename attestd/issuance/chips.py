"""What is known of a device's chip: by whom it is endorsed, and which advisories its kind is named in."""

from __future__ import annotations

from dataclasses import dataclass

from attestd.appraisal.hardware import Endorsed
from attestd.config import Settings
from attestd.issuance.makers import known_advisories
from attestd.registry.standing import Standing
from attestd.tpm.advisories import Advisories
from attestd.tpm.endorsement import VerifiedEndorsement
from attestd.tpm.objects import parse_public


@dataclass(frozen=True, slots=True)
class Chips:
    """What is known of TPMs by their kind; read once, when the process starts."""

    advisories: Advisories
    accepted: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Chips:
        """Raises AdvisoriesInvalid."""
        return cls(known_advisories(settings.dir), frozenset(settings.endorsement.accept_advisories))


def endorsed_now(endorsement: VerifiedEndorsement) -> Endorsed:
    """Of a device that enrolls."""
    return Endorsed(
        kind=endorsement.kind,
        manufacturer=endorsement.manufacturer,
        model=endorsement.model,
        firmware_version=endorsement.firmware_version,
        quirks=endorsement.quirks,
        ek=parse_public(endorsement.area),
    )


def endorsed_before(device: Standing) -> Endorsed:
    """Of a device that has enrolled. Its quirks are those that its last result names."""
    facts = (device.result or {}).get("facts", {})
    return Endorsed(
        kind=device.endorsement or "inventory",
        manufacturer=device.manufacturer,
        model=device.model,
        firmware_version=device.firmware_version,
        quirks=tuple(str(facts.get("tpm.quirks", "")).split()),
        ek=None if device.ek_public is None else parse_public(device.ek_public),
    )
