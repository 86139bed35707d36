"""`attestd evidence explain` and `attestd devices history`: the text says what the API says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from attestd.cli.api import AdminApi
from attestd.cli.explaining import explained, timeline
from attestd.config import AttestationSettings
from tests.booted import BOOT, GOOD_FILES, Machine, enrolled, kernel_digest, loaders, refer, runtime
from tests.commands import Run
from tests.service import URL, SoftDevice, World

SELECTION = AttestationSettings(pcrs={"sha256": tuple(range(10))})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The commands call its application as they call a stopped instance's."""
    world = World(tmp_path / "instance", attestation=SELECTION)
    client = httpx.Client(base_url=URL, transport=httpx.WSGITransport(world.app))
    api = AdminApi(client, URL, world.admin.key)
    monkeypatch.setattr("attestd.cli.api.AdminApi.connect", lambda _: api)
    yield world
    world.close()


def asked(world: World, device: SoftDevice, rest: str) -> dict[str, Any]:
    answer = world.viewer.get(f"/v1/admin/devices/{world.row(device).id}/{rest}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


def test_what_differs_is_told_with_what_is_expected(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    Machine(kernel=b"tampered").present(device, ima=False)
    assert device.attest().status_code == 202
    text = explained(asked(world, device, "attestations/3"))
    assert text.startswith("Attestation 3, 2026-06-01")
    assert f"measured  {kernel_digest(b'tampered')}  (loaders)" in text
    assert all(digest in text for digest in loaders(b"kernel"))
    assert "boot-loader  DIFFERS" in text
    assert "kernel       not relied on" in text
    assert "0 other devices showed it; manifests that list it: none" in text


def test_files_that_ran_are_told(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    device = enrolled(world, Machine())
    machine = Machine()
    machine.run("/usr/bin/rogue")
    machine.present(device)
    assert device.attest().status_code == 202
    text = explained(asked(world, device, "attestations/3"))
    assert "IMA entries  4, 1 not good, 0 violations" in text
    assert "entry 4  /usr/bin/rogue" in text


def test_what_is_not_kept_is_said() -> None:
    page = {
        "number": 1,
        "at": 0,
        "run": {"first": 1, "last": 1, "first_at": 0, "last_at": 0, "ended_at": 1, "boot": "1.0"},
        "result": {"status": "none", "reasons": []},
        "explanation": None,
    }
    assert "not kept any more" in explained(page)


def test_the_history_in_lines(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    path = f"/v1/admin/devices/{world.row(device).id}/quarantine"
    assert world.operator.post(path, {"reason": "seen on the street"}).status_code == 200
    lines = timeline(asked(world, device, "history")["entries"]).splitlines()
    assert lines[0].endswith(": seen on the street")
    assert any("attestation 2, affirming, 2 times since" in line for line in lines)
    assert timeline([]) == "Nothing is known yet."


def test_the_commands_ask_for_the_newest_one(world: World, run: Run) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    Machine(kernel=b"tampered").present(device, ima=False)
    assert device.attest().status_code == 202
    known = world.row(device).id
    ran = run("evidence", "explain", known)
    assert (ran.code, ran.out.splitlines()[0].split(",")[0]) == (0, "Attestation 3")
    assert run("evidence", "explain", known, "--attestation", "1", "--json").document["result"]["status"] == "affirming"
    assert run("evidence", "explain", known, "--attestation", "9", "--json").problem == "call-refused"
    assert "quarantine by device:" in run("devices", "history", known).out
    kinds = [entry["kind"] for entry in run("devices", "history", known, "--limit", "2", "--json").document]
    assert len(kinds) == 2


def test_one_that_never_attested(world: World, run: Run) -> None:
    imported = b"ek_hash,tier,site,id\n" + b"ab" * 32 + b",device,x," + b"a" * 26 + b"\n"
    assert world.operator.post("/v1/admin/devices/import", imported, content_type="text/csv").status_code == 200
    assert run("evidence", "explain", "a" * 26, "--json").problem == "never-attested"
