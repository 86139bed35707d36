"""Reference manifests by versions and stages, what watched ones say, and whom one would decide about."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, update

from attestd.appraisal.manifests import Match
from attestd.ids import DeviceId, Tier
from attestd.registry import references
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.references import ReferencesRaced, StoredManifest, UnknownManifest
from attestd.registry.states import State
from attestd.registry.tables import devices, watched

from .conftest import NOW, Fleet

DAY = 86400


def add(c: Connection, stage: str = "enforce", *, digest: str = "", now: int = NOW, **members: Any) -> StoredManifest:
    found = {"name": "bike-4", "document": b'{"x":1}', "added_by": "ada", "overlap": DAY, **members}
    return references.add(c, stage=stage, digest=digest or f"{stage}-{now}", now=now, **found)


def counting(c: Connection, now: int) -> list[int]:
    return [stored.number for stored in references.in_force(c, now=now)]


# ---- Versions ---------------------------------------------------------------------------------------------------


def test_a_version_as_it_was_added(registry: Registry) -> None:
    document = b'{"name":"bike-4"}' * 1000
    with registry.acting() as c:
        stored = add(c, digest="d", document=document)
    with registry.reading() as c:
        assert references.by_number(c, stored.number) == stored == references.by_digest(c, "d")
        assert references.in_force(c, now=NOW) == [stored]
        (listed,) = references.page(c)
    assert (stored.document, stored.until, listed.document) == (document, None, b"")
    assert (listed.number, listed.digest) == (stored.number, "d")


def test_what_is_not_there(registry: Registry) -> None:
    with registry.acting() as c:
        assert references.by_digest(c, "d") is None
        with pytest.raises(UnknownManifest):
            references.by_number(c, 7)
        with pytest.raises(UnknownManifest):
            references.withdraw(c, 7, now=NOW)


def test_a_version_that_decides_overlaps_with_the_one_before(registry: Registry) -> None:
    with registry.acting() as c:
        first, second = add(c), add(c, now=NOW + 10)
        assert counting(c, NOW + 10 + DAY - 1) == [first.number, second.number]
        assert counting(c, NOW + 10 + DAY) == [second.number]


def test_without_an_overlap_the_one_before_ends_at_once(registry: Registry) -> None:
    with registry.acting() as c:
        first, second = add(c), add(c, now=NOW + 10, overlap=0)
        assert counting(c, NOW + 9) == [first.number, second.number]
        assert counting(c, NOW + 10) == [second.number]


def test_an_overlap_shortens_another_and_never_prolongs_it(registry: Registry) -> None:
    with registry.acting() as c:
        first = add(c)
        add(c, now=NOW + 1)
        add(c, now=NOW + 2, overlap=9 * DAY)
        assert references.by_number(c, first.number).until == NOW + 1 + DAY
        add(c, now=NOW + 3, overlap=5)
        assert references.by_number(c, first.number).until == NOW + 8


def test_another_name_is_left_alone(registry: Registry) -> None:
    with registry.acting() as c:
        first, second = add(c), add(c, name="cart-1", overlap=0)
        assert counting(c, NOW + 1) == [first.number, second.number]


@pytest.mark.parametrize(
    ("before", "after", "still"),
    [
        ("learn", "learn", False),
        ("learn", "monitor", False),
        ("learn", "enforce", False),
        ("monitor", "monitor", False),
        ("monitor", "enforce", False),
        ("monitor", "learn", True),
        ("enforce", "learn", True),
        ("enforce", "monitor", True),  # the next version is tried beside the one that decides
    ],
)
def test_what_a_version_at_one_stage_ends_at_others(registry: Registry, before: str, after: str, still: bool) -> None:
    with registry.acting() as c:
        first, second = add(c, before), add(c, after, now=NOW + 1)
        assert counting(c, NOW + 1) == ([first.number] if still else []) + [second.number]
        assert (references.by_number(c, first.number).until is None) is still


def test_a_document_that_comes_back_counts_once(registry: Registry) -> None:
    with registry.acting() as c:
        first = add(c, digest="same")
        second = add(c, digest="other", now=NOW + 1)
        again = add(c, digest="same", now=NOW + 2)
        assert counting(c, NOW + 2) == [second.number, again.number]
        found = references.by_digest(c, "same")
        assert found is not None
        assert (found.number, references.by_number(c, first.number).until) == (again.number, NOW + 2)


def test_withdrawing(registry: Registry) -> None:
    with registry.acting() as c:
        first, second = add(c), add(c, now=NOW + 1)
        assert references.withdraw(c, second.number, now=NOW + 2).until == NOW + 2
        assert counting(c, NOW + 2) == [first.number]
        with pytest.raises(UnknownManifest):
            references.withdraw(c, second.number, now=NOW + 2)
        references.withdraw(c, first.number, now=NOW + 3)  # also one that was to end later
        assert counting(c, NOW + 3) == []


def test_pages(registry: Registry) -> None:
    with registry.acting() as c:
        numbers = [add(c, now=NOW + n, overlap=0).number for n in range(4)]
        assert [each.number for each in references.page(c, limit=2)] == numbers[:1:-1]
        assert [each.number for each in references.page(c, before=numbers[2], limit=9)] == numbers[1::-1]
        assert [each.number for each in references.page(c, counting_at=NOW + 9)] == [numbers[3]]


def test_each_change_is_noticed(registry: Registry) -> None:
    with registry.acting() as c:
        seen = [references.version(c)]
        stored = add(c)
        seen.append(references.version(c))
        references.withdraw(c, stored.number, now=NOW)
        seen.append(references.version(c))
    assert seen[0] < seen[1] < seen[2]


def test_a_change_by_somebody_who_saw_what_is_there(registry: Registry) -> None:
    with registry.acting() as c:
        add(c)
        seen = references.version(c)
        references.begin_change(c, seen=seen)
    with pytest.raises(ReferencesRaced), registry.acting() as c:
        references.begin_change(c, seen=seen)
    with registry.reading() as c:
        assert references.version(c) == seen + 1


# ---- What watched ones say --------------------------------------------------------------------------------------


def say(registry: Registry, device: Device, *reasons: str, digest: str = "w", now: int = NOW) -> None:
    registry.act(*references.watching(device.id, digest, reasons, now=now))


def test_what_a_watched_manifest_said_last(registry: Registry, fleet: Fleet) -> None:
    one, two, three = (fleet.device(State.ACTIVE) for _ in range(3))
    say(registry, one, "PCR 0 is odd.")
    say(registry, one, "PCR 7 is odd.", "And more.", now=NOW + 5)
    say(registry, two, "x")
    say(registry, two)  # it holds now
    say(registry, three, "x", digest="another")
    with registry.reading() as c:
        total, (said,) = references.would_refuse(c, "w")
    assert (total, said.device_id, said.at, said.reasons) == (1, one.id, NOW + 5, ("PCR 7 is odd.", "And more."))


def test_devices_that_are_not_active_are_not_counted(registry: Registry, fleet: Fleet) -> None:
    for state in (State.QUARANTINED, State.RETIRED, State.PENDING):
        say(registry, fleet.device(state), "x")
    with registry.reading() as c:
        assert references.would_refuse(c, "w") == (0, [])


def test_pages_of_refusals(registry: Registry, fleet: Fleet) -> None:
    ids = sorted(str(device.id) for device in (fleet.device(State.ACTIVE) for _ in range(3)))
    for device_id in ids:
        registry.act(*references.watching(DeviceId(device_id), "w", ["x"], now=NOW))
    with registry.reading() as c:
        total, found = references.would_refuse(c, "w", limit=2)
        assert (total, [each.device_id for each in found]) == (3, ids[:2])
        total, found = references.would_refuse(c, "w", after=DeviceId(ids[1]), limit=2)
        assert (total, [each.device_id for each in found]) == (3, ids[2:])


def test_forgetting_what_manifests_said_that_count_no_longer(registry: Registry, fleet: Fleet) -> None:
    one, two = fleet.device(State.ACTIVE), fleet.device(State.ACTIVE)
    with registry.acting() as c:
        stored = add(c, "monitor", digest="w")
    for device in (one, two):
        say(registry, device, "x")
        say(registry, device, "x", digest="of nobody")
    with registry.acting() as c:
        assert references.purge_watched(c, now=NOW, limit=1) == 1
        assert references.purge_watched(c, now=NOW, limit=9) == 1
        assert references.purge_watched(c, now=NOW, limit=9) == 0
        references.withdraw(c, stored.number, now=NOW)
        assert references.purge_watched(c, now=NOW, limit=9) == 2
        assert c.execute(select(func.count()).select_from(watched)).scalar_one() == 0


# ---- Whom one would decide about --------------------------------------------------------------------------------


def change(registry: Registry, device: Device, **values: Any) -> None:
    with registry.acting() as c:
        c.execute(update(devices).where(devices.c.id == device.id).values(**values))


def ids(c: Connection, match: Match = Match(), **wanted: Any) -> list[str]:  # noqa: B008
    return [str(each.device_id) for each in references.affected(c, match, **wanted)[0]]


def test_active_devices_that_a_match_fits(registry: Registry, fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    fleet.device(State.QUARANTINED)
    fleet.device(State.PENDING)
    change(registry, device, labels={"ring": "canary"}, result={"status": "affirming", "policies": ["a@sha256:1"]})
    fits = [
        Match(),
        Match(tier=Tier.DEVICE),
        Match(manufacturer="IFX"),
        Match(model="SLB9670"),
        Match(labels={"ring": "canary"}),
    ]
    others = [
        Match(tier=Tier.EDGE),
        Match(manufacturer="STM"),
        Match(model="SLB9672"),
        Match(labels={"ring": "stable"}),
        Match(labels={"image": "1"}),
    ]
    with registry.reading() as c:
        assert [ids(c, match) for match in fits] == [[device.id]] * len(fits)
        assert [ids(c, match) for match in others] == [[]] * len(others)
        ((found,), end) = references.affected(c, Match())
    assert (found.status, found.policies, end) == ("affirming", frozenset({"a@sha256:1"}), None)


def test_those_that_a_watched_one_would_refuse_and_those_of_which_nothing_is_known(
    registry: Registry, fleet: Fleet
) -> None:
    bad, late, never, good = (fleet.device(State.ACTIVE) for _ in range(4))
    say(registry, bad, "x", now=NOW - 9)
    change(registry, bad, attested_at=NOW - 10)
    change(registry, late, attested_at=NOW)
    change(registry, never, attested_at=None, result=None)
    change(registry, good, attested_at=NOW + 1)
    with registry.reading() as c:
        assert ids(c, refused_by="w") == [bad.id]
        assert ids(c, refused_by="another") == []
        assert set(ids(c, refused_by="w", unheard_since=NOW)) == {late.id, never.id}


def test_pages_of_devices(registry: Registry, fleet: Fleet) -> None:
    made = sorted((fleet.device(State.ACTIVE) for _ in range(3)), key=lambda device: str(device.id))
    change(registry, made[1], labels={"ring": "canary"})
    with registry.reading() as c:
        found, after = references.affected(c, Match(labels={"ring": "canary"}), limit=2)
        assert ([each.device_id for each in found], after) == ([made[1].id], made[1].id)
        found, after = references.affected(c, Match(), after=after, limit=2)
        assert ([each.device_id for each in found], after) == ([made[2].id], None)


def test_steps_are_part_of_an_act(registry: Registry, fleet: Fleet) -> None:
    device = fleet.device(State.ACTIVE)
    with registry.acting() as c:
        perform(c, *references.watching(device.id, "w", ["x"], now=NOW))
        assert references.would_refuse(c, "w")[0] == 1
