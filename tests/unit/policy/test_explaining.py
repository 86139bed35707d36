"""Why: each policy's part in a decision, as the engine finds it."""

from __future__ import annotations

import pytest

from attestd.policy import PolicySet, default_policy
from attestd.policy.explaining import DECIDED, FAILED, OVERRULED, SILENT, explain

from .test_situations import WHOLE, changed, read

CROSS = 'permit (principal, action == Action::"cross", resource)'
FORBID = 'forbid (principal, action == Action::"cross", resource)'


def parts(text: str, members=WHOLE) -> dict[str, tuple[str, str]]:
    found = explain(PolicySet.parse(text, 1), read(members))
    return {one.policy: (one.part, one.why) for one in found.policies}


def part(text: str, members=WHOLE) -> tuple[str, str]:
    (one,) = parts(text, members).values()
    return one


def test_the_ones_that_decide_and_the_ones_that_are_overruled():
    found = explain(PolicySet.parse(f'{default_policy()}\n@id("no") {FORBID};', 1), read(WHOLE))
    assert [(one.policy, one.effect, one.part) for one in found.policies] == [
        ("cross-at-home", "permit", OVERRULED),
        ("no", "forbid", DECIDED),
    ]
    assert found.decision.policy_ids == ("no",)
    assert found.policies[0].line == 6
    assert found.policies[1].line == default_policy().count("\n") + 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f'{CROSS} when {{ principal.site == "munich" && principal.site == "berlin" && true }};',
         '`principal.site == "berlin"` is false'),
        (f'{CROSS} when {{ true }} when {{ context.method == "GET" }};', '`context.method == "GET"` is false'),
        (f'{CROSS} unless {{ context.method == "POST" }};',
         '`context.method == "POST"` is true, and that is an exception'),
        (f'{CROSS} when {{ principal.hasTag("x") && principal.getTag("x") == "y" }};',
         '`principal.hasTag("x")` is false'),
        ('permit (principal, action == Action::"token", resource);', "it is about another action or resource"),
        ('permit (principal, action, resource == Boundary::"other");', "it is about another action or resource"),
        ('permit (principal == Device::"bike-2", action, resource);', "its scope "),
        (f'{CROSS} when {{ principal == Device::"bike-2" }};', '`principal == Device::"bike-2"` is false'),
    ],
)  # fmt: skip
def test_the_first_piece_that_does_not_hold(text, why):
    assert part(text)[0] == SILENT
    assert part(text)[1].startswith(why)


def test_one_that_fails():
    text = f'{CROSS};@id("sum") {FORBID} when {{ principal.boot.numbers.hasTag("dbx_count") && '
    text += '9223372036854775807 + principal.boot.numbers.getTag("dbx_count") > 0 };'
    found = explain(PolicySet.parse(text, 1), read(WHOLE))
    assert (found.decision.allowed, found.decision.policy_ids) == (False, ("sum",))
    assert "`sum`" in found.decision.reasons[0]
    assert [one.part for one in found.policies] == [OVERRULED, FAILED]
    assert "can't be evaluated" in found.policies[1].why


def test_a_lie_changes_the_explanation():
    policies = PolicySet.parse(default_policy(), 1)
    assert explain(policies, read(WHOLE)).policies[0].part == DECIDED
    for path, lie, told in (
        ("device.tier", "edge", "principal.tier == resource.from.tier"),
        ("device.site", "berlin", "principal.site == resource.from.site"),
        ("device.trust.instance-identity", "none", "instance_identity"),
        ("device.trust.executables", "contraindicated", "worst"),
    ):
        one = explain(policies, read(changed(path, lie))).policies[0]
        assert one.part == SILENT
        assert told in one.why


def test_a_token():
    members = {"device": WHOLE["device"], "audience": "billing", "at": WHOLE["at"]}
    text = '@id("a") permit (principal, action == Action::"token", resource == Audience::"billing");'
    text += '@id("b") permit (principal, action == Action::"token", resource == Audience::"other");'
    found = parts(text + default_policy(), members)
    assert {name: told[0] for name, told in found.items()} == {"a": DECIDED, "b": SILENT, "cross-at-home": SILENT}


def test_no_policies_at_all():
    found = explain(PolicySet.parse("", 1), read(WHOLE))
    assert (found.decision.allowed, found.policies) == (False, ())


def test_comments_and_strings_do_not_move_the_lines():
    text = f'// ; permit\n@id("a;b")\n{CROSS} when {{ principal.id == ";" }};\n\n@id("c")\n{CROSS};'
    found = explain(PolicySet.parse(text, 1), read(WHOLE))
    assert [(one.policy, one.line) for one in found.policies] == [("a;b", 2), ("c", 5)]
