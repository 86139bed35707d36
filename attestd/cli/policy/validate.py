"""`attestd policy validate`: is this a policy, and where is it not?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attestd.cli.appraise.verdicts import BAD, judging, read_input
from attestd.cli.options import Json
from attestd.cli.output import emit
from attestd.errors import MalformedInput

if TYPE_CHECKING:
    from attestd.policy import PolicySet

_MAX_FILE = 256 * 1024  # octets: what the service takes


class NotText(MalformedInput):
    """The file is not text"""

    remedy = "Save it as UTF-8."


def read_policy(file: Path) -> str:
    """A policy file's text, as it stands. Raises FileUnreadable, InputTooLarge or NotText."""
    try:
        return read_input(file, limit=_MAX_FILE).decode()
    except UnicodeDecodeError as error:
        raise NotText(f"{file} is not UTF-8.", seen=f"octet {error.start}") from None


def parse_policy(file: Path, version: int = 0) -> PolicySet:
    """The policies of a file, valid. Raises what `read_policy` does, and PolicyInvalid, which then names the file."""
    from attestd.policy import PolicyInvalid, PolicySet

    try:
        return PolicySet.parse(read_policy(file), version)
    except PolicyInvalid as error:
        raise PolicyInvalid(f"{file}: {error.detail}", flaws=error.flaws, seen=error.seen) from None


def validate(
    file: Annotated[Path, typer.Argument(help="Cedar policies; - is standard input.")], as_json: Json = False
) -> None:
    """Check a policy against the schema, as the service does before it puts one in force.

    Each fault is a line on stderr: FILE:LINE:COLUMN: what. Exit code 0: valid. 1: not. 2: the file can't be read.
    """
    from attestd.policy import PolicyInvalid, PolicySet

    with judging(as_json=as_json):
        text = read_policy(file)
        try:
            found = PolicySet.parse(text, 0)
        except PolicyInvalid as error:
            flaws = [{"line": flaw.place.line, "column": flaw.place.column, "message": flaw.message}
                     for flaw in error.flaws]  # fmt: skip
            if as_json:
                emit({"valid": False, "policies": [], "flaws": flaws}, as_json=True, text="")
            for flaw in flaws or [{"line": 1, "column": 1, "message": error.detail}]:
                typer.echo(f"{file}:{flaw['line']}:{flaw['column']}: {flaw['message']}", err=True)
            raise typer.Exit(BAD) from None
        names = list(found.ids.values())
        emit(
            {"valid": True, "policies": names, "flaws": []},
            as_json=as_json,
            text=f"valid: {len(names)} policies ({', '.join(names)})" if names else "valid: no policies, so all denied",
        )
