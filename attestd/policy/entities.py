"""What policies are asked about, as Cedar's engine reads it: a machine (`Look`) before a boundary or an audience.

Only what some policy looks at is written out, and what most machines share is parsed once: it is the dearest part of a
decision, at each machine that is decided about anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from json import JSONEncoder
from json.encoder import encode_basestring_ascii
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import cedarpy

from attestd.credentials.facts import NONE, Facts, tier_of
from attestd.credentials.identity import VerifiedIdentity
from attestd.ids import Site, Tier
from attestd.policy.apart import OWN, OWN_ID, OWN_TYPE, stands_apart
from attestd.policy.policies import PolicySet
from attestd.policy.trust import CLAIMS, worst_of

_ANY = "device"  # the id of a machine that no policy can tell from others
_KEPT = 1024  # machines, states and scenes that are kept as the engine reads them, of some kilobytes each
_write = JSONEncoder(separators=(",", ":")).encode
_text: Final[Callable[[str], str]] = encode_basestring_ascii  # the same for a text, at once
Pairs = tuple[tuple[str, str], ...]
# Boot facts by their type: attribute, entity type, Python's name of the type.
BOOT = (("flags", "Flags", "bool"), ("numbers", "Numbers", "int"), ("texts", "Texts", "str"))


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


def facing(sees: frozenset[str], look: Look, scene: str) -> cedarpy.Entities:
    """The machine before a scene (a boundary with labels, an audience): all that policies may ask about."""
    vector = look.vector if "trust" in sees else None
    if not stands_apart(sees):
        state = _around(sees, None, vector, look.boot, scene)
        attributes = [*_shared(sees, look.tier, look.site), *_own(look)]
        return state.with_added_json_str(_written("Device", name_in(sees, look), attributes, look.labels))
    shared = _around(sees, (look.tier, look.site), vector, look.boot, scene)
    if not sees & OWN:
        return shared
    return shared.with_added_json_str(_written(OWN_TYPE, OWN_ID, _own(look), look.labels))


# For policies that look at the time, which are asked at every crossing.
facing_again = lru_cache(maxsize=_KEPT)(facing)


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
        trust = {name: uid("Trust", tiers.get(claim, NONE)) for claim, name in CLAIMS.items()}
        entities.append(_entity("Vector", "trust", {**trust, "worst": uid("Trust", worst_of(tiers.values()))}))
    if boot is not None:
        entities.append(_entity("Boot", "boot", {name: uid(kind, "boot") for name, kind, _ in BOOT}))
        entities += [
            _entity(kind, "boot", {}, tags={name: value for name, found, value in boot if found == wanted})
            for _, kind, wanted in BOOT
        ]
    around = cedarpy.Entities.from_json_str(_write(entities)).with_added_json_str(scene)
    if home is None:
        return around
    return around.with_added_json_str(_written("Device", _ANY, _shared(sees, *home)))


def name_in(sees: frozenset[str], look: Look) -> str:
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
        attributes.append(f'"attested_at":{_write(moment(datetime.fromtimestamp(look.attested_at, UTC)))}')
    return attributes


def _written(kind: str, name: str, attributes: Iterable[str], labels: tuple[tuple[str, str], ...] | None = None) -> str:
    """One entity as the engine reads it: by hand, for it takes time at each device that is decided about anew."""
    attrs = ",".join(attributes)
    tags = ",".join([f"{_text(label)}:{_text(text)}" for label, text in labels or ()])
    return f'[{{"uid":{{"type":"{kind}","id":{_text(name)}}},"attrs":{{{attrs}}},"parents":[],"tags":{{{tags}}}}}]'


@lru_cache(maxsize=1024)
def crossing_scene(boundary: Boundary, labels: Pairs, claims: Pairs) -> str:
    """The boundary, the labels and the claims as entities; the same few come again and again."""
    start: dict[str, Any] = {"tier": uid("Tier", boundary.from_tier.value)}
    if boundary.from_site is not None:
        start["site"] = str(boundary.from_site)
    end = {"tier": uid("Tier", boundary.to_tier.value), "site": str(boundary.to_site)}
    entities = [_entity("Boundary", boundary.name, {"name": boundary.name, "from": start, "to": end})]
    if labels:
        entities.append(_entity("Texts", "labels", {}, tags=dict(labels)))
    if claims:
        entities.append(_entity("Texts", "claims", {}, tags=dict(claims)))
    return _write(entities)


def audience_scene(audience: str) -> str:
    """Whom a token is for."""
    return _write([_entity("Audience", audience, {"name": audience})])


def uid(kind: str, name: str) -> dict[str, dict[str, str]]:
    """An entity, by its name."""
    return {"__entity": {"type": kind, "id": name}}


# A device's attributes that are entities of their own, written out: that, too, takes time.
_TIER: Final = {tier.value: f'"tier":{_write(uid("Tier", tier.value))}' for tier in Tier}
_TRUST: Final = f'"trust":{_write(uid("Vector", "trust"))}'
_BOOTED: Final = f'"boot":{_write(uid("Boot", "boot"))}'


def moment(at: datetime) -> dict[str, dict[str, str]]:
    """Cedar's datetime literal, to the second."""
    return {"__extn": {"fn": "datetime", "arg": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}


def _entity(
    kind: str, name: str, attributes: Mapping[str, Any], tags: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    return {"uid": {"type": kind, "id": name}, "attrs": attributes, "parents": [], "tags": dict(tags)}
