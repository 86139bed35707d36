"""One list judged for those who decide and for each who watches: it goes on from all of them, or travels whole."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.appraisal.manifests import ReferenceManifest
from attestd.appraisal.runtime import AnotherPolicy, EntriesMissing
from attestd.appraisal.runtimes import MAX_WATCHED, JudgedRuntime, Runtimes, judge_runtime
from attestd.errors import MalformedInput
from attestd.protocol.encoding import read_object, write_object
from tests import ima_lists
from tests.booted import BOOT, GOOD_FILES, Machine, runtime


def manifest(name: str, stage: str, *files: str) -> ReferenceManifest:
    return ReferenceManifest.from_members({"name": name, "stage": stage, "boot": BOOT, "runtime": runtime(*files)})


DECIDES = manifest("model", "enforce", *GOOD_FILES)
WATCHES = manifest("next", "monitor", "/usr/bin/init")
BOOT_ALONE = ReferenceManifest.from_members({"name": "boot", "stage": "monitor", "boot": BOOT})


def judged(machine: Machine, first: int = 0, **more: Any) -> JudgedRuntime:
    said = {"deciding": [DECIDES], "watched": [WATCHES], "begins_at": first, **more}
    return judge_runtime(machine.ima(first), quote=ima_lists.quote(machine.items, pcrs=machine.pcrs()), **said)


def test_each_says_what_it_says_alone() -> None:
    found = judged(Machine(), watched=[WATCHES, BOOT_ALONE])
    assert found.decided.acceptable
    assert not found.watched[WATCHES.digest].acceptable
    assert BOOT_ALONE.digest not in found.watched
    assert Runtimes.parse(found.states.to_bytes()) == found.states


def test_a_list_goes_on_from_all_of_them() -> None:
    machine = Machine()
    known = judged(machine).states
    machine.run("/usr/bin/vim")
    went_on, whole = judged(machine, 3, known=known), judged(machine)
    assert went_on.states == whole.states
    assert (went_on.entries, went_on.decided.new_entries) == (4, 1)
    assert judged(machine, 3, known=known, watched=[]).entries == 4, "who watches no more is not missed"


def test_a_whole_list_goes_on_from_nothing() -> None:
    """What is known of it is of no account, whatever it says."""
    machine = Machine()
    bad = judged(Machine("/usr/bin/rogue")).states
    assert judged(machine, known=bad).decided.acceptable


def test_a_part_of_which_nothing_is_known() -> None:
    with pytest.raises(EntriesMissing, match="nothing is known"):
        judged(Machine(), 3)


def test_a_manifest_that_began_to_watch_since() -> None:
    machine = Machine()
    known = judged(machine, watched=[]).states
    with pytest.raises(AnotherPolicy):
        judged(machine, 3, known=known)


def test_so_many_watch_and_no_more() -> None:
    many = [manifest(f"next {n}", "monitor", f"/usr/bin/{n}") for n in range(MAX_WATCHED + 1)]
    assert len(judged(Machine(), watched=many).watched) == MAX_WATCHED


def test_states_that_nobody_kept() -> None:
    members = read_object(judged(Machine()).states.to_bytes(), limit=1 << 20)
    for lie in ({"more": 1}, {"v": 2}, {"watched": {"x": "AAAA"}}, {"decided": "AAAA"}):
        with pytest.raises(MalformedInput):
            Runtimes.parse(write_object(members | lie))
