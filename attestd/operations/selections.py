"""One act for many devices that an operator selected, each as it was seen (docs/operations.md).

A selection names devices and the version of each that was looked at. A device that changed meanwhile, or to which the
act can't be done in its state, is left out and said, and the others are done.

It is written in pieces, each one transaction, so that whoever else writes does not wait for a whole fleet; a piece that
was written stays written, and its rows say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from attestd.config import Settings
from attestd.errors import AttestdError, MalformedInput
from attestd.ids import DeviceId, Site, Tier
from attestd.operations import Act, deciding
from attestd.registry import devices
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.labels import Labelling, LabelsUnchanged, MalformedLabels
from attestd.registry.states import TRANSITIONS, Event, StateChanged, UnknownDevice, refusal

MAX_SELECTED: Final = 1000  # devices of one selection
_PIECE: Final = 250  # devices of one transaction
SELECTABLE: Final = frozenset(
    {Event.APPROVE, Event.REJECT, Event.QUARANTINE, Event.RELEASE, Event.RETIRE, Event.DEMAND, Event.LABEL}
)


class SelectionEmpty(MalformedInput):
    """Nothing is selected"""

    remedy = "Name at least one device, with the version of it that you saw."


class SelectedTwice(MalformedInput):
    """A device is selected twice"""

    remedy = "Name each device once."


class PlaceMissing(MalformedInput):
    """Nothing says into which tier and site to approve"""

    remedy = "Name tier and site; other acts take neither."


class LabellingMisplaced(MalformedInput):
    """Only labelling takes labels to set and to remove, and needs them"""

    remedy = "Name what to set or to remove for the act `label`, and for no other."


@dataclass(frozen=True, slots=True)
class Selected:
    """A device, and the version of it that the operator saw."""

    id: DeviceId
    version: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What shall become of which devices. `tier` and `site` say where approved ones go; `labels` None leaves theirs.

    `labelling` is what labelling sets and removes, `revoke` whether certificates with the old labels end with it.
    """

    event: Event
    devices: Sequence[Selected]
    tier: Tier | None = None
    site: Site | None = None
    labels: Mapping[str, str] | None = None
    labelling: Labelling | None = None
    revoke: bool = False

    def check(self) -> None:
        """Raises SelectionEmpty, SelectedTwice, PlaceMissing, LabellingMisplaced."""
        if not self.devices:
            raise SelectionEmpty
        if len({selected.id for selected in self.devices}) != len(self.devices):
            raise SelectedTwice
        placed = self.tier is not None and self.site is not None
        if placed != (self.event is Event.APPROVE):
            raise PlaceMissing(seen=f"{self.event.value} {'with' if placed else 'without'} a place")
        labels = self.event is Event.LABEL
        if (self.labelling is not None) != labels or (self.revoke and not labels):
            raise LabellingMisplaced(seen=self.event.value)


@dataclass(slots=True)
class Outcome:
    """Which devices were done, or would be, and why which others were not."""

    done: list[Device] = field(default_factory=list)
    left: list[tuple[DeviceId, AttestdError]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Selections:
    """The verb. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry

    def preview(self, selection: Selection) -> Outcome:
        """What `carry_out` would do now; nothing is changed. Devices are shown as they are."""
        selection.check()
        with self.registry.reading() as c:
            return _sorted_out(c, selection, selection.devices, to_act=False)

    def carry_out(self, selection: Selection, act: Act) -> Outcome:
        """Does it, piece by piece, each device with its audit row. Raises MalformedLabels for all at once."""
        selection.check()
        outcome = Outcome()
        for start in range(0, len(selection.devices), _PIECE):
            with self.registry.acting() as c:
                piece = _sorted_out(c, selection, selection.devices[start : start + _PIECE], to_act=True)
                piece.done = [self._decide(c, selection, device, act) for device in piece.done]
            outcome.done += piece.done
            outcome.left += piece.left
        return outcome

    def _decide(self, c: Connection, selection: Selection, device: Device, act: Act) -> Device:
        seen = device.state_version
        if selection.event is Event.APPROVE:
            assert selection.tier is not None  # noqa: S101 - `check` saw to it
            assert selection.site is not None  # noqa: S101
            tier, site, labels = selection.tier, selection.site, selection.labels
            return deciding.approve(c, device.id, tier=tier, site=site, labels=labels, act=act, expected_version=seen)
        if selection.labelling is not None:
            labelling, revoke = selection.labelling, selection.revoke
            return deciding.relabel(c, device.id, labelling, revoke=revoke, act=act, expected_version=seen)
        if selection.event is Event.DEMAND:
            within = int(self.settings.attestation.demand_within.total_seconds())
            return deciding.demand(c, device.id, within=within, act=act, expected_version=seen)
        return deciding.change_state(c, device.id, selection.event, act=act, expected_version=seen)


def _sorted_out(c: Connection, selection: Selection, selected: Sequence[Selected], *, to_act: bool) -> Outcome:
    """Those to whom the event may happen, as they are now, and what hinders the others."""
    known = devices.by_ids(c, [one.id for one in selected], to_act=to_act)
    outcome = Outcome()
    for one in selected:
        device = known.get(one.id)
        if device is None:
            outcome.left.append((one.id, UnknownDevice(seen=one.id)))
        elif (hindrance := _hindrance(device, one, selection)) is not None:
            outcome.left.append((one.id, hindrance))
        else:
            outcome.done.append(device)
    return outcome


def _hindrance(device: Device, selected: Selected, selection: Selection) -> AttestdError | None:
    event = selection.event
    if device.state_version != selected.version:
        return StateChanged(seen=f"version {device.state_version}", expected=f"version {selected.version}")
    if device.state not in TRANSITIONS[event].come_from:
        return refusal(device.id, event, device.state)
    if selection.labelling is not None:
        try:
            selection.labelling.of(device.labels)
        except (MalformedLabels, LabelsUnchanged) as hindrance:
            return hindrance
    return None
