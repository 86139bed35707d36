"""How the fleet stands, at one moment: who is trusted, what needs somebody, what was refused, what ends soon, and
whether the service itself is well. docs/fleet.md says what each number means.

A device in service is active or quarantined. It is trusted if it is active, its result is affirming, and that result
still counts. Nothing here is an estimate; where counting stops at a bound, that is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from attestd.config import Settings
from attestd.ids import Tier
from attestd.operations.authority import Authority
from attestd.operations.edges import EdgeBook, Standing
from attestd.registry import audit, audit_tree, brake, bundles, counts, expiring, outcomes, outlook, policies
from attestd.registry.audit import Unsealed
from attestd.registry.brake import Brake
from attestd.registry.counts import Group
from attestd.registry.engine import Connection, Registry
from attestd.registry.outcomes import Refusals, Results
from attestd.registry.outlook import Behind, Late, Makers, Quarantined
from attestd.registry.states import State

DAY: Final = 86_400
SOON: Final = timedelta(days=30)
MOST_SITES: Final = 20  # that are named with what is overdue there
_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class Share:
    """Devices in service, each in one of the numbers after `devices`. Overdue ones are in no other than that."""

    devices: int = 0
    affirming: int = 0
    warning: int = 0
    contraindicated: int = 0
    none: int = 0
    overdue: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """Something that ends within a month."""

    what: str  # issuer, root, …, "reference manifest", "TPM maker"
    name: str
    ends: int


@dataclass(frozen=True, slots=True)
class Overview:
    """One moment. `late`: the sites with the most overdue devices, of `late_sites` that have any. `edges`: all that are
    not disabled."""

    states: Mapping[State, int]
    tiers: Mapping[str, Share]
    sites: int
    quarantined: Sequence[Quarantined]
    late: Sequence[Behind]
    late_sites: int
    results: Sequence[Results]
    refusals: Sequence[Refusals]
    endings: Sequence[Ending]
    makers: Makers
    certificates: int
    policy_version: int
    bundle: tuple[int, int, int] | None
    edges: Sequence[Standing]
    unsealed: Unsealed
    audit_size: int
    brake: Brake
    brake_recent: int
    brake_held: int


@dataclass(frozen=True, slots=True)
class Watchtower:
    """Looks around. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    authority: Authority

    def ended_by(self, now: datetime) -> int:
        """Who is overdue: an active device whose result ended by then."""
        return int((now - self.settings.attestation.overdue_after).timestamp())

    def look(self, now: datetime) -> Overview:
        """Raises the registry's errors, and those of the authority's files."""
        at = int(now.timestamp())
        with self.registry.reading() as c:
            groups = counts.groups(c)
            late = outlook.overdue(c, ended_by=self.ended_by(now))
            sites, late_sites = outlook.overdue_by_site(c, ended_by=self.ended_by(now), limit=MOST_SITES)
            bundle = bundles.newest(c)
            return Overview(
                states=_states(groups),
                tiers=_tiers(groups, late),
                sites=counts.count_sites(c),
                quarantined=outlook.quarantined(c),
                late=sites,
                late_sites=late_sites,
                results=outcomes.results(c, since=at - DAY),
                refusals=outcomes.refused(c, since=at - DAY),
                endings=self._endings(c, now),
                makers=outlook.ending_makers(c, now=at, until=at + int(SOON.total_seconds())),
                certificates=outlook.ending_certificates(c, now=at, until=at + _HOUR),
                policy_version=policies.latest(c).version,
                bundle=None if bundle is None else (bundle.epoch, bundle.version, bundle.issued_at),
                edges=[
                    standing
                    for standing in EdgeBook(self.registry, self.settings).standings(c, now)
                    if standing.proxy.disabled_at is None
                ],
                unsealed=audit.lag(c),
                audit_size=audit_tree.size(c),
                brake=brake.state(c),
                brake_recent=brake.recent(c, now=at),
                brake_held=brake.count_held(c),
            )

    def _endings(self, c: Connection, now: datetime) -> list[Ending]:
        """What signs, and reference values: the first to end first."""
        found = [
            Ending(kind, certificate.subject.rfc4514_string(), int(certificate.not_valid_after_utc.timestamp()))
            for kind, certificate in self.authority.certificates()
        ]
        at = int(now.timestamp())
        found += [Ending("reference manifest", each.name, each.ends) for each in expiring.manifests(c, now=at)]
        until = at + int(SOON.total_seconds())
        return sorted((each for each in found if at < each.ends <= until), key=lambda each: (each.ends, each.name))


def _states(groups: Sequence[Group]) -> dict[State, int]:
    found = dict.fromkeys(State, 0)
    for group in groups:
        found[group.state] += group.count
    return found


def _tiers(groups: Sequence[Group], late: Sequence[Late]) -> dict[str, Share]:
    """What is overdue is taken out of what it was found to be."""
    sums: dict[str, dict[str, int]] = {tier.value: defaultdict(int) for tier in Tier}
    for group in groups:
        if group.state in (State.ACTIVE, State.QUARANTINED):
            share = sums.setdefault(group.tier, defaultdict(int))
            share["devices"] += group.count
            share[group.status if group.state is State.ACTIVE else "quarantined"] += group.count
    for each in late:
        share = sums.setdefault(each.tier, defaultdict(int))
        share[each.status] -= each.count
        share["overdue"] += each.count
    return {tier: Share(**share) for tier, share in sums.items()}
