"""The audit trail: in the transaction that acts, and read page by page."""

from __future__ import annotations

import pytest

from attestd.registry import audit
from attestd.registry.audit import AuditRecord
from attestd.registry.engine import Connection, Registry
from attestd.registry.states import State

from .conftest import NOW, Fleet


def append(c: Connection, number: int, subject: str = "till-1") -> None:
    audit.append(
        c, at=NOW + number, actor="ada", act="approve", subject=subject, request_id=None, detail={"number": number}
    )


def test_what_is_recorded(registry: Registry) -> None:
    with registry.acting() as c:
        audit.append(
            c, at=NOW, actor="ada", act="approve", subject="till-1", request_id="r-1", detail={"a": [1, {"ü": None}]}
        )
    with registry.reading() as c:
        assert audit.page(c) == [AuditRecord(1, NOW, "ada", "approve", "till-1", "r-1", {"a": [1, {"ü": None}]})]


def test_an_act_that_fails_is_not_recorded(fleet: Fleet) -> None:
    before = fleet.everything()
    with pytest.raises(RuntimeError), fleet.registry.acting() as c:
        fleet.ask(c, b"EK")
        append(c, 1)
        raise RuntimeError
    assert fleet.everything() == before


def test_pages(registry: Registry) -> None:
    with registry.acting() as c:
        for number in range(1, 8):
            append(c, number, "till-1" if number % 2 else "till-2")

        def numbers(**members: object) -> list[int]:
            return [record.number for record in audit.page(c, **members)]  # type: ignore[arg-type]

        assert numbers() == [7, 6, 5, 4, 3, 2, 1]
        assert numbers(limit=3) == [7, 6, 5]
        assert numbers(limit=3, before=5) == [4, 3, 2]
        assert numbers(subject="till-2") == [6, 4, 2]
        assert numbers(subject="till-2", before=4) == [2]
        assert numbers(after=0, limit=3) == [1, 2, 3]
        assert numbers(after=3, limit=3) == [4, 5, 6]
        assert numbers(after=3, subject="till-2") == [4, 6]
        assert numbers(after=7) == []


def test_the_registry_itself_puts_no_ek_hash_into_the_trail(fleet: Fleet) -> None:
    """Its functions write no audit rows at all: callers do, with the device's id as the subject."""
    for state in State:
        fleet.device(state)
    with fleet.registry.reading() as c:
        assert audit.page(c) == []
