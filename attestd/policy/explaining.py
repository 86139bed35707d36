"""Why a decision came out as it did: what each policy had to say, and the part of it that made it silent.

The engine names the policies that decided and nothing about the others. So each of the others is asked again in pieces:
its scope alone, then what stands between its `&&`, one after the other, until one is false. The pieces are asked as the
engine's own nodes, about the same attempt, so what is said here is what the engine found, not another reading of Cedar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import cedarpy
from cedarpy import pst

from attestd.policy.decisions import Decision
from attestd.policy.policies import PolicySet
from attestd.policy.scopes import can_apply, is_of
from attestd.policy.situations import Situation
from attestd.policy.source import Source

DECIDED, OVERRULED, SILENT, FAILED = "decided", "overruled", "silent", "failed"
_FAILURES: Final = ("a policy can't be evaluated", "the policy engine failed")  # as decisions say it
_SHOWN = 400  # characters of a condition


@dataclass(frozen=True, slots=True)
class Explained:
    """One policy's part: `decided`, `overruled` (it permits, and another forbids), `silent` or `failed`, and why.

    One that fails decides, too: nothing passes then."""

    policy: str
    effect: str
    line: int
    part: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and what each policy had to do with it, in the order of the text."""

    decision: Decision
    policies: tuple[Explained, ...]


def explain(policies: PolicySet, situation: Situation) -> Explanation:
    """Decides, and asks every policy. Never raises, as deciding does not."""
    decision = situation.decide(policies)
    source = Source.read(policies.text)
    told = []
    for number, (name, policy) in enumerate(policies.tree.static_policies.items()):
        statement = source.statements[number] if number < len(source.statements) else ()
        line = source.place(statement[0].at).line if statement else 0
        shown = policies.ids.get(name, name)
        part, why = _part(policies, policy, situation, decision, shown)
        told.append(Explained(shown, policy.effect, line, part, why))
    return Explanation(decision, tuple(told))


def _part(
    policies: PolicySet, policy: pst.Template, situation: Situation, decision: Decision, shown: str
) -> tuple[str, str]:
    if shown in decision.policy_ids and not any(reason.startswith(_FAILURES) for reason in decision.reasons):
        return DECIDED, f"it {policy.effect}s this"
    kind, name, action = (
        ("Audience", situation.audience, "token")
        if situation.crossing is None
        else ("Boundary", situation.crossing.boundary.name, "cross")
    )
    if not can_apply(policy, action, pst.EntityUid(pst.EntityType(kind), name)):
        return SILENT, f"it is about another action or resource than {action} and {kind}::{name!r}"
    stale = situation.crossing.stale if situation.crossing is not None else None
    if stale is not None and not is_of(policy, stale):
        return SILENT, f"the edge hears nothing, and it is not of the class {stale!r}"
    for text, piece, wanted in _pieces(policy):
        found = _ask(policies, piece, situation)
        if found is None:
            return FAILED, f"`{text}` can't be evaluated, so nothing may pass"
        if found is not wanted:
            if not piece.clauses:
                return SILENT, f"its scope {text} is not about this machine"
            return SILENT, f"`{text}` is {'true, and that is an exception' if found else 'false'}"
    return OVERRULED, f"it {policy.effect}s this, and another one counts more"


def _pieces(policy: pst.Template) -> Iterator[tuple[str, pst.Template, bool]]:
    """Text, a policy that permits if the piece is true, and what it would have to be for the whole to apply."""
    bare = replace(policy, effect="permit", clauses=(), annotations={})
    anyone = replace(bare, principal=pst.ScopeAny(), resource=pst.ScopeAny(), action=pst.ScopeAny())
    yield _written(bare), bare, True
    for clause in policy.clauses:
        wanted = isinstance(clause, pst.When)
        # What `unless` names is one exception: all of it has to be true.
        for expression in _conjuncts(clause.expr) if wanted else [clause.expr]:
            piece = replace(anyone, clauses=(pst.When(expression),))
            yield _written(piece), replace(bare, clauses=(pst.When(expression),)), wanted


def _conjuncts(expression: Any) -> list[Any]:
    match expression:
        case pst.BinaryOp("and", left, right):
            return [*_conjuncts(left), *_conjuncts(right)]
    return [expression]


def _ask(policies: PolicySet, piece: pst.Template, situation: Situation) -> bool | None:
    """Whether it is true of this attempt; None if the engine can't tell."""
    decision = situation.decide(policies.only(piece))
    if decision.allowed:
        return True
    return None if any(reason.startswith(_FAILURES) for reason in decision.reasons) else False


_CHAIN: Final = re.compile(r"(?<![\w.])\(((?:principal|context|resource)[\w.]*)\)")


def _written(piece: pst.Template) -> str:
    """In Cedar, as the engine writes its nodes, with fewer brackets."""
    tree = pst.PolicySet(templates={}, static_policies={piece.id: piece}, template_links=())
    text = str(cedarpy.PolicySet.from_pst(tree)).removesuffix(";")
    _, when, condition = text.partition("when {")
    text = condition.strip().removesuffix("}").strip() if when else text.removeprefix("permit")
    while (shorter := _CHAIN.sub(r"\1", text)) != text:
        text = shorter
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
