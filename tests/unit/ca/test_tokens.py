"""Tokens: what is minted is what the product's own verifier, and PyJWT, read; what must not be minted is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest

from attestd.ca.hierarchy import Hierarchy, jwks
from attestd.ca.tokens import (
    TokenKeyNotCurrent,
    TokenLifetimeExhausted,
    TokenOutlivesCertificate,
    TokenUnbound,
    mint_token,
)
from attestd.credentials.tokens import TokenExpired, verify_token
from attestd.ids import Serial, SpiffeId
from attestd.protocol.encoding import b64encode

from .conftest import DOMAIN, FACTS, NOW

ISSUER, AUDIENCE = "https://attestd.example.org", "https://upstream.example.org"
SUBJECT = SpiffeId.parse("spiffe://example.org/device/berlin/d1")
SERIAL = Serial(0xABCDEF)
THUMBPRINT = b64encode(b"t" * 32)


def mint(hierarchy: Hierarchy, **changes: Any) -> str:
    good: dict[str, Any] = {
        "key": hierarchy.token_key,
        "issuer": ISSUER,
        "subject": SUBJECT,
        "audience": AUDIENCE,
        "facts": FACTS,
        "certificate_serial": SERIAL,
        "certificate_not_after": NOW + timedelta(minutes=30),
        "confirmation": {"jkt": THUMBPRINT},
        "token_id": "token-id-1",
        "status_list": "https://attestd.example.org/v1/status-list",
        "now": NOW,
        "expires_at": NOW + timedelta(minutes=10),
    }
    return mint_token(**good | changes)


@pytest.mark.parametrize("binding", ["x5t#S256", "jkt"])
def test_the_products_own_verifier_reads_it(hierarchy: Hierarchy, binding: str) -> None:
    token = mint(hierarchy, confirmation={binding: THUMBPRINT})
    keys = {key.kid: key.key.public_key for key in hierarchy.token_keys}

    def verify(now: datetime) -> Any:
        return verify_token(token, keys=keys, issuer=ISSUER, audience=AUDIENCE, trust_domain=DOMAIN, now=now)

    verified = verify(NOW)
    assert (verified.spiffe_id, verified.facts, verified.certificate_serial) == (SUBJECT, FACTS, SERIAL)
    assert (verified.jti, verified.binding, verified.thumbprint) == ("token-id-1", binding, THUMBPRINT)
    assert verified.not_after == NOW + timedelta(minutes=10)
    with pytest.raises(TokenExpired):
        verify(NOW + timedelta(minutes=10))


def test_another_library_reads_it(hierarchy: Hierarchy) -> None:
    token = mint(hierarchy)
    key = jwt.PyJWKSet.from_dict(jwks(hierarchy))[hierarchy.token_key.kid]
    found = jwt.decode_complete(
        token,
        key.key,
        algorithms=["ES256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )
    assert found["header"] == {"alg": "ES256", "typ": "at+jwt", "kid": hierarchy.token_key.kid}
    now = int(NOW.timestamp())
    assert found["payload"] == {
        "iss": ISSUER,
        "sub": str(SUBJECT),
        "aud": AUDIENCE,
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "jti": "token-id-1",
        "cnf": {"jkt": THUMBPRINT},
        "srl": str(SERIAL),
        "status": {"status_list": {"idx": FACTS.status_index, "uri": "https://attestd.example.org/v1/status-list"}},
        "attestd": FACTS.to_members(),
    }


def test_a_token_ends_with_its_certificate_at_the_latest(hierarchy: Hierarchy) -> None:
    ends = NOW + timedelta(minutes=10)
    mint(hierarchy, certificate_not_after=ends)
    with pytest.raises(TokenOutlivesCertificate):
        mint(hierarchy, certificate_not_after=ends - timedelta(seconds=1))


def test_a_token_has_a_lifetime(hierarchy: Hierarchy) -> None:
    mint(hierarchy, expires_at=NOW + timedelta(seconds=1))
    for ends in (NOW, NOW + timedelta(milliseconds=999), NOW - timedelta(seconds=1)):
        with pytest.raises(TokenLifetimeExhausted):
            mint(hierarchy, expires_at=ends)


@pytest.mark.parametrize(
    "confirmation",
    [{}, {"x5t#S256": "a", "jkt": "b"}, {"kid": "a"}, {"jkt": ""}],
    ids=["none", "two", "another", "empty"],
)
def test_there_is_no_bearer_token(hierarchy: Hierarchy, confirmation: dict[str, str]) -> None:
    with pytest.raises(TokenUnbound):
        mint(hierarchy, confirmation=confirmation)


def test_only_the_current_key_signs(hierarchy: Hierarchy) -> None:
    with pytest.raises(TokenKeyNotCurrent):
        mint(hierarchy, key=hierarchy.token_keys[1])
