"""What reaches an edge: a hop's headers, a whole forward-auth question, its settings and the floor on its disk."""

from __future__ import annotations

import base64
import hashlib
import tomllib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.message import DecodeError

from attestd.credentials.dpop import EdgeNonces, ReplayCache
from attestd.errors import MalformedInput
from attestd.ids import Site, Tier
from attestd.policy import Boundary, default_policy
from attestd.web.streams import event
from attestd_edge.asgi import read_headers, read_peer
from attestd_edge.decide import Request, TokenRules, judge
from attestd_edge.envoy import checks, forwarded
from attestd_edge.heads import HeadReader
from attestd_edge.hop import CertificateSource, Door, Headers, OnlyPeerHop, from_pem, is_reserved
from attestd_edge.paths import encode_path, read_path
from attestd_edge.service import read_events
from attestd_edge.settings import Guarded, Settings
from attestd_edge.store import Floor
from attestd_edge.views import View
from tests import authority as a
from tests.envoy_asker import question
from tests.fuzz.harness import Target, once

_BOUNDARY = Boundary("gate", Tier.DEVICE, Site("munich"), Tier.EDGE, Site("munich"))
_ORIGIN = "https://shop.example.org"
_NONCES = EdgeNonces(bytes(32))
_WORDS = (
    b"Client-Cert: :",
    b"Client-Cert-Chain: ",
    b"X-Client-Cert: ",
    b"x_client_cert: ",
    b"Authorization: DPoP ",
    b"Authorization: Bearer ",
    b"DPoP: ",
    b"X-Forwarded-Uri: ",
    b"X-Forwarded-Method: ",
    b"-----BEGIN%20CERTIFICATE-----%0A",
    b"X-Forwarded-Client-Cert: Hash=",
    b';Cert="',
    b";URI=",
    b"%2e%2e",
    b"%2f",
    b"//",
    b"\n",
)
_SETTINGS = b"""
[edge]
server = "https://attestd.example"
root = "root.pem"
trust_domain = "example.org"
state_dir = "state"
key = "key.pem"
certificate = "proxy.pem"
[listen]
unix = "auth.sock"
[tokens]
audience = "https://shop.example.org"
origins = ["https://shop.example.org"]
[[boundary]]
name = "gate"
from = { tier = "device", site = "munich" }
to = { tier = "edge", site = "munich" }
labels = { lane = "3" }
"""


@cache
def _pem() -> str:
    return x509.load_der_x509_certificate(a.leaf()).public_bytes(Encoding.PEM).decode()


def _lines(**headers: str) -> bytes:
    said = {
        "X-Forwarded-Method": "GET",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.example.org",
        "X-Forwarded-Uri": "/orders?page=2",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    return "\n".join(f"{name}: {value}" for name, value in said.items()).encode("latin-1")


@once
def _by_nginx() -> list[bytes]:
    return [_lines(X_Client_Cert=quote(_pem(), safe=""))]


@once
def _by_rfc9440() -> list[bytes]:
    leaf, issuer = (base64.b64encode(der).decode() for der in (a.leaf(), a.ISSUER.der))
    return [
        _lines(Client_Cert=f":{leaf}:"),
        _lines(Client_Cert=f":{leaf}:", Client_Cert_Chain=f":{issuer}:, :{issuer}:"),
    ]


@once
def _by_envoy() -> list[bytes]:
    digest = hashlib.sha256(from_pem(_pem())).hexdigest()
    said = f'By=spiffe://example.org/x;Hash={digest};Cert="{quote(_pem(), safe="")}"'
    return [_lines(X_Forwarded_Client_Cert=said), _lines(X_Forwarded_Client_Cert=f'{said};Subject="CN=a";URI=x')]


@once
def _checks() -> list[bytes]:
    """CheckRequests of Envoy's: by certificate and by token, with headers apart and joined."""
    token = a.token()
    proven = (("authorization", f"DPoP {token}"), ("dpop", a.proof(token, nonce=_NONCES.issue(a.NOW))))
    questions = [question(a.leaf()), question(a.leaf(), raw=False), question(None, *proven)]
    return [made.SerializeToString() for made in questions]


@once
def _by_token() -> list[bytes]:
    token = a.token()
    proof = a.proof(token, nonce=_NONCES.issue(a.NOW))
    return [_lines(Authorization=f"DPoP {token}", DPoP=proof)]


@cache
def _view() -> View:
    return View.of(a.bundle(policy=default_policy()), pinned=(a.ROOT.der,))


# ---- What the targets do -----------------------------------------------------------------------------------------


def _question(source: CertificateSource, data: bytes) -> None:
    """Headers as a server hands them over, through to the verdict. No verdict without a credential."""
    pairs = [line.partition(b": ")[::2] for line in data.split(b"\n")]
    scope = {"headers": [(name.strip(), value) for name, value in pairs], "server": ("auth.sock", None), "client": None}
    headers, peer = read_headers(scope), read_peer(scope)
    for name in headers.values:
        is_reserved(name)
    presented = Door(source, OnlyPeerHop()).present(headers, peer)
    request = Request(
        method=headers.one("x-forwarded-method") or "",
        origin=f"{headers.one('x-forwarded-proto')}://{headers.one('x-forwarded-host')}",
        target=headers.one("x-forwarded-uri") or "",
        labels=MappingProxyType({}),
    )
    rules = TokenRules(a.AUDIENCE, frozenset({_ORIGIN}), _NONCES, ReplayCache())
    verdict = judge(_view(), boundary=_BOUNDARY, presented=presented, request=request, tokens=rules, now=a.NOW)
    assert str(verdict.identity.spiffe_id) == a.BIKE
    assert presented.chain or presented.token


def _head(data: bytes) -> None:
    """A head that is taken says the same to the simplest reader: line by line, name and value, and no more."""
    head = HeadReader().read(data)
    line, *fields, last, rest = data.decode("latin-1").split("\r\n")
    assert (last, rest) == ("", "")
    assert line in (f"{head.method} {head.target} HTTP/1.{minor}" for minor in (0, 1))
    told = [field.partition(":") for field in fields]
    assert all(name.isascii() and name.strip() == name != "" for name, _, _ in told)
    simple = Headers.of([(name, value.lstrip(" \t")) for name, _, value in told])
    assert simple == head.headers
    assert "transfer-encoding" not in head.headers.values
    assert set((head.headers.one("content-length") or "0").strip()) == {"0"}


def _check(data: bytes) -> None:
    """A CheckRequest, through to the verdict. Its headers alone are no certificate."""
    try:
        attributes = CheckRequest.FromString(data).attributes
    except DecodeError as error:
        raise MalformedInput from error
    asked = checks.read(attributes, Guarded(_BOUNDARY, MappingProxyType({})))
    rules = TokenRules(a.AUDIENCE, frozenset({_ORIGIN}), _NONCES, ReplayCache())
    verdict = judge(
        _view(), boundary=_BOUNDARY, presented=asked.presented, request=asked.request, tokens=rules, now=a.NOW
    )
    assert str(verdict.identity.spiffe_id) == a.BIKE
    assert bool(asked.presented.chain) is bool(attributes.source.certificate)
    assert checks.names_of(attributes)


def _forwarded(data: bytes) -> None:
    found = forwarded.parse(data.decode("latin-1"))
    assert len(found.digest) == 64
    assert found.certificate


def _path(data: bytes) -> None:
    """One reading for each path, and no way around it."""
    path = read_path(data.decode("latin-1"))
    assert read_path(encode_path(path.encode())) == path
    assert ".." not in path.split("/")
    assert "//" not in path


def _without_hop(data: bytes) -> None:
    """From anybody who is not the hop, a certificate in a header is nothing."""
    headers = Headers.of(
        [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, _, value in (line.partition(b": ") for line in data.split(b"\n"))
        ]
    )
    presented = Door(CertificateSource.TLS).present(headers, read_peer({"server": ("::1", 1), "client": ("::1", 2)}))
    assert presented.chain == ()


def _settings(data: bytes) -> None:
    with TemporaryDirectory(prefix="fuzz-edge-") as folder:
        file = Path(folder) / "edge.toml"
        file.write_bytes(data)
        settings = Settings.load(file)
    assert settings.server.startswith("https://")
    assert tomllib.loads(data.decode())["edge"]


def _floor(data: bytes) -> None:
    with TemporaryDirectory(prefix="fuzz-edge-") as folder:
        file = Path(folder) / "floor.json"
        file.write_bytes(data)
        floor = Floor.read(file)
        file.write_bytes(floor.to_bytes())
        assert Floor.read(file) == floor


def _pushed(data: bytes) -> None:
    """However the octets are cut, the same events are read."""
    whole = list(read_events([data]))
    assert list(read_events([data[at : at + 7] for at in range(0, len(data), 7)])) == whole


TARGETS = (
    Target(
        "pushed-bundles",
        _pushed,
        lambda: [event("delta", "2.6", b'{"v":1}') + b":\n\n" + event("bundle", "2.7", b"{}")],
        (b"\n\n", b"event: delta\n", b"event: bundle\n", b"data: ", b":\n\n", b"id: 1.1\n"),
    ),
    Target("hop-nginx", lambda data: _question(CertificateSource.NGINX, data), _by_nginx, _WORDS),
    Target("hop-rfc9440", lambda data: _question(CertificateSource.RFC9440, data), _by_rfc9440, _WORDS),
    Target("hop-envoy", lambda data: _question(CertificateSource.ENVOY, data), _by_envoy, _WORDS),
    Target(
        "forwarded-client-cert",
        _forwarded,
        lambda: [b"Hash=" + b"0a" * 32 + b';Cert="a%0Ab";Subject="CN=\\"x";URI=y;DNS=z'],
        (b";Cert=", b";Hash=", b",", b'"', b"\\", b";By="),
    ),
    Target("envoy-check", _check, _checks, (b"attestd-boundary", b"dpop", b"authorization", b"x-client-cert")),
    Target("hop-token", lambda data: _question(CertificateSource.NGINX, data), _by_token, _WORDS),
    Target("no-hop", _without_hop, _by_nginx, _WORDS, refuses=False),
    Target(
        "hop-head",
        _head,
        lambda: [b"GET /auth?x=1 HTTP/1.1\r\n" + _lines(X_Empty="").replace(b"\n", b"\r\n") + b"\r\n\r\n"],
        (
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
            b"Content-Length: 0\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: upgrade\r\nUpgrade: h2c\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ),
    ),
    Target("path", _path, lambda: [b"/orders/7?page=2", b"/%7Euser/%C3%BC"], _WORDS, limit=2048),
    Target(
        "edge-settings", _settings, lambda: [_SETTINGS], (b"[[boundary]]\n", b"[tokens]\n", b"= -1\n", b"1979-05-27")
    ),
    Target("edge-floor", _floor, lambda: [Floor(1, 2, a.NOW).to_bytes()], (b"1e30", b"-1", b"9" * 30), limit=1024),
)
