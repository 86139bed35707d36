"""An operator on another machine: a key that never leaves it, a credential from an admin, and no instance's folder."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_serving import Served, attestd, serve

BIN = Path(sys.executable).parent


class Desk:
    """An operator's machine: a folder with nothing of the instance in it."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self.folder, self.url = folder, url

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [str(BIN / "attestd"), *words],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def call(self, *words: str, code: int = 0, key: str = "ada.key", credential: str = "ada.pem") -> str:
        return self.run("--server", self.url, "--key", key, "--credential", credential, *words, code=code)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("elsewhere") / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    running = serve(folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def ada(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """An admin, with a key and a credential."""
    desk = Desk(tmp_path_factory.mktemp("ada") / "desk", served.url)
    desk.run("operators", "keygen", "--out", "ada.key")
    public, credential = str(desk.folder / "ada.key.pub"), str(desk.folder / "ada.pem")
    attestd(served.folder, "operators", "add", "ada", "--role", "admin", "--key", public, "--out", credential)
    return desk


@pytest.fixture
def desk(ada: Desk, tmp_path: Path) -> Desk:
    """A desk of hers for each test."""
    desk = Desk(tmp_path / "desk", ada.url)
    for file in ada.folder.iterdir():
        shutil.copy2(file, desk.folder)
    return desk


def test_a_key_is_its_operator_s_alone(desk: Desk) -> None:
    assert stat.S_IMODE((desk.folder / "ada.key").stat().st_mode) == 0o600
    assert "PRIVATE" not in (desk.folder / "ada.key.pub").read_text() + (desk.folder / "ada.pem").read_text()
    before = (desk.folder / "ada.key").read_bytes()
    assert "overwritten" in desk.run("operators", "keygen", "--out", "ada.key", code=1)
    assert (desk.folder / "ada.key").read_bytes() == before


def test_every_kind_of_command_works_from_there(served: Served, desk: Desk) -> None:
    (desk.folder / "devices.csv").write_text(f"ek_hash,tier,site,id\n{'cd' * 32},device,berlin,bike-7\n")
    assert "Imported 1" in desk.call("devices", "import", "devices.csv")
    assert "bike-7" in desk.call("devices", "list")
    assert "retired" in desk.call("devices", "retire", "bike-7", "--reason", "lost")
    assert "permit" in desk.call("policy", "show")
    assert "No proxies" in desk.call("proxies", "list")
    assert desk.call("credentials", "list")
    assert "No TPM maker" in desk.call("trust", "list")
    assert "retire by operator:ada" in desk.call("devices", "show", "bike-7")


def test_the_first_admin_s_own_files_serve_elsewhere_too(served: Served, desk: Desk) -> None:
    for name in ("admin.key", "admin.pem"):
        shutil.copy2(served.folder / "admin" / name, desk.folder)
    assert "ada" in desk.call("operators", "list", key="admin.key", credential="admin.pem")


def test_the_options_may_stand_in_the_environment(desk: Desk) -> None:
    environment = {"ATTESTD_URL": desk.url, "ATTESTD_KEY": "ada.key", "ATTESTD_CREDENTIAL": "ada.pem"}
    assert "admin" in desk.run("operators", "list", **environment)


def test_an_operator_adds_and_disables_another(desk: Desk) -> None:
    desk.run("operators", "keygen", "--out", "bob.key")
    desk.call("operators", "add", "bob", "--role", "viewer", "--key", "bob.key.pub", "--out", "bob.pem")
    as_bob = {"key": "bob.key", "credential": "bob.pem"}
    listed = json.loads(desk.call("operators", "list", "--json", **as_bob))
    assert {entry["name"]: entry["role"] for entry in listed}["bob"] == "viewer"
    assert "role" in desk.call("operators", "disable", "bob", **as_bob, code=1)
    assert "bob is disabled" in desk.call("operators", "disable", "bob", "--reason", "left")
    for _ in range(4):  # whichever worker answers
        assert "disabled" in desk.call("operators", "list", **as_bob, code=1)


def test_only_the_pinned_root_is_trusted(desk: Desk, tmp_path: Path) -> None:
    """Another service, with a root of its own, at an address that the operator was given."""
    other = tmp_path / "other"
    attestd(other, "init", "--trust-domain", "example.org")
    running = serve(other)
    try:
        desk.url = running.url
        assert "does not answer" in desk.call("devices", "list", code=4)
    finally:
        running.stop()


def test_a_credential_that_is_not_this_key_s_or_not_whole(desk: Desk) -> None:
    desk.run("operators", "keygen", "--out", "eve.key")
    assert "another key" in desk.call("devices", "list", key="eve.key", code=3)
    parts = (desk.folder / "ada.pem").read_text().split("-----END CERTIFICATE-----\n")
    (desk.folder / "cut.pem").write_text("-----END CERTIFICATE-----\n".join(parts[:-2]) + "-----END CERTIFICATE-----\n")
    assert "not a whole chain" in desk.call("devices", "list", credential="cut.pem", code=3)


def test_a_key_that_others_can_read_is_refused(desk: Desk) -> None:
    (desk.folder / "ada.key").chmod(0o644)
    assert "ada.key" in desk.call("devices", "list", code=3)


@pytest.mark.parametrize("words", [["--server", "https://x", "devices", "list"], ["--key", "k", "operators", "list"]])
def test_the_options_belong_together(tmp_path: Path, words: list[str]) -> None:
    assert "belong together" in Desk(tmp_path / "desk", "").run(*words, code=2)


def test_commands_that_need_the_folder_say_so(desk: Desk) -> None:
    assert "where the instance is" in desk.call("doctor", code=2)


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://127.0.0.1:1", "address"), ("https://127.0.0.1:1/path", "address"), ("nonsense", "not a URL")],
)
def test_an_address_that_is_none(desk: Desk, url: str, said: str) -> None:
    desk.url = url
    assert said in desk.call("devices", "list", code=1)
