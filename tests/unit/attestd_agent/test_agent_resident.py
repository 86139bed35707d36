"""What `attestd-agent run` becomes: the same options, and nothing of the command line."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd_agent import resident
from attestd_agent.assemble import Options
from attestd_agent.failures import TpmUnavailable
from attestd_agent.outcomes import TPM


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = kept


class Became(BaseException):
    """What comes after execve(2) is another program."""


@pytest.mark.parametrize(
    "options",
    [
        Options(Path("/var/lib/agent")),
        Options(
            Path("/s p a c e"),
            "swtpm:path=x",
            "https://a.test",
            "sha256:00",
            "ecc-p256",
            Path('an "ek".pem'),
            "0x81020001",
            Path("an iak.pem"),
            Path("an event log"),
            Path("a list"),
        ),
    ],
    ids=["few", "all"],
)
def test_its_options_arrive_whole(monkeypatch: pytest.MonkeyPatch, options: Options) -> None:
    seen: list[Any] = []

    def execv(program: str, words: list[str]) -> None:
        assert program == words[0] == sys.executable
        assert words[1:4] == ["-P", "-m", "attestd_agent.resident"]
        seen.append(words[4])
        raise Became

    def assemble(given: Options, **_: object) -> None:
        seen.append(given)
        raise TpmUnavailable

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(resident, "assemble", assemble)
    monkeypatch.setattr("attestd_agent.daemon.StopRequest.listen", lambda stop, **_: None)
    with pytest.raises(Became):
        resident.become(options, check_in=60.0, as_json=True, debug=False)
    assert resident.main(seen[0]) == TPM
    assert seen[1] == options
    assert json.loads(seen[0])["check_in"] == 60.0


def test_errors_are_told_as_by_any_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = {"options": {"state_dir": "/nowhere", "ek_certificate": None}, "as_json": True, "debug": False}
    monkeypatch.setattr("attestd_agent.daemon.StopRequest.listen", lambda stop, **_: None)
    assert resident.main(json.dumps(told)) == 2
    assert json.loads(capsys.readouterr().out)["error"]["name"] == "server-not-named"


def test_it_holds_nothing_that_only_commands_need() -> None:
    """Each of these takes megabytes, for months, on a device that may have few."""
    unwanted = ("typer", "click", "rich", "pygments", "pydantic", "httpx", "urllib.request", "sqlalchemy", "flask")
    code = f"import sys, attestd_agent.resident; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
