"""`attestd policy test`: does a policy decide what is expected of it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli.appraise.verdicts import BAD, judging, read_input
from attestd.cli.options import Json
from attestd.cli.output import emit, table
from attestd.cli.policy.validate import parse_policy
from attestd.errors import MalformedInput

if TYPE_CHECKING:
    from attestd.policy.expectations import Outcome

_KINDS = (".test.toml", ".test.json")
_COLUMNS = {"file": "FILE", "name": "NAME", "expected": "EXPECTED", "decided": "DECIDED", "reasons": "BECAUSE"}


class NothingToTest(MalformedInput):
    """There is nothing to test here"""

    remedy = "Name a file of expectations, or a folder that holds some: *.test.toml or *.test.json."


def test(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE|DIR...", help="Expectations (docs/policies.md).")],
    policy: Annotated[
        Path | None, typer.Option(help="Test this policy, whatever the files say they are for.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check what a policy decides against what is expected of it. Needs no instance.

    Exit code 0: every expectation holds. 1: one does not. 2: a file can't be used.
    """
    from attestd.policy.expectations import MAX_FILE, Expectations, undecided_by

    with judging(as_json=as_json):
        outcomes: list[tuple[Path, Outcome]] = []
        by_policy: dict[Path, tuple[Any, list[Outcome]]] = {}
        for path in _files(paths):
            try:
                found = Expectations.parse(read_input(path, limit=MAX_FILE), toml=path.suffix != ".json")
            except MalformedInput as error:
                raise type(error)(f"{path}: {error.detail}", seen=error.seen, expected=error.expected) from None
            source = policy or (None if found.policy is None else path.parent / found.policy)
            if source is None:
                raise NothingToTest(
                    f"{path} does not say which policy it is for.", expected='policy = "…", or --policy'
                )
            policies, seen = by_policy.setdefault(source, (parse_policy(source), []))
            done = [one.hold(policies) for one in found.expected]
            seen += done
            outcomes += [(path, outcome) for outcome in done]
        idle = {str(file): undecided_by(policies, seen) for file, (policies, seen) in by_policy.items()}
        _tell(outcomes, {file: names for file, names in idle.items() if names}, as_json=as_json)
    if not all(outcome.holds for _, outcome in outcomes):
        raise typer.Exit(BAD)


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if file.name.endswith(_KINDS))
        if not inside:
            raise NothingToTest(f"{path} holds no expectations.")
        found += inside
    return found


def _tell(outcomes: Sequence[tuple[Path, Outcome]], idle: dict[str, tuple[str, ...]], *, as_json: bool) -> None:
    rows = [_members(path, outcome) for path, outcome in outcomes]
    failed = [row for row in rows if not row["holds"]]
    document = {"expectations": len(rows), "failed": len(failed), "outcomes": rows, "undecided_by": idle}
    lines = []
    if failed:
        shown = [
            row
            | {
                "expected": _verdict(row["expected"], row["expected_policies"]),
                "decided": _verdict(row["decided"], row["policies"]),
                "reasons": "; ".join(row["reasons"]),
            }
            for row in failed
        ]
        lines.append(table(shown, _COLUMNS, empty=""))
    lines.append(f"{len(rows) - len(failed)} of {len(rows)} expectations hold.")
    lines += [f"No expectation was decided by, of {file}: {', '.join(names)}" for file, names in idle.items()]
    emit(document, as_json=as_json, text="\n".join(lines))


def _members(path: Path, outcome: Outcome) -> dict[str, Any]:
    expected, decision = outcome.expected, outcome.decision
    return {
        "file": str(path),
        "name": expected.name,
        "holds": outcome.holds,
        "expected": "allow" if expected.allowed else "deny",
        "expected_policies": None if expected.policies is None else list(expected.policies),
        "decided": "allow" if decision.allowed else "deny",
        "policies": list(decision.policy_ids),
        "reasons": list(decision.reasons),
    }


def _verdict(verdict: str, policies: Sequence[str] | None) -> str:
    if policies is None:
        return verdict
    return f"{verdict} by {', '.join(policies) or 'no policy'}"
