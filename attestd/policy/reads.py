"""What a set of policies looks at: of the request, and of the machine.

Two machines that differ only in what no policy looks at get the same decision, and only what some policy looks at has
to be written out for the engine. Where this can't tell, everything is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, NamedTuple, Self

from cedarpy import pst

# What `context` holds for the two actions (schema.cedarschema).
CONTEXT: Final = frozenset({"method", "path", "labels", "claims", "now"})
# A Device's attributes, its tags, and itself: `principal == Device::"…"`.
DEVICE: Final = frozenset({"id", "tier", "site", "trust", "boot", "attested_at", "tags", "itself"})
_TAGS: Final = frozenset({"get_tag", "has_tag"})


class Asked(NamedTuple):
    """A fact that a policy asks for by name. `of`: principal; flags, numbers, texts of its boot; labels, claims."""

    of: str
    name: str


@dataclass(frozen=True, slots=True)
class Reads:
    """The members of `context`, and of DEVICE, that any policy looks at, and the facts that any asks for by name."""

    context: frozenset[str]
    device: frozenset[str]
    asked: frozenset[Asked]

    @classmethod
    def of(cls, tree: pst.PolicySet) -> Self:
        """`context` or `principal` used whole, or a device named: then everything about it is looked at."""
        context: set[str] = set()
        device: set[str] = set()
        asked: set[Asked] = set()
        for node in _nodes(tree):
            whole = {child.name for child in _children(node) if isinstance(child, pst.Var)}
            match node:
                case pst.GetAttr(base, attr):
                    if isinstance(base, pst.Var) and base.name == "context":
                        context.add(attr)
                    device |= DEVICE & {attr}  # by the name alone, whatever it is an attribute of
                    whole.clear()
                case pst.HasAttr(base, attrs):
                    if isinstance(base, pst.Var) and base.name == "context":
                        context.add(attrs[0])
                    device |= DEVICE & set(attrs)
                    whole.clear()
                case pst.BinaryOp(op, pst.Var("principal"), right) if op in _TAGS and not isinstance(right, pst.Var):
                    device.add("tags")
                    whole.clear()
                case pst.Is(pst.Var("principal"), _, None):
                    whole.clear()
                case pst.EntityUid(pst.EntityType("Device")):
                    whole.add("principal")
            if isinstance(node, pst.BinaryOp) and node.op in _TAGS and isinstance(node.right, pst.StringLit):
                asked |= {Asked(of, node.right.value) for of in _holder(node.left)}
            context |= CONTEXT if "context" in whole else set()
            device |= DEVICE if "principal" in whole else set()
        return cls(frozenset(context), frozenset(device), frozenset(asked))


def _holder(node: pst.Expr) -> tuple[str, ...]:
    """Whose tag is asked for; nothing if that can't be told."""
    match node:
        case pst.Var("principal"):
            return ("principal",)
        case pst.GetAttr(pst.Var("context"), ("labels" | "claims") as of):
            return (of,)
        case pst.GetAttr(pst.GetAttr(pst.Var("principal"), "boot"), ("flags" | "numbers" | "texts") as of):
            return (of,)
    return ()


def _nodes(root: Any) -> Iterator[Any]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(_children(node))


def _children(node: Any) -> Iterator[Any]:
    values = (getattr(node, field.name) for field in fields(node)) if is_dataclass(node) else ()
    for value in values:
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, tuple):
            for item in value:
                # A record's fields may come as pairs.
                yield from item if isinstance(item, tuple) else (item,)
        else:
            yield value
