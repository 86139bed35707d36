"""Drafts from golden devices: they hold those devices good, name nothing that is one machine's own, and say their
doubts."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.appraisal.comparison import _not_good
from attestd.appraisal.learning import RULES, Draft, Golden, NothingStable, NotToLearn, Wish, learn, most_alike
from attestd.appraisal.manifests import Match, ReferenceManifest, Stage
from attestd.appraisal.runtime import appraise_runtime
from attestd.appraisal.runtimelearning import RuntimeDraft
from attestd.appraisal.writing import write_toml
from attestd.ids import Tier
from tests import ima_lists as w

MATCH = Match(Tier.DEVICE, {}, "IFX", "SLB9670")
PCRS = {index: bytes([index]) * 32 for index in (0, 1, 2, 4, 7, 10)}
FACTS: dict[str, Any] = {
    "compared": True,
    "bank": "sha256",
    "pcrs": [0, 1, 2, 4, 7],
    "doubts": [],
    "secure_boot": True,
    "setup_mode": False,
    "loaders": ["aa" * 32, "bb" * 32],
    "drivers": [],
    "dbx_count": 77,
    "dbx_digest": "cc" * 32,
    "sbat_level": 2023012900,
    "firmware_version": "F.12",
    "boot_options": [{"description": "debian", "path": "HD(1)"}],
    "signers": [{"source": "db", "certificate": "dd" * 32, "subject": "CN=x"}],
    "authorities": ["dd" * 32],
    "disks": ["some-guid"],
    "uki_sections": {".linux": "ee" * 32, ".initrd": "ff" * 32},
    "kernel_command_lines": ["ro quiet"],
    "kernel_command_line": "ro quiet",
    "windows_boot_count": 7,
}


def golden(name: str = "g1", *, facts: dict[str, Any] | None = FACTS, pcrs: Any = PCRS, **more: Any) -> Golden:
    changed = more.pop("changed", None)
    said = None if facts is None else {k: v for k, v in {**facts, **(changed or {})}.items() if v is not None}
    banks = pcrs if "sha256" in pcrs or "sha1" in pcrs else {"sha256": pcrs}
    return Golden(name, banks, said, **more)


def draft(*devices: Golden, wish: Wish = Wish(), match: Match = MATCH) -> Draft:  # noqa: B008
    return learn(devices or [golden()], name="bike-4", match=match, wish=wish)


def told(found: Draft) -> str:
    return "\n".join(line for lines in found.notes.values() for line in lines)


def refused(manifest: ReferenceManifest, device: Golden) -> list[str]:
    """What of a device this manifest does not hold good, as a comparison would say."""
    facts = device.facts or {}
    values = device.pcrs
    found = [
        f"PCR {i}" for b, each in manifest.pcrs.items() for i, good in each.items() if values[b].get(i) not in good
    ]
    return found + [name for name, good in manifest.boot.items() if _not_good(facts.get(name), good)]


# ---- A draft ----------------------------------------------------------------------------------------------------


def test_a_draft_is_at_stage_learn_and_for_what_it_was_learned_from() -> None:
    found = draft()
    assert (found.manifest.stage, found.manifest.name, found.manifest.match) == (Stage.LEARN, "bike-4", MATCH)
    assert ReferenceManifest.from_toml(write_toml(found.members, found.notes).encode()).digest == found.manifest.digest


def test_what_one_device_says_that_is_stable() -> None:
    found = draft()
    assert found.members["pcrs"] == {"sha256": {"0": ["00" * 32], "2": ["02" * 32]}}
    assert found.members["boot"] == {
        "secure_boot": True,
        "setup_mode": False,
        "loaders": ["aa" * 32, "bb" * 32],
        "dbx_count": {"at_least": 77},
        "sbat_level": {"at_least": 2023012900},
        "firmware_version": ["F.12"],
        "authorities": ["dd" * 32],
        "uki_sections": ["ee" * 32, "ff" * 32],
        "kernel_command_lines": ["ro quiet"],
    }
    assert "drivers is empty" in told(found)


def test_several_devices_add_up_and_each_is_held_good() -> None:
    one = golden("g1")
    two = golden(
        "g2",
        pcrs={**PCRS, 0: b"\x09" * 32},
        changed={"loaders": ["aa" * 32, "99" * 32], "firmware_version": "F.13", "dbx_count": 99, "sbat_level": 1},
    )
    found = draft(one, two)
    assert found.members["pcrs"]["sha256"]["0"] == ["00" * 32, "09" * 32]
    assert found.members["boot"]["loaders"] == ["99" * 32, "aa" * 32, "bb" * 32]
    assert found.members["boot"]["firmware_version"] == ["F.12", "F.13"]
    assert found.members["boot"]["dbx_count"] == {"at_least": 77}
    assert found.members["boot"]["sbat_level"] == {"at_least": 1}
    assert "PCR 0 has 2 values" in told(found)
    assert [refused(found.manifest, each) for each in (one, two)] == [[], []]


@pytest.mark.parametrize(
    "lie",
    [
        {"secure_boot": False},
        {"loaders": ["aa" * 32, "66" * 32]},
        {"dbx_count": 76},
        {"firmware_version": "F.11"},
        {"kernel_command_lines": ["init=/bin/sh"]},
        {"uki_sections": {".linux": "66" * 32}},
    ],
    ids=lambda lie: next(iter(lie)),
)
def test_what_its_devices_did_not_have_is_not_good(lie: dict[str, Any]) -> None:
    found = draft()
    assert refused(found.manifest, golden()) == []
    assert refused(found.manifest, golden(changed=lie)) == [next(iter(lie))]


# ---- What is left out, and said ---------------------------------------------------------------------------------


def test_a_setting_that_differs_is_left_out_and_said() -> None:
    found = draft(golden("g1"), golden("g2", changed={"secure_boot": False}))
    assert "secure_boot" not in found.members["boot"]
    assert "secure_boot differs, and is left out: True, False" in told(found)


def test_a_fact_that_one_of_them_does_not_prove_is_left_out() -> None:
    """Or that device would be refused: what is not proven is not good."""
    found = draft(golden("g1"), golden("g2", changed={"loaders": None}))
    assert "loaders" not in found.members["boot"]
    assert "loaders is not proven on all" in told(found)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((["a"], ["b"]), "kernel_command_lines differ"),
        ((["root=UUID=1 ro"], ["root=UUID=1 ro"]), "name a disk by its UUID"),
    ],
)
def test_command_lines_that_are_one_machine_s_own(lines: tuple[list[str], list[str]], words: str) -> None:
    devices = [golden(f"g{n}", changed={"kernel_command_lines": each}) for n, each in enumerate(lines)]
    assert "kernel_command_lines" not in draft(*devices).members["boot"]
    assert words in told(draft(*devices))


def test_what_names_one_machine_or_one_boot_is_no_rule() -> None:
    own = {
        "disks",
        "boot_options",
        "boot_phases",
        "windows_boot_count",
        "windows_resumed",
        "dbx_digest",
        "pcrs",
        "bank",
    }
    assert not own & set(RULES)


def test_doubts_are_told_and_not_tolerated() -> None:
    found = draft(golden(changed={"doubts": ["pcr-7-unexplained"]}))
    assert "doubts" not in found.members["boot"]
    assert 'doubts = ["pcr-7-unexplained"]' in told(found)
    assert "DOUBTS" not in told(draft())


def test_a_list_that_is_too_long_for_a_manifest_is_left_out() -> None:
    found = draft(golden(changed={"loaders": [f"{n:064x}" for n in range(4097)]}))
    assert "loaders" not in found.members["boot"]
    assert "loaders has 4097 values" in told(found)


def test_a_text_that_is_too_long_for_a_manifest_is_left_out() -> None:
    found = draft(golden(changed={"sbat": ["x" * 4097]}))
    assert "sbat" not in found.members["boot"]


def test_a_device_that_was_contraindicated_is_named() -> None:
    assert "Contraindicated when it was learned from: g1" in told(draft(golden(contraindicated=True)))
    assert "Contraindicated" not in told(draft())


def test_a_draft_for_every_device_says_so() -> None:
    assert "EVERY device" in told(draft(match=Match()))
    assert "EVERY device" not in told(draft())


# ---- PCRs -------------------------------------------------------------------------------------------------------


def test_without_logs_pcrs_are_all_there_is() -> None:
    found = draft(golden(facts=None))
    assert set(found.members["pcrs"]["sha256"]) == {"0", "2", "4", "7"}
    assert "boot" not in found.members
    assert "No device sent an event log" in told(found)


def test_a_device_without_a_log_among_others() -> None:
    found = draft(golden("g1"), golden("g2", facts=None))
    assert found.members["boot"]["secure_boot"] is True
    assert "Not learned from g2: it sent no event log" in told(found)


@pytest.mark.parametrize("index", [10, 16, 23, 24, -1])
def test_pcrs_that_are_never_learned(index: int) -> None:
    assert "1" in draft(wish=Wish(pcrs=frozenset({0, 1}))).members["pcrs"]["sha256"]
    with pytest.raises(NotToLearn):
        draft(golden(pcrs={**PCRS, index: bytes(32)}), wish=Wish(pcrs=frozenset({0, index})))


def test_a_pcr_that_one_of_them_did_not_quote() -> None:
    found = draft(golden("g1"), golden("g2", pcrs={0: PCRS[0]}))
    assert set(found.members["pcrs"]["sha256"]) == {"0"}
    assert "PCR 2 was not quoted by all" in told(found)


def test_the_bank_that_all_of_them_quoted() -> None:
    both = golden("g1", pcrs={"sha256": PCRS, "sha1": {0: b"a" * 20}})
    old = golden("g2", pcrs={"sha1": {0: b"a" * 20}})
    assert set(draft(both).members["pcrs"]) == {"sha256"}
    found = draft(both, old)
    assert found.members["pcrs"] == {"sha1": {"0": [(b"a" * 20).hex()]}}
    assert "SHA-1 can be forged" in told(found)


# ---- Wishes -----------------------------------------------------------------------------------------------------


def test_facts_that_were_asked_for() -> None:
    wish = Wish(frozenset(), frozenset({"secure_boot", "dbx_digest", "windows_boot_count"}))
    assert draft(wish=wish).members["boot"] == {
        "secure_boot": True,
        "dbx_digest": ["cc" * 32],
        "windows_boot_count": [7],
    }


def test_a_fact_that_nobody_proves_is_refused() -> None:
    with pytest.raises(NotToLearn, match="no_such_fact"):
        draft(wish=Wish(facts=frozenset({"no_such_fact"})))


def test_a_fact_that_no_manifest_can_name() -> None:
    found = draft(wish=Wish(facts=frozenset({"boot_options"})))
    assert "boot" not in found.members
    assert "boot_options holds what no manifest can name" in told(found)


def test_nothing_at_all() -> None:
    with pytest.raises(NothingStable):
        draft(wish=Wish(frozenset(), frozenset()))


def test_without_facts_more_pcrs_are_learned() -> None:
    assert set(draft(wish=Wish(facts=frozenset())).members["pcrs"]["sha256"]) == {"0", "2", "4", "7"}


def test_what_devices_have_in_common() -> None:
    one, two = Match(Tier.DEVICE, {"a": "b"}, "IFX", "A"), Match(Tier.DEVICE, {"a": "b"}, "IFX", "B")
    assert most_alike([one, two]) == Match(Tier.DEVICE, {}, "IFX", None)
    assert most_alike([one]) == Match(Tier.DEVICE, {}, "IFX", "A")
    assert most_alike([Match(None, {}, "", "")]) == Match()


# ---- What ran ---------------------------------------------------------------------------------------------------

LIST = [w.boot_aggregate(), w.ng("/bin/sh", b"sh"), w.violation("/var/log/x")]


def ran(items: list[w.Item]) -> RuntimeDraft:
    return RuntimeDraft.of_pcrs(w.binary(items), pcrs=w.quote(items).pcrs)


def test_what_ran_is_learned_if_it_is_asked_for() -> None:
    found = draft(golden(runtime=ran(LIST)), wish=Wish(runtime=True))
    policy = found.manifest.runtime
    assert policy is not None
    assert appraise_runtime([policy], w.text(LIST), quote=w.quote(LIST)).acceptable
    evil = [*LIST, w.ng("/bin/evil", b"evil")]
    assert not appraise_runtime([policy], w.text(evil), quote=w.quote(evil)).acceptable
    assert "Files were written while they were measured" in told(found)
    assert "runtime" not in draft(golden(runtime=ran(LIST))).members


def test_what_ran_is_not_learned_without_a_kernel_to_believe() -> None:
    with pytest.raises(NothingStable):
        draft(golden(runtime=ran(LIST)), wish=Wish(frozenset(), frozenset(), runtime=True))


def test_lists_that_say_nothing() -> None:
    for device in (golden(), golden(runtime=RuntimeDraft())):
        found = draft(device, wish=Wish(runtime=True))
        assert "runtime" not in found.members
        assert "IMA list" in told(found)
