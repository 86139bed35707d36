"""The reference manifests in force, and what an attestation must hold to be compared with them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from attestd.appraisal.manifests import ReferenceManifest, Stage
from attestd.config import Settings
from attestd.protocol.demanded import EVENT_LOG, IMA, Demanded
from attestd.protocol.messages import PcrSelection
from attestd.registry import references
from attestd.registry.engine import Registry
from attestd.tpm.ima import IMA_PCR

_FRESH: Final = 1.0  # seconds for which what is in force is not asked for again


@dataclass(frozen=True)
class InForce:
    """Manifests, in one moment. `settings` are the PCRs and logs that are asked for whatever they say."""

    manifests: tuple[ReferenceManifest, ...]
    pcrs: PcrSelection
    logs: tuple[str, ...]

    @cached_property
    def demanded(self) -> Demanded:
        """What any device's attestation should hold: the union, for who a device is may not be known yet."""
        logs = set(self.logs)
        for manifest in self.manifests:
            learns = manifest.stage is Stage.LEARN
            logs |= {EVENT_LOG} if manifest.boot or learns else set()
            logs |= {IMA} if manifest.runtime is not None or learns else set()
        banks = {bank: set(indices) for bank, indices in self.pcrs.items()}
        for manifest in self.manifests:
            for bank, values in manifest.pcrs.items():
                banks.setdefault(bank, set()).update(values)
        if IMA in logs:
            for indices in banks.values():
                indices.add(IMA_PCR)
        return Demanded({bank: tuple(sorted(indices)) for bank, indices in banks.items()}, tuple(sorted(logs)))

    @cached_property
    def header(self) -> str:
        return self.demanded.to_header()


class References:
    """The manifests in force: those of attestd.toml, and those in the registry, parsed once and again when they change.

    One a process; any number of threads. A change counts a second after it was made.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Raises ManifestInvalid for a reference in attestd.toml that can't be used."""
        self._registry = registry
        self.own: Sequence[ReferenceManifest] = tuple(
            ReferenceManifest.of_pcrs(said.name, said.pcrs, said.tier) for said in settings.references
        )
        self._settings = settings.attestation
        self._lock = threading.Lock()
        self._looked_at: datetime | None = None
        self._version: int | None = None
        self._ends: int | None = None  # when the first of them ends by time
        self._parsed: dict[str, ReferenceManifest] = {}
        self._current = InForce(tuple(self.own), self._settings.pcrs, self._settings.logs)

    def in_force(self, now: datetime) -> InForce:
        """Raises the registry's errors; a manifest that was stored was read before."""
        with self._lock:
            fresh = self._looked_at is not None and abs((now - self._looked_at).total_seconds()) < _FRESH
            if fresh:
                return self._current
            self._look(int(now.timestamp()))
            self._looked_at = now
            return self._current

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
        self._ends = min((entry.until for entry in stored if entry.until is not None), default=None)
        self._version = version
        self._current = InForce((*self.own, *self._parsed.values()), self._settings.pcrs, self._settings.logs)
