"""A token is proven, then bound, then admitted; each lie has its refusal, and none of the steps can be skipped."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials import tokens
from attestd.credentials.dpop import EdgeNonces, FreshNonceNeeded, ProofKeyWrong, ProofReplayed, ReplayCache
from attestd.credentials.identity import CredentialRevoked, DeviceRevoked, DeviceSuspended
from attestd.credentials.jws import AlgorithmNotAllowed, SignatureWrong, TypeConfused
from attestd.credentials.status import Status, StatusList
from attestd.credentials.tokens import (
    BoundElsewhere,
    BoundToken,
    TokenAudienceWrong,
    TokenExpired,
    TokenIssuerWrong,
    TokenKeyUnknown,
    TokenMalformed,
    TokenNotBound,
    TokenNotYetValid,
    TokenSubjectWrong,
    VerifiedToken,
    bind_to_certificate,
    bind_to_proof,
    token_identity,
    verify_token,
)
from attestd.credentials.x509 import Authorities, VerifiedCertificate, verify_chain
from attestd.errors import AttestdError, Unauthenticated
from attestd.ids import Serial
from attestd.protocol.encoding import MalformedBase64, write_object
from tests import authority as a
from tests.authority import BIKE, FACTS, HOUR, NOW, STATUS, TOKEN_KEY, token, token_claims, token_header

SECOND = timedelta(seconds=1)
T = int(NOW.timestamp())
KEYS = {"t1": TOKEN_KEY.public_key(), "t0": a.STRANGER_KEY.public_key()}
NONCES = EdgeNonces(b"s" * 32)
URI = "https://shop.example.org/orders"
JKT = token_claims()["cnf"]["jkt"]


def verify(text: str, **lies: Any) -> VerifiedToken:
    honest: dict[str, Any] = {
        "keys": KEYS,
        "issuer": a.TOKEN_ISSUER,
        "audience": a.AUDIENCE,
        "trust_domain": a.TRUST_DOMAIN,
        "now": NOW,
    }
    return verify_token(text, **{**honest, **lies})


def certificate(der: bytes | None = None) -> VerifiedCertificate:
    trusted = Authorities.load((a.ROOT.der,), (a.ISSUER.der,), trust_domain=a.TRUST_DOMAIN)
    return verify_chain((der or a.leaf(),), authorities=trusted, now=NOW)


def bound_to(presented: VerifiedCertificate, **lies: Any) -> str:
    """A token as the service mints it for this certificate."""
    honest = {"cnf": {"x5t#S256": presented.thumbprint}, "srl": str(presented.serial)}
    return token(**{**honest, **lies})


def prove(verified: VerifiedToken, text: str | None = None, **lies: Any) -> BoundToken:
    honest: dict[str, Any] = {
        "proof": text or a.proof(verified.text, nonce=NONCES.issue(NOW)),
        "method": "GET",
        "uri": URI,
        "nonces": NONCES,
        "replays": ReplayCache(),
        "now": NOW,
    }
    return bind_to_proof(verified, **{**honest, **lies})


# ---- What is accepted ---------------------------------------------------------------------------------------------


def test_a_token_with_a_proof() -> None:
    verified = verify(token())
    assert (str(verified.spiffe_id), verified.facts, verified.jti) == (BIKE, FACTS, "token-1")
    assert (verified.certificate_serial, verified.not_after) == (Serial(77), NOW + 300 * SECOND)
    assert (verified.binding, verified.thumbprint) == ("jkt", JKT)
    identity = token_identity(prove(verified), status=STATUS, revoked=frozenset())
    assert (identity.kind, identity.credential_id, identity.certificate_serial) == ("jwt", "token-1", Serial(77))
    assert (identity.tier, identity.site, identity.device_id) == ("device", "munich", "bike-1")
    assert (identity.facts, identity.not_after) == (FACTS, NOW + 300 * SECOND)


def test_a_token_with_its_certificate() -> None:
    presented = certificate()
    bound = bind_to_certificate(verify(bound_to(presented)), presented)
    identity = token_identity(bound, status=STATUS, revoked=frozenset())
    assert (identity.kind, identity.certificate_serial) == ("jwt", presented.serial)
    assert identity.not_after == NOW + 300 * SECOND


def test_a_token_ends_with_its_certificate() -> None:
    presented = certificate(a.leaf(not_after=NOW + 10 * SECOND))
    assert bind_to_certificate(verify(bound_to(presented)), presented).not_after == NOW + 10 * SECOND


def test_pyjwt_agrees() -> None:
    theirs = jwt.encode(token_claims(), TOKEN_KEY, algorithm="ES256", headers={"typ": "at+jwt", "kid": "t1"})
    assert verify(theirs).jti == "token-1"
    read = jwt.decode(
        token(), TOKEN_KEY.public_key(), algorithms=["ES256"], audience=a.AUDIENCE, options={"verify_exp": False}
    )
    assert read == token_claims()


# ---- The header -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"alg": "none"}, AlgorithmNotAllowed),
        ({"alg": "HS256"}, AlgorithmNotAllowed),
        ({"alg": "RS256"}, AlgorithmNotAllowed),
        ({"alg": ...}, TokenMalformed),
        ({"typ": "JWT"}, TypeConfused),
        ({"typ": "application/at+jwt"}, TypeConfused),
        ({"typ": "dpop+jwt"}, TypeConfused),
        ({"typ": "attestd-bundle+jws"}, TypeConfused),
        ({"typ": "attestd-time+jws"}, TypeConfused),
        ({"typ": "attestd-request+jws"}, TypeConfused),
        ({"typ": ...}, TokenMalformed),
        ({"kid": "t2"}, TokenKeyUnknown),
        ({"kid": "t0"}, SignatureWrong),
        ({"kid": ["t1"]}, TokenMalformed),
        ({"kid": "t" * 200}, TokenMalformed),
        ({"kid": ...}, TokenMalformed),
        ({"crit": ["exp"], "exp": 1}, TokenMalformed),
        ({"jwk": a.public_jwk(TOKEN_KEY.public_key())}, TokenMalformed),
        ({"jku": "https://elsewhere.example"}, TokenMalformed),
        ({"x5c": []}, TokenMalformed),
    ],
)
def test_one_lie_in_the_header(lie: dict[str, Any], refusal: type[Exception]) -> None:
    verify(token())
    with pytest.raises(refusal) as caught:
        verify(token(header=token_header(**lie)))
    assert isinstance(caught.value, Unauthenticated)


def test_the_public_key_is_no_hmac_secret() -> None:
    """The classic confusion: HS256 with the published key's octets, in any of its spellings, as the secret."""
    key = TOKEN_KEY.public_key()
    for secret in (
        key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        json.dumps(a.public_jwk(key)).encode(),
    ):
        with pytest.raises(AlgorithmNotAllowed):
            verify(
                a.compact(
                    token_header(alg="HS256"), token_claims(), lambda data, s=secret: hmac.digest(s, data, "sha256")
                )
            )
        with pytest.raises(SignatureWrong):
            verify(a.compact(token_header(), token_claims(), lambda data, s=secret: hmac.digest(s, data, "sha256")))


def test_an_unsigned_token() -> None:
    with pytest.raises(AlgorithmNotAllowed):
        verify(a.compact(token_header(alg="none"), token_claims(), lambda _: b""))
    with pytest.raises(SignatureWrong):
        verify(a.compact(token_header(), token_claims(), lambda _: b""))


def test_a_token_signed_by_another_key() -> None:
    with pytest.raises(SignatureWrong):
        verify(token(key=a.STRANGER_KEY))
    verify(token(key=a.STRANGER_KEY, header=token_header(kid="t0")))


def test_without_keys_nothing_is_genuine() -> None:
    with pytest.raises(TokenKeyUnknown):
        verify(token(), keys={})


def test_a_bundle_a_time_or_a_proof_is_no_token() -> None:
    for text in (
        a.copy_of().statement,
        a.signed_time(),
        a.proof(token(), nonce=NONCES.issue(NOW)),
        a.delegated(json.dumps(token_claims()).encode(), typ="attestd-bundle+jws", key=TOKEN_KEY),
    ):
        with pytest.raises(TypeConfused):
            verify(text)


# ---- The claims -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"iss": "https://elsewhere.example"}, TokenIssuerWrong),
        ({"iss": a.TOKEN_ISSUER + "/"}, TokenIssuerWrong),
        ({"iss": [a.TOKEN_ISSUER]}, TokenMalformed),
        ({"iss": ...}, TokenMalformed),
        ({"aud": "https://elsewhere.example"}, TokenAudienceWrong),
        ({"aud": a.AUDIENCE.upper()}, TokenAudienceWrong),
        ({"aud": ""}, TokenAudienceWrong),
        ({"aud": [a.AUDIENCE]}, TokenMalformed),
        ({"aud": [a.AUDIENCE, "https://elsewhere.example"]}, TokenMalformed),
        ({"aud": None}, TokenMalformed),
        ({"aud": ...}, TokenMalformed),
        ({"exp": T}, TokenExpired),
        ({"exp": T - 1}, TokenExpired),
        ({"exp": ...}, TokenMalformed),
        ({"exp": True}, TokenMalformed),
        ({"exp": str(T + 300)}, TokenMalformed),
        ({"exp": T + 300.5}, TokenMalformed),
        ({"exp": 1 << 40}, TokenMalformed),
        ({"exp": 10**400}, TokenMalformed),
        ({"exp": -1}, TokenMalformed),
        ({"nbf": T + 61}, TokenNotYetValid),
        ({"nbf": ...}, TokenMalformed),
        ({"nbf": True}, TokenMalformed),
        ({"nbf": str(T)}, TokenMalformed),
        ({"iat": T + 61}, TokenNotYetValid),
        ({"iat": ...}, TokenMalformed),
        ({"iat": False}, TokenMalformed),
        ({"iat": [T]}, TokenMalformed),
        ({"sub": "spiffe://elsewhere.org/device/munich/bike-1"}, TokenSubjectWrong),
        ({"sub": "spiffe://example.org/proxy/munich/p1"}, TokenSubjectWrong),
        ({"sub": "spiffe://example.org/admin/ada"}, TokenSubjectWrong),
        ({"sub": "spiffe://example.org/device/munich"}, TokenSubjectWrong),
        ({"sub": "bike-1"}, TokenSubjectWrong),
        ({"sub": ""}, TokenSubjectWrong),
        ({"sub": 5}, TokenMalformed),
        ({"sub": ...}, TokenMalformed),
        ({"jti": ""}, TokenMalformed),
        ({"jti": "a b"}, TokenMalformed),
        ({"jti": "x" * 65}, TokenMalformed),
        ({"jti": 1}, TokenMalformed),
        ({"jti": ...}, TokenMalformed),
        ({"srl": ""}, TokenMalformed),
        ({"srl": "0"}, TokenMalformed),
        ({"srl": "0x4d"}, TokenMalformed),
        ({"srl": 77}, TokenMalformed),
        ({"srl": ...}, TokenMalformed),
        ({"status": {"status_list": {"idx": a.FACTS.status_index + 1, "uri": a.STATUS_LIST}}}, TokenMalformed),
        ({"status": {"status_list": {"idx": str(a.FACTS.status_index), "uri": a.STATUS_LIST}}}, TokenMalformed),
        ({"status": {"status_list": {"idx": a.FACTS.status_index}}}, TokenMalformed),
        ({"status": {"status_list": {"idx": a.FACTS.status_index, "uri": a.STATUS_LIST, "x": 1}}}, TokenMalformed),
        ({"status": {"status_list": {"idx": a.FACTS.status_index, "uri": a.STATUS_LIST}, "x": 1}}, TokenMalformed),
        ({"status": {}}, TokenMalformed),
        ({"status": a.STATUS_LIST}, TokenMalformed),
        ({"cnf": ...}, TokenMalformed),
        ({"cnf": {}}, TokenNotBound),
        ({"cnf": {"jkt": JKT, "x5t#S256": JKT}}, TokenNotBound),
        ({"cnf": {"jkt": JKT, "kid": "x"}}, TokenNotBound),
        ({"cnf": {"jwk": a.public_jwk(a.LEAF_KEY.public_key())}}, TokenNotBound),
        ({"cnf": {"kid": "mine"}}, TokenNotBound),
        ({"cnf": {"jkt": JKT[:-1]}}, TokenMalformed),
        ({"cnf": {"jkt": JKT + "="}}, TokenMalformed),
        ({"cnf": {"jkt": ""}}, TokenMalformed),
        ({"cnf": {"jkt": None}}, TokenMalformed),
        ({"cnf": {"x5t#S256": "A" * 42}}, TokenMalformed),
        ({"cnf": JKT}, TokenMalformed),
        ({"cnf": [{"jkt": JKT}]}, TokenMalformed),
        ({"attestd": ...}, TokenMalformed),
        ({"attestd": None}, TokenMalformed),
        ({"attestd": {}}, TokenMalformed),
        ({"attestd": FACTS.to_members() | {"v": 2}}, TokenMalformed),
        ({"attestd": FACTS.to_members() | {"idx": -1}}, TokenMalformed),
        ({"attestd": FACTS.to_members() | {"lbl": {str(n): "x" * 250 for n in range(5)}}}, TokenMalformed),
        ({"scope": "less"}, TokenMalformed),
    ],
)
def test_one_lie_in_the_claims(lie: dict[str, Any], refusal: type[Exception]) -> None:
    verify(token())
    with pytest.raises(refusal) as caught:
        verify(token(**lie))
    assert isinstance(caught.value, Unauthenticated)


def test_clocks_may_differ_by_a_minute_and_tokens_end_on_time() -> None:
    verify(token(nbf=T + 60, iat=T + 60))
    verify(token(exp=T + 1))
    with pytest.raises(TokenExpired):
        verify(token(), now=NOW + 300 * SECOND)


@pytest.mark.parametrize("member", ['"sub":"spiffe://example.org/device/munich/bike-2",', '"aud":"x",', '"cnf":{},'])
def test_duplicate_claims(member: str) -> None:
    honest = json.dumps(token_claims())
    verify(token(claims=honest.encode()))
    with pytest.raises(TokenMalformed):
        verify(token(claims=("{" + member + honest[1:]).encode()))
    with pytest.raises(TokenMalformed):
        verify(token(claims=(honest[:-1] + "," + member[:-1] + "}").encode()))


def test_duplicates_deep_inside() -> None:
    honest = json.dumps(token_claims())
    with pytest.raises(TokenMalformed):
        verify(token(claims=honest.replace('"jkt":', f'"jkt": "{JKT}", "jkt":').encode()))
    with pytest.raises(TokenMalformed):
        verify(token(claims=honest.replace('"idx":', '"idx": 7, "idx":').encode()))


@pytest.mark.parametrize("claims", [b"", b"[]", b'"x"', b"null", b"{", b"\xff", b"{}", b"[" * 500, b'{"exp":NaN}'])
def test_claims_that_are_none(claims: bytes) -> None:
    with pytest.raises(TokenMalformed):
        verify(token(claims=claims))


def test_a_token_has_at_most_8_kib() -> None:
    padded = json.dumps(token_claims()).encode()
    room = (8192 - len(token(claims=padded))) * 3 // 4
    fits = token(claims=padded + b" " * (room - 2))
    assert 8180 < len(fits) <= 8192
    verify(fits)
    with pytest.raises(TokenMalformed, match="too long"):
        verify(token(claims=padded + b" " * (room + 4)))
    with pytest.raises(TokenMalformed, match="too long"):
        verify("a" * (1 << 24))


# ---- Binding --------------------------------------------------------------------------------------------------------


def test_a_token_is_no_bearer_token() -> None:
    """There is no way around the binding: token_identity takes what only the two bind functions make."""
    verified = verify(token())
    with pytest.raises(AttributeError):
        token_identity(verified, status=STATUS, revoked=frozenset())  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        token_identity(token(), status=STATUS, revoked=frozenset())  # type: ignore[arg-type]


def test_another_device_s_certificate() -> None:
    presented = certificate()
    bind_to_certificate(verify(bound_to(presented)), presented)
    with pytest.raises(BoundElsewhere):
        bind_to_certificate(verify(bound_to(presented)), certificate(a.leaf(serial=99)))


def test_another_certificate_with_the_same_names() -> None:
    presented, other = certificate(), certificate(a.leaf(not_after=NOW + 2 * HOUR))
    assert (other.serial, other.spiffe_id) == (presented.serial, presented.spiffe_id)
    with pytest.raises(BoundElsewhere, match="another certificate"):
        bind_to_certificate(verify(bound_to(presented)), other)


def test_a_token_for_proofs_with_a_certificate() -> None:
    presented = certificate()
    with pytest.raises(BoundElsewhere, match="not bound to a certificate"):
        bind_to_certificate(verify(bound_to(presented, cnf={"jkt": presented.thumbprint})), presented)


def test_a_token_for_a_certificate_with_a_proof() -> None:
    with pytest.raises(BoundElsewhere, match="not bound to a key"):
        prove(verify(token(cnf={"x5t#S256": JKT})))


def test_a_token_that_names_another_serial_number() -> None:
    presented = certificate()
    with pytest.raises(BoundElsewhere, match="serial"):
        bind_to_certificate(verify(bound_to(presented, srl="4d")), presented)


def test_a_token_that_names_another_device() -> None:
    presented = certificate()
    with pytest.raises(BoundElsewhere, match="device"):
        bind_to_certificate(verify(bound_to(presented, sub=BIKE + "0")), presented)


def test_proofs_are_checked() -> None:
    verified = verify(token())
    with pytest.raises(ProofKeyWrong):
        prove(verified, a.proof(verified.text, key=a.STRANGER_KEY, nonce=NONCES.issue(NOW)))
    with pytest.raises(FreshNonceNeeded):
        prove(verified, a.proof(verified.text))
    replays = ReplayCache()
    prove(verified, replays=replays)
    with pytest.raises(ProofReplayed):
        prove(verified, replays=replays)


# ---- State ----------------------------------------------------------------------------------------------------------


def test_revoked_certificates_take_their_tokens_with_them() -> None:
    presented = certificate()
    bound = bind_to_certificate(verify(bound_to(presented)), presented)
    for serial in (presented.serial, *presented.issuer_serials):
        with pytest.raises(CredentialRevoked):
            token_identity(bound, status=STATUS, revoked={serial})
    with pytest.raises(CredentialRevoked):
        token_identity(prove(verify(token())), status=STATUS, revoked={Serial(77)})


@pytest.mark.parametrize(("state", "refusal"), [(Status.SUSPENDED, DeviceSuspended), (Status.INVALID, DeviceRevoked)])
def test_the_device_s_state(state: Status, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        token_identity(prove(verify(token())), status=StatusList.of({7: state}, 16), revoked=frozenset())


def test_tokens_stay_out_of_logs() -> None:
    verified = verify(token())
    assert verified.text not in repr(verified)
    assert verified.text not in repr(prove(verified))


# ---- Rubbish --------------------------------------------------------------------------------------------------------


@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_random_texts_are_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(text)


HONEST = token()


def test_truncated_tokens_are_refused() -> None:
    verify(HONEST)
    for length in range(len(HONEST)):
        with pytest.raises(Unauthenticated):
            verify(HONEST[:length])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(token_claims())), json_values)
def test_random_claims_are_refused(name: str, value: Any) -> None:
    """Signed by the service, so its own mistake; still a typed error."""
    if name == "jti" and isinstance(value, str):
        return
    if name in ("iat", "nbf", "exp") and type(value) is int:
        return
    with pytest.raises(Unauthenticated):
        verify(token(**{name: value}))


def test_the_proof_s_hash_is_the_token_s() -> None:
    assert a.unb64(json.loads(a.unb64(a.proof("abc").split(".")[1]))["ath"]) == hashlib.sha256(b"abc").digest()


def test_an_expired_token_is_expired_whatever_the_binding() -> None:
    presented = certificate()
    with pytest.raises(TokenExpired):
        verify(bound_to(presented), now=NOW + HOUR)


# ---- The short way, for claims as the service spells them -----------------------------------------------------------

CLAIMS = a.octets(token_claims())


def same_both_ways(payload: bytes) -> Any:
    """What is read, or the refusal."""
    outcomes: list[Any] = []
    for read in (tokens._read_claims, tokens._claims):
        try:
            outcomes.append(read(payload))
        except AttestdError as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def test_the_service_s_spelling_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    read = tokens._read_claims(CLAIMS)
    monkeypatch.delattr(tokens, "_read_claims")
    assert tokens._claims(CLAIMS) == read
    for label in ('quo"te', "back\\slash", 'x","aud":"y', "ü"):
        facts = replace(FACTS, labels={"aud": label, "a": "b"}).to_members()
        assert tokens._claims(write_object(token_claims(attestd=facts))).facts.labels["aud"] == label


@pytest.mark.parametrize(
    "odd",
    [
        b'{"att":1}',
        b'"aud":"x",',
        b',"aud":"x"',
        b"\\u0041",
        b'\\"',
        b" ",
        b"\xc3\xbc",
        b"\xff",
        b"\x00",
        b"-",
        b"0",
        b"9" * 12,
        b"}",
        b'"',
        b"=",
        b"",
    ],
)
def test_both_ways_read_alike(odd: bytes) -> None:
    for at in range(len(CLAIMS)):
        same_both_ways(CLAIMS[:at] + odd + CLAIMS[at:])
        same_both_ways(CLAIMS[:at] + odd + CLAIMS[at + 1 :])


@pytest.mark.parametrize("last", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
def test_thumbprints_have_one_spelling_in_both_ways(last: str) -> None:
    read = same_both_ways(a.octets(token_claims(cnf={"jkt": JKT[:-1] + last})))
    assert (read is MalformedBase64) is (last not in "AEIMQUYcgkosw048")


@given(
    st.fixed_dictionaries(
        {
            name: st.just(value) | st.text(max_size=5) | st.integers(-(1 << 41), 1 << 41)
            for name, value in token_claims().items()
            if name != "attestd"
        }
    ),
    st.dictionaries(st.sampled_from(["aud", "a", "idx"]), st.text('a",:{}\\ü', max_size=8)),
)
def test_any_claims_are_read_alike(claims: dict[str, Any], labels: dict[str, str]) -> None:
    facts = replace(FACTS, labels=labels).to_members()
    same_both_ways(write_object({**claims, "attestd": facts}))


def test_a_header_is_read_once_and_asked_each_time() -> None:
    """A member that nobody asks for is noticed under every token."""
    for jti in ("one", "two"):
        verify(token(jti=jti))
        with pytest.raises(TokenMalformed):
            verify(token(jti=jti, header=token_header(b64=False)))
