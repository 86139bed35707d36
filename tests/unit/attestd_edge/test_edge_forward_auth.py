"""The answers to a reverse proxy's question, and the listeners that only it can reach."""

from __future__ import annotations

import gc
import json
import os
import socket
import ssl
import stat
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd_edge import listen as listen_module
from attestd_edge.decide import Request
from attestd_edge.edge import Asked
from attestd_edge.forward_auth import ForwardAuth
from attestd_edge.heads import HeadReader, HeadRefused
from attestd_edge.hop import CertificateSource
from attestd_edge.listen import ListenerFailed, open_unix, tls_context
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


def asked_of(door, *headers, path="/auth", method="GET"):
    """One request of a hop, and its answer."""
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    octets, _ = door.answer(head.encode("latin-1"), HeadReader())
    start, body = octets.split(b"\r\n\r\n", 1)
    line, *fields = start.decode("latin-1").split("\r\n")
    found = dict(field.split(": ", 1) for field in fields)
    assert len(found) == len(fields)
    return {
        "status": int(line.split(" ")[1]), "headers": {k.lower(): v for k, v in found.items()}, "body": body,
    }  # fmt: skip


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
        for bad in ("short", "x" * 65, "has space", "a\tb-12345"):
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


class TestRemembered:
    """A question that came before is not read again; it is judged again, and its id is this request's."""

    @pytest.fixture
    def reads(self, monkeypatch):
        counted = []
        real = HeadReader.read
        monkeypatch.setattr(HeadReader, "read", lambda reader, octets: counted.append(octets) or real(reader, octets))
        return counted

    def test_the_same_question_with_another_id(self, ask, reads):
        for number in range(3):
            told = f"abcdef012345678{number}"
            answer = ask(*ASKED, ("X-Request-Id", told))
            assert (answer["status"], answer["headers"]["attestd-request-id"]) == (200, told)
            assert answer["headers"]["attestd-identity"] == a.BIKE
        assert len(reads) == 1

    def test_another_path(self, ask, reads, store, bundle):
        policy = f'{CROSS} when {{ context.path like "/orders*" }};'
        store.adopt(a.signed_bundle(bundle(version=6, policy=policy)))
        for _ in range(2):
            for target, status in (
                ("/orders", 200), ("/orders/7?x=1", 200), ("/other", 403), ("/orders/../other", 403),
                ("//orders", 403), ("/orders;x", 403), ("orders", 403), ("http://x/orders", 403),
            ):  # fmt: skip
                assert ask(*but(X_Forwarded_Uri=target))["status"] == status
        assert len(reads) == 1

    @pytest.mark.parametrize("target", [" ", "", "\t", "/orders\t", "/ord ers", "/orders /", "/\xe4", "/orders\r\n /x"])
    def test_a_path_of_another_spelling_is_read_as_any(self, ask, reads, target):
        assert ask(*ASKED)["status"] == 200
        known = self._answer_of(ask, target)
        edge_that_knows_nothing = self._answer_of(ask, target, Another="1")
        assert known == edge_that_knows_nothing
        assert len(reads) == 3

    @staticmethod
    def _answer_of(ask, target, **more):
        try:
            return ask(*but(X_Forwarded_Uri=target, **more))["status"]
        except HeadRefused:
            return None

    def test_without_a_path(self, ask):
        assert ask(*ASKED)["status"] == 200
        assert ask(*but(X_Forwarded_Uri=None))["status"] == 503
        assert ask(*ASKED, ("X-Forwarded-Uri", "/orders"))["status"] == 401
        assert ask(*ASKED, ("x-forwarded-uri", "/orders"))["status"] == 401

    def test_all_that_was_asked_comes_again(self):
        """Whatever a question carries, another path and another id are all that may change."""
        names = [field.name for field in fields(Asked)]
        asked = Asked(**{name: Request("GET", "https://x", "/one") if name == "request" else name for name in names})
        expected = replace(asked, request=replace(asked.request, target="/two"), request_id="other")
        assert asked.again("/two", "other") == expected
        assert asked.again("/one", "other") == replace(asked, request_id="other")

    @pytest.mark.parametrize("header", [*(header for header, _ in ASKED if header != "X-Forwarded-Uri"), "Accept"])
    def test_a_question_that_differs_is_another(self, ask, reads, header):
        told = ("X-Request-Id", "abcdef0123456789")
        assert ask(*ASKED, told)["status"] == 200
        value = {"X-Client-Cert": escaped(a.leaf(serial=77))}.get(header, "other")
        ask(*but(**{header.replace("-", "_"): value}), told)
        assert len(reads) == 2

    def test_another_boundary(self, ask, edge, settings, boundary, reads):
        second = replace(boundary, name="second", from_site=None)
        app = ForwardAuth(edge, replace(settings, boundaries={**settings.boundaries, "second": Guarded(second, {})}))
        for name in (boundary.name, "second"):
            answer = ask(*ASKED, path=f"/auth/{name}", app=app)
            assert answer["headers"]["attestd-boundary"] == name
        assert len(reads) == 2

    def test_a_device_that_was_revoked_meanwhile(self, ask, store, bundle):
        assert ask(*ASKED)["status"] == 200
        store.adopt(a.signed_bundle(bundle(version=6)))
        assert ask(*ASKED)["status"] == 200
        store.adopt(a.signed_bundle(bundle(version=7, status=a.StatusList.of({a.FACTS.status_index: 2}, 64))))
        assert ask(*ASKED)["status"] in (401, 403)

    def test_a_bundle_that_became_stale_meanwhile(self, ask, watch):
        assert ask(*ASKED)["status"] == 200
        watch.pass_(3600)
        assert ask(*ASKED)["status"] == 503

    def test_what_is_refused_is_not_remembered(self, ask, reads):
        for _ in range(2):
            assert ask(*but(X_Forwarded_Uri="/a/../b"))["status"] == 403
        assert len(reads) == 2

    @pytest.mark.parametrize("told", ["short", "x" * 65, "has-a-dash-in-it"])
    def test_an_id_of_another_kind(self, ask, told):
        for _ in range(2):
            answer = ask(*ASKED, ("X-Request-Id", told))
            assert answer["status"] == 200
            assert (answer["headers"]["attestd-request-id"] == told) is (told == "has-a-dash-in-it")

    @pytest.mark.parametrize("again", ["X-Request-Id", "x-request-id", "X-REQUEST-ID"])
    def test_two_ids(self, ask, again):
        """Without the first of the two, this is a question that may be remembered."""
        one, other = ("X-Request-Id", "abcdef0123456789"), (again, "0123456789abcdef")
        assert ask(*ASKED, other)["status"] == 200
        for headers in ((one, other), (other, one)):
            assert ask(*ASKED, *headers)["status"] == 401

    @pytest.mark.parametrize("told", ["abcdef0123456789\r\n continued", "abcdef01\x0023456789", "abcdef01\r23456789"])
    def test_an_id_that_no_reader_takes(self, ask, told):
        assert ask(*ASKED)["status"] == 200
        with pytest.raises(HeadRefused):
            ask(*ASKED, ("X-Request-Id", told))

    def test_the_bounds_are_as_large_as_what_they_bound(self, ask, edge, settings):
        """Weighs two hundred remembered questions: what is counted for one is not less than what one takes."""
        door = ForwardAuth(edge, settings)
        asked_of(door, *ASKED)
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(200):
                told = ("X-Request-Id", f"abcdef0123456{number:03}")
                assert asked_of(door, *but(User_Agent=f"bike/{number}"), told)["status"] == 200
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert len(door._known) == 201
        assert taken < door._known._weight * 200 / 201

    def test_proofs_are_not(self, edge, settings, watch, rules, reads):
        settings = replace(settings, audience=a.AUDIENCE, origins=rules.origins)
        door = ForwardAuth(edge, settings)
        token = a.token()
        proof = a.proof(token, nonce=rules.nonces.issue(watch.wall))
        headers = (*but(X_Client_Cert=None), ("Authorization", f"DPoP {token}"), ("DPoP", proof))
        first = asked_of(door, *headers)
        assert first["status"] == 200, first
        assert first["headers"]["dpop-nonce"]
        assert asked_of(door, *headers)["status"] == 401
        assert len(reads) == 2


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
        context = tls_context(where)
        assert context.verify_mode.name == "CERT_REQUIRED"
        assert len(context.get_ca_certs()) == 1

    def test_without_verification_it_is_not_started(self, where, monkeypatch):
        class Lax(ssl.SSLContext):
            verify_mode = property(lambda _: ssl.CERT_NONE, lambda _, mode: None)

        monkeypatch.setattr(listen_module, "ssl", SimpleNamespace(**{**vars(ssl), "SSLContext": Lax}))
        with pytest.raises(ListenerFailed, match="does not verify"):
            tls_context(where)

    @pytest.mark.parametrize("content", [b"", b"nothing"])
    def test_without_an_authority_it_is_not_started(self, where, content):
        where.hop_ca.write_bytes(content)
        with pytest.raises(ListenerFailed):
            tls_context(where)

    def test_a_leaf_is_no_authority(self, where):
        where.hop_ca.write_bytes(where.certificate.read_bytes())
        with pytest.raises(ListenerFailed, match="does not verify"):
            tls_context(where)
