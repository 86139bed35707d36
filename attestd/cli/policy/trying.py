"""`attestd policy dry-run`: what would a policy change of what crossed lately, by the receipts that the service has?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attestd.cli.appraise.verdicts import BAD
from attestd.cli.calls import service
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, table
from attestd.cli.policy.validate import read_policy
from attestd.errors import MalformedInput

_COLUMNS = {"boundary": "BOUNDARY", "labels": "DATA", "becomes": "BECOMES", "count": "DECISIONS", "who": "FOR"}
_LEFT = {
    "not_policy": "were refused before any policy was asked",
    "no_facts": "were of devices whose certificate of that time is not kept any more",
    "claims": "depend on what the sender claimed, which receipts do not hold",
    "otherwise": "come out otherwise by the policy of that time: something that the edge saw is not known here",
    "unreadable": "can't be read",
}


class NothingToTry(MalformedInput):
    """It is not clear what is to be tried"""

    remedy = "Name a file with a policy, or --version with one of `attestd policy history`."


def dry_run(
    new: Annotated[Path | None, typer.Argument(help="The policy that is to come; - is standard input.")] = None,
    version: Annotated[int | None, typer.Option(help="An older version instead, as a rollback would.", min=1)] = None,
    hours: Annotated[int, typer.Option(help="What crossed in so many hours until now.", min=1, max=744)] = 24,
    site: Annotated[str | None, typer.Option(help="Only what edges at this site decided.")] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Decide again what crossed lately, by another policy: what would newly be allowed, and newly denied, for whom.

    It needs boundaries that demand receipts; `attestd policy diff --recorded` does the same with an edge's own log.
    Exit code 0: nothing would change. 1: something would, or it was refused.
    """
    with failing(as_json=as_json):
        if (new is None) == (version is None):
            raise NothingToTry(expected="a file, or --version")
        message: dict[str, Any] = {"window": hours} | ({} if site is None else {"site": site})
        message |= {"version": version} if new is None else {"text": read_policy(new)}
        found = service(dir).post("/policy/dry-run", message)
        emit(found, as_json=as_json, text="\n".join(_lines(found)))
        if found["newly_allowed"] or found["newly_denied"]:
            raise typer.Exit(BAD)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{how + ':':<9}{', '.join(names)}" for how, names in found["policies"].items() if names]
    lines.append(
        f"{found['newly_allowed']} newly allowed and {found['newly_denied']} newly denied, of {found['judged']} "
        f"decisions of the last {found['window']} h that receipts have, against version {found['in_force']}."
    )
    if not found["whole"]:
        lines.append("There was not the time for all: these are the newest.")
    rows = [
        group
        | {
            "labels": ", ".join(f"{name}={text}" for name, text in group["labels"].items()),
            "who": ", ".join(group["examples"]) + (f" of {group['devices']}" if group["devices"] > 5 else ""),
        }
        for group in found["groups"]
    ]
    if rows:
        lines.append(table(rows, _COLUMNS, empty=""))
    lines += [
        f"  {group['boundary']}, {group['becomes']}: {because['policy']}: {because['why']}"
        for group in found["groups"]
        for because in group["because"]
    ]
    lines += [f"Left out: {count} {_LEFT.get(why, why)}." for why, count in found["left_out"].items()]
    lines += [
        f"Not covered: {each['boundary']}, {each['allowed'] + each['denied']} decisions without a receipt."
        for each in found["covered"]
        if not each["judged"]
    ]
    return lines
