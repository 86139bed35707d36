"""Whose word the labels of data are: the boundary's, added up and never contradicted; and the sender's, kept apart."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from urllib.parse import quote

import pytest

from attestd_edge.hop import CertificateSource, Door, Headers, HopIncomplete, OnlyPeerHop, Peer, UnixSocketHop
from attestd_edge.labels import LabelsDisagree, LabelsRefused, labels_of, parse_dictionary
from attestd_edge.settings import Guarded
from tests import authority as a

from .test_edge_doors import LEAF, AsgiClient, WsgiClient, pem_of

CROSS = 'permit (principal, action == Action::"cross", resource)'


def when(condition: str) -> str:
    return f"{CROSS} when {{ {condition} }};"


def has(whose: str, name: str, text: str) -> str:
    return f'context.{whose}.hasTag("{name}") && context.{whose}.getTag("{name}") == "{text}"'


@pytest.fixture(params=[WsgiClient, AsgiClient], ids=["wsgi", "asgi"])
def kind(request):
    return request.param


class TestDictionary:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ('residency="EU"', {"residency": "EU"}),
            ('residency="EU", origin-site="munich"', {"residency": "EU", "origin-site": "munich"}),
            ('a="x"\t ,\tb=""', {"a": "x", "b": ""}),
            (r'a="say \"no\" \\"', {"a": 'say "no" \\'}),
            ("a.b_c-1=\"a='b', c\"", {"a.b_c-1": "a='b', c"}),
        ],
    )
    def test_is_read(self, text, found):
        assert parse_dictionary(text) == found

    @pytest.mark.parametrize(
        "text",
        ["", " ", "EU", "residency=EU", 'Residency="EU"', 'residency = "EU"', 'residency="EU" ', 'residency="EU",',
         ',residency="EU"', 'residency="EU" origin="x"', 'residency="EU";q=1', 'residency="EU', 'residency="E\tU"',
         r'residency="\E"', 'residency="ÉU"', 'a="x", a="x"', 'a="x", a="y"', "residency", 'a="' + "x" * 257 + '"',
         ", ".join(f'a{n}="x"' for n in range(17)), 'a="x"' + " " * 4096 + ', b="y"', '*a="x"', 'a\u0131="x"'],
    )  # fmt: skip
    def test_or_refused_whole(self, text):
        with pytest.raises(LabelsRefused):
            parse_dictionary(text)


class TestWhoseWord:
    DOOR = Door(CertificateSource.NGINX, OnlyPeerHop())

    def labels(self, guarded, header=None, door=DOOR, **more):
        headers = Headers.of([] if header is None else [("Attestd-Labels", header)])
        return labels_of(guarded, headers, door=door, peer=Peer(), **more)

    def test_settings_application_and_hop_add_up(self, boundary):
        guarded = Guarded(boundary, MappingProxyType({"class": "telemetry"}), labels_from_hop=True)
        assert self.labels(guarded, 'residency="EU"', told={"origin-site": "munich"}) == {
            "class": "telemetry", "residency": "EU", "origin-site": "munich",
        }  # fmt: skip
        assert self.labels(guarded, 'class="telemetry"', told={"class": "telemetry"}) == {"class": "telemetry"}

    @pytest.mark.parametrize(
        ("header", "told"), [('class="other"', {}), ('x="y"', {"class": "other"}), ('x="y"', {"x": "z"})]
    )
    def test_and_never_contradict_each_other(self, boundary, header, told):
        guarded = Guarded(boundary, MappingProxyType({"class": "telemetry"}), labels_from_hop=True)
        with pytest.raises(LabelsDisagree):
            self.labels(guarded, header, told=told)

    def test_the_hops_header_is_nothing_without_the_setting(self, boundary):
        assert self.labels(Guarded(boundary, MappingProxyType({})), 'residency="US"') == {}
        assert self.labels(None, 'residency="US"') == {}

    @pytest.mark.parametrize("header", [None, "", " "])
    def test_with_it_the_hop_has_to_speak(self, boundary, header):
        with pytest.raises(HopIncomplete):
            self.labels(Guarded(boundary, MappingProxyType({}), labels_from_hop=True), header)

    @pytest.mark.parametrize("door", [Door(CertificateSource.TLS), Door(CertificateSource.TLS, UnixSocketHop())])
    def test_and_nobody_else_speaks_for_it(self, boundary, door):
        with pytest.raises(HopIncomplete):
            self.labels(Guarded(boundary, MappingProxyType({}), labels_from_hop=True), 'a="b"', door)

    @pytest.mark.parametrize("told", [{"a b": "c"}, {"a": 1}, {"a": "\n"}, {1: "a"}, None, "a", [("a", "b")]])
    def test_the_applications_word_is_read_as_strictly(self, boundary, told):
        with pytest.raises(LabelsRefused):
            self.labels(Guarded(boundary, MappingProxyType({})), told=told)


class TestAtTheDoors:
    def test_what_the_sender_claims_is_no_label(self, kind, edge, store, bundle):
        store.adopt(a.signed_bundle(bundle(version=6, policy=when(has("labels", "residency", "EU")))))
        assert kind(edge, labels=lambda _: {"residency": "EU"}).get(chain=(LEAF,))["status"] == 200
        for name in ("Data-Labels", "Attestd-Labels"):
            assert kind(edge).get((name, 'residency="EU"'), chain=(LEAF,))["status"] == 403

    def test_but_a_policy_may_look_at_it(self, kind, edge, store, bundle):
        store.adopt(a.signed_bundle(bundle(version=6, policy=when(has("claims", "origin-site", "munich")))))
        client = kind(edge, labels=lambda _: {"origin-site": "munich"})
        assert client.get(("Data-Labels", 'origin-site="munich"'), chain=(LEAF,))["status"] == 200
        assert client.get(("Data-Labels", 'origin-site="berlin"'), chain=(LEAF,))["status"] == 403
        assert client.get(chain=(LEAF,))["status"] == 403
        assert client.get(("Data-Labels", 'origin-site="munich"'), chain=(LEAF,))["status"] == 200  # remembered apart

    @pytest.mark.parametrize("value", ["residency=EU", 'residency="EU", residency="US"', ""])
    def test_what_cant_be_read_stops_the_request(self, kind, edge, value):
        client = kind(edge)
        answer = client.get(("Data-Labels", value), chain=(LEAF,))
        assert answer["status"] == 403
        assert b"labels-refused" in answer["body"]
        assert client.seen == []
        assert client.get(chain=(LEAF,))["status"] == 200

    def test_so_does_a_claim_that_comes_twice(self, kind, edge):
        twice = (("Data-Labels", 'a="x"'), ("Data-Labels", 'a="y"'))
        assert kind(edge).get(*twice, chain=(LEAF,))["status"] in (401, 403)

    def test_the_hops_labels_do_not_come_to_the_application(self, kind, edge, boundary, store, bundle):
        store.adopt(a.signed_bundle(bundle(version=6, policy=when(has("labels", "residency", "EU")))))
        edge.boundaries = {boundary.name: replace(edge.boundaries[boundary.name], labels_from_hop=True)}
        client = kind(edge, certificate_source=CertificateSource.NGINX, hop=UnixSocketHop())
        sent = ("X-Client-Cert", quote(pem_of(LEAF), safe=""))
        assert client.get(sent, ("Attestd-Labels", 'residency="EU"'), over_unix=True)["status"] == 200
        assert "attestd-labels" not in str(client.seen).lower().replace("_", "-")
        assert client.get(sent, ("Attestd-Labels", 'residency="US"'), over_unix=True)["status"] == 403
        assert client.get(sent, over_unix=True)["status"] == 503
        assert client.get(sent, ("Attestd-Labels", 'residency="EU"'), over_unix=False)["status"] == 503
