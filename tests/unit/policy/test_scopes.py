"""Policies that can't apply are not asked, and nothing but time is saved by that."""

from __future__ import annotations

from dataclasses import replace

import cedarpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attestd.ids import Site, Tier
from attestd.policy import (
    Boundary,
    Crossing,
    Decision,
    Look,
    PolicyInvalid,
    PolicySet,
    decide,
    default_policy,
    may_receive_token,
)
from attestd.policy.reads import DEVICE

from .test_looks import NOW, machine

PRINCIPALS = ["principal", "principal is Device"]
ACTIONS = [
    "action",
    'action == Action::"cross"',
    'action == Action::"token"',
    'action in Action::"cross"',
    'action in [Action::"token", Action::"cross"]',
]
RESOURCES = [
    "resource",
    "resource is Boundary",
    "resource is Audience",
    'resource == Boundary::"a"',
    'resource == Boundary::"b"',
    'resource in Boundary::"a"',
    'resource is Boundary in Boundary::"a"',
    'resource == Audience::"a"',
]
CONDITIONS = [
    "",
    'when { principal.tier == Tier::"edge" }',
    'when { principal.hasTag("f") }',
    # Cedar can't evaluate these: the sum is too large a number.
    "when { 9223372036854775807 + 1 > 0 }",
    'unless { principal.boot.numbers.hasTag("n") && principal.boot.numbers.getTag("n") + 9223372036854775807 > 0 }',
]
POLICY = st.tuples(
    st.sampled_from(["permit", "permit", "forbid"]), *map(st.sampled_from, (PRINCIPALS, ACTIONS, RESOURCES, CONDITIONS))
).map(lambda parts: "{} ({}, {}, {}) {};".format(*parts))
MACHINES = [machine(), machine(tier="edge", labels={"f": "x"}), machine(boot={"n": 5})]


def crossing(name: str) -> Crossing:
    return Crossing(Boundary(name, Tier.DEVICE, None, Tier.EDGE, Site("munich")), "GET", "/")


def as_written(policies: PolicySet) -> PolicySet:
    """All of them together, asked about a device that is written whole."""
    return replace(policies, sees=DEVICE, handle=cedarpy.PolicySet.from_str(policies.text), _tree=None)


def told(decision: Decision) -> tuple[bool, tuple[str, ...], list[str]]:
    """Without the facts that are not there: only policies that can apply are said to ask for them."""
    reasons = sorted(reason for reason in decision.reasons if not reason.startswith("a policy asks for"))
    return decision.allowed, decision.policy_ids, reasons


class TestParts:
    @given(st.lists(POLICY, min_size=1, max_size=6))
    def test_decide_as_all_policies_do(self, texts):
        try:
            policies = PolicySet.parse("".join(texts), 1)
        except PolicyInvalid:  # such as one for tokens at boundaries, which the schema knows not
            assume(False)
        whole = as_written(policies)
        for one in MACHINES:
            for name in ("a", "b", "c"):
                part = decide(policies, one, crossing(name), NOW)
                assert told(part) == told(decide(whole, one, crossing(name), NOW))
            for audience in ("a", "b"):
                asked = {"tier": one.tier, "site": one.site, "labels": one.facts.labels, "audience": audience}
                part = may_receive_token(policies, **asked, facts=one.facts, device_id=one.device_id)
                every = may_receive_token(whole, **asked, facts=one.facts, device_id=one.device_id)
                assert told(part) == told(every)

    @pytest.mark.parametrize(
        ("scope", "asked"),
        [
            ('action == Action::"cross", resource == Boundary::"a"', True),
            ('action == Action::"cross", resource == Boundary::"b"', False),
            ('action == Action::"cross", resource in Boundary::"b"', True),  # can't be told for certain here
            ("action, resource is Boundary", True),
            ("action, resource is Audience", False),
            ('action in [Action::"token", Action::"cross"], resource', True),
            ('action in [Action::"token"], resource', False),
            ('action == Action::"token", resource', False),
        ],
    )
    def test_hold_what_can_apply(self, scope, asked):
        policies = PolicySet.parse(f"{default_policy()} forbid (principal, {scope});", 1)
        assert len(policies.for_crossing("a").handle) == 1 + asked

    def test_pay_for_what_they_look_at_themselves(self):
        """What is asked about one boundary, or about tokens, says nothing about another."""
        timed = 'forbid (principal, action == Action::"cross", resource == Boundary::"a") when '
        timed += '{ context.path == "/" && context.now < datetime("2020-01-01") };'
        named = 'permit (principal == Device::"bike-1", action == Action::"token", resource);'
        policies = PolicySet.parse(default_policy() + timed + named, 1)
        assert not decide(policies, machine(), crossing("a"), NOW).cacheable
        assert decide(policies, machine(), crossing("b"), NOW).cacheable
        assert policies.for_crossing("a").reads_request
        assert not policies.for_crossing("b").reads_request
        part = policies.for_crossing("b")
        assert Look.of(part, machine()) == Look.of(part, machine(name="bike-2"))

    def test_are_as_many_as_the_policies_name(self):
        """Whatever callers ask for."""
        policies = PolicySet.parse('permit (principal, action, resource == Boundary::"a");', 1)
        assert policies.for_crossing("a") is not policies.for_crossing("b")
        parts = {id(policies.for_crossing(f"b{number}")) for number in range(50)}
        parts |= {id(policies.for_token(f"a{number}")) for number in range(50)}
        assert len(parts) == 2
        assert len(policies._parts) == 3

    def test_a_part_has_no_parts(self):
        part = PolicySet.parse(default_policy(), 1).for_crossing("a")
        assert part.for_crossing("b") is part
