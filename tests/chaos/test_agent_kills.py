"""The agent killed at any moment, with a real TPM in software and the real service: it comes back by itself.

Afterwards it has a credential that works, the service knows one device, and the TPM holds no more than before.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import select

from attestd.protocol.messages import CompleteRequest
from attestd.registry import tables
from attestd_agent import agent as agents
from attestd_agent.daemon import Daemon, Notifier, StopRequest
from attestd_agent.records import Enrolled
from attestd_agent.schedule import Schedule
from tests.chaos.conftest import show
from tests.chaos.invariants import check_registry
from tests.chaos.load import Load
from tests.chaos.served import BIN, Served, until
from tests.software_tpm import LocalCa, SoftwareTpm, missing_programs
from tests.unit.attestd_agent.power_cut import PowerCut

pytestmark = [
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
    pytest.mark.timeout(600),
]
_KILLS = 5
_SLOTS = 3  # objects, and sessions, that a TPM holds for who has no resource manager


@dataclass
class Agent:
    """`attestd-agent` on one machine."""

    tpm: SoftwareTpm
    state: Path
    served: Served

    def start(self, command: str, *words: str) -> subprocess.Popen[str]:
        where = ["--state-dir", str(self.state)]
        if command != "status":
            where += ["--tcti", self.tpm.tcti]
        if command in ("enroll", "run"):
            where += ["--server", self.served.url, "--ca", str(self.served.folder / "ca" / "root.pem")]
        return subprocess.Popen(
            [str(BIN / "attestd-agent"), command, *where, "--json", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TSS2_LOG": "all+none"},
        )

    def run(self, command: str, *words: str) -> tuple[int, str]:
        process = self.start(command, *words)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def handles(self) -> dict[str, list[int]]:
        """What the TPM holds."""
        from tpm2_pytss import ESAPI, TCTILdr
        from tpm2_pytss.constants import TPM2_CAP, TPM2_HR

        kinds = {"transient": 0x80, "persistent": 0x81, "loaded sessions": 0x02, "saved sessions": 0x03}
        tcti = TCTILdr(*self.tpm.tcti.split(":", 1))
        try:
            with ESAPI(tcti) as esapi:
                found = {}
                for name, kind in kinds.items():
                    _, data = esapi.get_capability(TPM2_CAP.HANDLES, kind << TPM2_HR.SHIFT, 254)
                    found[name] = [int(handle) for handle in data.data.handles]
                return found
        finally:
            tcti.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Load, SoftwareTpm]]:
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed")
    served = Served.make(tmp_path_factory.mktemp("agent") / "instance", more='[enrollment]\nretry_after = "1s"\n')
    with LocalCa() as maker, SoftwareTpm(maker) as tpm:
        served.start()
        load = Load(served.url, served.folder, seed=1)
        try:
            for certificate in (*maker.roots, *maker.intermediates):
                load.operator.trust(certificate)
            yield served, load, tpm
        finally:
            load.close()
            served.close()


def test_an_agent_killed_at_any_moment_comes_back_with_a_credential(
    world: tuple[Served, Load, SoftwareTpm], tmp_path: Path, seed: int
) -> None:
    served, load, tpm = world
    rng = random.Random(seed)
    agent = Agent(tpm, tmp_path / "state", served)
    wanted = int(os.environ.get("CHAOS_KILLS") or 0) // 10 or _KILLS
    code, said = agent.run("enroll")
    assert code == 4, said
    load.operator.tidy()
    began = time.monotonic()
    code, said = agent.run("enroll")
    took = time.monotonic() - began
    assert code == 0, said
    before = agent.handles()
    cut = 0
    for _ in range(wanted):
        # `enroll --again` makes new keys, `run --once` attests; each is killed somewhere between its start and its end.
        words = rng.choice([("enroll", "--again"), ("run", "--once"), ("run",), ("renew", "--new-key")])
        process = agent.start(*words)
        time.sleep(rng.uniform(0.25, 1.1) * took)
        cut += process.poll() is None
        process.kill()
        process.communicate()
        held = agent.handles()
        assert held["persistent"] == before["persistent"]
        assert held["saved sessions"] == []
        assert max(len(held["transient"]), len(held["loaded sessions"])) <= _SLOTS, held
    show(f"{cut} of {wanted} killed in the middle")
    assert cut >= wanted // 3

    working = come_back(agent)
    assert agent.run("status")[0] == 0
    load.operator.tidy()
    registry = served.registry()
    try:
        check_registry(registry)
        with registry.reading() as c:
            devices = c.execute(select(tables.devices)).all()
            held = c.execute(select(tables.issued.c.der).where(tables.issued.c.serial == working["serial"])).all()
    finally:
        registry.close()
    assert [(device.id, device.state) for device in devices] == [(working["device_id"], "active")]
    assert len(held) == 1
    leftovers = [entry.name for entry in agent.state.iterdir() if entry.name.startswith(".")]
    assert leftovers == [], "a whole act clears away what a killed one left"


def come_back(agent: Agent) -> dict[str, str]:
    """What the daemon does by itself when it starts again: the credential that it has then."""
    process = agent.start("run", "--debug")
    try:
        until(lambda: agent.run("status")[0] == 0, "the agent has a credential", patience=60)
        until(lambda: not (agent.state / "unanswered").exists(), "the agent knows which keys count", patience=60)
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=30)
        show(said[-2000:])
    # It is one that the service takes: attesting is signed by its key.
    code, said = agent.run("run", "--once")
    assert code == 0, said
    return dict(json.loads(said.splitlines()[-1]))


def test_an_answer_that_is_lost_with_the_agent_is_missed_at_once(
    world: tuple[Served, Load, SoftwareTpm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service took new keys, and the agent died before it could save them: what it holds is revoked. The next
    start does not wait for the time to renew."""
    from attestd_agent.assemble import Options, assemble

    served, load, tpm = world
    agent = assemble(Options(tmp_path / "state", tpm.tcti, served.url, str(served.folder / "ca" / "root.pem")))
    until(lambda: enrolls(agent, load), "the device is enrolled")
    first = agent.state.load()
    complete = agent.server.complete

    def die(request: CompleteRequest) -> NoReturn:
        complete(request)
        raise PowerCut

    monkeypatch.setattr(agent.server, "complete", die)
    with pytest.raises(PowerCut):
        agent.enroll()
    monkeypatch.undo()
    stop = StopRequest()
    daemon = Daemon(agent, schedule=Schedule(lambda: 0.0), stop=stop, notifier=Notifier({}), boot=time.monotonic)
    worker = threading.Thread(target=daemon.run)
    worker.start()
    try:
        until(lambda: not agent.state.unanswered, "it has asked", patience=60)
    finally:
        stop.stop()
        worker.join(30)
    last = agent.state.load()
    assert first is not None
    assert last is not None
    assert (last.record.device_id, last.ck != first.ck) == (first.record.device_id, True)
    assert agent.attest() is not None


def enrolls(agent: agents.Agent, load: Load) -> bool:
    load.operator.tidy()
    return isinstance(agent.enroll(), Enrolled)
