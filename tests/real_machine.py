"""A device with a real TPM in software, its daemon step by step, and the whole service over its registry, in one
process with one clock: weeks pass in no time.

    machine = Machine(world, tpm, tmp_path / "state")
    machine.boot(b"firmware 1.0")          # a reset, and what the firmware measures of itself
    machine.start(booted.Machine())        # a boot with an event log and an IMA list to match
    assert machine.steps() == 1            # acts of the daemon until the device is well
    restart(world, references=(…,))        # the service starts anew, with other settings
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attestd.protocol.encoding import b64decode, read_object
from attestd.protocol.evidence import QuoteEvidence
from attestd.protocol.messages import MAX_COMPLETE, AttestationRequest
from attestd.registry import devices, issued
from attestd.registry.states import State
from attestd.tpm.objects import parse_public
from attestd.web.app import create_app
from attestd_agent.agent import Agent
from attestd_agent.bootlogs import BootLogs
from attestd_agent.clock import BUILD_TIME, DeviceClock
from attestd_agent.daemon import Daemon, Notifier, StopRequest
from attestd_agent.records import Enrolled
from attestd_agent.schedule import Plan, Schedule
from attestd_agent.server import Server
from attestd_agent.state import StateDir
from attestd_agent.transport import Reply
from tests import booted
from tests.logwriter import EV
from tests.service import URL, World, wire
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.conftest import ready


class Line:
    """The agent's way to a service in the same process."""

    url = URL

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[tuple[str, bytes]] = []  # paths and bodies

    def trust(self, roots: Sequence[bytes]) -> None:
        pass

    def exchange(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        self.asked.append((path, body or b""))
        answer = self.world.request(method, path, body or b"", content_type="application/json")
        return Reply(answer.status_code, {name.lower(): value for name, value in answer.headers}, answer.data)


class Machine:
    """One device: a TPM, a disk, and the daemon, which starts anew with every boot."""

    def __init__(self, world: World, tpm: SoftwareTpm, disk: Path) -> None:
        self.world, self.tpm, self.disk = world, tpm, disk
        self.vouched: Sequence[bytes] = ()  # by the maker whom this instance trusts
        self.booted: booted.Machine | None = None
        self.switch_on()

    def switch_on(self) -> None:
        from attestd_agent.device import Device

        state = StateDir(self.disk)
        root = (self.world.settings.dir / "ca" / "root.pem").read_bytes()
        with state.exclusive():
            state.save_roots(root)
        line: Any = Line(self.world)
        self.line: Line = line
        floor = BUILD_TIME
        self.agent = Agent(
            state=state,
            device=Device(self.tpm.tcti),
            server=Server(line, root, entropy=os.urandom),
            clock=DeviceClock(system=self.world.clock, boot=lambda: 0.0, floor=floor),
            random=lambda: 0.5,
            ek="ecc-p256",
            ek_certificates=self.vouched,
            logs=self._write_logs(),
        )
        self.daemon = Daemon(
            self.agent, schedule=Schedule(lambda: 0.5), stop=StopRequest(), notifier=Notifier({}), boot=lambda: 0.0
        )
        self.plan = self.daemon._plan()

    def insert(self, tpm: SoftwareTpm, *, certified: bool) -> None:
        """This TPM from now on, which the trusted maker certified or nobody did."""
        self.tpm, self.vouched = tpm, ()
        self.switch_on()
        if certified:
            maker, ek = self.world.maker, self.agent.device.endorsement(kind="ecc-p256")
            self.vouched = maker.chain(maker.intermediate.ek_certificate(parse_public(ek.public).key))
            self.switch_on()

    def boot(self, firmware: bytes) -> None:
        """A reset of the TPM, and what the firmware measures of itself."""
        from tpm2_pytss import ESYS_TR

        self.tpm.reboot()
        ready(self.tpm)
        self._command(lambda esapi: esapi.pcr_event(ESYS_TR.PCR0, firmware))
        self.switch_on()

    def clear_tpm(self) -> None:
        """As the firmware's setup does: the storage hierarchy has a new seed. The EK's stays."""
        from tpm2_pytss import ESYS_TR

        self._command(lambda esapi: esapi.clear(ESYS_TR.LOCKOUT))

    def start(self, boot: booted.Machine) -> None:
        """A boot of which there are logs: what they say is measured, and they are where the agent looks."""
        self.booted = boot
        self.tpm.reboot()
        ready(self.tpm)
        measured = [(event.pcr, dict(event.digests)["sha256"]) for event in boot.boot.log if event.type != EV.NO_ACTION]
        self._measure([*measured, *((10, item.measured("sha256")) for item in boot.items)])
        self.switch_on()

    def use(self, path: str) -> None:
        """IMA measures a file."""
        assert self.booted is not None
        self.booted.run(path)
        self._measure([(10, self.booted.items[-1].measured("sha256"))])
        self._write_logs()

    def _measure(self, measured: Iterable[tuple[int, bytes]]) -> None:
        from tpm2_pytss import ESYS_TR, TPM2_ALG, TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

        def run(esapi: Any) -> None:
            for pcr, digest in measured:
                value = TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=digest))
                esapi.pcr_extend(ESYS_TR(pcr), TPML_DIGEST_VALUES([value]))

        self._command(run)

    def _write_logs(self) -> BootLogs:
        if self.booted is None:
            return BootLogs()
        eventlog, ima = self.disk.with_name("eventlog"), self.disk.with_name("ima")
        eventlog.write_bytes(self.booted.eventlog)
        ima.write_bytes(self.booted.ima())
        return BootLogs(eventlog, ima)

    def _command(self, run: Callable[[Any], object]) -> None:
        from tpm2_pytss import ESAPI, TCTILdr

        tcti = TCTILdr(*self.tpm.tcti.split(":", 1))
        try:
            with ESAPI(tcti) as esapi:
                run(esapi)
        finally:
            tcti.close()

    def step(self) -> Plan:
        """The next act of the daemon, once its time has come."""
        self.world.clock.advance(seconds=self.plan.delay)
        self.plan = self.daemon.step(self.plan)
        return self.plan

    def attestations(self) -> list[QuoteEvidence]:
        """What was sent since it was switched on."""
        sent = [body for path, body in self.line.asked if path == "/v1/attestations"]
        payloads = [b64decode(str(read_object(body, limit=MAX_COMPLETE)["payload"])) for body in sent]
        return [AttestationRequest.parse(payload).quote for payload in payloads]

    def steps(self, most: int = 3) -> int:
        """Acts until the device is well: as many as the daemon takes, and no more than `most`."""
        for taken in range(1, most + 1):
            self.step()
            if self.is_well:
                return taken
        raise AssertionError(f"not well after {most} acts")

    @property
    def known(self) -> Enrolled:
        found = self.agent.state.load()
        assert found is not None
        return found

    @property
    def is_well(self) -> bool:
        """It has a certificate that the service stands by, and nothing in its way."""
        found = self.agent.state.load()
        if found is None or self.agent.state.waiting() is not None or self.agent.state.unanswered:
            return False
        newest = self.certificates()[0]
        return (
            newest.serial.number == found.leaf.serial_number
            and newest.revoked_at is None
            and self.world.clock() < found.leaf.not_valid_after_utc
            and self.row.state is State.ACTIVE
        )

    @property
    def ek_hash(self) -> str:
        return self.agent.device.endorsement(kind="ecc-p256").hash.hex()

    @property
    def row(self) -> devices.Device:
        with self.world.registry.reading() as c:
            found = devices.by_ek_hash(c, self.agent.device.endorsement(kind="ecc-p256").hash)
        assert found is not None
        return found

    def certificates(self) -> list[issued.Issued]:
        """The newest first."""
        with self.world.registry.reading() as c:
            return issued.page(c, device_id=self.row.id)


def restart(world: World, **changed: Any) -> None:
    """The service starts anew, with other settings."""
    world.settings = replace(world.settings, **changed)
    world.service = wire(world.settings, world.hierarchy, world.registry, world.clock)
    world.app = create_app(world.service)
