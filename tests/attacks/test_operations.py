"""Attacks on the service's stamina, and what keeps an operator from noticing: floods, sizes, silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.config import EnrollmentSettings
from attestd.protocol.derivations import completion_proof
from attestd.protocol.encoding import b64encode
from attestd.protocol.evidence import MAX_CERTIFICATE, MAX_CERTIFICATES
from attestd.protocol.messages import CompleteRequest
from attestd.registry import audit, issued, spends
from tests.attacks.ledger import Ledger, refused
from tests.forger import new_private_key
from tests.service import SoftDevice, World, problem

Count = Callable[[], Ledger]


def guess(device: SoftDevice) -> bytes:
    """A completion by somebody who did not activate the credential."""
    challenge = device.begin()
    body = device.evidence(challenge).to_bytes()
    return CompleteRequest(challenge.challenge, body, completion_proof(secret=bytes(32), body=body)).to_bytes()


def test_beginning_writes_nothing(world: World, ledger: Count) -> None:
    """Keylime CVE-2023-38200, CVE-2025-1057: what strangers start must cost the service no memory of it."""
    device = world.device()
    before = ledger()
    with world.registry.reading() as c:
        rows = len(audit.page(c, limit=1000))
    for _ in range(20):
        device.begin()
        world.nonce()
    assert ledger() == before
    with world.registry.reading() as c:
        assert len(audit.page(c, limit=1000)) == rows


def test_guesses_are_bounded_and_spoil_nothing(world: World) -> None:
    """Guessing at a victim's challenge is limited, and the victim's own answer to it still counts."""
    device = world.enrolled()
    challenge = device.begin()
    body = device.evidence(challenge).to_bytes()
    wrong = CompleteRequest(challenge.challenge, body, completion_proof(secret=bytes(32), body=body)).to_bytes()
    stranger: dict[str, Any] = {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}}
    answers = [world.post("/v1/enrollments/complete", wrong, **stranger) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {403}
    assert device.complete(challenge, body).status_code == 200
    flood = [world.post("/v1/enrollments/complete", guess(device), **stranger).status_code for _ in range(12)]
    assert flood[-1] == 429
    assert device.enroll().status_code == 200  # from its own address


def test_a_flood_of_strangers_makes_no_more_rows_than_the_cap(tmp_path: Path) -> None:
    world = World(tmp_path / "instance", enrollment=replace(EnrollmentSettings(), max_pending=3))
    asked = [world.device().enroll() for _ in range(6)]
    assert [answer.status_code for answer in asked] == [202] * 3 + [429] * 3
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in asked)
    assert len(Ledger.of(world).devices) == 3
    world.close()


def test_requests_that_nobody_decides_on_are_forgotten(world: World) -> None:
    """step-ca #473: what nobody cleans up grows for ever."""
    forgotten = world.device()
    forgotten.enroll()
    world.clock.advance(days=8)
    world.device().enroll()
    assert len(Ledger.of(world).devices) == 1


def test_spent_nonces_are_forgotten_after_they_could_count(world: World) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    device.renew(nonce=nonce)
    world.clock.advance(minutes=10)
    with world.registry.acting() as c:
        spends.purge(c, before=int(world.clock().timestamp()), limit=100)
    assert refused(device.renew(nonce=nonce), 401, "nonce-expired")  # gone from the table, and dead all the same


def test_a_proxy_whose_certificate_was_forgotten(world: World) -> None:
    """Retention removes expired certificates; a proxy that slept past that is refused, and nothing falls over."""
    assert world.proxy.get("/v1/bundle").status_code == 200
    with world.registry.acting() as c:
        issued.purge(c, before=int(world.clock().timestamp()) + 10**9, limit=100)
    assert refused(world.proxy.get("/v1/bundle"), 401, "caller-expired")


@pytest.mark.parametrize("kind", ["rsa2048", "p384", "p256"])
def test_a_proxy_s_key_of_another_kind(world: World, kind: str) -> None:
    """A key that nothing here can verify with is refused when it comes, and not when it is used."""
    public = new_private_key(kind).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    answer = world.admin.post("/v1/admin/proxies", {"v": 1, "name": "p", "site": "shop-1", "public_key": pem})
    if kind == "p256":
        assert answer.status_code in (200, 201), answer.text
    else:
        assert refused(answer, 400, "unusable-public-key")


def test_sizes_of_what_strangers_send(world: World) -> None:
    device = world.device()
    leaf, middle = device.certificates
    for certificates in ([leaf, *[middle] * MAX_CERTIFICATES], [leaf, bytes(MAX_CERTIFICATE + 1)]):
        answer = world.post("/v1/enrollments", device.begin_request(ek_certificates=tuple(certificates)).to_bytes())
        assert answer.status_code in (400, 413), answer.text
    many = (leaf, *[middle] * (MAX_CERTIFICATES - 1))
    assert world.post("/v1/enrollments", device.begin_request(ek_certificates=many).to_bytes()).status_code in (
        200,
        413,
    )


def test_numbers_and_nesting_that_stall_parsers(world: World) -> None:
    bodies = (
        b'{"v":' + b"9" * 60_000 + b"}",
        b'{"v":1' + b"0" * 5000 + b'e999999,"ek":1}',
        b"[" * 30_000,
        b'{"a":' * 10_000,
        b'"' + b"\\u00" * 15_000,
        b'{"v":1,"ek":"' + b"\\" * 60_000,
    )
    for body in bodies:
        answer = world.post("/v1/enrollments", body)
        assert answer.status_code == 400
        assert problem(answer) == "malformed-json"


def test_what_is_refused_is_in_the_audit_trail(world: World) -> None:
    """Keylime #1091: nobody noticed. A right proof with refused evidence leaves a row that says why."""
    device = world.enrolled()
    nonce = world.nonce()
    lie = device.attestation(nonce, device_id="another").to_bytes()
    assert device.signed("/v1/attestations", lie, nonce=nonce).status_code == 403
    trail = world.viewer.get("/v1/admin/audit").text
    assert "refuse-attestation" in trail
    assert "nonce-mismatch" in trail


def test_no_answer_to_operators_holds_secrets(world: World) -> None:
    """What viewers see holds no challenge, no proof and no device's whole life: EK hashes are the approver's alone."""
    device = world.enrolled()
    for path in ("/v1/admin/audit", "/v1/admin/overview", "/v1/admin/credentials", "/metrics", "/readyz"):
        text = (world.viewer.get(path) if path.startswith("/v1/admin") else world.get(path)).text
        assert device.ek_hash.hex() not in text
        assert b64encode(device.ek_hash) not in text
