"""The device's states and what moves it between them (docs/protocol.md, section 3), as data.

`TRANSITIONS` is the whole truth: an event that finds a device in a state outside its `come_from` changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from attestd.errors import Conflict, NotFound


class UnknownDevice(NotFound):
    """There is no such device"""

    remedy = "`attestd devices list` shows the devices that exist."


class StateChanged(Conflict):
    """The device changed while this was decided"""

    remedy = "Nothing was done. Read the device again, then decide again."


class TransitionRefused(Conflict):
    """The device's state does not allow this"""

    remedy = "Nothing was done. `attestd devices show` says which state the device is in."


class State(StrEnum):
    """Where a device stands with this service."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    ACTIVE = "active"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


class Event(StrEnum):
    """What can happen to a device."""

    ASK = "ask"  # an endorsed, activated EK that nobody approved yet
    APPROVE = "approve"
    REJECT = "reject"
    ACTIVATE = "activate"  # a complete enrollment
    ATTEST = "attest"
    DEMAND = "demand"  # that it attests now
    REKEY = "rekey"
    LABEL = "label"  # other labels from now on
    QUARANTINE = "quarantine"
    RELEASE = "release"
    RETIRE = "retire"
    REPLACE = "replace"  # another EK from now on


@dataclass(frozen=True, slots=True)
class Transition:
    """`come_from`: the states in which the event may happen; `go_to`: the state after it, None for the same."""

    come_from: frozenset[State]
    go_to: State | None


_ANY = frozenset(State)

TRANSITIONS: Mapping[Event, Transition] = {
    # A rejected or a quarantined device does not improve its state by asking again.
    Event.ASK: Transition(frozenset({State.PENDING, State.RETIRED}), State.PENDING),
    Event.APPROVE: Transition(frozenset({State.PENDING}), State.APPROVED),
    Event.REJECT: Transition(frozenset({State.PENDING}), State.REJECTED),
    Event.ACTIVATE: Transition(frozenset({State.APPROVED, State.ACTIVE}), State.ACTIVE),
    Event.ATTEST: Transition(frozenset({State.ACTIVE, State.QUARANTINED}), None),
    Event.DEMAND: Transition(frozenset({State.ACTIVE, State.QUARANTINED}), None),
    Event.REKEY: Transition(frozenset({State.ACTIVE}), None),
    # One that waits gets its labels by its approval.
    Event.LABEL: Transition(frozenset({State.APPROVED, State.ACTIVE, State.QUARANTINED}), None),
    Event.QUARANTINE: Transition(frozenset({State.ACTIVE}), State.QUARANTINED),
    Event.RELEASE: Transition(frozenset({State.QUARANTINED}), State.ACTIVE),
    Event.RETIRE: Transition(_ANY - {State.RETIRED}, State.RETIRED),
    Event.REPLACE: Transition(_ANY, State.APPROVED),
}


def refusal(device_id: str, event: Event, seen: State) -> TransitionRefused:
    """The error that says which states would have allowed the event."""
    allowed = ", ".join(sorted(TRANSITIONS[event].come_from))
    return TransitionRefused(f"Device {device_id} can't {event.value} in its state.", seen=seen.value, expected=allowed)
