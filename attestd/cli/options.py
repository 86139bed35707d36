"""The options that every command takes."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Dir = Annotated[
    Path, typer.Option("--dir", envvar="ATTESTD_DIR", help="The instance's folder.", show_default=True, metavar="DIR")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it goes into the audit trail.")]
DEFAULT_DIR = Path(".attestd")


@dataclass(frozen=True, slots=True)
class Remote:
    """A service elsewhere, and who calls it: the options that come before the command."""

    server: str
    key: Path
    credential: Path


elsewhere: ContextVar[Remote | None] = ContextVar("elsewhere", default=None)
