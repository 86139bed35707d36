"""`attestd policy diff`: what would another policy change, for whom?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli.appraise.verdicts import BAD, FileUnreadable, judging
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, table
from attestd.cli.policy.validate import parse_policy
from attestd.errors import MalformedInput

if TYPE_CHECKING:
    from attestd.policy.comparing import Replay, Texts
    from attestd.policy.recorded import Skipped

_COLUMNS = {"what": "WHAT", "was": "WAS", "becomes": "BECOMES", "decisions": "DECISIONS", "for_whom": "FOR"}
_SHOWN = 5  # of those whom a change is for


class NothingRecorded(MalformedInput):
    """There is no decision of policy in this file"""

    remedy = "Give the edge's log as JSON lines; with --verbose it holds what was allowed, too (docs/policies.md)."


def diff(
    new: Annotated[Path, typer.Argument(help="The policy that is to come.")],
    recorded: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An edge's log: its decisions are made again by NEW. - is standard input."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Compare with this policy; without --recorded and this: with the one in force."
        ),
    ] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Show which policies differ, and which recorded decisions would come out differently, for whom.

    Exit code 0: nothing would change. 1: something would. 2: the input can't be used.
    """
    from attestd.policy.comparing import compare, replay
    from attestd.policy.recorded import Skipped, read_lines

    with judging(as_json=as_json):
        after = parse_policy(new)
        texts, done, skipped = None, None, Skipped()
        if against is not None or recorded is None:
            from attestd.cli.policy.explain import in_force

            texts = compare(in_force(dir) if against is None else parse_policy(against), after)
        if recorded is not None:
            done = replay(read_lines(lines_of(recorded), skipped), after)
            if not done.decided:
                raise NothingRecorded(
                    f"{recorded} records no decision that could be made again.",
                    seen=f"{skipped.others} other lines, {skipped.damaged} damaged",
                )
        _tell(texts, done, skipped, as_json=as_json)
    if done.changed if done is not None else texts is not None and texts.differ:
        raise typer.Exit(BAD)


def lines_of(file: Path) -> Iterator[bytes]:
    """A log's lines within bounds: of a longer one the beginning, which is damaged then. Raises FileUnreadable."""
    from attestd.policy.recorded import MAX_LINE

    try:
        with open(0, "rb", closefd=False) if str(file) == "-" else file.open("rb") as opened:
            while line := opened.readline(MAX_LINE + 1):
                yield line
                while line and len(line) > MAX_LINE and not line.endswith(b"\n"):
                    line = opened.readline(MAX_LINE + 1)
    except OSError as error:
        raise FileUnreadable(f"{file} can't be read: {os.strerror(error.errno or 0)}.") from None


def _tell(texts: Texts | None, done: Replay | None, skipped: Skipped, *, as_json: bool) -> None:
    document: dict[str, Any] = {}
    lines: list[str] = []
    if texts is not None:
        document["texts"] = {"added": texts.added, "removed": texts.removed, "changed": texts.changed}
        lines += [f"{how + ':':<9}{', '.join(names)}" for how, names in document["texts"].items() if names]
        lines = lines or ["The policies are the same."]
    if done is not None:
        rows: list[dict[str, Any]] = [
            {
                "what": change.what,
                "was": _verdict(not change.allowed, change.before),
                "becomes": _verdict(change.allowed, change.after),
                "reasons": dict(affected.reasons.most_common()),
                "decisions": affected.who.total(),
                "who": dict(affected.who.most_common()),
            }
            for change, affected in sorted(done.changes.items(), key=lambda found: -found[1].who.total())
        ]
        document["recorded"] = {
            "decided": done.decided,
            "changed": done.changed,
            "others_decide": done.others_decide,
            "policy_versions": sorted(done.versions),
            "other_lines": skipped.others,
            "damaged_lines": skipped.damaged,
            "changes": rows,
        }
        lines += [
            f"{done.changed} of {done.decided} recorded decisions would come out differently.",
            *([table([row | {"for_whom": _some(row["who"])} for row in rows], _COLUMNS, empty="")] if rows else []),
            *(f"  {row['what']}: {reason}" for row in rows for reason in row["reasons"]),
        ]
        if done.others_decide:
            lines.append(f"{done.others_decide} come out the same, by other policies.")
        if skipped.damaged:
            lines.append(f"{skipped.damaged} lines can't be read.")
    emit(document, as_json=as_json, text="\n".join(lines))


def _verdict(allowed: bool, policies: tuple[str, ...]) -> str:
    return f"{'allow' if allowed else 'deny'} by {', '.join(policies) or 'no policy'}"


def _some(who: dict[str, int]) -> str:
    shown = ", ".join(list(who)[:_SHOWN])
    return shown if len(who) <= _SHOWN else f"{shown} and {len(who) - _SHOWN} more"
