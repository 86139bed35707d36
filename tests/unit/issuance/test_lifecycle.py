"""A known device's requests: what each needs, what it spends, and what happens under it."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.config import AttestationSettings, ReferenceSettings
from attestd.credentials.requests import SoftwareKey
from attestd.protocol.encoding import b64decode, b64encode
from attestd.registry import audit, devices, issued, transitions
from attestd.registry.states import Event, State
from tests.service import PCRS, SoftDevice, World, meanwhile, problem

GOOD = ReferenceSettings("image 12", {"sha256": {index: (value,) for index, value in PCRS["sha256"].items()}})
OTHER = ReferenceSettings("image 13", {"sha256": {0: (b"\xff" * 32,)}})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance")


def act(world: World, device: SoftDevice, event: Event) -> None:
    with world.registry.acting() as c:
        transitions.change_state(c, world.row(device).id, event, reason="test", now=int(world.clock().timestamp()))


def certificates(world: World, device: SoftDevice) -> list[issued.Issued]:
    with world.registry.reading() as c:
        return issued.page(c, device_id=world.row(device).id)


@pytest.mark.parametrize("verb", ["attest", "renew", "token", "rekey"])
@pytest.mark.parametrize("event", [Event.QUARANTINE, Event.RETIRE])
def test_nothing_is_issued_on_a_state_that_ended_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch, verb: str, event: Event
) -> None:
    device = world.enrolled()
    before = len(certificates(world, device))
    nonce = world.nonce()
    meanwhile(monkeypatch, lambda: act(world, device, event))
    answer = getattr(device, verb)(nonce=nonce)
    assert answer.status_code == 409, answer.text
    assert len(certificates(world, device)) == before
    assert b"chain" not in answer.data
    assert b"token" not in answer.data


def test_no_token_is_bound_to_a_certificate_that_was_revoked_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = world.enrolled()
    (certificate,) = certificates(world, device)
    nonce = world.nonce()
    meanwhile(monkeypatch, lambda: world.service.operations.revoke(certificate.serial, world.act))
    answer = device.token(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (409, "state-changed")


@pytest.mark.parametrize("verb", ["renew", "token"])
def test_an_overdue_attestation_renews_nothing(world: World, verb: str) -> None:
    device = world.enrolled()
    world.clock.advance(hours=4)
    answer = getattr(device, verb)()
    assert (answer.status_code, problem(answer)) == (403, "attestation-overdue")


def test_just_before_it_is_overdue_the_rest_of_it_is_granted(world: World) -> None:
    device = world.enrolled()
    world.clock.advance(hours=3, minutes=50)
    assert device.renew().status_code == 200
    assert device.answer is not None
    leaf = x509.load_pem_x509_certificate(device.answer.chain.encode())
    assert leaf.not_valid_after_utc - world.clock() == timedelta(minutes=10)


def test_a_token_ends_with_the_attestation(world: World) -> None:
    device = world.enrolled()
    world.clock.advance(hours=3, minutes=55)
    device.renew()
    token = json.loads(device.token().data)["token"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert datetime.fromtimestamp(claims["exp"], UTC) - world.clock() == timedelta(minutes=5)


@pytest.mark.parametrize(("binding", "member"), [("dpop", "jkt"), ("tls", "x5t#S256")])
def test_a_token_says_what_it_is_bound_to(world: World, binding: str, member: str) -> None:
    device = world.enrolled()
    token = json.loads(device.token(binding=binding).data)["token"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert list(claims["cnf"]) == [member]
    assert claims["aud"] == "edge"
    assert claims["srl"] == str(certificates(world, device)[0].serial)
    assert claims["attestd"]["idx"] == world.row(device).status_index


def test_a_contraindicated_result_suspends_in_the_same_transaction(world: World) -> None:
    device = world.enrolled()
    world.configure(references=(OTHER,))
    answer = device.attest()
    assert answer.status_code == 202
    assert device.waits is not None
    assert device.waits.state == "quarantined"
    assert world.row(device).state is State.QUARANTINED
    with world.registry.reading() as c:
        assert dict(devices.status_entries(c))[world.row(device).status_index] == 2
    assert problem(device.renew()) == "device-quarantined"


def test_by_default_only_an_operator_releases(world: World) -> None:
    device = world.enrolled()
    act(world, device, Event.QUARANTINE)
    world.configure(references=(GOOD,))
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED


def test_policy_may_release_after_a_good_attestation(world: World) -> None:
    device = world.enrolled()
    world.configure(references=(OTHER,))
    assert device.attest().status_code == 202
    world.configure(references=(GOOD,), attestation=AttestationSettings(release_after_good=True))
    assert device.attest().status_code == 200
    assert world.row(device).state is State.ACTIVE


def test_an_attestation_that_affirms_nothing_releases_nobody(world: World) -> None:
    device = world.enrolled()
    world.configure(references=(OTHER,))
    assert device.attest().status_code == 202
    world.configure(references=())
    world.configure(attestation=AttestationSettings(release_after_good=True))
    assert device.attest().status_code == 202
    assert world.row(device).state is State.QUARANTINED


def test_a_result_in_quarantine_does_not_count_for_renewals_after_the_release(world: World) -> None:
    device = world.enrolled()
    act(world, device, Event.QUARANTINE)
    device.attest()
    act(world, device, Event.RELEASE)
    assert problem(device.renew()) == "attestation-overdue"
    assert device.attest().status_code == 200


def test_a_refused_quote_spends_the_nonce_and_leaves_a_row(world: World) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    payload = device.attestation(nonce, ck_name=bytes(34)).to_bytes()
    refused = device.signed("/v1/attestations", payload, nonce=nonce)
    assert problem(refused) == "nonce-mismatch"
    assert problem(device.attest(nonce=nonce)) == "nonce-spent"
    with world.registry.reading() as c:
        assert audit.page(c, subject=device.id)[0].act == "refuse-attestation"


def test_the_old_key_signs_nothing_after_re_keying(world: World) -> None:
    device = world.enrolled()
    old = device.sign
    before = device.tpm.ck
    assert device.rekey().status_code == 200
    device.tpm.ck, new = before, device.tpm.ck
    assert problem(device.renew(sign=old)) == "signature-wrong"
    device.tpm.ck = new
    assert device.renew().status_code == 200


def test_a_quote_for_another_device_is_refused(world: World) -> None:
    device, other = world.enrolled(), world.enrolled()
    nonce = world.nonce()
    payload = device.attestation(nonce, device_id=other.id).to_bytes()
    assert problem(device.signed("/v1/attestations", payload, nonce=nonce)) == "nonce-mismatch"


def test_the_same_request_again_gets_the_same_octets_while_they_stand(world: World) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    seen = device.renew(nonce=nonce)
    assert device.renew(nonce=nonce).data == seen.data
    act(world, device, Event.QUARANTINE)
    again = device.renew(nonce=nonce)
    assert (again.status_code, problem(again)) == (409, "answer-outdated")


@pytest.mark.parametrize("verb", ["attest", "renew", "token"])
def test_a_request_sent_twice_at_once_is_answered_twice_alike(
    world: World, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    body = device.attestation(nonce)
    monkeypatch.setattr(device, "attestation", lambda *_, **__: body)
    first: list[bytes] = []
    meanwhile(monkeypatch, lambda: first.append(getattr(device, verb)(nonce=nonce).data))
    second = getattr(device, verb)(nonce=nonce)
    assert (second.status_code, second.data) == (200, first[0])


def test_a_rekeying_that_is_sent_again_gets_the_same_octets(world: World) -> None:
    """It is signed by the key that it replaced, which the registry does not hold any more."""
    device = world.enrolled()
    sent: list[bytes] = []
    post = world.post
    world.post = lambda path, body, **more: sent.append(body) or post(path, body, **more)  # type: ignore[method-assign]
    answer = device.rekey()
    assert answer.status_code == 200
    again = post("/v1/renewals", sent[-1], content_type="application/jose+json")
    assert (again.status_code, again.data) == (200, answer.data)
    # Whoever saw the request, and not the key, can't have it answered: another signature is refused.
    forged = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    members = json.loads(sent[-1])
    spoilt = members | {"signature": b64encode(forged.sign(f"{members['protected']}.{members['payload']}".encode()))}
    refused = post("/v1/renewals", json.dumps(spoilt).encode(), content_type="application/jose+json")
    assert (refused.status_code, problem(refused)) == (401, "signature-wrong")
    assert device.renew().status_code == 200, "the new key counts"
    act(world, device, Event.QUARANTINE)
    again = post("/v1/renewals", sent[0], content_type="application/jose+json")
    assert (again.status_code, problem(again)) == (409, "answer-outdated")


def test_another_request_under_a_spent_nonce_is_refused(world: World) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    assert device.renew(nonce=nonce).status_code == 200
    assert problem(device.token(nonce=nonce)) == "nonce-spent"


def test_a_nonce_of_another_instance_is_refused(world: World, tmp_path: Path) -> None:
    device = world.enrolled()
    sealed = bytearray(world.nonce())
    sealed[-1] ^= 1
    answer = device.renew(nonce=bytes(sealed))
    assert (answer.status_code, problem(answer)) == (401, "nonce-invalid")


def test_every_answer_carries_a_nonce_also_a_refusal(world: World) -> None:
    device = world.enrolled()
    refused = device.renew(url="https://elsewhere.example/v1/renewals")
    assert refused.status_code == 401
    assert device.renew(nonce=b64decode(refused.headers["Replay-Nonce"])).status_code == 200
