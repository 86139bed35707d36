"""Results and refusals over time: nothing is missing, added up or not, and what strangers fill is bounded."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from attestd.ids import DeviceId, Site
from attestd.registry import outcomes
from attestd.registry.acts import perform
from attestd.registry.engine import Registry
from attestd.registry.outcomes import EXAMPLES, KEPT, MAX_KINDS, OTHERS, STEP, Refusals, Results
from attestd.registry.tables import refusal_counts, refusals, result_counts, result_marks

pytestmark = pytest.mark.database
NOW = 1_800_000_000 - 1_800_000_000 % STEP


def fold(registry: Registry, now: int = NOW, limit: int = 3) -> None:
    for _ in range(1000):
        with registry.acting() as c:
            if outcomes.fold(c, now=now, limit=limit) < limit:
                return
    raise AssertionError("it never ends")


def test_results_are_counted_by_half_hours_before_and_after_they_are_added_up(registry: Registry) -> None:
    with registry.acting() as c:
        for at, status in ((NOW, "affirming"), (NOW + STEP - 1, "affirming"), (NOW + STEP, "warning")):
            perform(c, outcomes.marking(status, now=at))
    expected = [Results(NOW, "affirming", 2), Results(NOW + STEP, "warning", 1)]
    with registry.reading() as c:
        assert outcomes.results(c, since=NOW) == expected
        assert outcomes.results(c, since=NOW + STEP + 5) == expected[1:]
    fold(registry)
    with registry.acting() as c:
        assert outcomes.results(c, since=NOW) == expected
        assert c.execute(select(result_marks)).first() is None
        perform(c, outcomes.marking("affirming", now=NOW + 1))
    with registry.reading() as c:
        assert outcomes.results(c, since=NOW)[0] == Results(NOW, "affirming", 3)


def test_refusals_say_why_where_and_who(registry: Registry) -> None:
    with registry.acting() as c:
        for n in range(8):
            site = Site("a" if n < 5 else "b")
            perform(c, outcomes.refusing("attest", "kernel", site=site, device=DeviceId(f"d{n}"), now=NOW + n))
        perform(c, outcomes.refusing("enroll", "nonce-mismatch", site=None, device=None, now=NOW - STEP))
    fold(registry)
    with registry.reading() as c:
        kernel, stranger = outcomes.refused(c, since=NOW - STEP)
        assert outcomes.refused(c, since=NOW) == [kernel]
    assert (kernel.why, kernel.verb, kernel.count, kernel.last_at) == ("kernel", "attest", 8, NOW)
    assert list(kernel.sites) == [("a", 5), ("b", 3)]
    assert list(kernel.devices) == ["d0", "d1", "d2", "d3", "d4"]
    assert stranger == Refusals("nonce-mismatch", "enroll", 1, NOW - STEP, [], [])


def test_refusals_that_are_not_added_up_yet_are_seen(registry: Registry) -> None:
    with registry.acting() as c:
        perform(
            c, *outcomes.contraindicating("attest", ["One.", "Two."], site=Site("a"), device=DeviceId("d"), now=NOW)
        )
    with registry.reading() as c:
        assert outcomes.refused(c, since=NOW) == [Refusals("One; Two", "attest", 1, NOW, [("a", 1)], ["d"])]
        assert outcomes.results(c, since=NOW) == [Results(NOW, "contraindicated", 1)]


def test_what_a_half_hour_keeps_is_bounded(registry: Registry) -> None:
    with registry.acting() as c:
        for n in range(MAX_KINDS + 30):
            perform(c, outcomes.refusing("enroll", f"{n:04}" + "x" * 500, site=None, device=DeviceId("d"), now=NOW))
    fold(registry, limit=100)
    with registry.reading() as c:
        assert c.execute(select(func.count()).select_from(refusals)).scalar_one() == 0
        assert c.execute(select(func.count()).select_from(refusal_counts)).scalar_one() == MAX_KINDS + 1
        assert max(map(len, c.execute(select(refusal_counts.c.why)).scalars())) == 200
        assert outcomes.refused(c, since=NOW)[0].count == 30
        assert outcomes.refused(c, since=NOW)[0].why == OTHERS


def test_examples_are_few(registry: Registry) -> None:
    with registry.acting() as c:
        for n in range(20):
            perform(c, outcomes.refusing("attest", "x", site=None, device=DeviceId(f"d{n}"), now=NOW))
    fold(registry, limit=4)
    with registry.reading() as c:
        (found,) = outcomes.refused(c, since=NOW)
    assert (found.count, len(found.devices)) == (20, EXAMPLES)


def test_what_is_old_is_forgotten(registry: Registry) -> None:
    with registry.acting() as c:
        perform(c, *outcomes.contraindicating("attest", ["Old."], site=None, device=None, now=NOW))
    fold(registry)
    fold(registry, now=NOW + KEPT)
    with registry.reading() as c:
        assert c.execute(select(result_counts)).first() is not None
    fold(registry, now=NOW + KEPT + 1)
    with registry.reading() as c:
        assert c.execute(select(result_counts)).first() is None
        assert c.execute(select(refusal_counts)).first() is None
