"""A bundle is the service's, for us, and never older than what was in use; a time answers one question."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.bundle import (
    BUNDLE_EKU,
    Bundle,
    BundleFromElsewhere,
    BundleFromTheFuture,
    BundleRolledBack,
    BundleStale,
    TimeBehindFloor,
    TimeNonceWrong,
    verify_bundle,
    verify_time,
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
from attestd.credentials.jws import AlgorithmNotAllowed, SignatureWrong, TypeConfused
from attestd.credentials.status import Status, StatusList
from attestd.credentials.x509 import NoAuthorities, UnknownIssuer, verify_chain
from attestd.errors import AttestdError, InputTooLarge, MalformedInput, Unauthenticated, Unavailable
from attestd.ids import Serial, TrustDomain
from tests import authority as a
from tests.authority import ISSUER, NOW, ROOT, SIGNER_KEY, bundle, signed_bundle, signed_time, signer

SECOND = timedelta(seconds=1)
T = int(NOW.timestamp())
MEMBERS: dict[str, Any] = json.loads(bundle().to_bytes())


def verify(text: str, **lies: Any) -> Bundle:
    honest: dict[str, Any] = {"roots": (ROOT.der,), "trust_domain": a.TRUST_DOMAIN, "floor": (2, 5), "now": NOW}
    return verify_bundle(text, **{**honest, **lies})


def time_of(text: str, **lies: Any) -> Any:
    honest: dict[str, Any] = {"roots": (ROOT.der,), "nonce": b"n" * 32, "floor": NOW - 3600 * SECOND}
    return verify_time(text, **{**honest, **lies})


def lying(**lies: Any) -> str:
    """A bundle with one member changed, signed by the service's own key."""
    members = {name: value for name, value in {**MEMBERS, **lies}.items() if value is not ...}
    return signed_bundle(payload=json.dumps(members).encode())


# ---- What is accepted -------------------------------------------------------------------------------------------


def test_a_bundle() -> None:
    assert verify(signed_bundle()) == bundle()
    assert verify(lying()) == bundle()


def test_the_same_bundle_has_the_same_octets() -> None:
    assert bundle().to_bytes() == Bundle.parse(bundle().to_bytes()).to_bytes()
    assert (
        bundle(revoked=frozenset(map(Serial, (3, 1, 2)))).to_bytes()
        == bundle(revoked=frozenset(map(Serial, (2, 3, 1)))).to_bytes()
    )


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
        ({"x5c": ...}, MalformedInput),
        ({"x5c": []}, MalformedInput),
        ({"x5c": [base64.b64encode(signer()).decode()] * 4}, InputTooLarge),
        ({"x5c": base64.b64encode(signer()).decode()}, MalformedInput),
        ({"x5c": [5]}, MalformedInput),
        ({"x5c": [""]}, CertificateMalformed),
        ({"x5c": ["AAAA"]}, CertificateMalformed),
        ({"x5c": ["A"]}, MalformedInput),
        ({"x5c": ["AB=="]}, MalformedInput),
        ({"x5c": ["AAAA\n"]}, MalformedInput),
        ({"x5c": ["A-_A"]}, MalformedInput),
        ({"x5c": ["\u00fc"]}, MalformedInput),
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
    with pytest.raises(TypeConfused):
        verify(signed_time())
    with pytest.raises(TypeConfused):
        time_of(signed_bundle())
    with pytest.raises(TypeConfused):
        verify(a.token())


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


JWK = MEMBERS["token_keys"]["t1"]


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
        ({"version": 10**4000}, MalformedInput),
        ({"issued_at": 1 << 41}, MalformedInput),
        ({"issued_at": -1}, MalformedInput),
        ({"issued_at": str(T)}, MalformedInput),
        ({"stale_after": 0}, MalformedInput),
        ({"stale_after": 30 * 86400 + 1}, MalformedInput),
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
        ({"policy_version": -1}, MalformedInput),
        ({"policy": None}, MalformedInput),
        ({"policy": "x" * (256 * 1024)}, None),
        ({"policy": "x" * (256 * 1024 + 1)}, InputTooLarge),
        ({"status": []}, MalformedInput),
        ({"status": {"bits": 1, "lst": MEMBERS["status"]["lst"]}}, MalformedInput),
        ({"status": {"bits": 2, "lst": MEMBERS["status"]["lst"], "more": 1}}, MalformedInput),
        ({"status": {"bits": 2, "lst": "AAAA"}}, MalformedInput),
        ({"status": {"bits": 2, "lst": 5}}, MalformedInput),
        ({"status": {"bits": 2}}, MalformedInput),
        ({"status": {"bits": 2, "lst": a.b64(zlib.compress(bytes(17 * 1024 * 1024), 9))}}, InputTooLarge),
        ({"revoked": ["0"]}, MalformedInput),
        ({"revoked": ["xyz"]}, MalformedInput),
        ({"revoked": [5]}, MalformedInput),
        ({"revoked": ["f" * 41]}, InputTooLarge),
        ({"revoked": {"a": 1}}, MalformedInput),
    ],
)
def test_one_lie_in_the_bundle(lie: dict[str, Any], refusal: type[Exception] | None) -> None:
    if refusal is None:
        verify(lying(**lie))
    else:
        with pytest.raises(refusal):
            verify(lying(**lie))


def test_duplicate_members() -> None:
    octets = bundle().to_bytes()
    with pytest.raises(MalformedInput):
        verify(signed_bundle(payload=octets.replace(b'"epoch":2', b'"epoch":9,"epoch":2')))


# ---- Time -----------------------------------------------------------------------------------------------------------


def test_a_time_answer() -> None:
    assert time_of(signed_time()) == NOW
    assert time_of(signed_time(), floor=NOW) == NOW


def test_a_time_before_the_floor() -> None:
    with pytest.raises(TimeBehindFloor):
        time_of(signed_time(), floor=NOW + SECOND)


def test_a_time_for_another_question() -> None:
    for nonce in (b"m" * 32, b"n" * 31, b""):
        with pytest.raises(TimeNonceWrong):
            time_of(signed_time(), nonce=nonce)
    with pytest.raises(TimeNonceWrong):
        time_of(signed_time(nonce=b"m" * 32))


def test_a_signer_can_t_speak_of_times_outside_its_own() -> None:
    for moment, refusal in (
        (NOW - timedelta(days=5), None),
        (NOW - timedelta(days=5) - SECOND, CertificateNotYetValid),
        (NOW + timedelta(days=5), None),
        (NOW + timedelta(days=5) + SECOND, CertificateExpired),
    ):
        answer = signed_time(time=int(moment.timestamp()))
        if refusal is None:
            assert time_of(answer, floor=NOW - timedelta(days=9)) == moment
        else:
            with pytest.raises(refusal):
                time_of(answer, floor=NOW - timedelta(days=9))


@pytest.mark.parametrize(
    "payload",
    [
        {"nonce": a.b64(b"n" * 32)},
        {"time": T},
        {"nonce": a.b64(b"n" * 32), "time": T, "more": 1},
        {"nonce": a.b64(b"n" * 32), "time": str(T)},
        {"nonce": a.b64(b"n" * 32), "time": T + 0.5},
        {"nonce": a.b64(b"n" * 32), "time": True},
        {"nonce": a.b64(b"n" * 32), "time": -1},
        {"nonce": a.b64(b"n" * 32), "time": 1 << 60},
        {"nonce": "n" * 1000, "time": T},
        {"nonce": 5, "time": T},
        [],
        b"",
        b"\xff",
    ],
)
def test_what_is_no_time(payload: Any) -> None:
    with pytest.raises((MalformedInput, InputTooLarge)):
        time_of(signed_time(payload=payload))


# ---- Rubbish --------------------------------------------------------------------------------------------------------

REFUSALS = (MalformedInput, InputTooLarge, Unauthenticated, NoAuthorities)


@given(st.text(max_size=300))
def test_random_texts_are_refused(text: str) -> None:
    for judge in (verify, time_of):
        with pytest.raises(REFUSALS):
            judge(text)


@given(st.binary(max_size=300))
def test_random_signer_certificates_are_refused(data: bytes) -> None:
    with pytest.raises(REFUSALS):
        verify(signed_bundle(certificates=[data]))


@given(st.binary(max_size=300))
def test_random_payloads_are_refused(data: bytes) -> None:
    with pytest.raises(REFUSALS):
        verify(signed_bundle(payload=data))
    with pytest.raises(REFUSALS):
        Bundle.parse(data)


@given(
    st.sampled_from(sorted(MEMBERS)),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.integers(max_value=-1),
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.text(max_size=5), inner, min_size=1),
        max_leaves=5,
    ),
)
def test_random_members_are_refused(name: str, value: Any) -> None:
    if name in ("policy", "token_issuer") and isinstance(value, str):
        return
    with pytest.raises(REFUSALS):
        verify(lying(**{name: value}))


def test_truncated_bundles_are_refused() -> None:
    text = signed_bundle()
    for length in range(0, len(text), 7):
        with pytest.raises(REFUSALS):
            verify(text[:length])


def test_a_huge_text_is_not_parsed() -> None:
    with pytest.raises(InputTooLarge):
        time_of("a" * (1 << 20))
