"""What the log says of a decision: enough to make it again; and what the caller is told: no more than its kind."""

from __future__ import annotations

import json
import logging

import pytest

from attestd.policy import PolicySet, default_policy
from attestd.policy.recorded import LONGEST_PATH, NotADecision, Recorded
from attestd_edge.journal import JsonLines
from tests import authority as a

from .test_edge_doors import LEAF, AsgiClient, WsgiClient

NIGHT = (
    '@id("no-night-shift") forbid (principal, action == Action::"cross", resource) when '
    '{ context.labels.hasTag("class") && context.path like "/night*" };'
)


@pytest.fixture(params=[WsgiClient, AsgiClient], ids=["wsgi", "asgi"])
def client(request, edge, store, bundle):
    store.adopt(a.signed_bundle(bundle(version=6, policy=default_policy() + NIGHT, policy_version=4)))
    return request.param(edge)


@pytest.fixture
def lines(caplog):
    """The lines of the log as an edge writes them."""
    caplog.set_level(logging.INFO, "attestd_edge.decisions")
    return lambda: [
        JsonLines().format(r).encode() for r in caplog.records if r.name == "attestd_edge.decisions"
    ]  # fmt: skip


def test_a_decision_can_be_made_again(client, lines):
    assert client.get(("Data-Labels", 'origin-site="munich"'), chain=(LEAF,))["status"] == 200
    assert client.get(path="/night/1", chain=(LEAF,), method="POST")["status"] == 403
    allowed, denied = map(Recorded.read, lines())
    assert (allowed.allowed, allowed.policies, allowed.policy_version) == (True, ("cross-at-home",), 4)
    assert (denied.allowed, denied.policies, denied.who) == (False, ("no-night-shift",), a.BIKE)
    assert allowed.situation.crossing.claims == {"origin-site": "munich"}
    assert (denied.situation.crossing.method, denied.situation.crossing.path) == ("POST", "/night/1")
    assert denied.situation.crossing.labels == {"class": "telemetry"}
    facts = denied.situation.facts
    assert (facts.vector, facts.labels, facts.boot) == (a.FACTS.vector, a.FACTS.labels, a.FACTS.boot)
    assert facts.attested_at == a.FACTS.attested_at
    policies = PolicySet.parse(default_policy() + NIGHT, 4)
    for one in (allowed, denied):
        again = one.situation.decide(policies)
        assert (again.allowed, again.policy_ids) == (one.allowed, one.policies)


def test_the_log_has_the_reasons_and_the_caller_has_not(client, lines):
    answer = client.get(path="/night/1", chain=(LEAF,))
    line = json.loads(lines()[0])
    assert (line["policies"], line["policy_version"], line["decision"]) == (["no-night-shift"], 4, "deny")
    assert line["reasons"] == ["policy 'no-night-shift' forbids this crossing"]
    told = json.loads(answer["body"])
    assert told.pop("request_id") == line["request_id"]
    assert told == {
        "type": "urn:attestd:problem:crossing-denied",
        "title": "The policy of this boundary does not permit this",
        "status": 403,
        "detail": "Ask the operator of this boundary; the reasons are in its log under this request id.",
    }
    assert b"night" not in answer["body"]
    assert not {"no-night-shift", "munich"} & set(str(answer["headers"]).replace("'", " ").split())


def test_the_statuss_index_stays_out_of_it(client, lines):
    """A line says what policies saw: no index, no EK hash, no query."""
    client.get(path="/night/1", chain=(LEAF,))
    assert set(json.loads(lines()[0])["attempt"]["device"]) == {
        "id", "tier", "site", "labels", "trust", "boot", "attested_at",
    }  # fmt: skip


def test_a_path_that_is_too_long_to_keep(client, lines):
    for length, kept in ((LONGEST_PATH, True), (LONGEST_PATH + 1, False)):
        client.get(path="/night".ljust(length, "x"), chain=(LEAF,))
        line = lines()[-1]
        assert ("attempt" in json.loads(line)) is kept
        if not kept:
            with pytest.raises(NotADecision):
                Recorded.read(line)


def test_what_no_policy_decided_is_no_decision(client, lines):
    client.get()
    with pytest.raises(NotADecision):
        Recorded.read(lines()[0])
