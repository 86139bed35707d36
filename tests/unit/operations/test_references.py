"""What operators do with manifests, and what keeps them from locking a fleet out by accident."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestd.appraisal.manifests import ReferenceManifest, Stage
from attestd.config import ReferenceSettings
from attestd.ids import DeviceId
from attestd.operations import references as verbs
from attestd.operations.references import (
    NOTICED,
    OVERLAP,
    Accepted,
    AlreadyThere,
    BankNotQuoted,
    NobodyWatched,
    WouldRefuse,
)
from attestd.registry import references
from attestd.registry.references import ReferencesRaced, StoredManifest, UnknownManifest
from attestd.registry.states import State
from tests.service import PCRS, World, meanwhile
from tests.unit.operations.conftest import GOOD_VALUE, Desk, manifest

DAY = 86400
OTHER = manifest(pcrs={"sha256": {"0": ["22" * 32]}})
RUNS = manifest(runtime={"digests": ["sha256:" + "33" * 32]})


# ---- Acts and their rows ----------------------------------------------------------------------------------------


def test_from_learn_to_enforce_and_back(desk: Desk) -> None:
    drafted = desk.add(stage=Stage.LEARN)
    watched = desk.promote(drafted, Stage.MONITOR)
    enforced = desk.promote(watched)
    assert desk.counting() == [("bike-4", "enforce")]
    back = desk.promote(enforced, Stage.MONITOR)
    assert desk.counting() == [("bike-4", "monitor")]
    desk.verbs.withdraw(back.number, desk.world.act)
    assert desk.counting() == []
    rows = desk.rows()
    assert [(row.act, row.subject) for row in rows] == [
        ("withdraw-reference", f"reference {back.number}"),
        ("promote-reference", f"reference {back.number}"),
        ("promote-reference", f"reference {enforced.number}"),
        ("promote-reference", f"reference {watched.number}"),
        ("add-reference", f"reference {drafted.number}"),
    ]
    assert rows[2].detail["promoted"] == watched.number
    assert rows[2].detail["was"] == "monitor"
    assert (rows[2].detail["refused"], rows[2].detail["unheard"], rows[2].detail["watched"]) == (0, 0, True)


def test_the_reason_is_in_the_trail(desk: Desk) -> None:
    stored = desk.verbs.add(manifest(), replace(desk.world.act, reason="spring update"))
    desk.verbs.withdraw(stored.number, replace(desk.world.act, reason="leaked key"))
    assert [row.detail["reason"] for row in desk.rows()] == ["leaked key", "spring update"]


def test_what_counts_already_is_not_added_again(desk: Desk) -> None:
    stored = desk.add()
    with pytest.raises(AlreadyThere):
        desk.add()
    with pytest.raises(AlreadyThere):
        desk.promote(stored)
    assert len(desk.rows()) == 1


def test_what_is_not_there(desk: Desk) -> None:
    with pytest.raises(UnknownManifest):
        desk.verbs.withdraw(7, desk.world.act)
    with pytest.raises(UnknownManifest):
        desk.verbs.promote(7, Stage.ENFORCE, desk.world.act)
    ended = desk.add()
    desk.verbs.withdraw(ended.number, desk.world.act)
    with pytest.raises(UnknownManifest):
        desk.promote(ended, Stage.MONITOR)
    assert desk.counting() == []


def test_a_change_since_it_was_looked_at(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def somebody_else() -> None:
        with desk.world.registry.acting() as c:
            references.add(
                c, name="x", stage="learn", digest="x", document=b"{}", added_by="bob", now=desk.now, overlap=0
            )

    meanwhile(monkeypatch, somebody_else)
    with pytest.raises(ReferencesRaced):
        desk.add()
    monkeypatch.undo()
    assert desk.counting() == [("x", "learn")]
    desk.add()


# ---- What would lock devices out: nobody watched ----------------------------------------------------------------


def test_enforcing_at_once_where_no_device_is(desk: Desk) -> None:
    desk.fleet.device(State.QUARANTINED)
    desk.fleet.device(State.PENDING)
    desk.add()


def test_enforcing_at_once_where_devices_are(desk: Desk) -> None:
    desk.device()
    with pytest.raises(NobodyWatched) as refusal:
        desk.add()
    assert refusal.value.seen == "1 active devices that it is for, of which nothing is known"
    assert (desk.counting(), desk.rows()) == ([], [])
    desk.add(accepted=Accepted(unwatched=True))
    assert desk.rows()[0].detail["unheard"] == 1


def test_enforcing_at_once_where_devices_are_that_it_is_not_for(desk: Desk) -> None:
    desk.device(ring="stable")
    desk.add(manifest(match={"labels": {"ring": "canary"}}))
    with pytest.raises(NobodyWatched):
        desk.add(manifest(name="b", match={"labels": {"ring": "stable"}}))


@pytest.mark.parametrize("stage", [Stage.LEARN, Stage.MONITOR])
def test_what_decides_nothing_needs_no_guard(desk: Desk, stage: Stage) -> None:
    desk.device()
    desk.add(stage=stage)


def test_a_draft_that_skips_being_watched(desk: Desk) -> None:
    desk.device()
    drafted = desk.add(stage=Stage.LEARN)
    with pytest.raises(NobodyWatched):
        desk.promote(drafted)
    desk.promote(drafted, accepted=Accepted(unwatched=True))


def test_another_content_was_watched(desk: Desk) -> None:
    stored = desk.add(stage=Stage.MONITOR)
    desk.world.clock.advance(hours=1)
    desk.watched(desk.device(), stored)
    with pytest.raises(NobodyWatched):
        desk.add(OTHER)
    desk.add()


# ---- What would lock devices out: what the watched one says -----------------------------------------------------


@pytest.fixture
def monitored(desk: Desk) -> StoredManifest:
    stored = desk.add(stage=Stage.MONITOR)
    desk.world.clock.advance(hours=1)
    return stored


def test_all_have_attested_well(desk: Desk, monitored: StoredManifest) -> None:
    desk.watched(desk.device(), monitored)
    desk.promote(monitored)


def test_one_would_be_refused(desk: Desk, monitored: StoredManifest) -> None:
    desk.watched(desk.device(), monitored)
    desk.watched(desk.device(), monitored, "PCR 0 is odd.")
    for act in (desk.promote, lambda _=None, **options: desk.add(**options)):
        with pytest.raises(WouldRefuse) as refusal:
            act(monitored)
    assert refusal.value.seen == ("1 devices that it would refuse, and 0 that have not attested since it is watched")
    assert desk.counting() == [("bike-4", "monitor")]


def test_one_has_not_attested_since(desk: Desk, monitored: StoredManifest) -> None:
    device = desk.device(attested_at=monitored.added_at + NOTICED)
    with pytest.raises(WouldRefuse) as refusal:
        desk.promote(monitored)
    assert "0 devices that it would refuse, and 1 that" in str(refusal.value.seen)
    desk.say(device, attested_at=monitored.added_at + NOTICED + 1)
    desk.promote(monitored)


def test_how_many_an_operator_takes(desk: Desk, monitored: StoredManifest) -> None:
    desk.watched(desk.device(), monitored, "x")
    desk.device()
    with pytest.raises(WouldRefuse) as refusal:
        desk.promote(monitored, accepted=Accepted(refusals=1, unwatched=True))
    assert "--accept-refusals 2" in str(refusal.value.expected)
    desk.promote(monitored, accepted=Accepted(refusals=2))
    assert (desk.rows()[0].detail["refused"], desk.rows()[0].detail["unheard"]) == (1, 1)


def test_one_that_begins_later_has_told_nothing_yet(desk: Desk) -> None:
    later = manifest(not_before=desk.now + DAY)
    stored = desk.add(later, Stage.MONITOR)
    desk.world.clock.advance(hours=1)
    device = desk.device()
    desk.watched(device, stored)
    with pytest.raises(WouldRefuse):
        desk.promote(stored)
    desk.world.clock.advance(days=2)
    desk.watched(device, stored)
    desk.promote(stored)


def test_more_than_can_be_counted(desk: Desk, monitored: StoredManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "MAX_LOOKED", 2)
    monkeypatch.setattr(references, "MAX_PAGE", 2)
    whole = references.affected
    monkeypatch.setattr(references, "affected", lambda *a, **k: whole(*a, **k, limit=2))
    for _ in range(2):
        desk.watched(desk.device(), monitored, "x")
    prospect = desk.verbs.prospect(manifest(), now=desk.now)
    assert (prospect.refused, prospect.more) == (2, True)
    assert "at least 2 devices that it would refuse" in str(prospect)
    with pytest.raises(WouldRefuse):
        desk.promote(monitored, accepted=Accepted(refusals=1))
    desk.promote(monitored, accepted=Accepted(refusals=2))


def test_labels_of_others_are_no_reason_to_call_it_safe(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that were looked at are not its own: how many are beyond them, nobody knows."""
    monkeypatch.setattr(verbs, "MAX_LOOKED", 2)
    monkeypatch.setattr(references, "MAX_PAGE", 2)
    whole = references.affected
    monkeypatch.setattr(references, "affected", lambda *a, **k: whole(*a, **k, limit=2))
    for _ in range(2):
        desk.device(ring="stable")
    canary = manifest(match={"labels": {"ring": "canary"}})
    with pytest.raises(NobodyWatched):
        desk.add(canary)
    stored = desk.add(canary, Stage.MONITOR)
    with pytest.raises(WouldRefuse):
        desk.promote(stored)
    desk.promote(stored, accepted=Accepted(refusals=1))


# ---- What something else holds good -----------------------------------------------------------------------------


def test_an_update_overlaps_and_needs_no_flag(desk: Desk) -> None:
    first = desk.add()
    desk.device(held_by=first)
    desk.add(OTHER)
    assert desk.rows()[0].detail["held"] == 1


@pytest.mark.parametrize(
    "lie",
    [
        lambda desk, first, device: desk.say(device, result={"status": "contraindicated", "policies": [_id(first)]}),
        lambda desk, first, device: desk.say(device, result={"status": "affirming", "policies": ["x@sha256:00"]}),
        lambda desk, first, device: desk.verbs.withdraw(first.number, desk.world.act),
        lambda desk, first, device: desk.brake(device),
    ],
    ids=["it refused the device", "another held it", "it counts no longer", "the brake holds a worse result"],
)
def test_what_does_not_hold_a_device(desk: Desk, lie: Callable[[Desk, StoredManifest, DeviceId], None]) -> None:
    first = desk.add()
    lie(desk, first, desk.device(held_by=first))
    with pytest.raises(NobodyWatched):
        desk.add(OTHER)


def _id(stored: StoredManifest) -> str:
    return f"{stored.name}@sha256:{stored.digest}"


@pytest.mark.parametrize(("overlap", "holds"), [(DAY, True), (DAY - 1, False)])
def test_an_overlap_that_is_too_short_holds_nobody(desk: Desk, overlap: int, holds: bool) -> None:
    desk.device(held_by=desk.add())
    if holds:
        desk.add(OTHER, overlap=overlap)
    else:
        with pytest.raises(NobodyWatched):
            desk.add(OTHER, overlap=overlap)


@pytest.mark.parametrize(("later", "holds"), [(6, True), (6.5, False)])
def test_what_ends_soon_holds_nobody(desk: Desk, later: float, holds: bool) -> None:
    first = desk.add()
    desk.device(held_by=first)
    desk.add(OTHER)
    desk.world.clock.advance(days=later)  # of the overlap's seven
    third = manifest(name="c", pcrs={"sha256": {"0": ["44" * 32]}})
    if holds:
        desk.add(third)
    else:
        with pytest.raises(NobodyWatched):
            desk.add(third)


@pytest.mark.parametrize(("ends", "holds"), [(DAY, True), (DAY - 1, False)])
def test_what_is_valid_for_long_enough_holds(desk: Desk, ends: int, holds: bool) -> None:
    desk.device(held_by=desk.add(manifest(not_after=desk.now + ends)))
    if holds:
        desk.add(OTHER)
    else:
        with pytest.raises(NobodyWatched):
            desk.add(OTHER)


def test_a_manifest_that_speaks_of_what_runs_asks_more_than_one_that_does_not(desk: Desk) -> None:
    """A device that was never asked for its list has none to show."""
    desk.device(held_by=desk.add())
    with pytest.raises(NobodyWatched):
        desk.add(RUNS)


def test_one_that_speaks_of_what_runs_holds_for_another(desk: Desk) -> None:
    desk.device(held_by=desk.add(RUNS))
    desk.add(manifest(runtime={"digests": ["sha256:" + "44" * 32]}))
    desk.add(OTHER)


def test_references_of_the_settings_hold_too(tmp_path: Path) -> None:
    said = ReferenceSettings("toml", {"sha256": {0: (bytes.fromhex(GOOD_VALUE),)}}, None)
    world = World(tmp_path / "instance", references=(said,))
    try:
        desk = Desk(world)
        device = desk.device()
        with pytest.raises(NobodyWatched):
            desk.add(OTHER)
        policy = ReferenceManifest.of_pcrs(said.name, said.pcrs, said.tier).policy_id
        desk.say(device, result={"status": "affirming", "policies": [policy]})
        desk.add(OTHER)
        with pytest.raises(NobodyWatched):
            desk.add(RUNS)
    finally:
        world.close()


def test_going_back_to_what_counts_still(desk: Desk) -> None:
    """The version before is still good for its overlap: making it last changes nothing for anybody."""
    first = desk.add()
    desk.device(held_by=first)
    second = desk.add(OTHER)
    desk.device()
    desk.promote(second, Stage.MONITOR)
    again = desk.add()
    assert (again.digest, again.until) == (first.digest, None)
    desk.world.clock.advance(seconds=OVERLAP + 1)
    assert desk.counting() == [("bike-4", "enforce")]


# ---- The whole walk, by devices that attest --------------------------------------------------------------------


def of_values(**members: Any) -> ReferenceManifest:
    values = {str(index): [value.hex()] for index, value in PCRS["sha256"].items() if index in (0, 2)}
    return manifest(**{"pcrs": {"sha256": values}, **members})


def test_from_the_first_machine_to_enforce_and_to_its_refusal(desk: Desk) -> None:
    """Learned, watched, enforced; then its boot changes, and it is refused."""
    world = desk.world
    device = world.enrolled()
    draft = desk.learn(DeviceId(device.id), facts=frozenset(), pcrs=frozenset({0, 2})).draft
    assert draft.manifest.pcrs == of_values().pcrs
    watched = desk.add(draft.manifest, Stage.MONITOR)
    with pytest.raises(WouldRefuse):  # nothing is known of it yet
        desk.promote(watched)
    world.clock.advance(seconds=NOTICED + 1)
    assert device.attest().status_code == 200
    enforced = desk.promote(watched)
    world.clock.advance(seconds=NOTICED)
    assert device.attest().status_code == 200
    assert (world.row(device).result or {})["policies"] == [_id(enforced)]

    tampered = replace_pcr(device.pcrs, 0)
    changed = manifest(pcrs={"sha256": {"0": [tampered["sha256"][0].hex()]}})
    desk.add(changed, Stage.MONITOR)
    prospect = desk.verbs.prospect(changed, now=desk.now)
    assert (prospect.unheard, prospect.held) == (0, 1)  # the enforced one holds it

    device.pcrs = tampered
    device.attest()
    assert (world.row(device).result or {})["status"] == "contraindicated"


def replace_pcr(pcrs: Any, index: int) -> Any:
    return {"sha256": {**pcrs["sha256"], index: b"\xee" * 32}}


def test_what_a_watched_manifest_would_have_refused(desk: Desk) -> None:
    world = desk.world
    device = world.enrolled()
    watched = desk.add(stage=Stage.MONITOR)
    world.clock.advance(seconds=NOTICED + 1)
    assert device.attest().status_code == 200
    with world.registry.reading() as c:
        total, (refused,) = references.would_refuse(c, watched.digest)
    assert (total, refused.device_id) == (1, device.id)
    assert "PCR 0" in refused.reasons[0]
    with pytest.raises(WouldRefuse):
        desk.promote(watched)
    world.clock.advance(seconds=NOTICED)
    held = desk.add(of_values(), Stage.MONITOR)
    world.clock.advance(seconds=NOTICED + 1)
    assert device.attest().status_code == 200
    desk.promote(held)


# ---- Banks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.MONITOR, Stage.ENFORCE])
def test_a_bank_that_quotes_do_not_cover_is_the_settings_to_ask_for(desk: Desk, stage: Stage) -> None:
    """Else one model's manifest would ask every device for a bank, and lock out those without it."""
    odd = manifest(pcrs={"sha384": {"0": ["11" * 48]}})
    with pytest.raises(BankNotQuoted) as refused:
        desk.add(odd, stage, accepted=Accepted(unwatched=True))
    assert (refused.value.seen, refused.value.expected) == ("sha384", "sha256")
    assert desk.add(stage=stage, accepted=Accepted(unwatched=True)).stage == stage
