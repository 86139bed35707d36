"""Receipts of crossings: how edges deliver them, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestd.credentials.receipts import MAX_RECEIPT, WHYS
from attestd.operations.receipts import MAX_RECEIPTS
from attestd.web.description.described import Described
from attestd.web.description.words import (
    CHAIN,
    COUNT,
    LIMIT,
    NUMBER,
    SEGMENT,
    TIMES,
    Schema,
    answer,
    closed,
    list_of,
    message,
    octets,
    or_null,
    text,
)

DESCRIBED: Final[Mapping[str, Described]] = {
    "POST /v1/receipts": Described(
        "An edge's receipts, in their order; none: which one is wanted next",
        {200: "ReceiptsAnswer"},
        "ReceiptsMessage",
        refusals=frozenset({403, 409}),
    ),
    "GET /v1/admin/receipts": Described(
        "What crossed at edges, in the order in which it was delivered",
        {200: "Receipts"},
        query={
            "edge": text(200),
            "chain": text(200),
            "boundary": text(200),
            "device": text(200),
            "since": NUMBER,
            "after": NUMBER,
            "limit": LIMIT,
        },
    ),
    "GET /v1/admin/receipts/chains": Described(
        "Chains of receipts, and where each stands",
        {200: "ReceiptChains"},
        query={"edge": text(200), "chain": text(200), "after": text(200), "limit": LIMIT},
    ),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "ReceiptsMessage": message(
        {"chain": CHAIN, "receipts": list_of(text(MAX_RECEIPT), MAX_RECEIPTS)},
        lost={"type": "boolean", "description": "the edge has none of those that are left out"},
    ),
    "ReceiptsAnswer": answer(next=COUNT),
    "Receipts": answer(
        receipts=list_of(
            closed(
                {
                    "number": COUNT,
                    "chain": CHAIN,
                    "seq": COUNT,
                    "edge": SEGMENT,
                    "received_at": TIMES,
                    "jws": text(MAX_RECEIPT),
                }
            ),
            1000,
        ),
        after=or_null(COUNT),
    ),
    "ReceiptChains": answer(
        chains=list_of(
            closed(
                {
                    "chain": CHAIN,
                    "edge": SEGMENT,
                    "site": SEGMENT,
                    "why": {"enum": list(WHYS)},
                    "began_at": TIMES,
                    "next": COUNT,
                    "digest": octets(32, least=32),
                    "last_at": TIMES,
                    "heard_at": TIMES,
                    "lost": list_of({**list_of(COUNT, 2), "minItems": 2}),
                    "beginning": text(MAX_RECEIPT),
                }
            ),
            1000,
        ),
        after=or_null(CHAIN),
    ),
}
