"""Which verbs meet on which device, and how many of their interleavings are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attestd.registry.states import Event
from tests.races.cast import Cast, Part

__all__ = ["ON_POSTGRESQL", "SCENES", "Scene"]

ON_POSTGRESQL = 25  # of each scene: waiting for locks takes its time


@dataclass(frozen=True)
class Scene:
    """`parts` makes the verbs; `tries` interleavings are played, or all, if there are fewer (`tries` says how many)."""

    name: str
    parts: Callable[[Cast], list[Part]]
    tries: int

    def __str__(self) -> str:
        return self.name


_ASKS: dict[str, Callable[[Cast, str], Part]] = {
    "renew": Cast.renew,
    "token": Cast.token,
    "rekey": Cast.rekey,
    "attest": Cast.attest,
    "complete": Cast.complete,
}
_ENDS: dict[str, Callable[[Cast, str], Part]] = {
    "quarantine": lambda cast, slot: cast.act(slot, Event.QUARANTINE),
    "retire": lambda cast, slot: cast.act(slot, Event.RETIRE),
    "replace": lambda cast, slot: cast.replace(slot, "unknown"),
    "quarantine and release": lambda cast, slot: cast.acts(slot, Event.QUARANTINE, Event.RELEASE),
    "revoke": lambda cast, slot: cast.revoke(slot),
    "bad attestation": lambda cast, slot: cast.attest(slot, bad=True),
}


def _pair(ask: str, end: str) -> Scene:
    return Scene(f"{ask} / {end}", lambda cast: [_ASKS[ask](cast, "active"), _ENDS[end](cast, "active")], 135)


def _twice(name: str, part: Callable[[Cast], Part]) -> Scene:
    """The very same request, sent again before the first answer came."""
    return Scene(f"{name} / the same again", lambda cast: [part(cast)] * 2, 80)


def _scene(name: str, tries: int, *parts: Callable[[Cast], Part]) -> Scene:
    return Scene(name, lambda cast: [part(cast) for part in parts], tries)


def _act(slot: str, event: Event, *, seen: bool = False) -> Callable[[Cast], Part]:
    return lambda cast: cast.act(slot, event, seen=seen)


def _ask(ask: str, slot: str) -> Callable[[Cast], Part]:
    return lambda cast: _ASKS[ask](cast, slot)


def _approve(slot: str, *, seen: bool = False) -> Callable[[Cast], Part]:
    return lambda cast: cast.approve(slot, seen=seen)


def _replace(slot: str, new: str, *, seen: bool = False) -> Callable[[Cast], Part]:
    return lambda cast: cast.replace(slot, new, seen=seen)


def _import(slot: str) -> Callable[[Cast], Part]:
    return lambda cast: cast.import_(slot)


def _revoke(slot: str) -> Callable[[Cast], Part]:
    return lambda cast: cast.revoke(slot)


_QUARANTINE, _RELEASE, _RETIRE, _REJECT = Event.QUARANTINE, Event.RELEASE, Event.RETIRE, Event.REJECT

SCENES = [
    # What a device asks against what takes its trust away.
    *(_pair(ask, end) for end in _ENDS for ask in _ASKS),
    # Two requests of one device.
    *(_twice(ask, _ask(ask, "active")) for ask in _ASKS),
    _twice("first enrollment", _ask("complete", "approved")),
    _twice("a request to be approved", _ask("complete", "unknown")),
    *(_scene(f"{ask} / re-keying", 75, _ask(ask, "active"), _ask("rekey", "active")) for ask in _ASKS),
    *(_scene(f"{ask} / enrolling again", 75, _ask(ask, "active"), _ask("complete", "active")) for ask in _ASKS),
    # Before the first credential.
    _scene("two first enrollments", 75, _ask("complete", "approved"), _ask("complete", "approved")),
    _scene("first enrollment / retire", 75, _ask("complete", "approved"), _act("approved", _RETIRE)),
    _scene("first enrollment / replace", 75, _ask("complete", "approved"), _replace("approved", "unknown")),
    _scene("two requests of an unknown device", 75, _ask("complete", "unknown"), _ask("complete", "unknown")),
    _scene("unknown asks / is imported", 75, _ask("complete", "unknown"), _import("unknown")),
    _scene("unknown asks / replaces", 75, _ask("complete", "unknown"), _replace("active", "unknown")),
    _scene("pending asks / approve", 75, _ask("complete", "pending"), _approve("pending")),
    _scene("pending asks / reject", 75, _ask("complete", "pending"), _act("pending", _REJECT)),
    _scene("pending asks / is imported", 75, _ask("complete", "pending"), _import("pending")),
    _scene("pending asks / replaces", 75, _ask("complete", "pending"), _replace("active", "pending")),
    _scene("retired asks / replace", 75, _ask("complete", "retired"), _replace("retired", "unknown")),
    _scene("rejected asks / retire", 70, _ask("complete", "rejected"), _act("rejected", _RETIRE)),
    # Operators.
    _scene("approve / reject", 20, _approve("pending", seen=True), _act("pending", _REJECT, seen=True)),
    _scene("approve / retire", 20, _approve("pending"), _act("pending", _RETIRE)),
    _scene("approve / import", 20, _approve("pending"), _import("pending")),
    _scene("approve / replaces", 20, _approve("pending"), _replace("active", "pending")),
    _scene("import / replaces", 20, _import("unknown"), _replace("active", "unknown")),
    _scene("import / import", 20, _import("unknown"), _import("unknown")),
    _scene("two replaced by one", 20, _replace("active", "unknown"), _replace("second", "unknown")),
    _scene("quarantine / retire", 20, _act("active", _QUARANTINE, seen=True), _act("active", _RETIRE, seen=True)),
    _scene("replace / retire", 20, _replace("active", "unknown", seen=True), _act("active", _RETIRE, seen=True)),
    _scene("release / retire", 20, _act("quarantined", _RELEASE, seen=True), _act("quarantined", _RETIRE, seen=True)),
    _scene("revoke / revoke", 20, _revoke("active"), _revoke("active")),
    _scene("revoke / retire", 20, _revoke("active"), _act("active", _RETIRE)),
    _scene("revoke / replace", 20, _revoke("active"), _replace("active", "unknown")),
    # Out of a quarantine.
    *(
        _scene(f"quarantined {ask} / release", 75, _ask(ask, "quarantined"), _act("quarantined", _RELEASE))
        for ask in _ASKS
    ),
    _scene(
        "attest badly / release", 100, lambda cast: cast.attest("quarantined", bad=True), _act("quarantined", _RELEASE)
    ),
    # Three at once.
    *(
        _scene(
            f"{ask} / quarantine / release",
            150,
            _ask(ask, "active"),
            _act("active", _QUARANTINE),
            _act("active", _RELEASE),
        )
        for ask in _ASKS
    ),
    *(
        _scene(f"{ask} / revoke / retire", 75, _ask(ask, "active"), _revoke("active"), _act("active", _RETIRE))
        for ask in ("renew", "token", "complete")
    ),
    _scene("renew / token / retire", 75, _ask("renew", "active"), _ask("token", "active"), _act("active", _RETIRE)),
    _scene(
        "renew / rekey / quarantine", 75, _ask("renew", "active"), _ask("rekey", "active"), _act("active", _QUARANTINE)
    ),
    _scene("rekey / enroll / retire", 75, _ask("rekey", "active"), _ask("complete", "active"), _act("active", _RETIRE)),
    _scene("ask / approve / reject", 75, _ask("complete", "pending"), _approve("pending"), _act("pending", _REJECT)),
    _scene("ask / approve / import", 75, _ask("complete", "pending"), _approve("pending"), _import("pending")),
    _scene(
        "enroll / retire / replace",
        150,
        _ask("complete", "approved"),
        _act("approved", _RETIRE),
        _replace("approved", "unknown"),
    ),
    _scene(
        "unknown / import / replace",
        150,
        _ask("complete", "unknown"),
        _import("unknown"),
        _replace("active", "unknown"),
    ),
]
