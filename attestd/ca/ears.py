"""Attestation results as signed JWTs: EARs (draft-ietf-rats-ear-03), verified with the published JWK set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attestd.ca.signer import TokenKey
from attestd.ca.tokens import TokenKeyNotCurrent
from attestd.credentials.jws import sign_jws
from attestd.protocol.encoding import write_object

# RFC 9782, section 6.1. Another type than an access token's, so that neither passes for the other.
EAR_TYP: Final = "eat+jwt"


def sign_ear(key: TokenKey, claims: Mapping[str, Any]) -> str:
    """The EAR with these claims, as a compact JWS (ES256). Raises TokenKeyNotCurrent."""
    if key.state != "current":
        raise TokenKeyNotCurrent(seen=key.state)
    return sign_jws({"kid": key.kid}, write_object(dict(claims)), typ=EAR_TYP, sign=key.key.sign)
