"""The shipped systemd unit: well formed, and with no more rights than the agent needs."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "deploy" / "systemd"
UNIT = FOLDER / "attestd-agent.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(UNIT.read_text())
    return parsed["Service"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("User", "attestd-agent"),
        ("SupplementaryGroups", "tss"),
        ("DevicePolicy", "closed"),
        ("DeviceAllow", "/dev/tpmrm0 rw"),
        ("StateDirectory", "attestd-agent"),
        ("StateDirectoryMode", "0700"),
        ("ProtectSystem", "strict"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
        ("Type", "notify"),
    ],
)
def test_it_runs_with_least_privilege(service: configparser.SectionProxy, name: str, value: str) -> None:
    assert service[name] == value


def test_its_settings_are_options_that_the_command_knows() -> None:
    from attestd_agent import options

    known = Path(options.__file__).read_text()
    for name in ("ATTESTD_AGENT_SERVER", "ATTESTD_AGENT_CA"):
        assert name in UNIT.read_text()
        assert f'"{name}"' in known


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", [UNIT, FOLDER / "attestd-agent-programs.service"], ids=lambda unit: unit.stem)
def test_systemd_reads_it(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert unit.name not in done.stderr, done.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert rated.returncode == 0, rated.stdout[-400:]


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-sysusers wants to be root, also for another root folder")
def test_its_user_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for command in (
        ["systemd-sysusers", f"--root={tmp_path}", str(FOLDER / "attestd-agent.sysusers")],
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(FOLDER / "attestd-agent.tmpfiles")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
    assert "attestd-agent" in (tmp_path / "etc/passwd").read_text()
    assert "tss:x:" in (tmp_path / "etc/group").read_text()
