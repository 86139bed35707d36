"""The command, as a process: what it needs, what it says, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from attestd_edge.cli import app
from tests import authority as a
from tests.edge_site import BLOCKER, EdgeSite, environment, get, pem, private_pem

runner = CliRunner()


@pytest.fixture
def site(tmp_path):
    return EdgeSite(tmp_path)


def check(site, *more) -> dict[str, dict]:
    result = runner.invoke(app, ["check", "--config", str(site.config), "--json", *more])
    found = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert result.exit_code == (0 if all(finding["ok"] for finding in found.values()) else 1)
    return found


class TestServe:
    def test_it_serves_without_libtss2_web_framework_and_database(self, site):
        with site.serving() as process:
            assert stat.S_IMODE(site.socket.stat().st_mode) == 0o660
            status, headers, _ = site.ask(site.device())
            assert (status, headers["attestd-identity"]) == (200, "spiffe://example.org/device/munich/bike-1")
            assert site.ask(site.device(site="berlin"))[0] == 403
            assert site.ask(None)[0] == 401
            assert get(site.socket, "/readyz", {})[0] == 200
            assert b"attestd_edge_ready 1.0" in get(site.socket, "/metrics", {})[2]
        assert process.returncode == 0
        assert not site.socket.exists()
        lines = [json.loads(line) for line in site.log().splitlines()]
        assert any("cut off" in line["message"] for line in lines)
        refused = [line for line in lines if line.get("problem") == "crossing-denied"]
        assert refused[0]["reasons"][0] == "this boundary is for site munich; the credential is of site berlin"

    def test_restarted_while_cut_off_it_remembers(self, site):
        device = site.device()
        with site.serving():
            assert site.ask(device)[0] == 200
        floor = json.loads((site.folder / "state" / "floor.json").read_text())
        assert (floor["epoch"], floor["version"]) == (2, 5)
        with site.serving():
            assert site.ask(device)[0] == 200
        site.publish(version=4)  # somebody puts an older bundle there
        with site.serving():
            assert site.ask(device)[0] == 503
        assert "older than one that was in use" in site.log()

    def test_a_stale_bundle_is_refused_from_the_start(self, site):
        site.publish(issued_at=int((site.now - timedelta(hours=2)).timestamp()))
        with site.serving():
            status, _, body = site.ask(site.device())
            assert (status, json.loads(body)["type"]) == (503, "urn:attestd:problem:bundle-stale")
            assert get(site.socket, "/healthz", {})[0] == 200
            assert get(site.socket, "/readyz", {})[0] == 503

    def test_over_tls_only_the_hops_authority_gets_in(self, site):
        """Another authority of the same trust domain is not the hop's; no certificate at all is nobody's."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        hops = a.ca("hops", key=a.STRANGER_KEY, **site.times)
        server = site.leaf("service", key=a.LOWER_KEY, facts=None, names=[x509.DNSName("edge.example.org")],
                           purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))  # fmt: skip
        (site.folder / "server.pem").write_bytes(pem(server) + pem(site.issuer.der))
        (site.folder / "server.key").write_bytes(private_pem(a.LOWER_KEY))
        (site.folder / "hops.pem").write_bytes(pem(hops.der))
        site.configure(
            listen=f'tls = "127.0.0.1:{port}"\ncertificate = "server.pem"\nkey = "server.key"\nhop_ca = "hops.pem"'
        )

        def readyz(leaf: bytes | None) -> int:
            context = ssl.create_default_context(cadata=pem(site.root.der).decode())
            if leaf is not None:
                (site.folder / "client.pem").write_bytes(pem(leaf) + private_pem(a.LEAF_KEY))
                context.load_cert_chain(site.folder / "client.pem")
            raw = socket.create_connection(("127.0.0.1", port), timeout=20)
            connection = http.client.HTTPConnection("edge.example.org", timeout=20)
            connection.sock = context.wrap_socket(raw, server_hostname="edge.example.org")
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status
            finally:
                connection.close()

        with site.serving():
            assert readyz(site.leaf("hop", issuer=hops, facts=None)) == 200
            for intruder in (None, site.device()):
                with pytest.raises(OSError):
                    readyz(intruder)

    def test_without_a_listener(self, site):
        site.config.write_text(site.config.read_text().replace('[listen]\nunix = "auth.sock"', ""))
        result = runner.invoke(app, ["serve", "--config", str(site.config), "--json"])
        assert result.exit_code == 3
        assert json.loads(result.stderr.splitlines()[-1])["error"] == "settings-invalid"


def test_nothing_heavy_is_imported_by_the_middleware():
    """A library user's process: the doors import without the server's and the agent's world."""
    code = BLOCKER + "import attestd_edge.wsgi, attestd_edge.asgi, attestd_edge.edge, attestd_edge.hop\n"
    code += "heavy = {'typer', 'uvloop', 'httptools', 'attestd.tpm', 'attestd.appraisal'} & set(sys.modules)\n"
    code += "raise SystemExit(f'imported: {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class TestCheck:
    def test_a_good_edge(self, site):
        found = check(site)
        assert all(finding["ok"] for finding in found.values())
        assert "2.5, policy 3" in found["bundle"]["detail"]
        assert "proxy/munich/bike-1" in found["certificate"]["detail"]

    def test_it_changes_nothing(self, site):
        before = {path: path.stat().st_mtime_ns for path in site.folder.rglob("*")}
        check(site)
        assert {path: path.stat().st_mtime_ns for path in site.folder.rglob("*")} == before

    def test_a_key_that_others_can_read(self, site):
        (site.folder / "proxy.key.pem").chmod(0o640)
        assert "0640" in check(site)["key"]["detail"]

    def test_a_certificate_of_another_key(self, site):
        (site.folder / "proxy.key.pem").write_bytes(
            a.STRANGER_KEY.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        found = check(site)
        assert not found["key"]["ok"]
        assert found["certificate"]["detail"].startswith("not looked at")
        assert found["bundle"]["ok"]

    def test_where_envoy_asks(self, site):
        assert "envoy" not in check(site)
        site.configure(more='[envoy]\nunix = "envoy.sock"\n')
        assert check(site)["envoy"] == {
            "name": "envoy", "ok": True, "detail": f"unix:{site.folder / 'envoy.sock'}, mode 0660", "remedy": "",
        }  # fmt: skip
        site.configure(more='[envoy]\ntls = "127.0.0.1:1"\ncertificate = "x"\nkey = "x"\nhop_ca = "x"\n')
        assert not check(site)["envoy"]["ok"]

    def test_a_root_that_is_not_there(self, site):
        (site.folder / "root.pem").unlink()
        found = check(site)
        assert not found["root"]["ok"]
        assert not found["bundle"]["ok"]
        assert found["listener"]["ok"]

    def test_a_stale_bundle(self, site):
        site.publish(issued_at=int((site.now - timedelta(hours=2)).timestamp()))
        assert "stale since" in check(site)["bundle"]["detail"]

    def test_no_bundle(self, site):
        (site.folder / "state" / "bundle.json").unlink()
        assert not check(site)["bundle"]["ok"]

    def test_a_clock_that_is_behind(self, site):
        ahead = int((site.now + timedelta(hours=3)).timestamp())
        (site.folder / "state" / "floor.json").write_text(json.dumps({"v": 1, "epoch": 1, "version": 1, "time": ahead}))
        finding = check(site)["clock"]
        assert "behind" in finding["detail"]
        assert "floor.json" in finding["remedy"]

    def test_a_certificate_that_could_not_be_renewed(self, site, monkeypatch):
        real = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: path != site.folder and real(path, mode))
        found = check(site)
        assert "can't be renewed" in found["certificate"]["detail"]
        assert found["state"]["ok"]

    def test_a_state_folder_that_is_not_there(self, site):
        (site.folder / "state" / "bundle.json").unlink()
        (site.folder / "state").rmdir()
        assert not check(site)["state"]["ok"]

    def test_a_service_that_is_not_there(self, site):
        assert "service" not in check(site)
        finding = check(site, "--online")["service"]
        assert not finding["ok"]
        assert "ConnectError" in finding["detail"]

    @pytest.mark.parametrize(
        "arguments", [["check", "--config", "/nowhere.toml"], ["serve", "--config", "/nowhere.toml"]]
    )
    def test_a_configuration_that_is_not_there(self, arguments):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 3
        assert "can't be read" in result.stderr

    def test_for_people(self, site):
        result = runner.invoke(app, ["check", "--config", str(site.config)])
        assert result.exit_code == 0
        assert result.stdout.count("ok  ") == 9


class TestInit:
    ARGUMENTS = ("--server", "https://attestd.example.org:8443", "--trust-domain", "example.org", "--site", "munich")

    def test_a_key_and_a_configuration_to_start_with(self, tmp_path):
        folder = tmp_path / "new"
        result = runner.invoke(app, ["init", str(folder), *self.ARGUMENTS])
        assert result.exit_code == 0, result.stderr
        assert stat.S_IMODE((folder / "proxy.key.pem").stat().st_mode) == 0o600
        assert (folder / "proxy.pub.pem").read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
        assert "attestd proxies add" in result.stdout
        found = runner.invoke(app, ["check", "--config", str(folder / "edge.toml"), "--json"])
        names = {finding["name"]: finding["ok"] for finding in json.loads(found.stdout)}
        assert names["boundaries"]
        assert names["listener"]
        assert not names["root"]

    def test_nothing_is_overwritten(self, tmp_path):
        runner.invoke(app, ["init", str(tmp_path), *self.ARGUMENTS])
        before = (tmp_path / "proxy.key.pem").read_bytes()
        result = runner.invoke(app, ["init", str(tmp_path), *self.ARGUMENTS, "--json"])
        assert result.exit_code == 1
        assert json.loads(result.stderr)["error"] == "already-made"
        assert (tmp_path / "proxy.key.pem").read_bytes() == before

    def test_names_are_checked_before_anything_is_written(self, tmp_path):
        for wrong in ("http://x.example.org", "nonsense"):
            arguments = ["--server", wrong, "--trust-domain", "example.org", "--site", "munich"]
            assert runner.invoke(app, ["init", str(tmp_path), *arguments]).exit_code in (1, 3)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[], ["serve"], ["check"], ["init"]])
def test_help_teaches(command):
    result = runner.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Exit codes" in result.stdout
