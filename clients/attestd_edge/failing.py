"""What a command that fails says, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from attestd.errors import AttestdError, Misconfigured, Unavailable

FAILED, MISCONFIGURED, UNAVAILABLE = 1, 3, 4


@contextmanager
def failing(*, as_json: bool) -> Iterator[None]:
    """Turns typed errors into words on stderr and exit codes."""
    try:
        yield
    except AttestdError as error:
        members = {"detail": error.detail, "seen": error.seen, "expected": error.expected, "remedy": error.what_to_do}
        if as_json:
            typer.echo(json.dumps({"error": error.slug()} | {k: v for k, v in members.items() if v}), err=True)
        else:
            typer.echo(f"error: {members.pop('detail')}", err=True)
            for name, value in members.items():
                if value:
                    typer.echo(f"  {name + ':':<10}{value}", err=True)
        code = MISCONFIGURED if isinstance(error, Misconfigured) else FAILED
        raise typer.Exit(UNAVAILABLE if isinstance(error, Unavailable) else code) from None
