"""NATS' keys, JWTs and seals beside the texts of its own documents and beside PyNaCl."""

from __future__ import annotations

import pytest

pytest.importorskip("nacl", reason="PyNaCl is not installed")

from attestd.broker.nkeys import (
    Kind,
    NkeyMalformed,
    SigningKey,
    read_public,
    read_seed,
    write_public,
    write_seed,
)
from attestd.credentials.jws import MalformedJws, SignatureWrong
from attestd.errors import InputTooLarge, MalformedInput
from attestd_edge.nats.nkeys import CurveKey, SealBroken, read_jwt
from tests.nats_asker import SERVER as SERVER_KIND
from tests.nats_asker import USER_KIND, Asker, Pair, read

ISSUER = "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA"  # this and the next: NATS ADR-26
CURVE = "XAB3NANV3M6N7AHSQP2U5FRWKKUT7EG2ZXXABV4XVXYQRJGM4S2CZGHT"
SERVER = "NB5FCQYBGNXSL27AGZYUX5QZ2KKIFUKVDZCL5R7NIUS4562JT4WEWKQV"


@pytest.mark.parametrize(("text", "kind"), [(ISSUER, Kind.ACCOUNT), (CURVE, Kind.CURVE), (SERVER, Kind.SERVER)])
def test_keys_of_nats_own_documents(text, kind):
    assert write_public(kind, read_public(text, kind)) == text


@pytest.mark.parametrize(
    "text",
    [
        CURVE,  # another kind
        ISSUER[:-1] + "B",  # another checksum
        ISSUER[:20] + ("A" if ISSUER[20] != "A" else "B") + ISSUER[21:],
        ISSUER[:-1],
        ISSUER + "A",
        ISSUER.lower(),
        "",
        "A" * 10_000,
        "é" * 56,
    ],
)
def test_what_is_no_key_of_this_kind(text):
    with pytest.raises(NkeyMalformed):
        read_public(text, Kind.ACCOUNT)


@pytest.mark.parametrize(
    ("seed", "public"),
    [  # NATS' documentation of nkeys, and the configuration that its clients' tests share
        (
            "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
            "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
        ),
        (
            "SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY",
            "UAMMBNV2EYR65NYZZ7IAK5SIR5ODNTTERJOBOF4KJLMWI45YOXOSWULM",
        ),
    ],
)
def test_seeds_of_nats_own_documents(seed, public):
    assert SigningKey.from_seed(seed, Kind.USER).public == public
    assert write_seed(Kind.USER, read_seed(seed, Kind.USER)) == seed


def test_a_seed_of_another_kind():
    with pytest.raises(NkeyMalformed) as caught:
        read_seed(write_seed(Kind.USER, b"s" * 32), Kind.ACCOUNT)
    assert "S" * 3 not in str(caught.value)
    with pytest.raises(NkeyMalformed):
        read_seed(ISSUER, Kind.ACCOUNT)


def test_our_jwt_is_verified_by_another_library():
    key = SigningKey.from_seed(write_seed(Kind.ACCOUNT, b"k" * 32), Kind.ACCOUNT)
    assert read(key.jwt({"sub": "x"})) == {"sub": "x", "iss": key.public}


def asker() -> Asker:
    ours = CurveKey.from_seed(write_seed(Kind.CURVE, b"c" * 32))
    return Asker(ours=ours.public, issuer=ISSUER)


def test_a_servers_jwt():
    issuer, claims = read_jwt(asker().jwt(asker().claims()), issuer=Kind.SERVER, limit=1 << 16)
    assert issuer == asker().id
    assert claims.text("sub") == ISSUER


def test_a_jwt_signed_by_another_key():
    with pytest.raises(SignatureWrong):
        read_jwt(asker().jwt(asker().claims(), key=Pair(9, SERVER_KIND)), issuer=Kind.SERVER, limit=1 << 16)


def test_a_jwt_of_another_kind_of_key():
    user = Pair(1, USER_KIND)
    claims = asker().claims(top__iss=user.public)
    with pytest.raises(NkeyMalformed):
        read_jwt(asker().jwt(claims, key=user), issuer=Kind.SERVER, limit=1 << 16)


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT", "alg": "none"},
        {"typ": "JWT", "alg": "ed25519"},
        {"typ": "jwt", "alg": "ed25519-nkey"},
        {"typ": "JWT", "alg": "ed25519-nkey", "crit": "x"},
    ],
)
def test_another_header(header):
    with pytest.raises(MalformedInput):
        read_jwt(asker().jwt(asker().claims(), header=header), issuer=Kind.SERVER, limit=1 << 16)


def test_jwts_that_can_not_be_read():
    for text in ("", "a.b", "a.b.c.d", "é.é.é"):
        with pytest.raises(MalformedJws):
            read_jwt(text, issuer=Kind.SERVER, limit=100)
    with pytest.raises(InputTooLarge):
        read_jwt("a" * 101, issuer=Kind.SERVER, limit=100)


def test_what_the_server_sealed_is_opened_and_back():
    ours = CurveKey.from_seed(write_seed(Kind.CURVE, b"c" * 32))
    server = asker()
    assert ours.open(server.seal(b"question"), sender=server.xkey) == b"question"
    sealed = ours.seal(b"answer", recipient=server.xkey, entropy=lambda size: b"n" * size)
    from nacl.public import Box

    assert Box(server.curve, ours._private.public_key).decrypt(sealed[4:]) == b"answer"


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:-1], lambda d: d[:-1] + b"\0", lambda d: b"xkv2" + d[4:], lambda d: d[:28], lambda d: b""]
)
def test_a_seal_that_is_broken(spoil):
    ours, server = CurveKey.from_seed(write_seed(Kind.CURVE, b"c" * 32)), asker()
    with pytest.raises(SealBroken):
        ours.open(spoil(server.seal(b"question")), sender=server.xkey)


def test_a_seal_by_another_sender():
    ours, server = CurveKey.from_seed(write_seed(Kind.CURVE, b"c" * 32)), asker()
    with pytest.raises(SealBroken):
        ours.open(server.seal(b"question"), sender=Asker(ours=ours.public, issuer=ISSUER, number=2).xkey)
    with pytest.raises(NkeyMalformed):
        ours.open(server.seal(b"question"), sender=ISSUER)


def test_private_keys_stay_out_of_texts():
    signing = SigningKey.from_seed(write_seed(Kind.ACCOUNT, b"k" * 32), Kind.ACCOUNT)
    assert "private" not in repr(signing).lower()
    assert "private" not in repr(CurveKey.from_seed(write_seed(Kind.CURVE, b"c" * 32))).lower()
