"""Issued certificates: none for a device that changed, and revocation that misses none."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from attestd.ids import DeviceId, Serial
from attestd.registry import issued, revision, transitions
from attestd.registry.acts import perform
from attestd.registry.engine import Registry
from attestd.registry.issued import AlreadyRevoked, Issued, Revoked, SerialTaken, UnknownCredential
from attestd.registry.states import Event, State, StateChanged

from .conftest import NOW, Fleet

OTHER = {
    "subject": "spiffe://example.org/admin/ada",
    "profile": "admin",
    "not_before": NOW - 60,
    "not_after": NOW + 600,
    "der": b"certificate",
    "thumbprint": b"t" * 32,
}


def test_a_certificate_for_an_active_device(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        certificate = issued.recording(
            device_id=device.id,
            expected_version=device.state_version,
            serial=Serial(77),
            subject="spiffe://example.org/device/site-1/x",
            profile="device",
            not_before=NOW - 60,
            not_after=NOW + 600,
            der=b"DER",
            thumbprint=b"u" * 32,
        )
        perform(c, certificate)
    with fleet.registry.reading() as c:
        found = issued.by_serial(c, Serial(77))
    assert found == Issued(
        number=2,
        serial=Serial(77),
        device_id=device.id,
        subject="spiffe://example.org/device/site-1/x",
        profile="device",
        not_before=NOW - 60,
        not_after=NOW + 600,
        der=b"DER",
        thumbprint=b"u" * 32,
        revoked_at=None,
        revoked_because=None,
    )


@pytest.mark.parametrize("state", sorted(set(State) - {State.ACTIVE}))
def test_no_certificate_in_another_state(fleet: Fleet, state: State) -> None:
    device = fleet.device(state)
    before = fleet.everything()
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        fleet.certificate(c, device)
    assert fleet.everything() == before


@pytest.mark.parametrize("step", [-1, 1])
def test_no_certificate_for_another_version(fleet: Fleet, step: int) -> None:
    device = fleet.device(State.ACTIVE)
    before = fleet.everything()
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        fleet.certificate(c, device, expected_version=device.state_version + step)
    assert fleet.everything() == before


def test_no_certificate_for_nobody(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with pytest.raises(StateChanged), fleet.registry.acting() as c:
        fleet.certificate(c, device, device_id=DeviceId("nobody"))


def test_a_certificate_in_a_state_that_the_caller_names(fleet: Fleet) -> None:
    device = fleet.device(State.QUARANTINED)
    with fleet.registry.acting() as c:
        fleet.certificate(c, device, expected_state=State.QUARANTINED)


def test_a_certificate_for_somebody_who_is_no_device(registry: Registry) -> None:
    with registry.acting() as c:
        issued.record(c, serial=Serial(5), **OTHER)
        found = issued.by_serial(c, Serial(5))
    assert (found.device_id, found.subject, found.profile) == (None, OTHER["subject"], "admin")


def test_a_serial_number_twice(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        issued.record(c, serial=Serial(500), **OTHER)
    before = fleet.everything()
    with pytest.raises(SerialTaken), fleet.registry.acting() as c:
        issued.record(c, serial=Serial(500), **OTHER)
    with pytest.raises(SerialTaken), fleet.registry.acting() as c:
        fleet.certificate(c, device, serial=Serial(500))
    assert fleet.everything() == before


def test_the_largest_serial_number(registry: Registry) -> None:
    largest = Serial((1 << 159) - 1)
    with registry.acting() as c:
        issued.record(c, serial=largest, **OTHER)
        assert issued.by_serial(c, largest).serial == largest


def test_a_certificate_keeps_its_device(fleet: Fleet) -> None:
    """References are enforced: a device with certificates can't vanish."""
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c, pytest.raises(IntegrityError):
        c.execute(text("DELETE FROM devices WHERE id = :wanted"), {"wanted": device.id})


def test_an_unknown_certificate(registry: Registry) -> None:
    with registry.reading() as c, pytest.raises(UnknownCredential):
        issued.by_serial(c, Serial(5))


def test_pages_the_newest_first(fleet: Fleet) -> None:
    one, two = fleet.device(State.ACTIVE), fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        made = [fleet.certificate(c, device) for _ in range(3) for device in (one, two)]
        everything = issued.page(c)
        assert [entry.serial for entry in everything][:6] == made[::-1]
        of_two = issued.page(c, device_id=two.id)
        assert {entry.device_id for entry in of_two} == {two.id}
        assert [entry.serial for entry in of_two][:3] == made[5::-2]
        first = issued.page(c, limit=3)
        assert first + issued.page(c, before=first[-1].number) == everything
        assert issued.page(c, device_id=two.id, before=of_two[0].number, limit=1) == of_two[1:2]


# ---- Revocation -------------------------------------------------------------------------------------------------


def test_revoking_one(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        one, other = fleet.certificate(c, device), fleet.certificate(c, device)
        before = revision.current(c)
        issued.revoke(c, one, reason="key lost", now=NOW + 1)
        assert revision.current(c) > before
        assert (issued.is_revoked(c, one), issued.is_revoked(c, other)) == (True, False)
        assert issued.revoked_unexpired(c, now=NOW) == [Revoked(one, NOW + 1, "key lost")]
        found = issued.by_serial(c, one)
        assert (found.revoked_at, found.revoked_because) == (NOW + 1, "key lost")
        assert issued.by_serial(c, other).revoked_at is None


def test_revoking_one_twice(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        serial = fleet.certificate(c, device)
        issued.revoke(c, serial, reason="key lost", now=NOW)
    before = fleet.everything()
    with pytest.raises(AlreadyRevoked), fleet.registry.acting() as c:
        issued.revoke(c, serial, reason="another reason", now=NOW + 1)
    assert fleet.everything() == before


def test_revoking_an_unknown_one(fleet: Fleet) -> None:
    before = fleet.everything()
    with pytest.raises(UnknownCredential), fleet.registry.acting() as c:
        issued.revoke(c, Serial(5), reason="key lost", now=NOW)
    assert fleet.everything() == before


def test_revoking_all_of_a_device(fleet: Fleet) -> None:
    device, other = fleet.device(State.ACTIVE), fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        expired = fleet.certificate(c, device, not_after=NOW)
        lost = fleet.certificate(c, device)
        issued.revoke(c, lost, reason="key lost", now=NOW - 5)
        spared = fleet.certificate(c, other)
        before = revision.current(c)
        assert issued.revoke_all_of(c, device.id, reason="stolen", now=NOW) == 1
        assert revision.current(c) == before + 1
        assert not issued.is_revoked(c, expired)
        assert not issued.is_revoked(c, spared)
        assert issued.by_serial(c, lost).revoked_because == "key lost"
        assert issued.revoke_all_of(c, device.id, reason="stolen", now=NOW) == 0
        assert revision.current(c) == before + 1


def test_retiring_revokes_every_certificate(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        made = {fleet.certificate(c, device) for _ in range(3)} | {e.serial for e in issued.page(c)}
        transitions.change_state(c, device.id, Event.RETIRE, reason="scrapped", now=NOW)
    assert fleet.revoked() == made


def test_revocations_are_listed_until_the_certificate_expires(fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with fleet.registry.acting() as c:
        short, long = fleet.certificate(c, device, not_after=NOW + 10), fleet.certificate(c, device, not_after=NOW + 20)
        for serial in (long, short):
            issued.revoke(c, serial, reason="", now=NOW)
        listed = [{e.serial for e in issued.revoked_unexpired(c, now=NOW + at)} for at in (0, 9, 10, 19, 20)]
    assert listed == [{short, long}, {short, long}, {long}, {long}, set()]


def test_forgetting_expired_certificates_with_their_revocations(fleet: Fleet) -> None:
    device = fleet.device(State.APPROVED)
    with fleet.registry.acting() as c:
        active = fleet.activate(c, device)
        old, kept = fleet.certificate(c, active, not_after=NOW + 10), fleet.certificate(c, active, not_after=NOW + 20)
        for serial in (old, kept):
            issued.revoke(c, serial, reason="", now=NOW)
        assert issued.purge(c, before=NOW + 20, limit=100) == 1
        assert issued.purge_revocations(c, before=NOW + 20, limit=100) == 1
        assert [entry.serial for entry in issued.page(c)] == [kept]
        assert (issued.is_revoked(c, old), issued.is_revoked(c, kept)) == (False, True)
