"""Enrollment's invariants: what is spent, what is recorded, and what a device's state allows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import delete
from werkzeug.test import TestResponse

from attestd.config import AttestationSettings, ReferenceSettings
from attestd.credentials.facts import FACTS_OID, tier_of
from attestd.ids import EkHash, Tier
from attestd.issuance.challenges import EnrollmentChallenge, RequestNonce
from attestd.registry import admission, audit, devices, issued, spends, tables, transitions, trust
from attestd.registry.acts import Step
from attestd.registry.statements import Statement
from attestd.registry.states import Event, State
from tests import ek_ca
from tests.forger import Forger
from tests.service import PCRS, SITE, SoftDevice, World, meanwhile, problem

GOOD = ReferenceSettings("image 12", {"sha256": {0: (PCRS["sha256"][0],)}})
OTHER = ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance")


def leaf(device: SoftDevice) -> x509.Certificate:
    assert device.answer is not None
    return x509.load_pem_x509_certificate(device.answer.chain.encode())


def acts(world: World) -> list[str]:
    with world.registry.reading() as c:
        return [row.act for row in audit.page(c, limit=1000)]


# ---- What is issued ---------------------------------------------------------------------------------------------


def test_the_certificate_says_what_the_registry_says_and_not_what_the_device_says(world: World) -> None:
    device = world.enrolled(site="munich", labels={"ring": "canary"})
    names = leaf(device).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uri == f"spiffe://fleet.example/device/munich/{device.id}"
    facts = leaf(device).extensions.get_extension_for_oid(FACTS_OID)
    assert not facts.critical
    assert b'"ring":"canary"' in facts.value.public_bytes()
    assert leaf(device).public_key() == device.tpm.ck.private.public_key()


def test_an_ek_hash_is_in_no_certificate(world: World) -> None:
    device = world.enrolled()
    assert device.answer is not None
    text = device.answer.chain.encode() + leaf(device).public_bytes(Encoding.DER)
    assert bytes(device.ek_hash) not in text
    assert device.ek_hash.hex().encode() not in text


def test_a_certificate_ends_with_the_attestation(tmp_path: Path) -> None:
    world = World(tmp_path / "i", attestation=AttestationSettings(validity=timedelta(minutes=20)))
    device = world.enrolled()
    assert leaf(device).not_valid_after_utc - world.clock() == timedelta(minutes=20)
    assert world.clock() - leaf(device).not_valid_before_utc == timedelta(seconds=60)


def test_what_was_issued_is_recorded_with_its_audit_row(world: World) -> None:
    device = world.enrolled()
    with world.registry.reading() as c:
        (record,) = issued.page(c, device_id=world.row(device).id)
        enroll = audit.page(c, subject=device.id)[0]
    assert record.serial.number == leaf(device).serial_number
    assert enroll.act == "enroll"
    assert enroll.detail["serial"] == str(record.serial)
    assert enroll.request_id


# ---- What is spent ----------------------------------------------------------------------------------------------


def test_two_completions_at_once_issue_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.device()
    device.enroll()
    world.approve(device)
    challenge = device.begin()
    other = SoftDevice(world, device.tpm, device.certificates)
    meanwhile(monkeypatch, lambda: _expect(other.complete(challenge).status_code, 200))
    answer = device.complete(challenge)
    assert answer.status_code == 409
    with world.registry.reading() as c:
        assert len(issued.page(c, device_id=world.row(device).id)) == 1


def test_one_completion_sent_twice_at_once_is_answered_twice_alike(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose connection broke sends again while its first request is still being worked on."""
    device = world.device()
    device.enroll()
    world.approve(device)
    challenge = device.begin()
    body = device.evidence(challenge).to_bytes()
    first: list[TestResponse] = []
    meanwhile(monkeypatch, lambda: first.append(device.complete(challenge, body)))
    second = device.complete(challenge, body)
    assert (second.status_code, second.data) == (200, first[0].data)
    with world.registry.reading() as c:
        assert len(issued.page(c, device_id=world.row(device).id)) == 1


def test_a_database_that_fails_at_the_commit_spends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.device()
    device.enroll()
    world.approve(device)
    challenge = device.begin()

    # The last step of the act refers to nothing, which the database refuses.
    broken = Step(Statement(delete(tables.devices)), {})
    with monkeypatch.context() as patched:
        patched.setattr(audit, "entry", lambda **_: broken)
        assert device.complete(challenge).status_code == 503
    with world.registry.reading() as c:
        assert spends.find(c, challenge.id) is None
        assert issued.page(c, device_id=world.row(device).id) == []
    assert world.row(device).state is State.APPROVED
    assert device.resend().status_code == 200, "the retry of the same request succeeds"


def test_a_retired_sealing_key_still_opens_a_challenge(world: World) -> None:
    device = world.device()
    challenge = device.begin()
    opened = EnrollmentChallenge.open(challenge.challenge, world.hierarchy.sealing)
    assert opened.id == challenge.id
    assert opened.nonce == challenge.nonce
    assert opened.ak.name == device.tpm.ak.name
    assert opened.endorsement.ek_hash == device.ek_hash


def test_a_nonce_is_no_challenge_and_a_challenge_no_nonce(world: World) -> None:
    challenge = world.device().begin()
    nonce = world.nonce()
    with pytest.raises(Exception, match="changed after it was sealed"):
        EnrollmentChallenge.open(nonce, world.hierarchy.sealing)
    with pytest.raises(Exception, match="changed after it was sealed"):
        RequestNonce.open(challenge.challenge, world.hierarchy.sealing)


def test_the_secret_is_shown_nowhere(world: World) -> None:
    challenge = world.device().begin()
    opened = EnrollmentChallenge.open(challenge.challenge, world.hierarchy.sealing)
    assert opened.secret.hex() not in repr(opened)
    assert repr(opened.secret) not in repr(opened)


# ---- What the state allows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [Event.RETIRE, Event.REJECT])
def test_a_state_that_changes_under_way_issues_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, event: Event
) -> None:
    device = world.device()
    device.enroll()
    if event is Event.RETIRE:
        world.approve(device)
    row = world.row(device)

    def happens() -> None:
        with world.registry.acting() as c:
            transitions.change_state(c, row.id, event, reason="meanwhile", now=1)

    meanwhile(monkeypatch, happens)
    assert device.enroll().status_code == 409
    with world.registry.reading() as c:
        assert issued.page(c, device_id=row.id) == []


def test_a_replaced_tpm_never_comes_back(world: World) -> None:
    device, newer = world.enrolled(), world.device()
    with world.registry.acting() as c:
        admission.replace_ek(c, world.row(device).id, newer.ek_hash, reason="broken", now=1)
    answer = device.enroll()
    assert (answer.status_code, problem(answer)) == (403, "endorsement-key-blocked")
    assert newer.enroll().status_code == 200
    assert newer.id == device.id


def test_a_known_ek_can_not_take_over_another_devices_id(world: World) -> None:
    first, second = world.enrolled(), world.enrolled()
    assert first.id != second.id
    assert second.attest(kid=first.id).status_code == 401


def test_reference_values_affirm_what_matches(tmp_path: Path) -> None:
    world = World(tmp_path / "i", references=(GOOD,))
    device = world.enrolled()
    assert device.answer is not None
    assert tier_of(device.answer.result["vector"]["executables"]) == "affirming"


def test_a_contraindicated_newcomer_gets_nothing_and_stays_approved(tmp_path: Path) -> None:
    world = World(tmp_path / "i", references=(OTHER,))
    device = world.device()
    device.enroll()
    world.approve(device)
    answer = device.enroll()
    assert (answer.status_code, problem(answer)) == (403, "evidence-contraindicated")
    assert world.row(device).state is State.APPROVED
    assert "refuse-enrollment" in acts(world)
    assert device.resend().status_code == 409, "the challenge is spent all the same"


def test_an_active_device_that_enrolls_in_a_bad_state_is_quarantined(world: World) -> None:
    device = world.enrolled()
    world.configure(references=(OTHER,))
    answer = device.enroll()
    assert (answer.status_code, problem(answer)) == (403, "evidence-contraindicated")
    assert world.row(device).state is State.QUARANTINED
    with world.registry.reading() as c:
        assert dict(devices.status_entries(c))[world.row(device).status_index] == 2


def test_reference_values_of_another_tier_do_not_apply(tmp_path: Path) -> None:
    world = World(tmp_path / "i", references=(replace(OTHER, tier=Tier.EDGE),))
    assert world.enrolled().answer is not None


# ---- Who vouches ------------------------------------------------------------------------------------------------


def _import(world: World, ek_hash: EkHash) -> None:
    line = f"ek_hash,tier,site\n{ek_hash.hex()},device,{SITE}\n".encode()
    world.service.operations.import_inventory(line, world.act)


def test_the_inventory_vouches_where_no_maker_is_trusted(world: World) -> None:
    stranger = ek_ca.maker("Stranger")
    tpm = Forger()
    chain = stranger.chain(stranger.intermediate.ek_certificate(tpm.ek.private.public_key()))
    device = world.device(tpm, certificates=chain)
    refused = world.post("/v1/enrollments", device.begin_request().to_bytes())
    assert problem(refused) == "untrusted-maker"
    _import(world, device.ek_hash)
    assert device.enroll().status_code == 200
    assert device.answer is not None
    assert device.answer.result["vector"]["hardware"] == 0, "the inventory knows it, and no maker vouches for it"


def test_the_inventory_does_not_excuse_a_wrong_certificate(world: World) -> None:
    device = world.device()
    device.certificates = world.device().certificates  # another TPM's
    _import(world, device.ek_hash)
    answer = world.post("/v1/enrollments", device.begin_request().to_bytes())
    assert problem(answer) == "certificate-for-another-key"


def test_without_certificate_and_inventory_nobody_vouches(world: World) -> None:
    answer = world.post("/v1/enrollments", world.device(certificates=[]).begin_request().to_bytes())
    assert (answer.status_code, problem(answer)) == (403, "no-endorsement")


def test_an_approval_is_no_inventory_entry(world: World) -> None:
    """Who was approved on the strength of a certificate can't later come without one."""
    device = world.enrolled()
    device.certificates = []
    answer = world.post("/v1/enrollments", device.begin_request().to_bytes())
    assert problem(answer) == "no-endorsement"


def test_a_maker_that_is_not_trusted_any_more_vouches_for_nobody(world: World) -> None:
    device = world.enrolled()
    with world.registry.reading() as c:
        (maker,) = trust.every(c)
    world.service.operations.remove_maker(maker.sha256, world.act)
    answer = world.post("/v1/enrollments", device.begin_request().to_bytes())
    assert problem(answer) in ("untrusted-maker", "no-trust-anchors")


def _expect(seen: object, wanted: object) -> None:
    assert seen == wanted
