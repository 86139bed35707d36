"""What is a policy set: bounds, grammar, schema, and a place for every refusal."""

from __future__ import annotations

import pytest

from attestd.errors import InputTooLarge
from attestd.policy import PolicyInvalid, PolicySet, default_policy, edge_tokens_policy
from attestd.policy.reads import CONTEXT, DEVICE

HEAD = "permit (principal, action, resource)"
CROSS = 'permit (principal, action == Action::"cross", resource)'


def refusal(text: str) -> str:
    with pytest.raises(PolicyInvalid) as caught:
        PolicySet.parse(text, 1)
    return str(caught.value)


def test_the_shipped_policies_are_valid():
    policies = PolicySet.parse(default_policy() + edge_tokens_policy(), 3)
    assert policies.version == 3
    assert set(policies.ids.values()) == {"cross-at-home", "device-tokens-for-the-edge"}


class TestPlaces:
    @pytest.mark.parametrize(
        ("text", "place"),
        [
            (HEAD + ";\n" + HEAD + "\n  when { principal.tier = 1 };", "line 3, column 25"),
            (HEAD + "\nwhen { true )", "line 2, column 13"),
            (HEAD + "\nwhen { true", "line 2, column 12"),
            (
                "// a comment; with a semicolon\n" + HEAD + ";\npermitt (principal, action, resource);",
                "line 3, column 1",
            ),
            (HEAD + "\n whn { true };", "line 2, column 2"),
            (HEAD + ' when {\n  principal.id == "a;b" && nonsense(1) };', "line 2, column 28"),
            (HEAD + ' when { principal.id == "a\n};', "line 1, column 61"),
        ],
    )
    def test_of_syntax_errors(self, text, place):
        assert f"at {place}." in refusal(text)

    @pytest.mark.parametrize(
        ("condition", "place"),
        [
            ('principal.teir == Tier::"device"', "line 3, column 18"),
            ('principal.tier == Tier::"devcie"', "line 3, column 32"),
            ('principal.trust.worst != Trust::"contra"', "line 3, column 40"),
            ('principal.trust.worst != Turst::"none"', "line 3, column 33"),
            ('principal.getTag("fleet") == "red"', "line 3, column 25"),
        ],
    )
    def test_of_what_does_not_fit_the_schema(self, condition, place):
        told = refusal(f"{HEAD};\n{CROSS}\nwhen {{ {condition} }};")
        assert f"does not fit the schema at {place}." in told


class TestRefusals:
    def test_an_unknown_action(self):
        assert "schema" in refusal('permit (principal, action == Action::"corss", resource);')
        PolicySet.parse('permit (principal, action == Action::"cross", resource);', 1)

    def test_an_optional_attribute_unguarded(self):
        guarded = '(if resource.from has site then resource.from.site == "m" else false)'
        PolicySet.parse(f"{CROSS} when {{ {guarded} }};", 1)
        assert "schema" in refusal(f'{CROSS} when {{ resource.from.site == "m" }};')

    def test_a_template(self):
        assert "template" in refusal("permit (principal == ?principal, action, resource);")
        PolicySet.parse('permit (principal == Device::"a", action, resource);', 1)

    def test_one_id_twice(self):
        assert "line 2" in refusal(f'@id("a") {HEAD};\n@id("a") {HEAD};')
        PolicySet.parse(f'@id("a") {HEAD};\n@id("b") {HEAD};', 1)

    def test_an_id_that_the_engine_gives_another(self):
        assert "one @id" in refusal(f'{HEAD};\n@id("policy0") {HEAD};')

    def test_too_much_text(self):
        with pytest.raises(InputTooLarge):
            PolicySet.parse("//" + "é" * (128 * 1024), 1)
        PolicySet.parse("//" + "é" * (128 * 1024 - 1), 1)

    @pytest.mark.parametrize("opening", ["(", "[", "{a:"])
    def test_brackets_that_would_kill_the_process(self, opening):
        closing = {"(": ")", "[": "]", "{a:": "}"}[opening]
        assert "nested too deeply at line 1" in refusal(f"{HEAD} when {{ {opening * 20000}1{closing * 20000} == 1 }};")
        PolicySet.parse(f"{HEAD} when {{ {'(' * 31}true{')' * 31} }};", 1)

    @pytest.mark.parametrize("least", [" && true" * 101, " == true" * 101, ".a" * 101])
    def test_chains_are_refused_before_the_engine_sees_them(self, least):
        assert "nested too deeply at line 1" in refusal(f"{HEAD} when {{ true{least} }};")

    def test_brackets_are_refused_before_the_engine_sees_them(self):
        assert "nested too deeply at line 1" in refusal(f"{HEAD} when {{ {'(' * 32}true{')' * 32} }};")

    @pytest.mark.parametrize(
        "deep",
        ["if true then " * 9999 + "true" + " else true" * 9999, "principal" + ".a" * 9999, "1" + "+1" * 9999,
         "principal" + ".contains(1)" * 9999, "if true then true else " * 9999 + "true", "true" + " && true" * 9999],
    )  # fmt: skip
    def test_chains_that_would_kill_the_process(self, deep):
        assert "nested too deeply" in refusal(f"{HEAD} when {{ {deep} }};")

    def test_long_but_shallow_is_no_offence(self):
        names = ", ".join(f'Device::"bike-{n}"' for n in range(2000))
        many = " || ".join(f'principal.id == "a{n}"' for n in range(60))
        PolicySet.parse(f"{HEAD} when {{ [{names}].contains(principal) || ({many}) }};", 1)


class TestWhatIsRead:
    @pytest.mark.parametrize(
        ("condition", "reads"),
        [
            ("true", frozenset()),
            ('context.method == "GET"', {"method"}),
            ('context["path"] like "/a*" && context.method == "GET"', {"method", "path"}),
            ('!(context.now < datetime("2024-01-01"))', {"now"}),
            ('context.labels.hasTag("now")', {"labels"}),
            ("context has path", {"path"}),
            ('{"c": context}.c.method == "GET"', CONTEXT),
            ('(if true then context else context).method == "GET"', CONTEXT),
            ("[context].contains(context)", CONTEXT),
        ],
    )
    def test_is_found_without_guessing(self, condition, reads):
        assert PolicySet.parse(f"{CROSS} when {{ {condition} }};", 1).reads == reads

    @pytest.mark.parametrize(
        ("condition", "sees"),
        [
            ("true", set()),
            ('principal.tier == Tier::"edge" && principal.site == "munich"', {"tier", "site"}),
            ('principal.trust.worst == Trust::"none"', {"trust"}),
            ("principal has attested_at", {"attested_at"}),
            ('principal.hasTag("f") && principal.getTag("f") like "a*"', {"tags"}),
            ('principal.boot.flags.hasTag("f")', {"boot"}),
            ('context.labels.hasTag("f")', set()),
            ("principal is Device", set()),
            ("principal == resource", DEVICE),
            ('principal == Device::"d"', DEVICE),
            ('Device::"d".tier == Tier::"edge"', DEVICE),
            ('principal is Device in Device::"d"', DEVICE),
            ('[Device::"d"].contains(principal)', DEVICE),
            ('{"p": principal}.p.tier == Tier::"edge"', DEVICE),
            ('(if true then principal else principal).site == "munich"', DEVICE),
            ('(if true then principal else principal).hasTag("f")', DEVICE),
        ],
    )
    def test_so_is_what_is_seen_of_a_device(self, condition, sees):
        assert PolicySet.parse(f"{CROSS} when {{ {condition} }};", 1).sees == sees

    @pytest.mark.parametrize(
        ("scope", "sees"),
        [
            ("principal", set()),
            ("principal is Device", set()),
            ('principal == Device::"d"', DEVICE),
            ('principal in Device::"d"', DEVICE),
            ('principal is Device in Device::"d"', DEVICE),
        ],
    )
    def test_a_scope_that_names_a_device_sees_it(self, scope, sees):
        text = f'permit ({scope}, action == Action::"cross", resource == Boundary::"b");'
        assert PolicySet.parse(text, 1).sees == sees

    def test_decides_what_verdicts_depend_on(self):
        timed = PolicySet.parse(f'{CROSS} unless {{ context.now < datetime("2024-01-01") }};', 1)
        assert timed.reads_time
        assert not timed.reads_request
        routed = PolicySet.parse(f'{CROSS} when {{ context.path == "/" }};', 1)
        assert routed.reads_request
        assert not routed.reads_time
