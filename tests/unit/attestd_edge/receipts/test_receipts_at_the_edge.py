"""A boundary that demands receipts: nothing crosses without one, and refusals get one where that is wanted."""

from __future__ import annotations

import asyncio
import threading
from types import MappingProxyType
from typing import Any

import pytest

from attestd.credentials.receipts import Crossed
from attestd.ids import SpiffeId
from attestd_edge.decide import Presented, Request
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.hop import Headers
from attestd_edge.problems import Refusal
from attestd_edge.receipts.crossings import claimed_digest
from attestd_edge.receipts.delivery import Delivery
from attestd_edge.receipts.spool import ReceiptNotKept
from attestd_edge.service import Service
from attestd_edge.settings import Guarded, Receipted, Settings, SettingsInvalid
from tests import authority as a
from tests.edge_receipts import WHERE, EdgeDisk

from ..test_edge_doors import AsgiClient, WsgiClient

LEAF = a.leaf()
DIGEST = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"


@pytest.fixture
def disk(store) -> EdgeDisk:
    return EdgeDisk(store.folder)


@pytest.fixture
def guarding(store, bundle, boundary, rules, disk):
    """`guarding(Receipted.ALL)` is an edge whose boundary demands that."""
    made: list[Edge] = []

    def guard(receipts: Receipted, *, keeper=None) -> Edge:
        store.adopt(a.signed_bundle(bundle()))
        guarded = Guarded(boundary, MappingProxyType({"class": "telemetry"}), receipts=receipts)
        made.append(
            Edge(
                store,
                tokens=rules,
                boundaries={boundary.name: guarded},
                make_delivery=lambda tallies: Delivery(
                    keeper or disk.keeper(), store, Service("https://127.0.0.1:1", roots=store.roots),
                    load_identity=lambda: disk.who, tallies=tallies,
                ),
            )
        )  # fmt: skip
        return made[-1]

    yield guard
    for edge in made:
        edge.stop()


def ask(edge: Edge, target: str = "/orders?key=secret", *, chain=(LEAF,), method="GET", **more: Any):
    request = Request(method, "https://shop.example.org", target, {"class": "telemetry"})
    asked = Asked(Presented(chain), request, **more)
    return edge.admit(edge.boundary("field-to-munich"), lambda: asked)


def said(edge: Edge, disk: EdgeDisk) -> list[Crossed]:
    edge.stop()  # refusals' receipts are written by then
    return [receipt.said for chain in disk.chains() for receipt in disk.receipts(chain)[1:]]


def test_what_crossed_has_a_receipt(guarding, disk):
    edge = guarding(Receipted.ALLOWED)
    answer = ask(edge, method="POST", request_id="request-1", digest_claimed=b"d" * 32)
    assert isinstance(answer, Admitted)
    assert said(edge, disk) == [
        Crossed(
            where=WHERE,
            allowed=True,
            request_id="request-1",
            who=SpiffeId.parse(a.BIKE),
            credential=answer.identity.credential_id,
            method="POST",
            path="/orders",
            labels={"class": "telemetry"},
            policies=("cross-at-home",),
            policy_version=edge.store.view().bundle.policy_version,
            bundle=(edge.store.view().bundle.epoch, edge.store.view().bundle.version),
            digest_claimed=b"d" * 32,
        )
    ]


def test_a_remembered_verdict_has_one_each_time(guarding, disk):
    edge = guarding(Receipted.ALLOWED)
    for _ in range(3):
        assert isinstance(ask(edge), Admitted)
    assert len(said(edge, disk)) == 3


def test_without_a_demand_there_are_none(guarding, disk):
    edge = guarding(Receipted.NOTHING)
    assert isinstance(ask(edge), Admitted)
    assert isinstance(ask(edge, chain=()), Refusal)
    assert disk.chains() == []
    assert b"receipts" not in edge.metrics.text()


@pytest.mark.parametrize(("receipts", "count"), [(Receipted.ALLOWED, 0), (Receipted.ALL, 4)])
def test_refusals_get_one_where_all_do(guarding, disk, receipts, count):
    edge = guarding(receipts)
    for refusal in (
        ask(edge, chain=()),
        ask(edge, "/a/../b"),
        ask(edge, chain=(a.leaf(uris=["spiffe://example.org/device/berlin/bike-1"]),)),
        edge.admit(edge.boundary("field-to-munich"), lambda: 1 // 0),
    ):
        assert isinstance(refusal, Refusal)
    found = said(edge, disk)
    assert len(found) == count
    if count:
        assert [one.problem for one in found] == [
            "no-credential", "path-ambiguous", "crossing-denied", "edge-failed",
        ]  # fmt: skip
        assert [one.who is None for one in found] == [True, True, False, True]
        assert [one.path for one in found] == ["/orders", "", "/orders", ""]
        assert not any(one.allowed for one in found)
        assert found[2].policy_version is not None


class Broken:
    """A keeper that keeps nothing."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def keep(self, _crossed) -> None:
        raise self.error

    def note(self, _crossed) -> None:
        raise self.error

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "slug"), [(ReceiptNotKept("No space left on device"), "receipt-not-kept"), (KeyError("x"), "edge-failed")]
)
def test_what_gets_none_does_not_cross(guarding, error, slug):
    edge = guarding(Receipted.ALL, keeper=Broken(error))
    for refusal in (ask(edge), asyncio.run(edge.admit_soon(edge.boundary("field-to-munich"), asked))):
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.slug) == (503, slug)
        assert b"space" not in refusal.body
    assert ask(edge, chain=()).slug == "no-credential"


def asked() -> Asked:
    return Asked(Presented((LEAF,)), Request("GET", "https://shop.example.org", "/orders", {}))


def test_an_edge_without_a_place_for_them_lets_nothing_cross(store, bundle, boundary, rules):
    store.adopt(a.signed_bundle(bundle()))
    guarded = Guarded(boundary, MappingProxyType({}), receipts=Receipted.ALLOWED)
    edge = Edge(store, tokens=rules, boundaries={boundary.name: guarded})
    assert ask(edge).slug == "receipt-not-kept"


def test_while_one_waits_for_the_disk_others_are_judged(guarding, disk):
    """An event loop is not held up: the receipts of what came meanwhile share one sync."""
    keeper = disk.keeper()
    edge = guarding(Receipted.ALLOWED, keeper=keeper)
    held = threading.Event()
    real = keeper._write
    writes: list[int] = []

    def write():
        assert held.wait(20)
        writes.append(len(keeper._queue))
        real()

    keeper._write = write

    async def cross() -> list[Any]:
        boundary = edge.boundary("field-to-munich")
        waiting = [asyncio.create_task(edge.admit_soon(boundary, asked)) for _ in range(30)]
        while len(keeper._queue) < 2:
            await asyncio.sleep(0)
        held.set()
        return await asyncio.gather(*waiting)

    assert all(isinstance(answer, Admitted) for answer in asyncio.run(cross()))
    keeper._write = real
    assert len(said(edge, disk)) == 30
    assert max(writes) > 1


@pytest.mark.parametrize("client", [WsgiClient, AsgiClient])
def test_the_middleware_keeps_them_with_the_claimed_digest(guarding, disk, client):
    edge = guarding(Receipted.ALLOWED)
    answer = client(edge).get(("Content-Digest", DIGEST), chain=(LEAF,))
    assert answer["status"] == 200
    (crossed,) = said(edge, disk)
    assert crossed.digest_claimed is not None
    assert crossed.digest_claimed.hex().startswith("e3b0c442")
    assert crossed.digest is None


@pytest.mark.parametrize(
    "values",
    [
        (), ("sha-256=:AAAA:",), ("sha-512=:AA==:",), (DIGEST.replace("sha-256", "xsha-256"),), (DIGEST, DIGEST),
        (f"{DIGEST}, {DIGEST}",), (DIGEST[:-1],), ("",),
    ],
)  # fmt: skip
def test_what_is_not_one_digest_is_no_claim(values):
    assert claimed_digest(Headers.of([("Content-Digest", value) for value in values])) is None


@pytest.mark.parametrize("values", [(DIGEST,), (f"sha-512=:AA==:, {DIGEST}",), (f"  {DIGEST} ",)])
def test_one_digest_is_one(values):
    assert claimed_digest(Headers.of([("Repr-Digest", value) for value in values])) is not None


def test_the_forward_auth_server_asks_for_them(tmp_path):
    """With the settings of a real edge, from its file."""
    from tests.edge_site import EdgeSite

    site = EdgeSite(tmp_path)
    site.configure(more='receipts = "all"\n[receipts]\noctets = 8388608\n')
    edge = Edge.from_file(site.config)
    assert edge.demands("field-to-munich")
    edge.stop()


def test_settings(tmp_path):
    from tests.edge_site import EdgeSite

    site = EdgeSite(tmp_path)
    for more, wanted, octets in (
        ("", Receipted.NOTHING, 256 << 20),
        ('receipts = "allowed"', Receipted.ALLOWED, 256 << 20),
        ('receipts = "all"\n[receipts]\noctets = 5000000', Receipted.ALL, 5000000),
    ):
        site.configure(more=more)
        settings = Settings.load(site.config)
        assert settings.boundaries["field-to-munich"].receipts is wanted
        assert settings.receipts_octets == octets
    for more in ('receipts = "some"', "receipts = true", "[receipts]\noctets = 100", "[receipts]\noctet = 5000000"):
        site.configure(more=more)
        with pytest.raises(SettingsInvalid):
            Settings.load(site.config)
