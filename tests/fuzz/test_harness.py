"""The fuzzer finds what there is to find, says where, and makes it small."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attestd.errors import MalformedInput
from tests.fuzz import harness
from tests.fuzz.__main__ import ROOT
from tests.fuzz.harness import Target, TooSlow, find_of, minimized, mutants_of


def fails_at_an_x(data: bytes) -> None:
    if b"x" in data:
        raise KeyError(data)
    raise MalformedInput


BAD = Target("bad", fails_at_an_x, lambda: [b"abc"], words=(b"x",))


def test_a_named_error_is_an_answer_and_any_other_a_find() -> None:
    assert BAD(b"abc") is False
    assert Target("good", len, lambda: [b""])(b"abc") is True
    with pytest.raises(KeyError):
        BAD(b"axc")


def test_an_oracle_that_is_contradicted_is_a_find() -> None:
    def wrong(data: bytes) -> None:
        assert data == b"truth"

    with pytest.raises(AssertionError):
        Target("oracle", wrong, lambda: [b"truth"])(b"lie")


def test_taking_too_long_is_a_find(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 1.5))
    monkeypatch.setattr(harness.time, "process_time", lambda: next(times))
    with pytest.raises(TooSlow):
        Target("slow", len, lambda: [b""])(b"")


def test_a_find_s_place_and_its_smallest_input() -> None:
    data = b"a" * 300 + b"x" + b"b" * 300
    place = find_of(BAD, data)
    assert place is not None
    assert (place[0], Path(place[1]).name) == ("KeyError", "test_harness.py")
    assert minimized(BAD, data) == b"x"
    assert find_of(BAD, b"abc") is None


def test_the_same_mutants_every_time() -> None:
    first, second = (list(mutants_of(BAD, [b"abcdefgh"], 50)) for _ in range(2))
    assert first == second
    assert len(set(first)) > 30


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is for Linux on x86-64: nothing is guided here"
)
def test_a_target_runs_under_coverage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.guided", "base64", str(tmp_path), "1"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Instrumenting attestd.protocol.encoding" in done.stderr
    assert "DONE" in done.stderr
    assert list((tmp_path / "corpus").iterdir())
