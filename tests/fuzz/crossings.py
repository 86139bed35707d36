"""What else reaches an edge and its operator: nats-server's questions, bundles' messages, labels of data, recorded
decisions.
"""

from __future__ import annotations

import base64
import binascii
import json
from functools import cache
from types import MappingProxyType

from nacl.public import PrivateKey

from attestd.broker.messages import BundleMessage, Whole, order
from attestd.broker.nkeys import Kind, SigningKey, read_public, write_public, write_seed
from attestd.ids import Site, Tier
from attestd.policy import Boundary, Crossing, default_policy
from attestd.policy.recorded import Recorded, record
from attestd.policy.situations import Situation
from attestd_edge.decide import Presented, Request, judge
from attestd_edge.labels import parse_dictionary
from attestd_edge.nats.nkeys import CurveKey, read_jwt
from attestd_edge.nats.request import MAX_REQUEST, read_request
from attestd_edge.views import View
from tests import authority as a
from tests.fuzz.harness import Target, once
from tests.nats_asker import SERVER, Asker, b64, key_text

_CHAIN = (a.leaf(), a.ISSUER.der)
_BOUNDARY = Boundary("gate", Tier.DEVICE, Site("munich"), Tier.EDGE, Site("munich"))
_LABELS = MappingProxyType({"residency": "EU"})


@cache
def _keys() -> tuple[CurveKey, SigningKey, Asker]:
    sealing = CurveKey.from_seed(write_seed(Kind.CURVE, bytes(PrivateKey(b"c" * 32))))
    issuer = SigningKey.from_seed(write_seed(Kind.ACCOUNT, b"i" * 32), Kind.ACCOUNT)
    return sealing, issuer, Asker(ours=sealing.public, issuer=issuer.public)


# ---- Seeds ---------------------------------------------------------------------------------------------------------


@once
def _claims() -> list[bytes]:
    asker = _keys()[2]
    token = {"connect_opts__jwt": a.token(), "connect_opts__sig": "c2ln"}
    asked = [asker.claims(chain=_CHAIN), asker.claims(**token), asker.claims(client_info__kind="Leafnode")]
    return [json.dumps(one).encode() for one in asked]


@once
def _sealed() -> list[bytes]:
    return [_keys()[2].ask(chain=_CHAIN)]


@once
def _jwts() -> list[bytes]:
    asker = _keys()[2]
    return [asker.jwt(asker.claims()).encode()]


@once
def _messages() -> list[bytes]:
    proofs = {(2, 80, 90): (b"\x01" * 32, b"\x02" * 32), (2, 85, 90): ()}
    told = BundleMessage("2.6", "2.5", Whole("2.1", 17), b"", proofs)
    return ["\n".join(f"{name}: {value}" for name, value in one.headers().items()).encode() for one in (told, told)]


@once
def _lines() -> list[bytes]:
    view = View.of(a.bundle(policy=default_policy()), pinned=(a.ROOT.der,))
    asked = Request("GET", "https://shop.example.org", "/orders?page=2", _LABELS)
    verdict = judge(view, boundary=_BOUNDARY, presented=Presented(_CHAIN), request=asked, tokens=None, now=a.NOW)
    crossing = Crossing(_BOUNDARY, "GET", "/orders", _LABELS, _LABELS)
    told = record(Situation.of(verdict.identity, crossing, a.NOW), verdict.decision)
    return [json.dumps({"request_id": "0a", "spiffe_id": a.BIKE, **told}).encode()]


# ---- What the targets do -------------------------------------------------------------------------------------------


def _question(data: bytes) -> None:
    """Claims of anybody's making that a nats-server signed and sealed: what is taken is of this server, to us."""
    sealing, issuer, asker = _keys()
    text = _signing_input(data)
    sealed = asker.seal(f"{text}.{b64(asker.key.sign(text.encode()))}".encode())
    asked = read_request(sealed, sender=asker.xkey, ours=sealing, issuer=issuer.public, wall=a.NOW)
    claims = json.loads(data)
    assert (claims["iss"], claims["sub"]) == (asked.server, issuer.public) == (asker.id, issuer.public)
    assert claims["exp"] >= a.NOW.timestamp()
    assert read_public(asked.user, Kind.USER)
    assert asked.kind in ("STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS")
    assert isinstance(asked.connection, int)


def _signing_input(claims: bytes) -> str:
    return f"{b64(json.dumps({'typ': 'JWT', 'alg': 'ed25519-nkey'}).encode())}.{b64(claims)}"


def _unsealed(data: bytes) -> None:
    """A message as it comes: only the one that this server sealed is taken."""
    sealing, issuer, asker = _keys()
    read_request(data, sender=asker.xkey, ours=sealing, issuer=issuer.public, wall=a.NOW)
    assert data in _sealed()


def _jwt(data: bytes) -> None:
    named, claims = read_jwt(data.decode("latin-1"), issuer=Kind.SERVER, limit=MAX_REQUEST)
    assert (named, claims.text("sub")) == (_keys()[2].id, _keys()[1].public)


def _nkey(data: bytes) -> None:
    """As the standard library reads it, and in one spelling."""
    text = data.decode("latin-1")
    found = read_public(text, Kind.SERVER)
    whole = base64.b32decode(text)
    assert whole[1:33] == found
    assert whole[33:] == binascii.crc_hqx(whole[:33], 0).to_bytes(2, "little")
    assert write_public(Kind.SERVER, found) == text


def _message(data: bytes) -> None:
    headers = dict(line.partition(": ")[::2] for line in data.decode("utf-8", "replace").split("\n"))
    told = BundleMessage.read(headers, b"{}")
    assert order(told.name) >= (0, 0)
    assert BundleMessage.read(told.headers(), told.content) == told


def _labels(data: bytes) -> None:
    """What is taken means the same when it is written plainly; no label is lost, and none is added."""
    text = data.decode("latin-1")
    found = parse_dictionary(text)
    assert text.count('="') >= len(found)
    plain = ", ".join(f'{name}="{value.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34))}"'
                      for name, value in found.items())  # fmt: skip
    assert parse_dictionary(plain) == found


def _decision(data: bytes) -> None:
    """What is read can be written and read again, as the same situation."""
    found = Recorded.read(data)
    again = {**json.loads(data), "attempt": found.situation.to_members()}
    assert Recorded.read(json.dumps(again).encode()) == found


TARGETS = (
    Target("nats-claims", _question, _claims, (b'"nats":{', b'"exp":', b"1e999", b"null", b'"client_tls"', b"[[]]")),
    Target("nats-sealed", _unsealed, _sealed, (b"xkv1",)),
    Target("nats-jwt", _jwt, _jwts, (b".", b"=", b"..")),
    Target("nkey", _nkey, lambda: [key_text(SERVER, bytes(range(32))).encode()], (b"A", b"7", b"="), limit=128),
    Target("bundle-message", _message, _messages, (b"\nAttestd-Base: ", b'"from":[', b"2.5", b"Attestd-Next: 0")),
    Target(
        "data-labels", _labels, lambda: [b'residency="EU", origin-site="mu\\"nich"'], (b'="', b'", ', b"\\"), limit=4200
    ),
    Target("recorded-decision", _decision, _lines, (b'"attempt":{', b'"allow"', b"null", b"-1")),
)
