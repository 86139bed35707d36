"""What a restore does to a registry, row by row; whole services come back in tests/e2e/test_restore.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from attestd.credentials.bundle import Bundle
from attestd.credentials.status import Status, StatusList
from attestd.ids import Serial
from attestd.registry import (
    identities,
    invitations,
    issued,
    operators,
    passkeys,
    policies,
    recovery,
    revision,
    sessions,
    transitions,
)
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.operators import Role
from attestd.registry.recovery import IndicesExhausted, Recovered, recover
from attestd.registry.states import State
from tests import authority as a
from tests.unit.registry.conftest import CLOCK, NOW, RESULT, Fleet

AT = datetime.fromtimestamp(NOW, UTC)


def newest(*valid: int, size: int = 8, **members: Any) -> Bundle:
    """A bundle that calls these indices valid, and all others invalid."""
    status = StatusList.of(dict.fromkeys(valid, Status.VALID), size, rest=Status.INVALID)
    return replace(a.bundle(), **{"status": status, "revoked": frozenset(), "policy_version": 1} | members)


def recovered(fleet: Fleet, bundle: Bundle | None) -> Recovered:
    with fleet.registry.acting() as c:
        if revision.epoch(c) == 1:
            policies.add(c, text="permit (principal, action, resource);", created_by="test", now=NOW)
        return recover(c, now=AT, newest=bundle, longest=timedelta(days=90), keep_operator="admin", detail={})


def index(device: Device) -> int:
    assert device.status_index is not None
    return device.status_index


def test_an_active_device_is_suspended_until_it_attests(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    recovered(fleet, newest(index(device)))
    after = fleet.read(device)
    assert (after.state, after.attested_at, after.attestation_good_until) == (State.ACTIVE, None, None)
    assert fleet.status(after) is Status.SUSPENDED
    before = fleet.revision()
    with fleet.registry.acting() as c:
        attested = transitions.attestation(
            device.id,
            expected_version=after.state_version,
            result=RESULT,
            clock=CLOCK,
            good_until=NOW + 3600,
            now=NOW,
            counts_again=True,
        )
        perform(c, *attested)
    assert fleet.status(after) is Status.VALID
    assert fleet.revision() > before  # or no bundle would say so


def test_no_index_is_anybodys_twice(fleet: Fleet) -> None:
    """Not of those in the backup, not of those in the bundle, nor of any that were handed out after both."""
    kept = [fleet.device(state) for state in (State.ACTIVE, State.QUARANTINED, State.RETIRED, State.APPROVED)]
    bundle = newest(*map(index, kept), size=5000)
    recovered(fleet, bundle)
    after = [index(fleet.read(device)) for device in kept]
    assert min(after) >= len(bundle.status) + recovery.SKIPPED_INDICES
    assert sorted(after) == list(range(min(after), min(after) + len(kept)))
    assert index(fleet.device(State.APPROVED)) == max(after) + 1


def test_states_that_a_restore_keeps(fleet: Fleet) -> None:
    kept = [fleet.device(state) for state in (State.PENDING, State.REJECTED, State.QUARANTINED, State.RETIRED)]
    for bundle in (newest(size=100), None):
        recovered(fleet, bundle)
        assert [fleet.read(device).state for device in kept] == [device.state for device in kept]


@pytest.mark.parametrize("said", [Status.INVALID, Status.SUSPENDED])
def test_who_is_not_called_valid_is_quarantined(fleet: Fleet, said: Status) -> None:
    good, bad = fleet.device(State.ACTIVE), fleet.device(State.ACTIVE)
    bundle = newest()
    status = StatusList.of({index(good): Status.VALID, index(bad): said}, 8, rest=Status.INVALID)
    assert recovered(fleet, replace(bundle, status=status)).quarantined == 1
    assert fleet.read(good).state is State.ACTIVE
    assert (fleet.read(bad).state, fleet.read(bad).state_version) == (State.QUARANTINED, bad.state_version + 1)


def test_who_is_beyond_the_bundles_list_is_quarantined(fleet: Fleet) -> None:
    """Absence is no word for anybody."""
    for _ in range(4):
        device = fleet.device(State.ACTIVE)
    recovered(fleet, newest(0, 1, 2, size=3))
    assert fleet.read(device).state is State.QUARANTINED


def test_revocations_are_kept_until_no_certificate_can_live(fleet: Fleet) -> None:
    unknown = Serial(12345)
    assert recovered(fleet, newest(revoked=frozenset({unknown}))).revoked == 1
    with fleet.registry.reading() as c:
        for days, listed in ((0, True), (89, True), (91, False)):
            serials = {entry.serial for entry in issued.revoked_unexpired(c, now=NOW + days * 86400)}
            assert (unknown in serials) is listed


def test_nobody_is_signed_in_after_a_restore(fleet: Fleet) -> None:
    """A session that was ended after the backup, a passkey that was removed, a link that was used: none comes back."""
    with fleet.registry.acting() as c:
        for name in ("admin", "ada"):
            operators.admit_person(c, name=name, role=Role.ADMIN, now=NOW)
            passkeys.add(
                c,
                id=f"pk-{name}",
                credential=name.encode(),
                operator=name,
                public_key=b"key",
                sign_count=0,
                label="phone",
                transports=(),
                backed_up=False,
                now=NOW,
            )
            identities.bind(c, issuer="https://i", subject=name, operator=name, by_claims=True, now=NOW)
            sessions.begin(
                c,
                id=f"s-{name}",
                thumbprint=name.encode(),
                public_key=b"key",
                operator=name,
                method="passkey",
                passkey=f"pk-{name}",
                agent="",
                address="",
                now=NOW,
                ends_at=NOW + 3600,
                idle=1800,
            )
        invitations.add(
            c, id="i", token=b"t" * 32, name="bob", role=Role.ADMIN, created_by="x", now=NOW, expires_at=NOW + 9
        )
    assert recovered(fleet, None).operators_disabled == ("ada",)
    with fleet.registry.reading() as c:
        assert not passkeys.any_at_all(c)
        assert not identities.any_at_all(c)
        assert sessions.live(c, operator=None, now=NOW, idle=1800) == []
        assert invitations.every_open(c, now=NOW) == []
        assert sessions.by_id(c, "s-admin").ended_because == "the service was restored from a backup"


def test_the_epoch_passes_the_bundles(fleet: Fleet) -> None:
    """Also where the clock is behind."""
    seen = 10**15
    assert recovered(fleet, newest(epoch=seen)).epoch == seen + 1
    assert recovered(fleet, None).epoch == seen + 2


def test_no_room_for_another_restore(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.device(State.APPROVED)
    monkeypatch.setattr(recovery, "_MOST_INDICES", recovery.SKIPPED_INDICES)
    before = fleet.everything()
    with pytest.raises(IndicesExhausted):
        recovered(fleet, None)
    assert fleet.everything() == before
