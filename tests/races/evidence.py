"""Attestations with logs that meet each other, operators and manifests: what is kept must be of one of them.

    drama = Drama(folder)                       # one device with a list of three entries that are known
    drama.play(SCENES[0], tries=40)

Rules, after any interleaving:
1. Every refusal has a name, and none of them is the database's.
2. What is kept of the device, of either verdict, is drawn again to the very octets of its result.
3. What is kept newest is an attestation that was answered, or what was there before; no device was told more to leave
   out than is kept.
4. A device that was found contraindicated ends in quarantine, and is suspended.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attestd.appraisal.bundle import EvidenceBundle
from attestd.config import AttestationSettings
from attestd.credentials.status import Status
from attestd.errors import AttestdError, Misconfigured, Unavailable
from attestd.operations import Act
from attestd.operations.exporting import export
from attestd.protocol.derivations import completion_proof
from attestd.protocol.messages import CompleteRequest, CredentialAnswer, WaitAnswer
from attestd.protocol.signed import SignedEnvelope, sign_flattened
from attestd.registry import devices, evidence
from attestd.registry.states import Event, State
from tests.booted import BOOT, GOOD_FILES, Machine, enrolled, loaders, refer, runtime
from tests.database import KIND
from tests.races.cast import _Postgres, _select, _Sqlite
from tests.races.schedule import Run, Stage, Tree, Verb
from tests.service import URL, SoftDevice, World
from tests.soft_device import signer

__all__ = ["SCENES", "Drama", "Scene"]

# What the verbs write, children before parents.
_TABLES = ("issued", "revocations", "spends", "audit", "evidence", "ima_parts", "endorsements", "watched")
_TABLES += ("held", "quarantines", "brake", "demands", "reference_manifests", "devices", "counters")


@dataclass
class Drama:
    """One active device, its machine, and a watched manifest of the next kernel."""

    folder: Path
    kind: str = KIND
    world: World = field(init=False)
    device: SoftDevice = field(init=False)

    def __post_init__(self) -> None:
        ten = AttestationSettings(pcrs={"sha256": tuple(range(10))}, release_after_good=True)
        self.world = World(self.folder, database=self.kind, attestation=ten)
        said: dict[str, Any] = {"boot": BOOT, "runtime": runtime(*GOOD_FILES)}
        refer(self.world, **said)
        self.machine = Machine()
        self.device = enrolled(self.world, self.machine)
        refer(self.world, "monitor", boot={**BOOT, "loaders": loaders(b"next")}, runtime=said["runtime"])
        self.machine.present(self.device)
        assert self.device.attest().status_code == 200
        self.id = self.world.row(self.device).id
        self._database = _Sqlite(self.world) if self.world.url.startswith("sqlite") else _Postgres(self.world)
        self._database.run("DELETE FROM audit; DELETE FROM spends;")
        self._script = "".join(f"DELETE FROM {name};" for name in _TABLES)
        for name in reversed(_TABLES):
            for row in self._database.rows(_select(name, self._database.as_text)):
                columns = ", ".join(f'"{column}"' for column in row)
                values = ", ".join(self._database.literal(value) for value in row.values())
                self._script += f"INSERT INTO {name} ({columns}) VALUES ({values});"

    def close(self) -> None:
        self._database.close()
        self.world.close()

    # ---- Verbs ------------------------------------------------------------------------------------------------

    def attest(self, *files: str, first: int = 3, kernel: bytes | None = None) -> Verb:
        """After these files ran, the list from an entry on; quoted now, by a clock that goes on."""
        world, device = self.world, self.device
        machine = Machine(kernel=kernel) if kernel else Machine()
        for path in files:
            machine.run(path)
        device.tpm.clock = {"clock": 200_000 + 10 * len(files)} | ({"reset_count": 8} if kernel else {})
        machine.present(device, ima_from=first)
        nonce, path = world.service.lifecycle.nonce(world.clock()), "/v1/attestations"
        said: dict[str, Any] = {"sign": signer(device.tpm.ck.private), "alg": "ES256", "kid": device.id}
        request = sign_flattened(device.attestation(nonce).to_bytes(), nonce=nonce, url=URL + path, **said)
        envelope = SignedEnvelope.parse_flattened(request, limit=1 << 20)
        attest = world.service.attestations.attest
        return lambda: attest(envelope, url=URL + path, now=world.clock(), request_id=path)

    def enroll(self, *files: str) -> Verb:
        """Once more in this boot, with all logs, after these files ran."""
        world, device = self.world, self.device
        machine = Machine()
        for path in files:
            machine.run(path)
        device.tpm.clock = {"clock": 300_000}
        machine.present(device)
        challenge = world.service.enrollment.begin(device.begin_request(), now=world.clock())
        secret = device.tpm.activate(challenge.credential_blob, challenge.secret)
        body = device.evidence(challenge).to_bytes()
        request = CompleteRequest(challenge.challenge, body, completion_proof(secret=secret, body=body))
        complete = world.service.enrollment.complete
        return lambda: complete(request, now=world.clock(), request_id="complete")

    def promote(self) -> Verb:
        """The watched manifest decides; the former one ends at once, so that the device is not good any more."""

        def verb() -> object:
            manifest = {"boot": {**BOOT, "loaders": loaders(b"next")}, "runtime": runtime(*GOOD_FILES)}
            return refer(_Still(self.world), "enforce", overlap=0, **manifest)  # type: ignore[arg-type]

        return verb

    def demand(self) -> Verb:
        operations = self.world.service.operations
        return lambda: operations.demand(self.id, act=self.act(), expected_version=None)

    def change(self, *events: Event) -> Verb:
        operations = self.world.service.operations
        return lambda: [
            operations.change_state(self.id, event, act=self.act(), expected_version=None) for event in events
        ]

    def act(self) -> Act:
        return Act(actor="operator", now=self.world.clock(), request_id="act", reason="a test")

    # ---- Playing ----------------------------------------------------------------------------------------------

    def play(self, scene: Scene, tries: int) -> int:
        """So many different interleavings, or all that there are; how many. Raises AssertionError with a story."""
        self._database.run(self._script)
        verbs = scene.verbs(self)
        stage, tree = Stage(self._database.waits_for_lock), Tree(1)
        with stage.watching():
            while tree.tried < tries and not tree.exhausted:
                self._database.run(self._script)
                run = stage.run(verbs, tree)
                tree.end()
                try:
                    self.judge(run)
                except (AssertionError, AttestdError) as broken:
                    told = [f"{number}: {label}" for number, label in run.log]
                    raise AssertionError("\n".join([repr(broken), *told, *map(repr, run.outcomes)])) from broken
        return tree.tried

    def judge(self, run: Run) -> None:
        told, bad = [], False
        for outcome in run.outcomes:  # 1
            if isinstance(outcome, BaseException):
                named = isinstance(outcome, AttestdError) and not isinstance(outcome, Unavailable | Misconfigured)
                assert named, f"not a refusal: {outcome!r}"
            elif isinstance(outcome, bytes):
                told.append(CredentialAnswer.parse(outcome).lately)
            elif isinstance(outcome, WaitAnswer):
                told.append(outcome.lately)
                bad = bad or outcome.result["status"] == "contraindicated"
        contents = self.world.service.attestations.appraiser.contents
        with self.world.registry.reading() as c:
            kept = evidence.every(c, self.id)
            row = devices.by_id(c, self.id)
            status = dict(devices.status_entries(c))[row.status_index or 0]
        for found in kept:  # 2
            bundle = export(self.world.registry, contents, self.id, verdict=found.verdict, act=self.act())
            EvidenceBundle.parse(bundle.to_bytes()).reproduce()
        counts = {found.ima_entries for found in kept}  # 3
        if told:
            assert counts & {lately.ima for lately in told}
        assert max(counts, key=lambda n: n or 0) is not None
        newest = json.loads(kept[0].result)["status"]  # 4
        if row.state is State.QUARANTINED:
            assert status is Status.SUSPENDED
            assert bad or newest == "contraindicated" or row.quarantined_by != devices.APPRAISAL
        else:
            assert status is Status.VALID


class _Still:
    """A world whose clock does not go on."""

    def __init__(self, world: World) -> None:
        self.registry, self._now = world.registry, world.clock()
        self.clock = self

    def __call__(self) -> Any:
        return self._now

    def advance(self, **_: float) -> None:
        """Others are under way."""


@dataclass(frozen=True)
class Scene:
    """`tries`: on SQLite; there are fewer points there, so all that there are may be fewer."""

    name: str
    verbs: Callable[[Drama], list[Verb]]

    def __str__(self) -> str:
        return self.name


VIM = "/usr/bin/vim"
SCENES = (
    Scene("two parts", lambda d: [d.attest(VIM), d.attest(VIM, VIM)]),
    Scene("a part and the whole", lambda d: [d.attest(VIM), d.attest(VIM, VIM, first=0)]),
    Scene("good and bad parts", lambda d: [d.attest(VIM), d.attest(VIM, "/usr/bin/rogue")]),
    Scene("three parts", lambda d: [d.attest(VIM), d.attest(VIM, VIM), d.attest(VIM, VIM, VIM)]),
    Scene("another boot", lambda d: [d.attest(VIM), d.attest(first=0, kernel=b"next")]),
    Scene("a part / a demand", lambda d: [d.attest(VIM), d.demand()]),
    Scene("a part / promoted", lambda d: [d.attest(VIM), d.promote()]),
    Scene("two parts / promoted", lambda d: [d.attest(VIM), d.attest(VIM, VIM), d.promote()]),
    Scene("a part / enrolled anew", lambda d: [d.attest(VIM), d.enroll(VIM)]),
    Scene("a part / enrolled badly", lambda d: [d.attest(VIM), d.enroll(VIM, "/usr/bin/rogue")]),
    Scene("bad / enrolled badly", lambda d: [d.attest(VIM, "/usr/bin/rogue"), d.enroll(VIM, "/usr/bin/rogue")]),
    Scene("bad / released", lambda d: [d.attest("/usr/bin/rogue"), d.change(Event.QUARANTINE, Event.RELEASE)]),
    Scene(
        "good and bad / released",
        lambda d: [d.attest(VIM), d.attest(VIM, "/usr/bin/rogue"), d.change(Event.QUARANTINE)],
    ),
)
