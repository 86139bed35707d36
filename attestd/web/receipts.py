"""Receipts: edges deliver them, auditors read them (docs/receipts.md)."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response

from attestd.callers import Caller
from attestd.ids import Site
from attestd.operations.receipts import Delivered, ReceiptBook
from attestd.protocol.encoding import b64encode
from attestd.registry import receipts
from attestd.registry.receipts import StoredChain, StoredReceipt
from attestd.web.admin_views import Query, answer
from attestd.web.bodies import read_message
from attestd.web.context import NoCaller, Service, exchange


@dataclass(frozen=True, slots=True)
class _Receipts:
    service: Service
    book: ReceiptBook

    def deliver(self) -> Response:
        """POST /v1/receipts"""
        current = exchange()
        delivered = Delivered.read(read_message(current.body))
        wanted = self.book.take(delivered, edge=current.caller.name, site=_site(current.caller), act=current.act())
        return answer({"next": wanted})

    def list(self) -> Response:
        """GET /v1/admin/receipts: in the order in which they came"""
        query = Query("edge", "chain", "boundary", "device", "since", "after", "limit")
        with self.service.registry.reading() as c:
            found = receipts.page(
                c,
                edge=query.text("edge"),
                chain=query.text("chain"),
                boundary=query.text("boundary"),
                device=query.text("device"),
                since=query.number("since"),
                after=query.number("after") or 0,
                limit=query.limit(),
            )
        # Large receipts end a page before its limit: who follows `after` goes on until there is nothing more.
        return answer({"receipts": [_receipt(one) for one in found], "after": found[-1].number if found else None})

    def chains(self) -> Response:
        """GET /v1/admin/receipts/chains"""
        query = Query("edge", "chain", "after", "limit")
        limit = query.limit()
        with self.service.registry.reading() as c:
            found = receipts.chains(
                c, edge=query.text("edge"), name=query.text("chain"), after=query.text("after") or "", limit=limit
            )
        return answer(
            {"chains": [_chain(one) for one in found], "after": found[-1].chain if len(found) == limit else None}
        )


def _site(caller: Caller) -> Site:
    if caller.site is None:
        raise NoCaller
    return caller.site


def _receipt(one: StoredReceipt) -> dict[str, object]:
    return {
        "number": one.number,
        "chain": one.chain,
        "seq": one.seq,
        "edge": one.edge,
        "received_at": one.received_at,
        "jws": one.jws,
    }


def _chain(one: StoredChain) -> dict[str, object]:
    return {
        "chain": one.chain,
        "edge": one.edge,
        "site": str(one.site),
        "why": one.why,
        "began_at": one.began_at,
        "next": one.next,
        "digest": b64encode(one.digest),
        "last_at": one.last_at,
        "heard_at": one.heard_at,
        "lost": [list(stretch) for stretch in one.lost],
        "beginning": one.beginning,
    }


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    book = ReceiptBook(service.settings.trust_domain, service.registry, service.certifying.hierarchy)
    door = _Receipts(service, book)
    routes = Blueprint("receipts", __name__)
    routes.post("/v1/receipts")(door.deliver)
    routes.get("/v1/admin/receipts")(door.list)
    routes.get("/v1/admin/receipts/chains")(door.chains)
    return routes
