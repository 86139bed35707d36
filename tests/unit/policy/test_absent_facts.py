"""A fact that a policy asks for and that is not there: never a permit, and never a riddle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attestd.ids import Site, Tier
from attestd.policy import Crossing, PolicyInvalid, PolicySet, decide, default_policy, may_receive_token
from attestd.policy.reads import Asked

CROSS = 'permit (principal, action == Action::"cross", resource)'
ASKS = [
    ('principal.hasTag("f") && principal.getTag("f") == "x"', "the label 'f', which the device"),
    ('principal.boot.flags.hasTag("f") && principal.boot.flags.getTag("f")', "the boot fact 'f' as yes or no"),
    ('principal.boot.numbers.hasTag("f") && principal.boot.numbers.getTag("f") > 0', "the boot fact 'f' as a number"),
    ('principal.boot.texts.hasTag("f") && principal.boot.texts.getTag("f") == "x"', "the boot fact 'f' as a text"),
    ('context.labels.hasTag("f") && context.labels.getTag("f") == "x"', "the data label 'f', which nobody"),
    ('context.claims.hasTag("f") && context.claims.getTag("f") == "x"', "the claim 'f', which the sender"),
]  # fmt: skip
FACTS = [
    {"labels": {"f": "x"}}, {"boot": {"f": True}}, {"boot": {"f": 1}}, {"boot": {"f": "x"}}, {}, {},
]  # fmt: skip


@pytest.fixture
def there(identity, home):
    """The machine and the crossing in which the asked fact of that number is there."""

    def made(number):
        data = {4: {"labels": {"f": "x"}}, 5: {"claims": {"f": "x"}}}.get(number, {})
        return identity(**FACTS[number]), Crossing(home, "GET", "/", **data)

    return made


@pytest.mark.parametrize("number", range(len(ASKS)))
def test_it_denies_and_says_so(there, identity, home, now, number):
    condition, told = ASKS[number]
    policies = PolicySet.parse(f"{CROSS} when {{ {condition} }};", 1)
    assert decide(policies, *there(number), now).allowed
    denied = decide(policies, identity(), Crossing(home, "GET", "/"), now)
    assert not denied.allowed
    assert [reason for reason in denied.reasons if told in reason]


@pytest.mark.parametrize("number", range(len(ASKS)))
def test_a_fact_of_another_kind_is_not_there(there, now, number):
    """A number is no flag, a claim no label, a data label none of the device."""
    policies = PolicySet.parse(f"{CROSS} when {{ {ASKS[number][0]} }};", 1)
    for other in range(len(ASKS)):
        assert decide(policies, *there(other), now).allowed is (other == number)


@pytest.mark.parametrize("number", range(len(ASKS)))
def test_without_a_guard_there_is_no_policy(number):
    """Reading what may not be there is an error of the schema, before anything is decided."""
    guard, _, read = ASKS[number][0].partition(" && ")
    PolicySet.parse(f"{CROSS} when {{ {guard} && {read} }};", 1)
    with pytest.raises(PolicyInvalid):
        PolicySet.parse(f"{CROSS} when {{ {read} }};", 1)


def test_a_forbid_that_wants_a_fact_forbids_without_it(there, identity, home, now):
    wants = (
        '@id("wants") forbid (principal, action == Action::"cross", resource) unless { context.labels.hasTag("f") };'
    )
    policies = PolicySet.parse(default_policy() + wants, 1)
    assert decide(policies, *there(4), now).allowed
    denied = decide(policies, identity(), Crossing(home, "GET", "/"), now)
    assert (denied.allowed, denied.policy_ids) == (False, ("wants",))
    assert "a policy asks for the data label 'f', which nobody at this boundary gave" in denied.reasons


def test_what_is_there_is_not_said_to_be_absent(there, home, now):
    """Denied for another reason."""
    who, crossing = there(4)
    text = f'{CROSS} when {{ {ASKS[4][0]} && resource.to.site == "other" }};'
    assert decide(PolicySet.parse(text, 1), who, crossing, now).reasons == ("no policy permits this crossing",)


def test_policies_about_other_boundaries_ask_for_nothing_here(identity, home, now):
    text = f'permit (principal, action == Action::"cross", resource == Boundary::"other") when {{ {ASKS[4][0]} }};'
    policies = PolicySet.parse(text, 1)
    assert "data label" not in str(decide(policies, identity(), Crossing(home, "GET", "/"), now).reasons)
    other = Crossing(replace(home, name="other"), "GET", "/")
    assert "data label" in str(decide(policies, identity(), other, now).reasons)


def test_many_are_counted(identity, home, now):
    asks = " || ".join(f'context.labels.hasTag("a{n}")' for n in range(12))
    reasons = decide(
        PolicySet.parse(f"{CROSS} when {{ {asks} }};", 1), identity(), Crossing(home, "GET", "/"), now
    ).reasons  # fmt: skip
    assert sum("a policy asks" in reason for reason in reasons) == 8
    assert "policies ask for 4 more facts that are not here" in reasons


def test_a_token_says_so_too():
    text = 'permit (principal, action == Action::"token", resource) when { principal.hasTag("f") };'
    asked = {"tier": Tier.DEVICE, "site": Site("munich"), "audience": "a"}
    policies = PolicySet.parse(text, 1)
    assert may_receive_token(policies, **asked, labels={"f": ""}).allowed
    assert "the label 'f'" in str(may_receive_token(policies, **asked, labels={}).reasons)


@pytest.mark.parametrize(
    ("condition", "asked"),
    [
        ('principal.hasTag("f")', {("principal", "f")}),
        ('context.labels.hasTag("f") || context.claims.hasTag("g")', {("labels", "f"), ("claims", "g")}),
        ('principal.boot.flags.hasTag("f")', {("flags", "f")}),
        ("principal.hasTag(context.method)", set()),
        ('(if true then context.labels else context.claims).hasTag("f")', set()),
    ],
)
def test_what_is_asked_for_is_found(condition, asked):
    found = PolicySet.parse(f"{CROSS} when {{ {condition} }};", 1).asked
    assert found == {Asked(*one) for one in asked}


def test_claims_are_a_member_like_others(identity, home, now):
    """Labels and claims of one name do not meet."""
    text = f'{CROSS} when {{ context.claims.hasTag("f") && context.labels.hasTag("f") && ' + (
        'context.claims.getTag("f") == "c" && context.labels.getTag("f") == "l" };'
    )
    policies = PolicySet.parse(text, 1)
    assert policies.reads == {"labels", "claims"}
    assert policies.reads_claims
    assert decide(policies, identity(), Crossing(home, "GET", "/", {"f": "l"}, {"f": "c"}), now).allowed
    assert not decide(policies, identity(), Crossing(home, "GET", "/", {"f": "c"}, {"f": "l"}), now).allowed
