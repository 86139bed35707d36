"""Decisions as edges record them: one JSON object a line, with all that a policy may have looked at.

An edge writes such a line for every crossing that policy refused, and with `--verbose` for every one that it allowed.
Its members `attempt`, `decision`, `policies` and `policy_version` are written and read here, so that what was decided
can be decided again by another policy. Beside them a line holds what logs hold (docs/policies.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from attestd.errors import AttestdError, MalformedInput
from attestd.policy.decisions import Decision
from attestd.policy.situations import Situation
from attestd.protocol.encoding import Members, read_object

MAX_LINE = 256 * 1024  # octets
LONGEST_PATH: Final = 2048  # characters that are recorded


class NotADecision(MalformedInput):
    """This line records no decision of a policy"""

    remedy = "Give the edge's own log, as it came: docs/policies.md says how to get it."


@dataclass(frozen=True)
class Recorded:
    """One decision as it was made."""

    situation: Situation
    allowed: bool
    policies: tuple[str, ...]
    policy_version: int
    request_id: str
    who: str  # the SPIFFE ID, or the device's id

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Raises NotADecision for a line about something else, MalformedInput for one that is damaged."""
        members = read_object(line, limit=MAX_LINE, name="line")
        if "attempt" not in members or "decision" not in members:
            raise NotADecision
        line_ = Members(members, "line")
        verdict = line_.text("decision", limit=16)
        if verdict not in ("allow", "deny"):
            raise MalformedInput("This is no decision.", seen=repr(verdict), expected="allow or deny")
        situation = Situation.read(line_.object("attempt"))
        return cls(
            situation,
            verdict == "allow",
            line_.texts("policies", most=1000),
            line_.integer("policy_version"),
            line_.text("request_id", limit=64) if "request_id" in line_ else "",
            line_.text("spiffe_id", limit=512) if "spiffe_id" in line_ else situation.device_id,
        )


def record(situation: Situation, decision: Decision) -> dict[str, Any]:
    """The members of a line. Without `attempt` where the path is too long to keep: it can't be decided again then."""
    done: dict[str, Any] = {
        "decision": "allow" if decision.allowed else "deny",
        "policies": decision.policy_ids,
        "policy_version": decision.policy_version,
    }
    if situation.crossing is None or len(situation.crossing.path) <= LONGEST_PATH:
        done["attempt"] = situation.to_members()
    return done


@dataclass(slots=True)
class Skipped:
    """Lines that could not be decided again: about something else, or damaged."""

    others: int = 0
    damaged: int = 0


def read_lines(lines: Iterable[bytes], skipped: Skipped) -> Iterator[Recorded]:
    """The decisions among the lines; the rest is counted."""
    for line in lines:
        if not line.strip():
            continue
        try:
            yield Recorded.read(line)
        except NotADecision:
            skipped.others += 1
        except AttestdError:
            skipped.damaged += 1
