"""One receipt after the other: each is genuine and in its place, or refused by the name of what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attestd.credentials.certificates import CertificateExpired, CertificateRefused
from attestd.credentials.jws import AlgorithmNotAllowed, SignatureWrong, TypeConfused
from attestd.credentials.receipt_chains import (
    ChainBroken,
    KeyOfAnotherChain,
    NotAnEdge,
    Position,
    ReceiptMissing,
    ReceiptOfAnotherChain,
    ReceiptRepeated,
    TimeRanBackwards,
    begin_chain,
    follow_chain,
)
from attestd.credentials.receipts import (
    NOTHING,
    RECEIPT_TYP,
    Beginning,
    Crossed,
    Receipt,
    ReceiptMalformed,
    digest_of,
    read_unverified,
    sign_receipt,
)
from attestd.errors import AttestdError, MalformedInput
from attestd.ids import SpiffeId
from attestd.protocol.encoding import MalformedJson, b64decode, b64encode, read_object, write_object
from tests import authority as a
from tests.edge_receipts import AUTHORITIES, EDGE, EDGE_KEY, crossed, identity, refused

CHAIN = "0" * 31 + "1"
AT = int(a.NOW.timestamp())
WHO = identity()


def beginning(*, said: Any = Beginning("start"), who=WHO, **lies: Any) -> str:  # noqa: B008
    receipt = Receipt(**{"chain": CHAIN, "seq": 0, "prev": NOTHING, "time": AT, "said": said, **lies})
    return sign_receipt(receipt, kid=who.kid, sign=a.es256(EDGE_KEY), certificates=who.chain)


FIRST = beginning()
KNOWN, _, START = begin_chain(FIRST, authorities=AUTHORITIES)


def following(*, after: str = FIRST, key=EDGE_KEY, kid: str = WHO.kid, **lies: Any) -> str:
    honest = {"chain": CHAIN, "seq": 1, "prev": digest_of(after), "time": AT, "said": crossed()}
    return sign_receipt(Receipt(**{**honest, **lies}), kid=kid, sign=a.es256(key))


def rewritten(jws: str, **lies: Any) -> str:
    """With other members of its payload, signed again."""
    header, payload, _ = jws.split(".")
    members = a.without({**read_object(b64decode(payload), limit=1 << 20), **lies})
    head = read_object(b64decode(header), limit=4096)
    return a.compact(head, members, a.es256(EDGE_KEY))


def test_a_chain_begins_and_goes_on():
    known, receipt, at = begin_chain(FIRST, authorities=AUTHORITIES)
    assert (str(known.edge), known.id, known.site_and_name) == (EDGE, CHAIN, ("munich", "edge-1"))
    assert receipt.said == Beginning("start")
    second = following()
    one, at = follow_chain(known, at, second)
    assert one.said == crossed()
    two, at = follow_chain(known, at, following(after=second, seq=2, time=AT + 5, said=refused(), omitted=3))
    assert (two.said, two.omitted) == (refused(), 3)
    assert at == Position(2, at.digest, AT + 5)


@pytest.mark.parametrize(
    "said",
    [
        crossed(),
        crossed(digest=b"d" * 32),
        crossed(digest_claimed=b"c" * 32, method="GET", path="/ä"),
        crossed(problem="receipt-not-kept", allowed=False),
        refused(),
        refused(method="GET", path="/x", labels={"class": "telemetry"}),
        Beginning("new-key", (CHAIN, 9, b"e" * 32)),
    ],
)
def test_what_is_said_is_read_again(said):
    receipt = Receipt(CHAIN, 0 if isinstance(said, Beginning) else 4, b"p" * 32, AT, said, 0)
    assert Receipt.parse(receipt.to_bytes()) == receipt


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        ({"seq": 2}, ReceiptMissing),
        ({"seq": 0, "said": Beginning("start")}, ReceiptRepeated),
        ({"prev": b"x" * 32}, ChainBroken),
        ({"time": AT - 1}, TimeRanBackwards),
        ({"chain": "f" * 32}, ReceiptOfAnotherChain),
        ({"key": a.STRANGER_KEY}, SignatureWrong),
        ({"kid": "another"}, KeyOfAnotherChain),
    ],
)
def test_one_lie_is_refused(lie, error):
    follow_chain(KNOWN, START, following())
    with pytest.raises(error):
        follow_chain(KNOWN, START, following(**lie))


def test_a_gap_may_be_followed_over_where_that_is_wanted():
    receipt, at = follow_chain(KNOWN, START, following(seq=7, prev=b"x" * 32), over_gaps=True)
    assert (receipt.seq, at.seq) == (7, 7)
    with pytest.raises(ChainBroken):
        follow_chain(KNOWN, START, following(prev=b"x" * 32), over_gaps=True)


def test_a_changed_octet_is_noticed():
    honest = following()
    for place in (5, len(honest) // 2, len(honest) - 3):
        changed = honest[:place] + ("A" if honest[place] != "A" else "B") + honest[place + 1 :]
        with pytest.raises(AttestdError):
            follow_chain(KNOWN, START, changed)


def test_a_chain_does_not_begin_twice():
    with pytest.raises(ReceiptRepeated):
        follow_chain(KNOWN, START, FIRST)


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (following, MalformedJson),  # no certificate
        (lambda: beginning(time=AT + 7200), CertificateExpired),
        (lambda: beginning(prev=b"x" * 32), ReceiptMissing),
        (lambda: beginning(who=identity(uri=a.BIKE.replace("device", "proxy") + "/x")), AttestdError),
        (lambda: beginning(who=identity(uri="spiffe://example.org/admin/edge-1")), NotAnEdge),
        (lambda: beginning(who=identity(uri="spiffe://example.org/service/attestd")), NotAnEdge),
        (lambda: beginning(who=identity(issuer=a.ca("other", key=a.STRANGER_KEY))), CertificateRefused),
    ],
)  # fmt: skip
def test_what_begins_no_chain(made, error):
    with pytest.raises(error):
        begin_chain(made(), authorities=AUTHORITIES)


def test_a_device_begins_no_chain():
    leaf = a.leaf(key=EDGE_KEY)
    receipt = Receipt(CHAIN, 0, NOTHING, AT, Beginning("start"))
    jws = sign_receipt(receipt, kid=WHO.kid, sign=a.es256(EDGE_KEY), certificates=(leaf, a.ISSUER.der))
    with pytest.raises(NotAnEdge):
        begin_chain(jws, authorities=AUTHORITIES)


def test_another_kids_name_begins_no_chain():
    receipt = Receipt(CHAIN, 0, NOTHING, AT, Beginning("start"))
    jws = sign_receipt(receipt, kid="another", sign=a.es256(EDGE_KEY), certificates=WHO.chain)
    with pytest.raises(KeyOfAnotherChain):
        begin_chain(jws, authorities=AUTHORITIES)


def test_a_beginning_signed_by_another_key_than_its_certificates():
    receipt = Receipt(CHAIN, 0, NOTHING, AT, Beginning("start"))
    jws = sign_receipt(receipt, kid=WHO.kid, sign=a.es256(a.STRANGER_KEY), certificates=WHO.chain)
    with pytest.raises(SignatureWrong):
        begin_chain(jws, authorities=AUTHORITIES)


@pytest.mark.parametrize(("member", "value", "error"), [
    ("alg", "none", AlgorithmNotAllowed), ("typ", "JWT", TypeConfused), ("crit", ["x"], MalformedInput),
])  # fmt: skip
def test_headers(member, value, error):
    header = {"alg": "ES256", "typ": RECEIPT_TYP, "kid": WHO.kid, member: value}
    payload = b64decode(following().split(".")[1])
    with pytest.raises(error):
        follow_chain(KNOWN, START, a.compact(header, payload, a.es256(EDGE_KEY)))


@pytest.mark.parametrize(
    "lie",
    [
        {"v": 2}, {"chain": "../" + "0" * 29}, {"seq": -1}, {"seq": True}, {"prev": b64encode(b"x" * 31)}, {"time": -1},
        {"time": 1 << 60}, {"more": 1}, {"omitted": -1}, {"crossing": ...}, {"begin": {"why": "start"}},
        {"crossing": {}},
    ],
)  # fmt: skip
def test_payloads(lie):
    rewritten(following())
    with pytest.raises(MalformedInput):
        follow_chain(KNOWN, START, rewritten(following(), **lie))


@pytest.mark.parametrize(
    "lie",
    [
        {"decision": "perhaps"}, {"who": ...}, {"policy_version": ...}, {"problem": "x"}, {"decision": "deny"},
        {"problem": "No Such"}, {"request_id": ...}, {"boundary": {}}, {"digest": "AAAA"}, {"bundle": {"epoch": 1}},
        {"token": "x"},
    ],
)  # fmt: skip
def test_crossings_that_say_nothing_sure(lie):
    honest = crossed().to_members()
    follow_chain(KNOWN, START, rewritten(following(), crossing=honest))
    with pytest.raises(MalformedInput):
        follow_chain(KNOWN, START, rewritten(following(), crossing=a.without({**honest, **lie})))


@pytest.mark.parametrize("lie", [{"why": "because"}, {"after": {"chain": CHAIN, "seq": 1}}, {"more": 1}])
def test_beginnings_that_say_nothing_sure(lie):
    members = write_object({"v": 1, "chain": CHAIN, "seq": 0, "prev": b64encode(NOTHING), "time": AT,
                            "begin": {"why": "start", **lie}})  # fmt: skip
    with pytest.raises(MalformedInput):
        Receipt.parse(members)


def test_the_first_receipt_is_a_beginning_and_no_other_is():
    first = Receipt(CHAIN, 0, NOTHING, AT, Beginning("start"))
    for wrong in (replace(first, seq=1), replace(first, said=crossed())):
        with pytest.raises(ReceiptMalformed):
            Receipt.parse(wrong.to_bytes())


def test_who_only_looks_believes_nothing():
    assert read_unverified(following(key=a.STRANGER_KEY)).said == crossed()
    for text in ("", "a.b", "a.b.c", "x" * (1 << 20)):
        with pytest.raises(AttestdError):
            read_unverified(text)


def test_a_beginning_with_a_chain_of_certificates_fits_its_header():
    assert len(FIRST.split(".")[0]) < 4096
    assert isinstance(crossed(), Crossed)
    assert isinstance(crossed().who, SpiffeId)
