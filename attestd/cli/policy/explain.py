"""`attestd policy explain`: which policies decide an attempt, and why the others do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli.appraise.verdicts import BAD, judging, read_input
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, table
from attestd.cli.policy.diff import lines_of
from attestd.cli.policy.validate import parse_policy
from attestd.errors import MalformedInput

if TYPE_CHECKING:
    from attestd.policy import PolicySet
    from attestd.policy.explaining import Explanation
    from attestd.policy.situations import Situation

_COLUMNS = {"policy": "POLICY", "line": "LINE", "effect": "EFFECT", "part": "PART", "why": "WHY"}
_ATTEMPT = "The attempt, member by member"
_MANY = {"rich_help_panel": _ATTEMPT, "metavar": "NAME=VALUE"}


class AttemptUnclear(MalformedInput):
    """It is not clear which attempt is meant"""

    remedy = "Name one: a file, a recorded decision by its request id, or the options."


def explain(
    attempt: Annotated[
        Path | None, typer.Argument(help="The attempt as a file, in TOML or JSON; or expectations, with --case.")
    ] = None,
    case: Annotated[str | None, typer.Option(help="The expectation of this name, in that file.")] = None,
    recorded: Annotated[Path | None, typer.Option(metavar="FILE", help="An edge's log, with --request-id.")] = None,
    request_id: Annotated[
        str | None, typer.Option(help="The decision of this request, as the caller was told.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="By this policy; left out: by the one in force.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="The device's id.", rich_help_panel=_ATTEMPT)] = None,
    tier: Annotated[str, typer.Option(help="Its tier.", rich_help_panel=_ATTEMPT)] = "device",
    site: Annotated[str, typer.Option(help="Its home site.", rich_help_panel=_ATTEMPT)] = "",
    trust: Annotated[list[str] | None, typer.Option(help="A claim's tier: executables=affirming.", **_MANY)] = None,
    label: Annotated[list[str] | None, typer.Option(help="A label of the device.", **_MANY)] = None,
    boot: Annotated[list[str] | None, typer.Option(help="A boot fact: secure_boot=true.", **_MANY)] = None,
    boundary: Annotated[str | None, typer.Option(help="The boundary's name.", rich_help_panel=_ATTEMPT)] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="TIER[/SITE]", help="Where it begins.", rich_help_panel=_ATTEMPT)
    ] = "device",
    end: Annotated[str, typer.Option("--to", metavar="TIER/SITE", help="Where to.", rich_help_panel=_ATTEMPT)] = "",
    method: Annotated[str, typer.Option(help="The request's method.", rich_help_panel=_ATTEMPT)] = "GET",
    path: Annotated[str, typer.Option(help="Its path, decoded.", rich_help_panel=_ATTEMPT)] = "/",
    data_label: Annotated[list[str] | None, typer.Option(help="A label of the data.", **_MANY)] = None,
    claim: Annotated[list[str] | None, typer.Option(help="What the sender claims of the data.", **_MANY)] = None,
    audience: Annotated[
        str | None, typer.Option(help="Ask for a token for this audience instead.", rich_help_panel=_ATTEMPT)
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When; now if left out.", rich_help_panel=_ATTEMPT)
    ] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Say which policies decide an attempt, and what keeps the others from it.

    Exit code 0: it is allowed. 1: it is denied. 2: the input can't be used.
    """
    from attestd.policy.explaining import explain as explained

    with judging(as_json=as_json):
        if (attempt is not None) + (recorded is not None) + (device is not None) != 1:
            raise AttemptUnclear(expected="one of FILE, --recorded and --device")
        if attempt is not None:
            situation = _from_file(attempt, case)
        elif recorded is not None:
            situation = _from_log(recorded, request_id)
        else:
            situation = _from_options(
                {
                    "device": {
                        "id": device,
                        "tier": tier,
                        "site": site,
                        "trust": _pairs(trust),
                        "labels": _pairs(label),
                        "boot": {name: _fact(text) for name, text in _pairs(boot).items()},
                    },
                    "at": at,
                },
                {"audience": audience}
                if audience is not None
                else {
                    "boundary": {"name": boundary or "", "from": _end(start), "to": _end(end)},
                    "method": method,
                    "path": path,
                    "labels": _pairs(data_label),
                    "claims": _pairs(claim),
                },
            )
        done = explained(parse_policy(policy) if policy is not None else in_force(dir), situation)
        _tell(situation, done, as_json=as_json)
    if not done.decision.allowed:
        raise typer.Exit(BAD)


def in_force(dir: Path) -> PolicySet:
    """The policy that the service has. Raises what calling it does, and PolicyInvalid."""
    from attestd.cli.calls import service
    from attestd.policy import PolicySet

    stored = service(dir).get("/policy")
    return PolicySet.parse(stored["text"], stored["version"])


def _from_file(file: Path, case: str | None) -> Situation:
    from attestd.policy.expectations import MAX_FILE, Expectations, parse_situation

    data, toml = read_input(file, limit=MAX_FILE), file.suffix != ".json"
    if case is None:
        return parse_situation(data, toml=toml)
    for one in Expectations.parse(data, toml=toml).expected:
        if one.name == case:
            return one.situation
    raise AttemptUnclear(f"{file} has no expectation of that name.", seen=repr(case))


def _from_log(file: Path, request_id: str | None) -> Situation:
    from attestd.policy.recorded import Skipped, read_lines

    if request_id is None:
        raise AttemptUnclear(expected="--request-id")
    for one in read_lines(lines_of(file), Skipped()):
        if one.request_id == request_id:
            return one.situation
    raise AttemptUnclear(f"{file} records no decision of policy on that request.", seen=repr(request_id))


def _from_options(who: dict[str, Any], what: dict[str, Any]) -> Situation:
    from datetime import UTC, datetime

    from attestd.policy.situations import Situation
    from attestd.protocol.encoding import Members

    who["at"] = who["at"] or datetime.now(UTC).isoformat(timespec="seconds")
    return Situation.read(Members(who | what, "attempt"))


def _pairs(texts: Sequence[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or name in found:
            raise AttemptUnclear("This is not one NAME=VALUE for each name.", seen=repr(text[:80]))
        found[name] = value
    return found


def _fact(text: str) -> str | bool | int:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?[0-9]{1,16}", text, re.ASCII) else text


def _end(text: str) -> dict[str, str]:
    tier, slash, site = text.partition("/")
    return {"tier": tier} | ({"site": site} if slash else {})


def _tell(situation: Situation, done: Explanation, *, as_json: bool) -> None:
    decision = done.decision
    rows = [{"policy": one.policy, "line": one.line, "effect": one.effect, "part": one.part, "why": one.why}
            for one in done.policies]  # fmt: skip
    verdict = "allow" if decision.allowed else "deny"
    document = {
        "decision": verdict,
        "decided_by": list(decision.policy_ids),
        "reasons": list(decision.reasons),
        "policy_version": decision.policy_version,
        "attempt": situation.to_members(),
        "policies": rows,
    }
    by = f"by {', '.join(decision.policy_ids)}" if decision.policy_ids else "by no policy: what none permits is denied"
    lines = [f"{verdict}: {situation.device_id} at {situation.what}, {by}"]
    lines += [f"  because  {reason}" for reason in decision.reasons]
    emit(document, as_json=as_json, text="\n".join([*lines, "", table(rows, _COLUMNS, empty="There are no policies.")]))
