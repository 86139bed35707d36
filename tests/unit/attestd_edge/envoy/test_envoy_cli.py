"""`attestd-edge envoy`: what an operator reads when something is missing."""

from __future__ import annotations

import json
import subprocess
import sys

from typer.testing import CliRunner

from attestd_edge.cli import app
from attestd_edge.envoy import cli
from tests.edge_site import EdgeSite, environment

runner = CliRunner()
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("grpc", "envoy", "google"):
            raise ImportError(f"{name} must not be needed here")
sys.meta_path.insert(0, Blocker())
"""


def test_the_extra_is_not_installed(tmp_path, monkeypatch):
    site = EdgeSite(tmp_path)
    site.configure(more='[envoy]\nunix = "envoy.sock"\n')
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "grpc" else object())
    result = runner.invoke(app, ["envoy", "serve", "--config", str(site.config), "--json"])
    assert result.exit_code == 3
    problem = json.loads(result.stderr.splitlines()[-1])
    assert problem["error"] == "envoy-missing"
    assert "`envoy`" in problem["remedy"]


def test_without_a_place_to_listen(tmp_path):
    site = EdgeSite(tmp_path)
    result = runner.invoke(app, ["envoy", "serve", "--config", str(site.config)])
    assert result.exit_code == 3
    assert "envoy.unix or envoy.tls" in result.stderr


def test_other_edges_do_without_grpc():
    """The extra is for this door: forward-auth with Envoy's HTTP mode, the middleware and the commands load without."""
    modules = "attestd_edge.cli, attestd_edge.forward_auth, attestd_edge.asgi, attestd_edge.wsgi"
    subprocess.run([sys.executable, "-c", f"{BLOCKER}\nimport {modules}"], env=environment(), check=True, timeout=60)


def test_help_teaches():
    for command in (["envoy", "--help"], ["envoy", "serve", "--help"]):
        result = runner.invoke(app, command)
        assert result.exit_code == 0
        assert "Envoy" in result.output or "envoy" in result.output
