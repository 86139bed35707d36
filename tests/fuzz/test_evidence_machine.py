"""Machines that boot, run files and attest, with all of their logs or the newest parts, while operators change what is
good, engage the brake, demand, release: random walks over a whole service.

After every step: a quarantined device is suspended and gets nothing; whatever is kept of a device leads to the very
octets of its result, from the exported file alone; a device is told no more to leave out than is kept; and what a
machine with a bad boot or a rogue file is told never affirms. What is kept is the whole list, drawn again from its
beginning: so no list in parts was taken that the whole of it would not have been.

The short form takes the same walks every time. FUZZ_EXAMPLES makes it a longer one, with other walks each time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from werkzeug.test import TestResponse

from attestd.appraisal.bundle import EvidenceBundle
from attestd.config import AttestationSettings
from attestd.credentials.status import Status
from attestd.operations import Act
from attestd.operations.exporting import export
from attestd.protocol.demanded import Demanded
from attestd.protocol.evidence import Lately
from attestd.registry import brake, devices, evidence, references
from attestd.registry.states import State
from tests import ima_lists
from tests.booted import BOOT, Machine, enrolled, loaders, refer, runtime
from tests.service import SoftDevice, World, problem

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
DEVICES = 4  # one more than the brake lets through in a minute
GOOD = ("/usr/bin/init", "/usr/bin/sh", "/usr/bin/vim")
KERNELS = {"good": b"kernel", "next": b"next", "tampered": b"tampered"}
TEN = {"sha256": tuple(range(10))}

slots = st.sampled_from([0, 0, 0, 1, 2, 3])
KERNEL = st.sampled_from(["good", "good", "next", "tampered"])
HOW = st.sampled_from(["known", "known", "known", "whole", "whole", "beyond", "before", "text", "appended"])


@dataclass
class Owner:
    """One machine, and what its owner was told."""

    device: SoftDevice
    machine: Machine
    kernel: str = "good"
    rogue: bool = False  # in this boot
    resets: int = 7
    restarts: int = 3
    clock: int = 200_000
    lately: Lately = field(default_factory=Lately)
    told_of: int = 7  # the boot that `lately` is of

    def ticks(self) -> None:
        self.clock += 10
        self.device.tpm.clock = {
            "clock": self.clock,
            "reset_count": self.resets,
            "restart_count": self.restarts,
        }


class Evidence(RuleBasedStateMachine):
    """Random walks."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="attestd-walk-"))
        attestation = AttestationSettings(pcrs=TEN, release_after_good=True)
        self.world = World(self.folder / "instance", attestation=attestation)
        self.owners: list[Owner] = []
        self.good_kernels: set[str] = set()  # by any manifest that was ever in force
        self.number = 0
        self.touched: set[int] = set()  # slots that attested since the last look

    def teardown(self) -> None:
        self.world.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def at(self) -> int:
        return int(self.world.clock().timestamp())

    def act(self) -> Act:
        return Act(actor="operator", now=self.world.clock(), request_id="walk")

    @initialize(stage=st.sampled_from(["enforce", "enforce", "monitor"]))
    def fleet(self, stage: str) -> None:
        self.refer(stage, "good", 0)
        for _ in range(DEVICES):
            machine = Machine()
            owner = Owner(enrolled(self.world, machine), machine)
            assert owner.device.answer is not None
            owner.lately = owner.device.answer.lately
            self.owners.append(owner)

    # ---- What is good -----------------------------------------------------------------------------------------

    def refer(self, stage: str, kernel: str, overlap: int) -> None:
        self.number += 1  # so that each has a content of its own
        boot = {**BOOT, "loaders": loaders(KERNELS[kernel])}
        files = runtime(*GOOD, f"/opt/{self.number % 3}")
        refer(self.world, stage, name="model", overlap=overlap, boot=boot, runtime=files)
        if stage == "enforce":
            self.good_kernels.add(kernel)

    @rule(
        stage=st.sampled_from(["enforce", "enforce", "monitor", "learn", "withdraw", "promote"]),
        kernel=st.sampled_from(["good", "next"]),
        overlap=st.sampled_from([0, 60, 3600]),
        which=st.integers(0, 3),
    )
    def manifests_change(self, stage: str, kernel: str, overlap: int, which: int) -> None:
        if stage == "withdraw":
            self.withdraw(which)
        elif stage == "promote":
            self.promote(which)
        else:
            self.refer(stage, kernel, overlap)

    def withdraw(self, which: int) -> None:
        with self.world.registry.acting() as c:
            stored = references.in_force(c, now=self.at)
            if stored:
                references.withdraw(c, stored[which % len(stored)].number, now=self.at)
        self.world.clock.advance(seconds=2)

    def promote(self, which: int) -> None:
        with self.world.registry.reading() as c:
            watched = [found for found in references.in_force(c, now=self.at) if found.stage == "monitor"]
        if watched:
            chosen = watched[which % len(watched)]
            path = f"/v1/admin/references/{chosen.number}/promote"
            answer = self.world.admin.post(path, {"v": 1, "stage": "enforce", "accept_refusals": 1000})
            assert answer.status_code < 500, answer.text
            if answer.status_code < 300:
                self.good_kernels |= {"good", "next"}
        self.world.clock.advance(seconds=2)

    # ---- Machines ---------------------------------------------------------------------------------------------

    @rule(slot=slots, kernel=st.sampled_from(["good", "good", "next", "tampered"]), resumed=st.booleans(), how=HOW)
    def boot(self, slot: int, kernel: str, resumed: bool, how: str) -> None:
        owner = self.owners[slot]
        if resumed:  # its PCRs are kept
            owner.restarts += 1
        else:
            owner.resets, owner.restarts, owner.rogue, owner.kernel = owner.resets + 1, 0, False, kernel
            owner.machine = Machine(kernel=KERNELS[kernel])
        self.attest(slot, how, "")

    @rule(slot=slots, path=st.sampled_from([*GOOD, *GOOD, "/usr/bin/rogue", "violation"]), how=HOW)
    def run(self, slot: int, path: str, how: str) -> None:
        owner = self.owners[slot]
        if path == "violation":
            owner.machine.items.append(ima_lists.violation("/usr/bin/sh"))
        else:
            owner.machine.run(path)
        owner.rogue = owner.rogue or path not in GOOD
        self.attest(slot, how, "")

    @rule(slot=slots, how=HOW, lie=st.sampled_from(["", "", "none", "another's log", "cut", "rolled back"]))
    def attests(self, slot: int, how: str, lie: str) -> None:
        self.attest(slot, how, lie)

    def attest(self, slot: int, how: str, lie: str) -> None:
        """By the header's wish, and then once more with all logs where the service asks for them."""
        owner = self.owners[slot]
        machine, device = owner.machine, owner.device
        self.touched.add(slot)
        owner.ticks()
        wanted = Demanded.parse(self.world.service.attestations.demanded(self.world.clock()))
        first = {"beyond": owner.lately.ima + 1, "before": max(owner.lately.ima - 1, 0), "whole": 0, "appended": 0}
        begins = min(first.get(how, owner.lately.ima), len(machine.items))
        machine.present(device, ima="ima" in wanted.logs, ima_from=begins)
        logs = device.logs
        if how == "text" and "ima" in logs:
            logs["ima"] = ima_lists.text(machine.items[begins:])
        elif how == "appended" and "ima" in logs:
            logs["ima"] += ima_lists.binary([ima_lists.ng("/usr/bin/later")])
        elif how == "known" and owner.lately.eventlog == hashlib.sha256(machine.eventlog).digest():
            logs["eventlog_sha256"] = hashlib.sha256(logs.pop("eventlog")).digest()
        if lie == "none":
            logs.clear()
        elif lie == "another's log":
            logs.pop("eventlog_sha256", None)
            logs["eventlog"] = Machine(kernel=b"kernel" if owner.kernel != "good" else b"next").eventlog
        elif lie == "cut" and "ima" in logs:
            logs["ima"] = logs["ima"][:-1]
        elif lie == "rolled back" and owner.resets > 7:
            device.tpm.clock = {**device.tpm.clock, "reset_count": owner.resets - 1}
        before = self.standing(owner)
        answer = device.attest()
        self.judge(owner, answer, before)
        if answer.status_code == 409:
            machine.present(device, ima="ima" in wanted.logs)
            owner.ticks()
            again = device.attest()
            assert again.status_code != 409, again.text
            self.judge(owner, again, before)

    def standing(self, owner: Owner) -> tuple[Any, ...]:
        row = self.world.row(owner.device)
        return row.state, row.state_version, row.clock, row.attestation_good_until

    def held(self, owner: Owner) -> bool:
        with self.world.registry.reading() as c:
            return str(self.world.row(owner.device).id) in {str(found.device_id) for found in brake.page_held(c)}

    def judge(self, owner: Owner, answer: TestResponse, before: tuple[Any, ...]) -> None:
        """What an answer may have changed, and what it may say."""
        device, state = owner.device, self.world.row(owner.device).state
        assert answer.status_code < 500, answer.text
        bad = owner.rogue or owner.kernel not in self.good_kernels
        if answer.status_code >= 400:
            assert b"BEGIN CERTIFICATE" not in answer.data
            if problem(answer) != "result-held":
                assert self.standing(owner) == before, "a refusal changes nothing"
            return
        if answer.status_code == 202:
            assert device.waits is not None
            assert state is State.QUARANTINED
            told = device.waits.result
            assert before[0] is State.QUARANTINED or told["status"] == "contraindicated"
            owner.lately = device.waits.lately
        else:
            assert device.answer is not None
            assert state is State.ACTIVE
            told = device.answer.result
            assert before[0] is State.ACTIVE or told["status"] == "affirming", "released by policy, and only so"
            owner.lately = device.answer.lately
            if self.held(owner):
                assert self.world.row(device).attestation_good_until == before[3], "not a moment longer"
                told = {"status": "held", "vector": {"executables": 0}}
        if bad:
            assert told["status"] != "affirming"
            assert not 2 <= told["vector"]["executables"] < 32
        owner.told_of = owner.resets

    # ---- Operators --------------------------------------------------------------------------------------------

    @rule(
        slot=slots,
        verb=st.sampled_from(["release", "release", "quarantine", "demand", "engage", "dismiss", "carry out"]),
    )
    def decide(self, slot: int, verb: str) -> None:
        if verb in ("engage", "dismiss", "carry out"):
            self.turn_brake(verb)
            return
        device = self.owners[slot].device
        answer = self.world.operator.post(f"/v1/admin/devices/{device.id}/{verb}", {"v": 1, "reason": "a walk"})
        assert answer.status_code in (200, 409), answer.text

    def turn_brake(self, what: str) -> None:
        if what == "engage":
            answer = self.world.operator.post("/v1/admin/brake/engage", {"v": 1, "reason": "a walk"})
        else:
            answer = self.world.operator.post(
                "/v1/admin/brake/release", {"v": 1, "held": "dismiss" if what == "dismiss" else "quarantine"}
            )
        assert answer.status_code in (200, 409), answer.text

    @rule(seconds=st.sampled_from([1, 30, 70, 3600, 5 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.advance(seconds=seconds)

    # ---- What holds at all times ------------------------------------------------------------------------------

    @precondition(lambda self: self.owners)
    @invariant()
    def nobody_in_quarantine_is_valid(self) -> None:
        with self.world.registry.reading() as c:
            status = dict(devices.status_entries(c))
        for owner in self.owners:
            row = self.world.row(owner.device)
            assert row.status_index is not None
            if row.state is State.QUARANTINED:
                assert status[row.status_index] is Status.SUSPENDED
                assert problem(owner.device.renew()) == "device-quarantined"

    @precondition(lambda self: self.owners)
    @invariant()
    def what_is_kept_is_drawn_again(self) -> None:
        contents = self.world.service.attestations.appraiser.contents
        for owner in (self.owners[slot] for slot in self.touched):
            device_id = self.world.row(owner.device).id
            with self.world.registry.reading() as c:
                kept = evidence.every(c, device_id)
            for found in kept:
                bundle = export(self.world.registry, contents, device_id, verdict=found.verdict, act=self.act())
                EvidenceBundle.parse(bundle.to_bytes()).reproduce()
            of_boot = [found for found in kept if found.boot.startswith(f"{owner.told_of}.")]
            assert owner.lately.ima <= max((found.ima_entries or 0 for found in of_boot), default=0)
        self.touched.clear()


SHORT = settings(max_examples=12, stateful_step_count=40, derandomize=True, database=None)
LONG = settings(max_examples=max(EXAMPLES, 1) * 2, stateful_step_count=60, derandomize=False, database=None)

TestEvidence = Evidence.TestCase
TestEvidence.settings = settings(
    LONG if EXAMPLES else SHORT, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
