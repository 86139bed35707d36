"""`attestd appraise ima`: what it tells, its exit codes, and that the reason is in plain words on stderr."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from attestd.cli.main import app
from tests import ima_lists as w

LIST = [
    w.boot_aggregate(),
    *(w.ng(f"/bin/f{number}") for number in range(20)),
    w.violation("/var/log/x"),
    w.ng("/last"),
]
PCRS = {bank: w.pcr10(LIST, bank).hex() for bank in w.SIZES}
LYING = [*LIST[:5], w.ng("/bin/f4", lies={"digest": b"\1" * 20}), *LIST[6:]]


def run(path: Path | str, *options: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["appraise", "ima", str(path), *options], input=given)


def told(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(params=["binary", "text"])
def form(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def path(form: str, tmp_path: Path) -> Path:
    return written(tmp_path, form, LIST)


def written(folder: Path, form: str, items: list[w.Item], tail: bytes = b"") -> Path:
    path = folder / "list"
    path.write_bytes((w.binary if form == "binary" else w.text)(items) + tail)
    return path


def test_a_list_that_parses_is_good(path: Path, form: str) -> None:
    result = run(path, "--json")
    assert result.exit_code == 0
    assert told(result) == {
        "entries": 23,
        "violations": 1,
        "pcr10": {"sha1": PCRS["sha1"], "sha256": PCRS["sha256"]},
        "matched_at": None,
        "form": form,
        "templates": {"ima-ng": 23},
        "wrong_template_digests": 0,
        "for_other_pcrs": 0,
        "boot_aggregate": f"sha256:{w.digest_of(b''.join(w.PCRS_0_TO_9)).hex()}",
    }
    assert result.stderr == ""


@pytest.mark.parametrize("bank", w.SIZES)
def test_a_list_that_reaches_the_given_pcr_is_good(path: Path, bank: str) -> None:
    result = run(path, "--json", "--pcr10", PCRS[bank])
    assert result.exit_code == 0
    document = told(result)
    assert (document["matched_at"], document["matched_bank"], document["extended"]) == (23, bank, "hashed")
    assert document["pcr10"][bank] == PCRS[bank]
    assert document["ignored"] == 0


def test_a_kernel_that_fills_up_sha1_digests(path: Path) -> None:
    document = told(run(path, "--json", "--pcr10", w.pcr10(LIST, padded=True).hex()))
    assert (document["matched_at"], document["extended"]) == (23, "padded")


@pytest.mark.parametrize("tail", [b"", b"garbage that is no entry" * 9, b"\n10 garbage\n"])
def test_what_follows_the_proven_entry_decides_nothing(form: str, tmp_path: Path, tail: bytes) -> None:
    path = written(tmp_path, form, [*LIST, w.violation("/evil"), LYING[5]], tail)
    result = run(path, "--json", "--pcr10", PCRS["sha256"])
    assert result.exit_code == 0
    document = told(result)
    assert (document["matched_at"], document["matched_violations"]) == (23, 1)
    assert document["ignored"] == 2
    assert ("unreadable_after" in document) is bool(tail)
    assert "ignored: 2 entries" in run(path, "--pcr10", PCRS["sha256"]).stdout


@pytest.mark.parametrize("pcr", ["00" * 32, "00" * 20, "ab" * 64])
def test_a_list_that_never_reaches_it_is_bad(path: Path, pcr: str) -> None:
    result = run(path, "--json", "--pcr10", pcr)
    assert result.exit_code == 1
    assert told(result)["matched_at"] is None
    assert json.loads(result.stderr)["error"] == "ima-list-mismatch"
    plain = run(path, "--pcr10", pcr)
    assert plain.exit_code == 1
    assert re.search(r"No entry of the IMA list replays.*\n  seen: +23 entries", plain.stderr)


def test_a_wrong_template_digest_is_bad(form: str, tmp_path: Path) -> None:
    path = written(tmp_path, form, LYING)
    for options in ([], ["--pcr10", PCRS["sha256"]]):
        result = run(path, "--json", *options)
        assert result.exit_code == 1
        assert told(result)["wrong_template_digests"] == 1
        assert json.loads(result.stderr)["seen"] == "entry 6"
    # In SHA-1's own bank the list's digest is what is extended, and another one replays to another value.
    assert run(path, "--pcr10", PCRS["sha1"]).exit_code == 1


@pytest.mark.parametrize("content", [b"", b"\n\n", b"nonsense", b"\0" * 100, w.binary(LIST)[:-1], w.text(LIST) + b"x"])
def test_unusable_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    for options in ([], ["--pcr10", "00" * 32]):
        result = run(path, "--json", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert json.loads(result.stderr)["detail"]


def test_files_and_values_that_are_not_there(path: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "missing").exit_code == 2
    assert "can't be read: No such file" in run(tmp_path / "missing").stderr
    assert run(tmp_path).exit_code == 2
    for value in ("zz", "", "00" * 31):
        assert run(path, "--pcr10", value).exit_code == 2


def test_standard_input(path: Path) -> None:
    """Where only a pipe has the list."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "attestd", "appraise", "ima", "-", "--json"]
    done = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["entries"] == 23
