"""What an operator decides about one device, within a transaction that somebody else holds: the act and its audit row.

`instance` decides about one device a transaction, `selections` about many.
"""

from __future__ import annotations

from collections.abc import Mapping

from attestd.ids import DeviceId, Site, Tier
from attestd.operations.act import Act
from attestd.registry import admission, brake, demands, relabelling, transitions
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.engine import Connection
from attestd.registry.labels import Labelling
from attestd.registry.states import Event


def approve(
    c: Connection,
    device_id: DeviceId,
    *,
    tier: Tier,
    site: Site,
    labels: Mapping[str, str] | None,
    act: Act,
    expected_version: int | None,
) -> Device:
    """Binds a waiting device to a tier and a site. Issues nothing: the agent enrolls again by itself."""
    device = admission.approve(
        c, device_id, tier=tier, site=site, labels=labels, now=act.at, expected_version=expected_version
    )
    act.note(c, "approve", str(device_id), tier=tier.value, site=str(site))
    return device


def change_state(c: Connection, device_id: DeviceId, event: Event, *, act: Act, expected_version: int | None) -> Device:
    """Reject, quarantine, release or retire; `expected_version` is what the operator saw, if that matters."""
    device = transitions.change_state(
        c, device_id, event, reason=act.reason, now=act.at, expected_version=expected_version
    )
    perform(c, brake.forgetting(device_id))  # an operator decided
    act.note(c, event.value, str(device_id), version=device.state_version)
    return device


def demand(c: Connection, device_id: DeviceId, *, within: int, act: Act, expected_version: int | None) -> Device:
    """This device shall attest now: its agent is told, and after `within` seconds it is overdue unless it did."""
    device = demands.demand(
        c,
        device_id,
        by=act.actor,
        reason=act.reason,
        now=act.at,
        within=within,
        expected_version=expected_version,
    )
    act.note(c, "demand", str(device_id), version=device.state_version, until=device.attestation_good_until)
    return device


def relabel(
    c: Connection, device_id: DeviceId, labelling: Labelling, *, revoke: bool, act: Act, expected_version: int | None
) -> Device:
    """Sets and removes labels; the row tells what they were and are. `revoke`: what says the old ones ends now."""
    done = relabelling.relabel(
        c,
        device_id,
        labelling,
        revoke=revoke,
        by=act.actor,
        reason=act.reason,
        now=act.at,
        expected_version=expected_version,
    )
    old, new = dict(done.old), dict(done.device.labels)
    act.note(c, "label", str(device_id), version=done.device.state_version, old=old, new=new, revoked=done.revoked)
    return done.device
