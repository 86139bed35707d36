"""The devices' door: a machine's life after enrollment over HTTP, and each refusal with its status and name."""

from __future__ import annotations

from datetime import timedelta

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.config import AttestationSettings, ReferenceSettings
from attestd.credentials.times import verify_time
from attestd.protocol.derivations import completion_proof
from attestd.protocol.encoding import b64decode, b64encode, read_object
from attestd.protocol.messages import RenewalRequest
from attestd.protocol.signed import sign_flattened
from attestd.registry import devices
from attestd.registry.states import State
from tests.service import PCRS, START, URL, SoftDevice, World, problem, signer


def leaf(device: SoftDevice) -> x509.Certificate:
    assert device.answer is not None
    return x509.load_pem_x509_certificates(device.answer.chain.encode())[0]


# ---- Nonces and the time ----------------------------------------------------------------------------------------


def test_a_nonce(world: World) -> None:
    answer = world.get("/v1/nonce")
    assert (answer.status_code, answer.data, answer.content_type) == (204, b"", None)
    assert answer.headers["Replay-Nonce"] != world.get("/v1/nonce").headers["Replay-Nonce"]


def test_the_time_is_signed_for_a_nonce(world: World) -> None:
    nonce = bytes(range(32))
    answer = world.get(f"/v1/time?nonce={b64encode(nonce)}")
    assert (answer.status_code, answer.content_type) == (200, "application/jose")
    root = world.hierarchy.root.public_bytes(Encoding.DER)
    assert verify_time(answer.text, roots=[root], nonce=nonce, floor=START - timedelta(days=1)) == START


@pytest.mark.parametrize("size", [16, 64])
def test_the_time_s_nonce_may_be_so_long(world: World, size: int) -> None:
    assert world.get(f"/v1/time?nonce={b64encode(bytes(size))}").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?nonce=",
        f"?nonce={b64encode(bytes(15))}",
        f"?nonce={b64encode(bytes(65))}",
        "?nonce=" + "A" * 5000,
        "?nonce=" + "=" * 22,
        "?nonce=%00" + "A" * 22,
        f"?nonce={b64encode(bytes(16))}&nonce={b64encode(bytes(17))}",
        f"?nonce={b64encode(bytes(16))}&more=1",
        f"?Nonce={b64encode(bytes(16))}",
    ],
)
def test_another_query_for_the_time(world: World, query: str) -> None:
    answer = world.get(f"/v1/time{query}")
    assert (answer.status_code, problem(answer)) == (400, "time-nonce-malformed")


# ---- Signed requests --------------------------------------------------------------------------------------------


def test_re_attesting_renews(world: World) -> None:
    device = world.enrolled()
    before = leaf(device)
    world.clock.advance(minutes=30)
    assert device.attest().status_code == 200
    after = leaf(device)
    assert after.serial_number != before.serial_number
    assert after.not_valid_after_utc - before.not_valid_after_utc == timedelta(minutes=30)
    assert world.row(device).attested_at == int(world.clock().timestamp())


def test_a_device_that_slept_for_weeks_attests(world: World) -> None:
    device = world.enrolled()
    world.clock.advance(days=40)
    answer = device.renew()
    assert (answer.status_code, problem(answer)) == (403, "attestation-overdue")
    assert device.attest().status_code == 200
    assert device.renew().status_code == 200


def test_renewing_keeps_the_key(world: World) -> None:
    device = world.enrolled()
    before = leaf(device)
    assert device.renew().status_code == 200
    assert leaf(device).public_key() == before.public_key()
    assert leaf(device).serial_number != before.serial_number


def test_a_new_key_replaces_the_old_one(world: World) -> None:
    device = world.enrolled()
    old = device.tpm.ck.private
    assert device.rekey().status_code == 200
    assert leaf(device).public_key() == device.tpm.ck.private.public_key()
    assert device.renew().status_code == 200
    answer = device.renew(sign=signer(old))  # type: ignore[arg-type]
    assert (answer.status_code, problem(answer)) == (401, "signature-wrong")


def test_a_new_key_that_was_certified_for_another_nonce(world: World) -> None:
    device = world.enrolled()
    answer = device.rekey(device_id="another")
    assert (answer.status_code, problem(answer)) == (403, "nonce-mismatch")


def test_a_request_once_more_gets_the_same_octets(world: World) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    signed = sign_flattened(
        RenewalRequest().to_bytes(),
        sign=device.sign,
        alg="ES256",
        kid=device.id,
        url=f"{URL}/v1/renewals",
        nonce=nonce,
    )
    first, second = world.post("/v1/renewals", signed), world.post("/v1/renewals", signed)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.data == second.data
    assert device.renew(nonce=nonce).data == first.data  # signed anew: other octets, the same request
    answer = device.token(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (401, "nonce-spent")


def test_an_expired_nonce_is_cured_by_the_refusal_s(world: World) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    world.clock.advance(minutes=5)
    answer = device.renew(nonce=nonce)
    assert (answer.status_code, problem(answer)) == (401, "nonce-expired")
    assert device.renew(nonce=b64decode(answer.headers["Replay-Nonce"])).status_code == 200


def test_a_quote_for_another_nonce(world: World) -> None:
    device = world.enrolled()
    payload = device.attestation(world.nonce()).to_bytes()
    answer = device.signed("/v1/attestations", payload)
    assert (answer.status_code, problem(answer)) == (403, "nonce-mismatch")


def test_a_request_signed_for_another_door(world: World) -> None:
    device = world.enrolled()
    answer = device.renew(url=f"{URL}/v1/tokens")
    assert (answer.status_code, problem(answer)) == (401, "request-misdirected")


def test_a_request_with_a_query(world: World) -> None:
    device = world.enrolled()
    answer = device.signed("/v1/renewals?x=1", RenewalRequest().to_bytes(), url=f"{URL}/v1/renewals")
    assert (answer.status_code, problem(answer)) == (401, "request-misdirected")


def test_another_device_s_name(world: World) -> None:
    device, other = world.enrolled(), world.enrolled()
    answer = device.renew(kid=other.id)
    assert (answer.status_code, problem(answer)) == (401, "signature-wrong")


@pytest.mark.parametrize("kid", ["nobody", "", "Ünknown", "../admin", "x" * 300])
def test_an_unknown_name(world: World, kid: str) -> None:
    answer = world.enrolled().renew(kid=kid)
    assert (answer.status_code, problem(answer)) == (401, "device-unknown")


@pytest.mark.parametrize("content_type", ["application/jose+json", "application/json"])
def test_both_media_types_of_a_signed_request(world: World, content_type: str) -> None:
    device = world.enrolled()
    assert device.signed("/v1/renewals", RenewalRequest().to_bytes(), content_type=content_type).status_code == 200


def test_a_quarantined_device_attests_and_gets_nothing(world: World) -> None:
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "stolen"})
    for refused in (device.renew(), device.token()):
        assert (refused.status_code, problem(refused)) == (403, "device-quarantined")
    answer = device.attest()
    assert answer.status_code == 202
    assert device.waits is not None
    assert (device.waits.state, device.waits.result["status"]) == ("quarantined", "none")
    assert int(answer.headers["Retry-After"]) == device.waits.retry_after
    world.operator.post(f"/v1/admin/devices/{device.id}/release", {"v": 1})
    assert device.attest().status_code == 200


def test_a_retired_device(world: World) -> None:
    device = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{device.id}/retire", {"v": 1})
    for answer in (device.attest(), device.renew(), device.token()):
        assert (answer.status_code, problem(answer)) == (403, "device-not-active")


def test_a_contraindicated_result_quarantines(tmp_path_factory: pytest.TempPathFactory) -> None:
    reference = ReferenceSettings("image 12", {"sha256": {7: (PCRS["sha256"][7],)}})
    world = World(
        tmp_path_factory.mktemp("references") / "instance",
        references=(reference,),
        attestation=AttestationSettings(validity=timedelta(hours=4)),
    )
    device = world.enrolled()
    assert device.answer is not None
    device.pcrs = {"sha256": PCRS["sha256"] | {7: b"\xee" * 32}}
    answer = device.attest()
    assert answer.status_code == 202
    assert device.waits is not None
    assert device.waits.result["status"] == "contraindicated"
    assert world.row(device).state is State.QUARANTINED
    with world.registry.reading() as c:
        assert devices.by_id(c, world.row(device).id).state_reason is not None
    world.close()


# ---- Tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binding", ["dpop", "tls"])
def test_a_token_is_bound(world: World, binding: str) -> None:
    device = world.enrolled()
    answer = device.token(binding=binding)
    assert answer.status_code == 200
    members = read_object(answer.data, limit=65536)
    assert members["expires_in"] == 600
    claims = jwt.decode(members["token"], options={"verify_signature": False})
    assert (claims["aud"], claims["iss"]) == ("edge", URL)
    assert list(claims["cnf"]) == [{"dpop": "jkt", "tls": "x5t#S256"}[binding]]


def test_a_token_for_an_audience_that_no_policy_names(world: World) -> None:
    answer = world.enrolled().token("billing")
    assert (answer.status_code, problem(answer)) == (403, "audience-denied")


def test_a_token_after_the_certificate_was_revoked(world: World) -> None:
    device = world.enrolled()
    serial = f"{leaf(device).serial_number:040x}"
    assert world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1}).status_code == 200
    answer = device.token()
    assert (answer.status_code, problem(answer)) == (403, "attestation-overdue")


# ---- Bodies that are no messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/enrollments", "/v1/enrollments/complete", "/v1/renewals", "/v1/tokens"])
@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b'{"v":1,"v":1}', b"\xff", b'{"v":NaN}', b"[" * 100])
def test_a_body_that_is_no_message(world: World, path: str, body: bytes) -> None:
    answer = world.post(path, body)
    assert (answer.status_code, problem(answer)) == (400, "malformed-json")


def test_a_message_of_another_version(world: World) -> None:
    body = world.device().begin_request().to_bytes().replace(b'"v":1', b'"v":2')
    answer = world.post("/v1/enrollments", body)
    assert (answer.status_code, problem(answer)) == (400, "unsupported-version")


def test_a_proof_over_other_octets(world: World) -> None:
    device = world.device()
    challenge = device.begin()
    secret = device.tpm.activate(challenge.credential_blob, challenge.secret)
    body = device.evidence(challenge).to_bytes()
    answer = device.complete(challenge, body, proof=completion_proof(secret=secret, body=body + b" "))
    assert (answer.status_code, problem(answer)) == (403, "activation-proof-wrong")
