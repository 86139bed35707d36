"""Decisions: may this machine cross this boundary, may it have a token for this audience?

Whatever is not a clean permit denies: no permit, any forbid, an error in any policy (Cedar itself would skip a policy
that fails, and a skipped `forbid` would open the door), an engine that raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from json import JSONEncoder
from json.encoder import encode_basestring_ascii
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import cedarpy

from attestd.credentials.facts import AFFIRMING, NONE, Facts, tier_of
from attestd.credentials.identity import VerifiedIdentity
from attestd.ids import Site, Tier
from attestd.policy.apart import OWN, OWN_ID, OWN_TYPE, stands_apart
from attestd.policy.policies import PolicySet
from attestd.policy.trust import CLAIMS, contraindicated_claims, worst_of

_CROSS = {"type": "Action", "id": "cross"}
_TOKEN = {"type": "Action", "id": "token"}
_ANY = "device"  # the id of a machine that no policy can tell from others
_NUMBERED = re.compile(r"(?<=`)policy[0-9]+(?=`)")
_KEPT = 1024  # machines, states and scenes that are kept as the engine reads them, of some kilobytes each
_write = JSONEncoder(separators=(",", ":")).encode
_text: Final[Callable[[str], str]] = encode_basestring_ascii  # the same for a text, at once
Pairs = tuple[tuple[str, str], ...]
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
    key: str = field(init=False, repr=False, compare=False)  # the same for equal boundaries only

    def __post_init__(self) -> None:
        parts = (self.name, self.from_tier, self.from_site, self.to_tier, self.to_site)
        object.__setattr__(self, "key", _write(parts))

    def __hash__(self) -> int:
        return hash(self.key)


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


class Look(NamedTuple):
    """A machine as one set of policies sees it. Machines that look the same get the same decisions.

    Tier, site and vector are always here, for the reasons that are told; None stands for what no policy looks at.
    """

    tier: str
    site: str
    vector: tuple[tuple[str, int], ...]
    device_id: str | None
    labels: tuple[tuple[str, str], ...] | None
    # The types are part of it: True, 1 and 1.0 are equal in Python, and not to a policy.
    boot: tuple[tuple[str, str, str | bool | int], ...] | None
    attested_at: int | None

    @classmethod
    def of(cls, policies: PolicySet, identity: VerifiedIdentity) -> Self:
        """From a proven identity and the facts in its credential."""
        facts = identity.facts
        return cls.seen(
            policies, facts.labels, facts, device_id=identity.device_id, tier=identity.tier, site=identity.site
        )

    @classmethod
    def seen(
        cls,
        policies: PolicySet,
        labels: Mapping[str, str],
        facts: Facts | None,
        *,
        device_id: str,
        tier: Tier,
        site: Site,
    ) -> Self:
        """From the registry's word; without facts, nothing is known of its state."""
        sees = policies.sees
        boot = facts.boot.items() if facts is not None and "boot" in sees else ()
        return cls(
            tier.value,
            site,
            tuple(sorted(facts.vector.items())) if facts is not None else (),
            device_id if "itself" in sees or "id" in sees else None,
            tuple(sorted(labels.items())) if "tags" in sees else None,
            tuple(sorted((name, type(value).__name__, value) for name, value in boot)) if "boot" in sees else None,
            facts.attested_at if facts is not None and "attested_at" in sees else None,
        )


def _facing(sees: frozenset[str], look: Look, scene: str) -> cedarpy.Entities:
    """The machine before a scene (a boundary with labels, an audience): all that policies may ask about."""
    vector = look.vector if "trust" in sees else None
    if not stands_apart(sees):
        state = _around(sees, None, vector, look.boot, scene)
        attributes = [*_shared(sees, look.tier, look.site), *_own(look)]
        return state.with_added_json_str(_written("Device", _name(sees, look), attributes, look.labels))
    shared = _around(sees, (look.tier, look.site), vector, look.boot, scene)
    if not sees & OWN:
        return shared
    return shared.with_added_json_str(_written(OWN_TYPE, OWN_ID, _own(look), look.labels))


# For policies that look at the time, which are asked at every crossing.
_facing_again = lru_cache(maxsize=_KEPT)(_facing)


@lru_cache(maxsize=_KEPT)
def _around(
    sees: frozenset[str],
    home: tuple[str, str] | None,
    vector: tuple[tuple[str, int], ...] | None,
    boot: tuple[tuple[str, str, str | bool | int], ...] | None,
    scene: str,
) -> cedarpy.Entities:
    """A machine's state before a scene; and the machine itself, of this tier and site, if its own stands apart.

    Most of a fleet shares one of a few, so they are parsed once.
    """
    entities = []
    if vector is not None:
        tiers = {claim: tier_of(value) for claim, value in vector}
        trust = {name: _one("Trust", tiers.get(claim, NONE)) for claim, name in CLAIMS.items()}
        entities.append(_entity("Vector", "trust", {**trust, "worst": _one("Trust", worst_of(tiers.values()))}))
    if boot is not None:
        entities.append(_entity("Boot", "boot", {name: _one(kind, "boot") for name, kind, _ in _BOOT}))
        entities += [
            _entity(kind, "boot", {}, tags={name: value for name, found, value in boot if found == wanted})
            for _, kind, wanted in _BOOT
        ]
    around = cedarpy.Entities.from_json_str(_write(entities)).with_added_json_str(scene)
    if home is None:
        return around
    return around.with_added_json_str(_written("Device", _ANY, _shared(sees, *home)))


def _name(sees: frozenset[str], look: Look) -> str:
    """The id under which the engine knows the machine: its own where a policy may compare it."""
    return _ANY if stands_apart(sees) or look.device_id is None else look.device_id


def _shared(sees: frozenset[str], tier: str, site: str) -> list[str]:
    """A device's attributes that others of its fleet have too."""
    attributes = []
    if "tier" in sees:
        attributes.append(_TIER[tier])
    if "site" in sees:
        attributes.append(f'"site":{_write(site)}')
    if "trust" in sees:
        attributes.append(_TRUST)
    if "boot" in sees:
        attributes.append(_BOOTED)
    return attributes


def _own(look: Look) -> list[str]:
    """The attributes that are its own."""
    attributes = []
    if look.device_id is not None:
        attributes.append(f'"id":{_write(look.device_id)}')
    if look.attested_at is not None:
        attributes.append(f'"attested_at":{_write(_datetime(datetime.fromtimestamp(look.attested_at, UTC)))}')
    return attributes


def _written(kind: str, name: str, attributes: Iterable[str], labels: tuple[tuple[str, str], ...] | None = None) -> str:
    """One entity as the engine reads it: by hand, for it takes time at each device that is decided about anew."""
    attrs = ",".join(attributes)
    tags = ",".join([f"{_text(label)}:{_text(text)}" for label, text in labels or ()])
    return f'[{{"uid":{{"type":"{kind}","id":{_text(name)}}},"attrs":{{{attrs}}},"parents":[],"tags":{{{tags}}}}}]'


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
            context["now"] = _datetime(now)
        if "labels" in policies.reads:
            labels = tuple(sorted(crossing.labels.items()))
            context["labels"] = _one("Texts", "labels")
        if "claims" in policies.reads:
            claims = tuple(sorted(crossing.claims.items()))
            context["claims"] = _one("Texts", "claims")
        facing = _facing_again if policies.reads_time else _facing
        entities = facing(policies.sees, look, _scene(crossing.boundary, labels, claims))
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
        context = {"now": _datetime(now)} if now is not None and "now" in policies.reads else {}
        named = _write([_entity("Audience", audience, {"name": audience})])
        entities = _facing(policies.sees, look, named)
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
    principal = {"type": "Device", "id": _name(policies.sees, look)}
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
        **{of: frozenset(name for name, found, _ in boot if found == kind) for of, _, kind in _BOOT},
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


@lru_cache(maxsize=1024)
def _scene(boundary: Boundary, labels: Pairs, claims: Pairs) -> str:
    """The boundary, the labels and the claims as entities; the same few come again and again."""
    start: dict[str, Any] = {"tier": _one("Tier", boundary.from_tier.value)}
    if boundary.from_site is not None:
        start["site"] = str(boundary.from_site)
    end = {"tier": _one("Tier", boundary.to_tier.value), "site": str(boundary.to_site)}
    entities = [_entity("Boundary", boundary.name, {"name": boundary.name, "from": start, "to": end})]
    if labels:
        entities.append(_entity("Texts", "labels", {}, tags=dict(labels)))
    if claims:
        entities.append(_entity("Texts", "claims", {}, tags=dict(claims)))
    return _write(entities)


def _one(kind: str, name: str) -> dict[str, dict[str, str]]:
    return {"__entity": {"type": kind, "id": name}}


# A device's attributes that are entities of their own, written out: that, too, takes time.
_TIER: Final = {tier.value: f'"tier":{_write(_one("Tier", tier.value))}' for tier in Tier}
_TRUST: Final = f'"trust":{_write(_one("Vector", "trust"))}'
_BOOTED: Final = f'"boot":{_write(_one("Boot", "boot"))}'


def _datetime(moment: datetime) -> dict[str, dict[str, str]]:
    """Cedar's datetime literal, to the second."""
    return {"__extn": {"fn": "datetime", "arg": moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}


def _entity(
    kind: str, name: str, attributes: Mapping[str, Any], tags: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    return {"uid": {"type": kind, "id": name}, "attrs": attributes, "parents": [], "tags": dict(tags)}
