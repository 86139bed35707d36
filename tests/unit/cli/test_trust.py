"""`attestd trust list` and `show`: whom this instance trusts, and what depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from attestd.cli.api import AdminApi
from attestd.registry import trust
from tests import ek_ca
from tests.commands import Run
from tests.service import URL, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The commands call its application as they call a stopped instance's."""
    world = World(tmp_path / "instance")
    client = httpx.Client(base_url=URL, transport=httpx.WSGITransport(world.app))
    api = AdminApi(client, URL, world.admin.key)
    monkeypatch.setattr("attestd.cli.api.AdminApi.connect", lambda _: api)
    world.service.operations.add_makers(ek_ca.maker("Nobody's").root.certificate, world.act)
    yield world
    world.close()


def sha256(world: World, name: str) -> str:
    with world.registry.reading() as c:
        return next(each.sha256.hex() for each in trust.every(c) if name in each.subject)


def test_how_many_devices_depend_on_each(world: World, run: Run) -> None:
    gone = world.enrolled()
    world.enrolled()
    world.enrolled()
    world.operator.post(f"/v1/admin/devices/{gone.id}/retire", {"v": 1})
    makers = {one["sha256"]: one["devices"] for one in run("trust", "list", "--json").document}
    assert makers == {sha256(world, "Nobody"): 0, sha256(world, "Maker Root"): 2}
    listed = run("trust", "list").out.splitlines()
    assert "DEVICES" in listed[0]
    assert any(" 2 " in line for line in listed[1:])


def test_one_is_shown_by_its_first_digits(world: World, run: Run) -> None:
    world.enrolled()
    digest = sha256(world, "Maker Root")
    for wanted in (digest, digest[:8], f"sha256:{digest.upper()}"):
        ran = run("trust", "show", wanted)
        assert ran.code == 0, ran.out
        assert f"sha256:{digest}" in ran.out
        assert "1 device that is not retired enrolled under it." in ran.out
    assert run("trust", "show", digest, "--json").document["devices"] == 1
    assert "0 devices that are not retired" in run("trust", "show", sha256(world, "Nobody")).out


@pytest.mark.parametrize("wanted", ["00000000", "", "x" * 100])
def test_one_that_is_not_trusted(world: World, run: Run, wanted: str) -> None:
    assert run("trust", "show", wanted, "--json").problem == "not-trusted"


def test_digits_that_are_too_few_name_nothing(world: World, run: Run) -> None:
    assert run("trust", "show", sha256(world, "Nobody")[:7], "--json").problem == "not-trusted"
