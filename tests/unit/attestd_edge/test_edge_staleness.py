"""A boundary of an edge that hears nothing: everything crosses, then what is of one class, then nothing."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from attestd.credentials.bundle import BundleStale
from attestd.policy import PolicySet
from attestd.policy.explaining import explain
from attestd.policy.recorded import Recorded
from attestd_edge.decide import Presented, Request, judge
from attestd_edge.edge import Asked, Edge
from attestd_edge.problems import Refusal
from attestd_edge.settings import Guarded
from attestd_edge.views import BoundaryStale, Staleness, View
from tests import authority as a

POLICY = """
@id("home") permit (principal is Device, action == Action::"cross", resource is Boundary);
@id("telemetry") @when_stale("telemetry")
permit (principal is Device, action == Action::"cross", resource is Boundary) when { context.method == "POST" };
@id("alarms") @when_stale("alarms") permit (principal is Device, action == Action::"cross", resource is Boundary);
@id("recalled") forbid (principal, action == Action::"cross", resource) when {
  principal.hasTag("fleet") && principal.getTag("fleet") == "recalled" };
"""
RULE = Staleness(600, "telemetry")


@pytest.fixture
def view(bundle) -> View:
    return View.of(bundle(policy=POLICY), pinned=[a.ROOT.der])


@pytest.fixture
def at(view, boundary):
    """`at(600, "POST")`: what is said so many seconds after the bundle was issued."""

    def judged(seconds, method="GET", rule=RULE, leaf=None):
        verdict = judge(
            view,
            boundary=boundary,
            presented=Presented((leaf or a.leaf(),)),
            request=Request(method, "https://x", "/"),
            tokens=None,
            now=a.NOW + timedelta(seconds=seconds),
            staleness=rule,
        )
        return verdict.decision.allowed, verdict.stale, verdict.decision.policy_ids

    return judged


def test_within_its_limit_everything_crosses(at):
    assert at(0) == (True, None, ("alarms", "home"))
    assert at(599)[:2] == (True, None)


def test_after_it_only_the_class(at):
    assert at(600) == (False, "telemetry", ())
    assert at(600, "POST") == (True, "telemetry", ("telemetry",))
    assert at(3599, "POST") == (True, "telemetry", ("telemetry",))


def test_a_forbid_needs_no_class(at):
    recalled = a.leaf(facts=a.Facts(**{**vars_of(a.FACTS), "labels": {"fleet": "recalled"}}))
    assert at(600, "POST", leaf=recalled) == (False, "telemetry", ("recalled",))


def vars_of(facts):
    return {name: getattr(facts, name) for name in ("vector", "labels", "boot", "status_index", "attested_at")}


def test_a_class_that_no_policy_names_lets_nothing_cross(at):
    assert at(600, "POST", Staleness(600, "nobody-s")) == (False, "nobody-s", ())


def test_a_boundary_without_a_class_refuses(at):
    assert at(599, rule=Staleness(600))[0]
    with pytest.raises(BoundaryStale):
        at(600, rule=Staleness(600))


@pytest.mark.parametrize("rule", [None, RULE, Staleness(600), Staleness(86400, "telemetry")])
def test_the_service_s_own_limit_ends_it_all(at, rule):
    with pytest.raises(BundleStale):
        at(3600, "POST", rule)


def test_what_was_remembered_while_fresh_counts_no_more(at):
    leaf = a.leaf()
    assert at(599, leaf=leaf)[0]
    assert not at(600, leaf=leaf)[0]
    # Nor the other way, after a new bundle of the same content.
    assert at(599, leaf=leaf)[0]


def test_one_boundary_s_rule_is_not_another_s(at):
    leaf = a.leaf()
    assert not at(700, leaf=leaf)[0]
    assert at(700, rule=None, leaf=leaf)[0]


def test_what_was_decided_so_is_recorded_so(store, bundle, boundary, watch, caplog):
    """And decided again alike: `attestd policy diff --recorded` must not take it for a change."""
    store.adopt(a.signed_bundle(bundle(policy=POLICY)))
    edge = Edge(store, tokens=None, boundaries={boundary.name: Guarded(boundary, {}, staleness=RULE)})
    watch.pass_(600)
    read = Asked(Presented((a.leaf(),)), Request("GET", "https://x", "/"))
    edge.admit(boundary, lambda: read)
    line = next(record for record in caplog.records if record.name == "attestd_edge.decisions")
    recorded = Recorded.read(json.dumps(line.attestd, default=str).encode())
    assert recorded.situation.crossing.stale == "telemetry"
    decided = recorded.situation.decide(PolicySet.parse(POLICY, 3))
    assert (decided.allowed, decided.policy_ids) == (recorded.allowed, recorded.policies) == (False, ())
    assert "only what policies call 'telemetry' crosses here" in decided.reasons[0]
    explained = {one.policy: one.part for one in explain(PolicySet.parse(POLICY, 3), recorded.situation).policies}
    assert explained == {"home": "silent", "telemetry": "silent", "alarms": "silent", "recalled": "silent"}


def test_the_engine_is_asked_with_the_class_s_policies_alone():
    policies = PolicySet.parse(POLICY, 3)
    whole, part = policies.for_crossing("x"), policies.for_crossing("x", stale="alarms")
    assert whole.reads == {"method"}
    assert part.reads == frozenset()
    assert policies.for_crossing("y", stale="alarms") is part


def test_an_edge_asks_by_its_boundary_s_rule(store, bundle, boundary, watch):
    """`Edge.admit`, which every door calls, and what its log says."""
    store.adopt(a.signed_bundle(bundle(policy=POLICY)))
    edge = Edge(store, tokens=None, boundaries={boundary.name: Guarded(boundary, {}, staleness=RULE)})

    def asked(method):
        read = Asked(Presented((a.leaf(),)), Request(method, "https://x", "/"))
        answer = edge.admit(boundary, lambda: read)
        return answer.slug if isinstance(answer, Refusal) else "allowed"

    assert (asked("GET"), asked("POST")) == ("allowed", "allowed")
    watch.pass_(600)
    assert (asked("GET"), asked("POST")) == ("crossing-denied", "allowed")
    watch.pass_(3000)
    assert (asked("GET"), asked("POST")) == ("bundle-stale", "bundle-stale")
