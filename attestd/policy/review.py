"""A policy's text before it is in force: every fault at its place, and what is no fault and still worth a look.

What is Cedar, and what fits the schema, `PolicySet.parse` says; here is what else a text must not hold, because people
read it too: characters that a reader does not see.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cedarpy import pst

from attestd.policy.policies import PolicySet
from attestd.policy.scopes import WHEN_STALE
from attestd.policy.source import Flaw, Place, PolicyInvalid, Source

MOST: Final = 100  # flaws, and warnings, that are told
_WHITE: Final = frozenset("\t\n\r")


@dataclass(frozen=True, slots=True)
class Written:
    """One policy of a text, as it is listed."""

    id: str
    effect: str
    line: int
    when_stale: str | None


@dataclass(frozen=True, slots=True)
class Review:
    """What was found. Without flaws the text may be put in force."""

    policies: tuple[Written, ...]
    flaws: tuple[Flaw, ...]
    warnings: tuple[Flaw, ...]


def require_readable(text: str) -> None:
    """Raises PolicyInvalid for control characters, NUL above all: no editor shows them, and not every database keeps
    them."""
    found = [Flaw(place, f"a control character, {name}") for place, name, seen in _hidden(text) if seen == "Cc"]
    if found:
        raise PolicyInvalid(
            f"The policy holds a control character at {found[0].place}.",
            flaws=found[:MOST],
            seen=found[0].message,
            expected="text, line ends and tabs",
        )


def review(text: str) -> Review:
    """Raises InputTooLarge; whatever else is wrong is told."""
    try:
        require_readable(text)
        policies = PolicySet.parse(text, 0)
    except PolicyInvalid as error:
        flaws = error.flaws or (Flaw(Place(1, 1), error.detail),)
        return Review((), flaws[:MOST], ())
    source = Source.read(text)
    written = tuple(_written(policies, source))
    warnings = [
        Flaw(place, f"an invisible character, {name}: what is read here may not be what is decided by")
        for place, name, _ in _hidden(text)
    ]
    warnings += [
        Flaw(Place(line, 1), f"this policy has no @id: reasons will call it {shown}")
        for shown, line in _nameless(policies, written)
    ]
    if not any(_permits_crossing(policy) for policy in policies.tree.static_policies.values()):
        warnings.append(Flaw(Place(1, 1), "no policy permits a crossing: nothing will cross anywhere"))
    return Review(written, (), tuple(sorted(warnings))[:MOST])


def _written(policies: PolicySet, source: Source) -> Iterator[Written]:
    ends = [place for place, character in enumerate(source.text) if character == "\n"]
    for number, (name, policy) in enumerate(policies.tree.static_policies.items()):
        statement = source.statements[number] if number < len(source.statements) else ()
        line = bisect_left(ends, statement[0].at) + 1 if statement else 1
        yield Written(policies.ids.get(name, name), policy.effect, line, policy.annotations.get(WHEN_STALE))


def _nameless(policies: PolicySet, written: tuple[Written, ...]) -> Iterator[tuple[str, int]]:
    for one, policy in zip(written, policies.tree.static_policies.values(), strict=True):
        if not policy.annotations.get("id"):
            yield one.id, one.line


def _permits_crossing(policy: pst.Template) -> bool:
    if policy.effect != "permit":
        return False
    match policy.action:
        case pst.ActionEq(entity):
            return bool(entity.id == "cross")
        case pst.ActionIn(entities):
            return "cross" in {entity.id for entity in entities}
    return True


def _hidden(text: str) -> Iterator[tuple[Place, str, str]]:
    """Place, name and category of each character that is not seen: controls, and formats, such as those that turn the
    direction of what follows."""
    if text.isascii() and text.isprintable():
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.isprintable():
            continue
        for column, character in enumerate(line, 1):
            category = unicodedata.category(character)
            if category in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _WHITE:
                yield Place(number, column), f"U+{ord(character):04X}", category
