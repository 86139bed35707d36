"""Edges deliver receipts: what is their own, whole and in order is taken, once; all else is named and written down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.credentials.receipts import NOTHING, Beginning, Crossed, Receipt, digest_of, sign_receipt
from attestd.ids import SpiffeId
from attestd.protocol.encoding import b64decode
from attestd.registry import audit, receipts
from attestd.upkeep.retention import sweep
from tests.edge_receipts import WHERE, refused
from tests.service import TRUST_DOMAIN, World, problem

CHAIN = "a" * 32


def crossed(number: int) -> Crossed:
    return Crossed(
        where=WHERE, allowed=True, request_id=f"request-{number}", who=SpiffeId.parse(
            f"spiffe://{TRUST_DOMAIN}/device/shop-1/bike-{number % 2}"
        ), credential="17", method="GET", path="/", policies=("p",), policy_version=1, bundle=(1, 1),
    )  # fmt: skip


class Writer:
    """An edge's chain, written without the edge."""

    def __init__(self, world: World, caller=None, *, chain: str = CHAIN, **lies: Any) -> None:
        self.caller = caller or world.proxy
        self.key = self.caller.key
        self.time = int(world.clock().timestamp())
        chain_pem = self.caller.post("/v1/proxies/renewals", {"v": 1}).get_json()["chain"]
        certificates = [
            one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(chain_pem.encode())
        ]  # fmt: skip
        self.chain = chain
        first = Receipt(chain, 0, NOTHING, self.time, Beginning("start"))
        self.lines = [self.signed(replace(first, **lies), certificates=certificates)]

    def signed(self, receipt: Receipt, **more: Any) -> str:
        return sign_receipt(receipt, kid=self.key.thumbprint, sign=self.key.sign, **more)

    def write(self, count: int = 1, **lies: Any) -> list[str]:
        """The next receipts."""
        for _ in range(count):
            number = len(self.lines)
            honest = {"chain": self.chain, "seq": number, "prev": digest_of(self.lines[-1]), "time": self.time}
            self.lines.append(self.signed(Receipt(**{**honest, "said": crossed(number), **lies})))
        return self.lines[-count:]

    def deliver(self, lines: list[str], *, caller=None, **more: Any):
        message = {"v": 1, "chain": self.chain, "receipts": lines, **more}
        return (caller or self.caller).post("/v1/receipts", message)


@pytest.fixture
def writer(world: World) -> Writer:
    return Writer(world)


def rows(world: World, act: str) -> list[dict[str, Any]]:
    with world.registry.reading() as c:
        return [dict(row.detail) for row in audit.page(c, subject=CHAIN, limit=1000) if row.act == act]


def stored(world: World) -> list[str]:
    with world.registry.reading() as c:
        return [one.jws for one in receipts.page(c, limit=1000)]


def test_a_chain_is_taken_and_anchored(world: World, writer: Writer) -> None:
    writer.write(3)
    answer = writer.deliver(writer.lines)
    assert (answer.status_code, answer.get_json()) == (200, {"v": 1, "next": 4})
    assert stored(world) == writer.lines
    (row,) = rows(world, "receive-receipts")
    assert (row["edge"], row["first"], row["last"], row["count"]) == ("proxy-1", 0, 3, 4)
    assert b64decode(row["digest"]) == digest_of(writer.lines[3])
    assert writer.deliver(writer.write(2)).get_json()["next"] == 6
    assert stored(world) == writer.lines
    assert len(rows(world, "receive-receipts")) == 2


def test_what_is_here_is_taken_again_without_a_word(world: World, writer: Writer) -> None:
    writer.write(5)
    assert writer.deliver(writer.lines[:4]).status_code == 200
    for lines, wanted in ((writer.lines[:4], 4), (writer.lines[2:4], 4), (writer.lines[2:], 6), ([], 6)):
        assert writer.deliver(lines).get_json() == {"v": 1, "next": wanted}
    assert stored(world) == writer.lines
    assert len(rows(world, "receive-receipts")) == 2


def test_an_unknown_chain_wants_its_beginning(world: World, writer: Writer) -> None:
    assert writer.deliver([]).get_json() == {"v": 1, "next": 0}
    assert stored(world) == []


def lost(writer: Writer) -> list[str]:
    writer.write(2)
    return [writer.lines[0], writer.lines[2]]


@pytest.mark.parametrize(
    ("make", "status", "name"),
    [
        (lambda w: w.write(2)[1:], 409, "receipt-missing"),
        (lambda w: [w.lines[0], *w.write(2)[1:]], 409, "receipt-missing"),
        (lambda w: [w.lines[0], *reversed(w.write(2))], 409, "receipt-missing"),
        (lambda w: [w.lines[0], *w.write(prev=b"x" * 32)], 409, "chain-refused"),
        (lambda w: [w.lines[0], *w.write(time=5)], 409, "chain-refused"),
        (lambda w: [w.lines[0], *w.write(chain="b" * 32)], 409, "chain-refused"),
        (lambda w: [w.lines[0], w.write()[0][:-4] + "AAAA"], 409, "chain-refused"),
        (lambda w: [w.lines[0], "x.y.z"], 409, "chain-refused"),
        (lambda w: [w.lines[0], w.lines[0]], 409, "chain-refused"),
        (lambda w: w.write(seq=0, said=Beginning("start"), prev=NOTHING), 409, "chain-refused"),
    ],
)
def test_what_is_wrong_is_refused_whole_and_written_down(world: World, writer: Writer, make, status, name) -> None:
    answer = writer.deliver(make(writer))
    assert (answer.status_code, problem(answer)) == (status, name)
    assert stored(world) == []
    assert [row["problem"] for row in rows(world, "refuse-receipts")] == [name]


def test_a_fork_is_named(world: World, writer: Writer) -> None:
    writer.write(3)
    assert writer.deliver(writer.lines[:3]).status_code == 200
    for place in (1, 2):  # one in between, and the last
        fork = Writer(world)
        fork.lines = writer.lines[:place]
        other = fork.write(said=refused())
        assert problem(writer.deliver(other)) == "chain-forked"
    # One that goes on from another past than ours is seen by its `prev`.
    fork.lines = writer.lines[:3]
    assert problem(writer.deliver(fork.write(prev=b"y" * 32))) == "chain-refused"
    assert stored(world) == writer.lines[:3]
    named = ["chain-refused", "chain-forked", "chain-forked"]
    assert [row["problem"] for row in rows(world, "refuse-receipts")] == named


def test_a_receipt_signed_by_another_key_is_refused(world: World, writer: Writer) -> None:
    assert writer.deliver(writer.lines).status_code == 200
    other = Writer(world, world.new_caller("proxy", "proxy-2"), chain="b" * 32)
    other.chain, other.lines = CHAIN, writer.lines[:1]
    assert problem(writer.deliver(other.write())) == "chain-refused"
    assert problem(other.deliver(writer.write())) == "chain-of-another-edge"


def test_an_edge_delivers_its_own_alone(world: World, writer: Writer) -> None:
    other = world.new_caller("proxy", "proxy-2")
    assert problem(writer.deliver(writer.lines, caller=other)) == "chain-of-another-edge"
    assert writer.deliver(writer.lines).status_code == 200
    answer = writer.deliver([], caller=other)
    assert (answer.status_code, problem(answer)) == (403, "chain-of-another-edge")


def test_a_stranger_and_an_operator_deliver_nothing(world: World, writer: Writer) -> None:
    assert problem(world.post("/v1/receipts", b"{}")) == "signature-missing"
    assert problem(writer.deliver(writer.lines, caller=world.admin)) == "role-too-low"
    world.admin.post("/v1/admin/proxies/proxy-1/disable", {"v": 1})
    assert problem(writer.deliver(writer.lines)) == "caller-disabled"


def test_what_the_edge_has_lost_is_written_down(world: World, writer: Writer) -> None:
    writer.write(9)
    assert writer.deliver(writer.lines[:3]).status_code == 200
    assert problem(writer.deliver(writer.lines[6:8])) == "receipt-missing"
    assert writer.deliver(writer.lines[6:8], lost=True).get_json()["next"] == 8
    assert writer.deliver(writer.lines[8:]).get_json()["next"] == 10
    (chain,) = world.viewer.get("/v1/admin/receipts/chains").get_json()["chains"]
    assert (chain["lost"], chain["next"]) == ([[3, 5]], 10)
    assert [row.get("lost") for row in rows(world, "receive-receipts")] == [None, [[3, 5]], None]


def test_a_chain_whose_beginning_alone_is_left(world: World, writer: Writer) -> None:
    writer.write(5)
    assert writer.deliver([writer.lines[0], *writer.lines[4:]], lost=True).get_json()["next"] == 6
    (chain,) = world.viewer.get("/v1/admin/receipts/chains").get_json()["chains"]
    assert chain["lost"] == [[1, 3]]


def test_receipts_from_the_future_are_held_back(world: World, writer: Writer) -> None:
    soon = int(world.clock().timestamp()) + 299
    assert writer.deliver([writer.lines[0], *writer.write(time=soon)]).status_code == 200
    answer = writer.deliver(writer.write(time=soon + 60))
    assert (answer.status_code, problem(answer)) == (409, "receipts-ahead-of-time")
    world.clock.advance(seconds=120)
    assert writer.deliver(writer.lines).status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        {"v": 1}, {"v": 1, "chain": "../x", "receipts": []}, {"v": 1, "chain": CHAIN, "receipts": "x"},
        {"v": 1, "chain": CHAIN, "receipts": [1]}, {"v": 1, "chain": CHAIN, "receipts": [], "lost": 1},
        {"v": 1, "chain": CHAIN, "receipts": [], "more": 1}, {"v": 1, "chain": CHAIN.upper(), "receipts": []},
    ],
)  # fmt: skip
def test_messages_that_say_nothing_sure(world: World, message: dict[str, Any]) -> None:
    assert world.proxy.post("/v1/receipts", message).status_code == 400


def test_auditors_find_them(world: World, writer: Writer) -> None:
    writer.write(4)
    writer.write(said=refused())
    assert writer.deliver(writer.lines).status_code == 200
    world.clock.advance(seconds=1)

    def found(query: str = "") -> list[int]:
        answer = world.viewer.get(f"/v1/admin/receipts{query}")
        assert answer.status_code == 200, answer.text
        return [one["seq"] for one in answer.get_json()["receipts"]]

    assert found() == [0, 1, 2, 3, 4, 5]
    assert found("?device=bike-0") == [2, 4]
    assert found("?boundary=field-to-munich") == [1, 2, 3, 4, 5]
    assert found("?boundary=other") == found("?edge=proxy-2") == found(f"?chain={'b' * 32}") == []
    assert found(f"?edge=proxy-1&chain={CHAIN}&limit=2") == [0, 1]
    assert found(f"?since={writer.time}") == [0, 1, 2, 3, 4, 5]
    assert found(f"?since={writer.time + 1}") == []
    after = world.viewer.get("/v1/admin/receipts?limit=4").get_json()["after"]
    assert found(f"?after={after}") == [4, 5]
    (chain,) = world.viewer.get("/v1/admin/receipts/chains?edge=proxy-1").get_json()["chains"]
    assert (chain["chain"], chain["site"], chain["why"], chain["next"]) == (CHAIN, "shop-1", "start", 6)
    assert chain["beginning"] == writer.lines[0]
    assert world.viewer.get("/v1/admin/receipts/chains?edge=x").get_json()["chains"] == []
    assert world.proxy.get("/v1/admin/receipts").status_code == 403


def test_old_ones_are_forgotten_and_the_chain_stays(world: World, writer: Writer) -> None:
    writer.write(2)
    assert writer.deliver(writer.lines).status_code == 200
    world.clock.advance(days=364)
    assert sweep(world.registry, world.service.settings, now=world.clock(), pause=lambda _: None).receipts == 0
    world.clock.advance(days=2)
    assert sweep(world.registry, world.service.settings, now=world.clock(), pause=lambda _: None).receipts == 3
    assert stored(world) == []
    with world.registry.reading() as c:
        chain = receipts.chain(c, CHAIN)
    assert chain is not None
    assert (chain.next, chain.digest) == (3, digest_of(writer.lines[-1]))


def test_of_two_deliveries_at_once_one_counts(world: World, writer: Writer) -> None:
    writer.write(1)
    assert writer.deliver(writer.lines).status_code == 200
    with world.registry.reading() as c:
        before = receipts.chain(c, CHAIN)
    assert before is not None
    with world.registry.acting() as c:
        receipts.advance(c, before, replace(before, next=3))
    with pytest.raises(receipts.DeliveredElsewhere), world.registry.acting() as c:
        receipts.advance(c, before, replace(before, next=3))
    with pytest.raises(receipts.DeliveredElsewhere), world.registry.acting() as c:
        receipts.begin(c, before)
