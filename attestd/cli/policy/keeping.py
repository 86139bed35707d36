"""The policy that a service keeps: looked at, put in force, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from attestd.cli.calls import service
from attestd.cli.devices import read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json, Reason
from attestd.cli.output import emit, failing, moment, say, table

_COLUMNS = {"version": "VERSION", "when": "IN FORCE SINCE", "created_by": "BY"}


def show(
    version: Annotated[int | None, typer.Argument(help="A version; left out: the one in force.", min=1)] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Print the policy in force, or an older version."""
    with failing(as_json=as_json):
        done = service(dir).get("/policy" if version is None else f"/policy/versions/{version}")
        emit(done, as_json=as_json, text=done["text"].rstrip("\n"))


def set_(
    file: Annotated[Path, typer.Argument(help="Cedar policies.")],
    over: Annotated[
        int | None, typer.Option(help="Only if this version is in force still: the one that you began at.", min=1)
    ] = None,
    reason: Reason = "",
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Put a policy in force. It is checked against the schema first; edges have it within a second or two."""
    with failing(as_json=as_json):
        text = read_file(file).decode("utf-8", "replace")
        message = {"text": text} | ({} if over is None else {"expected_version": over})
        done = service(dir).put("/policy", message | ({"reason": reason} if reason else {}))
        emit(
            done,
            as_json=as_json,
            text=f"Policy version {done['version']} is in force. Back again: attestd policy rollback",
        )


def history(
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=1000)] = 20,
    before: Annotated[int | None, typer.Option(help="Older than this version only.", min=1)] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """List the policy's versions, the newest first."""
    with failing(as_json=as_json):
        asked = urlencode({"limit": limit} | ({} if before is None else {"before": before}))
        found: list[dict[str, Any]] = service(dir).get(f"/policy/versions?{asked}")["versions"]
        rows = [entry | {"when": moment(entry["created_at"])} for entry in found]
        emit(found, as_json=as_json, text=table(rows, _COLUMNS, empty="No versions."))


def rollback(
    version: Annotated[
        int | None, typer.Argument(help="Whose text to go back to; left out: what was in force before.", min=1)
    ] = None,
    reason: Reason = "",
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Put an older policy in force again. It becomes a new, higher version, and edges have it as fast as any other.

    Without VERSION: what was in force before the text of today. Repeated, it goes back further each time.
    """
    with failing(as_json=as_json):
        message: dict[str, Any] = {} if version is None else {"to": version}
        done = service(dir).post("/policy/rollback", message | ({"reason": reason} if reason else {}))
        emit(
            done,
            as_json=as_json,
            text=f"Policy version {done['version']} is in force, with the text of version {done['of']}.",
        )


def default() -> None:
    """Print the policy that a new instance starts with, as a start for your own."""
    from attestd.policy import default_policy

    say(default_policy().rstrip("\n"))


def schema() -> None:
    """Print the schema: all that a policy may speak of, in Cedar's language."""
    from attestd.policy import published_schema

    say(published_schema().rstrip("\n"))
