"""Decisions: may this machine cross this boundary, may it have a token for this audience?

Whatever is not a clean permit denies: no permit, any forbid, an error in any policy (Cedar itself would skip a policy
that fails, and a skipped `forbid` would open the door), an engine that raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Self

import cedarpy

from attestd.credentials.facts import AFFIRMING, NONE, Facts, tier_of
from attestd.credentials.identity import VerifiedIdentity
from attestd.ids import Site, Tier
from attestd.policy.policies import PolicySet
from attestd.policy.trust import CLAIMS, contraindicated_claims, worst_of

_CROSS = {"type": "Action", "id": "cross"}
_TOKEN = {"type": "Action", "id": "token"}
_FACED = 8  # scenes that a subject remembers
# Boot facts by their type: attribute, entity type, Python's name of the type.
_BOOT = (("flags", "Flags", "bool"), ("numbers", "Numbers", "int"), ("texts", "Texts", "str"))


@dataclass(frozen=True, slots=True)
class Boundary:
    """What an edge guards: the way from a tier and site (None: from any site) to a tier and site."""

    name: str
    from_tier: Tier
    from_site: Site | None
    to_tier: Tier
    to_site: Site


@dataclass(frozen=True)
class Crossing:
    """One attempt: which boundary, by which method, to which path (decoded, without query), with what data."""

    boundary: Boundary
    method: str
    path: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict. `policy_ids` are the policies that decided it; `reasons` are sentences for operators, empty when it is
    allowed. What is not `cacheable` holds for this moment only."""

    allowed: bool
    policy_ids: tuple[str, ...]
    reasons: tuple[str, ...]
    cacheable: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """A machine as policies see it, written out and parsed once however many decisions are made about it.

    `before` keeps the last few boundaries that it stood before: parsing is the dearest part of a decision.
    """

    device_id: str
    tier: Tier
    site: Site
    vector: Mapping[str, int]
    entities: cedarpy.Entities
    before: dict[str, cedarpy.Entities] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, identity: VerifiedIdentity) -> Self:
        """From a proven identity and the facts in its credential."""
        return cls._written(
            str(identity.device_id), identity.tier, identity.site, identity.facts.labels, identity.facts
        )

    @classmethod
    def _written(cls, device_id: str, tier: Tier, site: Site, labels: Mapping[str, str], facts: Facts | None) -> Self:
        vector: Mapping[str, int] = facts.vector if facts else {}
        boot: Mapping[str, str | bool | int] = facts.boot if facts else {}
        attributes: dict[str, Any] = {
            "id": device_id,
            "tier": _one("Tier", tier.value),
            "site": str(site),
            "trust": _one("Vector", "trust"),
            "boot": _one("Boot", "boot"),
        }
        if facts is not None:
            attributes["attested_at"] = _datetime(datetime.fromtimestamp(facts.attested_at, UTC))
        # The types are part of the key: True, 1 and 1.0 are equal in Python, and not to a policy.
        kinds = tuple(sorted((name, type(value).__name__, value) for name, value in boot.items()))
        state = _state(tuple(sorted(vector.items())), kinds)
        device = json.dumps([_entity("Device", device_id, attributes, tags=labels)])
        return cls(device_id, tier, site, vector, state.with_added_json_str(device))

    def facing(self, scene: str) -> cedarpy.Entities:
        """This machine together with a boundary and labels, as `_scene` writes them."""
        found = self.before.get(scene)
        if found is None:
            found = self.entities.with_added_json_str(scene)
            if len(self.before) >= _FACED:
                self.before.clear()
            self.before[scene] = found
        return found


@lru_cache(maxsize=4096)
def _state(vector: tuple[tuple[str, int], ...], boot: tuple[tuple[str, str, Any], ...]) -> cedarpy.Entities:
    """A machine's state as entities. Most of a fleet shares one of a few, so they are parsed once."""
    tiers = {claim: tier_of(value) for claim, value in vector}
    trust = {name: _one("Trust", tiers.get(claim, NONE)) for claim, name in CLAIMS.items()}
    entities = [
        _entity("Vector", "trust", {**trust, "worst": _one("Trust", worst_of(tiers.values()))}),
        _entity("Boot", "boot", {name: _one(kind, "boot") for name, kind, _ in _BOOT}),
    ]
    entities += [
        _entity(kind, "boot", {}, tags={name: value for name, found, value in boot if found == wanted})
        for _, kind, wanted in _BOOT
    ]
    return cedarpy.Entities.from_json_str(json.dumps(entities))


def decide(policies: PolicySet, who: VerifiedIdentity | Subject, crossing: Crossing, now: datetime) -> Decision:
    """May this machine make this crossing now? Never raises: what goes wrong denies."""
    try:
        subject = who if isinstance(who, Subject) else Subject.of(who)
        # Only what some policy reads is written out: `context` is the dearest part of a decision.
        context: dict[str, Any] = {}
        labels: tuple[tuple[str, str], ...] = ()
        if "method" in policies.reads:
            context["method"] = crossing.method
        if "path" in policies.reads:
            context["path"] = crossing.path
        if "now" in policies.reads:
            context["now"] = _datetime(now)
        if "labels" in policies.reads:
            labels = tuple(sorted(crossing.labels.items()))
            context["labels"] = _one("Texts", "labels")
        entities = subject.facing(_scene(crossing.boundary, labels))
        resource = {"type": "Boundary", "id": crossing.boundary.name}
    except Exception as error:  # noqa: BLE001 - anything at all: a decision that can't be made is a denial
        return _broken(policies, error)
    answer = _ask(
        policies, action=_CROSS, device_id=subject.device_id, resource=resource, context=context, entities=entities
    )
    if isinstance(answer, Decision):
        return answer
    return _decision(policies, answer, "crossing", _against_crossing(subject, crossing.boundary))


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
        subject = Subject._written(device_id, tier, site, labels, facts)
        context = {"now": _datetime(now)} if now is not None and "now" in policies.reads else {}
        named = json.dumps([_entity("Audience", audience, {"name": audience})])
        entities = subject.entities.with_added_json_str(named)
    except Exception as error:  # noqa: BLE001 - see decide
        return _broken(policies, error)
    resource = {"type": "Audience", "id": audience}
    answer = _ask(policies, action=_TOKEN, device_id=device_id, resource=resource, context=context, entities=entities)
    if isinstance(answer, Decision):
        return answer
    return _decision(policies, answer, f"token for {audience!r}", ())


def _ask(
    policies: PolicySet,
    *,
    action: Mapping[str, str],
    device_id: str,
    resource: Mapping[str, str],
    context: Mapping[str, Any],
    entities: cedarpy.Entities,
) -> cedarpy.AuthzResult | Decision:
    request: dict[str, Any] = {"principal": {"type": "Device", "id": device_id}, "action": action, "resource": resource}
    if context:
        request["context"] = context
    try:
        return cedarpy.is_authorized(request, policies.handle, entities)
    except Exception as error:  # noqa: BLE001 - see decide
        return _broken(policies, error)


def _decision(policies: PolicySet, answer: cedarpy.AuthzResult, what: str, likely: Iterable[str]) -> Decision:
    keep = not policies.reads_time
    ids = tuple(sorted(policies.ids.get(name, name) for name in answer.diagnostics.reasons))
    if answer.diagnostics.errors:
        told = tuple(f"a policy can't be evaluated: {error}"[:300] for error in answer.diagnostics.errors)
        return Decision(False, ids, told, keep)
    if answer.allowed and ids:
        return Decision(True, ids, (), keep)
    if ids:
        return Decision(False, ids, tuple(f"policy {name!r} forbids this {what}" for name in ids), keep)
    return Decision(False, (), (*likely, f"no policy permits this {what}"), keep)


def _broken(policies: PolicySet, error: Exception) -> Decision:
    """Not to be kept: the next attempt may find the engine well."""
    return Decision(False, (), (f"the policy engine failed: {type(error).__name__}: {error}"[:300],), cacheable=False)


def _against_crossing(subject: Subject, boundary: Boundary) -> Iterable[str]:
    """What most likely kept every permit away, in the order in which operators look for it."""
    if subject.tier is not boundary.from_tier:
        yield f"this boundary is for tier {boundary.from_tier}; the credential is of tier {subject.tier}"
    if boundary.from_site is not None and subject.site != boundary.from_site:
        yield f"this boundary is for site {boundary.from_site}; the credential is of site {subject.site}"
    instance = tier_of(subject.vector.get("instance-identity", 0))
    if instance != AFFIRMING:
        yield f"the device's instance identity is {instance}, not affirming"
    for claim in contraindicated_claims(subject.vector):
        yield f"the last attestation contraindicates the device's {claim}"


@lru_cache(maxsize=1024)
def _scene(boundary: Boundary, labels: tuple[tuple[str, str], ...]) -> str:
    """The boundary and the labels as entities; the same few come again and again."""
    start: dict[str, Any] = {"tier": _one("Tier", boundary.from_tier.value)}
    if boundary.from_site is not None:
        start["site"] = str(boundary.from_site)
    end = {"tier": _one("Tier", boundary.to_tier.value), "site": str(boundary.to_site)}
    entities = [_entity("Boundary", boundary.name, {"name": boundary.name, "from": start, "to": end})]
    if labels:
        entities.append(_entity("Texts", "labels", {}, tags=dict(labels)))
    return json.dumps(entities)


def _one(kind: str, name: str) -> dict[str, dict[str, str]]:
    return {"__entity": {"type": kind, "id": name}}


def _datetime(moment: datetime) -> dict[str, dict[str, str]]:
    """Cedar's datetime literal, to the second."""
    return {"__extn": {"fn": "datetime", "arg": moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}


def _entity(
    kind: str, name: str, attributes: Mapping[str, Any], tags: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    return {"uid": {"type": kind, "id": name}, "attrs": attributes, "parents": [], "tags": dict(tags)}
