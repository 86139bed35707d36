"""Decisions: may this machine cross this boundary, may it have a token for this audience?

Whatever is not a clean permit denies: no permit, any forbid, an error in any policy (Cedar itself would skip a policy
that fails, and a skipped `forbid` would open the door), an engine that raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import cedarpy

from attestd.credentials.facts import AFFIRMING, Facts, tier_of
from attestd.credentials.identity import VerifiedIdentity
from attestd.ids import Site, Tier
from attestd.policy.entities import (
    BOOT,
    Boundary,
    Look,
    Pairs,
    audience_scene,
    crossing_scene,
    facing,
    facing_again,
    moment,
    name_in,
    uid,
)
from attestd.policy.policies import PolicySet
from attestd.policy.trust import contraindicated_claims

_CROSS = {"type": "Action", "id": "cross"}
_TOKEN = {"type": "Action", "id": "token"}
_NUMBERED = re.compile(r"(?<=`)policy[0-9]+(?=`)")


@dataclass(frozen=True)
class Crossing:
    """One attempt: which boundary, by which method, to which path (decoded, without query), with what data.

    `labels` are the boundary's word about the data, `claims` the sender's. `stale`: the class that alone may cross
    there, since its edge has heard nothing for long (`PolicySet.for_crossing`).
    """

    boundary: Boundary
    method: str
    path: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    claims: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    stale: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict. `policy_ids` are the policies that decided it, of `policy_version`; `reasons` are sentences for
    operators, empty when it is allowed. What is not `cacheable` holds for this moment only."""

    allowed: bool
    policy_ids: tuple[str, ...]
    reasons: tuple[str, ...]
    cacheable: bool
    policy_version: int


def decide(policies: PolicySet, who: VerifiedIdentity | Look, crossing: Crossing, now: datetime) -> Decision:
    """May this machine, or one that looks so to these policies, cross now? Never raises: what goes wrong denies."""
    try:
        policies = policies.for_crossing(crossing.boundary.name, stale=crossing.stale)
        look = who if isinstance(who, Look) else Look.of(policies, who)
        # Only what some policy reads is written out: `context` is the dearest part of a decision.
        context: dict[str, Any] = {}
        labels: Pairs = ()
        claims: Pairs = ()
        if "method" in policies.reads:
            context["method"] = crossing.method
        if "path" in policies.reads:
            context["path"] = crossing.path
        if "now" in policies.reads:
            context["now"] = moment(now)
        if "labels" in policies.reads:
            labels = tuple(sorted(crossing.labels.items()))
            context["labels"] = uid("Texts", "labels")
        if "claims" in policies.reads:
            claims = tuple(sorted(crossing.claims.items()))
            context["claims"] = uid("Texts", "claims")
        seen_before = facing_again if policies.reads_time else facing
        entities = seen_before(policies.sees, look, crossing_scene(crossing.boundary, labels, claims))
        resource = {"type": "Boundary", "id": crossing.boundary.name}
    except Exception as error:  # noqa: BLE001 - anything at all: a decision that can't be made is a denial
        return _broken(policies, error)
    answer = _ask(policies, look, action=_CROSS, resource=resource, context=context, entities=entities)
    if isinstance(answer, Decision):
        return answer
    return _decision(
        policies,
        answer,
        "crossing",
        _against_crossing(look, crossing),
        absent_facts(policies, look, labels=crossing.labels, claims=crossing.claims),
    )


def may_receive_token(
    policies: PolicySet,
    *,
    tier: Tier,
    site: Site,
    labels: Mapping[str, str],
    audience: str,
    device_id: str = "",
    facts: Facts | None = None,
    now: datetime | None = None,
) -> Decision:
    """May a machine have a token for this audience? Never raises.

    Policies that read facts, or the time, find them only if the caller gives them; without, such policies deny.
    """
    try:
        policies = policies.for_token(audience)
        look = Look.seen(policies, labels, facts, device_id=device_id, tier=tier, site=site)
        context = {"now": moment(now)} if now is not None and "now" in policies.reads else {}
        entities = facing(policies.sees, look, audience_scene(audience))
    except Exception as error:  # noqa: BLE001 - see decide
        return _broken(policies, error)
    resource = {"type": "Audience", "id": audience}
    answer = _ask(policies, look, action=_TOKEN, resource=resource, context=context, entities=entities)
    if isinstance(answer, Decision):
        return answer
    return _decision(policies, answer, f"token for {audience!r}", (), absent_facts(policies, look))


def _ask(
    policies: PolicySet,
    look: Look,
    *,
    action: Mapping[str, str],
    resource: Mapping[str, str],
    context: Mapping[str, Any],
    entities: cedarpy.Entities,
) -> cedarpy.AuthzResult | Decision:
    principal = {"type": "Device", "id": name_in(policies.sees, look)}
    request: dict[str, Any] = {"principal": principal, "action": action, "resource": resource}
    if context:
        request["context"] = context
    try:
        return cedarpy.is_authorized(request, policies.handle, entities)
    except Exception as error:  # noqa: BLE001 - see decide
        return _broken(policies, error)


def _decision(
    policies: PolicySet, answer: cedarpy.AuthzResult, what: str, likely: Iterable[str], absent: Iterable[str]
) -> Decision:
    keep, version = not policies.reads_time, policies.version
    ids = tuple(sorted(policies.ids.get(name, name) for name in answer.diagnostics.reasons))
    if answer.diagnostics.errors:
        # The engine's own numbers for policies are nobody's names for them.
        errors = [_NUMBERED.sub(lambda at: policies.ids.get(at[0], at[0]), e) for e in answer.diagnostics.errors]
        failed = {policies.ids.get(name, name) for e in answer.diagnostics.errors for name in _NUMBERED.findall(e)}
        told = tuple(f"a policy can't be evaluated: {error}"[:300] for error in errors)
        return Decision(False, tuple(sorted(failed)), told, keep, version)
    if answer.allowed and ids:
        return Decision(True, ids, (), keep, version)
    if ids:
        return Decision(False, ids, (*(f"policy {name!r} forbids this {what}" for name in ids), *absent), keep, version)
    return Decision(False, (), (*likely, f"no policy permits this {what}", *absent), keep, version)


def _broken(policies: PolicySet, error: Exception) -> Decision:
    """Not to be kept: the next attempt may find the engine well."""
    told = f"the policy engine failed: {type(error).__name__}: {error}"[:300]
    return Decision(False, (), (told,), cacheable=False, policy_version=policies.version)


def _against_crossing(look: Look, crossing: Crossing) -> Iterable[str]:
    """What most likely kept every permit away, in the order in which operators look for it."""
    boundary = crossing.boundary
    if crossing.stale is not None:
        yield f"this edge has heard nothing for long: only what policies call {crossing.stale!r} crosses here"
    if look.tier != boundary.from_tier:
        yield f"this boundary is for tier {boundary.from_tier}; the credential is of tier {look.tier}"
    if boundary.from_site is not None and look.site != boundary.from_site:
        yield f"this boundary is for site {boundary.from_site}; the credential is of site {look.site}"
    vector = dict(look.vector)
    instance = tier_of(vector.get("instance-identity", 0))
    if instance != AFFIRMING:
        yield f"the device's instance identity is {instance}, not affirming"
    for claim in contraindicated_claims(vector):
        yield f"the last attestation contraindicates the device's {claim}"


def absent_facts(
    policies: PolicySet,
    look: Look,
    *,
    labels: Mapping[str, str] = MappingProxyType({}),
    claims: Mapping[str, str] = MappingProxyType({}),
) -> Iterable[str]:
    """What a policy asks for by name and is not there: to it, that is as good as false, and operators want to know."""
    boot = look.boot or ()
    there = {
        "principal": frozenset(name for name, _ in look.labels or ()),
        "labels": labels.keys(),
        "claims": claims.keys(),
        **{of: frozenset(name for name, found, _ in boot if found == kind) for of, _, kind in BOOT},
    }
    missing = sorted(asked for asked in policies.asked if asked.name not in there[asked.of])
    for asked in missing[:_MOST_ABSENT]:
        yield f"a policy asks for the {_ABSENT[asked.of].format(asked.name)}"
    if len(missing) > _MOST_ABSENT:
        yield f"policies ask for {len(missing) - _MOST_ABSENT} more facts that are not here"


_MOST_ABSENT: Final = 8
_ABSENT: Final = {
    "principal": "label {!r}, which the device does not have",
    "flags": "boot fact {!r} as yes or no, which the device's credential does not have",
    "numbers": "boot fact {!r} as a number, which the device's credential does not have",
    "texts": "boot fact {!r} as a text, which the device's credential does not have",
    "labels": "data label {!r}, which nobody at this boundary gave",
    "claims": "claim {!r}, which the sender did not make",
}
