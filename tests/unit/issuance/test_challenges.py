"""What is sealed into a challenge comes out again, and nothing else does."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from attestd.ca.sealing import SealBroken, SealingKey, SealingKeys
from attestd.errors import MalformedInput
from attestd.ids import EkHash
from attestd.issuance.challenges import CHALLENGE, ChallengeExpired, EnrollmentChallenge
from attestd.tpm.activation import AkNotRestricted, vet_ak
from attestd.tpm.chain import TrustAnchors
from attestd.tpm.endorsement import VerifiedEndorsement, endorse_by_inventory, verify_endorsement
from tests import ek_ca
from tests import forger as f
from tests.forger import Forger, forge_key

KEYS = SealingKeys([SealingKey.fresh("current", os.urandom)])
FORGER = Forger()
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def by_maker() -> VerifiedEndorsement:
    maker = ek_ca.maker()
    leaf = maker.intermediate.ek_certificate(FORGER.ek.private.public_key())
    anchors = TrustAnchors.load(maker.roots)
    return verify_endorsement(FORGER.ek.public, maker.chain(leaf), anchors=anchors, now=NOW)


def by_inventory() -> VerifiedEndorsement:
    return endorse_by_inventory(FORGER.ek.public, known=EkHash.of(FORGER.ek.public))


def challenge(endorsement: VerifiedEndorsement) -> EnrollmentChallenge:
    return EnrollmentChallenge(
        id=os.urandom(16),
        endorsement=endorsement,
        ak=vet_ak(FORGER.ak.public),
        secret=os.urandom(32),
        nonce=os.urandom(32),
        pcrs={"sha256": (0, 7, 23), "sha384": (), "sha1": tuple(range(24))},
        expires_at=int((NOW + timedelta(minutes=5)).timestamp()),
    )


@pytest.mark.parametrize("endorse", [by_maker, by_inventory])
def test_a_challenge_comes_out_as_it_was_sealed(endorse: type) -> None:
    """All but the issuers' certificates, which other enrollments bring again; their names are there."""
    sealed = challenge(endorse())
    opened = EnrollmentChallenge.open(sealed.seal(KEYS, os.urandom), KEYS)
    assert opened == sealed
    assert opened.endorsement.above == ()
    assert opened.endorsement.ek == sealed.endorsement.ek


def test_a_sealed_challenge_is_small() -> None:
    """Devices send it back, twice encoded: it holds the TPM's own certificate, and none of those above."""
    endorsement = by_maker()
    assert len(challenge(endorsement).seal(KEYS, os.urandom)) < 700 + len(endorsement.certificate or b"")


def test_a_challenge_of_a_layout_before_does_not_open() -> None:
    """ADR 0003: who began before an upgrade begins again."""
    sealed = KEYS.seal(b'{"id":"AA"}', purpose="attestd/challenge/1", entropy=os.urandom)
    with pytest.raises(SealBroken):
        EnrollmentChallenge.open(sealed, KEYS)


def content() -> bytes:
    return KEYS.open(challenge(by_maker()).seal(KEYS, os.urandom), purpose=CHALLENGE)


@pytest.mark.parametrize("change", [lambda c: c + b"\0", lambda c: c[:-1], lambda c: c[:50], lambda c: b""])
def test_a_layout_is_read_to_its_end_and_no_further(change: type) -> None:
    def opened(octets: bytes) -> EnrollmentChallenge:
        return EnrollmentChallenge.open(KEYS.seal(octets, purpose=CHALLENGE, entropy=os.urandom), KEYS)

    good = content()
    opened(good)
    with pytest.raises(MalformedInput):
        opened(change(good))


def test_the_attestation_key_is_vetted_again() -> None:
    """A seal that an older version made may hold a key that this version would not take."""
    unrestricted = forge_key(attributes=f.AK_ATTRIBUTES & ~f.RESTRICTED).public
    good = content()
    sealed = KEYS.seal(good.replace(FORGER.ak.public, unrestricted), purpose=CHALLENGE, entropy=os.urandom)
    with pytest.raises(AkNotRestricted):
        EnrollmentChallenge.open(sealed, KEYS)


def test_a_challenge_lives_until_its_second() -> None:
    begun = challenge(by_inventory())
    begun.require_alive(NOW)
    with pytest.raises(ChallengeExpired):
        begun.require_alive(NOW + timedelta(minutes=5))
