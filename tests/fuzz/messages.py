"""Messages of the protocol: base64url, JSON, signed envelopes, and what the service sealed. What is read writes the
same octets again, or the same meaning."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from attestd.ca.sealing import SealingKey, SealingKeys
from attestd.ids import EkHash, Serial, SpiffeId
from attestd.issuance.challenges import EnrollmentChallenge, RequestNonce
from attestd.protocol.encoding import b64decode, b64encode, read_object, write_object
from attestd.protocol.evidence import (
    CertifiedKey,
    Identification,
    IdentityKey,
    Lately,
    QuoteEvidence,
)
from attestd.protocol.messages import (
    AttestationRequest,
    BeginAnswer,
    BeginRequest,
    CompleteRequest,
    CredentialAnswer,
    EnrollmentEvidence,
    RenewalRequest,
    TokenAnswer,
    TokenRequest,
    WaitAnswer,
)
from attestd.protocol.signed import SignedEnvelope, sign_detached, sign_flattened
from attestd.tpm.activation import vet_ak
from attestd.tpm.endorsement import endorse_by_inventory
from tests import authority as a
from tests.forger import Forger
from tests.fuzz.harness import Target, once

_WORDS = (
    b'"v":1',
    b'"v":1.0',
    b'"v":true',
    b"{}",
    b"[]",
    b"null",
    b"1e999",
    b"-0",
    b"1" * 400,
    b'"\\ud800"',
    b'"\\u0000"',
    b"\xef\xbb\xbf",
    b"NaN",
    b"[[[[[[[[",
    b'{"a":{"a":{"a":',
    b"AAAA",
    b"_w",
    b"==",
)
_PCRS = {"sha256": {0: bytes(32), 7: b"\x07" * 32}}


def _entropy(count: int) -> bytes:
    return bytes(range(count))


@cache
def _tpm() -> Forger:
    return Forger()


@cache
def _keys() -> SealingKeys:
    return SealingKeys([SealingKey.fresh("current", _entropy)])


@cache
def _challenge() -> EnrollmentChallenge:
    return EnrollmentChallenge(
        id=bytes(16),
        endorsement=endorse_by_inventory(_tpm().ek.public, known=EkHash.of(_tpm().ek.public)),
        ak=vet_ak(_tpm().ak.public),
        secret=bytes(32),
        nonce=bytes(range(32)),
        pcrs={"sha256": (0, 7)},
        expires_at=1_800_000_000,
    )


def _quote() -> QuoteEvidence:
    return QuoteEvidence(*_tpm().quote(bytes(32), _PCRS), _PCRS)


def _certified() -> CertifiedKey:
    return CertifiedKey(_tpm().ck.public, *_tpm().certify(bytes(32)))


def _message(kind: type[Any]) -> Callable[[bytes], None]:
    """Parse, write, parse: the meaning stays. Not the octets: members may come in any order."""

    def run(data: bytes) -> None:
        read = kind.parse(data)
        assert kind.parse(read.to_bytes()) == read

    return run


def _seeds_of(make: Callable[[], Any]) -> Callable[[], list[bytes]]:
    @cache
    def seeds() -> list[bytes]:
        made = make()
        return [one.to_bytes() for one in (made if isinstance(made, list) else [made])]

    return seeds


_MESSAGES: tuple[tuple[str, type[Any], Callable[[], Any]], ...] = (
    (
        "begin-request",
        BeginRequest,
        lambda: [
            BeginRequest(
                ek_public=_tpm().ek.public, ek_certificates=(b"\x30\x00", b"\x30\x01\x00"), ak_public=_tpm().ak.public
            ),
            BeginRequest(_tpm().ek.public, _tpm().ak.public, iak=IdentityKey(_tpm().ak.public, (b"\x30\x00",))),
        ],
    ),
    (
        "begin-answer",
        BeginAnswer,
        lambda: BeginAnswer(
            id=bytes(16),
            challenge=b"c" * 64,
            credential_blob=b"b" * 80,
            secret=b"s" * 70,
            nonce=bytes(32),
            pcrs={"sha256": (0, 7)},
            wants=(),
            expires_in=300,
        ),
    ),
    ("complete-request", CompleteRequest, lambda: CompleteRequest(b"c" * 64, b"{}", bytes(32))),
    (
        "evidence",
        EnrollmentEvidence,
        lambda: [
            EnrollmentEvidence(_certified(), _quote()),
            EnrollmentEvidence(_certified(), _quote(), Identification(b"attest", b"signature")),
        ],
    ),
    (
        "attestation-request",
        AttestationRequest,
        lambda: [
            AttestationRequest(_quote()),
            AttestationRequest(_quote()._replace(eventlog=b"log", ima=b"list")),
            AttestationRequest(_quote()._replace(eventlog_sha256=bytes(32), ima=b"list", ima_from=3)),
        ],
    ),
    ("renewal-request", RenewalRequest, lambda: [RenewalRequest(), RenewalRequest(_certified())]),
    ("token-request", TokenRequest, lambda: TokenRequest("edge", "dpop")),
)


def _base64(data: bytes) -> None:
    """One spelling for each value, and the library's own."""
    text = data.decode("latin-1")
    octets = b64decode(text)
    assert b64encode(octets) == text
    assert base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == octets


def _json(data: bytes) -> None:
    """What is read, Python's own reader reads alike, and it can be written and read again."""
    found = read_object(data, limit=65536)
    assert json.loads(data) == found
    assert read_object(write_object(found), limit=10 * 65536) == found


def _flattened(data: bytes) -> None:
    envelope = SignedEnvelope.parse_flattened(data, limit=65536)
    outer = json.loads(data)
    assert envelope.signing_input.decode() == f"{outer['protected']}.{outer['payload']}"
    assert b64encode(envelope.unverified_payload) == outer["payload"]


def _detached(data: bytes) -> None:
    authorization, _, body = data.partition(b"\n")
    envelope = SignedEnvelope.parse_detached(authorization.decode("latin-1"), body)
    assert envelope.unverified_payload == body


@once
def _flattened_seeds() -> list[bytes]:
    said: dict[str, Any] = {"sign": a.es256(a.LEAF_KEY), "alg": "ES256", "kid": "device-1", "nonce": bytes(45)}
    return [sign_flattened(b'{"v":1}', url="https://attestd.example/v1/renewals", **said)]


@once
def _detached_seeds() -> list[bytes]:
    said: dict[str, Any] = {"sign": a.es256(a.LEAF_KEY), "alg": "ES256", "kid": "thumb", "nonce": bytes(45)}
    url = "https://attestd.example/v1/admin/overview"
    return [sign_detached(body, method="GET", url=url, **said).encode() + b"\n" + body for body in (b"", b'{"v":1}')]


def _sealed(data: bytes) -> None:
    """Of all octets that there are, only those that were sealed are opened, each for its own purpose."""
    challenge = EnrollmentChallenge.open(data, _keys())
    assert data == _sealed_seeds()[0]
    assert challenge.id == bytes(16)


@once
def _sealed_seeds() -> list[bytes]:
    return [_challenge().seal(_keys(), _entropy)]


def _nonce(data: bytes) -> None:
    nonce = RequestNonce.open(data, _keys())
    assert data == _nonce_seeds()[0]
    nonce.require_alive(a.NOW)


@once
def _nonce_seeds() -> list[bytes]:
    return [RequestNonce.fresh(a.NOW, timedelta(minutes=5), _entropy).seal(_keys(), _entropy)]


def _names(data: bytes) -> None:
    """Names in identities: one spelling each, which is what was read."""
    kind, text = data[:1], data[1:].decode("latin-1")
    if kind == b"s":
        assert str(SpiffeId.parse(text)) == text
    elif kind == b"n":
        assert str(Serial.parse(text)) == text.lower().zfill(40)
    else:
        assert EkHash.parse(text).hex() == text.lower()


@once
def _name_seeds() -> list[bytes]:
    return [b"s" + a.BIKE.encode(), b"n" + str(Serial(77)).encode(), b"e" + b"ab" * 32]


def _answers(data: bytes) -> None:
    """What the service answers, as a client reads it."""
    kind = {b"c": CredentialAnswer, b"w": WaitAnswer, b"t": TokenAnswer}.get(data[:1], WaitAnswer)
    read = kind.parse(data[1:])
    assert kind.parse(read.to_bytes()) == read


@once
def _answer_seeds() -> list[bytes]:
    return [
        b"c"
        + CredentialAnswer(
            device_id="device-1",
            spiffe_id=a.BIKE,
            chain="-----BEGIN",
            result={"status": 2},
            renew_after=5,
            expires_in=10,
            ear="a.b.c",
            lately=Lately(bytes(32), 3),
        ).to_bytes(),
        b"w" + WaitAnswer("pending", 30, {}).to_bytes(),
        b"w" + WaitAnswer("quarantined", 30, {}, "a.b.c", Lately(bytes(32), 3)).to_bytes(),
        b"t" + TokenAnswer("a.b.c", 300).to_bytes(),
    ]


TARGETS = (
    Target("base64", _base64, lambda: [b"", b"AA", b"-_8", b"AAAA"], limit=256),
    Target("json", _json, lambda: [b"{}", b'{"a":[1,2.5,"x",null,true,{"b":"\\u00e9"}]}'], _WORDS),
    *(Target(name, _message(kind), _seeds_of(make), _WORDS) for name, kind, make in _MESSAGES),
    Target("answers", _answers, _answer_seeds, _WORDS),
    Target("signed-request", _flattened, _flattened_seeds, _WORDS),
    Target("signed-call", _detached, _detached_seeds, (*_WORDS, b"Attestd ", b"..")),
    Target("sealed-challenge", _sealed, _sealed_seeds),
    Target("sealed-nonce", _nonce, _nonce_seeds, limit=256),
    Target("names", _names, _name_seeds, (b"spiffe://", b"/", b"%2e", b".."), limit=512),
)
