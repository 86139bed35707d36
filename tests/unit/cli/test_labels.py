"""`attestd devices label`: what is set, what is removed, and what goes by labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from attestd.cli.api import AdminApi
from attestd.cli.labels import asked_for
from tests.commands import Run
from tests.service import URL, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The commands call its application as they call a stopped instance's."""
    world = World(tmp_path / "instance")
    client = httpx.Client(base_url=URL, transport=httpx.WSGITransport(world.app))
    api = AdminApi(client, URL, world.admin.key)
    monkeypatch.setattr("attestd.cli.api.AdminApi.connect", lambda _: api)
    yield world
    world.close()


def test_labels_are_set_and_removed(world: World, run: Run) -> None:
    device = world.enrolled(labels={"ring": "canary", "rack": "2"})
    ran = run("devices", "label", device.id, "ring=stable", "dock=a=b", "--remove", "rack", "--reason", "moved")
    assert (ran.code, ran.out.splitlines()[0]) == (0, f"{device.id} has the labels: dock=a=b, ring=stable.")
    assert ran.out.splitlines()[1] == "The policy in force asks for labels: none by name."
    assert world.row(device).labels == {"ring": "stable", "dock": "a=b"}
    told = run("devices", "history", device.id).out.splitlines()[0]
    assert told.endswith("label by operator:admin-1 (dock=a=b, rack removed, ring=stable): moved")


def test_certificates_are_revoked_where_that_is_asked(world: World, run: Run) -> None:
    device = world.enrolled()
    path = f"/v1/admin/credentials?device={device.id}"
    run("devices", "label", device.id, "a=b")
    assert world.viewer.get(path).json["credentials"][0]["revoked_at"] is None
    assert run("devices", "label", device.id, "a=c", "--revoke", "--json").document["labels"] == {"a": "c"}
    assert world.viewer.get(path).json["credentials"][0]["revoked_at"] is not None


@pytest.mark.parametrize(
    ("arguments", "problem"), [((), "call-refused"), (("a",), "malformed-input"), (("a b=c",), "call-refused")]
)
def test_what_is_no_label(world: World, run: Run, arguments: tuple[str, ...], problem: str) -> None:
    device = world.enrolled(labels={"ring": "canary"})
    assert run("devices", "label", device.id, *arguments, "--json").problem == problem
    assert world.row(device).labels == {"ring": "canary"}


def test_what_goes_by_labels_in_lines() -> None:
    found = {
        "policy": {"version": 2, "names": ["ring"], "whole": True},
        "references": [{"number": 1, "name": "bike", "stage": "enforce", "labels": {"ring": "canary"}}],
    }
    assert asked_for(found).splitlines() == [
        "The policy in force asks for labels: ring, and may look at others.",
        "bike (enforce) is for devices with ring=canary.",
    ]
