"""Credentials as they are presented: tokens, proofs, bundles, times, status lists, facts. What is believed, an
independent implementation verifies too."""

from __future__ import annotations

import json
import zlib
from functools import cache

import jwt
from cryptography import x509

from attestd.credentials.bundle import Bundle, Statement, verify_copy
from attestd.credentials.copies import Copy, Delta
from attestd.credentials.dpop import EdgeNonces, ReplayCache, normal_uri, verify_dpop
from attestd.credentials.facts import Facts
from attestd.credentials.jwk import jwk_thumbprint, public_jwk, read_jwk
from attestd.credentials.status import StatusList
from attestd.credentials.times import verify_time
from attestd.credentials.tokens import bind_to_certificate, verify_token
from attestd.credentials.x509 import Authorities, VerifiedCertificate, verify_chain
from attestd.errors import AttestdError
from attestd.protocol.encoding import b64decode
from tests import authority as a
from tests.fuzz.harness import Target, once

_ORIGIN = "https://shop.example.org"
_TIME_NONCE = b"n" * 32
_NONCES = EdgeNonces(bytes(32))
_STATUS_LIMIT = 1 << 20
_WORDS = (
    b"eyJ",
    b".",
    b"..",
    b'"alg":"none"',
    b'"alg":"HS256"',
    b'"crit":["b64"]',
    b'"b64":false',
    b"e30",
    b'"exp":1e400',
    b'"exp":99999999999999',
    b"x\x9c",
)


@once
def _tokens() -> list[bytes]:
    certificate = _certificate()
    bound = a.token(cnf={"x5t#S256": certificate.thumbprint}, srl=str(certificate.serial))
    return [a.token().encode(), bound.encode()]


@once
def _proofs() -> list[bytes]:
    token = _tokens()[0].decode()
    return [a.proof(token, nonce=_NONCES.issue(a.NOW)).encode()]


@cache
def _certificate() -> VerifiedCertificate:
    authorities = Authorities.load((a.ROOT.der,), (a.ISSUER.der,), trust_domain=a.TRUST_DOMAIN)
    return verify_chain([a.leaf()], authorities=authorities, now=a.NOW)


@once
def _bundles() -> list[bytes]:
    return [a.signed_bundle()]


@once
def _deltas() -> list[bytes]:
    """From the honest bundle: to one with another device suspended and another serial number, and to a longer list."""
    base = a.copy_of()
    suspended = a.bundle(version=6, status=a.StatusList.of({3: a.Status.SUSPENDED}, 16), revoked=frozenset())
    longer = a.bundle(version=6, status=a.StatusList.of({}, 4000), policy="forbid(principal, action, resource);")
    return [a.copy_of(after).since(base, "2.5") for after in (suspended, longer)]


@once
def _payloads() -> list[bytes]:
    made = a.bundle()
    return [made.statement(made.parts()).to_bytes()]


@once
def _times() -> list[bytes]:
    return [a.signed_time(nonce=_TIME_NONCE).encode()]


@once
def _facts() -> list[bytes]:
    value = a.FACTS.to_extension().value
    return [value, a.FACTS.encode()]


# ---- What the targets do -----------------------------------------------------------------------------------------


def _token(data: bytes) -> None:
    key = a.TOKEN_KEY.public_key()
    text = data.decode("latin-1")
    verified = verify_token(
        text,
        keys={"t1": key},
        issuer=a.TOKEN_ISSUER,
        audience=a.AUDIENCE,
        trust_domain=a.TRUST_DOMAIN,
        now=a.NOW,
    )
    claims = jwt.decode(
        text,
        key,
        algorithms=["ES256"],
        audience=a.AUDIENCE,
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )
    assert claims["sub"] == str(verified.spiffe_id)
    assert data in _tokens()
    if verified.binding == "x5t#S256":
        bind_to_certificate(verified, _certificate())


def _proof(data: bytes) -> None:
    text, token = data.decode("latin-1"), _tokens()[0].decode()
    key = a.LEAF_KEY.public_key()
    verify_dpop(
        text,
        method="GET",
        uri=f"{_ORIGIN}/orders?x=1",
        token=token,
        jkt=jwk_thumbprint(key),
        nonces=_NONCES,
        replays=ReplayCache(),
        now=a.NOW,
    )
    jwt.decode(text, key, algorithms=["ES256"], options={"verify_iat": False})
    assert data in _proofs()


def _bundle(data: bytes) -> None:
    """Only what the delegated key signed is a bundle, with the parts that it signed."""
    copy = Copy.read(data)
    assert Copy.read(copy.to_bytes()) == copy
    bundle = verify_copy(copy, roots=(a.ROOT.der,), trust_domain=a.TRUST_DOMAIN, floor=(0, 0), now=a.NOW)
    jwt.PyJWS().decode(copy.statement, a.SIGNER_KEY.public_key(), algorithms=["ES256"])
    assert bundle == a.bundle()


def _delta(data: bytes) -> None:
    """What a delta leads to is verified like anything else: a bundle that was signed, or none."""
    copy = a.copy_of().after(Delta.read(data))
    verify_copy(copy, roots=(a.ROOT.der,), trust_domain=a.TRUST_DOMAIN, floor=(0, 0), now=a.NOW)
    known = [a.copy_of().after(Delta.read(one)) for one in _deltas()]
    assert copy.parts in [one.parts for one in (*known, a.copy_of())]


def _payload(data: bytes) -> None:
    """What a signed statement may say, once somebody has signed it."""
    statement = Statement.parse(data)
    assert Statement.parse(statement.to_bytes()) == statement
    bundle = Bundle.of(statement, a.copy_of().parts)
    bundle.verification_keys()
    try:
        bundle.authorities((a.ROOT.der,))
    except AttestdError:
        return
    for index in (0, 7, 8, 10**9, -1):
        _ = bundle.status[index]


def _time(data: bytes) -> None:
    verify_time(data.decode("latin-1"), roots=(a.ROOT.der,), nonce=_TIME_NONCE, floor=a.NOW)
    assert data in _times()


def _status(data: bytes) -> None:
    """Zlib is deterministic only in one direction: what is read is what the library unpacks."""
    text = data.decode("latin-1")
    found = StatusList.decode(text, max_octets=_STATUS_LIMIT)
    assert found.octets == zlib.decompress(b64decode(text))
    assert StatusList.decode(found.encode()) == found


def _fact(data: bytes) -> None:
    """In a certificate and by themselves: one spelling, which is written again."""
    if data[:1] == b"\x0c":
        written = Facts.from_extension(data).to_extension()
        assert isinstance(written, x509.UnrecognizedExtension)
        assert written.value == data
    else:
        assert Facts.decode(data).encode() == data


def _jwk(data: bytes) -> None:
    members = json.loads(data) if _is_json_object(data) else {}
    key = read_jwk(members)
    assert public_jwk(key) == members
    assert jwk_thumbprint(key)


def _is_json_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def _uri(data: bytes) -> None:
    """A normal form is its own."""
    normal = normal_uri(data.decode("latin-1"))
    assert normal_uri(normal) == normal


TARGETS = (
    Target("token", _token, _tokens, _WORDS),
    Target("proof", _proof, _proofs, _WORDS),
    Target("bundle", _bundle, _bundles, _WORDS),
    Target("bundle-delta", _delta, _deltas, _WORDS),
    Target("bundle-statement", _payload, _payloads, _WORDS),
    Target("time", _time, _times, _WORDS),
    Target("status-list", _status, lambda: [a.STATUS.encode().encode(), StatusList(bytes(70_000)).encode().encode()]),
    Target("facts", _fact, _facts, (b'"v":1', b'"lbl":{}', b"\x0c\x82"), limit=1100),
    Target("jwk", _jwk, lambda: [json.dumps(public_jwk(a.LEAF_KEY.public_key())).encode()], limit=512),
    Target(
        "uri",
        _uri,
        lambda: [b"https://shop.example.org/orders", b"https://[::1]:443/a/../%7eb?x#y"],
        (b"%2e%2e/", b"/./", b"//", b":443", b"%2F"),
        limit=2100,
    ),
)
