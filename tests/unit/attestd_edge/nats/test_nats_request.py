"""nats-server's question: the honest one is read; one that lies in a single field is not."""

from __future__ import annotations

from datetime import timedelta

import pytest

pytest.importorskip("nacl", reason="PyNaCl is not installed")

from attestd.broker.nkeys import NkeyMalformed
from attestd.credentials.jws import SignatureWrong
from attestd.errors import AttestdError, InputTooLarge, MalformedInput
from attestd.protocol.encoding import MalformedJson
from attestd_edge.nats.nkeys import SealBroken
from attestd_edge.nats.request import (
    MAX_REQUEST,
    Permissions,
    RequestNotOurs,
    RequestTooOld,
    read_request,
    user_jwt,
    write_answer,
)
from tests import authority as a
from tests.edge_site import pem
from tests.nats_asker import NONCE, SERVER, USER, Asker, Pair, read


@pytest.fixture
def put(keys, asker):
    """Reads a question; `after` seconds since it was asked."""

    def put(data=None, *, after=0.0, sender=None, **lies):
        return read_request(
            asker.ask(**lies) if data is None else data,
            sender=asker.xkey if sender is None else sender,
            ours=keys.sealing,
            issuer=keys.issuer.public,
            wall=a.NOW + timedelta(seconds=after),
        )

    return put


def test_an_honest_question(put, asker):
    leaf = a.leaf()
    request = put(chain=[leaf, a.ISSUER.der, a.ROOT.der], connect_opts__jwt="t.o.k", connect_opts__sig="p.r.f")
    assert (request.server, request.user, request.connection, request.kind) == (asker.id, USER, 7, "STANDARD")
    assert request.chain == (leaf, a.ISSUER.der, a.ROOT.der)
    assert (request.token, request.proof, request.nonce) == ("t.o.k", "p.r.f", NONCE)
    assert "t.o.k" not in repr(request)
    assert "p.r.f" not in repr(request)


def test_a_token_may_come_as_a_token(put):
    assert put(connect_opts__auth_token="t.o.k").token == "t.o.k"


def test_what_later_servers_add_is_no_fault(put):
    assert put(nats__request_nonce="x", client_info__new=1).connection == 7


@pytest.mark.parametrize(
    ("lies", "error"),
    [
        ({"top__aud": "nats-authorization-response"}, RequestNotOurs),
        ({"top__sub": "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA"}, RequestNotOurs),
        ({"nats__type": "authorization_response"}, RequestNotOurs),
        ({"server_id__id": "NB5FCQYBGNXSL27AGZYUX5QZ2KKIFUKVDZCL5R7NIUS4562JT4WEWKQV"}, RequestNotOurs),
        ({"server_id__xkey": "XAB3NANV3M6N7AHSQP2U5FRWKKUT7EG2ZXXABV4XVXYQRJGM4S2CZGHT"}, RequestNotOurs),
        ({"server_id__xkey": ...}, MalformedJson),
        ({"nats__user_nkey": "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA"}, NkeyMalformed),
        ({"nats__user_nkey": ...}, MalformedJson),
        ({"top__iat": int(a.NOW.timestamp()) + 90}, RequestNotOurs),
        ({"top__exp": ...}, MalformedJson),
        ({"top__exp": "soon"}, MalformedJson),
        ({"client_info__id": "7"}, MalformedJson),
        ({"client_info__kind": "Router"}, MalformedJson),
        ({"client_info__type": "mqtt"}, MalformedJson),
        ({"client_info__nonce": "n" * 65}, InputTooLarge),
        ({"connect_opts__jwt": "t" * 9000}, InputTooLarge),
        ({"connect_opts__sig": "p" * 9000}, InputTooLarge),
        ({"connect_opts__jwt": "t", "connect_opts__auth_token": "t"}, MalformedJson),
        ({"nats__client_tls": {"certs": [pem(a.leaf()).decode()]}}, RequestNotOurs),
        ({"nats__client_tls": {"verified_chains": "x"}}, MalformedJson),
        ({"nats__client_tls": {"verified_chains": ["x"]}}, MalformedJson),
        ({"nats__client_tls": {"verified_chains": [[]]}}, MalformedJson),
        ({"nats__client_tls": {"verified_chains": [[7]]}}, MalformedJson),
        ({"nats__client_tls": {"verified_chains": [["no certificate"]]}}, MalformedInput),
        ({"nats__client_tls": {"verified_chains": [[pem(a.leaf()).decode()] * 7]}}, MalformedJson),
        ({"nats__client_tls": {"verified_chains": [[pem(a.leaf()).decode()]] * 5}}, MalformedJson),
        (
            {"nats__client_tls": {"verified_chains": [[pem(a.leaf()).decode()], [pem(a.ISSUER.der).decode()]]}},
            MalformedJson,
        ),
    ],
)
def test_one_lie(put, lies, error):
    with pytest.raises(error):
        put(**lies)


def test_two_ways_up_from_one_leaf(put):
    leaf = a.leaf()
    chain = [pem(leaf).decode(), pem(a.ISSUER.der).decode()]
    assert put(nats__client_tls={"verified_chains": [chain, [chain[0]]]}).chain == (leaf, a.ISSUER.der)


def test_a_question_that_nobody_waits_for(put):
    assert put(after=2)
    with pytest.raises(RequestTooOld):
        put(after=2.1)


def test_a_question_that_came_in_the_open(put, asker):
    plain = asker.jwt(asker.claims()).encode()
    with pytest.raises(SealBroken):
        put(plain)
    with pytest.raises(RequestNotOurs):
        put(plain, sender="")


def test_a_question_sealed_by_one_and_signed_by_another(put, asker, keys):
    other = Asker(ours=keys.sealing.public, issuer=keys.issuer.public, number=2)
    data = other.seal(asker.jwt(asker.claims()).encode())
    with pytest.raises(RequestNotOurs):
        put(data, sender=other.xkey)


def test_a_question_signed_by_another_than_it_says(put, asker):
    data = asker.seal(asker.jwt(asker.claims(), key=Pair(9, SERVER)).encode())
    with pytest.raises(SignatureWrong):
        put(data)


def test_a_question_without_an_end(put, asker):
    with pytest.raises(AttestdError):
        put(asker.seal(b"a" * (MAX_REQUEST + 100)))


def test_no_subject_is_no_leave(asker, keys, put):
    """NATS reads an empty list of allowed subjects as no limit at all."""
    assert Permissions((), ()).members() == {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}}
    assert Permissions(("a",), ()).members() == {"pub": {"allow": ["a"]}, "sub": {"deny": [">"]}}


def test_a_leave_says_for_whom_and_until_when(put, keys):
    jwt = user_jwt(
        put(), account="FIELD", name="spiffe://x/device/y/z", permissions=Permissions(("a.>",), ("b",)),
        now=a.NOW, until=a.NOW + timedelta(seconds=9.9), key=keys.issuer, entropy=lambda size: b"j" * size,
    )  # fmt: skip
    claims = read(jwt)
    assert (claims["iss"], claims["sub"], claims["aud"]) == (keys.issuer.public, USER, "FIELD")
    assert claims["exp"] == int(a.NOW.timestamp()) + 9
    assert claims["nats"]["pub"] == {"allow": ["a.>"]}
    assert claims["nats"]["allowed_connection_types"] == ["STANDARD"]


def test_an_answer_is_for_one_question(put, keys, asker):
    answer = write_answer(
        put(), {"error": "no"}, now=a.NOW, key=keys.issuer, ours=keys.sealing, entropy=lambda size: b"j" * size
    )
    claims = asker.opened(answer)
    assert (claims["sub"], claims["aud"], claims["iss"]) == (USER, asker.id, keys.issuer.public)
    assert claims["nats"]["error"] == "no"
    assert "jwt" not in claims["nats"]
