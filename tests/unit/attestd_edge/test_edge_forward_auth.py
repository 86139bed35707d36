"""The answers to a reverse proxy's question, and the listeners that only it can reach."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd_edge import listen as listen_module
from attestd_edge.forward_auth import ForwardAuth
from attestd_edge.hop import CertificateSource
from attestd_edge.listen import ListenerFailed, open_unix
from attestd_edge.settings import Guarded, Settings, SettingsInvalid, TlsListen, UnixListen
from tests import authority as a

LEAF = a.leaf()
CROSS = 'permit (principal, action == Action::"cross", resource)'


def escaped(der: bytes) -> str:
    pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode()
    return quote(pem, safe="")


ASKED = (
    ("X-Forwarded-Method", "GET"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "shop.example.org"),
    ("X-Forwarded-Uri", "/orders?x=1"),
    ("X-Client-Cert", escaped(LEAF)),
)


def but(**changes):
    """What a hop sends, with one header changed; None leaves it out."""
    named = {name.replace("_", "-"): value for name, value in changes.items()}
    kept = [(name, value) for name, value in ASKED if name not in named]
    return (*kept, *((name, value) for name, value in named.items() if value is not None))


@pytest.fixture
def settings(boundary, tmp_path):
    boundaries = {boundary.name: Guarded(boundary, MappingProxyType({"class": "telemetry"}))}
    return Settings(
        server="https://attestd.example.org", root=tmp_path / "root.pem", trust_domain=a.TRUST_DOMAIN,
        state_dir=tmp_path, key=tmp_path / "key", certificate=tmp_path / "cert", boundaries=boundaries,
        audience=None, origins=frozenset(), listen=None, certificate_header=CertificateSource.NGINX,
    )  # fmt: skip


def asked_of(app, *headers, path="/auth", kind="http", **more):
    """Sends the app one request of a hop."""
    answer = {"body": b""}

    async def send(message):
        if message["type"] == "http.response.start":
            answer.update(status=message["status"], headers={k.decode(): v.decode() for k, v in message["headers"]})
        else:
            answer["body"] += message.get("body", b"")
            answer.setdefault("status", message["type"])

    async def receive():
        return {"type": "http.request"}

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "method": "GET", "path": path, "headers": raw, "client": None, "server": ("/s", None)}
    scope |= more
    asyncio.run(app(scope, receive, send))
    return answer


@pytest.fixture
def ask(edge, settings):
    own = ForwardAuth(edge, settings)
    return lambda *headers, app=own, **more: asked_of(app, *headers, **more)


class TestAnswers:
    def test_a_device_at_home(self, ask):
        answer = ask(*ASKED)
        assert answer["status"] == 200
        assert answer["body"] == b""
        found = {name: value for name, value in answer["headers"].items() if name.startswith("attestd-")}
        assert found.pop("attestd-request-id")
        assert found == {
            "attestd-identity": a.BIKE,
            "attestd-tier": "device",
            "attestd-site": "munich",
            "attestd-device": "bike-1",
            "attestd-credential": "x509",
            "attestd-boundary": "field-to-munich",
        }

    def test_by_the_boundarys_name(self, ask):
        assert ask(*ASKED, path="/auth/field-to-munich")["status"] == 200
        assert ask(*ASKED, path="/auth/elsewhere")["status"] == 403
        assert ask(*ASKED, path="/other")["status"] == 403

    def test_nobody(self, ask):
        answer = ask(*but(X_Client_Cert=None))
        assert answer["status"] == 401
        assert json.loads(answer["body"])["type"] == "urn:attestd:problem:no-credential"

    def test_the_wrong_site(self, ask):
        other = escaped(a.leaf(uris=["spiffe://example.org/device/berlin/bike-1"]))
        assert ask(*but(X_Client_Cert=other))["status"] == 403

    @pytest.mark.parametrize("name", ["X_Forwarded_Method", "X_Forwarded_Proto", "X_Forwarded_Host", "X_Forwarded_Uri"])
    @pytest.mark.parametrize("value", [None, ""])
    def test_a_hop_that_leaves_something_out(self, ask, name, value):
        answer = ask(*but(**{name: value}))
        assert answer["status"] == 503
        assert json.loads(answer["body"])["type"] == "urn:attestd:problem:edge-failed"  # the hop is not its business

    @pytest.mark.parametrize("header", ASKED)
    def test_a_header_that_comes_twice(self, ask, header):
        assert ask(*ASKED, header)["status"] == 401

    @pytest.mark.parametrize("name", ["Client-Cert", "Client-Cert-Chain"])
    def test_a_certificate_header_that_the_hop_does_not_overwrite(self, ask, name):
        assert ask(*ASKED, (name, "x"))["status"] == 401

    def test_a_path_that_can_be_read_in_two_ways(self, ask):
        assert ask(*but(X_Forwarded_Uri="/a/../orders"))["status"] == 403

    def test_the_hops_request_id(self, ask):
        assert ask(*ASKED, ("X-Request-Id", "abcdef0123456789"))["headers"]["attestd-request-id"] == "abcdef0123456789"
        for bad in ("short", "x" * 65, "has space", "a\nb-12345"):
            assert ask(*ASKED, ("X-Request-Id", bad))["headers"]["attestd-request-id"] != bad

    def test_the_hop_labels_where_the_boundary_says_so(self, edge, store, bundle, settings, boundary):
        policy = f'{CROSS} when {{ context.labels.hasTag("residency") && context.labels.getTag("residency") == "EU" }};'
        store.adopt(a.signed_bundle(bundle(version=6, policy=policy)))
        told = ("Attestd-Labels", 'residency="EU"')
        for from_hop, passes in ((True, 200), (False, 403)):
            guarded = Guarded(boundary, MappingProxyType({"class": "telemetry"}), labels_from_hop=from_hop)
            app = ForwardAuth(edge, replace(settings, boundaries={boundary.name: guarded}))
            assert asked_of(app, *ASKED, told)["status"] == passes
            assert asked_of(app, *ASKED, ("Attestd-Labels", 'residency="US"'))["status"] == 403
            assert asked_of(app, *ASKED)["status"] == (503 if from_hop else 403)
            assert asked_of(app, *ASKED, ("Data-Labels", told[1]))["status"] == (503 if from_hop else 403)

    def test_the_client_claims(self, ask, store, bundle):
        policy = f'{CROSS} when {{ context.claims.hasTag("origin-site") }};'
        store.adopt(a.signed_bundle(bundle(version=6, policy=policy)))
        told = ("Data-Labels", 'origin-site="munich"')
        assert ask(*ASKED, told)["status"] == 200
        assert ask(*ASKED)["status"] == 403
        assert ask(*ASKED, ("Data-Labels", "origin-site=munich"))["status"] == 403
        assert ask(*ASKED, told, told)["status"] == 401

    def test_labels_are_the_boundarys(self, ask, store, bundle):
        policy = 'permit (principal, action == Action::"cross", resource) when { context.labels.hasTag("class") && '
        store.adopt(
            a.signed_bundle(bundle(version=6, policy=policy + 'context.labels.getTag("class") == "telemetry" };'))
        )
        assert ask(*ASKED)["status"] == 200
        store.adopt(a.signed_bundle(bundle(version=7, policy=policy + 'context.labels.getTag("class") == "other" };')))
        assert ask(*ASKED)["status"] == 403

    def test_rfc_9440(self, ask, edge, settings):
        import base64
        from dataclasses import replace

        app = ForwardAuth(edge, replace(settings, certificate_header=CertificateSource.RFC9440))
        item = ("Client-Cert", f":{base64.b64encode(LEAF).decode()}:")
        assert ask(*but(X_Client_Cert=None), item, app=app)["status"] == 200
        assert ask(*ASKED, app=app)["status"] == 401

    def test_websockets_are_not_answered(self, ask):
        assert ask(*ASKED, kind="websocket")["status"] == "websocket.close"

    def test_two_boundaries_have_to_be_named(self, ask, edge, settings, boundary):
        from dataclasses import replace

        second = replace(boundary, name="second")
        both = replace(settings, boundaries={**settings.boundaries, "second": Guarded(second, {})})
        app = ForwardAuth(edge, both)
        assert ask(*ASKED, app=app)["status"] == 403
        assert ask(*ASKED, path="/auth/second", app=app)["status"] == 200

    def test_without_a_boundary(self, edge, settings):
        from dataclasses import replace

        with pytest.raises(SettingsInvalid):
            ForwardAuth(edge, replace(settings, boundaries={}))


class TestHealth:
    def test_alive_and_ready(self, ask):
        assert ask(path="/healthz")["status"] == 200
        assert json.loads(ask(path="/readyz")["body"]) == {"status": "ready", "detail": "ready"}
        assert b"attestd_edge_ready 1.0" in ask(path="/metrics")["body"]

    def test_a_stale_bundle_is_alive_and_not_ready(self, ask, watch):
        watch.pass_(3600)
        assert ask(path="/healthz")["status"] == 200
        answer = ask(path="/readyz")
        assert answer["status"] == 503
        assert "stale since" in json.loads(answer["body"])["detail"]

    def test_the_servers_life(self, edge, settings):
        calls = []
        edge.start = lambda: calls.append("start")
        edge.stop = lambda: calls.append("stop")
        app = ForwardAuth(edge, settings)
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(messages)

        async def send(message):
            calls.append(message["type"])

        asyncio.run(app({"type": "lifespan"}, receive, send))
        assert calls == ["start", "lifespan.startup.complete", "stop", "lifespan.shutdown.complete"]


class TestUnixSocket:
    @pytest.fixture
    def where(self, tmp_path):
        return UnixListen(tmp_path / "auth.sock", 0o660, None)

    def test_nobody_else_may_connect(self, where):
        listener = open_unix(where)
        try:
            assert stat.S_IMODE(where.path.stat().st_mode) == 0o660
        finally:
            listener.close()

    def test_it_is_born_without_permissions(self, where, monkeypatch):
        seen = []
        real = Path.chmod

        def chmod(path, mode):
            seen.append(stat.S_IMODE(path.stat().st_mode))
            real(path, mode)

        monkeypatch.setattr(Path, "chmod", chmod)
        before = os.umask(0o022)
        os.umask(before)
        open_unix(where).close()
        assert seen == [0]
        assert os.umask(before) == before

    def test_a_dead_processs_socket_is_removed(self, where):
        open_unix(where).close()
        open_unix(where).close()

    def test_a_living_processs_socket_is_not(self, where):
        listener = open_unix(where)
        try:
            with pytest.raises(ListenerFailed, match="already"):
                open_unix(where)
        finally:
            listener.close()

    def test_a_file_is_not_removed(self, where):
        where.path.write_text("precious")
        with pytest.raises(ListenerFailed):
            open_unix(where)
        assert where.path.read_text() == "precious"

    def test_a_group_that_is_not_there(self, where):
        with pytest.raises(ListenerFailed):
            open_unix(UnixListen(where.path, 0o660, "no-such-group-here"))

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ListenerFailed):
            open_unix(UnixListen(tmp_path / "missing" / "auth.sock", 0o660, None))

    def test_a_connection(self, where):
        listener = open_unix(where)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(where.path))
        listener.close()


class TestTls:
    @pytest.fixture
    def where(self, tmp_path):
        server = a.leaf(key=a.LOWER_KEY, uris=[])
        (tmp_path / "server.pem").write_bytes(
            x509.load_der_x509_certificate(server).public_bytes(serialization.Encoding.PEM)
        )
        (tmp_path / "server.key").write_bytes(
            a.LOWER_KEY.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (tmp_path / "hop.pem").write_bytes(a.ROOT.certificate.public_bytes(serialization.Encoding.PEM))
        return TlsListen("127.0.0.1", 0, tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "hop.pem")

    def test_peers_must_show_a_certificate_of_the_hops_authority(self, where):
        config = listen_module._tls_config(None, where)
        assert config.ssl.verify_mode.name == "CERT_REQUIRED"
        assert len(config.ssl.get_ca_certs()) == 1

    def test_a_server_that_leaves_verification_out_is_not_started(self, where, monkeypatch):
        real = listen_module._config

        def lax(app, **more):
            return real(app, **{**more, "ssl_cert_reqs": 0})

        monkeypatch.setattr(listen_module, "_config", lax)
        with pytest.raises(ListenerFailed, match="does not verify"):
            listen_module._tls_config(None, where)

    def test_a_server_without_tls_is_not_started(self, where, monkeypatch):
        real = listen_module._config
        monkeypatch.setattr(listen_module, "_config", lambda app, **_more: real(app))
        with pytest.raises(ListenerFailed, match="does not verify"):
            listen_module._tls_config(None, where)

    @pytest.mark.parametrize("content", [b"", b"nothing"])
    def test_without_an_authority_it_is_not_started(self, where, content):
        where.hop_ca.write_bytes(content)
        with pytest.raises(ListenerFailed):
            listen_module._tls_config(None, where)

    def test_a_leaf_is_no_authority(self, where):
        where.hop_ca.write_bytes(where.certificate.read_bytes())
        with pytest.raises(ListenerFailed, match="does not verify"):
            listen_module._tls_config(None, where)
