"""Who may cross and who may have tokens: each lie beside its accepted twin."""

from __future__ import annotations

import time
from dataclasses import replace

import cedarpy
import pytest

from attestd.ids import Site, Tier
from attestd.policy import (
    Crossing,
    Look,
    PolicySet,
    decide,
    default_policy,
    edge_tokens_policy,
    may_receive_token,
)

ANYONE = '@id("anyone") permit (principal, action, resource);'


@pytest.fixture
def policies():
    return PolicySet.parse(default_policy(), 1)


@pytest.fixture
def crossing(home):
    return Crossing(home, "GET", "/telemetry")


class TestDefaultPolicy:
    def test_permits_a_sound_machine_at_home(self, policies, identity, crossing, now):
        decision = decide(policies, identity(), crossing, now)
        assert decision.allowed
        assert decision.policy_ids == ("cross-at-home",)
        assert decision.reasons == ()
        assert decision.cacheable

    def test_denies_another_tier(self, policies, identity, crossing, now):
        decision = decide(policies, identity(tier="cloud"), crossing, now)
        assert not decision.allowed
        assert decision.reasons[0] == "this boundary is for tier device; the credential is of tier cloud"

    def test_denies_another_site(self, policies, identity, home, now):
        at_berlin = Crossing(replace(home, from_site=Site("berlin")), "GET", "/")
        decision = decide(policies, identity(), at_berlin, now)
        assert not decision.allowed
        assert decision.policy_ids == ()
        assert decision.reasons == (
            "this boundary is for site berlin; the credential is of site munich",
            "no policy permits this crossing",
        )

    def test_permits_every_site_where_the_boundary_names_none(self, policies, identity, home, now):
        anywhere = Crossing(replace(home, from_site=None), "GET", "/")
        assert decide(policies, identity(site="berlin"), anywhere, now).allowed
        assert not decide(policies, identity(tier="edge", site="berlin"), anywhere, now).allowed

    @pytest.mark.parametrize("value", [None, 0, 1, -1, 32, -33, 96])
    def test_denies_without_an_affirmed_instance(self, policies, identity, crossing, now, value):
        vector = {"hardware": 2} if value is None else {"hardware": 2, "instance-identity": value}
        decision = decide(policies, identity(vector=vector), crossing, now)
        assert not decision.allowed
        assert "instance identity" in decision.reasons[0]

    @pytest.mark.parametrize(("value", "allowed"), [(0, True), (3, True), (95, True), (-96, True), (96, False),
                                                    (127, False), (-97, False), (-128, False)])  # fmt: skip
    def test_denies_what_is_contraindicated(self, identity, crossing, now, value, allowed):
        policies = PolicySet.parse(default_policy(), 1)
        machine = identity(vector={"instance-identity": 2, "executables": value})
        decision = decide(policies, machine, crossing, now)
        assert decision.allowed is allowed
        assert allowed or decision.reasons[0] == "the last attestation contraindicates the device's executables"

    def test_the_far_end_does_not_have_to_be_home(self, policies, identity, home, now):
        away = replace(home, to_tier=Tier.CLOUD, to_site=Site("frankfurt"))
        assert decide(policies, identity(), Crossing(away, "GET", "/"), now).allowed

    def test_permits_no_token(self, policies):
        decision = may_receive_token(policies, tier=Tier.DEVICE, site=Site("munich"), labels={}, audience="edge")
        assert not decision.allowed
        assert decision.reasons == ("no policy permits this token for 'edge'",)


class TestFailingClosed:
    def test_no_policy_at_all_denies(self, identity, crossing, now):
        decision = decide(PolicySet.parse("", 1), identity(), crossing, now)
        assert not decision.allowed

    def test_a_forbid_beats_a_permit_and_is_named(self, policies, identity, crossing, now):
        text = default_policy() + '@id("no-bikes") forbid (principal == Device::"bike-1", action, resource);'
        decision = decide(PolicySet.parse(text, 2), identity(), crossing, now)
        assert not decision.allowed
        assert decision.policy_ids == ("no-bikes",)
        assert decision.reasons == ("policy 'no-bikes' forbids this crossing",)
        assert decide(PolicySet.parse(text, 2), identity(device_id="bike-2"), crossing, now).allowed

    @pytest.mark.parametrize("effect", ["permit", "forbid"])
    def test_a_policy_that_fails_denies(self, identity, crossing, now, effect):
        """Cedar skips what fails; a skipped forbid must not open the door."""
        overflow = f'@id("sum") {effect} (principal, action == Action::"cross", resource) when '
        overflow += '{ principal.boot.numbers.hasTag("n") && principal.boot.numbers.getTag("n") * 1024 > 1 };'
        policies = PolicySet.parse(ANYONE + overflow, 1)
        decision = decide(policies, identity(boot={"n": 1 << 53}), crossing, now)
        assert not decision.allowed
        assert "can't be evaluated" in decision.reasons[0]
        assert decide(policies, identity(), crossing, now).allowed

    def test_an_engine_that_raises_denies(self, policies, identity, crossing, now, monkeypatch):
        def broken(*_args, **_kwargs):
            raise RuntimeError("no engine")

        monkeypatch.setattr(cedarpy, "is_authorized", broken)
        decision = decide(policies, identity(), crossing, now)
        assert not decision.allowed
        assert not decision.cacheable
        assert decision.reasons == ("the policy engine failed: RuntimeError: no engine",)

    def test_text_that_the_engine_refuses_denies(self, identity, home, now):
        policies = PolicySet.parse(
            '@id("all") permit (principal, action == Action::"cross", resource) when { context.path like "*" };', 1
        )
        assert decide(policies, identity(), Crossing(home, "GET", "/a\x00"), now).allowed
        assert not decide(policies, identity(), Crossing(home, "GET", "/\ud800"), now).allowed


class TestWhatPoliciesSee:
    def decides(self, condition, who, crossing, now):
        text = f'permit (principal, action == Action::"cross", resource) when {{ {condition} }};'
        return decide(PolicySet.parse(text, 1), who, crossing, now).allowed

    @pytest.mark.parametrize(
        ("condition", "lie"),
        [
            ('principal.tier == Tier::"device"', {"tier": "edge"}),
            ('principal.site == "munich"', {"site": "berlin"}),
            ('principal == Device::"bike-1"', {"device_id": "bike-2"}),
            ('principal.id like "bike-*"', {"device_id": "car-1"}),
            ('principal.hasTag("fleet") && principal.getTag("fleet") == "red"', {"labels": {"fleet": "blue"}}),
            ('principal.trust.file_system == Trust::"affirming"', {"vector": {"file-system": 32}}),
            ('principal.trust.worst == Trust::"affirming"', {"vector": {"file-system": 2, "hardware": 0}}),
            ('principal.boot.flags.hasTag("sb") && principal.boot.flags.getTag("sb")', {"boot": {"sb": False}}),
            ('principal.boot.flags.hasTag("sb") && principal.boot.flags.getTag("sb")', {"boot": {}}),
            ('principal.boot.flags.hasTag("sb") && principal.boot.flags.getTag("sb")', {"boot": {"sb": 1}}),
            ('principal.boot.numbers.hasTag("v") && principal.boot.numbers.getTag("v") >= 3', {"boot": {"v": 2}}),
            ('principal.boot.numbers.hasTag("v") && principal.boot.numbers.getTag("v") >= 3', {"boot": {"v": True}}),
            ('principal.boot.texts.hasTag("os") && principal.boot.texts.getTag("os") == "a"', {"boot": {"os": "b"}}),
        ],
    )
    def test_the_machine(self, identity, crossing, now, condition, lie):
        truth = {"labels": {"fleet": "red"}, "vector": {"file-system": 2}, "boot": {"sb": True, "v": 3, "os": "a"}}
        assert self.decides(condition, identity(**truth), crossing, now)
        assert not self.decides(condition, identity(**{**truth, **lie}), crossing, now)

    @pytest.mark.parametrize(
        ("condition", "lie"),
        [
            ('context.method == "GET"', {"method": "POST"}),
            ('context.path like "/t/*"', {"path": "/u/1"}),
            ('context.labels.hasTag("class") && context.labels.getTag("class") == "c"', {"labels": {"class": "d"}}),
            ('context.labels.hasTag("class")', {"labels": {}}),
        ],
    )
    def test_the_attempt(self, identity, home, now, condition, lie):
        truth = {"method": "GET", "path": "/t/1", "labels": {"class": "c"}}
        assert self.decides(condition, identity(), Crossing(home, **truth), now)
        assert not self.decides(condition, identity(), Crossing(home, **{**truth, **lie}), now)

    def test_the_boundary(self, identity, crossing, now):
        assert self.decides(
            'resource.to.site == "munich" && resource.to.tier == Tier::"edge"', identity(), crossing, now
        )
        assert not self.decides('resource == Boundary::"another"', identity(), crossing, now)

    def test_the_time(self, identity, crossing, now):
        noon = 'context.now.toTime() >= duration("12h") && context.now.toTime() < duration("13h")'
        assert self.decides(noon, identity(), crossing, now)
        assert not self.decides(noon, identity(), crossing, now.replace(hour=13))

    def test_the_age_of_the_attestation(self, identity, crossing, now):
        fresh = 'principal has attested_at && context.now.durationSince(principal.attested_at) <= duration("60s")'
        assert self.decides(fresh, identity(), crossing, now)
        assert not self.decides(fresh, identity(), crossing, now.replace(second=1))


ASK = {"tier": Tier.DEVICE, "site": Site("munich"), "labels": {}, "audience": "edge"}


class TestTokens:
    def test_an_added_policy_permits_devices_the_edge(self):
        policies = PolicySet.parse(default_policy() + edge_tokens_policy(), 2)
        decision = may_receive_token(policies, **ASK)
        assert decision.allowed
        assert decision.policy_ids == ("device-tokens-for-the-edge",)
        assert not may_receive_token(policies, **{**ASK, "audience": "billing"}).allowed
        assert not may_receive_token(policies, **{**ASK, "tier": Tier.EDGE}).allowed

    def test_a_permit_for_tokens_permits_no_crossing(self, identity, crossing, now):
        assert not decide(PolicySet.parse(edge_tokens_policy(), 1), identity(), crossing, now).allowed

    def test_policies_find_labels_and_facts(self, identity):
        text = 'permit (principal, action == Action::"token", resource) when { principal.hasTag("f") && '
        text += 'principal.trust.hardware == Trust::"affirming" };'
        policies = PolicySet.parse(text, 1)
        ask = {**ASK, "labels": {"f": "1"}}
        assert may_receive_token(policies, **ask, facts=identity().facts).allowed
        assert not may_receive_token(policies, **ask).allowed
        assert not may_receive_token(policies, **ASK, facts=identity().facts).allowed

    def test_a_policy_that_reads_the_time_denies_without_it(self, now):
        text = 'permit (principal, action == Action::"token", resource) when { context.now > datetime("2020-01-01") };'
        policies = PolicySet.parse(text, 1)
        assert may_receive_token(policies, **ASK, now=now).allowed
        assert not may_receive_token(policies, **ASK).allowed


class TestKeepingVerdicts:
    def test_what_reads_the_time_is_not_kept(self, identity, crossing, now):
        timed = PolicySet.parse(default_policy() + 'forbid (principal, action, resource) when '
                                '{ context.now < datetime("2020-01-01") };', 1)  # fmt: skip
        decision = decide(timed, identity(), crossing, now)
        assert decision.allowed
        assert not decision.cacheable

    def test_a_look_is_good_for_many_decisions(self, policies, identity, home, crossing, now):
        look = Look.of(policies, identity())
        assert decide(policies, look, crossing, now).allowed
        elsewhere = Crossing(replace(home, name="b", from_site=Site("berlin")), "GET", "/")
        assert not decide(policies, look, elsewhere, now).allowed
        assert decide(policies, look, crossing, now).allowed


def test_decisions_are_fast(policies, identity, crossing, now):
    """A generous bound, to notice a parse at each call; the figure itself belongs into tests/bench."""
    look = Look.of(policies, identity())
    decide(policies, look, crossing, now)
    start = time.process_time()
    for _ in range(300):
        decide(policies, look, crossing, now)
    assert (time.process_time() - start) / 300 < 0.001
