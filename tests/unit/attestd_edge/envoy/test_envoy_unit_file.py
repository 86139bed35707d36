"""The shipped systemd unit: well formed, and with no more rights than the edge needs."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[4] / "deploy"
UNIT = FOLDER / "systemd" / "attestd-edge-envoy.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(UNIT.read_text())
    return parsed["Service"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("User", "attestd-edge"),
        ("StateDirectory", "attestd-edge"),
        ("UMask", "0077"),
        ("ProtectSystem", "strict"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
    ],
)
def test_it_runs_with_least_privilege(service, name, value):
    assert service[name] == value


def test_envoy_asks_where_it_listens(service):
    """A folder of its own: systemd takes the folder of a service away when that service ends."""
    folder = f"/run/{service['RuntimeDirectory']}/envoy.sock"
    assert folder in (FOLDER / "envoy" / "envoy.yaml").read_text()
    other = (FOLDER / "systemd" / "attestd-edge.service").read_text()
    assert f"RuntimeDirectory={service['RuntimeDirectory']}\n" not in other


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_reads_it():
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(UNIT)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "attestd-edge-envoy.service" not in done.stderr, done.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout[-400:]
