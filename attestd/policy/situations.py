"""One attempt in words: who, with which facts, wants what, and when. What test files, recorded decisions and the
options of `attestd policy explain` have in common.

    {"device": {"id": "bike-1", "tier": "device", "site": "munich", "labels": {}, "trust": {"executables": "affirming"},
                "boot": {"secure_boot": true}, "attested_at": "2026-03-01T11:59:00Z"},
     "boundary": {"name": "field-to-munich", "from": {"tier": "device"}, "to": {"tier": "edge", "site": "munich"}},
     "method": "POST", "path": "/telemetry", "labels": {}, "claims": {}, "at": "2026-03-01T12:00:00Z"}

`"audience": "billing"` instead of boundary, method, path, labels and claims asks for a token. Claims of `trust` are
tiers, or numbers as in a credential. A member that nobody knows is refused: it would be a fact that is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Self

from attestd.credentials.facts import (
    AFFIRMING,
    CONTRAINDICATED,
    LABEL_NAME,
    MAX_LABEL,
    NONE,
    VECTOR_CLAIMS,
    WARNING,
    Facts,
)
from attestd.credentials.identity import VerifiedIdentity
from attestd.errors import MalformedInput
from attestd.ids import DeviceId, Site, Tier
from attestd.policy.decisions import Crossing, Decision, decide, may_receive_token
from attestd.policy.entities import Boundary, Look
from attestd.policy.policies import PolicySet
from attestd.protocol.encoding import MalformedJson, Members

MAX_LABELS = 16  # data labels, and claims, of one crossing
MAX_PATH = 8 * 1024  # characters
# A value of each tier (draft-ietf-rats-ar4si, section 2.3.2).
_TIERS: Final = MappingProxyType({NONE: 0, AFFIRMING: 2, WARNING: 32, CONTRAINDICATED: 96})


class SituationUnclear(MalformedInput):
    """This does not say who wants to do what"""

    remedy = "docs/policies.md shows how an attempt is written."


class LabelsMalformed(MalformedInput):
    """These are no labels of data"""

    remedy = "Give at most 16 names of letters, digits, '.', '_', '/' and '-', with printable texts of at most 256."


def read_labels(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Labels or claims of data, from whoever gives them. Raises LabelsMalformed: half of them would be a lie."""
    if len(values) > MAX_LABELS:
        raise LabelsMalformed(seen=f"{len(values)} names", expected=f"at most {MAX_LABELS}")
    for name, text in values.items():
        if not isinstance(name, str) or not LABEL_NAME.fullmatch(name):
            raise LabelsMalformed("A label of data has a name that it may not have.", seen=repr(name)[:70])
        if type(text) is not str or len(text) > MAX_LABEL or not text.isprintable():
            raise LabelsMalformed(f"The label {name!r} of data is not printable text.", seen=repr(text)[:70])
    return MappingProxyType(dict(values))


@dataclass(frozen=True)
class Situation:
    """A machine before a boundary (`crossing`), or before the service with an `audience`, at a moment."""

    device_id: str
    tier: Tier
    site: Site
    facts: Facts
    now: datetime
    crossing: Crossing | None = None
    audience: str = ""

    @classmethod
    def of(cls, identity: VerifiedIdentity, crossing: Crossing, now: datetime) -> Self:
        """A crossing as an edge had it before it."""
        return cls(identity.device_id, identity.tier, identity.site, identity.facts, now, crossing)

    def decide(self, policies: PolicySet) -> Decision:
        """As an edge, or the service, would."""
        if self.crossing is None:
            return may_receive_token(
                policies,
                tier=self.tier,
                site=self.site,
                labels=self.facts.labels,
                audience=self.audience,
                device_id=self.device_id,
                facts=self.facts,
                now=self.now,
            )
        look = Look.seen(
            policies.for_crossing(self.crossing.boundary.name, stale=self.crossing.stale),
            self.facts.labels,
            self.facts,
            device_id=self.device_id,
            tier=self.tier,
            site=self.site,
        )
        return decide(policies, look, self.crossing, self.now)

    @property
    def what(self) -> str:
        """What is wanted, for people."""
        return f"token for {self.audience}" if self.crossing is None else self.crossing.boundary.name

    @classmethod
    def read(cls, members: Members) -> Self:
        """Raises MalformedInput or InputTooLarge."""
        now = _moment(members.text("at", limit=64))
        device = members.object("device")
        device_id = DeviceId(device.text("id", limit=64))
        tier, site = Tier.parse(device.text("tier", limit=16)), Site(device.text("site", limit=64))
        facts = Facts(
            vector={claim: _trust(claim, value) for claim, value in _part(device, "trust").items()},
            labels=_part(device, "labels"),
            boot=_part(device, "boot"),
            status_index=0,
            attested_at=_seconds(device, now),
        )
        device.done()
        who = cls(device_id, tier, site, facts, now)
        if "audience" in members:
            done = replace(who, audience=members.text("audience", limit=256))
        else:
            done = replace(who, crossing=_crossing(members))
        members.done()
        return done

    def to_members(self) -> dict[str, Any]:
        """What `read` reads."""
        device: dict[str, Any] = {
            "id": str(self.device_id),
            "tier": self.tier.value,
            "site": str(self.site),
            "labels": dict(self.facts.labels),
            "trust": dict(self.facts.vector),
            "boot": dict(self.facts.boot),
            # As a credential has it: a number may be no moment that Python knows, and a record must not fail over it.
            "attested_at": self.facts.attested_at,
        }
        when: dict[str, Any] = {"at": _shown(self.now)}
        if self.crossing is None:
            return {"device": device, "audience": self.audience} | when
        there = self.crossing.boundary
        start = {"tier": there.from_tier.value} | ({"site": str(there.from_site)} if there.from_site else {})
        return {
            "device": device,
            "boundary": {
                "name": there.name,
                "from": start,
                "to": {"tier": there.to_tier.value, "site": str(there.to_site)},
            },
            "method": self.crossing.method,
            "path": self.crossing.path,
            "labels": dict(self.crossing.labels),
            "claims": dict(self.crossing.claims),
            **({} if self.crossing.stale is None else {"stale": self.crossing.stale}),
        } | when


def _crossing(members: Members) -> Crossing:
    boundary = members.object("boundary")
    start, end = boundary.object("from"), boundary.object("to")
    crossing = Crossing(
        Boundary(
            name=str(Site(boundary.text("name", limit=64))),
            from_tier=Tier.parse(start.text("tier", limit=16)),
            from_site=Site(start.text("site", limit=64)) if "site" in start else None,
            to_tier=Tier.parse(end.text("tier", limit=16)),
            to_site=Site(end.text("site", limit=64)),
        ),
        members.text("method", limit=64) if "method" in members else "GET",
        members.text("path", limit=MAX_PATH) if "path" in members else "/",
        read_labels(_part(members, "labels")),
        read_labels(_part(members, "claims")),
        str(Site(members.text("stale", limit=64))) if "stale" in members else None,
    )
    for used in (start, end, boundary):
        used.done()
    return crossing


def _part(members: Members, name: str) -> dict[str, Any]:
    return dict(members.object(name).items()) if name in members else {}


def _trust(claim: str, value: Any) -> int:
    if claim not in VECTOR_CLAIMS:
        raise SituationUnclear(f"trust.{claim} is no claim of an attestation result.", expected=VECTOR_CLAIMS)
    if type(value) is int:
        return value
    if value not in _TIERS:
        raise SituationUnclear(f"trust.{claim} is no tier.", seen=repr(value)[:40], expected=", ".join(_TIERS))
    return _TIERS[value]


def _seconds(device: Members, now: datetime) -> int:
    """When it was attested, a moment or unix seconds; at the moment of the attempt if nobody says."""
    if "attested_at" not in device:
        return int(now.timestamp())
    try:
        return device.integer("attested_at")
    except MalformedJson:
        return int(_moment(device.text("attested_at", limit=64)).timestamp())


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise SituationUnclear("This is not a moment.", seen=repr(text[:40]), expected="2026-03-01T12:00:00Z") from None


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
