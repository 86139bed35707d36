"""The reference manifests in force, and what an attestation must hold to be compared with them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Final

from attestd.appraisal.manifests import ReferenceManifest, Stage
from attestd.config import Settings
from attestd.protocol.demanded import EVENT_LOG, IMA, Demanded
from attestd.protocol.evidence import PcrSelection
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
                if bank in banks:  # a bank that not every TPM has is the settings' to ask for
                    banks[bank].update(values)
        if IMA in logs:
            for indices in banks.values():
                indices.add(IMA_PCR)
        return Demanded({bank: tuple(sorted(indices)) for bank, indices in banks.items()}, tuple(sorted(logs)))

    @cached_property
    def header(self) -> str:
        return self.demanded.to_header()


@dataclass(frozen=True, slots=True)
class _Looked:
    """What was found in the registry, and when."""

    at: datetime
    version: int
    ends: int | None  # when the first of them ends by time, in unix seconds
    parsed: Mapping[str, ReferenceManifest]
    found: InForce

    def is_fresh(self, now: datetime) -> bool:
        return abs((now - self.at).total_seconds()) < _FRESH


class References:
    """The manifests in force: those of attestd.toml, and those in the registry, parsed once and again when they change.

    One a process; any number of threads. A change counts a second after it was made. Nobody waits for another's look
    at the registry: who holds what others need must not wait for who waits for it.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Raises ManifestInvalid for a reference in attestd.toml that can't be used."""
        self._registry = registry
        self.own: Sequence[ReferenceManifest] = tuple(
            ReferenceManifest.of_pcrs(said.name, said.pcrs, said.tier) for said in settings.references
        )
        self._settings = settings.attestation
        self._lock = threading.Lock()
        self._looked: _Looked | None = None

    def in_force(self, now: datetime) -> InForce:
        """Raises the registry's errors; a manifest that was stored was read before."""
        looked = self._looked
        if looked is None or not looked.is_fresh(now):
            looked = self._look(looked, now)
            with self._lock:
                if self._looked is None or self._looked.version <= looked.version:
                    self._looked = looked
        return looked.found

    def _look(self, before: _Looked | None, now: datetime) -> _Looked:
        at = int(now.timestamp())
        with self._registry.reading() as c:
            version = references.version(c)
            if before is not None and version == before.version and (before.ends is None or at < before.ends):
                return replace(before, at=now)
            stored = references.in_force(c, now=at)
        known = {} if before is None else before.parsed
        parsed = {
            entry.digest: known.get(entry.digest) or ReferenceManifest.from_json(entry.document) for entry in stored
        }
        ends = min((entry.until for entry in stored if entry.until is not None), default=None)
        found = InForce((*self.own, *parsed.values()), self._settings.pcrs, self._settings.logs)
        return _Looked(now, version, ends, parsed, found)
