"""Which policies can apply to a request, by their scopes alone.

A policy's scope is compared before its conditions are looked at, and comparing can't fail (docs.cedarpolicy.com, "How
Cedar authorizes requests"): a policy whose scope is about another action or resource adds nothing to any answer, no
permit, no forbid, no error. But the engine takes about a microsecond for each. Where a scope can't be told for certain,
the policy is asked.
"""

from __future__ import annotations

from dataclasses import replace

from cedarpy import pst

WHEN_STALE = "when_stale"


def resources_named(tree: pst.PolicySet) -> frozenset[tuple[str, str]]:
    """The resources, by type and id, that some policy is about alone."""
    scopes = (policy.resource for policy in tree.static_policies.values())
    named = (scope.entity for scope in scopes if isinstance(scope, pst.ScopeEq))
    return frozenset((str(entity.type), entity.id) for entity in named if isinstance(entity, pst.EntityUid))


def applicable(tree: pst.PolicySet, action: str, resource: pst.EntityUid) -> pst.PolicySet:
    """The policies that can apply to this action on this resource, under their ids."""
    policies = tree.static_policies.items()
    return replace(
        tree, static_policies={name: policy for name, policy in policies if can_apply(policy, action, resource)}
    )


def of_class(tree: pst.PolicySet, stale: str) -> pst.PolicySet:
    """Every forbid, and of the permits those annotated with `@when_stale` and this class."""
    policies = tree.static_policies.items()
    return replace(
        tree,
        static_policies={name: policy for name, policy in policies if is_of(policy, stale)},
    )


def is_of(policy: pst.Template, stale: str) -> bool:
    """Whether it counts where only this class crosses."""
    return bool(policy.effect != "permit" or policy.annotations.get(WHEN_STALE) == stale)


def can_apply(policy: pst.Template, action: str, resource: pst.EntityUid) -> bool:
    """Whether its scope leaves it open that it is about this action on this resource."""
    match policy.action:
        case pst.ActionEq(entity) if entity.id != action:  # the schema's actions are of one type, and in no group
            return False
        case pst.ActionIn(entities) if action not in {entity.id for entity in entities}:
            return False
    match policy.resource:
        case pst.ScopeEq(entity) if entity != resource:
            return False
        case pst.ScopeIs(kind) if kind != resource.type:
            return False
    return True
