"""How commands speak: text for people, JSON with --json, errors on stderr, exit codes that mean something.

0  done          1  refused or failed          2  wrong usage          3  the instance is missing or misconfigured
4  the service or the database can't be reached now
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import typer

from attestd.errors import AttestdError, Misconfigured, Unavailable

FAILED, MISCONFIGURED, UNAVAILABLE = 1, 3, 4


def say(text: str) -> None:
    typer.echo(text)


def emit(document: object, *, as_json: bool, text: str) -> None:
    """`document` for machines, `text` for people."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False) if as_json else text)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, empty: str) -> str:
    """Aligned columns: member name -> heading. `empty` is said where there are no rows."""
    if not rows:
        return empty
    cells = [list(columns.values())]
    cells += [["-" if row.get(name) in (None, "") else str(row[name]) for name in columns] for row in rows]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def moment(seconds: int | None) -> str:
    """Unix seconds as UTC for people."""
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


@contextmanager
def failing(*, as_json: bool = False) -> Iterator[None]:
    """Turns typed errors into words and exit codes."""
    try:
        yield
    except AttestdError as error:
        report(error, as_json=as_json)
        raise typer.Exit(_code(error)) from None


def report(error: AttestdError, *, as_json: bool = False) -> None:
    """One error on stderr: what failed, what was seen and expected, what to do."""
    if as_json:
        document = {"error": error.slug(), "detail": error.detail, "remedy": error.what_to_do}
        document |= {name: value for name, value in (("seen", error.seen), ("expected", error.expected)) if value}
        print(json.dumps(document, ensure_ascii=False), file=sys.stderr)
        return
    print(f"error: {error.detail}", file=sys.stderr)
    for name, value in (("seen", error.seen), ("expected", error.expected), ("do", error.what_to_do)):
        if value:
            print(f"  {name + ':':<10}{value}", file=sys.stderr)


def _code(error: AttestdError) -> int:
    if isinstance(error, Misconfigured):
        return MISCONFIGURED
    return UNAVAILABLE if isinstance(error, Unavailable) else FAILED
