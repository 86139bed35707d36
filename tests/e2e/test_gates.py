"""Every reverse proxy with its shipped configuration, the real program and a real `attestd-edge serve`: one list of who
gets to the application behind it, and who does not.

Clients speak TLS with real client certificates, and smuggle what they can.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.credentials.jwk import jwk_thumbprint
from tests import authority as a
from tests.gates import GATES, Gate, binary_item, escaped, opened


@pytest.fixture(scope="module", params=GATES, ids=lambda kind: kind.name)
def open_gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with opened(request.param, tmp_path_factory.mktemp(request.param.name)) as gate:
        yield gate


@pytest.fixture
def gate(open_gate: Gate) -> Gate:
    open_gate.seen.clear()
    return open_gate


def test_a_device_at_home_gets_through(gate):
    status, _, body = gate.send(leaf=gate.site.device())
    assert (status, body) == (200, b"ok")
    found = gate.headers_seen()
    assert gate.seen[0][:2] == ("GET", "/orders")
    assert found["attestd-identity"] == "spiffe://example.org/device/munich/bike-1"
    assert (found["attestd-tier"], found["attestd-site"], found["attestd-device"]) == ("device", "munich", "bike-1")


@pytest.mark.parametrize("header", [("Content-Length", "100000"), ("Transfer-Encoding", "chunked")])
def test_a_body_is_the_applications_and_does_not_come_to_the_edge(gate, header):
    body = b"x" * 100000 if header[0] == "Content-Length" else b"4\r\nbody\r\n0\r\n\r\n"
    for _ in range(3):
        assert gate.send(header, leaf=gate.site.device(), method="POST", body=body)[0] == 200
    assert [method for method, _, _ in gate.seen] == ["POST"] * 3


def test_nobody_does_not(gate):
    status, headers, _ = gate.send()
    assert status == 401
    assert headers["www-authenticate"] == 'DPoP algs="ES256"'
    assert headers["dpop-nonce"]
    assert gate.seen == []


@pytest.mark.parametrize(
    "lie",
    [
        {"site": "berlin"},
        {"facts": a.Facts(a.FACTS.vector, {}, {}, 8, 1)},
        {"issuer": a.ca("issuer", issuer=a.ca("root", key=a.STRANGER_KEY, path_length=2), key=a.STRANGER_KEY)},
    ],
    ids=["another site's", "a quarantined one", "a stranger's"],
)
def test_a_device_that_may_not_does_not(gate, lie):
    status, _, _ = gate.send(leaf=gate.site.device(**lie))
    assert status in (401, 403)
    assert gate.seen == []


class TestSmuggling:
    """The client's own headers, where the proxy has nothing of its own to put there: the classic hole."""

    @pytest.mark.parametrize(
        "name",
        [
            "X-Client-Cert",
            "x-client-cert",
            "X_Client_Cert",
            "X-Client_Cert",
            "Client-Cert",
            "Client_Cert",
            "client-cert",
        ],
    )
    @pytest.mark.parametrize("written", [escaped, binary_item])
    def test_a_certificate_header_of_ones_own(self, gate, name, written):
        status, _, _ = gate.send((name, written(gate.site.device())))
        assert status == 401
        assert gate.seen == []

    @pytest.mark.parametrize(("name", "written"), [("X-Client-Cert", escaped), ("Client-Cert", binary_item)])
    def test_the_same_header_twice(self, gate, name, written):
        header = (name, written(gate.site.device()))
        assert gate.send(header, header)[0] == 401
        assert gate.seen == []

    def test_another_machines_certificate_beside_ones_own(self, gate):
        victim = gate.site.device(name="victim")
        theirs = [("X-Client-Cert", escaped(victim)), ("Client-Cert", binary_item(victim)), ("Client-Cert-Chain", "x")]
        theirs.append(("X-Forwarded-Client-Cert", "Cert=x"))
        status, _, _ = gate.send(*theirs, leaf=gate.site.device())
        assert status == 200  # as oneself: the proxy wrote over every one of them
        found = gate.headers_seen()
        assert found["attestd-device"] == "bike-1"
        assert not {"x-client-cert", "client-cert", "client-cert-chain", "x-forwarded-client-cert"} & set(found)

    @pytest.mark.parametrize(("name", "written"), [("X-Client-Cert", escaped), ("Client-Cert", binary_item)])
    def test_a_certificate_that_may_not_beside_a_header_that_may(self, gate, name, written):
        header = (name, written(gate.site.device()))
        assert gate.send(header, leaf=gate.site.device(site="berlin"))[0] == 403
        assert gate.seen == []

    def test_a_chain_of_ones_own_beside_nothing(self, gate):
        assert gate.send(("Client-Cert-Chain", binary_item(gate.site.device())))[0] == 401
        assert gate.seen == []

    @pytest.mark.parametrize("name", ["Identity", "Tier", "Site", "Device", "Credential", "Boundary", "Request-Id"])
    @pytest.mark.parametrize("prefix", ["Attestd-", "attestd-", "Attestd_"])
    def test_an_identity_of_ones_own(self, gate, name, prefix):
        header = (f"{prefix}{name}", "smuggled")
        assert gate.send(header)[0] == 401
        assert gate.send(header, leaf=gate.site.device())[0] == 200
        plain = f"attestd-{name.lower()}"
        values = [value for found, value in gate.seen[0][2] if found.lower().replace("_", "-") == plain]
        assert len(values) == 1
        assert values != ["smuggled"]

    def test_an_identity_that_is_called_hop_by_hop(self, gate):
        """What Connection names, proxies take off (RFC 9110, 7.6.1): the identity must be put on after that."""
        names = "Attestd-Identity, Attestd-Device, Client-Cert, X-Client-Cert, X-Forwarded-Uri, X-Forwarded-Method"
        assert gate.send(("Connection", names), leaf=gate.site.device())[0] == 200
        assert gate.headers_seen()["attestd-device"] == "bike-1"
        assert gate.send(("Connection", names), leaf=gate.site.device(site="berlin"))[0] == 403

    def test_a_request_id_of_ones_own(self, gate):
        assert gate.send(("X-Request-Id", "chosen-by-the-client"))[0] == 401
        assert "chosen-by-the-client" not in gate.site.log()
        assert gate.send(("X-Request-Id", "chosen-by-the-client"), leaf=gate.site.device())[0] == 200
        assert "chosen-by-the-client" not in gate.headers_seen().values()

    def test_labels_of_ones_own(self, gate):
        """Data-Labels is the client's and comes through; Attestd-Labels is the proxy's word, and does not."""
        mine = [("Attestd-Labels", 'residency="EU"'), ("Data-Labels", 'residency="EU"')]
        assert gate.send(*mine, leaf=gate.site.device())[0] == 200
        found = gate.headers_seen()
        assert "attestd-labels" not in found
        assert found["data-labels"] == 'residency="EU"'

    def test_another_address(self, gate):
        told = [
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", "evil.example.org"),
        ]
        assert gate.send(*told, leaf=gate.site.device())[0] == 200
        found = gate.headers_seen()
        assert found["host"].partition(":")[0] == "api.example.org"
        assert found["x-forwarded-for"] == "127.0.0.1"
        assert found["x-forwarded-proto"] == "https"
        assert found["x-forwarded-host"] == f"api.example.org:{gate.port}"

    @pytest.mark.parametrize(
        "header",
        [("X-Forwarded-Uri", "/harmless"), ("X-Forwarded-Method", "HEAD"), ("X-Forwarded-Host", "evil.example.org")],
    )
    def test_another_request_than_the_one_that_is_made(self, gate, header):
        """A policy about paths must see the real one: the edge's log has what it judged."""
        for headers in ([header], [header, header]):
            answer = gate.send(
                *headers, leaf=gate.site.device(site="berlin"), target="/secret?a=/harmless", method="POST"
            )
            assert answer[0] == 403
            judged = gate.site.log().splitlines()[-1]
            assert '"path": "/secret"' in judged
            assert '"method": "POST"' in judged

    @pytest.mark.parametrize("target", ["/orders%20of%20today", "/orders/%C3%A9?b=%2f", "/a:b@c", "/orders?"])
    def test_the_path_that_is_judged_is_the_one_that_the_application_sees(self, gate, target):
        assert gate.send(leaf=gate.site.device(), target=target)[0] == 200
        assert gate.seen[0][1] == target

    @pytest.mark.parametrize(
        "target",
        [
            "/public/../secret", "//secret", "/public/..%2fsecret", "/a;/../secret", "/public/%2e%2e/secret",
            "/./secret", "/public%5c..%5csecret", "/public%252f..%252fsecret", "/secret%00",
        ],
    )  # fmt: skip
    def test_a_path_that_can_be_read_in_two_ways(self, gate, target):
        assert gate.send(leaf=gate.site.device(), target=target)[0] in (400, 403)
        assert gate.seen == []

    def test_a_target_with_a_host_of_its_own(self, gate):
        """RFC 9112, 3.2.2: the target's host counts. It is judged as the path that the application sees."""
        status, _, _ = gate.send(leaf=gate.site.device(), target="https://api.example.org/orders")
        assert status == 200
        assert gate.seen[0][1] == "/orders"

    def test_a_second_request_within_the_first_ones_body(self, gate):
        """Lengths that contradict each other (CWE-444): one request or none, and never one that nobody judged."""
        inner = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: api.example.org\r\n\r\n"
        headers = [("Content-Length", str(len(inner))), ("Transfer-Encoding", "chunked")]
        gate.send(*headers, leaf=gate.site.device(site="berlin"), method="POST", body=inner)
        gate.send(*headers, leaf=gate.site.device(), method="POST", body=inner)
        assert "/smuggled" not in [path for _, path, _ in gate.seen]


class TestMissingParts:
    def exchange(self, gate, octets):
        """Raw octets, as a client of its own making sends them; the first line of the answer, if there is one."""
        with gate.open_connection(gate.site.device()) as connection:
            connection.sendall(octets)
            connection.settimeout(20)
            return connection.recv(4096).partition(b"\r\n")[0]

    def test_a_whole_request(self, gate):
        host = f"Host: api.example.org:{gate.port}\r\n".encode()
        assert b" 200 " in self.exchange(gate, b"GET /orders HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n")

    @pytest.mark.parametrize(
        "octets",
        [
            b"GET /orders HTTP/1.1\r\n\r\n",
            b"GET /orders HTTP/1.1\r\nHost: api.example.org\r\nHost: evil.example.org\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET orders HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
            b"GET /orders HTTP/9.9\r\nHost: api.example.org\r\n\r\n",
        ],
        ids=["no host", "two hosts", "no path", "no slash", "no such version"],
    )
    def test_a_request_without_what_it_takes(self, gate, octets):
        assert not self.exchange(gate, octets).startswith(b"HTTP/1.1 2")
        assert gate.seen == []

    @pytest.mark.parametrize("size", [200_000, 8_000_000])
    def test_a_header_of_any_length(self, gate, size):
        try:
            status = gate.send(("X-Long", "x" * size), leaf=gate.site.device())[0]
        except OSError:
            status = 431  # the connection ended before all of it was sent
        assert status in (400, 431)
        assert gate.seen == []


class TestTokens:
    def token(self, gate, **lies):
        now = int(time.time())
        honest = {"iat": now, "nbf": now, "exp": now + 300, "cnf": {"jkt": jwk_thumbprint(a.LEAF_KEY.public_key())}}
        return a.token(**{**honest, **lies})

    def proof(self, gate, token, **lies):
        nonce = gate.send()[1]["dpop-nonce"]
        digest = a.b64(hashlib.sha256(os.urandom(16)).digest())[:22]
        return a.proof(token, **{"jti": digest, "htu": f"{gate.origin}/orders", "nonce": nonce, **lies})

    def test_a_token_with_its_proof(self, gate):
        token = self.token(gate)
        proof = ("DPoP", self.proof(gate, token))
        status, headers, _ = gate.send(("Authorization", f"DPoP {token}"), proof)
        assert status == 200
        assert headers["dpop-nonce"]
        assert gate.send(("Authorization", f"DPoP {token}"), proof)[0] == 401  # once

    def test_without_a_nonce_one_is_told(self, gate):
        token = self.token(gate)
        status, headers, _ = gate.send(("Authorization", f"DPoP {token}"), ("DPoP", self.proof(gate, token, nonce=...)))
        assert status == 401
        assert 'error="use_dpop_nonce"' in headers["www-authenticate"]
        assert headers["dpop-nonce"]

    @pytest.mark.parametrize(
        "lie",
        [
            {"aud": "https://another.example.org"},
            {"iss": "https://another.example.org"},
            {"exp": 1},
            {"cnf": {}},
            {"cnf": {"jkt": jwk_thumbprint(a.STRANGER_KEY.public_key())}},
            {"srl": ...},
        ],
        ids=["another audience's", "another issuer's", "ended", "bound to nothing", "another's", "of no certificate"],
    )
    def test_a_token_that_is_not_for_here(self, gate, lie):
        token = self.token(gate, **lie)
        status, headers, _ = gate.send(("Authorization", f"DPoP {token}"), ("DPoP", self.proof(gate, token)))
        assert status == 401
        assert headers["dpop-nonce"]
        assert gate.seen == []

    def test_a_token_for_another_boundary(self, gate):
        token = self.token(gate, sub="spiffe://example.org/device/berlin/bike-1")
        assert gate.send(("Authorization", f"DPoP {token}"), ("DPoP", self.proof(gate, token)))[0] == 403
        assert gate.seen == []

    @pytest.mark.parametrize(
        "lie",
        [
            {"htu": "https://evil.example.org/orders"},
            {"htm": "POST"},
            {"nonce": "AAAA"},
            {"ath": a.b64(b"\0" * 32)},
            {"jti": ...},
            {"htu": ...},
        ],
        ids=["another host", "another method", "no nonce of this edge", "another token", "no id", "no address"],
    )
    def test_a_proof_of_something_else(self, gate, lie):
        token = self.token(gate)
        assert gate.send(("Authorization", f"DPoP {token}"), ("DPoP", self.proof(gate, token, **lie)))[0] == 401
        assert gate.seen == []

    def test_a_proof_for_another_path_of_the_same_host(self, gate):
        token = self.token(gate)
        headers = [("Authorization", f"DPoP {token}"), ("DPoP", self.proof(gate, token))]
        assert gate.send(*headers, target="/secret")[0] == 401
        assert gate.seen == []

    def test_a_token_without_its_proof(self, gate):
        assert gate.send(("Authorization", f"DPoP {self.token(gate)}"))[0] == 401
        assert gate.seen == []

    def test_two_tokens(self, gate):
        token = self.token(gate)
        twice = [("Authorization", f"DPoP {token}")] * 2
        assert gate.send(*twice, ("DPoP", self.proof(gate, token)))[0] in (400, 401)
        assert gate.seen == []

    def test_two_proofs(self, gate):
        token = self.token(gate)
        proofs = [("DPoP", self.proof(gate, token)) for _ in range(2)]
        assert gate.send(("Authorization", f"DPoP {token}"), *proofs)[0] == 401

    def test_as_a_bearer(self, gate):
        assert gate.send(("Authorization", f"Bearer {self.token(gate)}"))[0] == 401


@pytest.mark.parametrize("kind", GATES, ids=lambda kind: kind.name)
def test_while_the_edge_is_stale_clients_are_told_to_come_back(kind: type[Gate], tmp_path: Path) -> None:
    stale = kind(tmp_path)
    stale.site.publish(issued_at=int(time.time()) - 7200)
    with stale.site.serving(), stale.running():
        status, headers, _ = stale.send(leaf=stale.site.device())
    assert (status, headers["retry-after"]) == (503, "5")
    assert stale.seen == []
