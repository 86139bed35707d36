"""One policy's way: labels by a real nginx, decided by a real edge, told in its log, explained and replayed there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import invoke
from tests.gates import Gate, Nginx

POLICY = """
@id("labelled-data-crosses") permit (principal, action == Action::"cross", resource) when {
  context.labels.hasTag("residency") && context.labels.getTag("residency") == "EU"
};
@id("nobody-claims-otherwise") forbid (principal, action == Action::"cross", resource) when {
  context.claims.hasTag("residency") && context.claims.getTag("residency") != "EU"
};
"""
SHIPPED = """        proxy_set_header Attestd-Labels     "";

        proxy_set_header X-Forwarded-Method"""


@pytest.fixture(params=["labelled", "shipped"])
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Gate, bool]]:
    """A gate whose nginx labels, or the configuration as it is shipped; and whether it labels."""
    labelled = request.param == "labelled"
    gate = Nginx(tmp_path, {SHIPPED: SHIPPED.replace('"";', """'residency="EU"';""") if labelled else SHIPPED})
    gate.site.configure(more=f"labels_from_hop = {str(labelled).lower()}\n")
    gate.site.publish(policy=POLICY, policy_version=3)
    with gate.site.serving("--verbose"), gate.running():
        yield gate, labelled


def test_labels_on_their_way(gate: tuple[Gate, bool], tmp_path: Path) -> None:
    at, labelled = gate
    leaf = at.site.device()
    passes = 200 if labelled else 403
    # nginx's word, whatever the client says under its name.
    assert at.send(leaf=leaf)[0] == passes
    assert at.send(("Attestd-Labels", 'residency="EU"'), leaf=leaf)[0] == passes
    assert at.send(("Attestd-Labels", 'residency="US"'), ("Attestd-Labels", "x"), leaf=leaf)[0] == passes
    # The client's word is its claim: it may tighten, and what can't be read stops it.
    assert at.send(("Data-Labels", 'residency="US"'), leaf=leaf)[0] == 403
    assert at.send(("Data-Labels", "residency=EU"), leaf=leaf)[0] == 403
    assert at.send(("Data-Labels", 'residency="EU"'), leaf=leaf)[0] == passes
    assert len(at.seen) == (4 if labelled else 0)
    assert "attestd-labels" not in {name.lower() for _, _, headers in at.seen for name, _ in headers}

    log = tmp_path / "serve.log"
    decided = [record for record in map(json.loads, log.read_text().splitlines()) if "attempt" in record]
    assert [record["decision"] for record in decided].count("allow") == (4 if labelled else 0)
    assert {record["policy_version"] for record in decided} == {3}
    policy, strict = tmp_path / "policy.cedar", tmp_path / "strict.cedar"
    policy.write_text(POLICY)
    strict.write_text(POLICY + '@id("closed") forbid (principal, action == Action::"cross", resource);')

    # What was decided is decided again alike, and what another policy would change is shown for whom.
    same = invoke("policy", "diff", policy, "--recorded", log, "--json").document["recorded"]
    assert (same["decided"], same["changed"]) == (len(decided), 0)
    other = invoke("policy", "diff", strict, "--recorded", log, "--json").document["recorded"]
    assert other["changed"] == (4 if labelled else 0)
    assert all(row["who"] == {"spiffe://example.org/device/munich/bike-1": 4} for row in other["changes"])
    denied = next(record for record in decided if record["decision"] == "deny" and record["attempt"]["claims"])
    ran = invoke(
        "policy", "explain", "--recorded", log, "--request-id", denied["request_id"], "--policy", policy, "--json"
    )
    assert ran.code == 1
    assert ran.document["decided_by"] == denied["policies"] == ["nobody-claims-otherwise"]
    assert ran.document["reasons"] == denied["reasons"]
