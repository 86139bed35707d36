"""An issuer that came with a leaf is proven once; what it then vouches for is looked at each time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.certificates import (
    CertificateExpired,
    CertificateForged,
    CertificateMalformed,
    CertificateRefused,
    IssuerMismatch,
    ParsedCertificate,
    PathTooLong,
)
from attestd.credentials.x509 import MAX_MET, Authorities, UnknownIssuer, verify_chain
from tests import authority as a
from tests.authority import NOW, ROOT, TRUST_DOMAIN, leaf

SECOND = timedelta(seconds=1)


def rooted(*roots: bytes) -> Authorities:
    """Knows roots alone."""
    return Authorities.load(roots or (ROOT.der,), trust_domain=TRUST_DOMAIN)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The certificates whose signature was checked."""
    checked: list[bytes] = []
    real = ParsedCertificate.check_issued_by

    def counting(self: ParsedCertificate, issuer: ParsedCertificate) -> None:
        checked.append(self.der)
        real(self, issuer)

    monkeypatch.setattr(ParsedCertificate, "check_issued_by", counting)
    return checked


def test_a_second_leaf_costs_one_signature_check(checks: list[bytes]) -> None:
    trusted, issuer = rooted(), a.ca("met", issuer=ROOT, path_length=0, key=a.LOWER_KEY)
    first, second = leaf(issuer=issuer), leaf(issuer=issuer, serial=2)
    verify_chain((first, issuer.der), authorities=trusted, now=NOW)
    assert checks == [first, issuer.der]
    found = verify_chain((second, issuer.der), authorities=trusted, now=NOW)
    assert checks[2:] == [second]
    assert len(found.issuer_serials) == 2
    assert found.not_after == NOW + a.HOUR


def test_a_chain_of_two_is_remembered_whole(checks: list[bytes]) -> None:
    upper = a.ca("upper", issuer=ROOT, path_length=1, key=a.ISSUER_KEY)
    lower = a.ca("lower", issuer=upper, path_length=0, key=a.LOWER_KEY)
    trusted = rooted()
    verify_chain((leaf(issuer=lower), lower.der, upper.der), authorities=trusted, now=NOW)
    del checks[:]
    found = verify_chain((leaf(issuer=lower, serial=2), lower.der), authorities=trusted, now=NOW)
    assert len(checks) == 1
    assert len(found.issuer_serials) == 3


def test_a_forgery_under_a_remembered_issuer() -> None:
    trusted, issuer = rooted(), a.ca("met", issuer=ROOT, path_length=0, key=a.LOWER_KEY)
    verify_chain((leaf(issuer=issuer), issuer.der), authorities=trusted, now=NOW)
    with pytest.raises(CertificateForged):
        verify_chain((leaf(issuer=issuer, signed_by=a.STRANGER_KEY), issuer.der), authorities=trusted, now=NOW)
    with pytest.raises(IssuerMismatch):
        verify_chain((leaf(), issuer.der), authorities=trusted, now=NOW)


def test_a_remembered_issuer_is_presented_again() -> None:
    """It is no authority of its own: who does not bring it has no chain, as before."""
    trusted, issuer = rooted(), a.ca("met", issuer=ROOT, path_length=0, key=a.LOWER_KEY)
    verify_chain((leaf(issuer=issuer), issuer.der), authorities=trusted, now=NOW)
    with pytest.raises(UnknownIssuer):
        verify_chain((leaf(issuer=issuer),), authorities=trusted, now=NOW)


def test_a_remembered_issuer_ends() -> None:
    trusted, issuer = rooted(), a.ca("met", issuer=ROOT, path_length=0, not_after=NOW + SECOND, key=a.LOWER_KEY)
    chain = (leaf(issuer=issuer), issuer.der)
    verify_chain(chain, authorities=trusted, now=NOW)
    verify_chain(chain, authorities=trusted, now=NOW + SECOND)
    with pytest.raises(CertificateExpired):
        verify_chain(chain, authorities=trusted, now=NOW + 2 * SECOND)


def test_a_remembered_issuer_s_own_issuer_ends() -> None:
    upper = a.ca("upper", issuer=ROOT, path_length=1, not_after=NOW + SECOND)
    lower = a.ca("lower", issuer=upper, path_length=0, key=a.LOWER_KEY)
    trusted, chain = rooted(), (leaf(issuer=lower), lower.der, upper.der)
    verify_chain(chain, authorities=trusted, now=NOW)
    with pytest.raises(CertificateExpired):
        verify_chain(chain, authorities=trusted, now=NOW + 2 * SECOND)


def test_where_the_first_path_ended_another_one_is_looked_for() -> None:
    """A root is followed by another, and certifies the same intermediate again."""
    first = a.ca("first", key=a.ROOT_KEY, path_length=2)
    second = a.ca("second", key=a.STRANGER_KEY, path_length=2)
    old = a.ca("upper", issuer=first, path_length=1, not_after=NOW + SECOND)
    new = a.ca("upper", issuer=second, path_length=1)
    lower = a.ca("lower", issuer=old, path_length=0, key=a.LOWER_KEY)
    trusted = rooted(first.der, second.der)
    verify_chain((leaf(issuer=lower), lower.der, old.der), authorities=trusted, now=NOW)
    later = NOW + 2 * SECOND
    found = verify_chain((leaf(issuer=lower), lower.der, new.der), authorities=trusted, now=later)
    assert found.issuer_serials[-1].number == second.certificate.serial_number


def test_a_remembered_issuer_s_path_length_counts_in_every_place() -> None:
    upper = a.ca("upper", issuer=ROOT, path_length=0)
    lower = a.ca("lower", issuer=upper, path_length=0, key=a.LOWER_KEY)
    trusted = rooted()
    verify_chain((leaf(issuer=upper), upper.der), authorities=trusted, now=NOW)
    with pytest.raises(PathTooLong):
        verify_chain((leaf(issuer=lower), lower.der, upper.der), authorities=trusted, now=NOW)


def test_what_led_nowhere_is_not_remembered() -> None:
    trusted = rooted()
    strange = a.ca("strange", key=a.STRANGER_KEY, path_length=2)
    issuer = a.ca("met", issuer=strange, path_length=0, key=a.LOWER_KEY)
    for _ in range(2):
        with pytest.raises(UnknownIssuer):
            verify_chain((leaf(issuer=issuer), issuer.der), authorities=trusted, now=NOW)
    assert trusted.met(issuer.der) is None


def test_other_authorities_remember_nothing_of_it() -> None:
    issuer = a.ca("met", issuer=ROOT, path_length=0, key=a.LOWER_KEY)
    verify_chain((leaf(issuer=issuer), issuer.der), authorities=rooted(), now=NOW)
    with pytest.raises(UnknownIssuer):
        stranger = a.ca("root", key=a.STRANGER_KEY, path_length=2)
        verify_chain((leaf(issuer=issuer), issuer.der), authorities=rooted(stranger.der), now=NOW)


def test_the_number_of_remembered_issuers_is_bounded() -> None:
    trusted = rooted()
    for number in range(MAX_MET + 3):
        issuer = a.ca("met", issuer=ROOT, path_length=0, key=a.LOWER_KEY, serial=number + 1)
        verify_chain((leaf(issuer=issuer), issuer.der), authorities=trusted, now=NOW)
        assert (trusted.met(issuer.der) is not None) is (number < MAX_MET)


# ---- What is signed is cut out of what came ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "der",
    [leaf(), leaf(uris=["spiffe://example.org/" + "a" * 60 + "/b"] * 9), ROOT.der, a.ISSUER.der, a.signer()],
    ids=["leaf", "long names", "root", "issuer", "bundle signer"],
)
def test_the_cuts_are_the_certificate_s(der: bytes) -> None:
    parsed = ParsedCertificate.parse(der)
    assert parsed.signed == parsed.certificate.tbs_certificate_bytes
    assert parsed.issuer_name == parsed.certificate.issuer.public_bytes()
    assert parsed.subject_name == parsed.certificate.subject.public_bytes()


@given(st.integers(0, len(leaf()) - 1), st.integers(1, 255))
def test_so_they_are_in_any_certificate_that_can_be_read(at: int, by: int) -> None:
    """One octet is changed anywhere: refused, or the octets that would be verified are the changed ones."""
    changed = bytearray(leaf())
    changed[at] ^= by
    try:
        parsed = ParsedCertificate.parse(bytes(changed))
    except CertificateRefused:
        return
    assert parsed.signed == parsed.certificate.tbs_certificate_bytes
    assert parsed.issuer_name == parsed.certificate.issuer.public_bytes()
    assert parsed.subject_name == parsed.certificate.subject.public_bytes()


def test_two_signature_algorithms_in_one_certificate() -> None:
    """Only the inner one is signed; both are of a kind that is used here."""
    honest = leaf()
    sha256, sha384 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040303")
    assert honest.count(sha256) == 2
    outer = honest.rindex(sha256)
    with pytest.raises(CertificateMalformed, match="two signature algorithms"):
        ParsedCertificate.parse(honest[:outer] + sha384 + honest[outer + len(sha384) :])


@pytest.mark.parametrize("name", ["ROOT", "root ", "root\u200b"])
def test_a_name_is_compared_octet_by_octet(name: str) -> None:
    parsed = ParsedCertificate.parse(leaf(issuer=ROOT, issuer_name=name))
    with pytest.raises(IssuerMismatch):
        parsed.check_issued_by(ParsedCertificate.parse(ROOT.der))


@pytest.mark.parametrize("hash_", ["SHA256", "SHA384", "SHA512"])
def test_each_hash_verifies_as_itself(hash_: str) -> None:
    algorithm = getattr(hashes, hash_)()
    assert verify_chain((leaf(issuer=ROOT, algorithm=algorithm),), authorities=rooted(), now=NOW)
