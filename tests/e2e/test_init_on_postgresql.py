"""`attestd init` on PostgreSQL: where the password may be, and where it never is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import USER, Postgres

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """One that asks for a password, over TCP."""
    with Postgres.start(tcp=True) as postgres:
        yield postgres


def attestd(folder: Path, *words: str, **environ: str) -> tuple[int, str]:
    """The exit code and everything that was said."""
    command = [str(BIN / "attestd"), *words, "--dir", str(folder)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "ATTESTD_"))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=kept | environ)
    return done.returncode, done.stdout + done.stderr


def init(folder: Path, *words: str, **environ: str) -> tuple[int, str]:
    return attestd(folder, "init", "--trust-domain", "example.org", *words, **environ)


def with_password(url: str, password: str) -> str:
    return url.replace(f"{USER}@", f"{USER}:{password}@")


def test_the_whole_url_comes_from_the_environment_and_stays_in_a_private_file(
    tmp_path: Path, postgres: Postgres
) -> None:
    url = with_password(postgres.tcp_url(postgres.fresh_database()), postgres.password)
    folder = tmp_path / "instance"
    code, said = init(folder, ATTESTD_DATABASE_URL=url)
    assert code == 0, said
    settings = folder / "attestd.toml"
    assert f'url = "{url}"' in settings.read_text()
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert not (folder / "registry.db").exists()
    code, more = attestd(folder, "doctor")  # without the environment
    assert code == 0, more
    assert postgres.password not in said + more
    # A second instance never takes it over.
    code, said = init(tmp_path / "second", ATTESTD_DATABASE_URL=url)
    assert code != 0
    assert "has tables already" in said
    assert postgres.password not in said
    assert not (tmp_path / "second").exists()


def test_the_password_comes_from_a_file_of_ones_own(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.tcp_url(postgres.fresh_database())
    passfile = tmp_path / "pgpass"
    passfile.touch(0o600)
    passfile.write_text(f"*:*:*:{USER}:{postgres.password}\n")
    folder = tmp_path / "instance"
    code, said = init(folder, "--database", url, PGPASSFILE=str(passfile))
    assert code == 0, said
    assert postgres.password not in (folder / "attestd.toml").read_text()
    assert attestd(folder, "doctor", PGPASSFILE=str(passfile))[0] == 0


@pytest.mark.parametrize("place", ["user", "query"])
def test_a_password_in_the_command_line_is_refused(tmp_path: Path, place: str) -> None:
    url = (
        "postgresql://attestd:hunter2@db/fleet" if place == "user" else "postgresql://attestd@db/fleet?password=hunter2"
    )
    code, said = init(tmp_path / "instance", "--database", url)
    assert code != 0
    assert "ATTESTD_DATABASE_URL" in said
    assert "hunter2" not in said
    assert not (tmp_path / "instance").exists()


@pytest.mark.parametrize("lie", ["password", "host", "name"])
def test_what_does_not_open_says_why_and_leaves_nothing(tmp_path: Path, postgres: Postgres, lie: str) -> None:
    url = with_password(
        postgres.tcp_url(postgres.fresh_database()), "hunter2" if lie == "password" else postgres.password
    )
    if lie == "host":
        url = url.replace("127.0.0.1", "127.0.0.2")
    if lie == "name":
        url = f"{url}-gone"
    code, said = init(tmp_path / "instance", ATTESTD_DATABASE_URL=url)
    assert code != 0
    assert "PostgreSQL" in said
    assert "Traceback" not in said
    assert "hunter2" not in said
    assert postgres.password not in said
    assert not list(tmp_path.iterdir())
