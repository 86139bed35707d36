"""`attestd references`, against a service in this process: what operators type, read and get as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from attestd.appraisal.manifests import ReferenceManifest
from attestd.cli.api import AdminApi
from attestd.protocol.encoding import write_object
from attestd.registry import evidence, references
from attestd.registry.evidence import GOOD, Kept
from tests.commands import Run
from tests.service import URL, World

TOML = 'name = "bike-4"\nstage = "monitor"\n[pcrs.sha256]\n0 = ["' + "11" * 32 + '"]\n'


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The commands call its application as they call a stopped instance's."""
    world = World(tmp_path / "instance")
    client = httpx.Client(base_url=URL, transport=httpx.WSGITransport(world.app))
    api = AdminApi(client, URL, world.admin.key)
    monkeypatch.setattr("attestd.cli.api.AdminApi.connect", lambda _: api)
    yield world
    world.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bike.toml"
    path.write_text(TOML)
    return path


def added(run: Run, file: Path, *more: str) -> int:
    done = run("references", "add", file, "--json", *more)
    assert done.code == 0, done.err
    return int(done.document["number"])


def golden(world: World, **members: Any) -> str:
    device = world.enrolled()
    found: dict[str, Any] = {
        "verdict": GOOD,
        "at": int(world.clock().timestamp()),
        "inputs": write_object({"pcrs": {"sha256": {"0": "00" * 32, "1": "01" * 32}}}),
        "boot": "1.0",
        "boot_log": None,
        "boot_pcrs": None,
        "boot_facts": {"secure_boot": True, "uki": False, "doubts": []},
        "ima_entries": None,
        "runtime_state": None,
        "result": b"{}",
    }
    world.registry.act(*evidence.keeping(device.id, Kept(**found | members), ima=None, new_boot=True))
    return str(device.id)


def refuses(world: World, number: int, device_id: Any) -> None:
    with world.registry.reading() as c:
        digest = references.by_number(c, number).digest
    world.registry.act(*references.watching(device_id, digest, ["PCR 0 is odd."], now=int(world.clock().timestamp())))


def test_the_walk_from_a_draft_to_enforce(world: World, run: Run, tmp_path: Path) -> None:
    device_id, draft = golden(world), tmp_path / "draft.toml"
    learned = run("references", "learn", device_id, "--name", "bike-4", "--out", draft)
    assert (learned.code, learned.err) == (0, "")
    assert f"attestd references add {draft}" in learned.out
    world.clock.advance(minutes=1)
    watched = run("references", "add", draft, "--stage", "monitor")
    assert "'bike-4' is version 1, at stage monitor. It decides nothing" in watched.out
    world.clock.advance(minutes=1)

    early = run("references", "promote", 1, "enforce", "--json")
    assert (early.code, early.problem) == (1, "call-refused")
    assert "1 that have not attested since it is watched" in early.err

    refuses(world, 1, device_id)
    told = run("references", "refusals", 1)
    assert "    PCR 0 is odd." in told.out
    assert "Enforced now: 1 refused at their next attestation, 0 of which nothing is known" in told.out
    assert run("references", "promote", 1, "enforce").code == 1

    taken = run("references", "promote", 1, "enforce", "--accept-refusals", 1, "--reason", "it is being scrapped")
    assert "'bike-4' is version 2, at stage enforce. It decides from now on." in taken.out
    assert "not watched" in run("references", "refusals", 2).out
    assert run("references", "promote", 2, "monitor").code == 0
    gone = run("references", "withdraw", 3, "--reason", "done")
    assert gone.out == "Version 3 of 'bike-4' counts no longer.\n"
    assert "No reference manifests" in run("references", "list").out


def test_listing(world: World, run: Run, file: Path) -> None:
    number = added(run, file)
    done = run("references", "list")
    assert done.out.splitlines()[0].split() == ["NUMBER", "NAME", "STAGE", "COUNTS", "ADDED", "BY", "UNTIL", "SHA-256"]
    assert done.out.splitlines()[1].split()[:4] == [str(number), "bike-4", "monitor", "yes"]
    run("references", "withdraw", number)
    assert run("references", "list", "--json").document == []
    (entry,) = run("references", "list", "--all", "--json").document
    assert (entry["number"], entry["counts"]) == (number, False)


def test_what_is_shown_can_be_added_again(world: World, run: Run, file: Path) -> None:
    number = added(run, file)
    shown = run("references", "show", number).out
    assert shown.startswith(f"# Version {number}, added ")
    assert ReferenceManifest.from_toml(shown.encode()).digest == ReferenceManifest.from_toml(TOML.encode()).digest
    assert run("references", "show", number, "--json").document["document"]["name"] == "bike-4"


def test_json_files(world: World, run: Run, file: Path) -> None:
    as_json = file.with_suffix(".json")
    as_json.write_bytes(ReferenceManifest.from_toml(TOML.encode()).document)
    added(run, as_json)
    assert run("references", "add", file, "--json").problem == "call-refused"  # it is there


@pytest.mark.parametrize(
    ("text", "problem"), [("name = ", "manifest-invalid"), (TOML + "\n[boots]\n", "malformed-json")]
)
def test_a_file_that_is_no_manifest_is_not_sent(world: World, run: Run, file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    done = run("references", "add", file, "--json")
    assert (done.code, done.problem) == (1, problem)


def test_a_file_that_is_not_there(world: World, run: Run, file: Path) -> None:
    done = run("references", "add", file.with_name("none.toml"), "--json")
    assert (done.code, done.problem) == (1, "unreadable-file")


@pytest.mark.parametrize(("option", "until"), [("0", 0), ("12h", 43200), ("7d", 604800)])
def test_overlaps(world: World, run: Run, file: Path, option: str, until: int) -> None:
    number = added(run, file, "--stage", "enforce")
    file.write_text(TOML.replace("11", "22"))
    added(run, file, "--stage", "enforce", "--overlap", option)
    every = run("references", "list", "--all", "--json").document
    (first,) = [entry for entry in every if entry["number"] == number]
    assert first["until"] == int(world.clock().timestamp()) + until


@pytest.mark.parametrize("options", [["--overlap", "soon"], ["--stage", "rule"], ["--accept-refusals", "-1"]])
def test_options_of_another_form(world: World, run: Run, file: Path, options: list[str]) -> None:
    assert run("references", "add", file, *options).code == 2


def test_taking_the_risk(world: World, run: Run, file: Path) -> None:
    world.enrolled()
    done = run("references", "add", file, "--stage", "enforce")
    assert done.code == 1
    assert "--unwatched" in done.err
    added(run, file, "--stage", "enforce", "--unwatched")


def test_pages_of_refusals(world: World, run: Run, file: Path) -> None:
    number = added(run, file)
    for _ in range(3):
        refuses(world, number, world.enrolled().id)
    done = run("references", "refusals", number, "--limit", 2)
    assert (done.out.count("PCR 0 is odd."), "3 in all" in done.out) == (2, True)
    whole = run("references", "refusals", number, "--json").document
    assert (len(whole["devices"]), whole["total"], whole["after"]) == (3, 3, None)


def test_a_draft_on_the_terminal_says_what_was_not_learned(world: World, run: Run) -> None:
    one, two = golden(world), golden(world, boot_facts=None)
    done = run("references", "learn", one, two, "--name", "bike-4")
    assert done.code == 0
    manifest = ReferenceManifest.from_toml(done.out.encode())
    assert (manifest.stage, set(manifest.boot)) == ("learn", {"secure_boot", "uki"})
    assert f"{two}: it sent no event log" in done.err
    assert one not in done.err
    assert "attestd devices demand" in done.err


def test_choosing_what_is_learned(world: World, run: Run) -> None:
    device_id = golden(world)
    whole = ("references", "learn", device_id, "--name", "bike-4", "--json")
    chosen = run(*whole, "--pcr", 1, "--fact", "uki", "--tier", "edge", "--label", "ring=canary").document["document"]
    assert chosen["pcrs"] == {"sha256": {"1": ["01" * 32]}}
    assert chosen["boot"] == {"uki": False} or chosen["boot"] == {"uki": [False]}
    assert chosen["match"] == {"tier": "edge", "labels": {"ring": "canary"}}
    assert "pcrs" not in run(*whole, "--no-pcrs").document["document"]
    assert "boot" not in run(*whole, "--no-facts").document["document"]
    assert run(*whole, "--label", "canary").code == 2


def test_nothing_to_learn_from(world: World, run: Run) -> None:
    device = world.enrolled()
    with world.registry.acting() as c:
        evidence.forget(c, [device.id])
    done = run("references", "learn", device.id, "--name", "bike-4")
    assert done.code == 1
    assert 'stage = "learn"' in done.err
