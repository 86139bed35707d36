"""Access tokens: JWTs after RFC 9068, signed with ES256, bound to a key or certificate (docs/protocol.md, section 4).

`credentials.tokens` reads them, and says what each claim means. A token carries the device's facts and the serial
number of the certificate that it stems from, and ends no later than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from attestd.ca.signer import TokenKey
from attestd.credentials.facts import Facts
from attestd.credentials.jws import sign_jws
from attestd.credentials.status import BITS, STATUS_LIST_TYP, StatusList
from attestd.credentials.tokens import TOKEN_TYP
from attestd.errors import Conflict, Misconfigured
from attestd.ids import Serial, SpiffeId
from attestd.protocol.encoding import write_object

_BINDINGS = ("x5t#S256", "jkt")


class TokenOutlivesCertificate(Conflict):
    """The token would end after the certificate that it stems from"""

    remedy = "Renew the certificate, then ask for the token again."


class TokenLifetimeExhausted(Conflict):
    """There is no lifetime left for a token"""

    remedy = "Attest again, then ask for the token again."


class TokenUnbound(Misconfigured):
    """A token must be bound to exactly one key or certificate"""

    remedy = "Report this: the service asked for a bearer token, which it must never do."


class TokenKeyNotCurrent(Misconfigured):
    """Only the current token key signs"""

    remedy = "Report this: the service signed with a token key that relying parties may not know."


def mint_token(
    key: TokenKey,
    *,
    issuer: str,
    subject: SpiffeId,
    audience: str,
    facts: Facts,
    certificate_serial: Serial,
    certificate_not_after: datetime,
    confirmation: Mapping[str, str],
    token_id: str,
    status_list: str,
    now: datetime,
    expires_at: datetime,
) -> str:
    """A signed token for one audience. `status_list`: the URI of the list that has the device's state.

    `confirmation` is `cnf`: x5t#S256 (RFC 8705, section 3.1) or jkt (RFC 9449, section 6.1), exactly one.
    Raises TokenUnbound, TokenKeyNotCurrent, TokenOutlivesCertificate, TokenLifetimeExhausted.
    """
    if len(confirmation) != 1 or not set(confirmation) <= set(_BINDINGS) or not all(confirmation.values()):
        raise TokenUnbound(seen=", ".join(sorted(confirmation)) or "nothing", expected=" or ".join(_BINDINGS))
    if key.state != "current":
        raise TokenKeyNotCurrent(seen=key.state)
    # Whole seconds, each cut so that the token is never valid for longer than was meant.
    issued_at, ends = int(now.timestamp()), int(expires_at.timestamp())
    if ends > certificate_not_after.timestamp():
        raise TokenOutlivesCertificate(
            seen=expires_at.isoformat(), expected=f"at most {certificate_not_after.isoformat()}"
        )
    if ends <= issued_at:
        raise TokenLifetimeExhausted(seen=expires_at.isoformat(), expected=f"after {now.isoformat()}")
    claims = {
        "iss": issuer,
        "sub": str(subject),
        "aud": audience,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": ends,
        "jti": token_id,
        "cnf": dict(confirmation),
        "srl": str(certificate_serial),
        "status": {"status_list": {"idx": facts.status_index, "uri": status_list}},
        "attestd": facts.to_members(),
    }
    return sign_jws({"kid": key.kid}, write_object(claims), typ=TOKEN_TYP, sign=key.key.sign)


def sign_status_list(
    key: TokenKey, status: StatusList, *, issuer: str, uri: str, now: datetime, ttl: timedelta, lifetime: timedelta
) -> str:
    """The states of all devices as a Status List Token (draft-ietf-oauth-status-list-21, section 5.1), for relying
    parties that know the service's JWK set and hold no bundle.

    `ttl`: for how long one may be kept before it is fetched again; `lifetime`: after which it says nothing any more.
    Raises TokenKeyNotCurrent.
    """
    if key.state != "current":
        raise TokenKeyNotCurrent(seen=key.state)
    issued_at = int(now.timestamp())
    claims = {
        "iss": issuer,
        "sub": uri,
        "iat": issued_at,
        "exp": issued_at + int(lifetime.total_seconds()),
        "ttl": int(ttl.total_seconds()),
        "status_list": {"bits": BITS, "lst": status.encode()},
    }
    return sign_jws({"kid": key.kid}, write_object(claims), typ=STATUS_LIST_TYP, sign=key.key.sign)
