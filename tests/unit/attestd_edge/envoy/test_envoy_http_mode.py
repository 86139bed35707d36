"""Envoy's HTTP mode: the request line is the request, and the rest is Envoy's word."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest

from attestd_edge.envoy.http_mode import HttpMode
from attestd_edge.hop import CertificateSource, Headers
from attestd_edge.settings import Guarded
from tests import authority as a
from tests.envoy_asker import HOST, escaped, forwarded

LEAF = a.leaf()
CROSS = 'permit (principal, action == Action::"cross", resource)'
SENT = (("host", HOST), ("x-forwarded-proto", "https"), ("content-length", "0"))
REQUEST_ID = ("x-request-id", "1f0a3b5c-0000-4000-8000-000000000001")


@pytest.fixture
def mode(edge):
    return HttpMode(edge, edge.boundaries)


@pytest.fixture
def ask(mode):
    """`ask(LEAF, …)`: status, headers by lower-case name, the problem's name."""

    def asked(leaf=None, *headers, target="/envoy/field-to-munich/orders", method="GET", sent=SENT, mode=mode):
        told = [*sent, REQUEST_ID, *headers]
        if leaf is not None:
            told.append(("x-forwarded-client-cert", forwarded(leaf)))
        status, answered, body = mode.answer(method, target, lambda: Headers.of(told))
        problem = json.loads(body)["type"].removeprefix("urn:attestd:problem:") if body else None
        return status, {name.lower(): value for name, value in answered}, problem

    return asked


def test_a_device_at_home(ask):
    status, headers, _ = ask(LEAF)
    assert status == 200
    assert headers["attestd-identity"] == a.BIKE
    assert headers["attestd-request-id"] == REQUEST_ID[1]
    removed = set(headers["x-envoy-auth-headers-to-remove"].split(","))
    assert removed == {"attestd-labels", "client-cert", "client-cert-chain", "x-client-cert", "x-forwarded-client-cert"}
    assert not removed & headers.keys()  # Envoy removes last, and would remove what we say


def test_nobody(ask):
    status, headers, problem = ask()
    assert (status, problem) == (401, "no-credential")
    assert headers["dpop-nonce"]


def test_another_sites(ask):
    assert ask(a.leaf(uris=["spiffe://example.org/device/berlin/bike-1"]))[::2] == (403, "crossing-denied")


def test_a_stale_bundle(ask, watch):
    watch.pass_(3600)
    assert ask(LEAF)[::2] == (503, "bundle-stale")


@pytest.mark.parametrize("name", ["host", "x-forwarded-proto"])
def test_what_envoy_must_say(ask, name):
    assert ask(LEAF, sent=[(key, value) for key, value in SENT if key != name])[0] == 503
    assert ask(LEAF, sent=[*SENT, (name, "http")])[::2] == (401, "header-duplicated")


@pytest.mark.parametrize(
    "target",
    [
        "/envoy/",
        "/envoy//orders",
        "/envoy/other/orders",
        "/envoy/field-to-munich%2f/orders",
        "/envoy/field-to-munich?x",
        "/envoy/FIELD-TO-MUNICH/",
    ],
)
def test_no_boundary_of_ours(ask, target):
    assert ask(LEAF, target=target)[::2] == (403, "no-such-boundary")


@pytest.mark.parametrize("rest", ["", "/a/../b", "//b", "/a%2fb", "/a;b", "/../../auth/field-to-munich"])
def test_a_path_that_can_be_read_in_two_ways(ask, rest):
    assert ask(LEAF, target=f"/envoy/field-to-munich{rest}")[::2] == (403, "path-ambiguous")


def test_policy_sees_the_request_line(ask, store, bundle):
    policy = f'{CROSS} when {{ context.path == "/orders" && context.method == "POST" }};'
    store.adopt(a.signed_bundle(bundle(version=6, policy=policy)))
    assert ask(LEAF, method="POST", target="/envoy/field-to-munich/orders?page=2")[0] == 200
    assert ask(LEAF, method="GET")[0] == 403
    assert ask(LEAF, method="POST", target="/envoy/field-to-munich/secret")[0] == 403
    told = (("x-forwarded-uri", "/orders"), ("x-forwarded-method", "POST"), ("x-original-url", "/orders"))
    assert ask(LEAF, *told, target="/envoy/field-to-munich/secret")[0] == 403


@pytest.mark.parametrize("name", ["x-client-cert", "client-cert"])
def test_another_proxys_header_is_no_certificate(ask, name):
    assert ask(None, (name, escaped(LEAF)))[::2] == (401, "header-duplicated")


def test_two_proxies_words(ask):
    both = f"{forwarded(a.leaf(serial=7))},{forwarded(LEAF)}"
    assert ask(None, ("x-forwarded-client-cert", both))[::2] == (401, "forwarded-cert-malformed")
    assert ask(LEAF, ("x-forwarded-client-cert", forwarded(LEAF)))[::2] == (401, "header-duplicated")


def test_labels_are_envoys(edge, boundary, store, bundle, ask):
    policy = f'{CROSS} when {{ context.labels.hasTag("class") && context.labels.getTag("class") == "public" }};'
    store.adopt(a.signed_bundle(bundle(version=6, policy=policy)))
    mode = HttpMode(edge, {boundary.name: Guarded(boundary, MappingProxyType({}), labels_from_hop=True)})
    assert ask(LEAF, ("attestd-labels", 'class="public"'), mode=mode)[0] == 200
    assert ask(LEAF, ("attestd-labels", 'class="secret"'), mode=mode)[0] == 403
    assert ask(LEAF, mode=mode)[0] == 503
    assert ask(LEAF, ("attestd-labels", 'class="public"'))[0] == 403  # this boundary's hop has no word in it


@pytest.mark.parametrize("apart", [True, False])
def test_a_token_with_its_proof(ask, prove, apart):
    token = a.token()
    sent = [("authorization", f"DPoP {token}"), ("dpop", prove(token))]
    status, headers, _ = ask(None, *sent)
    assert (status, bool(headers["dpop-nonce"])) == (200, True)
    assert ask(None, *sent)[::2] == (401, "proof-replayed")
    two = [("dpop", prove(token)), ("dpop", prove(token))] if apart else [("dpop", f"{prove(token)},{prove(token)}")]
    assert ask(None, sent[0], *two)[0] == 401
    assert ask(None, *sent, sent[0])[::2] == (401, "header-duplicated")


def test_it_is_open_where_envoy_is_the_hop_alone(edge):
    from attestd_edge.forward_auth import ForwardAuth
    from tests.unit.attestd_edge.test_edge_forward_auth import asked_of

    headers = (*SENT, ("x-forwarded-client-cert", forwarded(LEAF)))
    for source in CertificateSource:
        if source is CertificateSource.TLS:
            continue
        settings = type("Settings", (), {"boundaries": edge.boundaries, "certificate_header": source})()
        answer = asked_of(ForwardAuth(edge, settings), *headers, path="/envoy/field-to-munich/orders")
        assert answer["status"] == (200 if source is CertificateSource.ENVOY else 403)
