"""What a policy is expected to decide: a file of attempts and verdicts, in TOML or JSON.

    policy = "eu-data.cedar"                 # beside this file; another one can be named when it is run

    [devices.gateway]                        # its id is the name here, unless it says another
    tier = "edge"
    site = "munich"
    trust = { instance-identity = "affirming" }

    [boundaries.munich-to-virginia]
    from = { tier = "edge", site = "munich" }
    to = { tier = "cloud", site = "virginia" }

    [[expect]]
    name = "EU data does not leave"
    device = "gateway"
    boundary = "munich-to-virginia"          # or: audience = "billing", for a token
    labels = { residency = "EU" }
    stale = "telemetry"                      # its edge hears nothing: only this class crosses; left out: it does hear
    decision = "deny"
    policies = ["eu-data-stays"]             # the ones that decide, all of them; left out: any

Everything is read before anything is decided, and what is not known is refused: an expectation with a misspelt member
would be about another attempt, and might hold.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from attestd.errors import InputTooLarge, MalformedInput
from attestd.policy.decisions import Decision
from attestd.policy.policies import PolicySet
from attestd.policy.situations import Situation
from attestd.protocol.encoding import Members, read_object

MAX_FILE = 1024 * 1024  # octets
MAX_EXPECTATIONS = 10_000
# For attempts that say no moment. Where the policy looks at the time, they have to.
_SOME_DAY: Final = "2026-01-01T12:00:00Z"
_ATTEMPT: Final = frozenset({"device", "boundary", "audience", "method", "path", "labels", "claims", "stale", "at"})


class ExpectationsUnclear(MalformedInput):
    """This does not say what a policy is expected to decide"""

    remedy = "docs/policies.md shows how expectations are written; examples/policies/ has some that hold."


@dataclass(frozen=True)
class Expectation:
    """One attempt, and what has to come of it. `policies`: exactly these decide; None: whichever do."""

    name: str
    situation: Situation
    allowed: bool
    policies: tuple[str, ...] | None
    timed: bool  # it says its moment

    def hold(self, policies: PolicySet) -> Outcome:
        """Against a policy set. Raises ExpectationsUnclear where the moment decides and none is said."""
        part = (
            policies.for_token(self.situation.audience)
            if self.situation.crossing is None
            else policies.for_crossing(self.situation.crossing.boundary.name, stale=self.situation.crossing.stale)
        )
        if not self.timed and (part.reads_time or "attested_at" in part.sees):
            raise ExpectationsUnclear(f"{self.name!r} has no moment, and the policy looks at the time.", expected="at")
        return Outcome(self, self.situation.decide(policies))


@dataclass(frozen=True)
class Outcome:
    """What was expected, and what was decided."""

    expected: Expectation
    decision: Decision

    @property
    def holds(self) -> bool:
        """Whether the one is the other."""
        if self.decision.allowed is not self.expected.allowed:
            return False
        return self.expected.policies is None or self.expected.policies == self.decision.policy_ids


@dataclass(frozen=True)
class Expectations:
    """A file of them. `policy` is the file's own word about which policy they are for."""

    policy: str | None
    expected: tuple[Expectation, ...]

    @classmethod
    def parse(cls, data: bytes, *, toml: bool) -> Self:
        """Raises MalformedInput or InputTooLarge, which name the place in the file."""
        members = Members(_object(data, toml=toml), "file")
        policy = members.text("policy", limit=256) if "policy" in members else None
        devices, boundaries = _named(members, "devices", "id"), _named(members, "boundaries", "name")
        found: list[Expectation] = []
        names: set[str] = set()
        for table in members.objects("expect", most=MAX_EXPECTATIONS):
            one = _expectation(table, devices, boundaries)
            if one.name in names:
                raise ExpectationsUnclear("Two expectations have one name.", seen=repr(one.name))
            names.add(one.name)
            found.append(one)
        members.done()
        if not found:
            raise ExpectationsUnclear("Nothing is expected here.", expected="at least one [[expect]]")
        return cls(policy, tuple(found))


def undecided_by(policies: PolicySet, outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """The policies that decided nothing of it: nobody would notice if they were gone."""
    used = {name for outcome in outcomes for name in outcome.decision.policy_ids}
    return tuple(name for name in policies.ids.values() if name not in used)


def parse_situation(data: bytes, *, toml: bool) -> Situation:
    """One attempt alone (situations.py), in TOML or JSON. Raises MalformedInput or InputTooLarge."""
    return Situation.read(Members({"at": _SOME_DAY} | _object(data, toml=toml), "attempt"))


def _object(data: bytes, *, toml: bool) -> dict[str, Any]:
    if not toml:
        return read_object(data, limit=MAX_FILE, name="file")
    if len(data) > MAX_FILE:
        raise InputTooLarge("The file is too large.", seen=f"{len(data)} octets", expected=f"at most {MAX_FILE}")
    try:
        # Through JSON, so that both are read by one set of rules. TOML's own moments become texts.
        return read_object(json.dumps(tomllib.loads(data.decode()), default=_text).encode(), limit=4 * MAX_FILE)
    except UnicodeDecodeError:
        raise ExpectationsUnclear("The file is not UTF-8.") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ExpectationsUnclear(f"The file is not TOML: {error}"[:300]) from None


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return str(value)


def _named(members: Members, table: str, own: str) -> Mapping[str, dict[str, Any]]:
    """Devices or boundaries by their names here, which are also what they are called unless they say otherwise."""
    if table not in members:
        return {}
    rows = members.object(table)
    return {name: {own: name} | dict(rows.object(name).items()) for name, _ in list(rows.items())}


def _expectation(
    table: Members, devices: Mapping[str, dict[str, Any]], boundaries: Mapping[str, dict[str, Any]]
) -> Expectation:
    name = table.text("name", limit=200)
    verdict = table.text("decision", limit=16)
    if verdict not in ("allow", "deny"):
        raise ExpectationsUnclear(f"{name!r} expects no decision.", seen=repr(verdict), expected="allow or deny")
    policies = tuple(sorted(table.texts("policies", most=100))) if "policies" in table else None
    given = {member: value for member, value in table.items() if member in _ATTEMPT}
    for member, rows in (("device", devices), ("boundary", boundaries)):
        if (called := given.get(member)) is None or isinstance(called, dict):
            continue
        if called not in rows:
            raise ExpectationsUnclear(
                f"{name!r} is about a {member} that is not described.", seen=repr(called)[:70], expected=sorted(rows)
            )
        given[member] = rows[called]
    unknown = {member for member, _ in table.items()} - _ATTEMPT - {"name", "decision", "policies"}
    if unknown:
        raise ExpectationsUnclear(f"{name!r} has members that nobody knows.", seen=", ".join(sorted(unknown))[:200])
    try:
        situation = Situation.read(Members({"at": _SOME_DAY} | given, f"expect {name!r}"))
    except MalformedInput as error:
        raise ExpectationsUnclear(f"{name!r}: {error.detail}", seen=error.seen, expected=error.expected) from None
    return Expectation(name, situation, verdict == "allow", policies, "at" in given)
