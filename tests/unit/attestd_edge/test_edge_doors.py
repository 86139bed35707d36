"""The middleware before an application: who gets through, what the application sees, what the others are told."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import timedelta
from io import BytesIO
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.credentials.identity import VerifiedIdentity
from attestd_edge import asgi, wsgi
from attestd_edge import edge as edge_module
from attestd_edge.edge import ConnectionAged, Edge
from attestd_edge.hop import CertificateSource, HopUnauthenticated, UnixSocketHop
from attestd_edge.settings import SettingsInvalid
from tests import authority as a
from tests.authority import NOW

LEAF = a.leaf()


def pem_of(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode()


class WsgiClient:
    """Sends one request through the WSGI middleware; `seen` is what came to the application."""

    def __init__(self, edge: Edge, **options) -> None:
        self.seen: list[dict] = []
        options = {"certificate_source": CertificateSource.TLS, **options}
        self.app = wsgi.EdgeMiddleware(self.application, edge, "field-to-munich", **options)

    def application(self, environ, start_response):
        self.seen.append(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello ", b"device"]

    def get(self, *headers, path="/orders", chain=(), over_unix=False, method="GET", **environ):
        answer = {}

        def start_response(status, headers, _exc_info=None):
            answer.update(status=int(status.split()[0]), headers={k.lower(): v for k, v in headers})

        asked = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "shop.example.org",
            "SERVER_PORT": "443",
            "HTTP_HOST": "shop.example.org",
            "REMOTE_ADDR": "" if over_unix else "192.0.2.7",
            "wsgi.url_scheme": "https",
            "wsgi.input": BytesIO(),
            **environ,
        }
        for name, value in headers:
            key = "HTTP_" + name.upper().replace("-", "_")
            asked[key] = f"{asked[key]},{value}" if key in asked else value
        if chain:
            asked["SSL_CLIENT_CERT"] = pem_of(chain[0])
        body = self.app(asked, start_response)
        try:
            answer["body"] = b"".join(body)
        finally:
            if hasattr(body, "close"):
                body.close()
        return answer


class AsgiClient:
    """The same through the ASGI middleware."""

    def __init__(self, edge: Edge, **options) -> None:
        self.seen: list[dict] = []
        options = {"certificate_source": CertificateSource.TLS, **options}
        self.app = asgi.EdgeMiddleware(self.application, edge, "field-to-munich", **options)

    async def application(self, scope, _receive, send):
        self.seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello device"})

    def get(self, *headers, path="/orders", chain=(), over_unix=False, method="GET"):
        scope = {
            "type": "http",
            "method": method,
            "scheme": "https",
            "path": path,
            "query_string": b"",
            "headers": [
                (b"host", b"shop.example.org"),
                *((n.lower().encode(), v.encode("latin-1")) for n, v in headers),
            ],
            "client": None if over_unix else ("192.0.2.7", 1234),
            "server": ("/run/app.sock", None) if over_unix else ("192.0.2.1", 443),
        }
        if chain:
            scope["extensions"] = {"tls": {"client_cert_chain": [pem_of(der) for der in chain]}}
        answer = {"body": b""}

        async def send(message):
            if message["type"] == "http.response.start":
                answer.update(status=message["status"], headers={k.decode(): v.decode() for k, v in message["headers"]})
            else:
                answer["body"] += message["body"]

        async def receive():
            return {"type": "http.request"}

        asyncio.run(self.app(scope, receive, send))
        return answer


@pytest.fixture(params=[WsgiClient, AsgiClient], ids=["wsgi", "asgi"])
def client(request, edge):
    return request.param(edge)


@pytest.fixture(params=[WsgiClient, AsgiClient], ids=["wsgi", "asgi"])
def behind_nginx(request, edge):
    return request.param(edge, certificate_source=CertificateSource.NGINX, hop=UnixSocketHop())


def identity_of(seen) -> VerifiedIdentity:
    return seen["attestd.identity"]


class TestGoingThrough:
    def test_the_application_gets_a_typed_identity(self, client):
        answer = client.get(chain=(LEAF,))
        assert (answer["status"], answer["body"]) == (200, b"hello device")
        identity = identity_of(client.seen[0])
        assert isinstance(identity, VerifiedIdentity)
        assert str(identity.spiffe_id) == a.BIKE

    def test_by_the_hops_word(self, behind_nginx):
        header = ("X-Client-Cert", quote(pem_of(LEAF), safe=""))
        assert behind_nginx.get(header, over_unix=True)["status"] == 200

    def test_with_a_token(self, client, prove):
        token = a.token()
        answer = client.get(("Authorization", f"DPoP {token}"), ("DPoP", prove(token)))
        assert answer["status"] == 200
        assert answer["headers"]["dpop-nonce"]
        assert identity_of(client.seen[0]).kind == "jwt"

    def test_a_certificate_gets_no_nonce(self, client):
        assert "dpop-nonce" not in client.get(chain=(LEAF,))["headers"]

    def test_reserved_headers_never_come_to_the_application(self, client):
        names = ("Attestd-Identity", "X-Client-Cert", "Client-Cert", "Client-Cert-Chain", "Attestd_Site", "X-Other")
        smuggled = [(name, "x") for name in names]
        assert client.get(*smuggled, chain=(LEAF,))["status"] == 200
        seen = client.seen[0]
        names = [key for key in seen if key.startswith("HTTP_")] or [name.decode() for name, _ in seen["headers"]]
        plain = {name.lower().removeprefix("http_").replace("_", "-") for name in names}
        assert plain == {"host", "x-other"}

    def test_the_paths_that_policy_and_application_see_are_one(self, client):
        assert (
            client.get(path="/caf\xc3\xa9" if isinstance(client, WsgiClient) else "/café", chain=(LEAF,))["status"]
            == 200
        )
        for path in ("/a/../orders", "//orders", "/a;x", "/a%2fb"):
            assert client.get(path=path, chain=(LEAF,))["status"] == 403


class TestRefusals:
    def test_nobody(self, client):
        answer = client.get()
        assert answer["status"] == 401
        assert client.seen == []
        assert answer["headers"]["content-type"] == "application/problem+json"
        assert answer["headers"]["www-authenticate"] == 'DPoP algs="ES256"'
        assert answer["headers"]["dpop-nonce"]
        problem = json.loads(answer["body"])
        assert problem["type"] == "urn:attestd:problem:no-credential"
        assert set(problem) == {"type", "title", "status", "detail", "request_id"}
        assert len(answer["body"]) == int(answer["headers"]["content-length"])

    def test_the_nonce_that_a_refusal_brings_is_good(self, client):
        nonce = client.get()["headers"]["dpop-nonce"]
        token = a.token()
        proof = a.proof(token, nonce=nonce)
        assert client.get(("Authorization", f"DPoP {token}"), ("DPoP", proof))["status"] == 200

    @pytest.mark.parametrize(
        ("lies", "challenge"),
        [
            ({"nonce": ...}, 'DPoP error="use_dpop_nonce", algs="ES256"'),
            ({"htm": "POST"}, 'DPoP error="invalid_dpop_proof", algs="ES256"'),
        ],
    )
    def test_challenges_of_rfc_9449(self, client, prove, lies, challenge):
        token = a.token()
        answer = client.get(("Authorization", f"DPoP {token}"), ("DPoP", prove(token, **lies)))
        assert (answer["status"], answer["headers"]["www-authenticate"]) == (401, challenge)

    def test_a_token_that_is_none(self, client):
        answer = client.get(("Authorization", "DPoP nonsense"), ("DPoP", "x"))
        assert answer["headers"]["www-authenticate"] == 'DPoP error="invalid_token", algs="ES256"'

    def test_policy_says_no_and_only_the_log_says_why(self, client, caplog):
        answer = client.get(chain=(a.leaf(uris=["spiffe://example.org/device/berlin/bike-1"]),))
        assert answer["status"] == 403
        assert client.seen == []
        assert b"berlin" not in answer["body"]
        record = next(r for r in caplog.records if r.name == "attestd_edge.decisions")
        assert record.attestd["reasons"][0] == "this boundary is for site munich; the credential is of site berlin"
        assert record.attestd["request_id"] == json.loads(answer["body"])["request_id"]
        assert record.attestd["spiffe_id"].endswith("/berlin/bike-1")

    def test_a_quarantined_device(self, client):
        suspended = a.Facts(a.FACTS.vector, {}, {}, 8, 1)
        answer = client.get(chain=(a.leaf(facts=suspended),))
        assert answer["status"] == 403
        assert json.loads(answer["body"])["type"].endswith(":device-suspended")

    def test_a_stale_edge(self, client, watch, caplog):
        watch.pass_(3600)
        answer = client.get(chain=(a.leaf(not_after=NOW + timedelta(days=2)),))
        assert answer["status"] == 503
        assert answer["headers"]["retry-after"]
        assert "www-authenticate" not in answer["headers"]
        assert "stale since 2026-03-01 13:00:00Z" in caplog.text
        assert client.seen == []

    def test_what_nobody_foresaw(self, client, monkeypatch, caplog):
        def broken(*_args, **_kwargs):
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr(edge_module, "judge", broken)
        answer = client.get(chain=(LEAF,))
        assert answer["status"] == 503
        assert client.seen == []
        assert b"secret detail" not in answer["body"]
        assert "secret detail" in caplog.text

    def test_the_client_certificate_header_of_nobody_we_know(self, behind_nginx):
        header = ("X-Client-Cert", quote(pem_of(LEAF), safe=""))
        assert behind_nginx.get(header, over_unix=False)["status"] == 401

    def test_a_header_that_came_twice_through_the_hop(self, behind_nginx):
        header = ("X-Client-Cert", quote(pem_of(LEAF), safe=""))
        assert behind_nginx.get(header, header, over_unix=True)["status"] == 401
        assert behind_nginx.get(header, ("Client-Cert", "x"), over_unix=True)["status"] == 401

    def test_tokens_stay_out_of_the_log(self, client, prove, caplog):
        token = a.token()
        with caplog.at_level(logging.DEBUG):
            client.get(("Authorization", f"DPoP {token}"), ("DPoP", prove(token)))
            client.get(("Authorization", f"DPoP {token}"), ("DPoP", prove(token, htm="PUT")))
            client.get(("Authorization", f"Bearer {token}"))
        text = caplog.text + "".join(json.dumps(getattr(r, "attestd", {}), default=str) for r in caplog.records)
        assert len(caplog.records) >= 3
        assert token not in text
        assert token.split(".")[2] not in text


class TestOptions:
    @pytest.mark.parametrize("door", [wsgi.EdgeMiddleware, asgi.EdgeMiddleware])
    def test_a_header_without_a_hop_is_refused_at_once(self, edge, door):
        with pytest.raises(HopUnauthenticated):
            door(None, edge, "field-to-munich", certificate_source=CertificateSource.NGINX)

    @pytest.mark.parametrize("door", [wsgi.EdgeMiddleware, asgi.EdgeMiddleware])
    def test_a_boundary_that_is_not_configured(self, edge, door):
        with pytest.raises(SettingsInvalid):
            door(None, edge, "elsewhere")

    def test_without_a_source_certificates_do_not_count(self, edge):
        client = WsgiClient(edge, certificate_source=None)
        assert client.get(chain=(LEAF,))["status"] == 401

    @pytest.mark.parametrize("remote", ["127.0.0.1", "::1", "192.0.2.1"])
    def test_a_loopback_address_is_no_authentication(self, edge, remote):
        client = WsgiClient(edge, certificate_source=CertificateSource.NGINX, hop=UnixSocketHop())
        header = ("X-Client-Cert", quote(pem_of(LEAF), safe=""))
        assert client.get(header, REMOTE_ADDR=remote)["status"] == 401
        assert client.get(header, REMOTE_ADDR="unix:")["status"] == 200

    def test_a_server_that_names_no_address_is_not_taken_for_a_unix_socket(self, edge):
        client = WsgiClient(edge, certificate_source=CertificateSource.NGINX, hop=UnixSocketHop())
        seen = {}
        header = quote(pem_of(LEAF), safe="")
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_NAME": "x", "wsgi.url_scheme": "https",
                   "HTTP_X_CLIENT_CERT": header}  # fmt: skip
        b"".join(client.app(dict(environ), lambda status, _headers: seen.update(status=status)))
        assert seen["status"].startswith("401")
        b"".join(client.app({**environ, "REMOTE_ADDR": ""}, lambda status, _headers: seen.update(status=status)))
        assert seen["status"].startswith("200")

    def test_labels_of_the_application(self, edge, bundle, store):
        policy = 'permit (principal, action == Action::"cross", resource) when { context.labels.hasTag("class") && '
        policy += 'context.labels.getTag("class") == "telemetry" };'
        store.adopt(a.signed_bundle(bundle(version=6, policy=policy)))
        assert WsgiClient(edge).get(chain=(LEAF,))["status"] == 200  # the configured labels
        assert AsgiClient(edge).get(chain=(LEAF,))["status"] == 200
        assert WsgiClient(edge, labels=lambda _: {"class": "secret"}).get(chain=(LEAF,))["status"] == 403
        assert AsgiClient(edge, labels=lambda _: {"class": "secret"}).get(chain=(LEAF,))["status"] == 403


class TestAge:
    def test_a_wsgi_stream_ends_with_the_connections_age(self, edge, watch):
        def forever(_environ, start_response):
            start_response("200 OK", [])
            while True:
                watch.pass_(60)
                yield b"."

        app = wsgi.EdgeMiddleware(forever, edge, "field-to-munich", certificate_source=CertificateSource.TLS)
        body = iter(app(_environ(), lambda *_: None))
        chunks = 0
        with pytest.raises(ConnectionAged):
            for _ in range(100):
                next(body)
                chunks += 1
        assert chunks == 14

    def test_a_wsgi_stream_ends_with_its_credential(self, edge, watch):
        def forever(_environ, start_response):
            start_response("200 OK", [])
            while True:
                watch.pass_(60)
                yield b"."

        app = wsgi.EdgeMiddleware(forever, edge, "field-to-munich", certificate_source=CertificateSource.TLS)
        short = a.leaf(not_after=NOW + timedelta(minutes=3))
        body = iter(app(_environ(short), lambda *_: None))
        with pytest.raises(ConnectionAged):
            for _ in range(4):
                next(body)

    def test_the_applications_answer_is_closed(self, edge):
        class Body(list):
            closed = False

            def close(self):
                self.closed = True

        body = Body([b"x"])
        app = wsgi.EdgeMiddleware(
            lambda _e, _s: body, edge, "field-to-munich", certificate_source=CertificateSource.TLS
        )
        app(_environ(), lambda *_: None).close()
        assert body.closed

    def websocket(self, edge, app, *, extensions=None, chain=(LEAF,), max_age=timedelta(milliseconds=30)):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "websocket.connect"}

        scope = {
            "type": "websocket", "scheme": "wss", "path": "/stream", "query_string": b"",
            "headers": [(b"host", b"shop.example.org")], "client": ("192.0.2.7", 1), "server": ("192.0.2.1", 443),
            "extensions": {"tls": {"client_cert_chain": [pem_of(der) for der in chain]}, **(extensions or {})},
        }  # fmt: skip
        door = asgi.EdgeMiddleware(
            app, edge, "field-to-munich", certificate_source=CertificateSource.TLS, max_age=max_age
        )
        asyncio.run(door(scope, receive, send))
        return sent

    @staticmethod
    async def chatting(_scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(60)

    def test_a_websocket_ends_with_the_connections_age(self, edge):
        sent = self.websocket(edge, self.chatting)
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
        assert sent[1]["code"] == 1008

    def test_a_websocket_ends_with_its_credential(self, edge, watch):
        watch.pass_(59.97)
        short = a.leaf(not_after=NOW + timedelta(seconds=60))
        sent = self.websocket(edge, self.chatting, chain=(short,), max_age=timedelta(minutes=10))
        assert sent[1]["code"] == 1008

    def test_a_websocket_that_is_refused(self, edge):
        sent = self.websocket(edge, self.chatting, chain=())
        assert [message["type"] for message in sent] == ["websocket.close"]

    def test_a_websocket_that_is_refused_with_a_problem(self, edge):
        sent = self.websocket(edge, self.chatting, chain=(), extensions={"websocket.http.response": {}})
        assert sent[0]["type"] == "websocket.http.response.start"
        assert sent[0]["status"] == 401

    def test_the_applications_own_timeout_is_its_own(self, edge):
        async def slow(_scope, _receive, _send):
            raise TimeoutError("mine")

        with pytest.raises(TimeoutError, match="mine"):
            self.websocket(edge, slow, max_age=timedelta(minutes=1))

    def test_an_asgi_stream_is_cut_without_an_end(self, edge):
        sent = []

        async def send(message):
            sent.append(message)

        async def streaming(_scope, _receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.sleep(60)

        client = AsgiClient(edge)
        client.app = asgi.EdgeMiddleware(
            streaming, edge, "field-to-munich", certificate_source=CertificateSource.TLS,
            max_age=timedelta(milliseconds=30),
        )  # fmt: skip
        assert client.get(chain=(LEAF,)) == {"status": 200, "headers": {}, "body": b""}


def _environ(leaf: bytes = LEAF) -> dict:
    return {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_NAME": "x", "wsgi.url_scheme": "https",
        "SSL_CLIENT_CERT": pem_of(leaf), "REMOTE_ADDR": "192.0.2.1",
    }  # fmt: skip


class TestAsgiPeers:
    @pytest.mark.parametrize(
        ("server", "client", "unix"),
        [
            (("/run/app.sock", None), None, True),
            (("127.0.0.1", 443), ("127.0.0.1", 50000), False),
            (("127.0.0.1", 443), None, False),
            (("/run/app.sock", None), ("192.0.2.7", 1234), False),
            (None, None, False),
        ],
    )
    def test_a_unix_socket_is_known_by_what_the_server_says(self, server, client, unix):
        assert asgi.read_peer({"server": server, "client": client}).unix is unix


class TestAsgiScopes:
    def run(self, edge, scope):
        seen = []

        async def app(scope, _receive, _send):
            seen.append(scope["type"])

        door = asgi.EdgeMiddleware(app, edge, "field-to-munich")
        asyncio.run(door(scope, None, None))
        return seen

    def test_lifespan_is_the_applications(self, edge):
        assert self.run(edge, {"type": "lifespan"}) == ["lifespan"]

    def test_an_unknown_kind_of_scope_is_not_let_through(self, edge):
        with pytest.raises(NotImplementedError):
            self.run(edge, {"type": "webtransport"})

    def test_starlette_finds_the_identity_in_its_state(self, edge):
        client = AsgiClient(edge)
        client.get(chain=(LEAF,))
        assert client.seen[0]["state"]["attestd_identity"] is identity_of(client.seen[0])


class TestCounting:
    def test_what_was_decided_is_counted(self, edge):
        client = WsgiClient(edge)
        client.get(chain=(LEAF,))
        client.get(chain=(LEAF,))
        client.get()
        text = edge.metrics.text().decode()
        assert 'attestd_edge_decisions_total{boundary="field-to-munich",outcome="allowed",reason=""} 2.0' in text
        assert 'outcome="refused",reason="no-credential"} 1.0' in text
        assert "attestd_edge_verdicts_remembered_total 1.0" in text
        assert "attestd_edge_bundle_version 5.0" in text
        assert "attestd_edge_ready 1.0" in text

    def test_a_remembered_denial_is_counted_as_one(self, edge):
        stranger = a.leaf(uris=["spiffe://example.org/device/berlin/bike-9"])
        client = WsgiClient(edge)
        for _ in range(2):
            client.get(chain=(stranger,))
        text = edge.metrics.text().decode()
        assert 'outcome="refused",reason="crossing-denied"} 2.0' in text
        assert "attestd_edge_verdicts_remembered_total 1.0" in text

    def test_a_stale_edge_is_an_alarm(self, edge, watch):
        watch.pass_(3600)
        assert "attestd_edge_ready 0.0" in edge.metrics.text().decode()


class TestProcesses:
    def test_the_thread_is_started_once_and_again_after_a_fork(self, store, rules, monkeypatch):
        started = []

        class Fake:
            def start(self):
                started.append("start")

            def stop(self):
                started.append("stop")

        edge = Edge(store, tokens=rules, make_refresher=Fake)
        edge.start()
        edge.start()
        assert started == ["start"]
        monkeypatch.setattr(edge_module.os, "getpid", lambda: 4711)
        edge.start()
        assert started == ["start", "start"]
        edge.stop()
        edge.stop()
        assert started == ["start", "start", "stop"]
