"""Attacks on evidence with logs, through the whole service: what a device may leave out, what it claims to be known,
what is kept of it, and what a result is worth elsewhere.

Whatever a test does, what is kept of each device leads to the very octets of its result, for an auditor who has the
exported file alone. Where a device is refused, its twin that tells the truth is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from attestd.appraisal.bundle import EndorsementDiffers, EvidenceBundle, NotReproduced
from attestd.appraisal.record import AppraisalRecord, DocumentMissing
from attestd.ca.ears import EAR_TYP
from attestd.config import AttestationSettings, BrakeSettings
from attestd.credentials.jws import sign_jws
from attestd.errors import EvidenceRefused, MalformedInput
from attestd.issuance import appraising
from attestd.operations import Act
from attestd.protocol.encoding import b64decode, read_object, write_object
from attestd.registry import brake, devices, evidence, references, transitions
from attestd.registry.states import Event, State
from attestd.tpm.chain import UntrustedMaker
from tests import ek_ca, ima_lists
from tests import logwriter as w
from tests.attacks.ledger import Ledger, refused
from tests.attacks.test_edge import Gate, token_of
from tests.booted import BOOT, GOOD_FILES, Machine, enrolled, kernel_digest, loaders, refer, runtime
from tests.service import SoftDevice, World, meanwhile, problem
from tests.unit.issuance.test_appraising import read_ear

pytestmark = pytest.mark.database

TEN = {"sha256": tuple(range(10))}
WHOLE: Mapping[str, Any] = {"boot": BOOT, "runtime": runtime(*GOOD_FILES)}
NEXT_BOOT = {"reset_count": 8, "restart_count": 0}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """At its end everything that is kept is drawn again."""
    world = World(tmp_path / "instance", attestation=AttestationSettings(pcrs=TEN))
    yield world
    with world.registry.reading() as c:
        known = devices.page(c, limit=100)
        verdicts = [(str(device.id), kept.verdict) for device in known for kept in evidence.every(c, device.id)]
    for device_id, verdict in verdicts:
        exported(world, device_id, verdict).reproduce()
    world.close()


def exported(world: World, device_id: str, verdict: str = "") -> EvidenceBundle:
    query = f"?verdict={verdict}" if verdict else ""
    answer = world.operator.get(f"/v1/admin/devices/{device_id}/evidence{query}")
    assert answer.status_code == 200, answer.text
    return EvidenceBundle.parse(answer.data)


def executables(device: SoftDevice) -> int:
    assert device.answer is not None
    return int(device.answer.result["vector"]["executables"])


def attested_badly(world: World, device: SoftDevice, why: str) -> None:
    """The next attestation quarantines, for this reason among others."""
    assert device.attest().status_code == 202
    assert device.waits is not None
    assert any(why in reason for reason in device.waits.result["reasons"]), device.waits.result["reasons"]
    assert world.row(device).state is State.QUARANTINED


# ---- What the quote does not cover, or the log does not explain -------------------------------------------------


def test_a_value_that_a_log_explains_and_no_quote_covers(world: World) -> None:
    """PCR 14 as the log replays to it, beside the quoted ones: CVE-2022-0317 with a witness."""
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    covered = device.pcrs
    nonce = world.nonce()
    beside = {"sha256": {**covered["sha256"], 14: machine.boot.pcrs["sha256"][14]}}
    said = device.attestation(nonce)
    lie = said._replace(quote=said.quote._replace(pcrs=beside)).to_bytes()
    assert refused(device.signed("/v1/attestations", lie, nonce=nonce), 403, "pcr-values-mismatch")
    assert device.attest().status_code == 200


def test_a_log_without_digests_for_the_quoted_bank(world: World) -> None:
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    machine.present(device, ima=False, eventlog=machine.boot.sha1())
    assert refused(device.attest(), 403, "event-log-bank-missing")
    machine.present(device, ima=False)
    assert device.attest().status_code == 200


def test_an_event_s_type_opens_nothing(world: World) -> None:
    """Another kernel, called an action of the firmware: it was loaded all the same."""
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    tampered = Machine(kernel=b"tampered")
    number = max(n for n, event in enumerate(tampered.boot.log, 1) if (event.pcr, event.type) == (4, w.EV.BS_APP))
    tampered.present(device, ima=False, eventlog=tampered.boot.lie(number, type=w.EV.EFI_ACTION).agile())
    attested_badly(world, device, kernel_digest(b"tampered"))


def test_a_log_that_measures_into_ima_s_pcr_counts_with_that_pcr_alone(world: World) -> None:
    """It is known by its digest and by values without PCR 10; here it does not replay to those any more."""
    refer(world, boot=BOOT)
    world.configure(attestation=AttestationSettings(pcrs={"sha256": tuple(range(11))}))
    boot = Machine().boot.measure(10, w.EV.EFI_ACTION, b"not IMA's")
    machine, device = Machine(boot=boot), world.device()
    machine.present(device, ima=False)
    value = machine.boot.pcrs["sha256"][10]
    device.pcrs = {"sha256": {**device.pcrs["sha256"], 10: value}}
    assert device.enroll().status_code == 202
    world.approve(device)
    assert device.enroll().status_code == 200
    known = hashlib.sha256(machine.eventlog).digest()
    for logs in ({"eventlog": machine.eventlog}, {"eventlog_sha256": known}):
        device.logs = logs
        device.pcrs = {"sha256": {**device.pcrs["sha256"], 10: value}}
        assert device.attest().status_code == 200
        device.pcrs = {"sha256": {**device.pcrs["sha256"], 10: b"\x77" * 32}}
        answer = device.attest()
        assert problem(answer) in ("event-log-mismatch", "event-log-unknown")


# ---- What is said to be known -----------------------------------------------------------------------------------


def test_an_event_log_that_another_device_sent(world: World) -> None:
    """The service has it, and knows that it replays to the same values: it is another machine's word all the same."""
    refer(world, boot=BOOT)
    machine = Machine()
    enrolled(world, machine, ima=False)
    thief = world.device()
    machine.present(thief, ima=False, eventlog=machine.boot.agile(padding=b"\xff" * 8))  # a copy with another digest
    assert thief.enroll().status_code == 202
    world.approve(thief)
    assert thief.enroll().status_code == 200
    machine.present(thief, ima=False, eventlog=None, eventlog_sha256=hashlib.sha256(machine.eventlog).digest())
    assert refused(thief.attest(), 409, "event-log-unknown")
    machine.present(thief, ima=False)
    assert thief.attest().status_code == 200


@pytest.mark.parametrize("beyond", [1, 2, 1000, (1 << 31) - 1])
def test_a_list_that_begins_beyond_what_is_known(world: World, beyond: int) -> None:
    """The rogue entry is among those that were left out."""
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    machine.run("/usr/bin/rogue")
    machine.run("/usr/bin/vim")
    machine.present(device, ima_from=min(3 + beyond, (1 << 31) - 1))
    device.logs["ima"] = machine.ima(min(3 + beyond, 5))
    nonce = world.nonce()
    assert refused(device.attest(nonce=nonce), 409, "entries-missing")
    machine.present(device)
    assert device.attest(nonce=nonce).status_code == 202, "nothing was spent; the whole list tells"


def test_what_is_known_of_another_device(world: World) -> None:
    """Both run the same, one has a rogue file before the entries that the other has known."""
    refer(world, **WHOLE)
    honest, rogue = Machine(), Machine("/usr/bin/init", "/usr/bin/rogue")
    first = enrolled(world, honest)
    bad = enrolled(world, honest)
    assert first.answer is not None
    bad.tpm.clock = NEXT_BOOT
    rogue.run("/usr/bin/vim")
    rogue.present(bad, ima_from=first.answer.lately.ima)
    assert refused(bad.attest(), 409, "another-boot")
    rogue.present(bad)
    attested_badly(world, bad, "/usr/bin/rogue")


def test_entries_of_before_a_reboot(world: World) -> None:
    """The list of the boot before, goes on: rust-keylime#1077. The counts tell."""
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    machine.run("/usr/bin/vim")
    machine.present(device, ima_from=3)
    for clock in (NEXT_BOOT, {"reset_count": 7, "restart_count": 4}):
        device.tpm.clock = clock
        assert refused(device.attest(), 409, "another-boot")
    device.tpm.clock = {}
    assert device.attest().status_code == 200


def test_entries_appended_before_they_are_extended(world: World) -> None:
    """What follows the quoted entry is nobody's word: neither judged, nor kept, nor known."""
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    quoted = machine.pcrs()
    machine.run("/usr/bin/vim")
    for first in (0, 3):
        machine.present(device, ima_from=first)
        device.pcrs = quoted
        assert device.attest().status_code == 200
        assert device.answer is not None
        assert device.answer.lately.ima == 3


def test_a_violation_is_judged(world: World) -> None:
    """All zeros in the list, all ones in the PCR: a file was written while IMA measured it."""
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    machine.items.append(ima_lists.violation("/usr/bin/sh"))
    machine.present(device, ima_from=3)
    attested_badly(world, device, "written while IMA measured")


def test_a_violation_that_a_manifest_takes(world: World) -> None:
    refer(world, boot=BOOT, runtime={**WHOLE["runtime"], "violations": 1})
    machine = Machine()
    device = enrolled(world, machine)
    machine.items.append(ima_lists.violation("/usr/bin/sh"))
    machine.present(device, ima_from=3)
    assert device.attest().status_code == 200


# ---- What is kept: parts make the whole, or they are not taken --------------------------------------------------


@pytest.mark.parametrize("form", ["text", "another hash", "another byte order"])
def test_a_part_in_another_form(world: World, form: str) -> None:
    """Each proves its entries; together they are no list that anybody could check again."""
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    machine.run("/usr/bin/vim")
    part = machine.items[3:]
    octets = {
        "text": ima_lists.text(part),
        "another hash": ima_lists.binary(part, algorithm="sha256"),
        "another byte order": ima_lists.binary(part, ">"),
    }[form]
    machine.present(device, ima_from=3)
    device.logs["ima"] = octets
    if form == "another byte order":  # what it measures is another thing, too
        value = ima_lists.pcr10(part, start=ima_lists.pcr10(machine.items[:3]), order=">")
        device.pcrs = {"sha256": {**device.pcrs["sha256"], 10: value}}
    assert refused(device.attest(), 409, "another-list-form")
    machine.present(device, ima_from=3)
    assert device.attest().status_code == 200


def test_a_text_whose_last_line_has_no_end(world: World) -> None:
    """The next part's first line would go on in it."""
    refer(world, **WHOLE)
    machine, device = Machine(), world.device()
    machine.present(device)
    device.logs["ima"] = ima_lists.text(machine.items).rstrip(b"\n")
    assert device.enroll().status_code == 202
    world.approve(device)
    assert device.enroll().status_code == 200
    machine.run("/usr/bin/vim")
    machine.present(device, ima_from=3)
    device.logs["ima"] = ima_lists.text(machine.items[3:])
    assert device.attest().status_code == 200
    machine.present(device, ima_from=3)
    assert refused(device.attest(), 409, "entries-missing")


def test_a_bank_more_asks_for_the_whole_list(world: World) -> None:
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    both = {"sha256": tuple(range(10)), "sha384": (10,)}
    world.configure(attestation=AttestationSettings(pcrs=both))
    more = {"sha384": {10: ima_lists.pcr10(machine.items, "sha384")}}
    machine.present(device, ima_from=3)
    device.pcrs = {**device.pcrs, **more}
    nonce = world.nonce()
    assert refused(device.attest(nonce=nonce), 409, "bank-not-replayed")
    machine.present(device)
    device.pcrs = {**device.pcrs, **more}
    assert device.attest(nonce=nonce).status_code == 200
    machine.present(device, ima_from=3)
    device.pcrs = {**device.pcrs, **more}
    assert device.attest().status_code == 200


def test_two_attestations_at_once_keep_one_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older quote of fewer entries comes in while a newer one is under way: pieces of both would be no list."""
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    machine.run("/usr/bin/vim")
    nonces = world.nonce(), world.nonce()
    machine.present(device, ima_from=3)
    older = device.attestation(nonces[0]).to_bytes()
    machine.run("/usr/bin/sh", b"content")
    machine.present(device, ima_from=3)
    answers: list[TestResponse] = []

    def arrives() -> None:
        answers.append(device.signed("/v1/attestations", older, nonce=nonces[0]))

    meanwhile(monkeypatch, arrives)
    assert refused(device.attest(nonce=nonces[1]), 409, "state-changed")
    assert answers[0].status_code == 200
    machine.present(device, ima_from=4)
    assert device.attest(nonce=nonces[1]).status_code == 200, "nothing was spent"


def test_another_tpm_with_the_same_counts(world: World) -> None:
    """It takes a device's place, in a boot of the same name: the old one's list is still the old one's."""
    refer(world, **WHOLE)
    machine = Machine("/usr/bin/init", "/usr/bin/sh", "/usr/bin/vim")
    device = enrolled(world, machine)
    machine.run("/usr/bin/rogue")
    machine.present(device, ima_from=4)
    attested_badly(world, device, "/usr/bin/rogue")
    new = world.device()
    message = {"v": 1, "ek_hash": new.ek_hash.hex()}
    assert world.operator.post(f"/v1/admin/devices/{device.id}/replace", message).status_code == 200
    Machine().present(new)
    assert new.enroll().status_code == 200
    assert new.attest().status_code == 200
    assert exported(world, device.id, "bad").reproduce()[1].contraindicated


# ---- Manifests end, and only those that decide do ---------------------------------------------------------------


def test_a_manifest_ends_at_its_second(world: World) -> None:
    """`not_after` is the last second of it; from the next on nothing affirms, and nothing is refused either."""
    ends = int(world.clock().timestamp()) + 600
    refer(world, boot=BOOT, not_after=ends)
    device = enrolled(world, Machine(), ima=False)
    while int(world.clock().timestamp()) < ends:
        world.clock.advance(seconds=ends - int(world.clock().timestamp()))
    assert device.attest().status_code == 200
    assert executables(device) == 3
    world.clock.advance(seconds=1)
    assert device.attest().status_code == 200
    assert executables(device) == 0


def test_a_manifest_begins_at_its_second(world: World) -> None:
    begins = int(world.clock().timestamp()) + 600
    refer(world, boot=BOOT, not_before=begins)
    device = enrolled(world, Machine(), ima=False)
    world.clock.advance(seconds=begins - 1 - int(world.clock().timestamp()))
    assert device.attest().status_code == 200
    assert executables(device) == 0
    world.clock.advance(seconds=1)
    assert device.attest().status_code == 200
    assert executables(device) == 3


def test_an_overlap_ends_at_its_second(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    added = int(world.clock().timestamp())
    refer(world, boot={**BOOT, "loaders": loaders(b"next")}, overlap=600)
    world.clock.advance(seconds=added + 599 - int(world.clock().timestamp()))
    assert device.attest().status_code == 200
    world.clock.advance(seconds=1)
    attested_badly(world, device, "loaders")


def test_a_withdrawn_manifest_affirms_nothing(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    number = json.loads(world.viewer.get("/v1/admin/references").data)["references"][0]["number"]
    assert world.admin.post(f"/v1/admin/references/{number}/withdraw", {"v": 1}).status_code == 200
    world.clock.advance(seconds=2)
    assert device.attest().status_code == 200
    assert executables(device) == 0


@pytest.mark.parametrize("stage", ["monitor", "learn"])
@pytest.mark.parametrize("kernel", [b"kernel", b"tampered"])
def test_what_only_watches_changes_no_claim(world: World, stage: str, kernel: bytes) -> None:
    """Whether it would hold or refuse: the claims are those of a world without it."""
    refer(world, "learn", name="draft")
    machine = Machine(kernel=kernel)
    device = enrolled(world, machine)
    assert device.answer is not None
    without = device.answer.result
    refer(world, stage, **WHOLE)
    machine.present(device)
    assert device.attest().status_code == 200
    for member in ("status", "vector", "reasons", "policies"):
        assert device.answer.result[member] == without[member]
    assert bool(device.answer.result["monitored"]) is (stage == "monitor")


@pytest.mark.parametrize("members", [{}, {"match": {"tier": "device"}}, {"runtime": runtime("/usr/bin/init")}])
@pytest.mark.parametrize("stage", ["enforce", "monitor"])
def test_a_manifest_that_affirms_by_saying_nothing(world: World, stage: str, members: Mapping[str, Any]) -> None:
    whole = {"name": "all", "stage": stage, "boot": BOOT, **members}
    for said in ({key: value for key, value in whole.items() if key != "boot"}, whole | {"boot": {}}):
        answer = world.admin.post("/v1/admin/references?unwatched=true", write_object(said))
        assert answer.status_code == 400, answer.text
    with world.registry.reading() as c:
        assert references.in_force(c, now=int(world.clock().timestamp())) == []


TOO_LONG = b"f" * 5000


@pytest.mark.parametrize(
    "line",
    [
        b"[boot]\nsbat_level = { at_least = 0x" + TOO_LONG + b" }",
        b"[boot]\ndbx_count = 0x" + TOO_LONG,
        b"[boot]\ndbx_count = " + b"9" * 5000,
        b"[boot]\ndbx_count = 9223372036854775808",
        b"[boot]\nsecure_boot = true\n[runtime]\nviolations = 0x" + TOO_LONG,
        b"not_before = 0001-01-01T00:00:00+23:59\n[boot]\nsecure_boot = true",
    ],
    ids=["at least", "hexadecimal", "decimal", "65 bits", "violations", "before all time"],
)
def test_numbers_and_times_that_no_manifest_has(world: World, line: bytes) -> None:
    """TOML spells numbers that Python refuses to write, and times that no calendar here has."""
    toml = b'name = "x"\nstage = "enforce"\n' + line
    answer = world.admin.post("/v1/admin/references", toml, content_type="application/toml")
    assert answer.status_code == 400, answer.text


# ---- Whose evidence, and for how long ---------------------------------------------------------------------------


def test_evidence_of_one_device_under_another_s_id(world: World) -> None:
    """Logs, quote and values of the good one, signed by the bad one's key for its own request."""
    refer(world, **WHOLE)
    good, bad = enrolled(world, Machine()), enrolled(world, Machine())
    nonce = world.nonce()
    stolen = good.attestation(nonce).to_bytes()
    assert refused(bad.signed("/v1/attestations", stolen, nonce=nonce), 403, "attestation-signature-wrong")
    again = world.nonce()
    answer = bad.signed("/v1/attestations", good.attestation(again).to_bytes(), nonce=again, kid=good.id)
    assert answer.status_code == 401, answer.text
    assert bad.attest().status_code == 200


def test_a_released_device_lives_by_no_old_result(world: World) -> None:
    """Quarantined and released: what it was found worth before does not count again; a new attestation does."""
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    tampered = Machine(kernel=b"tampered")
    tampered.present(device, ima=False)
    attested_badly(world, device, "loaders")
    answer = world.operator.post(f"/v1/admin/devices/{device.id}/release", {"v": 1, "reason": "looked at"})
    assert answer.status_code == 200
    assert {problem(getattr(device, verb)()) for verb in ("renew", "token")} == {"attestation-overdue"}
    attested_badly(world, device, "loaders")


def test_released_by_an_operator_while_an_older_good_quote_is_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its good evidence was appraised for a device that was quarantined since, and released: it is appraised anew."""
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)

    def decide() -> None:
        for event in (Event.QUARANTINE, Event.RELEASE):
            with world.registry.acting() as c:
                transitions.change_state(c, world.row(device).id, event, reason="", now=int(world.clock().timestamp()))

    nonce = world.nonce()
    meanwhile(monkeypatch, decide)
    assert refused(device.attest(nonce=nonce), 409, "state-changed")
    assert device.attest(nonce=nonce).status_code == 200


def test_a_copy_of_a_tpm_s_state_does_not_end_what_is_held(world: World) -> None:
    """Bad while the brake is engaged, so held; then a snapshot of before, which would attest well."""
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    assert world.operator.post("/v1/admin/brake/engage", {"v": 1, "reason": "a drill"}).status_code == 200
    device.tpm.clock = {"reset_count": 9, "restart_count": 0}
    Machine(kernel=b"tampered").present(device, ima=False)
    assert device.attest().status_code == 200, "under the last good result"
    machine.present(device, ima=False)
    device.tpm.clock = NEXT_BOOT
    assert refused(device.attest(), 403, "clock-went-back")
    with world.registry.reading() as c:
        assert brake.count_held(c) == 1
    device.tpm.clock = {"reset_count": 10, "restart_count": 0}
    assert device.attest().status_code == 200
    with world.registry.reading() as c:
        assert brake.count_held(c) == 0


def test_a_held_list_goes_on(world: World) -> None:
    """A rogue file while the brake is engaged: nothing that comes later makes it good."""
    world.configure(brake=BrakeSettings())
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    assert world.operator.post("/v1/admin/brake/engage", {"v": 1, "reason": "a drill"}).status_code == 200
    machine.run("/usr/bin/rogue")
    machine.present(device, ima_from=3)
    assert device.attest().status_code == 200
    assert device.answer is not None
    assert device.answer.lately.ima == 4
    machine.run("/usr/bin/vim")
    machine.present(device, ima_from=4)
    assert device.attest().status_code == 200
    with world.registry.reading() as c:
        assert brake.count_held(c) == 1
    assert world.operator.post("/v1/admin/brake/release", {"v": 1, "held": "quarantine"}).status_code == 200
    assert world.row(device).state is State.QUARANTINED


def test_nothing_is_renewed_by_a_result_that_is_over(world: World) -> None:
    """Staleness is a refusal, at the second; whatever became of the watch that would have told."""
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    until = world.row(device).attestation_good_until
    assert until is not None
    world.clock.advance(seconds=until - 1 - int(world.clock().timestamp()))
    assert device.renew().status_code == 200
    world.clock.advance(seconds=1)
    assert {problem(getattr(device, verb)()) for verb in ("renew", "token")} == {"attestation-overdue"}
    assert device.attest().status_code == 200


@pytest.mark.parametrize("name", ["verify_event_log", "boot_facts", "judge_runtime", "appraise", "canonical"])
def test_a_fault_while_judging_logs_gives_nothing(
    world: World, ledger: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Keylime's CVE-2022-3500: whatever breaks in the middle, nothing is issued, spent or kept; then it goes on."""
    refer(world, **WHOLE)
    machine = Machine()
    device = enrolled(world, machine)
    Machine(kernel=b"tampered").present(device)
    device.tpm.clock = NEXT_BOOT

    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    before, nonce = ledger(), world.nonce()
    with monkeypatch.context() as broken:
        broken.setattr(appraising, name, breaks)
        answer = device.attest(nonce=nonce)
    assert answer.status_code == 500
    assert b"BEGIN CERTIFICATE" not in answer.data
    assert ledger() == before
    assert device.attest(nonce=nonce).status_code == 202


# ---- Demands ----------------------------------------------------------------------------------------------------


def test_a_demand_tells_nobody_who_exists(world: World) -> None:
    """Of an id that is known, of one that is not, and of one that is no id: one status, one size, the same headers."""
    device = enrolled(world, Machine(), ima=False)
    differ = {"X-Request-Id", "Date"}

    def seen(name: str) -> tuple[Any, ...]:
        answer = world.get(f"/v1/demands/{name}")
        return answer.status_code, answer.data, sorted((k, v) for k, v in answer.headers if k not in differ)

    assert seen(device.id) == seen("f" * len(device.id)) == seen("no id")
    assert seen(device.id)[0] == 204


def test_demanding_of_a_device_that_is_not_here(world: World) -> None:
    path = f"/v1/admin/devices/{'f' * 32}/demand"
    assert refused(world.operator.post(path, {"v": 1}), 404, "unknown-device")
    message = {"v": 1, "ids": [enrolled(world, Machine(), ima=False).id, "f" * 32]}
    assert refused(world.operator.post("/v1/admin/devices/demand", message), 404, "unknown-device")
    with world.registry.reading() as c:
        assert all(device.attestation_good_until for device in devices.page(c, limit=10)), "all or none"


def test_a_demand_is_not_answered_by_evidence_from_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made while an attestation is under way, which began before it."""
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)

    def demand() -> None:
        act = Act(actor="operator", now=world.clock(), request_id="demand")
        world.service.operations.demand(world.row(device).id, act=act, expected_version=None)

    nonce = world.nonce()
    meanwhile(monkeypatch, demand)
    assert refused(device.attest(nonce=nonce), 409, "state-changed")
    world.clock.advance(seconds=1)
    assert device.attest(nonce=nonce).status_code == 200


# ---- Results elsewhere ------------------------------------------------------------------------------------------


@pytest.fixture
def gate(world: World, tmp_path: Path) -> Gate:
    return Gate(world, tmp_path / "edge")


def test_an_ear_is_no_token(world: World, gate: Gate) -> None:
    """Signed by the very key that signs tokens; its type tells."""
    device = enrolled(world, Machine(), ima=False)
    gate.fetch()
    token = token_of(device)
    assert gate.crosses({"Authorization": f"DPoP {token}", "DPoP": gate.proof(device, token)}) == ""
    assert device.answer is not None
    ear = device.answer.ear
    assert ear
    for scheme in ("DPoP", "Bearer"):
        headers = {"Authorization": f"{scheme} {ear}", "DPoP": gate.proof(device, ear)}
        assert gate.crosses(headers) in ("type-confused", "token-malformed", "token-unbound", "credential-missing")


def test_a_token_called_an_ear_and_the_other_way_round(world: World, gate: Gate) -> None:
    """The header is signed: the house's own key under the other's claims crosses nothing."""
    device = enrolled(world, Machine(), ima=False)
    gate.fetch()
    assert device.answer is not None
    claims = b64decode(token_of(device).split(".")[1])
    key = world.hierarchy.token_key
    as_ear = sign_jws({"kid": key.kid}, claims, typ=EAR_TYP, sign=key.key.sign)
    assert gate.crosses({"Authorization": f"DPoP {as_ear}", "DPoP": gate.proof(device, as_ear)}) == "type-confused"
    said = read_ear(world, device.answer.ear)
    as_token = sign_jws({"kid": key.kid}, write_object(said), typ="at+jwt", sign=key.key.sign)
    crossed = gate.crosses({"Authorization": f"DPoP {as_token}", "DPoP": gate.proof(device, as_token)})
    assert crossed not in ("", "type-confused")


def test_no_ear_of_a_quarantined_device_affirms(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    assert device.answer is not None
    assert read_ear(world, device.answer.ear)["ear_status"] == "affirming"
    Machine(kernel=b"tampered").present(device, ima=False)
    attested_badly(world, device, "loaders")
    assert device.waits is not None
    assert read_ear(world, device.waits.ear)["ear_status"] == "contraindicated"


# ---- Exported evidence ------------------------------------------------------------------------------------------


def test_evidence_leaves_for_operators_alone(world: World) -> None:
    """It names the chip for its whole life."""
    device = enrolled(world, Machine(), ima=False)
    path = f"/v1/admin/devices/{device.id}/evidence"
    for caller in (world.viewer, world.proxy):
        assert caller.get(path).status_code in (401, 403)
    assert world.get(path).status_code == 401
    assert world.operator.get(path).status_code == 200


def test_a_bundle_with_another_root(world: World) -> None:
    """A chain of the forger's own making, for the very key: it is one, so the reader's roots have to decide."""
    device = enrolled(world, Machine(), ima=False)
    bundle = exported(world, device.id)
    record, _ = bundle.reproduce()
    forger = ek_ca.maker("A forger")
    ours, theirs = [world.maker.root.certificate], [forger.root.certificate]
    leaf = forger.intermediate.ek_certificate(device.tpm.ek.private.public_key())
    forged = replace(bundle, certificates=(*forger.chain(leaf), *theirs))
    assert bundle.endorse(record, roots=ours)
    assert forged.endorse(record, roots=theirs)
    with pytest.raises(UntrustedMaker):
        forged.endorse(record, roots=ours)
    with pytest.raises(UntrustedMaker):
        bundle.endorse(record, roots=theirs)


@pytest.mark.parametrize("cut", ["its root swapped", "itself alone"])
def test_a_chain_that_ends_elsewhere(world: World, cut: str) -> None:
    """Also where the reader names no roots: the last certificate has to be one."""
    device = enrolled(world, Machine(), ima=False)
    bundle = exported(world, device.id)
    record, _ = bundle.reproduce()
    assert bundle.endorse(record, roots=None)
    kept = {
        "its root swapped": (*bundle.certificates[:-1], ek_ca.maker("A forger").root.certificate),
        "itself alone": bundle.certificates[:1],
    }[cut]
    with pytest.raises(UntrustedMaker):
        replace(bundle, certificates=kept).endorse(record, roots=None)


def test_a_bundle_of_another_device(world: World) -> None:
    """One device's record with another's documents, result or certificates."""
    refer(world, **WHOLE)
    mine, other = Machine(), Machine("/usr/bin/vim")
    first, second = enrolled(world, mine), enrolled(world, other)
    bundle, theirs = exported(world, first.id), exported(world, second.id)
    record, _ = bundle.reproduce()
    with pytest.raises((DocumentMissing, EvidenceRefused)):
        replace(bundle, ima=theirs.ima).reproduce()
    with pytest.raises(NotReproduced):
        replace(bundle, result=bundle.result.replace(b'"executables":2', b'"executables":3')).reproduce()
    with pytest.raises(EndorsementDiffers):
        replace(bundle, certificates=theirs.certificates).endorse(record, roots=[world.maker.root.certificate])


@pytest.mark.parametrize(
    "change",
    [
        {"eventlog": "zz" * 32},
        {"eventlog": "AB" * 32},
        {"eventlog": ""},
        {"at": -1},
        {"at": 1 << 62},
        {"ima_entries": -1},
        {"ima_entries": 1 << 40},
        {"labels": {"ring": 1}},
    ],
    ids=str,
)
def test_a_record_that_no_service_wrote(world: World, change: Mapping[str, Any]) -> None:
    refer(world, **WHOLE)
    record = exported(world, enrolled(world, Machine()).id).record
    assert AppraisalRecord.parse(record).to_bytes() == record
    with pytest.raises(MalformedInput):
        AppraisalRecord.parse(write_object(read_object(record, limit=1 << 20) | change))
