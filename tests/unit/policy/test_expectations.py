"""Files of expectations: what holds, what does not, and what is refused before anything is decided."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from attestd.errors import AttestdError, InputTooLarge, MalformedInput
from attestd.policy import PolicySet, default_policy
from attestd.policy.expectations import MAX_FILE, Expectations, ExpectationsUnclear, parse_situation, undecided_by

TEXT = """
policy = "some.cedar"

[devices.bike]
tier = "device"
site = "munich"
trust = { instance-identity = "affirming" }

[devices.other]
id = "bike-2"
tier = "device"
site = "berlin"

[boundaries.home]
from = { tier = "device", site = "munich" }
to = { tier = "edge", site = "munich" }

[[expect]]
name = "at home"
device = "bike"
boundary = "home"
at = 2026-03-01T12:00:00Z
decision = "allow"
policies = ["cross-at-home"]
"""
ELSEWHERE = '{ name = "x", from = { tier = "edge" }, to = { tier = "edge", site = "munich" } }'
POLICIES = PolicySet.parse(default_policy(), 1)
TIMED = (
    '@id("by-day") permit (principal, action == Action::"cross", resource) when '
    '{ context.now.toTime() >= duration("6h") };'
)


def parse(text: str) -> Expectations:
    return Expectations.parse(text.encode(), toml=True)


def one(**changes: str):
    """The expectation with other lines."""
    lines = TEXT.strip().split("\n")
    for name, line in changes.items():
        at = next(n for n, old in enumerate(lines) if old.startswith(f"{name} =") and n > lines.index("[[expect]]"))
        lines[at] = line
    return parse("\n".join(lines)).expected[0].hold(POLICIES)


def test_one_that_holds():
    found = parse(TEXT)
    assert found.policy == "some.cedar"
    (expected,) = found.expected
    assert (expected.name, expected.allowed, expected.policies) == ("at home", True, ("cross-at-home",))
    assert expected.situation.device_id == "bike"
    assert expected.hold(POLICIES).holds


def test_json_says_the_same():
    document = json.dumps(tomllib.loads(TEXT), default=lambda moment: moment.isoformat())
    assert Expectations.parse(document.encode(), toml=False) == parse(TEXT)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({"decision": 'decision = "deny"'}, False),
        ({"device": 'device = "other"'}, False),
        ({"device": 'device = "other"', "decision": 'decision = "deny"', "policies": "policies = []"}, True),
        ({"device": 'device = "other"', "decision": 'decision = "deny"'}, False),  # denied, and not by cross-at-home
        ({"policies": 'policies = ["another"]'}, False),
        ({"policies": 'policies = ["another", "cross-at-home"]'}, False),
        ({"policies": "policies = []"}, False),
        ({"policies": ""}, True),
        ({"boundary": f"boundary = {ELSEWHERE}"}, False),
    ],
)
def test_verdict_and_policies_both_count(changes, holds):
    assert one(**changes).holds is holds


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": 'decision = "allowed"'},
        {"decision": ""},
        {"device": 'device = "nobody"'},
        {"device": ""},
        {"device": "device = 5"},
        {"boundary": 'boundary = "nowhere"'},
        {"boundary": ""},
        {"boundary": 'audience = "x"\nboundary = "home"'},
        {"name": ""},
        {"policies": 'policies = "cross-at-home"'},
        {"policies": 'polices = ["cross-at-home"]'},
        {"at": 'at = "noon"'},
        {"at": 'label = { a = "b" }'},
        {"at": "at = 12:00:00"},
        {"at": 'labels = { "a b" = "c" }'},
    ],
)
def test_what_is_unclear_is_refused(changes):
    with pytest.raises(AttestdError):
        one(**changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "expect = []",
        "[[expect]]",
        "[devices",
        "\xff",
        "a = 1\n" + TEXT,
        TEXT + TEXT[TEXT.index("[[expect]]") :],
        TEXT.replace("[devices.bike]", "[devices.bike]\nx = 1"),
    ],
)
def test_a_file_that_is_none(text):
    with pytest.raises(AttestdError):
        Expectations.parse(text.encode("latin-1"), toml=True)


@pytest.mark.parametrize("toml", [True, False])
def test_a_file_that_is_too_large(toml):
    with pytest.raises(InputTooLarge):
        Expectations.parse(b"#" * (MAX_FILE + 1), toml=toml)


def test_where_the_time_counts_it_has_to_be_said():
    timed = PolicySet.parse(TIMED, 1)
    silent = parse(TEXT.replace("at = 2026-03-01T12:00:00Z\n", ""))
    assert silent.expected[0].hold(POLICIES).holds
    with pytest.raises(ExpectationsUnclear):
        silent.expected[0].hold(timed)
    said = parse(TEXT.replace('policies = ["cross-at-home"]', ""))
    assert said.expected[0].hold(timed).holds
    assert not parse(TEXT.replace("12:00:00Z", "05:59:59Z")).expected[0].hold(timed).holds


def test_policies_that_decided_nothing_are_named():
    policies = PolicySet.parse(default_policy() + TIMED, 1)
    outcomes = [parse(TEXT.replace("12:00", "03:00")).expected[0].hold(policies)]
    assert undecided_by(policies, outcomes) == ("by-day",)
    assert undecided_by(policies, []) == ("cross-at-home", "by-day")


def test_one_attempt_alone():
    text = 'boundary = { name = "b", from = { tier = "device" }, to = { tier = "edge", site = "munich" } }\n'
    text += 'device = { id = "bike-1", tier = "device", site = "munich", trust = { instance-identity = "affirming" } }'
    assert parse_situation(text.encode(), toml=True).decide(POLICIES).allowed
    with pytest.raises(AttestdError):
        parse_situation((text + '\ndecision = "allow"').encode(), toml=True)


EXAMPLES = Path(__file__).parents[3] / "examples" / "policies"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.test.toml")), ids=lambda path: path.name)
def test_the_examples_hold_and_leave_no_policy_out(file):
    found = Expectations.parse(file.read_bytes(), toml=True)
    policies = PolicySet.parse((EXAMPLES / found.policy).read_text(), 1)
    outcomes = [expected.hold(policies) for expected in found.expected]
    assert [outcome.expected.name for outcome in outcomes if not outcome.holds] == []
    assert undecided_by(policies, outcomes) == ()


def test_the_documented_file_is_one():
    page = (EXAMPLES.parents[1] / "docs" / "policies.md").read_text()
    start = page.index('    policy = "eu-data.cedar"')
    lines = page[start : page.index("\n\nA member that is misspelt", start)].split("\n")
    found = parse("\n".join(line.removeprefix("    ") for line in lines))
    policies = PolicySet.parse((EXAMPLES / found.policy).read_text(), 1)
    assert all(expected.hold(policies).holds for expected in found.expected)


def test_every_example_has_expectations():
    assert {path.name.split(".")[0] for path in EXAMPLES.glob("*.cedar")} == {
        path.name.split(".")[0] for path in EXAMPLES.glob("*.test.toml")
    } == {"eu-data", "billing", "gateways"}  # fmt: skip


def test_an_edge_that_hears_nothing():
    """`stale` says which class alone crosses; it is read, written and decided by."""
    policy = """
        @id("home") permit (principal, action == Action::"cross", resource);
        @id("alarms") @when_stale("alarms") permit (principal, action == Action::"cross", resource);"""
    text = """
        [devices.bike]
        tier = "device"
        site = "munich"
        [boundaries.out]
        from = { tier = "device" }
        to = { tier = "edge", site = "munich" }
        [[expect]]
        name = "heard"
        device = "bike"
        boundary = "out"
        decision = "allow"
        policies = ["alarms", "home"]
        [[expect]]
        name = "alarms go on"
        device = "bike"
        boundary = "out"
        stale = "alarms"
        decision = "allow"
        policies = ["alarms"]
        [[expect]]
        name = "nothing else does"
        device = "bike"
        boundary = "out"
        stale = "telemetry"
        decision = "deny"
        policies = []
    """
    found = Expectations.parse(text.encode(), toml=True).expected
    assert all(one.hold(PolicySet.parse(policy, 1)).holds for one in found)
    with pytest.raises(MalformedInput):
        Expectations.parse(text.replace('"telemetry"', '"every thing"').encode(), toml=True)
