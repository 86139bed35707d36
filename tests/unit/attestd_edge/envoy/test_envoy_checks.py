"""CheckRequests in, CheckResponses out: whose word counts, and that every lie is a refusal that Envoy understands."""

from __future__ import annotations

import json

import pytest

from attestd.policy import Boundary
from attestd_edge.envoy.checks import EnvoyContradicts, EnvoyIncomplete, read
from attestd_edge.envoy.service import Authorization
from attestd_edge.forward_auth import ForwardAuth
from attestd_edge.settings import Guarded, SettingsInvalid
from tests import authority as a
from tests.envoy_asker import escaped, forwarded, question, status_of, told, upstream

LEAF = a.leaf()
CROSS = 'permit (principal, action == Action::"cross", resource)'


@pytest.fixture
def service(edge) -> Authorization:
    return Authorization(edge, edge.boundaries)


@pytest.fixture
def check(service):
    return lambda request: service.check(request if isinstance(request, bytes) else request.SerializeToString())


@pytest.fixture
def ask(check):
    return lambda *arguments, **changes: check(question(*arguments, **changes))


def problem(response) -> str:
    return json.loads(response.denied_response.body)["type"].removeprefix("urn:attestd:problem:")


class TestAnswers:
    @pytest.mark.parametrize("raw", [True, False])
    def test_a_device_at_home(self, ask, raw):
        response = ask(LEAF, raw=raw)
        found = dict(upstream(response, ()))
        assert found.pop("attestd-request-id") == "1f0a3b5c-0000-4000-8000-000000000001"
        assert found == {
            "attestd-identity": a.BIKE,
            "attestd-tier": "device",
            "attestd-site": "munich",
            "attestd-device": "bike-1",
            "attestd-credential": "x509",
            "attestd-boundary": "field-to-munich",
        }
        assert dict(response.dynamic_metadata)["identity"] == a.BIKE
        assert "dpop-nonce" not in told(response)

    def test_nobody(self, ask):
        response = ask()
        assert (status_of(response), problem(response)) == (401, "no-credential")
        assert told(response)["www-authenticate"] == 'DPoP algs="ES256"'
        assert told(response)["dpop-nonce"]
        assert told(response)["content-type"] == "application/problem+json"

    def test_another_sites(self, ask):
        response = ask(a.leaf(uris=["spiffe://example.org/device/berlin/bike-1"]))
        assert (status_of(response), problem(response)) == (403, "crossing-denied")

    def test_a_stale_bundle(self, ask, watch):
        watch.pass_(3600)
        response = ask(LEAF)
        assert (status_of(response), problem(response)) == (503, "bundle-stale")
        assert told(response)["retry-after"]

    def test_no_status_says_ok_with_a_refusal_inside(self, ask):
        for response in (ask(), ask(LEAF, boundary="other"), ask(LEAF, path="")):
            assert response.status.code != 0
            assert not response.HasField("ok_response")

    def test_the_same_headers_as_to_other_proxies(self, ask, edge):
        """What applications behind nginx read, those behind Envoy read."""
        from tests.unit.attestd_edge.test_edge_forward_auth import ASKED, asked_of

        settings = type("Settings", (), {"boundaries": edge.boundaries, "certificate_header": "x-client-cert"})()
        answer = asked_of(ForwardAuth(edge, settings), *ASKED)
        by_nginx = {name for name in answer["headers"] if name.startswith("attestd-")}
        assert {name for name, _ in upstream(ask(LEAF), ())} == by_nginx


class TestWhoseWord:
    SMUGGLED = (
        ("attestd-identity", "spiffe://example.org/device/munich/victim"),
        ("attestd-labels", 'class="other"'),
        ("attestd-whatever", "x"),
        ("x-client-cert", escaped(LEAF)),
        ("client-cert", "x"),
        ("client-cert-chain", "x"),
        ("x-forwarded-client-cert", forwarded(LEAF)),
    )

    @pytest.mark.parametrize("raw", [True, False])
    @pytest.mark.parametrize("header", SMUGGLED, ids=lambda header: header[0])
    def test_a_clients_own_header_is_no_certificate(self, ask, header, raw):
        assert problem(ask(None, header, raw=raw)) == "no-credential"
        assert problem(ask(None, header, header, raw=raw)) == "no-credential"

    @pytest.mark.parametrize("raw", [True, False])
    def test_beside_a_certificate_they_are_removed(self, ask, raw):
        sent = (*self.SMUGGLED, ("accept", "text/plain"))
        found = upstream(ask(LEAF, *sent, raw=raw), sent)
        assert [value for name, value in found if name == "attestd-identity"] == [a.BIKE]
        assert {name for name, _ in found if not name.startswith("attestd-")} == {"accept"}
        assert not {"attestd-labels", "attestd-whatever"} & {name for name, _ in found}

    def test_names_with_underscores_too(self, ask):
        sent = (("attestd_identity", "x"), ("x_client_cert", escaped(LEAF)))
        assert not {name for name, _ in upstream(ask(LEAF, *sent), sent)} & {"attestd_identity", "x_client_cert"}
        assert problem(ask(None, *sent)) == "no-credential"

    def test_a_principal_is_not_believed(self, check):
        request = question()
        request.attributes.source.principal = a.BIKE
        assert problem(check(request)) == "no-credential"

    @pytest.mark.parametrize("certificate", ["x", escaped(LEAF)[:-40], escaped(LEAF) * 2, "%", "A" * 70000])
    def test_a_certificate_that_cant_be_read(self, check, certificate):
        request = question()
        request.attributes.source.certificate = certificate
        assert status_of(check(request)) == 401

    def test_labels_are_the_routes(self, store, bundle, edge, boundary):
        policy = f'{CROSS} when {{ context.labels.hasTag("class") && context.labels.getTag("class") == "public" }};'
        store.adopt(a.signed_bundle(bundle(version=6, policy=policy)))
        service = Authorization(edge, {boundary.name: Guarded(boundary, {}, labels_from_hop=True)})
        smuggled = ("attestd-labels", 'class="public"')

        def asked(*headers, **more):
            return service.check(question(LEAF, *headers, **more).SerializeToString())

        assert status_of(asked(labels='class="public"')) == 200
        assert status_of(asked(smuggled, labels='class="secret"')) == 403
        assert status_of(asked(smuggled)) == 503

    def test_claims_are_the_clients(self, ask, store, bundle):
        store.adopt(a.signed_bundle(bundle(version=6, policy=f'{CROSS} when {{ context.claims.hasTag("lane") }};')))
        assert status_of(ask(LEAF, ("data-labels", 'lane="3"'))) == 200
        assert status_of(ask(LEAF)) == 403
        assert status_of(ask(LEAF, ("data-labels", "lane=3"))) == 403


class TestTheRequest:
    @pytest.mark.parametrize("name", ["method", "scheme", "host", "path"])
    def test_a_part_is_missing(self, ask, name):
        assert status_of(ask(LEAF, **{name: ""})) == 503

    @pytest.mark.parametrize("part", ["attributes", "request", "http"])
    def test_what_is_no_http_request(self, check, part):
        request = question(LEAF)
        if part == "attributes":
            request.ClearField("attributes")
        elif part == "request":
            request.attributes.ClearField("request")
        else:
            request.attributes.request.ClearField("http")
        assert status_of(check(request)) == (403 if part == "attributes" else 503)

    @pytest.mark.parametrize("named", [None, "", "other", "field-to-munich/", "FIELD-TO-MUNICH"])
    def test_no_boundary_of_ours(self, ask, named):
        response = ask(LEAF, boundary=named)
        assert (status_of(response), problem(response)) == (403, "no-such-boundary")

    @pytest.mark.parametrize(
        "path", ["/public/../secret", "//secret", "/a%2fb", "/a;b", "/a\\b", "orders", "*", "http://x/y", "/a#b"]
    )
    def test_a_path_that_can_be_read_in_two_ways(self, ask, path):
        response = ask(LEAF, path=path)
        assert (status_of(response), problem(response)) == (403, "path-ambiguous")

    def test_policy_sees_path_and_method(self, ask, store, bundle):
        policy = f'{CROSS} when {{ context.path == "/orders" && context.method == "GET" }};'
        store.adopt(a.signed_bundle(bundle(version=6, policy=policy)))
        assert status_of(ask(LEAF, path="/orders?page=2")) == 200
        assert status_of(ask(LEAF, path="/secret?/orders")) == 403
        assert status_of(ask(LEAF, method="POST")) == 403

    @pytest.mark.parametrize("octets", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"not a message"])
    def test_octets_that_are_no_message(self, check, octets, caplog):
        response = check(octets)
        assert (status_of(response), problem(response)) == (503, "edge-failed")
        (record,) = caplog.records
        assert record.message == "refused: Envoy's question is no CheckRequest"
        assert json.loads(response.denied_response.body)["request_id"] == record.attestd["request_id"]

    def test_an_empty_message(self, check):
        assert problem(check(b"")) == "no-such-boundary"

    def test_headers_in_both_forms(self, service, edge, check):
        request = question(LEAF)
        request.attributes.request.http.headers["accept"] = "x"
        assert status_of(check(request)) == 503
        with pytest.raises(EnvoyContradicts):
            read(request.attributes, next(iter(edge.boundaries.values())))

    def test_a_value_in_both_forms(self, check):
        request = question(LEAF)
        request.attributes.request.http.header_map.headers.add(key="accept", value="x", raw_value=b"y")
        assert status_of(check(request)) == 503

    def test_what_is_missing_is_named(self, edge):
        with pytest.raises(EnvoyIncomplete, match="scheme"):
            read(question(LEAF, scheme="").attributes, next(iter(edge.boundaries.values())))


class TestTokens:
    def credentials(self, prove, **lies):
        token = a.token(**lies)
        return ("authorization", f"DPoP {token}"), ("dpop", prove(token))

    @pytest.mark.parametrize("raw", [True, False])
    def test_a_token_with_its_proof_once(self, ask, prove, raw):
        sent = self.credentials(prove)
        response = ask(None, *sent, raw=raw)
        assert status_of(response) == 200
        assert told(response)["dpop-nonce"]
        assert problem(ask(None, *sent, raw=raw)) == "proof-replayed"

    def test_without_its_proof(self, ask, prove):
        assert problem(ask(None, self.credentials(prove)[0])) == "proof-missing"

    @pytest.mark.parametrize("raw", [True, False])
    @pytest.mark.parametrize("which", [0, 1], ids=["token", "proof"])
    def test_two_of_them(self, ask, prove, which, raw):
        sent = self.credentials(prove)
        again = self.credentials(prove)
        response = ask(None, *sent, again[which], raw=raw)
        assert (status_of(response), problem(response)) == (401, "header-duplicated")

    def test_for_another_audience(self, ask, prove):
        assert problem(ask(None, *self.credentials(prove, aud="https://elsewhere"))) == "token-audience-wrong"

    def test_at_another_host(self, ask, prove):
        assert problem(ask(None, *self.credentials(prove), host="evil.example.org")) == "origin-unknown"

    def test_over_another_scheme(self, ask, prove):
        assert problem(ask(None, *self.credentials(prove), scheme="http")) == "origin-unknown"

    def test_for_another_request(self, ask, prove):
        assert status_of(ask(None, *self.credentials(prove), path="/other")) == 401
        assert status_of(ask(None, *self.credentials(prove), method="POST")) == 401

    def test_without_a_nonce_one_is_told(self, ask, prove):
        token = a.token()
        sent = (("authorization", f"DPoP {token}"), ("dpop", prove(token, nonce=...)))
        response = ask(None, *sent)
        assert 'error="use_dpop_nonce"' in told(response)["www-authenticate"]
        assert told(response)["dpop-nonce"]

    def test_as_a_bearers(self, ask):
        assert status_of(ask(None, ("authorization", f"Bearer {a.token()}"))) == 401


class TestFaults:
    def test_what_nobody_foresaw(self, check, edge, monkeypatch, caplog):
        def fails(*_, **__):
            raise RuntimeError("a fault")

        monkeypatch.setattr("attestd_edge.envoy.checks.read", fails)
        response = check(question(LEAF))
        assert (status_of(response), problem(response)) == (503, "edge-failed")
        assert "a fault" not in response.denied_response.body
        monkeypatch.setattr(edge, "admit", fails)
        assert problem(check(question(LEAF))) == "edge-failed"
        monkeypatch.setattr("attestd_edge.envoy.checks.boundary_of", fails)
        assert problem(check(question(LEAF))) == "edge-failed"
        assert "a fault" in caplog.text

    def test_an_answer_that_cant_be_written(self, check, monkeypatch):
        def fails(*_, **__):
            raise ValueError

        assert status_of(check(question(LEAF))) == 200
        monkeypatch.setattr("attestd_edge.envoy.checks.allowed", fails)
        assert status_of(check(question(LEAF))) == 503

    def test_without_a_boundary(self, edge):
        with pytest.raises(SettingsInvalid):
            Authorization(edge, {})

    def test_health(self, service, watch):
        assert service.health() == b"\x08\x01"
        watch.pass_(3600)
        assert service.health() == b"\x08\x02"

    def test_two_boundaries_are_told_apart(self, edge, boundary):
        from dataclasses import replace

        other: Boundary = replace(boundary, name="elsewhere", to_site=type(boundary.to_site)("berlin"))
        service = Authorization(edge, {boundary.name: Guarded(boundary, {}), other.name: Guarded(other, {})})
        assert service.check(question(LEAF).SerializeToString()).ok_response.headers
        found = service.check(question(LEAF, boundary="elsewhere").SerializeToString())
        assert dict(upstream(found, ()))["attestd-boundary"] == "elsewhere"
