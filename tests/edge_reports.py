"""An edge's reports, written without the edge."""

from __future__ import annotations

from typing import Any

from tests.service import START

LEDGER = "1" * 32
AT = int(START.timestamp())


def edge_report(sequence: int = 1, **lies: Any) -> dict[str, Any]:
    """Three crossings of "field": two that were allowed, one that was not."""
    honest: dict[str, Any] = {
        "v": 1,
        "ledger": LEDGER,
        "sequence": sequence,
        "since": AT - 10,
        "until": AT,
        "bundle": {"epoch": 1, "version": 1, "issued_at": AT},
        "counts": {"field": {"allowed": 2, "refused": {"no-credential": 1}}},
        "receipts_waiting": 0,
        "stale_for": {"field": 0},
    }
    return honest | lies
