"""A new policy beside an old one: which policies differ, and which recorded decisions would have come out differently.

What was decided is taken from the record. What the new policy says is decided again, about the same attempt at the same
moment. So a change shows whatever it comes from: another text, or another version of the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from attestd.policy.policies import PolicySet
from attestd.policy.recorded import Recorded


@dataclass(frozen=True, slots=True)
class Texts:
    """Policies by their ids: only in the new set, only in the old one, in both and not the same."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def differ(self) -> bool:
        """Whether there is any difference."""
        return bool(self.added or self.removed or self.changed)


def compare(old: PolicySet, new: PolicySet) -> Texts:
    """By @id; comments and white space are no difference."""
    before, after = _by_id(old), _by_id(new)
    return Texts(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
    )


def _by_id(policies: PolicySet) -> Mapping[str, object]:
    found = policies.tree.static_policies.items()
    return {policies.ids[name]: replace(policy, id="") for name, policy in found}


@dataclass(frozen=True, slots=True)
class Change:
    """What changes alike: at one boundary, from one verdict to the other, by the same policies."""

    what: str
    allowed: bool  # by the new set
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(slots=True)
class Affected:
    """Whom a change is for, and the new set's reasons, each with how many decisions."""

    who: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Replay:
    """Recorded decisions made again, and what of them changes."""

    decided: int = 0
    versions: Counter[int] = field(default_factory=Counter)
    others_decide: int = 0  # the same verdict, by other policies
    changes: dict[Change, Affected] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """How many decisions would have come out differently."""
        return sum(affected.who.total() for affected in self.changes.values())


def replay(recorded: Iterable[Recorded], new: PolicySet) -> Replay:
    """Each decision again, by the new set."""
    done = Replay()
    for one in recorded:
        decision = one.situation.decide(new)
        done.decided += 1
        done.versions[one.policy_version] += 1
        if decision.allowed is one.allowed:
            done.others_decide += decision.policy_ids != tuple(sorted(one.policies))
            continue
        change = Change(one.situation.what, decision.allowed, one.policies, decision.policy_ids)
        affected = done.changes.setdefault(change, Affected())
        affected.who[one.who] += 1
        affected.reasons.update(decision.reasons)
    return done
