"""Other labels for a device that was approved.

Labels travel in certificates and tokens, and reference manifests are matched by them. So its agent is asked to attest:
what it gets then carries the new labels, and was judged by what is for them. Until then its certificates say the old
ones, unless they are revoked with this act. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from attestd.ids import DeviceId
from attestd.registry import demands, devices, issued, transitions
from attestd.registry.devices import Device
from attestd.registry.labels import Labelling
from attestd.registry.states import TRANSITIONS, Event, StateChanged, refusal


@dataclass(frozen=True, slots=True)
class Relabelled:
    """The device as it is now, the labels that it had, and how many certificates were revoked for it."""

    device: Device
    old: Mapping[str, str]
    revoked: int


def relabel(
    c: Connection,
    device_id: DeviceId,
    labelling: Labelling,
    *,
    revoke: bool,
    by: str,
    reason: str,
    now: int,
    expected_version: int | None = None,
) -> Relabelled:
    """`revoke`: certificates that say the old labels count no more; it has none until it attests.

    Raises UnknownDevice, StateChanged, TransitionRefused, MalformedLabels, LabelsUnchanged.
    """
    seen = devices.by_id(c, device_id)
    if expected_version not in (None, seen.state_version):
        raise StateChanged(
            f"Device {device_id} changed in the meantime.",
            seen=f"version {seen.state_version}",
            expected=f"version {expected_version}",
        )
    if seen.state not in TRANSITIONS[Event.LABEL].come_from:
        raise refusal(device_id, Event.LABEL, seen.state)
    device = transitions.change(
        c,
        device_id,
        Event.LABEL,
        expected_version=seen.state_version,  # the new labels are made of the ones that were seen
        now=now,
        values={"labels": labelling.of(seen.labels)},
    )
    revoked = issued.revoke_all_of(c, device_id, reason="the labels were changed", now=now) if revoke else 0
    if device.state in TRANSITIONS[Event.DEMAND].come_from:
        demands.ask(c, device_id, by=by, reason=reason or "the labels were changed", now=now)
    return Relabelled(device, seen.labels, revoked)
