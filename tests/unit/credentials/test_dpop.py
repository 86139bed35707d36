"""A proof is for one request, one token, one key, one edge, once."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.dpop import (
    NONCE_LIFETIME,
    EdgeNonces,
    FreshNonceNeeded,
    MalformedUri,
    ProofForAnotherRequest,
    ProofForAnotherToken,
    ProofKeyWrong,
    ProofMalformed,
    ProofReplayed,
    ReplayCache,
    ReplayCacheFull,
    make_dpop,
    normal_uri,
    verify_dpop,
)
from attestd.credentials.jwk import jwk_thumbprint, public_jwk
from attestd.credentials.jws import AlgorithmNotAllowed, SignatureWrong, TypeConfused
from attestd.errors import Limited, Unauthenticated
from tests import authority as a
from tests.authority import LEAF_KEY, NOW, STRANGER_KEY, b64, es256, proof, proof_header

SECOND = timedelta(seconds=1)
TOKEN = a.token()
NONCES = EdgeNonces(b"s" * 32)
NONCE = NONCES.issue(NOW)
URI = "https://shop.example.org/orders"
JKT = jwk_thumbprint(LEAF_KEY.public_key())


def verify(text: str, **lies: Any) -> str:
    honest: dict[str, Any] = {
        "method": "GET",
        "uri": URI,
        "token": TOKEN,
        "jkt": JKT,
        "nonces": NONCES,
        "replays": ReplayCache(),
        "now": NOW,
    }
    return verify_dpop(text, **{**honest, **lies})


def honest_proof(**lies: Any) -> str:
    return proof(TOKEN, **{"nonce": NONCE, **lies})


def made(**lies: Any) -> str:
    honest: dict[str, Any] = {
        "sign": es256(LEAF_KEY),
        "jwk": public_jwk(LEAF_KEY.public_key()),
        "method": "GET",
        "uri": URI,
        "token": TOKEN,
        "nonce": NONCE,
        "now": NOW,
        "entropy": lambda size: b"r" * size,
    }
    return make_dpop(**{**honest, **lies})


def test_the_agent_s_proof_is_accepted() -> None:
    assert verify(made()) == b64(b"r" * 16)
    assert verify(made(uri=URI + "?page=2#top")) == b64(b"r" * 16)
    assert verify(honest_proof()) == "proof-1"


def test_pyjwt_agrees() -> None:
    claims = jwt.decode(made(), LEAF_KEY.public_key(), algorithms=["ES256"], options={"verify_iat": False})
    assert claims["htm"] == "GET"
    assert claims["htu"] == URI
    assert jwt.get_unverified_header(made()) == {
        "alg": "ES256",
        "typ": "dpop+jwt",
        "jwk": public_jwk(LEAF_KEY.public_key()),
    }
    theirs = jwt.encode(
        a.proof_claims(nonce=NONCE, ath=claims["ath"]), LEAF_KEY, algorithm="ES256", headers=proof_header()
    )
    verify(theirs)


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"htm": "POST"}, ProofForAnotherRequest),
        ({"htm": "get"}, ProofForAnotherRequest),
        ({"htm": ""}, ProofForAnotherRequest),
        ({"htm": ...}, ProofMalformed),
        ({"htm": ["GET"]}, ProofMalformed),
        ({"htu": "https://shop.example.org/"}, ProofForAnotherRequest),
        ({"htu": "https://shop.example.org/orders/"}, ProofForAnotherRequest),
        ({"htu": "https://shop.example.org/Orders"}, ProofForAnotherRequest),
        ({"htu": "http://shop.example.org/orders"}, ProofForAnotherRequest),
        ({"htu": "https://shop.example.org:8443/orders"}, ProofForAnotherRequest),
        ({"htu": "https://shop.example.org.elsewhere.example/orders"}, ProofForAnotherRequest),
        ({"htu": "/orders"}, ProofMalformed),
        ({"htu": "https://shop.example.org@elsewhere.example/orders"}, ProofMalformed),
        ({"htu": ...}, ProofMalformed),
        ({"ath": b64(bytes(32))}, ProofForAnotherToken),
        ({"ath": b64(bytes(31))}, ProofMalformed),
        ({"ath": ""}, ProofMalformed),
        ({"ath": ...}, ProofMalformed),
        ({"nonce": ...}, FreshNonceNeeded),
        ({"nonce": ""}, FreshNonceNeeded),
        ({"nonce": "AAAA"}, FreshNonceNeeded),
        ({"nonce": NONCE[:-1] + ("A" if NONCE[-1] != "A" else "Q")}, FreshNonceNeeded),
        ({"nonce": NONCE + "="}, FreshNonceNeeded),
        ({"nonce": "B" + NONCE[1:]}, FreshNonceNeeded),
        ({"nonce": EdgeNonces(b"t" * 32).issue(NOW)}, FreshNonceNeeded),
        ({"nonce": NONCES.issue(NOW - 300 * SECOND)}, FreshNonceNeeded),
        ({"nonce": NONCES.issue(NOW + SECOND)}, FreshNonceNeeded),
        ({"nonce": 5}, ProofMalformed),
        ({"iat": ...}, ProofMalformed),
        ({"iat": "now"}, ProofMalformed),
        ({"iat": True}, ProofMalformed),
        ({"jti": ...}, ProofMalformed),
        ({"jti": 1}, ProofMalformed),
        ({"jti": ""}, ProofMalformed),
        ({"jti": "x" * 200}, ProofMalformed),
        ({"more": 1}, ProofMalformed),
    ],
)
def test_one_lie_in_the_claims(lie: dict[str, Any], refusal: type[Exception]) -> None:
    verify(honest_proof())
    replays = ReplayCache()
    with pytest.raises(refusal) as caught:
        verify(honest_proof(**lie), replays=replays)
    assert isinstance(caught.value, Unauthenticated)
    assert not replays._young, "a refused proof must not fill the cache"


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"alg": "none"}, AlgorithmNotAllowed),
        ({"alg": "HS256"}, AlgorithmNotAllowed),
        ({"alg": ...}, ProofMalformed),
        ({"typ": "at+jwt"}, TypeConfused),
        ({"typ": "JWT"}, TypeConfused),
        ({"typ": ...}, ProofMalformed),
        ({"jwk": ...}, ProofMalformed),
        ({"jwk": {}}, ProofMalformed),
        ({"jwk": public_jwk(LEAF_KEY.public_key()) | {"d": b64(b"d" * 32)}}, ProofMalformed),
        ({"jwk": {"kty": "oct", "k": "AAAA"}}, ProofMalformed),
        ({"jwk": public_jwk(STRANGER_KEY.public_key())}, ProofKeyWrong),
        ({"kid": "t1"}, ProofMalformed),
        ({"crit": ["jwk"]}, ProofMalformed),
        ({"x5c": []}, ProofMalformed),
    ],
)
def test_one_lie_in_the_header(lie: dict[str, Any], refusal: type[Exception]) -> None:
    verify(honest_proof())
    with pytest.raises(refusal) as caught:
        verify(honest_proof(header=proof_header(**lie)))
    assert isinstance(caught.value, Unauthenticated)


def test_another_key() -> None:
    with pytest.raises(ProofKeyWrong):
        verify(honest_proof(key=STRANGER_KEY))
    verify(honest_proof(key=STRANGER_KEY), jkt=jwk_thumbprint(STRANGER_KEY.public_key()))


def test_the_right_key_s_name_without_the_key() -> None:
    with pytest.raises(SignatureWrong):
        verify(honest_proof(key=STRANGER_KEY, header=proof_header(key=LEAF_KEY)))


def test_another_request_or_token() -> None:
    for lie in ({"method": "POST"}, {"uri": "https://shop.example.org/accounts"}):
        with pytest.raises(ProofForAnotherRequest):
            verify(honest_proof(), **lie)
    with pytest.raises(ProofForAnotherToken):
        verify(honest_proof(), token=a.token(jti="token-2"))


def test_a_token_is_no_proof() -> None:
    with pytest.raises(TypeConfused):
        verify(TOKEN)


def test_duplicate_claims() -> None:
    with pytest.raises(ProofMalformed):
        verify(honest_proof(claims=b'{"htm":"GET","htm":"POST"}'))


def test_a_proof_s_size_is_bounded() -> None:
    with pytest.raises(ProofMalformed, match="too long"):
        verify("a" * 10_000_000)


@given(st.text(max_size=300))
def test_random_texts_are_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(text)


def test_truncated_proofs_are_refused() -> None:
    text = honest_proof()
    for length in range(len(text)):
        with pytest.raises(Unauthenticated):
            verify(text[:length])


@given(st.text(max_size=100))
def test_random_nonces_and_ids_are_refused_or_used(text: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(honest_proof(nonce=text))


# ---- Nonces -----------------------------------------------------------------------------------------------------


def test_a_nonce_lives_for_its_time() -> None:
    nonce = NONCES.issue(NOW)
    assert NONCES.issue(NOW) == nonce
    assert NONCES.issue(NOW + SECOND) != nonce
    NONCES.check(nonce, NOW)
    NONCES.check(nonce, NOW + (NONCE_LIFETIME - 1) * SECOND)
    for moment in (NOW - SECOND, NOW + NONCE_LIFETIME * SECOND):
        with pytest.raises(FreshNonceNeeded):
            NONCES.check(nonce, moment)


def test_a_short_secret_is_refused() -> None:
    EdgeNonces(bytes(32))
    with pytest.raises(ValueError, match="32"):
        EdgeNonces(bytes(31))


@given(st.text(max_size=60) | st.binary(max_size=40).map(b64))
def test_random_nonces_are_refused(text: str) -> None:
    with pytest.raises(FreshNonceNeeded):
        NONCES.check(text, NOW)


# ---- Replays ----------------------------------------------------------------------------------------------------


def test_a_proof_serves_once() -> None:
    replays = ReplayCache()
    verify(honest_proof(), replays=replays)
    with pytest.raises(ProofReplayed):
        verify(honest_proof(), replays=replays)
    with pytest.raises(ProofReplayed):
        verify(honest_proof(iat=1), replays=replays)
    verify(honest_proof(jti="proof-2"), replays=replays)


def test_each_key_has_its_own_ids() -> None:
    replays = ReplayCache()
    replays.spend("a", "1", now=NOW)
    replays.spend("b", "1", now=NOW)
    with pytest.raises(ProofReplayed):
        replays.spend("a", "1", now=NOW)


@pytest.mark.parametrize("start", [0, 1, 150, 299])
def test_a_proof_is_remembered_for_as_long_as_its_nonce_lives(start: int) -> None:
    replays = ReplayCache()
    replays.spend("other", "0", now=NOW)
    spent = NOW + start * SECOND
    replays.spend("a", "1", now=spent)
    for later in (1, 150, NONCE_LIFETIME - 1, NONCE_LIFETIME):
        with pytest.raises(ProofReplayed):
            replays.spend("a", "1", now=spent + later * SECOND)


def test_what_can_t_be_replayed_is_forgotten() -> None:
    replays = ReplayCache(capacity=1)
    for step in range(3):
        replays.spend("a", "1", now=NOW + 2 * step * NONCE_LIFETIME * SECOND)


def test_a_clock_that_goes_backwards_forgets_nothing() -> None:
    replays = ReplayCache()
    replays.spend("a", "1", now=NOW)
    replays.spend("a", "2", now=NOW - 3600 * SECOND)
    for moment in (NOW - 3600 * SECOND, NOW - 3500 * SECOND):
        with pytest.raises(ProofReplayed):
            replays.spend("a", "1", now=moment)
    replays.spend("a", "3", now=NOW - 3600 * SECOND + 2 * NONCE_LIFETIME * SECOND)


def test_a_full_cache_refuses_and_forgets_nothing() -> None:
    replays = ReplayCache(capacity=3)
    for number in range(3):
        replays.spend(f"key {number}", "1", now=NOW)
    with pytest.raises(ReplayCacheFull) as caught:
        replays.spend("key 4", "1", now=NOW)
    assert isinstance(caught.value, Limited)
    with pytest.raises(ProofReplayed):
        replays.spend("key 0", "1", now=NOW)
    replays.spend("key 4", "1", now=NOW + NONCE_LIFETIME * SECOND)


def test_one_key_can_t_shut_out_the_others() -> None:
    replays = ReplayCache(capacity=10, per_key=2)
    replays.spend("greedy", "1", now=NOW)
    replays.spend("greedy", "2", now=NOW)
    with pytest.raises(ReplayCacheFull):
        replays.spend("greedy", "3", now=NOW)
    replays.spend("modest", "1", now=NOW)
    replays.spend("greedy", "3", now=NOW + NONCE_LIFETIME * SECOND)


def test_threads_can_t_use_one_proof_twice() -> None:
    replays, outcomes, start = ReplayCache(), [], threading.Barrier(8)

    def use() -> None:
        start.wait()
        for number in range(200):
            try:
                replays.spend("a", str(number), now=NOW)
                outcomes.append(number)
            except ProofReplayed:
                pass

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == list(range(200))


# ---- URLs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelling", "normal"),
    [
        ("https://a.example/x", "https://a.example/x"),
        ("HTTPS://A.Example/x", "https://a.example/x"),
        ("https://a.example:443/x", "https://a.example/x"),
        ("https://a.example:0443/x", "https://a.example/x"),
        ("http://a.example:80/x", "http://a.example/x"),
        ("http://a.example:443/x", "http://a.example:443/x"),
        ("https://a.example:8443/x", "https://a.example:8443/x"),
        ("https://a.example", "https://a.example/"),
        ("https://a.example/", "https://a.example/"),
        ("https://a.example?x", "https://a.example/"),
        ("https://a.example/x?q=1&r=%zz \u00fc", "https://a.example/x"),
        ("https://a.example/x#frag", "https://a.example/x"),
        ("https://a.example/x?q#f?g", "https://a.example/x"),
        ("https://a.example/%7Ex/%2d", "https://a.example/~x/-"),
        ("https://a.example/%c3%bc", "https://a.example/%C3%BC"),
        ("https://a.example/a%2fb", "https://a.example/a%2Fb"),
        ("https://a.example/a%2Fb", "https://a.example/a%2Fb"),
        ("https://a.example/./a/../b/", "https://a.example/b/"),
        ("https://a.example/a/..", "https://a.example/"),
        ("https://a.example/a/.", "https://a.example/a/"),
        ("https://a.example/../../x", "https://a.example/x"),
        ("https://a.example/a/%2e%2E/b", "https://a.example/b"),
        ("https://a.example//a///b", "https://a.example//a///b"),
        ("https://a.example/X", "https://a.example/X"),
        ("https://[2001:DB8::1]:443/x", "https://[2001:db8::1]/x"),
        ("https://127.0.0.1:5000/x", "https://127.0.0.1:5000/x"),
        ("https://a.example/!$&'()*+,;=:@", "https://a.example/!$&'()*+,;=:@"),
    ],
)
def test_equivalent_urls_have_one_spelling(spelling: str, normal: str) -> None:
    assert normal_uri(spelling) == normal
    assert normal_uri(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/x",
        "a.example/x",
        "ftp://a.example/x",
        "https:/a.example/x",
        "https:///x",
        "https://user@a.example/x",
        "https://user:pass@a.example/x",
        "https://a.example:/x",
        "https://a.example:0/x",
        "https://a.example:65536/x",
        "https://a.example:x/x",
        "https://a.example:123456/x",
        "https://a.example/a b",
        "https://a.example/a\nb",
        "https://a.example/x\n",
        " https://a.example/x",
        "https://a.example/\u00fc",
        "https://\u00e4.example/x",
        "https://a.example/%",
        "https://a.example/%zz",
        "https://a.example/a\\b",
        "https://a.example\\@b.example/x",
        "https://[::1/x",
        "https://a.example/" + "x" * 2048,
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(MalformedUri):
        normal_uri(text)


PATHS = st.text(st.sampled_from("/.aA%2eEfF~-:@"), max_size=40)


@given(PATHS)
def test_normal_is_normal(path: str) -> None:
    try:
        normal = normal_uri(f"https://a.example/{path}")
    except MalformedUri:
        return
    assert normal_uri(normal) == normal
    assert "/../" not in normal + "/"
    assert "/./" not in normal + "/"


def test_hard_urls_take_no_time() -> None:
    for text in ("https://a.example" + "/" * 2000, "https://" + "a" * 2000, "https://a.example/" + "%" * 2000):
        with contextlib.suppress(MalformedUri):
            normal_uri(text)


def test_other_curves_make_no_proofs() -> None:
    with pytest.raises(Unauthenticated):
        verify(honest_proof(header=proof_header(jwk={"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"})))
    assert isinstance(LEAF_KEY.curve, ec.SECP256R1)
