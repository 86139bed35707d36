"""`attestd policy`: what each command says, where it writes it, and its exit code (0 good, 1 bad, 2 unusable)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd.cli.api import CallRefused
from attestd.policy import PolicySet, default_policy, published_schema
from attestd.policy.recorded import record
from attestd.policy.situations import Situation
from attestd.protocol.encoding import Members
from tests.commands import Run
from tests.service import World

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).parents[3] / "examples" / "policies"
BAD = (
    'permit (principal, action == Action::"cross", resource) when { principal.teir == 1 };\n'
    'forbid (principal, action == Action::"cross", resource)\n  when { context.pth == "/" };\n'
)
ATTEMPT: dict[str, Any] = {
    "device": {"id": "bike-1", "tier": "device", "site": "munich", "trust": {"instance-identity": "affirming"}},
    "boundary": {
        "name": "home",
        "from": {"tier": "device", "site": "munich"},
        "to": {"tier": "edge", "site": "munich"},
    },
    "at": "2026-03-01T12:00:00Z",
}
OPTIONS = (
    *("--device", "bike-1", "--site", "munich", "--trust", "instance-identity=affirming"),
    *("--boundary", "home", "--from", "device/munich", "--to", "edge/munich"),
)


@pytest.fixture
def default(tmp_path: Path) -> Path:
    return written(tmp_path / "default.cedar", default_policy())


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


class TestValidate:
    def test_a_valid_one(self, run: Run, default: Path) -> None:
        ran = run("policy", "validate", default)
        assert (ran.code, ran.out, ran.err) == (0, "valid: 1 policies (cross-at-home)\n", "")
        assert run("policy", "validate", default, "--json").document == {
            "valid": True,
            "policies": ["cross-at-home"],
            "flaws": [],
        }

    def test_every_fault_with_line_and_column(self, run: Run, tmp_path: Path) -> None:
        file = written(tmp_path / "bad.cedar", BAD)
        ran = run("policy", "validate", file)
        assert (ran.code, ran.out) == (1, "")
        first, second = ran.err.splitlines()
        assert first.startswith(f"{file}:1:74: ")
        assert "teir" in first
        assert second.startswith(f"{file}:3:18: ")
        assert "pth" in second
        flaws = run("policy", "validate", file, "--json").document["flaws"]
        assert [(flaw["line"], flaw["column"]) for flaw in flaws] == [(1, 74), (3, 18)]

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("permit (principal,\n  action, resource", "2:19"),
            ("permit (principal, action, resource);\nallow (principal, action, resource);", "2:1"),
            ("permit (principal == ?principal, action, resource);", "1:1"),
            (f"permit (principal, action, resource) when {{ {'(' * 40}true{')' * 40} }};", "1:76"),
            ('@id("a") permit (principal, action, resource);\n@id("a") forbid (principal, action, resource);', "2:5"),
        ],
    )
    def test_other_faults_have_a_place_too(self, run: Run, tmp_path: Path, text: str, place: str) -> None:
        file = written(tmp_path / "bad.cedar", text)
        ran = run("policy", "validate", file)
        assert ran.code == 1
        assert ran.err.startswith(f"{file}:{place}: ")

    def test_what_can_t_be_used(self, run: Run, tmp_path: Path) -> None:
        assert run("policy", "validate", tmp_path / "absent.cedar").code == 2
        (tmp_path / "latin.cedar").write_bytes(b"// \xe9\n")
        ran = run("policy", "validate", tmp_path / "latin.cedar")
        assert (ran.code, "UTF-8" in ran.err) == (2, True)
        (tmp_path / "large.cedar").write_bytes(b"/" * (256 * 1024 + 1))
        assert run("policy", "validate", tmp_path / "large.cedar").code == 2

    def test_no_policies_are_valid_and_permit_nothing(self, run: Run, tmp_path: Path) -> None:
        ran = run("policy", "validate", written(tmp_path / "empty.cedar", "// nothing\n"))
        assert (ran.code, ran.out) == (0, "valid: no policies, so all denied\n")


class TestExpectations:
    def test_the_examples(self, run: Run) -> None:
        ran = run("policy", "test", EXAMPLES)
        assert (ran.code, ran.out) == (0, "26 of 26 expectations hold.\n")

    def test_another_policy_than_they_are_for(self, run: Run, default: Path) -> None:
        ran = run("policy", "test", EXAMPLES / "eu-data.test.toml", "--policy", default)
        assert ran.code == 1
        assert "EU data does not cross to Virginia" in ran.out
        assert "deny by eu-data-stays" in ran.out
        assert "allow by cross-at-home" in ran.out
        assert "EU data crosses to a site in the EU" not in ran.out
        document = run("policy", "test", EXAMPLES / "eu-data.test.toml", "--policy", default, "--json").document
        assert (document["expectations"], document["failed"]) == (8, 5)
        failed = next(row for row in document["outcomes"] if not row["holds"])
        assert (failed["expected"], failed["decided"], failed["policies"]) == ("deny", "allow", ["cross-at-home"])

    def test_policies_that_nothing_is_expected_of(self, run: Run, tmp_path: Path, default: Path) -> None:
        file = written(tmp_path / "one.test.json", json.dumps({"policy": default.name, "expect": [
            ATTEMPT | {"name": "n", "decision": "deny", "boundary": ATTEMPT["boundary"] | {"from": {"tier": "edge"}}}
        ]}))  # fmt: skip
        ran = run("policy", "test", file)
        assert ran.code == 0
        assert f"No expectation was decided by, of {default}: cross-at-home" in ran.out

    @pytest.mark.parametrize(
        "case", ["no policy", "absent policy", "bad policy", "bad file", "empty folder", "absent file"]
    )
    def test_what_can_t_be_used(self, run: Run, tmp_path: Path, default: Path, case: str) -> None:
        text = (EXAMPLES / "billing.test.toml").read_text()
        made = {
            "no policy": text.replace('policy = "billing.cedar"\n', ""),
            "absent policy": text,
            "bad policy": text.replace("billing.cedar", "bad.cedar"),
            "bad file": text.replace("decision", "verdict"),
        }
        written(tmp_path / "bad.cedar", BAD)
        (tmp_path / "empty").mkdir()
        path = tmp_path / "empty" if case == "empty folder" else tmp_path / "a.test.toml"
        if case in made:
            written(path, made[case])
        ran = run("policy", "test", path)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("error: ")
        if case == "bad policy":
            assert "bad.cedar: The policy does not fit the schema at line 1, column 74" in ran.err

    def test_both_kinds_of_files_in_folders_below(self, run: Run, tmp_path: Path, default: Path) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        one = {"expect": [ATTEMPT | {"name": "n", "decision": "allow"}]}
        written(tmp_path / "a" / "b" / "x.test.json", json.dumps(one))
        written(tmp_path / "a" / "notes.json", "not one of them")
        assert run("policy", "test", tmp_path / "a", "--policy", default, "--json").document["expectations"] == 1


def line(policies: PolicySet, **lies: Any) -> str:
    """A decision as an edge logs it."""
    members = ATTEMPT | {"device": ATTEMPT["device"] | lies}
    situation = Situation.read(Members(members, "attempt"))
    who = f"spiffe://example.org/{situation.tier}/{situation.site}/{situation.device_id}"
    named = {"request_id": f"r-{situation.device_id}", "spiffe_id": who}
    return json.dumps(named | record(situation, situation.decide(policies)))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    policies = PolicySet.parse(default_policy(), 7)
    lines = [line(policies), line(policies, id="bike-2"), line(policies, id="bike-3", site="berlin")]
    return written(tmp_path / "edge.log", "\n".join([*lines, '{"message": "started"}', "damaged"]) + "\n")


class TestExplain:
    def test_by_options(self, run: Run, default: Path) -> None:
        ran = run("policy", "explain", *OPTIONS, "--policy", default)
        assert ran.code == 0
        assert ran.out.startswith("allow: bike-1 at home, by cross-at-home\n")
        ran = run("policy", "explain", *OPTIONS, "--policy", default, "--tier", "edge", "--json")
        assert ran.code == 1
        assert (ran.document["decision"], ran.document["decided_by"]) == ("deny", [])
        assert ran.document["policies"] == [
            {"policy": "cross-at-home", "line": 6, "effect": "permit", "part": "silent",
             "why": "`principal.tier == resource.from.tier` is false"}
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("option", "condition"),
        [
            (("--label", "fleet=bikes"), 'principal.hasTag("fleet") && principal.getTag("fleet") == "bikes"'),
            (("--boot", "secure_boot=true"), 'principal.boot.flags.hasTag("secure_boot")'),
            (("--boot", "dbx_count=-7"), 'principal.boot.numbers.hasTag("dbx_count")'),
            (("--boot", "tpm.maker=IFX"), 'principal.boot.texts.hasTag("tpm.maker")'),
            (("--data-label", "residency=EU"), 'context.labels.hasTag("residency")'),
            (("--claim", "a=b=c"), 'context.claims.hasTag("a") && context.claims.getTag("a") == "b=c"'),
            (("--method", "PUT"), 'context.method == "PUT"'),
            (("--path", "/a"), 'context.path == "/a"'),
            (("--at", "2020-01-01T00:00:00Z"), 'context.now == datetime("2020-01-01")'),
        ],
    )  # fmt: skip
    def test_each_option_counts(self, run: Run, tmp_path: Path, option: tuple[str, str], condition: str) -> None:
        text = f'permit (principal, action == Action::"cross", resource) when {{ {condition} }};'
        policy = written(tmp_path / "p.cedar", text)
        assert run("policy", "explain", *OPTIONS, *option, "--policy", policy).code == 0
        assert run("policy", "explain", *OPTIONS, "--policy", policy).code == 1

    def test_a_token(self, run: Run) -> None:
        asked = ("--device", "bike-1", "--site", "munich", "--policy", EXAMPLES / "billing.cedar", "--json")
        ran = run("policy", "explain", *asked, "--audience", "billing")
        assert (ran.code, ran.document["decision"]) == (1, "deny")
        trust = ("--trust", "executables=affirming", "--trust", "configuration=affirming")
        ran = run("policy", "explain", *asked, *trust, "--audience", "billing")
        assert (ran.code, ran.document["decided_by"]) == (0, ["sound-boots-have-billing-tokens"])

    def test_by_file_and_by_expectation(self, run: Run, tmp_path: Path, default: Path) -> None:
        file = written(tmp_path / "attempt.json", json.dumps(ATTEMPT))
        assert run("policy", "explain", file, "--policy", default).code == 0
        tests, policy = EXAMPLES / "gateways.test.toml", EXAMPLES / "gateways.cedar"
        ran = run("policy", "explain", tests, "--case", "not for another site", "--policy", policy)
        assert ran.code == 1
        assert '`(context.claims.getTag("origin-site")) == principal.site` is false' in ran.out
        assert run("policy", "explain", tests, "--case", "not in it", "--policy", policy).code == 2

    def test_a_recorded_decision(self, run: Run, log: Path, default: Path) -> None:
        asked = ("policy", "explain", "--recorded", log, "--policy", default)
        assert run(*asked, "--request-id", "r-bike-2").out.startswith("allow: bike-2 at home")
        denied = run(*asked, "--request-id", "r-bike-3")
        assert denied.code == 1
        assert "because  this boundary is for site munich; the credential is of site berlin" in denied.out
        assert run(*asked, "--request-id", "r-bike-4").code == 2
        assert run(*asked).code == 2

    @pytest.mark.parametrize(
        "options",
        [
            (),
            ("--device", "a b"),
            ("--device", "x", "--tier", "moon"),
            ("--device", "bike-1", "--site", "munich"),
            (*OPTIONS, "--label", "x"),
            (*OPTIONS, "--label", "a=b", "--label", "a=c"),
            (*OPTIONS, "--at", "now"),
            (*OPTIONS, "--recorded", "x"),
            (*OPTIONS, "--trust", "boot=good"),
            (*OPTIONS, "--claim", "a b=c"),
        ],
    )
    def test_what_can_t_be_used(self, run: Run, default: Path, options: tuple[str, ...]) -> None:
        ran = run("policy", "explain", *options, "--policy", default)
        assert (ran.code, ran.out) == (2, "")


class TestDiff:
    def test_nothing_changes(self, run: Run, default: Path, log: Path) -> None:
        ran = run("policy", "diff", default, "--against", default, "--recorded", log)
        assert ran.code == 0
        assert "The policies are the same.\n0 of 3 recorded decisions would come out differently." in ran.out
        assert "1 lines can't be read." in ran.out

    def test_what_changes_and_for_whom(self, run: Run, tmp_path: Path, default: Path, log: Path) -> None:
        no = '@id("not-2") forbid (principal == Device::"bike-2", action == Action::"cross", resource);'
        new = written(tmp_path / "new.cedar", default_policy() + no)
        ran = run("policy", "diff", new, "--against", default, "--recorded", log)
        assert ran.code == 1
        assert "added:   not-2" in ran.out
        assert "1 of 3 recorded decisions would come out differently." in ran.out
        row = next(text for text in ran.out.splitlines() if text.startswith("home"))
        for told in ("allow by cross-at-home", "deny by not-2", "spiffe://example.org/device/munich/bike-2"):
            assert told in row
        found = run("policy", "diff", new, "--recorded", log, "--json").document["recorded"]
        assert (found["decided"], found["changed"], found["policy_versions"]) == (3, 1, [7])
        assert (found["other_lines"], found["damaged_lines"]) == (1, 1)
        assert found["changes"][0]["who"] == {"spiffe://example.org/device/munich/bike-2": 1}

    def test_texts_alone(self, run: Run, tmp_path: Path, default: Path) -> None:
        new = written(tmp_path / "new.cedar", default_policy().replace('"contraindicated"', '"warning"'))
        ran = run("policy", "diff", new, "--against", default)
        assert (ran.code, ran.out) == (1, "changed: cross-at-home\n")

    def test_from_standard_input(
        self, run: Run, default: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`journalctl -o cat … | attestd policy diff NEW --recorded -`"""
        source, sink = os.pipe()
        os.write(sink, line(PolicySet.parse(default_policy(), 7)).encode() + b"\n")
        os.close(sink)
        kept = os.dup(0)
        os.dup2(source, 0)
        try:
            assert run("policy", "diff", default, "--recorded", "-").code == 0
        finally:
            os.dup2(kept, 0)
            os.close(kept)
            os.close(source)

    def test_a_log_without_decisions(self, run: Run, tmp_path: Path, default: Path) -> None:
        """Nothing would change, it would say, and nothing was looked at."""
        ran = run("policy", "diff", default, "--recorded", written(tmp_path / "x.log", '{"message": "started"}\n'))
        assert (ran.code, ran.out) == (2, "")
        assert run("policy", "diff", default, "--recorded", tmp_path / "absent").code == 2

    def test_a_policy_that_is_none(self, run: Run, tmp_path: Path, log: Path) -> None:
        assert run("policy", "diff", written(tmp_path / "bad.cedar", BAD), "--recorded", log).code == 2

    def test_a_line_that_is_too_long(self, run: Run, tmp_path: Path, default: Path, log: Path) -> None:
        long = written(tmp_path / "long.log", "x" * (600 * 1024) + "\n" + log.read_text())
        found = run("policy", "diff", default, "--recorded", long, "--json").document["recorded"]
        assert (found["decided"], found["damaged_lines"]) == (3, 2)


# ---- With a service -------------------------------------------------------------------------------------------------


class Api:
    """The admin API of a service in this process, as the commands see it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get(self, path: str) -> dict[str, Any]:
        return self._done(self.world.viewer.get(f"/v1/admin{path}"))

    def post(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        return self._done(self.world.admin.post(f"/v1/admin{path}", message))

    def put(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        return self._done(self.world.admin.put(f"/v1/admin{path}", message))

    def _done(self, answer: Any) -> dict[str, Any]:
        if answer.status_code >= 400:
            raise CallRefused(answer.json)
        return dict(answer.json)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path / "instance")
    monkeypatch.setattr("attestd.cli.api.AdminApi.connect", lambda _: Api(world))
    yield world
    world.close()


def test_forward_and_back_again(run: Run, world: World, default: Path, tmp_path: Path) -> None:
    first = run("policy", "show").out
    assert "Policy version 2 is in force. Back again: attestd policy rollback" in run("policy", "set", default).out
    assert run("policy", "diff", default).out == "The policies are the same.\n"
    assert run("policy", "explain", *OPTIONS).code == 0
    ran = run("policy", "rollback", "--reason", "it was too much")
    assert ran.out == "Policy version 3 is in force, with the text of version 1.\n"
    assert run("policy", "show").out == first
    assert run("policy", "show", "2").out == default_policy()
    assert run("policy", "rollback", "2", "--json").document == {"v": 1, "version": 4, "of": 2}
    history = run("policy", "history").out.splitlines()
    assert history[0].split() == ["VERSION", "IN", "FORCE", "SINCE", "BY"]
    assert [row.split()[0] for row in history[1:]] == ["4", "3", "2", "1"]
    assert "2026-06-01 12:00:00Z  operator:admin-1" in history[1]
    assert [
        entry["version"] for entry in run("policy", "history", "--before", "3", "--limit", "1", "--json").document
    ] == [2]


def test_back_to_nothing(run: Run, world: World) -> None:
    assert run("policy", "rollback").code == 1
    assert run("policy", "rollback", "9").code == 1
    assert run("policy", "rollback", "0").code == 2
    assert run("policy", "show", "9").code == 1


def test_what_is_printed_without_a_service(run: Run) -> None:
    assert run("policy", "schema").out == published_schema()
    assert run("policy", "default").out == default_policy()
