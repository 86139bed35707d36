"""A bundle is the service's, for us, whole, and never older than what was in use."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.bundle import (
    Bundle,
    BundleFromElsewhere,
    BundleFromTheFuture,
    BundleIncomplete,
    BundleRolledBack,
    BundleStale,
    SignerElsewhere,
    Statement,
    verify_copy,
)
from attestd.credentials.certificates import (
    CertificateExpired,
    CertificateForged,
    CertificateMalformed,
    CertificateNotYetValid,
    CertificateRefused,
    CriticalExtensionUnknown,
    KeyUsageWrong,
    LeafIsAuthority,
    NotAnAuthority,
    PurposeWrong,
)
from attestd.credentials.copies import Copy
from attestd.credentials.delegation import BUNDLE_EKU
from attestd.credentials.jws import AlgorithmNotAllowed, SignatureWrong, TypeConfused
from attestd.credentials.status import Status, StatusList
from attestd.credentials.times import verify_time
from attestd.credentials.x509 import NoAuthorities, UnknownIssuer, verify_chain
from attestd.errors import AttestdError, InputTooLarge, MalformedInput, Unauthenticated, Unavailable
from attestd.ids import Serial, TrustDomain
from tests import authority as a
from tests.authority import ISSUER, NOW, ROOT, SIGNER_KEY, bundle, signed_bundle, signed_time, signer

SECOND = timedelta(seconds=1)
T = int(NOW.timestamp())
PARTS = bundle().parts()
MEMBERS: dict[str, Any] = json.loads(bundle().statement(PARTS).to_bytes())
KEYS: dict[str, Any] = json.loads(PARTS["keys"])


def verify(content: bytes | Copy, **lies: Any) -> Bundle:
    honest: dict[str, Any] = {"roots": (ROOT.der,), "trust_domain": a.TRUST_DOMAIN, "floor": (2, 5), "now": NOW}
    return verify_copy(content if isinstance(content, Copy) else Copy.read(content), **{**honest, **lies})


def time_of(text: str, **lies: Any) -> Any:
    honest: dict[str, Any] = {"roots": (ROOT.der,), "nonce": b"n" * 32, "floor": NOW - 3600 * SECOND}
    return verify_time(text, **{**honest, **lies})


def lying(**lies: Any) -> bytes:
    """A bundle with one member of its statement changed, signed by the service's own key."""
    return signed_bundle(statement=lies)


def partly(name: str, octets: bytes | None) -> Copy:
    """A bundle with another part, whose digest the service's own key signed."""
    digests = {**MEMBERS["parts"], name: ... if octets is None else a.b64(sha256(octets).digest())}
    return a.copy_of(statement={"parts": a.without(digests)}, parts={name: octets})


def with_keys(**lies: Any) -> Copy:
    """A bundle with one member of its keys changed, signed by the service's own key."""
    return partly("keys", json.dumps(a.without({**KEYS, **lies})).encode())


# ---- What is accepted -------------------------------------------------------------------------------------------


def test_a_bundle() -> None:
    assert verify(signed_bundle()) == bundle()
    assert verify(lying()) == bundle()


def test_the_same_bundle_has_the_same_octets() -> None:
    assert verify(signed_bundle()).parts() == PARTS
    assert (
        bundle(revoked=frozenset(map(Serial, (3, 1, 2)))).parts()
        == bundle(revoked=frozenset(map(Serial, (2, 3, 1)))).parts()
    )
    copy = a.copy_of()
    assert Copy.read(copy.to_bytes()) == copy


def test_a_bundle_is_enough_to_decide_with() -> None:
    got = verify(signed_bundle())
    verified = verify_chain((a.leaf(),), authorities=got.authorities((ROOT.der,)), now=NOW)
    assert str(verified.spiffe_id) == a.BIKE
    assert got.verification_keys() == {"t1": a.TOKEN_KEY.public_key()}
    assert got.status[8] is Status.SUSPENDED
    assert Serial(0xBAD) in got.revoked


def test_an_empty_bundle() -> None:
    empty = bundle(token_keys={}, revoked=frozenset(), status=StatusList(b""), issuers=(), policy="")
    assert verify(signed_bundle(empty)) == empty


def test_freshness_is_asked_at_each_use() -> None:
    got = verify(signed_bundle(), now=NOW + timedelta(days=2))
    assert got.age_limit == NOW + 3600 * SECOND
    got.check_fresh(NOW + 3599 * SECOND)
    with pytest.raises(BundleStale) as caught:
        got.check_fresh(NOW + 3600 * SECOND)
    assert isinstance(caught.value, Unavailable)


# ---- Who signed ---------------------------------------------------------------------------------------------------

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.25.1"), b"\x05\x00")
OTHER_ROOT = a.ca("root", key=a.STRANGER_KEY)


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"purposes": None}, PurposeWrong),
        ({"purposes": ()}, CertificateRefused),
        ({"purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, PurposeWrong),
        ({"purposes": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, PurposeWrong),
        ({"purposes": (BUNDLE_EKU, ExtendedKeyUsageOID.CLIENT_AUTH)}, PurposeWrong),
        ({"key_usage": None}, KeyUsageWrong),
        ({"key_usage": a.usage(key_agreement=True)}, KeyUsageWrong),
        ({"key_usage": a.usage(digital_signature=True, key_cert_sign=True)}, KeyUsageWrong),
        ({"constraints": x509.BasicConstraints(True, 0)}, LeafIsAuthority),
        ({"more": [(UNKNOWN, True)]}, CriticalExtensionUnknown),
        ({"issuer": OTHER_ROOT}, UnknownIssuer),
        ({"issuer": ISSUER}, UnknownIssuer),
        ({"issuer_name": "somebody"}, UnknownIssuer),
        ({"signed_by": a.STRANGER_KEY}, CertificateForged),
        ({"key": ec.derive_private_key(5, ec.SECP384R1())}, SignatureWrong),
    ],
)
def test_one_lie_in_the_signer_s_certificate(lie: dict[str, Any], refusal: type[Exception]) -> None:
    verify(signed_bundle(certificates=[signer()]))
    with pytest.raises(refusal):
        verify(signed_bundle(certificates=[signer(**lie)]))
    time_of(signed_time(certificates=[signer()]))
    with pytest.raises(refusal):
        time_of(signed_time(certificates=[signer(**lie)]))


def test_a_device_signs_no_bundles() -> None:
    device = a.leaf(key=SIGNER_KEY)
    with pytest.raises(PurposeWrong):
        verify(signed_bundle(certificates=[device]))


def test_another_key_than_the_certificate_s() -> None:
    with pytest.raises(SignatureWrong):
        verify(signed_bundle(key=a.STRANGER_KEY))
    with pytest.raises(SignatureWrong):
        time_of(signed_time(key=a.STRANGER_KEY))


def test_one_of_several_pinned_roots() -> None:
    verify(signed_bundle(), roots=(OTHER_ROOT.der, ROOT.der))
    for roots in ((), (OTHER_ROOT.der,)):
        with pytest.raises(UnknownIssuer):
            verify(signed_bundle(), roots=roots)


def test_the_pinned_root_is_an_authority() -> None:
    root = a.ca("root", key=a.ROOT_KEY, is_ca=False)
    with pytest.raises(NotAnAuthority):
        verify(signed_bundle(), roots=(root.der,))


@pytest.mark.parametrize("place", ["signer", "root"])
def test_signer_and_root_are_within_their_time(place: str) -> None:
    for lie, refusal in (
        ({"not_after": NOW - SECOND}, CertificateExpired),
        ({"not_before": NOW + SECOND}, CertificateNotYetValid),
    ):
        root = a.ca("root", key=a.ROOT_KEY, **(lie if place == "root" else {}))
        certificates = [signer(**(lie if place == "signer" else {}))]
        with pytest.raises(refusal):
            verify(signed_bundle(certificates=certificates), roots=(root.der,))
        with pytest.raises(refusal):
            time_of(signed_time(certificates=certificates), roots=(root.der,))


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"alg": "none"}, AlgorithmNotAllowed),
        ({"alg": "HS256"}, AlgorithmNotAllowed),
        ({"typ": "attestd-time+jws"}, TypeConfused),
        ({"typ": "at+jwt"}, TypeConfused),
        ({"x5t#S256": ...}, MalformedInput),
        ({"x5t#S256": "AAAA"}, MalformedInput),
        ({"x5t#S256": 5}, MalformedInput),
        ({"x5t#S256": a.b64(sha256(b"another").digest())}, SignerElsewhere),
        ({"x5c": [base64.b64encode(signer()).decode()]}, MalformedInput),
        ({"kid": "x"}, MalformedInput),
        ({"crit": []}, MalformedInput),
        ({"jwk": {}}, MalformedInput),
    ],
)
def test_one_lie_in_the_header(lie: dict[str, Any], refusal: type[Exception]) -> None:
    verify(signed_bundle())
    with pytest.raises(refusal):
        verify(signed_bundle(**lie))


def test_a_time_is_no_bundle_and_a_bundle_no_time() -> None:
    honest = a.copy_of()
    verify(honest)
    for other in (signed_time(), a.token()):
        with pytest.raises(TypeConfused):
            verify(replace(honest, statement=other))
    with pytest.raises(TypeConfused):
        time_of(honest.statement)


@pytest.mark.parametrize("chain", [(), (b"",), (b"AAAA",)])
def test_a_bundle_comes_with_its_signer_s_certificate(chain: tuple[bytes, ...]) -> None:
    honest = a.copy_of()
    verify(honest)
    with pytest.raises(SignerElsewhere):
        verify(replace(honest, signer=chain))


@pytest.mark.parametrize("name", sorted(PARTS))
def test_the_parts_are_those_that_were_signed(name: str) -> None:
    other = bundle(policy="", status=StatusList(b"\0" * 8), revoked=frozenset((Serial(1),)), roots=(OTHER_ROOT.der,))
    with pytest.raises(BundleIncomplete, match=name):
        verify(a.copy_of(parts={name: other.parts()[name]}))
    with pytest.raises(BundleIncomplete, match=name):
        verify(a.copy_of(parts={name: None}))


def test_an_audit_head_is_a_part() -> None:
    head = a.signed_head()
    verify(a.copy_of(bundle(audit_head=head)))
    with pytest.raises(BundleIncomplete):
        verify(a.copy_of(bundle(audit_head=head), parts={"head": None}))
    with pytest.raises(BundleIncomplete):
        verify(a.copy_of(parts={"head": head.encode()}))
    with pytest.raises(InputTooLarge):
        verify(partly("head", b"x" * 9000))


def test_a_part_that_nobody_knows_is_refused() -> None:
    with pytest.raises(MalformedInput):
        verify(partly("more", b"x").to_bytes())
    with pytest.raises(MalformedInput):
        verify(signed_bundle().replace(b'"policy":', b'"other":"","policy":'))


# ---- What it says -------------------------------------------------------------------------------------------------


def test_another_trust_domain() -> None:
    with pytest.raises(BundleFromElsewhere):
        verify(signed_bundle(), trust_domain=TrustDomain("elsewhere.org"))


@pytest.mark.parametrize(("floor", "good"), [((0, 0), 1), ((2, 5), 1), ((1, 9), 1), ((2, 6), 0), ((3, 0), 0)])
def test_no_rollback(floor: tuple[int, int], good: int) -> None:
    if good:
        verify(signed_bundle(), floor=floor)
    else:
        with pytest.raises(BundleRolledBack):
            verify(signed_bundle(), floor=floor)


def test_no_bundle_from_the_future() -> None:
    verify(signed_bundle(bundle(issued_at=T + 60)))
    with pytest.raises(BundleFromTheFuture):
        verify(signed_bundle(bundle(issued_at=T + 61)))


def test_a_bundle_can_withdraw_roots_and_add_none() -> None:
    added = bundle(roots=(ROOT.der, OTHER_ROOT.der), issuers=(ISSUER.der,))
    stranger = a.leaf(issuer=OTHER_ROOT)
    with pytest.raises(AttestdError):
        verify_chain((stranger,), authorities=added.authorities((ROOT.der,)), now=NOW)
    verify_chain((stranger,), authorities=added.authorities((OTHER_ROOT.der,)), now=NOW)
    withdrawn = bundle(roots=(OTHER_ROOT.der,))
    with pytest.raises(NoAuthorities, match="names none"):
        withdrawn.authorities((ROOT.der,))
    with pytest.raises(NoAuthorities):
        verify(signed_bundle(withdrawn))
    with pytest.raises(NoAuthorities):
        bundle().authorities(())


JWK = KEYS["token_keys"]["t1"]


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        *(({name: ...}, MalformedInput) for name in MEMBERS),
        ({"v": 2}, MalformedInput),
        ({"more": 1}, MalformedInput),
        ({"trust_domain": "Example.org"}, MalformedInput),
        ({"trust_domain": 5}, MalformedInput),
        ({"epoch": -1}, MalformedInput),
        ({"epoch": True}, MalformedInput),
        ({"epoch": "2"}, MalformedInput),
        ({"epoch": 1 << 54}, MalformedInput),
        ({"version": -1}, MalformedInput),
        ({"version": 5.0}, MalformedInput),
        ({"version": 10**2000}, MalformedInput),
        ({"issued_at": 1 << 41}, MalformedInput),
        ({"issued_at": -1}, MalformedInput),
        ({"issued_at": str(T)}, MalformedInput),
        ({"stale_after": 0}, MalformedInput),
        ({"stale_after": 30 * 86400 + 1}, MalformedInput),
        ({"policy_version": -1}, MalformedInput),
        ({"parts": {}}, MalformedInput),
        ({"parts": {**MEMBERS["parts"], "status": "AAAA"}}, MalformedInput),
        ({"parts": {**MEMBERS["parts"], "more": MEMBERS["parts"]["status"]}}, MalformedInput),
    ],
)
def test_one_lie_in_the_statement(lie: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        verify(lying(**lie))


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        *(({name: ...}, MalformedInput) for name in KEYS),
        ({"more": 1}, MalformedInput),
        ({"roots": []}, NoAuthorities),
        ({"roots": ["AAAA"]}, NoAuthorities),
        ({"issuers": ["AAAA"]}, CertificateMalformed),
        ({"issuers": []}, None),
        ({"roots": ["A"]}, MalformedInput),
        ({"roots": [5]}, MalformedInput),
        ({"roots": ["AAAA"] * 33}, InputTooLarge),
        ({"roots": ["A" * 12000]}, InputTooLarge),
        ({"issuers": "AAAA"}, MalformedInput),
        ({"issuers": ["A" * 12000]}, InputTooLarge),
        ({"token_issuer": 5}, MalformedInput),
        ({"token_issuer": "x" * 3000}, InputTooLarge),
        ({"token_keys": []}, MalformedInput),
        ({"token_keys": {"t1": "x"}}, MalformedInput),
        ({"token_keys": {"t1": 5}}, MalformedInput),
        ({"token_keys": {"t1": ["kty", "crv", "x", "y"]}}, MalformedInput),
        ({"token_keys": {"t1": {**JWK, "d": JWK["x"]}}}, MalformedInput),
        ({"token_keys": {"t1": {**JWK, "x": JWK["y"]}}}, MalformedInput),
        ({"token_keys": {"t" * 129: JWK}}, InputTooLarge),
        ({"token_keys": {str(n): JWK for n in range(16)}}, None),
        ({"token_keys": {str(n): JWK for n in range(17)}}, InputTooLarge),
    ],
)
def test_one_lie_in_the_keys(lie: dict[str, Any], refusal: type[Exception] | None) -> None:
    if refusal is None:
        verify(with_keys(**lie))
    else:
        with pytest.raises(refusal):
            verify(with_keys(**lie))


@pytest.mark.parametrize(
    ("name", "octets", "refusal"),
    [
        ("policy", b"x" * (256 * 1024), None),
        ("policy", b"x" * (256 * 1024 + 1), InputTooLarge),
        ("policy", b"\xff", MalformedInput),
        ("revoked", bytes(20), MalformedInput),  # no serial number
        ("revoked", b"\x01" * 19, MalformedInput),
        ("revoked", b"\xff" * 20, MalformedInput),
        ("revoked", b"\x01" * 40, None),
        ("status", b"", None),
        ("keys", b"", MalformedInput),
        ("keys", b"[]", MalformedInput),
    ],
)
def test_one_lie_in_another_part(name: str, octets: bytes, refusal: type[Exception] | None) -> None:
    if refusal is None:
        verify(partly(name, octets))
    else:
        with pytest.raises(refusal):
            verify(partly(name, octets))


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        *(({name: ...}, MalformedInput) for name in ("v", "statement", "signer", "parts")),
        ({"v": 2}, MalformedInput),
        ({"more": 1}, MalformedInput),
        ({"statement": "a" * 5000}, InputTooLarge),
        ({"signer": [a.b64(signer())] * 4}, InputTooLarge),
        ({"signer": ["="]}, MalformedInput),
        ({"parts": []}, MalformedInput),
        ({"parts": {"status": "AAAA"}}, MalformedInput),
        ({"parts": {"status": a.b64(zlib.compress(bytes(17 * 1024 * 1024), 9))}}, InputTooLarge),
        ({"parts": {"status": {"octets": 1, "set": ""}}}, MalformedInput),
        ({"parts": {"revoked": "*"}}, MalformedInput),
        ({"parts": {"policy": 5}}, MalformedInput),
    ],
)
def test_one_lie_in_the_copy(lie: dict[str, Any], refusal: type[Exception]) -> None:
    members = a.without({**json.loads(signed_bundle()), **lie})
    with pytest.raises(refusal):
        Copy.read(json.dumps(members).encode())


def test_duplicate_members() -> None:
    octets = bundle().statement(PARTS).to_bytes()
    with pytest.raises(MalformedInput):
        verify(signed_bundle(statement=octets.replace(b'"epoch":2', b'"epoch":9,"epoch":2')))


# ---- Rubbish --------------------------------------------------------------------------------------------------------

REFUSALS = (MalformedInput, InputTooLarge, Unauthenticated, NoAuthorities)


@given(st.binary(max_size=300))
def test_random_octets_are_no_copy(data: bytes) -> None:
    with pytest.raises(REFUSALS):
        verify(data)


@given(st.text(max_size=300))
def test_random_texts_state_nothing(text: str) -> None:
    with pytest.raises(REFUSALS):
        verify(Copy(text, (signer(),), PARTS))


@given(st.binary(max_size=300))
def test_random_signer_certificates_are_refused(data: bytes) -> None:
    with pytest.raises(REFUSALS):
        verify(signed_bundle(certificates=[data]))


@given(st.binary(max_size=300))
def test_random_payloads_are_refused(data: bytes) -> None:
    with pytest.raises(REFUSALS):
        verify(signed_bundle(statement=data))
    with pytest.raises(REFUSALS):
        Statement.parse(data)


@given(
    st.sampled_from(sorted(MEMBERS)),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.integers(max_value=-1),
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(max_size=5), inner, min_size=1),
        max_leaves=5,
    ),
)
def test_random_members_are_refused(name: str, value: Any) -> None:
    with pytest.raises(REFUSALS):
        verify(lying(**{name: value}))


def test_truncated_bundles_are_refused() -> None:
    content = signed_bundle()
    for length in range(0, len(content), 7):
        with pytest.raises(REFUSALS):
            verify(content[:length])
