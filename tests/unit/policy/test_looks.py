"""Machines that look the same to a set of policies get the same decisions, and only those."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import cedarpy
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.facts import Facts
from attestd.credentials.identity import VerifiedIdentity
from attestd.ids import DeviceId, Serial, Site, SpiffeId, Tier, TrustDomain
from attestd.policy import Boundary, Crossing, Look, PolicySet, decide, default_policy
from attestd.policy.reads import DEVICE

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ANYONE = '@id("anyone") permit (principal, action, resource);'
FLAG = 'principal.boot.flags.hasTag("n")'


def machine(tier: str = "device", site: str = "munich", name: str = "bike-1", **facts) -> VerifiedIdentity:
    where = Tier(tier), Site(site), DeviceId(name)
    honest = {"vector": {"instance-identity": 2}, "labels": {}, "boot": {}, "status_index": 7, "attested_at": 1}
    return VerifiedIdentity(
        SpiffeId.of_device(TrustDomain("example.org"), *where), *where, Facts(**{**honest, **facts}),
        "0a", Serial(10), NOW + timedelta(hours=1), "x509",
    )  # fmt: skip


MACHINES = [
    machine(),
    machine(name="bike-2"),
    machine(name="bike-2", labels={"f": "a"}),
    machine(labels={"f": "b"}, boot={"sb": True}),
    machine(tier="edge"),
    machine(site="berlin", vector={"hardware": 2}),
    machine(boot={"n": 2}),
    machine(boot={"n": True, "sb": 1}),
    machine(attested_at=1_700_000_000),
    machine(labels={"munich": "a", "f": ""}),
    machine(),
]


CONDITIONS = st.recursive(
    st.sampled_from(
        [
            'principal.tier == Tier::"device"',
            'principal.site == "munich"',
            'principal == Device::"bike-1"',
            'Device::"bike-1" == principal',
            '[principal].contains(Device::"bike-2")',
            'principal.id like "*-2"',
            'principal.hasTag("f")',
            'principal.hasTag("f") && principal.getTag("f") == "a"',
            'principal.trust.hardware == Trust::"affirming"',
            'principal.boot.flags.hasTag("sb")',
            'principal.boot.numbers.hasTag("n") && principal.boot.numbers.getTag("n") > 1',
            "principal has attested_at",
            'principal has attested_at && principal.attested_at > datetime("2020-01-01")',
            "principal has id",
            'principal["id"] == "bike-1"',
            'principal.hasTag(principal.site) && principal.getTag(principal.site) == "a"',
            '(if principal.hasTag("f") then principal.getTag("f") else principal.id) like "b*"',
            '{"getTag": principal.site, "id": principal.id}.id like "*-2"',
            "principal is Device",
            "resource.from.tier == principal.tier",
        ]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) && ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) || ({two[1]})"),
        inner.map(lambda one: f"!({one})"),
    ),
    max_leaves=4,
)


class TestLooks:
    @given(CONDITIONS, st.sampled_from(["permit", "forbid"]))
    def test_leaving_out_what_nobody_looks_at_changes_no_decision(self, condition, effect):
        """Beside the same policies as they were written, with everything about the device on the device."""
        crosses = f'{effect} (principal, action == Action::"cross", resource) when {{ {condition} }};'
        text = crosses if effect == "permit" else ANYONE + crosses
        policies = PolicySet.parse(text, 1)
        whole = replace(policies, sees=DEVICE, handle=cedarpy.PolicySet.from_str(text), _tree=None)
        crossing = Crossing(Boundary("b", Tier.DEVICE, None, Tier.EDGE, Site("munich")), "GET", "/")
        seen: dict[Look, bool] = {}
        for one in MACHINES:
            decision = decide(policies, one, crossing, NOW)
            second = decide(whole, one, crossing, NOW)
            assert (decision.allowed, decision.policy_ids) == (second.allowed, second.policy_ids)
            assert not any("failed" in reason or "evaluated" in reason for reason in decision.reasons)
            # Machines that look the same are decided about in the same way.
            assert seen.setdefault(Look.of(policies, one), decision.allowed) is decision.allowed

    def test_a_look_holds_no_more_than_policy_looks_at(self):
        policies = PolicySet.parse(default_policy(), 1)
        one = Look.of(policies, machine(labels={"f": "a"}, boot={"sb": True}))
        assert one == Look.of(policies, machine(name="bike-2"))
        assert one != Look.of(policies, machine(site="berlin"))
        assert one != Look.of(policies, machine(tier="edge"))
        assert one != Look.of(policies, machine(vector={"instance-identity": 3}))

    def test_numbers_and_truths_do_not_look_the_same(self):
        policies = PolicySet.parse(f"{ANYONE} forbid (principal, action, resource) when {{ {FLAG} }};", 1)
        assert Look.of(policies, machine(boot={"n": 1})) != Look.of(policies, machine(boot={"n": True}))

    def test_one_device_is_not_another_to_a_policy_that_names_one(self):
        policies = PolicySet.parse('permit (principal == Device::"bike-1", action, resource);', 1)
        assert Look.of(policies, machine()) != Look.of(policies, machine(name="bike-2"))
