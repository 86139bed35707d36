"""Enrollment over HTTP: waiting, approval, retries, wrong proofs, and each refusal with its status and name."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.config import EnrollmentSettings
from attestd.protocol.messages import CompleteRequest
from attestd.registry import issued
from attestd.registry.states import State
from attestd.web import devices as door
from tests import ek_ca
from tests.forger import AK_ATTRIBUTES, RESTRICTED, Forger, forge_key
from tests.service import START, SoftDevice, World, problem


def leaf(device: SoftDevice) -> x509.Certificate:
    assert device.answer is not None
    return x509.load_pem_x509_certificates(device.answer.chain.encode())[0]


# ---- Enrollment -------------------------------------------------------------------------------------------------


def test_an_unknown_device_waits_is_approved_and_enrolls(world: World) -> None:
    device = world.device()
    first = device.enroll()
    assert (first.status_code, first.headers["Retry-After"]) == (202, "30")
    assert device.waits is not None
    assert device.waits.state == "pending"
    assert world.row(device).state is State.PENDING

    assert world.approve(device, labels={"line": "2"}).status_code == 200
    second = device.enroll()
    assert (second.status_code, second.content_type) == (200, "application/json")
    assert device.answer is not None
    assert device.answer.spiffe_id == f"spiffe://fleet.example/device/shop-1/{device.id}"
    certificate = leaf(device)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.public_key() == device.tpm.ck.private.public_key()
    assert device.answer.expires_in == 3600
    assert world.row(device).state is State.ACTIVE


def test_a_device_of_the_inventory_enrolls_at_once_also_without_a_certificate(world: World) -> None:
    device = world.device(certificates=[])
    assert problem(world.post("/v1/enrollments", device.begin_request().to_bytes())) == "no-endorsement"
    inventory = f"ek_hash,tier,site\n{device.ek_hash.hex()},edge,shop-2\n".encode()
    assert world.operator.post("/v1/admin/devices/import", inventory, content_type="text/csv").status_code == 200
    assert device.enroll().status_code == 200
    assert device.answer is not None
    assert device.answer.spiffe_id.startswith("spiffe://fleet.example/edge/shop-2/")


def test_a_retry_gets_the_same_octets(world: World) -> None:
    device = world.enrolled()
    assert device.answer is not None
    first = device.answer.to_bytes()
    again = device.resend()
    world.clock.advance(minutes=30)  # long after the challenge has expired
    later = device.resend()
    assert (again.status_code, later.status_code) == (200, 200)
    assert again.data == later.data == first
    with world.registry.reading() as c:
        assert len(issued.page(c, device_id=world.row(device).id)) == 1


def test_a_retry_after_the_certificate_has_ended(world: World) -> None:
    device = world.enrolled()
    world.clock.advance(hours=1)
    answer = device.resend()
    assert (answer.status_code, problem(answer)) == (409, "answer-outdated")


def test_a_retry_of_a_quarantined_device(world: World) -> None:
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})
    answer = device.resend()
    assert (answer.status_code, problem(answer)) == (409, "answer-outdated")


def test_a_spent_challenge_with_another_body(world: World) -> None:
    device = world.device()
    challenge = device.begin()
    assert device.complete(challenge).status_code == 202
    answer = device.complete(challenge, device.evidence(challenge).to_bytes() + b" ")
    assert (answer.status_code, problem(answer)) == (409, "challenge-spent")


def test_an_expired_challenge(world: World) -> None:
    device = world.device()
    challenge = device.begin()
    world.clock.advance(seconds=299)
    assert device.complete(challenge).status_code == 202
    challenge = device.begin()
    world.clock.advance(seconds=300)
    answer = device.complete(challenge)
    assert (answer.status_code, problem(answer)) == (409, "challenge-expired")


def test_a_challenge_that_nobody_sealed(world: World) -> None:
    device = world.device()
    body = CompleteRequest(bytes(300), b"{}", bytes(32)).to_bytes()
    answer = world.post("/v1/enrollments/complete", body)
    assert (answer.status_code, problem(answer)) == (400, "seal-broken")
    assert device.enroll().status_code == 202


def test_evidence_that_is_refused_spends_the_challenge(world: World) -> None:
    device = world.device()
    challenge = device.begin()
    answer = device.complete(challenge, device.evidence(challenge, nonce=bytes(32)).to_bytes())
    assert (answer.status_code, problem(answer)) == (403, "nonce-mismatch")
    answer = device.complete(challenge)
    assert (answer.status_code, problem(answer)) == (409, "challenge-spent")


def test_a_maker_that_nobody_trusts(world: World) -> None:
    forger = Forger()
    other = ek_ca.maker("Other")
    certificate = other.intermediate.ek_certificate(forger.ek.private.public_key())  # type: ignore[arg-type]
    device = world.device(forger, certificates=other.chain(certificate))
    answer = world.post("/v1/enrollments", device.begin_request().to_bytes())
    assert (answer.status_code, problem(answer)) == (403, "untrusted-maker")


def test_an_attestation_key_that_is_not_restricted(world: World) -> None:
    ak = forge_key(attributes=AK_ATTRIBUTES & ~RESTRICTED)
    answer = world.post("/v1/enrollments", world.device(Forger(ak=ak)).begin_request().to_bytes())
    assert (answer.status_code, problem(answer)) == (403, "ak-not-restricted")


def test_a_rejected_device(world: World) -> None:
    device = world.device()
    device.enroll()
    world.operator.post(f"/v1/admin/devices/{world.row(device).id}/reject", {"v": 1, "reason": "not ours"})
    answer = device.enroll()
    assert (answer.status_code, problem(answer)) == (403, "enrollment-rejected")


def test_a_quarantined_device_does_not_improve_by_enrolling_again(world: World) -> None:
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})
    answer = device.enroll()
    assert (answer.status_code, problem(answer)) == (403, "device-quarantined")


def test_a_retired_device_waits_again(world: World) -> None:
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/retire", {"v": 1})
    assert device.enroll().status_code == 202
    assert world.row(device).state is State.PENDING


def test_enrolling_again_revokes_what_was_issued_before(world: World) -> None:
    device = world.enrolled()
    before = leaf(device).serial_number
    device.tpm = Forger(ek=device.tpm.ek)
    assert device.enroll().status_code == 200
    with world.registry.reading() as c:
        revoked = [entry.serial.number for entry in issued.revoked_unexpired(c, now=int(START.timestamp()))]
    assert revoked == [before]


def test_too_many_devices_wait(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = World(tmp_path_factory.mktemp("few") / "instance", enrollment=EnrollmentSettings(max_pending=1))
    assert world.device().enroll().status_code == 202
    answer = world.device().enroll()
    assert (answer.status_code, problem(answer), answer.headers["Retry-After"]) == (429, "too-many-pending", "300")
    world.close()


# ---- Wrong proofs -----------------------------------------------------------------------------------------------


def test_a_wrong_proof_spends_nothing(world: World) -> None:
    device = world.device()
    challenge = device.begin()
    answer = device.complete(challenge, proof=bytes(32))
    assert (answer.status_code, problem(answer)) == (403, "activation-proof-wrong")
    assert device.complete(challenge).status_code == 202


def test_wrong_proofs_are_counted_for_a_challenge(world: World) -> None:
    device, other = world.device(), world.device()
    challenge = device.begin()
    for number in range(door.WRONG_PROOFS_A_CHALLENGE):
        answer = device.complete(challenge, proof=bytes(32), environ_base={"REMOTE_ADDR": f"198.51.100.{number}"})
        assert (answer.status_code, problem(answer)) == (403, "activation-proof-wrong")
    answer = device.complete(challenge, proof=bytes(32), environ_base={"REMOTE_ADDR": "198.51.100.99"})
    assert (answer.status_code, problem(answer)) == (429, "too-many-wrong-proofs")
    assert 1 <= int(answer.headers["Retry-After"]) <= 61
    assert other.enroll().status_code == 202
    assert device.complete(challenge).status_code == 202, "a stranger's guesses keep no device out"


def test_wrong_proofs_are_counted_for_a_source(world: World) -> None:
    device = world.device()
    for _ in range(door.WRONG_PROOFS_A_SOURCE):
        assert device.complete(device.begin(), proof=bytes(32)).status_code == 403
    answer = device.complete(device.begin(), proof=bytes(32))
    assert (answer.status_code, problem(answer)) == (429, "too-many-wrong-proofs")
    other = {"REMOTE_ADDR": "198.51.100.7"}
    assert device.complete(device.begin(), proof=bytes(32), environ_base=other).status_code == 403
    assert device.complete(device.begin()).status_code == 202, "a stranger behind the same address keeps no device out"


def test_a_forwarded_address_is_nobody_s_word(world: World) -> None:
    device = world.device()
    for number in range(door.WRONG_PROOFS_A_SOURCE):
        device.complete(device.begin(), proof=bytes(32), headers={"X-Forwarded-For": f"203.0.113.{number}"})
    answer = device.complete(device.begin(), proof=bytes(32), headers={"X-Forwarded-For": "203.0.113.99"})
    assert problem(answer) == "too-many-wrong-proofs"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("local", "local", True),
    ],
)
def test_what_counts_as_one_source(first: str, second: str, same: bool) -> None:
    limits = door.ProofLimits(lambda: 0.0)
    for number in range(door.WRONG_PROOFS_A_SOURCE):
        limits.count(first, b"%d" % number)
    if same:
        with pytest.raises(door.TooManyWrongProofs):
            limits.count(second, b"another")
    else:
        limits.count(second, b"another")


def test_wrong_proofs_are_forgotten_with_time() -> None:
    now = [0.0]
    limits = door.ProofLimits(lambda: now[0])
    for number in range(door.WRONG_PROOFS_A_CHALLENGE):
        limits.count(f"192.0.2.{number}", b"challenge")
    with pytest.raises(door.TooManyWrongProofs) as refused:
        limits.count("192.0.2.99", b"challenge")
    now[0] += refused.value.retry_after or 0
    limits.count("192.0.2.98", b"challenge")


def test_other_refusals_are_not_counted(world: World) -> None:
    device = world.device()
    for _ in range(door.WRONG_PROOFS_A_SOURCE + 1):
        challenge = device.begin()
        answer = device.complete(challenge, b"{}")
        assert problem(answer) == "malformed-json"
    assert device.enroll().status_code == 202
