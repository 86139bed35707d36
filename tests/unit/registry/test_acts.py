"""Acts that are known beforehand: all or nothing, whichever way they are carried out, and refused by name."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import bindparam, delete, insert, select, update

from attestd.errors import Conflict
from attestd.registry.acts import Step, perform
from attestd.registry.engine import Connection, DatabaseFailed, OpenedBeforeFork, Registry
from attestd.registry.statements import Statement
from attestd.registry.states import State
from attestd.registry.tables import audit, blocked_eks, counters, devices

from .conftest import Fleet

_PUT = Statement(insert(counters).inline(), columns=("name", "value"))
_RAISE = Statement(
    update(counters).where(counters.c.name == bindparam("wanted")).values(value=counters.c.value + bindparam("by"))
)
_RAISE_ALL = Statement(update(counters).values(value=counters.c.value + bindparam("by")))
_FIND = Statement(select(counters.c.value).where(counters.c.name == bindparam("wanted")))
_COPY = Statement(
    insert(counters)
    .inline()
    .from_select(
        ("name", "value"),
        select(bindparam("as_name", type_=counters.c.name.type), counters.c.value).where(
            counters.c.name == bindparam("wanted")
        ),
    )
)
_FORGET = Statement(delete(counters).where(counters.c.name == bindparam("wanted")))
_BLOCK = Statement(insert(blocked_eks).inline(), columns=blocked_eks.c.keys())
_NOTE = Statement(insert(audit).inline(), columns=("at", "actor", "act", "subject", "request_id", "detail"))


class Missing(Conflict):
    """Nothing was hit"""


class Taken(Conflict):
    """There is one already"""


def put(name: str, value: int = 1) -> Step:
    return Step(_PUT, {"name": name, "value": value}, taken=Taken)


def must(statement: Statement, **values: object) -> Step:
    return Step(statement, values, otherwise=lambda _: Missing())


def by_act(registry: Registry, *steps: Step) -> None:
    registry.act(*steps)


def by_steps(registry: Registry, *steps: Step) -> None:
    with registry.acting() as c:
        perform(c, *steps)


@pytest.fixture(params=[by_act, by_steps], ids=["act", "step by step"])
def carry_out(request: pytest.FixtureRequest) -> Callable[..., None]:
    return request.param  # type: ignore[no-any-return]


def test_all_of_it(registry: Registry, carry_out: Callable[..., None]) -> None:
    carry_out(
        registry,
        put("new-1", 5),
        must(_RAISE, wanted="new-1", by=2),
        must(_FIND, wanted="new-1"),
        must(_COPY, wanted="new-1", as_name="new-2"),
        must(_FORGET, wanted="new-1"),
        Step(_RAISE, {"wanted": "nobody", "by": 1}),  # any number of rows will do: none,
        Step(_RAISE_ALL, {"by": 10}),  # or all
    )
    with registry.reading() as c:
        found = {row.name: row.value for row in c.execute(select(counters))}
    assert {name: value for name, value in found.items() if name.startswith("new-")} == {"new-2": 17}
    assert found["epoch"] == 11


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (must(_RAISE, wanted="nobody", by=2), Missing),
        (must(_RAISE_ALL, by=2), Missing),  # too many
        (must(_FIND, wanted="nobody"), Missing),
        (must(_COPY, wanted="nobody", as_name="new-2"), Missing),
        (must(_FORGET, wanted="nobody"), Missing),
        (put("epoch"), Taken),
    ],
    ids=["update", "too many", "select", "insert", "delete", "taken"],
)
@pytest.mark.parametrize("last", [True, False])
def test_nothing_of_it(
    fleet: Fleet, carry_out: Callable[..., None], step: Step, error: type[Conflict], last: bool
) -> None:
    before = fleet.everything()
    with pytest.raises(error):
        carry_out(fleet.registry, put("new-1"), step, *(() if last else (put("new-2"), must(_FIND, wanted="new-1"))))
    assert fleet.everything() == before
    carry_out(fleet.registry, put("new-1"), must(_FIND, wanted="new-1"))


def test_the_first_refusal_is_the_one(registry: Registry, carry_out: Callable[..., None]) -> None:
    with pytest.raises(Missing):
        carry_out(registry, must(_FIND, wanted="nobody"), put("epoch"))
    with pytest.raises(Taken):
        carry_out(registry, put("epoch"), must(_FIND, wanted="nobody"))


def test_a_refusal_may_look_why(registry: Registry, carry_out: Callable[..., None]) -> None:
    def why(c: Connection) -> Missing:
        return Missing(seen=c.execute(select(counters.c.value).where(counters.c.name == "epoch")).scalar_one())

    with pytest.raises(Missing) as missing:
        carry_out(registry, Step(_RAISE, {"wanted": "nobody", "by": 1}, otherwise=why))
    assert missing.value.seen == "1"


def test_every_kind_of_value(registry: Registry, carry_out: Callable[..., None]) -> None:
    octets = bytes(range(256))
    note = {"at": -(1 << 62), "actor": "ä' \\", "act": "", "subject": State.ACTIVE, "request_id": None}
    detail = {"ä": [1, None, True, 0.5, "\\u0000"], "": {}}
    carry_out(
        registry,
        Step(_BLOCK, {"ek_hash": octets, "device_id": "%s", "reason": "$1", "at": (1 << 63) - 1}),
        Step(_NOTE, {**note, "detail": detail}),
    )
    with registry.reading() as c:
        assert c.execute(select(blocked_eks)).one() == (octets, "%s", "$1", (1 << 63) - 1)
        row = c.execute(select(audit)).one()
    assert (row.at, row.actor, row.act, row.subject, row.request_id) == (*list(note.values())[:3], "active", None)
    assert row.detail == detail


def test_a_value_that_is_missing_is_no_null(fleet: Fleet, carry_out: Callable[..., None]) -> None:
    before = fleet.everything()
    with pytest.raises(KeyError):
        carry_out(fleet.registry, put("new-1"), Step(_PUT, {"name": "new-2"}))
    assert fleet.everything() == before


@pytest.mark.parametrize("together", [0, 7])
def test_what_the_database_itself_refuses(fleet: Fleet, together: int) -> None:
    fleet.device(State.ACTIVE)
    errors: list[BaseException] = []

    def fail() -> None:
        try:
            fleet.registry.act(put("new-1"), Step(Statement(delete(devices)), {}))  # others refer to it
        except DatabaseFailed as error:
            errors.append(error)

    threads = [threading.Thread(target=fail)]
    threads += [threading.Thread(target=fleet.registry.act, args=(put(f"new-{n}"),)) for n in range(2, 2 + together)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(errors) == 1
    with fleet.registry.reading() as c:
        found = set(c.execute(select(counters.c.name).where(counters.c.name.like("new-%"))).scalars())
    assert found == {f"new-{n}" for n in range(2, 2 + together)}


def test_it_does_not_survive_a_fork(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(OpenedBeforeFork):
        registry.act(put("new"))
    with pytest.raises(OpenedBeforeFork):
        registry.ask(_FIND, {"wanted": "epoch"})


# ---- Many at once -----------------------------------------------------------------------------------------------


def test_of_many_that_want_the_same_one_wins_and_the_others_lose_nothing_else(registry: Registry) -> None:
    outcomes: list[tuple[int, bool]] = []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait(10)
        for turn in range(20):
            try:
                registry.act(put(f"new-{number}-{turn}"), put(f"shared-{turn}", number))
            except Taken:
                outcomes.append((turn, False))
            else:
                outcomes.append((turn, True))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 160
    assert sorted(turn for turn, won in outcomes if won) == list(range(20))
    with registry.reading() as c:
        found = {row.name: row.value for row in c.execute(select(counters))}
    own = {name for name in found if name.startswith("new-")}
    assert own == {f"new-{found[f'shared-{turn}']}-{turn}" for turn in range(20)}


# ---- Questions --------------------------------------------------------------------------------------------------


def test_asking(registry: Registry) -> None:
    assert registry.ask(_FIND, {"wanted": "epoch"}).value == 1
    assert registry.ask(_FIND, {"wanted": "nobody"}, to_act=True) is None
    with pytest.raises(KeyError):
        registry.ask(_FIND, {})
    registry.act(must(_RAISE, wanted="epoch", by=1))
    assert registry.ask(_FIND, {"wanted": "epoch"}).value == 2


def test_asking_changes_nothing(fleet: Fleet) -> None:
    changing = Statement(
        update(counters).where(counters.c.name == "epoch").values(value=bindparam("new")).returning(counters.c.value)
    )
    before = fleet.everything()
    with pytest.raises(Exception, match=r"read-?only"):
        fleet.registry.ask(changing, {"new": 7})
    assert fleet.everything() == before
