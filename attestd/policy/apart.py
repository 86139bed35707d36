"""What is a device's own, apart from what it shares with a fleet, so that the engine reads the shared part once.

The engine takes a machine as entities, and to read one costs it more than to decide: a device that differs from
another in a label would be read whole. So labels, id and time of attestation stand on an entity of their own beside
the device, and policies are asked about that one: `principal.getTag("fleet")` becomes `Own::"device".getTag("fleet")`.
Policies can't tell, and can't name it: the schema that they were checked against knows no such type.

This is done where every `principal` in the policies is asked for an attribute, a tag or its type, and stands for
nothing else (reads.py). Where one is compared, or handed on, the device is written whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

from cedarpy import pst

OWN: Final = frozenset({"id", "tags", "attested_at"})  # of reads.DEVICE
OWN_TYPE, OWN_ID = "Own", "device"
_ENTITY: Final = pst.EntityLit(pst.EntityUid(pst.EntityType(OWN_TYPE), OWN_ID))
_TAGS: Final = frozenset({"get_tag", "has_tag"})


def stands_apart(sees: frozenset[str]) -> bool:
    """Whether policies that look at this much of a device ask for its own apart."""
    return "itself" not in sees


def set_apart(tree: pst.PolicySet) -> pst.PolicySet:
    """The policies that ask the entity apart; the same policies under the same ids otherwise."""
    return replace(
        tree,
        static_policies={
            name: replace(policy, clauses=tuple(replace(clause, expr=_asked(clause.expr)) for clause in policy.clauses))
            for name, policy in tree.static_policies.items()
        },
    )


def _asked(node: Any) -> Any:
    match node:
        case pst.GetAttr(pst.Var("principal"), attr) if attr in OWN:
            return replace(node, base=_ENTITY)
        case pst.HasAttr(pst.Var("principal"), attrs) if attrs[0] in OWN:
            return replace(node, base=_ENTITY)
        case pst.BinaryOp(op, pst.Var("principal"), right) if op in _TAGS:
            return replace(node, left=_ENTITY, right=_asked(right))
    if isinstance(node, tuple):
        return tuple(map(_asked, node))
    if isinstance(node, Mapping):
        return {name: _asked(value) for name, value in node.items()}
    if is_dataclass(node) and not isinstance(node, type):
        return replace(node, **{field.name: _asked(getattr(node, field.name)) for field in fields(node)})
    return node
