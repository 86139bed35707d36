"""Words for reasons: every one that the appraisal can give has a sentence of its own, and nothing is lost in others."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from attestd.appraisal import comparison, hardware, runtime
from attestd.appraisal.differences import Difference
from attestd.appraisal.hardware import Chip
from attestd.appraisal.runtime import Refusal, RuntimeAppraisal, RuntimeState
from attestd.errors import AttestdError
from attestd.registry.outcomes import OTHERS
from attestd.tpm import bootfacts, bootloaders, platformfirmware, secureboot, sipa
from attestd.tpm.advisories import Advisory
from attestd.tpm.bootloaders import LoadingFacts
from attestd.tpm.firmware import Firmware
from attestd.tpm.platformfirmware import FirmwareFacts
from attestd.tpm.secureboot import SecureBootFacts
from attestd.tpm.sipa import WindowsFacts
from attestd_console import reasons
from attestd_console.reasons import DOUBTS, FACTS, REFUSALS, WHOLE, cause, headline, refusal, sentence

FACT_NAMES = [
    name
    for facts in (SecureBootFacts, FirmwareFacts, LoadingFacts, WindowsFacts)
    for name in facts.__dataclass_fields__
] + ["authorities", "kernel_command_line", "boot_phases"]
HEX = "ab" * 32


def of_fact(name: str, value: object = True) -> str:
    return Difference("gateway-os 5.3", fact=name, value=value).reason


# ---- All of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACT_NAMES)
def test_every_boot_fact_has_words(name: str) -> None:
    assert cause(of_fact(name)) == FACTS[name].format("True")
    assert "reference values ask for it" in cause(of_fact(name, None))


def test_facts_that_there_are_not_have_no_words() -> None:
    assert set(FACTS) == set(FACT_NAMES)


@pytest.mark.parametrize("pcr", range(24))
def test_every_pcr_has_words(pcr: int) -> None:
    for value in (bytes(32), None):
        told = cause(Difference("m", bank="sha256", pcr=pcr, value=value).reason)
        assert "reference value" in told
        assert HEX not in told


def doubts_in(module: ModuleType) -> Iterator[str]:
    """What a module adds to its `doubts`, with a word in the place of what is put in."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("doubts.append"):
            parts = node.args
        if isinstance(node, ast.AugAssign) and ast.unparse(node.target) == "doubts":
            assert isinstance(node.value, ast.ListComp)
            parts = [node.value.elt]
        for part in parts:
            if isinstance(part, ast.Constant):
                yield str(part.value)
            elif isinstance(part, ast.JoinedStr):
                yield "".join(
                    str(piece.value)
                    if isinstance(piece, ast.Constant)
                    else "3"
                    if "pcr" in ast.unparse(piece)
                    else "db"
                    for piece in part.values
                )


DOUBTED = sorted({d for m in (bootloaders, platformfirmware, secureboot, sipa, bootfacts) for d in doubts_in(m)})


@pytest.mark.parametrize("name", DOUBTED)
def test_every_doubt_has_words(name: str) -> None:
    assert "does not fit together" not in cause(of_fact("doubts", name))
    assert name not in cause(of_fact("doubts", name))


def test_the_walk_finds_doubts_in_all_their_forms() -> None:
    assert {"pcr-7-unexplained", "pcr-3-separated-twice", "db-unreadable", "too-many-db"} <= set(DOUBTED)


def whole_sentences() -> Iterator[str]:
    """Those of the appraisal that are about no one value."""
    yield "No reference values for this device, so nothing about its software can be affirmed."
    yield comparison._NO_LIST
    yield from Chip(certified=False).claim()[1]
    yield comparison._bounded(["x"] * 100)[-1]
    state = RuntimeState.begin((), ("sha256",), runtime.Boot(1, 0))
    many = Refusal(3, "/usr/bin/x", f"sha256:{HEX}", "No reference lists this digest for it.")
    yield from RuntimeAppraisal(_with(state, refused=40, refusals=(many,), violations=3), 1, 1, None).reasons


def _with(state: RuntimeState, *, violations: int, **changed: object) -> RuntimeState:
    from dataclasses import replace

    return replace(state, replay=replace(state.replay, violations=violations), **changed)


def test_every_whole_sentence_has_words() -> None:
    said = list(whole_sentences())
    assert len(said) == 7
    for reason in said:
        assert cause(reason) != reason.rstrip("."), reason
    matched = {pattern for pattern, _ in WHOLE if any(__import__("re").fullmatch(pattern, reason) for reason in said)}
    assert matched == {pattern for pattern, _ in WHOLE}


def test_no_literal_of_the_engine_is_without_words() -> None:
    """Every sentence that is written down in the rooms that give reasons: the constants that end like one."""
    known = {"No reference values for this device, so nothing about its software can be affirmed.", comparison._NO_LIST}
    known.add("No maker's certificate vouches for this TPM; the inventory alone knows it.")
    for module in (comparison, hardware):
        tree = ast.parse(inspect.getsource(module))
        documented = {
            node.body[0].value.value  # type: ignore[attr-defined]
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
        }
        found = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".")
        }
        assert {text for text in found - documented if " " in text and text[0].isupper()} <= known


def test_an_advisory_has_words() -> None:
    advisory = Advisory("ROCA", "IFX", (), ((Firmware((4,)), Firmware((5,))),), "contraindicated", "Weak keys", "x")
    (reason,) = Chip(True, "IFX", "SLB 9660", "id:00040028", advisories=(advisory,)).claim()[1]
    assert cause(reason) == "its kind of TPM has a known weakness, ROCA"


def test_every_named_refusal_is_one() -> None:
    def below(kind: type[AttestdError]) -> Iterator[str]:
        for child in kind.__subclasses__():
            yield child.slug()
            yield from below(child)

    __import__("attestd.issuance.enrollment")
    assert set(REFUSALS) <= {*below(AttestdError), OTHERS}


# ---- What they become -------------------------------------------------------------------------------------------


def test_the_cause_comes_first_and_each_once() -> None:
    found = [of_fact("loaders", HEX), of_fact("loaders", "cd" * 32), of_fact("secure_boot", False)]
    assert headline(found) == "Secure Boot is off, and a boot program ran that no reference value knows"
    assert headline([]) == ""


def test_more_than_two_causes_are_counted() -> None:
    found = [of_fact("secure_boot", False), of_fact("loaders", HEX), of_fact("drivers", HEX), of_fact("disks", "x")]
    assert headline(found).endswith(", and 2 more things")


def test_a_newer_services_reason_is_shown_as_it_is() -> None:
    assert sentence("Something new was found.") == "Something new was found."
    assert "new_fact" in cause(of_fact("new_fact", "x"))
    assert refusal("new-problem", "Something else.") == "Something else."
    assert refusal("new-problem") == "New problem"


@pytest.mark.parametrize("name", ["m' which 'x", "a, which 'b' does not list as good. is it", "\u202e", "(x)"])
def test_names_that_look_like_sentences(name: str) -> None:
    reason = Difference(name, fact="secure_boot", value=False).reason
    assert cause(reason) == "Secure Boot is off"


def test_what_a_device_says_is_made_visible() -> None:
    told = cause("IMA entry 3, /tmp/\u202egnp (sha256:ab): No reference lists this digest for it.")
    assert told == "/tmp/⟨U+202E⟩gnp ran, and is not as reference values say"


def test_words_blame_nobody() -> None:
    for text in (*FACTS.values(), *(words for _, words in (*DOUBTS, *WHOLE)), *REFUSALS.values()):
        assert "!" not in text
        assert "you" not in text.lower().replace("your inventory", "").split()


def test_the_module_says_which_document() -> None:
    assert (Path(__file__).resolve().parents[3] / "docs/measured-boot.md").exists()
    assert "docs/measured-boot.md" in inspect.getsource(reasons)


PCR_0, PCR_7 = ("sha256 PCR {} is {}, which 'image 12' does not list as good.".format(pcr, "ab" * 32) for pcr in (0, 7))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (PCR_0, "The firmware is not one that reference values know"),
        (PCR_0.rstrip("."), "The firmware is not one that reference values know"),
        (
            f"{PCR_0}; {PCR_7}",
            "The firmware is not one that reference values know, and Secure Boot's state or keys are not as reference "
            "values say",
        ),
        ("stolen; call 7 is back, which is odd", "stolen; call 7 is back, which is odd"),
        (f"{PCR_0}; and then it was stolen", f"{PCR_0}; and then it was stolen"),
        ("", ""),
    ],
)
def test_a_stored_line_of_reasons(stored: str, expected: str) -> None:
    assert reasons.line(stored) == expected
