"""Attestations with logs: what is asked for, what is judged, what need not be sent again, and what is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from sqlalchemy import update

from attestd.appraisal.record import AppraisalRecord, DocumentMissing, canonical, reappraise
from attestd.config import AttestationSettings
from attestd.credentials.status import Status
from attestd.issuance import appraising
from attestd.issuance.references import References
from attestd.protocol.demanded import HEADER, Demanded
from attestd.registry import attestations, audit, devices, evidence, references, tables, transitions
from attestd.registry.contents import ContentGone
from attestd.registry.engine import DatabaseFailed
from attestd.registry.states import Event, State
from attestd.upkeep.retention import sweep
from tests import ima_lists
from tests.booted import BOOT, GOOD_FILES, Machine, enrolled, kernel_digest, loaders, refer, runtime
from tests.logwriter import EV, digests_of
from tests.service import SoftDevice, World, meanwhile, problem

pytestmark = pytest.mark.database

SELECTION = AttestationSettings(pcrs={"sha256": tuple(range(10))})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance", attestation=SELECTION)


def acts(world: World) -> list[str]:
    with world.registry.reading() as c:
        return [row.act for row in audit.page(c)]


def kept(world: World, device: SoftDevice) -> list[evidence.Kept]:
    with world.registry.reading() as c:
        return evidence.every(c, world.row(device).id)


def redrawn(world: World, device: SoftDevice, found: evidence.Kept) -> bytes:
    """The result drawn again from what is kept, as an auditor draws it."""
    contents = world.service.attestations.appraiser.contents
    record = AppraisalRecord.parse(found.inputs)
    documents = []
    with world.registry.reading() as c:
        for digest in record.manifests:
            stored = references.by_digest(c, digest)
            documents.append(contents.find(bytes.fromhex(digest)) if stored is None else stored.document)
        parts = evidence.ima_list(c, world.row(device).id, found.boot, entries=found.ima_entries or 0)
    return canonical(
        reappraise(
            record,
            manifests=documents,
            advisories=contents.find(bytes.fromhex(record.advisories)),
            eventlog=None if record.eventlog is None else contents.find(record.eventlog),
            ima=None if record.ima_entries is None else b"".join(part.content for part in parts),
        )
    )


@pytest.fixture(autouse=True)
def everything_can_be_drawn_again(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whatever a test does: what is kept of each device gives the very octets of its result."""
    attested: list[SoftDevice] = []
    signed = SoftDevice.signed

    def noting(device: SoftDevice, *args: Any, **more: Any) -> Any:
        attested.append(device)
        return signed(device, *args, **more)

    monkeypatch.setattr(SoftDevice, "signed", noting)
    yield
    for device in attested:
        for found in kept(world, device):
            assert redrawn(world, device, found) == found.result


# ---- What is asked for ------------------------------------------------------------------------------------------


def demanded(world: World) -> Demanded:
    return Demanded.parse(world.get("/v1/nonce").headers[HEADER])


def test_no_log_is_asked_for_where_nobody_speaks_of_it(world: World) -> None:
    assert demanded(world) == Demanded({"sha256": tuple(range(10))}, ())


def test_manifests_ask_for_what_they_speak_of(world: World) -> None:
    refer(world, pcrs={"sha256": {"14": ["ab" * 32]}}, boot=BOOT)
    assert demanded(world) == Demanded({"sha256": (*range(10), 14)}, ("eventlog",))
    refer(world, "monitor", name="next", boot=BOOT, runtime=runtime(*GOOD_FILES))
    assert demanded(world) == Demanded({"sha256": (*range(11), 14)}, ("eventlog", "ima"))


def test_learning_asks_for_everything(world: World) -> None:
    refer(world, "learn", match={"labels": {"ring": "golden"}})
    assert demanded(world) == Demanded({"sha256": tuple(range(11))}, ("eventlog", "ima"))


def test_settings_ask_too(tmp_path: Path) -> None:
    world = World(tmp_path / "asking", attestation=replace(SELECTION, logs=("eventlog",)))
    assert demanded(world).logs == ("eventlog",)


def test_only_devices_are_told(world: World) -> None:
    assert HEADER in world.get("/v1/nonce").headers
    assert HEADER not in world.admin.get("/v1/admin/devices").headers


def test_a_nonce_is_given_while_the_database_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: object, now: object) -> None:
        raise DatabaseFailed

    monkeypatch.setattr(References, "in_force", away)
    answer = world.get("/v1/nonce")
    assert (answer.status_code, HEADER in answer.headers) == (204, False)


def test_an_enrollment_is_asked_by_its_beginning(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    begun = world.device().begin()
    assert begun.wants == ("eventlog", "ima")
    assert begun.pcrs == {"sha256": tuple(range(11))}


def test_a_log_that_decides_and_was_not_sent(world: World) -> None:
    device = enrolled(world, Machine(), ima=False, eventlog=None)
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    device.pcrs = Machine().pcrs()
    answer = device.attest()
    assert (answer.status_code, problem(answer)) == (403, "evidence-incomplete")
    assert world.row(device).state is State.ACTIVE, "nothing is known against it; it gets nothing, either"
    Machine().present(device)
    assert device.attest().status_code == 200


# ---- Measured boot ----------------------------------------------------------------------------------------------


def test_boot_facts_are_affirmed_and_travel(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    result = device.answer.result  # type: ignore[union-attr]
    assert (result["vector"]["executables"], result["vector"]["configuration"]) == (3, 2)
    assert result["facts"]["secure_boot"] is True


def test_a_tampered_kernel_quarantines_and_comes_back_with_new_references(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    Machine(kernel=b"tampered").present(device, ima=False)
    answer = device.attest()
    assert answer.status_code == 202
    assert world.row(device).state is State.QUARANTINED
    assert kernel_digest(b"tampered") in device.waits.result["reasons"][0]  # type: ignore[union-attr]
    with world.registry.reading() as c:
        assert dict(devices.status_entries(c))[world.row(device).status_index] is Status.SUSPENDED
    refer(world, boot={**BOOT, "loaders": loaders(b"tampered")})
    assert device.attest().status_code == 202, "a good result alone releases nobody, unless policy says so"
    with world.registry.acting() as c:
        transitions.change_state(
            c, world.row(device).id, Event.RELEASE, reason="looked at", now=int(world.clock().timestamp())
        )
    assert device.attest().status_code == 200


def test_versions_overlap_so_that_an_update_quarantines_nobody(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    refer(world, boot={**BOOT, "loaders": loaders(b"next")}, overlap=3600)
    assert device.attest().status_code == 200
    Machine(kernel=b"next").present(device, ima=False)
    assert device.attest().status_code == 200
    Machine().present(device, ima=False)
    world.clock.advance(seconds=3600)
    assert device.attest().status_code == 202


def test_a_log_that_does_not_replay_is_refused_and_quarantines_nobody(world: World) -> None:
    device = enrolled(world, Machine(), ima=False)
    machine = Machine()
    lying = machine.boot.lie(3, digests=digests_of(b"another"))
    machine.present(device, ima=False, eventlog=lying.agile())
    answer = device.attest()
    assert (answer.status_code, problem(answer)) == (403, "event-log-mismatch")
    assert world.row(device).state is State.ACTIVE
    assert acts(world)[0] == "refuse-attestation"


def test_an_unchanged_log_is_not_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    lately = device.answer.lately  # type: ignore[union-attr]
    assert lately.eventlog == hashlib.sha256(machine.eventlog).digest()

    def never(data: bytes) -> None:
        raise AssertionError("the log was read")

    monkeypatch.setattr(appraising, "parse_event_log", never)
    assert device.attest().status_code == 200, "sent again, and recognised"
    machine.present(device, ima=False, eventlog=None, eventlog_sha256=lately.eventlog)
    assert device.attest().status_code == 200
    assert device.answer.result["facts"]["secure_boot"] is True  # type: ignore[union-attr]


@pytest.mark.parametrize("lie", ["another log", "other values"])
def test_a_log_counts_as_known_only_with_its_own_values(world: World, lie: str) -> None:
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    known = hashlib.sha256(machine.eventlog).digest()
    if lie == "another log":
        machine.present(device, ima=False, eventlog=None, eventlog_sha256=hashlib.sha256(b"another").digest())
    else:
        Machine(kernel=b"tampered").present(device, ima=False, eventlog=None, eventlog_sha256=known)
    nonce, before = world.nonce(), acts(world)
    answer = device.attest(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (409, "event-log-unknown")
    assert acts(world) == before
    machine.present(device, ima=False)
    assert device.attest(nonce=nonce).status_code == 200, "nothing was spent"


@pytest.mark.parametrize("left_out", [{"eventlog": None, "eventlog_sha256": bytes(32)}, {"ima_from": 2}])
def test_an_enrollment_sends_its_logs_whole(world: World, left_out: Mapping[str, Any]) -> None:
    device = world.device()
    refer(world, "learn")
    Machine().present(device, **left_out)
    answer = device.enroll()
    assert (answer.status_code, problem(answer)) == (403, "logs-not-whole")


# ---- IMA --------------------------------------------------------------------------------------------------------


def test_only_new_entries_travel(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    device = enrolled(world, machine)
    assert device.answer.lately.ima == 3  # type: ignore[union-attr]
    assert device.answer.result["vector"]["executables"] == 2  # type: ignore[union-attr]
    machine.run("/usr/bin/vim")
    machine.present(device, ima_from=3)
    assert device.attest().status_code == 200
    machine.present(device, ima_from=4)
    assert device.attest().status_code == 200, "nothing new is a statement, too"
    assert device.answer.lately.ima == 4  # type: ignore[union-attr]


def test_entries_after_the_quote_are_not_kept(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    device = enrolled(world, machine)
    quoted = machine.pcrs()
    machine.run("/usr/bin/rogue")
    machine.present(device)
    device.pcrs = quoted
    assert device.attest().status_code == 200
    assert device.answer.lately.ima == 3  # type: ignore[union-attr]


def test_a_rogue_file_quarantines_until_the_next_boot(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    device = enrolled(world, machine)
    machine.run("/usr/bin/rogue")
    machine.present(device, ima_from=3)
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED
    machine.run("/usr/bin/vim")
    machine.present(device, ima_from=4)
    device.attest()
    assert "/usr/bin/rogue" in device.waits.result["reasons"][0]  # type: ignore[union-attr]
    assert [found.verdict for found in kept(world, device)] == ["bad", "good"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("boot", "another-boot"),
        ("manifest", "another-policy"),
        ("watched", "another-policy"),
        ("gap", "entries-missing"),
    ],
)
def test_the_whole_list_is_asked_for(world: World, change: str, name: str) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    device = enrolled(world, machine)
    machine.run("/usr/bin/vim")
    clock: dict[str, Any] = {}
    if change == "boot":
        clock = {"reset_count": 8, "restart_count": 0}
    elif change == "manifest":
        refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES, "/more"))
    elif change == "watched":
        refer(world, "monitor", name="next", boot=BOOT, runtime=runtime(*GOOD_FILES, "/more"))
    machine.present(device, ima_from=2 if change == "gap" else 3)
    nonce = world.nonce()
    device.tpm.clock = clock
    answer = device.attest(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (409, name)
    machine.present(device)
    assert device.attest(nonce=nonce).status_code == 200
    machine.present(device, ima_from=4)
    assert device.attest().status_code == 200


def test_a_state_of_another_version_counts_as_none(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    device = enrolled(world, machine)
    with world.registry.acting() as c:
        c.execute(update(tables.evidence).values(runtime_state=b'{"decided":"e30","v":1,"watched":{}}'))
    machine.present(device, ima_from=3)
    nonce = world.nonce()
    answer = device.attest(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (409, "entries-missing")
    machine.present(device)
    assert device.attest(nonce=nonce).status_code == 200
    machine.present(device, ima_from=3)
    assert device.attest().status_code == 200


@pytest.mark.parametrize("another_boot", [False, True])
def test_two_attestations_at_once(world: World, monkeypatch: pytest.MonkeyPatch, another_boot: bool) -> None:
    """Evidence is of one attestation: its inputs never stand beside the facts of another log."""
    refer(world, boot={**BOOT, "loaders": loaders(b"kernel", b"next")})
    machine = Machine()
    device = enrolled(world, machine, ima=False)

    def other() -> None:
        if another_boot:
            Machine(kernel=b"next").present(device, ima=False)
            device.tpm.clock = {"reset_count": 8, "restart_count": 0}
        assert device.attest().status_code == 200

    meanwhile(monkeypatch, other)
    answer = device.attest()
    assert (answer.status_code, problem(answer)) == (409, "state-changed")
    assert device.attest().status_code == 200


def test_lists_of_former_boots_go(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    device = enrolled(world, machine)
    for boot in (8, 9):
        device.tpm.clock = {"reset_count": boot, "restart_count": 0}
        Machine().present(device)
        assert device.attest().status_code == 200
    with world.registry.reading() as c:
        key = device.tpm.ak.name[-8:].hex()
        boots = [f"{counts}.{key}" for counts in ("7.3", "8.0", "9.0")]
        stored = [evidence.ima_list(c, world.row(device).id, boot, entries=9) for boot in boots]
        assert stored[:2] == [[], []]
        assert len(stored[2]) == 1


# ---- Watched manifests ------------------------------------------------------------------------------------------


def test_a_watched_manifest_says_what_it_would_refuse_and_refuses_nobody(world: World) -> None:
    digest = refer(world, "monitor", boot={**BOOT, "loaders": loaders(b"next")}, runtime=runtime("/usr/bin/init"))
    device = enrolled(world, Machine())
    with world.registry.reading() as c:
        total, (said,) = references.would_refuse(c, digest)
    assert (total, said.device_id) == (1, world.row(device).id)
    assert any("loaders" in why for why in said.reasons)
    assert any("/usr/bin/sh" in why for why in said.reasons)
    Machine("/usr/bin/init", kernel=b"next").present(device)
    device.tpm.clock = {"reset_count": 8, "restart_count": 0}
    assert device.attest().status_code == 200
    with world.registry.reading() as c:
        assert references.would_refuse(c, digest) == (0, [])


# ---- EARs -------------------------------------------------------------------------------------------------------


def read_ear(world: World, ear: str) -> dict[str, Any]:
    keys = jwt.PyJWKSet.from_dict(world.get("/v1/jwks").json or {})
    kid = jwt.get_unverified_header(ear)["kid"]
    claims: dict[str, Any] = jwt.decode(
        ear, keys[kid].key, algorithms=["ES256"], options={"verify_exp": False, "verify_iat": False}
    )
    return claims


def test_results_are_ears_that_the_published_keys_verify(world: World) -> None:
    digest = refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    assert device.attest().status_code == 200
    assert device.answer is not None
    claims = read_ear(world, device.answer.ear)
    appraisal = claims["submods"][device.answer.spiffe_id]
    assert (claims["ear_status"], appraisal["ear_trustworthiness_vector"]["executables"]) == ("affirming", 3)
    assert appraisal["ear_appraisal_policy_ids"] == [f"model@sha256:{digest}"]
    assert claims["exp"] - claims["iat"] == 4 * 3600
    Machine(kernel=b"tampered").present(device, ima=False)
    device.attest()
    assert device.waits is not None
    assert read_ear(world, device.waits.ear)["ear_status"] == "contraindicated"


# ---- What is kept -----------------------------------------------------------------------------------------------


def test_a_changed_document_is_found(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    device = enrolled(world, Machine())
    assert device.attest().status_code == 200
    (found,) = kept(world, device)
    record = AppraisalRecord.parse(found.inputs)
    contents = world.service.attestations.appraiser.contents
    with world.registry.reading() as c:
        manifests = [references.by_digest(c, digest).document for digest in record.manifests]  # type: ignore[union-attr]
    whole: dict[str, Any] = {
        "manifests": manifests,
        "advisories": contents.find(bytes.fromhex(record.advisories)),
        "eventlog": Machine().eventlog,
        "ima": Machine().ima(),
    }
    assert canonical(reappraise(record, **whole)) == found.result
    longer = Machine()
    longer.run("/more")
    for lie in (
        {"manifests": []},
        {"advisories": b""},
        {"eventlog": Machine(kernel=b"tampered").eventlog},
        {"eventlog": None},
        {"ima": None},
    ):
        with pytest.raises(DocumentMissing):
            reappraise(record, **(whole | lie))
    assert canonical(reappraise(record, **(whole | {"ima": longer.ima()}))) == found.result, "up to the quote"


def test_the_endorsement_is_kept(world: World) -> None:
    device = enrolled(world, Machine(), ima=False)
    with world.registry.reading() as c:
        found = evidence.endorsed_by(c, world.row(device).id)
    assert found.certificate == device.certificates[0]
    assert found.issuers[-1] == hashlib.sha256(world.maker.root.certificate).digest()
    contents = world.service.attestations.appraiser.contents
    assert contents.find(found.issuers[0]) == device.certificates[1]


def test_what_a_forgotten_request_left_is_forgotten(world: World) -> None:
    device = world.device()
    Machine().present(device, ima=False)
    assert device.enroll().status_code == 202
    asked = world.row(device).id
    world.clock.advance(days=8)
    another = world.device()
    Machine().present(another, ima=False)
    assert another.enroll().status_code == 202
    with world.registry.reading() as c:
        assert evidence.every(c, asked) == []
        assert evidence.endorsed_by(c, asked).certificate is None


def test_ima_lists_names() -> None:
    """The generator's list is the one that this module speaks of."""
    assert [item.template for item in Machine().items] == ["ima-ng"] * 3
    assert ima_lists.pcr10(Machine().items) == Machine().pcrs()["sha256"][10]


def test_event_logs_that_nothing_names_any_more_go(world: World) -> None:
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    former = hashlib.sha256(machine.eventlog).digest()
    contents = world.service.attestations.appraiser.contents
    for number in range(attestations.MAX_OPENED):  # the history names a log for as long as it can be opened
        assert contents.find(former)
        machine.boot.measure(5, EV.EFI_ACTION, f"boot {number}".encode())
        Machine(boot=machine.boot).present(device, ima=False)
        assert device.attest().status_code == 200
    for hours in (1, 24):
        assert contents.find(former)
        world.clock.advance(hours=hours)
        swept = sweep(world.registry, world.settings, now=world.clock(), pause=lambda _: None)
        assert swept.eventlogs == (hours == 24)
    with pytest.raises(ContentGone):
        contents.find(former)
