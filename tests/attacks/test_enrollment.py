"""Attacks on activation and certification: secrets, challenges and keys that belong to something else.

What one function refuses is in tests/unit/tpm and tests/unit/issuance; here two enrollments, two devices or two
services meet at the HTTP door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestd.protocol.derivations import completion_proof, device_certify_data, enrollment_certify_data
from attestd.protocol.messages import BeginAnswer, CertifiedKey, CompleteRequest, EnrollmentEvidence, RenewalRequest
from attestd.registry.states import State
from tests.attacks.ledger import Ledger, refused
from tests.forger import (
    AK_ATTRIBUTES,
    CK_ATTRIBUTES,
    CREATION,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    Forger,
    ForgerRefused,
    forge_ck,
    forge_key,
)
from tests.service import SoftDevice, World, signer

COMPLETE = "/v1/enrollments/complete"
Count = Callable[[], Ledger]


def secret_of(device: SoftDevice, challenge: BeginAnswer) -> bytes:
    return device.tpm.activate(challenge.credential_blob, challenge.secret)


def send(world: World, challenge: bytes, body: bytes, secret: bytes) -> Any:
    proof = completion_proof(secret=secret, body=body)
    return world.post(COMPLETE, CompleteRequest(challenge, body, proof).to_bytes())


# ---- Challenges and secrets -------------------------------------------------------------------------------------


def test_another_challenge_s_secret(world: World, ledger: Count) -> None:
    """Two challenges of one device at once: each is answered with its own secret only."""
    device = world.enrolled()
    first, second = device.begin(), device.begin()
    before = ledger()
    body = device.evidence(first).to_bytes()
    assert refused(send(world, first.challenge, body, secret_of(device, second)), 403, "activation-proof-wrong")
    assert ledger() == before
    assert send(world, first.challenge, body, secret_of(device, first)).status_code == 200


def test_another_device_s_challenge(world: World, ledger: Count) -> None:
    """A thief completes the victim's challenge with all of its own evidence and its own secret."""
    victim, thief = world.enrolled(), world.enrolled()
    of_victim, of_thief = victim.begin(), thief.begin()
    before = ledger()
    body = thief.evidence(of_thief).to_bytes()
    assert refused(send(world, of_victim.challenge, body, secret_of(thief, of_thief)), 403, "activation-proof-wrong")
    assert ledger() == before
    assert victim.complete(of_victim).status_code == 200  # nothing of it was spoiled


@pytest.mark.parametrize("swapped", ["all", "key", "quote"])
def test_evidence_swapped_between_two_devices(world: World, ledger: Count, swapped: str) -> None:
    """Two enrollments running at once, both of real devices: neither vouches for the other's key or state."""
    one, other = world.enrolled(), world.enrolled()
    of_one, of_other = one.begin(), other.begin()
    mine, foreign = one.evidence(of_one), other.evidence(of_other)
    mixed = EnrollmentEvidence(
        mine.key if swapped == "quote" else foreign.key, mine.quote if swapped == "key" else foreign.quote
    )
    before = ledger()
    answer = send(world, of_one.challenge, mixed.to_bytes(), secret_of(one, of_one))
    assert refused(answer, 403, "signature-wrong")
    assert ledger() == before
    assert one.enroll().status_code == 200


@pytest.mark.parametrize("swapped", ["key", "quote"])
def test_evidence_swapped_between_two_enrollments_of_one_device(world: World, ledger: Count, swapped: str) -> None:
    """The same TPM signed both, so the signatures are right; the nonce and the id are not."""
    device = world.enrolled()
    first, second = device.begin(), device.begin()
    fresh, stale = device.evidence(first), device.evidence(second)
    mixed = EnrollmentEvidence(
        stale.key if swapped == "key" else fresh.key, stale.quote if swapped == "quote" else fresh.quote
    )
    before = ledger()
    assert refused(send(world, first.challenge, mixed.to_bytes(), secret_of(device, first)), 403, "nonce-mismatch")
    assert ledger() == before
    assert device.complete(second).status_code == 200


@pytest.mark.parametrize("bound", ["nonce", "id", "ek_hash", "ak_name", "ck_name"])
def test_everything_that_evidence_is_bound_to(world: World, ledger: Count, bound: str) -> None:
    device = world.enrolled()
    challenge = device.begin()
    lie = {"nonce": bytes(32), "id": bytes(16), "ek_hash": bytes(32), "ak_name": device.tpm.ck.name}
    body = device.evidence(challenge, **{bound: lie.get(bound, device.tpm.ak.name)}).to_bytes()
    before = ledger()
    assert refused(device.complete(challenge, body), 403, "nonce-mismatch")
    assert ledger() == before
    assert device.complete(device.begin()).status_code == 200


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[World]:
    """Another service that trusts the same maker."""
    other = World(tmp_path / "elsewhere")
    # Of its own authority in earnest: sealing keys that this service never had.
    fresh = tmp_path / "keys"
    from datetime import UTC, datetime  # noqa: F401 - kept local, as in tests.service

    from attestd.ca.hierarchy import Hierarchy, create_hierarchy
    from tests.service import START, TRUST_DOMAIN, wire

    create_hierarchy(fresh, TRUST_DOMAIN, now=START, entropy=__import__("os").urandom)
    other.hierarchy = Hierarchy.load(fresh)
    other.service = wire(other.settings, other.hierarchy, other.registry, other.clock)
    yield other
    other.close()
