"""The shipped alert rules speak of metrics that a service has, and each alert leads to what to do about it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from attestd.web.pressure import Pressure
from tests.service import World

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "attestd.rules.yml"
OPERATIONS = ROOT / "docs" / "operations.md"
PROMTOOL = shutil.which("promtool")


def blocks() -> list[str]:
    """The text of each alert, without comments."""
    text = "\n".join(line for line in RULES.read_text("utf-8").splitlines() if not line.lstrip().startswith("#"))
    return text.split("- alert: ")[1:]


def expression(block: str) -> str:
    found = re.search(r"\n +expr: (.*?)\n +(?:for|labels):", block, re.DOTALL)
    assert found, block
    return found[1]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What /metrics holds of the application, and of the front of the same process."""
    world = World(tmp_path_factory.mktemp("rules") / "instance")
    device = world.enrolled()
    device.attest()
    pressure = CollectorRegistry()
    Pressure(pressure)
    text = world.get("/metrics").text + generate_latest(pressure).decode()
    world.close()
    return text


def test_every_metric_of_a_rule_is_exposed(exposed: str) -> None:
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposed, re.MULTILINE))
    names = {
        part
        for name, kind in kinds.items()
        for part in ((f"{name}_bucket", f"{name}_count", f"{name}_sum") if kind == "histogram" else (name,))
    }
    named = {name for block in blocks() for name in re.findall(r"\battestd_\w+", expression(block))}
    assert len(named) > 15
    assert named - names == set()


def test_every_label_of_a_rule_is_exposed(exposed: str) -> None:
    """Of those metrics that have samples here: a selector by a label that is not there would never alarm."""
    for block in blocks():
        for name, selector in re.findall(r"\b(attestd_\w+)\{([^}]*)\}", expression(block)):
            samples = re.findall(rf"^{name}\{{([^}}]*)\}}", exposed, re.MULTILINE)
            for label in re.findall(r"(\w+)[=!]", selector):
                assert all(f'{label}="' in sample for sample in samples), (name, label)


def test_every_end_that_a_rule_watches_is_exposed(exposed: str) -> None:
    told = set(re.findall(r'attestd_certificate_not_after_seconds\{which="(\w+)"\}', exposed))
    watched = set()
    for block in blocks():
        for which in re.findall(r'not_after_seconds\{which=~?"([^"]+)"\}', expression(block)):
            watched |= set(which.split("|"))
    assert told <= watched, "nobody is told of these"
    assert watched - told == {"manifests_first"}, "there is no manifest with an end here"


@pytest.mark.parametrize("block", blocks(), ids=[block.partition("\n")[0] for block in blocks()])
def test_every_alert_says_what_is_wrong_and_leads_to_what_to_do(block: str) -> None:
    name = block.partition("\n")[0].strip()
    assert re.fullmatch(r"Attestd[A-Za-z]+", name)
    assert re.search(r"severity: (page|ticket)\b", block)
    assert re.search(r'\n +summary: ".{10,}"', block)
    assert f"runbook_url: docs/operations.md#{name.lower()}\n" in block + "\n"
    assert f"\n### {name}\n" in OPERATIONS.read_text("utf-8")


def test_the_runbook_has_no_other_alerts() -> None:
    written = set(re.findall(r"^### (Attestd\w+)$", OPERATIONS.read_text("utf-8"), re.MULTILINE))
    assert written == {block.partition("\n")[0].strip() for block in blocks()}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's prometheus) is not on this machine")
@pytest.mark.parametrize(("verb", "file"), [("check", "attestd.rules.yml"), ("test", "attestd.rules.test.yml")])
def test_prometheus_takes_them(verb: str, file: str) -> None:
    done = subprocess.run(
        [str(PROMTOOL), verb, "rules", str(RULES.with_name(file))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
