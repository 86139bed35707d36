"""Statements that are compiled once: the same values in, the same rows out, the same errors as Core's."""

from __future__ import annotations

import pytest
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from attestd.registry.engine import Registry, is_unique_violation
from attestd.registry.statements import Statement
from attestd.registry.tables import audit, counters

_ROW = {"at": 1, "actor": "a", "act": "b", "subject": "c", "request_id": None, "detail": {"x": [1, None], "ä": True}}
_INSERT = Statement(insert(audit).inline(), columns=tuple(_ROW))
_FIND = Statement(select(audit).where(audit.c.subject == bindparam("wanted")))
_COUNT = Statement(insert(counters).inline(), columns=("name", "value"))
_SET = Statement(
    update(counters).where(counters.c.name == "epoch").values(value=bindparam("new")).returning(counters.c.value)
)


def test_what_goes_in_comes_out_as_core_reads_it(registry: Registry) -> None:
    with registry.acting() as c:
        assert _INSERT.change(c, _ROW) == 1
        found = _FIND.one_or_none(c, {"wanted": "c"})
        assert found._asdict() == dict(c.execute(select(audit)).one()._mapping)
        assert found.detail == _ROW["detail"]
        assert _FIND.one_or_none(c, {"wanted": "nobody"}) is None


def test_what_the_statement_sets_itself_stays(registry: Registry) -> None:
    with registry.acting() as c:
        assert _SET.one_or_none(c, {"new": 7}).value == 7
        assert c.execute(select(counters.c.value).where(counters.c.name == "epoch")).scalar_one() == 7


def test_a_parameter_that_is_missing_is_no_null(registry: Registry) -> None:
    with registry.acting() as c:
        with pytest.raises(KeyError):
            _COUNT.change(c, {"name": "new"})
        with pytest.raises(KeyError):
            _INSERT.change(c, {name: value for name, value in _ROW.items() if name != "detail"})


class Seen(Exception):
    """Ends an act after a statement of it failed, as PostgreSQL wants."""


def test_errors_are_core_s_and_tell_no_values(registry: Registry) -> None:
    with registry.acting() as c:
        _COUNT.change(c, {"name": "new", "value": 1})
    with pytest.raises(Seen), registry.acting() as c:
        with pytest.raises(IntegrityError) as error:
            _COUNT.change(c, {"name": "new", "value": 123456})
        assert is_unique_violation(error.value)
        assert "123456" not in str(error.value)
        raise Seen


def test_it_runs_within_the_act_that_core_runs_in(registry: Registry) -> None:
    with pytest.raises(RuntimeError), registry.acting() as c:
        _COUNT.change(c, {"name": "new-1", "value": 1})
        c.execute(insert(counters).values(name="new-2", value=1))
        raise RuntimeError
    with registry.reading() as c:
        assert not c.execute(select(counters).where(counters.c.name.like("new-%"))).all()
