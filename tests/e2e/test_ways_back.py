"""Ways back (docs/recovery.md): what a device does by itself after a mishap, and what takes an operator. Nobody visits.

A real TPM in software, the agent's daemon step by step, and the whole service over its registry, in one process with
one clock: weeks pass in no time.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attestd.config import AttestationSettings, ReferenceSettings
from attestd.protocol.messages import WaitAnswer
from attestd.registry import issued
from attestd.registry.states import State
from attestd_agent.failures import KeysNotOfThisTpm
from attestd_agent.records import Enrolled
from attestd_agent.schedule import Act, Plan
from attestd_agent.server import ServerRefused
from attestd_agent.state import StateUnwritable
from tests.e2e.conftest import FIRMWARE as OLD_FIRMWARE
from tests.real_machine import Machine, restart
from tests.service import SITE, World
from tests.software_tpm import SoftwareTpm

pytestmark = pytest.mark.database
NEW_FIRMWARE = b"firmware 1.1"


# ---- Time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, 45, 150])
def test_a_device_that_slept_for_weeks(world: World, machine: Machine, days: int) -> None:
    """Its certificate and its attestation have ended; its keys are good for ever."""
    before = machine.known
    world.clock.advance(days=days)
    assert not machine.is_well
    machine.switch_on()
    assert machine.plan.act is Act.ATTEST
    assert machine.plan.delay <= 5
    assert machine.steps() == 1
    assert (machine.known.ak, machine.known.ck) == (before.ak, before.ck)
    assert machine.known.record.spiffe_id == before.record.spiffe_id


def test_meanwhile_it_can_do_nothing_else(world: World, machine: Machine) -> None:
    world.clock.advance(days=45)
    with pytest.raises(ServerRefused) as refused:
        machine.agent._renew(new_key=False)
    assert refused.value.problem == "attestation-overdue"
    assert machine.row.state is State.ACTIVE


def test_one_that_was_retired_while_it_slept_stays_so(world: World, machine: Machine) -> None:
    """Sleeping is no way around an operator."""
    world.operator.post(f"/v1/admin/devices/{machine.row.id}/retire", {"v": 1, "reason": "sold"})
    world.clock.advance(days=45)
    machine.switch_on()
    for _ in range(4):
        machine.step()
    assert not machine.is_well
    assert machine.row.state is State.RETIRED


# ---- The device's disk ----------------------------------------------------------------------------------------------


def test_a_device_that_was_reimaged(world: World, machine: Machine, tmp_path: Path) -> None:
    """The same TPM: the same device, by new keys. What the lost disk held counts no more."""
    before, serials = machine.known, {one.serial for one in machine.certificates()}
    machine.disk = tmp_path / "another state"
    machine.switch_on()
    assert machine.plan == Plan(Act.ENROLL, 0.0)
    assert machine.steps() == 1
    assert machine.known.record.spiffe_id == before.record.spiffe_id
    assert (machine.known.ak != before.ak, machine.known.ck != before.ck) == (True, True)
    assert {one.serial: one.revoked_at is None for one in machine.certificates() if one.serial in serials} == (
        dict.fromkeys(serials, False)
    )


def test_who_found_the_lost_disk_has_nothing(world: World, machine: Machine, tmp_path: Path) -> None:
    """Even with the TPM at hand: the keys are not the device's any more."""
    lost = machine.agent
    machine.disk = tmp_path / "another state"
    machine.switch_on()
    machine.step()
    for act in (lost.attest, lambda: lost._renew(new_key=False), lambda: lost._token("edge", "dpop")):
        with pytest.raises(ServerRefused) as refused:
            act()
        assert refused.value.problem == "signature-wrong"


def test_an_old_backup_of_the_disk_is_the_same(world: World, machine: Machine, tmp_path: Path) -> None:
    """Its keys don't count any more; the daemon finds out, and enrolls once more."""
    old, before = machine.disk, machine.known
    machine.disk = tmp_path / "another state"
    machine.switch_on()
    machine.step()
    world.clock.advance(hours=1)
    machine.disk = old
    machine.switch_on()
    machine.step()
    assert machine.plan.act is Act.ENROLL
    assert machine.steps() == 1
    assert machine.known.record.spiffe_id == before.record.spiffe_id


def test_a_reimaged_one_that_was_quarantined_stays_so(world: World, machine: Machine, tmp_path: Path) -> None:
    world.operator.post(f"/v1/admin/devices/{machine.row.id}/quarantine", {"v": 1, "reason": "seen in a pawnshop"})
    machine.disk = tmp_path / "another state"
    machine.switch_on()
    machine.step()
    assert machine.row.state is State.QUARANTINED
    assert machine.agent.state.load() is None


class FullDisk:
    """There is no room, or there is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        write = os.write

        def no_room(descriptor: int, data: Any) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data)

        monkeypatch.setattr("attestd_agent.state.os.write", no_room)


def test_a_device_whose_disk_is_full(world: World, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on with what it has, says what to do, and is well at the first act after there is room."""
    before = machine.known
    disk = FullDisk(monkeypatch)
    with pytest.raises(StateUnwritable, match="No space left"):
        machine.agent.attest()
    assert machine.known.leaf == before.leaf
    machine.step()
    assert (machine.plan.act, machine.known.leaf == before.leaf) == (Act.ATTEST, True)
    disk.full = False
    assert machine.steps() == 1
    assert machine.known.ck == before.ck


def test_on_a_full_disk_no_new_keys_are_asked_for(
    world: World, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service would revoke those that the disk holds."""
    count = len(machine.certificates())
    disk = FullDisk(monkeypatch)
    with pytest.raises(StateUnwritable):
        machine.agent.enroll()
    assert len(machine.certificates()) == count
    assert machine.certificates()[0].revoked_at is None
    disk.full = False
    assert isinstance(machine.agent.attest(), Enrolled)


# ---- The TPM --------------------------------------------------------------------------------------------------------


def test_a_device_whose_tpm_was_cleared(world: World, machine: Machine) -> None:
    """Its keys are gone, its EK is not: it is the same device, and proves it."""
    before = machine.known
    machine.clear_tpm()
    with pytest.raises(KeysNotOfThisTpm):
        machine.agent.attest()
    machine.boot(OLD_FIRMWARE)
    world.clock.advance(hours=1)
    machine.switch_on()
    machine.step()
    assert machine.plan.act is Act.ENROLL
    assert machine.steps() == 1
    assert machine.known.record.spiffe_id == before.record.spiffe_id
    assert machine.known.ck != before.ck


@pytest.mark.parametrize("certified", [False, True])
def test_a_device_whose_tpm_was_replaced(
    world: World, machine: Machine, new_tpm: Callable[[], SoftwareTpm], certified: bool
) -> None:
    """An operator says so, by the new TPM's EK hash; the device does the rest. One that a maker certified has asked by
    then, so that its hash can be read from afar."""
    before, id_before, old = machine.known, machine.row.id, (machine.tpm, machine.vouched)
    machine.insert(new_tpm(), certified=certified)
    machine.boot(OLD_FIRMWARE)
    world.clock.advance(minutes=40)
    machine.switch_on()
    machine.step()
    assert machine.plan.act is Act.ENROLL
    machine.step()
    ek_hash = machine.row.ek_hash.hex() if certified else machine.ek_hash
    message = {"v": 1, "ek_hash": ek_hash, "reason": "the board died"}
    assert world.operator.post(f"/v1/admin/devices/{id_before}/replace", message).status_code == 200
    assert machine.steps() == 1
    assert machine.known.record.device_id == before.record.device_id
    with world.registry.reading() as c:
        held = [one for one in issued.page(c, device_id=id_before) if one.serial.number == before.leaf.serial_number]
    assert [one.revoked_at is None for one in held] == [False]
    machine.tpm, machine.vouched = old
    machine.switch_on()
    with pytest.raises(ServerRefused) as refused:
        machine.agent.enroll()
    assert refused.value.problem == "endorsement-key-blocked"


def test_another_tpm_without_an_operator_s_word_is_another_device(
    world: World, machine: Machine, new_tpm: Callable[[], SoftwareTpm]
) -> None:
    """The old disk in a new machine: its keys are worthless there, and an unknown TPM without certificate is nobody."""
    machine.insert(new_tpm(), certified=False)
    world.clock.advance(hours=1)
    machine.switch_on()
    for _ in range(3):
        machine.step()
    assert machine.plan.act is Act.ENROLL
    with pytest.raises(ServerRefused):
        machine.agent.enroll()


# ---- The firmware ---------------------------------------------------------------------------------------------------


def release(name: str, *firmware: bytes) -> ReferenceSettings:
    """What PCR 0 holds after a boot of one of these, and PCR 7, where nobody measured anything."""
    values = tuple(hashlib.sha256(bytes(32) + hashlib.sha256(one).digest()).digest() for one in firmware)
    return ReferenceSettings(name, {"sha256": {0: values, 7: (bytes(32),)}})


OLD, NEW = release("firmware 1.0", OLD_FIRMWARE), release("firmware 1.1", NEW_FIRMWARE)


def test_a_device_whose_firmware_was_updated_by_an_overlapping_manifest(world: World, machine: Machine) -> None:
    """The new version is known before the first device has it: nobody notices."""
    restart(world, references=(OLD, NEW))
    machine.boot(OLD_FIRMWARE)
    assert isinstance(machine.agent.attest(), Enrolled)
    machine.boot(NEW_FIRMWARE)
    assert isinstance(machine.agent.attest(), Enrolled)
    assert machine.row.state is State.ACTIVE


@pytest.fixture
def quarantined(world: World, machine: Machine) -> Machine:
    """Updated before anybody said that the new version is good."""
    restart(world, references=(OLD,))
    machine.boot(NEW_FIRMWARE)
    assert isinstance(machine.agent.attest(), WaitAnswer)
    assert machine.row.state is State.QUARANTINED
    machine.plan = machine.daemon._plan()
    return machine


def test_it_asks_again_by_itself_and_stays_where_it_is(world: World, quarantined: Machine) -> None:
    for _ in range(3):
        quarantined.step()
        assert quarantined.plan.act is Act.ATTEST
    assert quarantined.row.state is State.QUARANTINED
    assert quarantined.agent.state.waiting() is not None


def test_it_comes_back_by_the_policy_once_the_version_is_known(world: World, quarantined: Machine) -> None:
    restart(world, references=(OLD, NEW), attestation=AttestationSettings(release_after_good=True))
    assert quarantined.steps() == 1
    assert quarantined.agent.state.waiting() is None


def test_without_such_a_policy_an_operator_releases_it(world: World, quarantined: Machine) -> None:
    restart(world, references=(OLD, NEW))
    quarantined.step()
    assert quarantined.row.state is State.QUARANTINED
    release = f"/v1/admin/devices/{quarantined.row.id}/release"
    assert world.operator.post(release, {"v": 1, "reason": "1.1 is ours"}).status_code == 200
    assert quarantined.steps() == 1


def test_a_release_alone_does_not_hold_under_the_old_manifest(world: World, quarantined: Machine) -> None:
    """Whoever releases without saying what is good meets the device again."""
    release = f"/v1/admin/devices/{quarantined.row.id}/release"
    world.operator.post(release, {"v": 1, "reason": "let it in"})
    quarantined.step()
    assert quarantined.row.state is State.QUARANTINED


def test_going_back_to_the_old_version_is_a_way_too(world: World, quarantined: Machine) -> None:
    restart(world, attestation=AttestationSettings(release_after_good=True))
    quarantined.boot(OLD_FIRMWARE)
    assert quarantined.steps() == 1


# ---- Operators ------------------------------------------------------------------------------------------------------


def test_one_that_an_operator_quarantined_comes_back_by_an_operator(world: World, machine: Machine) -> None:
    device = f"/v1/admin/devices/{machine.row.id}"
    world.operator.post(f"{device}/quarantine", {"v": 1, "reason": "seen in a pawnshop"})
    world.clock.advance(hours=1)
    machine.switch_on()
    for _ in range(2):
        machine.step()
        assert machine.plan.act is Act.ATTEST
    assert machine.row.state is State.QUARANTINED
    world.operator.post(f"{device}/release", {"v": 1, "reason": "it was another one"})
    assert machine.steps() == 1


def test_one_that_was_retired_asks_when_told_to_and_comes_back_by_an_approval(world: World, machine: Machine) -> None:
    device = f"/v1/admin/devices/{machine.row.id}"
    world.operator.post(f"{device}/retire", {"v": 1, "reason": "sold"})
    world.clock.advance(hours=1)
    machine.switch_on()
    for _ in range(2):
        machine.step()
    assert machine.row.state is State.RETIRED, "it does not knock by itself"
    assert isinstance(machine.agent.enroll(), WaitAnswer)
    machine.plan = machine.daemon._plan()
    message = {"v": 1, "tier": "device", "site": SITE}
    assert world.operator.post(f"{device}/approve", message).status_code == 200
    assert machine.steps() == 1


# ---- Other words of the service -------------------------------------------------------------------------------------


def test_a_policy_that_names_other_pcrs_costs_no_enrollment(world: World, machine: Machine) -> None:
    before = machine.known
    restart(world, attestation=AttestationSettings(pcrs={"sha256": (0, 7, 10)}))
    world.clock.advance(hours=1)
    machine.switch_on()
    assert machine.steps() == 1
    assert (machine.known.ak, machine.known.ck) == (before.ak, before.ck)
