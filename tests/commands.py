"""Commands run in this process: their exit code, what they print, and what they say on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from attestd.cli.main import app


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def problem(self) -> str:
        """The name of the error that --json puts on stderr."""
        return str(json.loads(self.err.splitlines()[-1])["error"])


Run = Callable[..., Ran]


def invoke(*arguments: object, answers: str = "") -> Ran:
    """`attestd` with these arguments; `answers` are lines typed when asked."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=answers)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def run() -> Run:
    """`run("appraise", "ek", file)`"""
    return invoke
