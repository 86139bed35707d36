"""Appraising a device's evidence by what this instance knows: the reference manifests, and the chip."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attestd.appraisal.comparison import Evidence, appraise
from attestd.appraisal.hardware import Chip
from attestd.appraisal.manifests import ReferenceManifest, Subject
from attestd.appraisal.results import AttestationResult
from attestd.config import Settings
from attestd.ids import Tier
from attestd.issuance.chips import Chips
from attestd.tpm.attest import VerifiedQuote


class Appraiser:
    """The one way from verified evidence to a result, for enrollments and for attestations."""

    def __init__(self, settings: Settings) -> None:
        """Raises AdvisoriesInvalid."""
        self.chips = Chips.of(settings)
        self._manifests = tuple(
            ReferenceManifest.of_pcrs(said.name, said.pcrs, said.tier) for said in settings.references
        )

    def appraise(
        self, quote: VerifiedQuote, chip: Chip, *, tier: Tier | None, labels: Mapping[str, str], now: datetime
    ) -> AttestationResult:
        """`tier` is None for a device that waits for approval."""
        return appraise(
            Evidence(quote, chip),
            subject=Subject(tier, labels, chip.manufacturer, chip.model),
            manifests=self._manifests,
            attested_at=int(now.timestamp()),
        )
