"""Every event in every state (docs/protocol.md, section 3), through the functions that the service calls.

`ALLOWED` is the protocol's table written out by hand: what is not in it must change nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attestd.credentials.status import Status
from attestd.errors import Conflict
from attestd.ids import DeviceId, EkHash
from attestd.registry import admission, demands, devices, relabelling, transitions
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.engine import Connection
from attestd.registry.labels import Labelling
from attestd.registry.states import TRANSITIONS, Event, State, StateChanged, TransitionRefused, UnknownDevice

from .conftest import CLOCK, NOW, RESULT, Fleet

ALLOWED = {
    ("pending", "ask"): "pending",
    ("retired", "ask"): "pending",
    ("pending", "approve"): "approved",
    ("pending", "reject"): "rejected",
    ("approved", "activate"): "active",
    ("active", "activate"): "active",
    ("active", "attest"): "active",
    ("quarantined", "attest"): "quarantined",
    ("active", "demand"): "active",
    ("quarantined", "demand"): "quarantined",
    ("active", "rekey"): "active",
    ("approved", "label"): "approved",
    ("active", "label"): "active",
    ("quarantined", "label"): "quarantined",
    ("active", "quarantine"): "quarantined",
    ("quarantined", "release"): "active",
    ("pending", "retire"): "retired",
    ("approved", "retire"): "retired",
    ("rejected", "retire"): "retired",
    ("active", "retire"): "retired",
    ("quarantined", "retire"): "retired",
    ("approved", "replace"): "approved",
    ("active", "replace"): "approved",
    ("quarantined", "replace"): "approved",
    ("retired", "replace"): "approved",
}
# Replacing needs something to replace: a device that was approved once.
NEVER_APPROVED = {("pending", "replace"), ("rejected", "replace")}
REVOKE_ALL = {"activate", "retire", "replace"}
STATUS = {
    "pending": Status.INVALID,
    "approved": Status.INVALID,
    "rejected": Status.INVALID,
    "active": Status.VALID,
    "quarantined": Status.SUSPENDED,
    "retired": Status.INVALID,
}

Act = Callable[[Fleet, Connection, Device], Device]


def plain(event: Event) -> Act:
    return lambda fleet, c, device: transitions.change_state(
        c, device.id, event, reason="a reason", now=NOW, expected_version=device.state_version
    )


def ask(fleet: Fleet, c: Connection, device: Device) -> Device:
    assert device.ek_public is not None
    return fleet.ask(c, device.ek_public)


def attest(fleet: Fleet, c: Connection, device: Device) -> Device:
    found = {"result": RESULT, "clock": CLOCK, "good_until": NOW + 60, "now": NOW}
    perform(c, *transitions.attestation(device.id, expected_version=device.state_version, **found))
    return devices.by_id(c, device.id)


def rekey(fleet: Fleet, c: Connection, device: Device) -> Device:
    key = {"ck_public": b"new", "ck_name": b"new name"}
    perform(c, transitions.rekeying(device.id, expected_version=device.state_version, now=NOW, **key))
    return devices.by_id(c, device.id)


def demand(fleet: Fleet, c: Connection, device: Device) -> Device:
    return demands.demand(c, device.id, by="ada", reason="", now=NOW, within=60, expected_version=device.state_version)


def replace(fleet: Fleet, c: Connection, device: Device) -> Device:
    return admission.replace_ek(c, device.id, EkHash.of(b"another"), reason="broken", now=NOW)


def label(fleet: Fleet, c: Connection, device: Device) -> Device:
    labelling = Labelling({"rack": "9"})
    done = relabelling.relabel(
        c, device.id, labelling, revoke=False, by="ada", reason="", now=NOW, expected_version=device.state_version
    )
    return done.device


ACTS: dict[str, Act] = {
    "ask": ask,
    "approve": lambda fleet, c, device: fleet.approve(c, device, expected_version=device.state_version),
    "reject": plain(Event.REJECT),
    "activate": lambda fleet, c, device: fleet.activate(c, device),
    "attest": attest,
    "demand": demand,
    "rekey": rekey,
    "label": label,
    "quarantine": plain(Event.QUARANTINE),
    "release": plain(Event.RELEASE),
    "retire": plain(Event.RETIRE),
    "replace": replace,
}
EVERY = [(state.value, event.value) for state in State for event in Event]


def test_the_data_say_what_the_protocol_says() -> None:
    said = {
        (state.value, event.value): (transition.go_to or state).value
        for event, transition in TRANSITIONS.items()
        for state in transition.come_from
    }
    assert said == ALLOWED | dict.fromkeys(NEVER_APPROVED, "approved")
    assert set(ACTS) == {event.value for event in Event}


@pytest.mark.parametrize(("state", "event"), [pair for pair in EVERY if pair in ALLOWED])
def test_allowed(fleet: Fleet, state: str, event: str) -> None:
    before = fleet.device(State(state))
    had_certificate = state in ("active", "quarantined")
    revision = fleet.revision()
    with fleet.registry.acting() as c:
        returned = ACTS[event](fleet, c, before)
    after = fleet.read(before)
    assert returned == after
    assert after.state == ALLOWED[state, event]
    same_version = event == "attest" or (state, event) == ("pending", "ask")
    assert after.state_version == before.state_version + (0 if same_version else 1)
    if after.status_index is not None:
        assert fleet.status(after) is STATUS[after.state]
    if had_certificate:
        assert bool(fleet.revoked()) == (event in REVOKE_ALL)
    if fleet.status(after) is not status_of(before) or (had_certificate and event in REVOKE_ALL):
        assert fleet.revision() > revision


def status_of(device: Device) -> Status | None:
    return None if device.status_index is None else STATUS[device.state]


@pytest.mark.parametrize(("state", "event"), [p for p in EVERY if p not in ALLOWED and p not in NEVER_APPROVED])
def test_refused(fleet: Fleet, state: str, event: str) -> None:
    device = fleet.device(State(state))
    before = fleet.everything()
    with pytest.raises(TransitionRefused) as refused, fleet.registry.acting() as c:
        ACTS[event](fleet, c, device)
    assert refused.value.seen == state
    assert fleet.everything() == before


@pytest.mark.parametrize(("state", "event"), sorted(NEVER_APPROVED))
def test_nothing_to_replace(fleet: Fleet, state: str, event: str) -> None:
    device = fleet.device(State(state))
    before = fleet.everything()
    with pytest.raises(admission.NeverApproved), fleet.registry.acting() as c:
        ACTS[event](fleet, c, device)
    assert fleet.everything() == before


# ---- The version that was appraised -----------------------------------------------------------------------------

VERSIONED = {
    "approve": State.PENDING,
    "reject": State.PENDING,
    "activate": State.ACTIVE,
    "attest": State.ACTIVE,
    "demand": State.ACTIVE,
    "rekey": State.ACTIVE,
    "label": State.ACTIVE,
    "quarantine": State.ACTIVE,
    "release": State.QUARANTINED,
    "retire": State.ACTIVE,
}


@pytest.mark.parametrize("event", VERSIONED)
def test_an_event_decided_on_an_older_version(fleet: Fleet, event: str) -> None:
    """The twin with the right version is `test_allowed`."""
    device = fleet.device(VERSIONED[event])
    with fleet.registry.acting() as c:
        c.exec_driver_sql("UPDATE devices SET state_version = state_version + 1")
    before = fleet.everything()
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        ACTS[event](fleet, c, device)
    assert fleet.everything() == before


def test_a_replacement_decided_on_an_older_version(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    before = fleet.everything()
    for version in (device.state_version - 1, device.state_version + 1):
        with pytest.raises(StateChanged), fleet.registry.acting() as c:
            admission.replace_ek(c, device.id, EkHash.of(b"other"), reason="broken", now=NOW, expected_version=version)
    assert fleet.everything() == before
    with fleet.registry.acting() as c:
        admission.replace_ek(
            c, device.id, EkHash.of(b"other"), reason="broken", now=NOW, expected_version=device.state_version
        )


@pytest.mark.parametrize("event", [Event.QUARANTINE, Event.RETIRE])
def test_an_operator_need_not_know_the_version(fleet: Fleet, event: Event) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        transitions.change_state(c, device.id, event, reason="found in the street", now=NOW)
    after = fleet.read(device)
    assert after.state is TRANSITIONS[event].go_to
    assert after.state_reason == "found in the street"


def test_a_version_that_changed_is_said_before_a_state_that_refuses(fleet: Fleet) -> None:
    """Who decided on an older version is told so, whatever the state is by now."""
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        transitions.change_state(c, device.id, Event.RETIRE, reason="scrapped", now=NOW)
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        transitions.change_state(c, device.id, Event.RELEASE, reason="", now=NOW, expected_version=device.state_version)


@pytest.mark.parametrize("event", sorted(set(ACTS) - {"ask"}))
def test_a_device_that_does_not_exist(fleet: Fleet, event: str) -> None:
    device = fleet.device(State.PENDING)
    with fleet.registry.acting() as c:
        admission.purge_pending(c, older_than=NOW + 1)
    before = fleet.everything()
    with pytest.raises(UnknownDevice), fleet.registry.acting() as c:
        ACTS[event](fleet, c, device)
    assert fleet.everything() == before


@pytest.mark.parametrize(
    "event", [Event.ASK, Event.APPROVE, Event.ACTIVATE, Event.ATTEST, Event.DEMAND, Event.REKEY, Event.REPLACE]
)
def test_events_with_more_to_them_have_functions_of_their_own(fleet: Fleet, event: Event) -> None:
    device = fleet.device(State.PENDING)
    with pytest.raises(ValueError, match="function of its own"), fleet.registry.acting() as c:
        transitions.change_state(c, device.id, event, reason="", now=NOW)
    assert fleet.read(device) == device


def test_conflicts_are_conflicts() -> None:
    assert issubclass(StateChanged, Conflict)
    assert issubclass(TransitionRefused, Conflict)


def test_a_device_returns_from_retirement_only_by_approval(fleet: Fleet) -> None:
    device = fleet.returning()
    assert device.state is State.PENDING
    assert fleet.status(device) is Status.INVALID
    with pytest.raises(TransitionRefused), fleet.registry.acting() as c:
        fleet.activate(c, device)
    with fleet.registry.acting() as c:
        approved = fleet.approve(c, device)
        active = fleet.activate(c, approved)
    assert active.status_index == device.status_index
    assert active.id == DeviceId(device.id)
