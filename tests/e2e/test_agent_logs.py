"""Logs in the attestations of a real TPM: whole, then in parts, then whole again, by what the service knows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from attestd.config import AttestationSettings
from attestd.protocol.evidence import Lately
from attestd_agent.records import Enrolled
from tests import booted
from tests.real_machine import Machine, restart
from tests.service import World

pytestmark = pytest.mark.database
LOGS = AttestationSettings(pcrs={"sha256": tuple(range(11))}, logs=("eventlog", "ima"))


@pytest.fixture
def device(world: World, machine: Machine) -> Machine:
    """Attested once with both logs."""
    restart(world, attestation=LOGS)
    machine.start(booted.Machine())
    assert isinstance(machine.agent.attest(), Enrolled)
    (whole,) = machine.attestations()
    assert machine.booted is not None
    assert (whole.eventlog, whole.ima) == (machine.booted.eventlog, machine.booted.ima())
    return machine


def test_what_the_service_knows_does_not_travel_again(device: Machine) -> None:
    assert device.booted is not None
    log = hashlib.sha256(device.booted.eventlog).digest()
    for count in (3, 4):
        device.use(f"/usr/bin/{count}")
        assert isinstance(device.agent.attest(), Enrolled)
        part = device.attestations()[-1]
        assert (part.eventlog, part.eventlog_sha256) == (None, log)
        assert (part.ima, part.ima_from) == (device.booted.ima(count), count)
        assert device.agent.state.lately() == Lately(log, count + 1)


def test_nothing_new_is_enough(device: Machine) -> None:
    assert isinstance(device.agent.attest(), Enrolled)
    assert (device.attestations()[-1].ima, device.attestations()[-1].ima_from) == (b"", 3)


def test_after_a_reboot_all_of_it_travels_in_the_same_act(device: Machine) -> None:
    """With more entries than were known, so that only the quote tells the boots apart."""
    device.start(booted.Machine("/usr/bin/init", "/usr/bin/sh", "/usr/bin/vim", "/usr/bin/more"))
    assert isinstance(device.agent.attest(), Enrolled)
    first, second = device.attestations()
    assert device.booted is not None
    assert (first.ima_from, second.ima_from, second.ima) == (3, 0, device.booted.ima())
    assert second.eventlog == device.booted.eventlog
    assert device.agent.state.lately().ima == 5


def test_after_a_reboot_with_a_shorter_list_the_agent_knows_by_itself(device: Machine) -> None:
    device.use("/usr/bin/one")
    device.agent.attest()
    device.start(booted.Machine("/usr/bin/init"))
    assert isinstance(device.agent.attest(), Enrolled)
    assert all(one.ima_from == 0 for one in device.attestations())


def test_a_service_that_asks_for_other_things_gets_them_at_once(world: World, device: Machine) -> None:
    restart(world, attestation=AttestationSettings(pcrs={"sha256": (0, 4, 7)}, logs=("eventlog",)))
    assert isinstance(device.agent.attest(), Enrolled)
    *_, last = device.attestations()
    assert (list(last.pcrs["sha256"]), last.ima) == ([0, 4, 7], None)


def test_the_result_lies_where_relying_parties_look(device: Machine) -> None:
    found = device.agent.state.ear_path.read_text("ascii")
    assert found.count(".") == 2
    device.agent.renew()
    assert device.agent.state.ear_path.read_text("ascii") == found
    device.agent.attest()
    assert device.agent.state.ear_path.read_text("ascii") != found


def test_logs_that_were_made_up_are_refused(device: Machine) -> None:
    """The forged twin: a list without an entry that was measured."""
    assert device.booted is not None
    device.use("/usr/bin/rogue")
    path: Path = device.disk.with_name("ima")
    path.write_bytes(device.booted.ima()[: len(device.booted.ima()) - len(device.booted.ima(3))])
    with pytest.raises(Exception, match=r"ima-list-mismatch"):
        device.agent.attest()
