"""A device's labels, changed by an operator; and what asks for labels, so that nobody changes them blindly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from attestd.appraisal.manifests import ReferenceManifest
from attestd.ids import DeviceId
from attestd.operations import Act, deciding
from attestd.policy import PolicySet
from attestd.registry import references
from attestd.registry.devices import Device
from attestd.registry.engine import Registry
from attestd.registry.labels import Labelling


@dataclass(frozen=True, slots=True)
class Asks:
    """Which labels a policy asks for by name. `whole`: it looks at a device whole, or at labels that it does not name,
    so any may matter."""

    version: int
    names: Sequence[str]
    whole: bool

    @classmethod
    def of(cls, policies: PolicySet) -> Self:
        names = sorted(fact.name for fact in policies.asked if fact.of == "principal")
        unnamed = "tags" in policies.sees and not names
        return cls(policies.version, names, unnamed or "itself" in policies.sees)


@dataclass(frozen=True, slots=True)
class Matched:
    """A reference manifest that is for devices with these labels."""

    number: int
    name: str
    stage: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Labels:
    """The verbs. One object serves any number of requests in any process."""

    registry: Registry
    policies: Callable[[], PolicySet]

    def relabel(
        self, device_id: DeviceId, labelling: Labelling, *, revoke: bool, act: Act, expected_version: int | None
    ) -> Device:
        """Raises UnknownDevice, StateChanged, TransitionRefused, MalformedLabels, LabelsUnchanged."""
        with self.registry.acting() as c:
            return deciding.relabel(c, device_id, labelling, revoke=revoke, act=act, expected_version=expected_version)

    def asked_for(self, *, now: int) -> tuple[Asks, list[Matched]]:
        """What the policy in force asks for, and the manifests that count now and are matched by labels."""
        with self.registry.reading() as c:
            stored = references.in_force(c, now=now)
        parsed = [(entry, ReferenceManifest.from_json(entry.document)) for entry in stored]
        return Asks.of(self.policies()), [
            Matched(entry.number, entry.name, entry.stage, manifest.match.labels)
            for entry, manifest in parsed
            if manifest.match.labels
        ]
