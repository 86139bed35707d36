"""`attestd operators`: people, their links, passkeys and sessions; and the first admin's link, by `attestd init`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from attestd.cli import operators
from attestd.cli.api import AdminApi
from attestd.registry import audit
from tests.authenticator import Authenticator, Browser, Person
from tests.commands import invoke
from tests.service import URL, World, problem


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def api(_dir: Path) -> AdminApi:
        transport = httpx.WSGITransport(world.app)
        return AdminApi(httpx.Client(base_url=URL, transport=transport), URL, world.admin.key)

    monkeypatch.setattr(operators, "service", api)
    return lambda *words: CliRunner().invoke(operators.app, list(words))


def ran(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_person_is_invited_and_comes_in(world: World, run: Callable[..., Result]) -> None:
    link, said = ran(run("invite", "ada", "--role", "operator")).splitlines()
    assert link.startswith(f"{URL}/first/")
    assert said == "It makes whoever opens it ada (operator), once, until 2026-06-02 12:00:00Z."
    listed = ran(run("invitations"))
    assert "ada" in listed
    assert link.rpartition("/")[2] not in listed
    browser = Browser(world)
    assert browser.accept(link.rpartition("/")[2], Authenticator()).status_code == 201
    assert ran(run("invitations")) == "No open invitations.\n"
    rows = ran(run("list")).splitlines()
    assert "1 passkey" in next(row for row in rows if row.startswith("ada"))
    assert "key" in next(row for row in rows if row.startswith("admin-1"))


def test_an_invitation_is_withdrawn(world: World, run: Callable[..., Result]) -> None:
    made = json.loads(ran(run("invite", "ada", "--role", "viewer", "--json")))
    assert ran(run("withdraw", made["id"])) == "The invitation for ada is withdrawn.\n"
    answer = world.post(
        "/v1/admin/sign-in/invitation/begin",
        json.dumps({"v": 1, "key": Browser(world).public, "token": made["token"]}).encode(),
    )
    assert problem(answer) == "invitation-over"
    assert run("withdraw", made["id"]).exit_code == 1


def test_sessions_are_listed_and_ended(world: World, run: Callable[..., Result]) -> None:
    assert ran(run("sessions")) == "Nobody is signed in.\n"
    ada = Person(world, "ada", "viewer")
    (row,) = ran(run("sessions")).splitlines()[1:]
    assert all(word in row for word in (ada.session["id"], "ada", "invitation", "192.0.2.7", "Firefox"))
    session = ada.session["id"]
    assert ran(run("sessions", "--end", session, "--reason", "lost")) == f"Session {session} is over.\n"
    assert problem(ada.get("/v1/admin/session")) == "session-over"
    with world.registry.reading() as c:
        assert audit.page(c, subject="ada")[0].detail["reason"] == "lost"


def test_passkeys_are_listed_and_removed(world: World, run: Callable[..., Result]) -> None:
    ada = Person(world, "ada", "viewer")
    assert ran(run("passkeys", "admin-1")) == "admin-1 has no passkeys.\n"
    (row,) = ran(run("passkeys", "ada")).splitlines()[1:]
    assert "laptop" in row
    assert "on one device" in row
    assert ran(run("passkeys", "ada", "--remove", row.split()[0])) == "laptop of ada is removed.\n"
    assert problem(ada.get("/v1/admin/session")) == "session-over"


def test_init_prints_the_first_admin_s_link(tmp_path: Path) -> None:
    """And what it is; the registry has its hash alone, the settings nothing."""
    done = invoke("init", "--trust-domain", "example.org", "--dir", tmp_path / "one")
    assert done.code == 0, done.err
    line = next(line for line in done.out.splitlines() if "first sign-in" in line)
    link = line.split()[-1]
    assert link.startswith("https://localhost:8443/first/")
    assert "Good once, for 24 hours" in done.out
    token = link.rpartition("/")[2].encode()
    for file in (tmp_path / "one").rglob("*"):
        assert not file.is_file() or token not in file.read_bytes(), file

    made = invoke("init", "--trust-domain", "example.org", "--dir", tmp_path / "two", "--json").document
    assert made["first_link"].startswith("https://localhost:8443/first/")
    again = invoke("operators", "invite", "admin", "--role", "admin", "--dir", tmp_path / "two", "--json").document
    assert again["link"] != made["first_link"]
    (listed,) = invoke("operators", "invitations", "--dir", tmp_path / "two", "--json").document
    assert listed["id"] == again["id"]  # the first one is over


def test_init_without_a_console_prints_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTESTD_CONSOLE_ENABLED", "false")
    done = invoke("init", "--trust-domain", "example.org", "--dir", tmp_path / "one")
    assert "/first/" not in done.out
