"""Appraising a device's evidence by what this instance knows: the manifests in force, the chip, the kept evidence."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime

from attestd.appraisal.comparison import Evidence, appraise
from attestd.appraisal.hardware import Chip
from attestd.appraisal.manifests import ReferenceManifest, Subject
from attestd.appraisal.results import AttestationResult
from attestd.config import Settings
from attestd.ids import Tier
from attestd.issuance.chips import Chips
from attestd.registry import references
from attestd.registry.engine import Registry
from attestd.tpm.attest import VerifiedQuote

_FRESH = 1.0  # seconds for which what is in force is not asked for again


class References:
    """The manifests in force: those of attestd.toml, and those in the registry, parsed once and again when they change.

    One a process; any number of threads. A change counts a second after it was made.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Raises ManifestInvalid for a reference in attestd.toml that can't be used."""
        self._registry = registry
        self._own = tuple(ReferenceManifest.of_pcrs(said.name, said.pcrs, said.tier) for said in settings.references)
        self._lock = threading.Lock()
        self._looked_at: datetime | None = None
        self._version: int | None = None
        self._ends: int | None = None  # when the first of them ends by time
        self._parsed: dict[str, ReferenceManifest] = {}
        self._stored: tuple[ReferenceManifest, ...] = ()

    def in_force(self, now: datetime) -> tuple[ReferenceManifest, ...]:
        """Raises the registry's errors; a manifest that was stored was read before."""
        with self._lock:
            if self._looked_at is None or abs((now - self._looked_at).total_seconds()) >= _FRESH:
                self._look(int(now.timestamp()))
                self._looked_at = now
            return (*self._own, *self._stored)

    def _look(self, now: int) -> None:
        with self._registry.reading() as c:
            version = references.version(c)
            if version == self._version and (self._ends is None or now < self._ends):
                return
            stored = references.in_force(c, now=now)
        known = self._parsed
        self._parsed = {
            entry.digest: known.get(entry.digest) or ReferenceManifest.from_json(entry.document) for entry in stored
        }
        self._stored = tuple(self._parsed[entry.digest] for entry in stored)
        self._ends = min((entry.until for entry in stored if entry.until is not None), default=None)
        self._version = version


class Appraiser:
    """The one way from verified evidence to a result, for enrollments and for attestations."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Raises ManifestInvalid, AdvisoriesInvalid."""
        self.chips = Chips.of(settings)
        self.references = References(settings, registry)

    def appraise(
        self, quote: VerifiedQuote, chip: Chip, *, tier: Tier | None, labels: Mapping[str, str], now: datetime
    ) -> AttestationResult:
        """`tier` is None for a device that waits for approval."""
        return appraise(
            Evidence(quote, chip),
            subject=Subject(tier, labels, chip.manufacturer, chip.model),
            manifests=self.references.in_force(now),
            attested_at=int(now.timestamp()),
        )
