"""What another policy would change of what was decided lately, grouped by what changes alike.

The edge's own code decides (`decide`), about attempts as they were. An attempt counts only if the policy that decided
it then decides it so again from what is known of it: what was not kept (the sender's claims, an edge that was cut off)
would else be guessed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from attestd.policy.decisions import Decision, decide
from attestd.policy.entities import Look
from attestd.policy.explaining import DECIDED, FAILED, SILENT, explain
from attestd.policy.policies import PolicySet
from attestd.policy.situations import Situation

MAX_KEPT: Final = 20_000  # decisions that are remembered
MAX_GROUPS: Final = 200
MAX_WHO: Final = 1000  # devices that are counted by name in one group
MAX_EXPLAINED: Final = 200  # policies
EXAMPLES: Final = 5
_MOST_REASONS: Final = 10
_TEXT: Final = 300


class Judge:
    """One set of policies that is asked often: what it decided of the same attempt is remembered, as an edge does."""

    def __init__(self, policies: PolicySet) -> None:
        self.policies = policies
        self._known: dict[object, Decision] = {}

    def decide(self, situation: Situation) -> Decision:
        """About a crossing."""
        crossing = situation.crossing
        assert crossing is not None  # noqa: S101 - receipts are of crossings
        part = self.policies.for_crossing(crossing.boundary.name, stale=crossing.stale)
        look = Look.seen(
            part,
            situation.facts.labels,
            situation.facts,
            device_id=situation.device_id,
            tier=situation.tier,
            site=situation.site,
        )
        if part.reads_time:
            return decide(self.policies, look, crossing, situation.now)
        labels = tuple(sorted(crossing.labels.items()))
        asked = (crossing.method, crossing.path) if part.reads_request else None
        key = look, crossing.boundary.key, labels, asked, crossing.stale
        known = self._known.get(key)
        if known is None:
            known = decide(self.policies, look, crossing, situation.now)
            if len(self._known) < MAX_KEPT:
                self._known[key] = known
        return known


class Left(Enum):
    """Why an attempt was not judged again."""

    NOT_POLICY = "not_policy"  # no policy was asked: no credential, a quarantined device, …
    NO_FACTS = "no_facts"  # its credential is not kept any more
    CLAIMS = "claims"  # a policy looks at the sender's claims, which receipts do not have
    OTHERWISE = "otherwise"  # the policy of then comes out otherwise: something that it saw is not known here
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Group:
    """What changes alike: at one boundary, for data of the same labels, to one verdict, by the same policies."""

    boundary: str
    from_tier: str
    from_site: str | None
    to_tier: str
    to_site: str
    labels: tuple[tuple[str, str], ...]
    allowed: bool  # by the new policy
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(slots=True)
class Affected:
    """For how many attempts, and whom. `crossed`: of those, how many did cross when they came. `example` is one."""

    example: Situation
    count: int = 0
    crossed: int = 0
    who: Counter[str] = field(default_factory=Counter)
    more: int = 0  # attempts of devices that are not counted by name any more
    last_at: int = 0


@dataclass(frozen=True, slots=True)
class Because:
    """What one policy of the new set has to say of an example."""

    policy: str
    line: int
    why: str


@dataclass(slots=True)
class Trial:
    """A new set beside the one in force."""

    now: Judge
    new: Judge
    judged: int = 0
    crossed: int = 0
    left: Counter[Left] = field(default_factory=Counter)
    by_boundary: Counter[str] = field(default_factory=Counter)
    refused_by_boundary: Counter[str] = field(default_factory=Counter)  # refusals that were judged again
    groups: dict[Group, Affected] = field(default_factory=dict)
    newly_allowed: int = 0
    newly_denied: int = 0
    not_grouped: int = 0

    def consider(self, situation: Situation, *, allowed: bool, by: Judge | None) -> None:
        """An attempt that was decided by the policies of `by` (None: they are not kept)."""
        crossing = situation.crossing
        assert crossing is not None  # noqa: S101
        name = crossing.boundary.name
        asked = [judge for judge in (by, self.now, self.new) if judge is not None]
        if any(judge.policies.for_crossing(name).reads_claims for judge in asked):
            self.left[Left.CLAIMS] += 1
            return
        if by is None or by.decide(situation).allowed is not allowed:
            self.left[Left.OTHERWISE] += 1
            return
        before, after = self.now.decide(situation), self.new.decide(situation)
        self.judged += 1
        self.crossed += allowed
        self.by_boundary[name] += 1
        self.refused_by_boundary[name] += not allowed
        if before.allowed is after.allowed:
            return
        if after.allowed:
            self.newly_allowed += 1
        else:
            self.newly_denied += 1
        self._group(situation, before, after, allowed=allowed)

    def _group(self, situation: Situation, before: Decision, after: Decision, *, allowed: bool) -> None:
        crossing = situation.crossing
        assert crossing is not None  # noqa: S101
        there = crossing.boundary
        group = Group(
            there.name,
            there.from_tier.value,
            None if there.from_site is None else str(there.from_site),
            there.to_tier.value,
            str(there.to_site),
            tuple(sorted(crossing.labels.items())),
            after.allowed,
            before.policy_ids,
            after.policy_ids,
        )
        if group not in self.groups and len(self.groups) >= MAX_GROUPS:
            self.not_grouped += 1
            return
        affected = self.groups.setdefault(group, Affected(situation))
        affected.count += 1
        affected.crossed += allowed
        affected.last_at = max(affected.last_at, int(situation.now.timestamp()))
        who = str(situation.device_id)
        if who in affected.who or len(affected.who) < MAX_WHO:
            affected.who[who] += 1
        else:
            affected.more += 1

    def sorted_groups(self) -> list[tuple[Group, Affected]]:
        """What would newly be allowed first, then by how many."""
        return sorted(self.groups.items(), key=lambda found: (not found[0].allowed, -found[1].count, repr(found[0])))

    def because(self, affected: Affected) -> list[Because]:
        """Why the new set decides an example so: the policies that decide, or what kept those silent that might.
        Nothing of a set of very many policies, each of which would have to be asked."""
        if len(self.new.policies.ids) > MAX_EXPLAINED:
            return []
        explained = explain(self.new.policies, affected.example).policies
        decided = [one for one in explained if one.part in (DECIDED, FAILED)]
        silent = [one for one in explained if one.part == SILENT and one.effect == "permit" and "`" in one.why]
        return [Because(one.policy, one.line, one.why[:_TEXT]) for one in (decided or silent)[:_MOST_REASONS]]
