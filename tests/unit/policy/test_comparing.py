"""Recorded decisions made again: nothing changes under the same policy, and what changes is told for whom."""

from __future__ import annotations

import json

import pytest

from attestd.errors import AttestdError
from attestd.policy import PolicySet, default_policy
from attestd.policy.comparing import compare, replay
from attestd.policy.recorded import MAX_LINE, NotADecision, Recorded, Skipped, read_lines, record
from attestd.policy.situations import Situation

OLD = PolicySet.parse(default_policy(), 3)
STRICTER = '@id("no-bikes") forbid (principal, action == Action::"cross", resource) when { principal.hasTag("old") };'


@pytest.fixture
def line(identity, home, now):
    """`line(policies, device_id="bike-2", labels={…})`: a decision as an edge records it."""
    from attestd.policy import Crossing, decide

    def made(policies=OLD, *, data=None, claims=None, **who):
        machine = identity(**who)
        crossing = Crossing(home, "GET", "/orders", data or {}, claims or {})
        decision = decide(policies, machine, crossing, now)
        members = {"request_id": "r-1", "spiffe_id": str(machine.spiffe_id), "level": "info"}
        return json.dumps(members | record(Situation.of(machine, crossing, now), decision), default=str).encode()

    return made


def test_the_same_policy_changes_nothing(line):
    full = line(labels={"old": "y"}, data={"a": "b"}, claims={"c": "d"})
    lines = [line(), line(site="berlin"), line(tier="edge"), full]
    done = replay(read_lines(lines, Skipped()), OLD)
    assert (done.decided, done.changed, done.others_decide, dict(done.versions)) == (4, 0, 0, {3: 4})


def test_a_stricter_one_is_told_for_whom(line):
    old, other = line(labels={"old": "y"}), line(device_id="bike-2", labels={"old": "n"})
    lines = [old, old, other, line()]
    done = replay(read_lines(lines, Skipped()), PolicySet.parse(default_policy() + STRICTER, 4))
    ((change, affected),) = done.changes.items()
    assert (change.what, change.allowed, change.before, change.after) == (
        "field-to-munich", False, ("cross-at-home",), ("no-bikes",),
    )  # fmt: skip
    assert dict(affected.reasons) == {"policy 'no-bikes' forbids this crossing": 3}
    assert dict(affected.who) == {
        "spiffe://example.org/device/munich/bike-1": 2,
        "spiffe://example.org/device/munich/bike-2": 1,
    }
    assert (done.decided, done.changed) == (4, 3)


def test_a_looser_one_too(line):
    anyone = PolicySet.parse('@id("anyone") permit (principal, action == Action::"cross", resource);', 4)
    done = replay(read_lines([line(), line(site="berlin")], Skipped()), anyone)
    ((change, affected),) = done.changes.items()
    assert (change.allowed, change.before, change.after, affected.who.total()) == (True, (), ("anyone",), 1)
    assert done.others_decide == 1


def test_data_and_claims_are_replayed(line):
    by_label = 'permit (principal, action == Action::"cross", resource) when { context.labels.hasTag("a") && '
    policies = PolicySet.parse(by_label + 'context.claims.hasTag("c") };', 4)
    both = line(data={"a": "b"}, claims={"c": "d"})
    swapped = line(data={"c": "b"}, claims={"a": "d"})
    assert replay(read_lines([both], Skipped()), policies).changed == 0
    assert replay(read_lines([swapped], Skipped()), policies).changed == 1


def test_other_lines_are_counted_and_left_out(line):
    skipped = Skipped()
    good = line()
    damaged = [b"not json", good[:-9], b"[]", b"x" * (MAX_LINE + 9), b'{"attempt": {}, "decision": "allow"}']
    lines = [b"", b"  \n", b'{"message": "started"}', *damaged, b" " * 9 + good, good]
    assert len(list(read_lines(lines, skipped))) == 2
    assert (skipped.others, skipped.damaged) == (1, 5)


@pytest.mark.parametrize(
    "lie",
    [
        {"decision": "yes"},
        {"decision": None},
        {"policies": "cross-at-home"},
        {"policies": ...},
        {"policy_version": "3"},
        {"policy_version": ...},
        {"request_id": 5},
        {"spiffe_id": []},
    ],
)
def test_a_damaged_decision(line, lie):
    members = json.loads(line())
    Recorded.read(json.dumps(members).encode())
    for name, value in lie.items():
        members[name] = value
        if value is ...:
            del members[name]
    with pytest.raises(AttestdError) as caught:
        Recorded.read(json.dumps(members).encode())
    assert not isinstance(caught.value, NotADecision)


def test_texts_are_compared_by_id():
    new = PolicySet.parse("// a comment\n" + default_policy().replace("cross-at-home", "cross") + STRICTER, 4)
    found = compare(OLD, new)
    assert (found.added, found.removed, found.changed) == (("cross", "no-bikes"), ("cross-at-home",), ())
    assert found.differ
    changed = PolicySet.parse(default_policy().replace('"contraindicated"', '"warning"'), 4)
    assert compare(OLD, changed).changed == ("cross-at-home",)
    assert not compare(OLD, PolicySet.parse("// again\n" + default_policy().replace("\n", "\n\n"), 4)).differ
