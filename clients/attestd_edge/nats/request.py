"""nats-server's question about one connection, and our answer (NATS ADR-26).

What makes the question the server's own: it is sealed to our curve key, signed by the key that is the server's id, and
comes on a subject of the callout's own account, where nats-server lets nobody publish it. What makes the answer ours:
the account key's signature. It is for one question: the user key in it was made for that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from attestd.broker.nkeys import Kind, SigningKey, read_public
from attestd.credentials.dpop import MAX_PROOF
from attestd.credentials.tokens import MAX_TOKEN
from attestd.errors import MalformedInput, Unauthenticated
from attestd.protocol.encoding import MalformedJson, Members, b64encode
from attestd_edge.hop import from_pem
from attestd_edge.nats.nkeys import CurveKey, read_jwt

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
XKEY_HEADER: Final = "Nats-Server-Xkey"
MAX_REQUEST = 128 * 1024  # octets
MAX_CHAINS, MAX_LINKS = 4, 6
MAX_CERTIFICATE = 16 * 1024  # characters
_AUDIENCE: Final = "nats-authorization-request"
_SKEW = timedelta(seconds=60)


class RequestNotOurs(Unauthenticated):
    """This question is not one that nats-server asks of this service"""

    remedy = "Let nats-server's auth_callout name this service's issuer, account and xkey (docs/nats.md)."


class RequestTooOld(Unauthenticated):
    """nats-server does not wait for this answer any more"""

    remedy = "Give the service more of the processor, or nats-server's authorization.timeout more time."


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """What nats-server tells about a connection that wants to log in. The server's word is proven, the rest is said.

    `chain` is the TLS layer's, verified by the server (DER, leaf first); `token` and `proof` came from the client, and
    `nonce` is the server's challenge to this very connection.
    """

    server: str
    server_xkey: str
    user: str
    connection: int
    kind: str
    host: str
    nonce: str
    chain: tuple[bytes, ...]
    token: str | None = field(repr=False)
    proof: str | None = field(repr=False)


def read_request(data: bytes, *, sender: str | None, ours: CurveKey, issuer: str, wall: datetime) -> LoginRequest:
    """`sender`: the curve key in the message's header. Raises MalformedInput, InputTooLarge or Unauthenticated.

    `wall` is the system's time, by which nats-server wrote the question's dates a moment ago: the edge's own time may
    be far ahead where the system's was set back, and no question would be young enough.
    """
    if not sender:
        raise RequestNotOurs("The question came unsealed.", expected=f"a header {XKEY_HEADER}")
    opened = ours.open(data[: MAX_REQUEST + 1], sender=sender)
    text = opened.decode("ascii", "replace")
    server, claims = read_jwt(text, issuer=Kind.SERVER, limit=MAX_REQUEST)
    if (seen := (claims.text("aud"), claims.text("sub"))) != (_AUDIENCE, issuer):
        raise RequestNotOurs(seen=repr(seen)[:160], expected=f"{_AUDIENCE}, {issuer}")
    asked = claims.object("nats")
    if (kind := asked.text("type")) != "authorization_request":
        raise RequestNotOurs(seen=repr(kind[:40]), expected="authorization_request")
    expires, issued = claims.integer("exp"), claims.integer("iat")
    if wall.timestamp() > expires:
        raise RequestTooOld(seen=wall, expected=f"until {expires}")
    if issued > (wall + _SKEW).timestamp():
        raise RequestNotOurs("The question is from the future.", seen=issued, expected=f"at most {wall + _SKEW}")
    told = asked.object("server_id")
    if (seen := (told.text("id"), told.text("xkey"))) != (server, sender):
        raise RequestNotOurs("The question's keys are not its server's.", seen=repr(seen)[:160])
    user = asked.text("user_nkey", limit=64)
    read_public(user, Kind.USER)
    client, options = asked.object("client_info"), asked.object("connect_opts")
    return LoginRequest(
        server=server,
        server_xkey=sender,
        user=user,
        connection=client.integer("id"),
        kind=_kind(client),
        host=_text(client, "host", 256) or "",
        nonce=_text(client, "nonce", 64) or "",
        chain=_chain(asked),
        token=_token(options),
        proof=_text(options, "sig", 2 * MAX_PROOF),
    )


def _text(members: Members, name: str, limit: int) -> str | None:
    return (members.text(name, limit=limit) or None) if name in members else None


def _kind(client: Members) -> str:
    """The connection's kind as user JWTs spell it. MQTT has no room for a proof, so it is not offered."""
    kind, spoken = client.text("kind"), _text(client, "type", 32) or "nats"
    found = {
        ("Client", "nats"): "STANDARD",
        ("Client", "websocket"): "WEBSOCKET",
        ("Leafnode", "nats"): "LEAFNODE",
        ("Leafnode", "websocket"): "LEAFNODE_WS",
    }.get((kind, spoken))
    if found is None:
        raise MalformedJson("Connections of this kind do not log in here.", seen=f"{kind[:20]!r}, {spoken!r}")
    return found


def _token(options: Members) -> str | None:
    """As NATS clients send a JWT, or as a token; both would be a contradiction."""
    found = [text for name in ("jwt", "auth_token") if (text := _text(options, name, MAX_TOKEN)) is not None]
    if len(found) > 1:
        raise MalformedJson("The token came in two ways.", expected="jwt or auth_token")
    return found[0] if found else None


def _chain(asked: Members) -> tuple[bytes, ...]:
    """The certificates that the server verified. With several ways up, all are of one leaf, and the first will do."""
    if "client_tls" not in asked:
        return ()
    tls = dict(asked.object("client_tls").items())
    if tls.get("certs"):
        raise RequestNotOurs(
            "nats-server did not verify the client's certificate.", expected="tls.verify with the service's root"
        )
    chains = tls.get("verified_chains")
    if not chains:
        return ()
    if not isinstance(chains, list) or len(chains) > MAX_CHAINS:
        raise MalformedJson("client_tls.verified_chains is no short list.", expected=f"at most {MAX_CHAINS}")
    read = [_links(chain) for chain in chains]
    if len({chain[0] for chain in read}) != 1:
        raise MalformedJson("The verified chains are of several certificates.")
    return read[0]


def _links(chain: object) -> tuple[bytes, ...]:
    if not isinstance(chain, Sequence) or isinstance(chain, str) or not 1 <= len(chain) <= MAX_LINKS:
        raise MalformedJson("A verified chain is no short list.", expected=f"1 to {MAX_LINKS} certificates")
    if not all(isinstance(pem, str) and len(pem) <= MAX_CERTIFICATE for pem in chain):
        raise MalformedJson("A verified chain holds something else than certificates.")
    try:
        return tuple(from_pem(pem) for pem in chain)
    except Unauthenticated as error:
        raise MalformedInput(f"A verified chain can't be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Permissions:
    """The subjects of one connection, as its user JWT lists them."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def members(self) -> dict[str, Any]:
        """For a user JWT. No subject at all is written as a denial of all: NATS reads an empty list as no limit."""
        return {"pub": _subjects(self.publish), "sub": _subjects(self.subscribe)}


def _subjects(allowed: tuple[str, ...]) -> dict[str, list[str]]:
    return {"allow": list(allowed)} if allowed else {"deny": [">"]}


def user_jwt(
    asked: LoginRequest,
    *,
    account: str,
    name: str,
    permissions: Permissions,
    now: datetime,
    until: datetime,
    key: SigningKey,
    entropy: Callable[[int], bytes],
) -> str:
    """The connection's leave, for this connection alone, until `until` and no later."""
    return key.jwt(
        {
            "jti": b64encode(entropy(16)),
            "iat": int(now.timestamp()),
            "exp": int(until.timestamp()),
            "sub": asked.user,
            "aud": account,
            "name": name,
            "nats": {
                **permissions.members(),
                "subs": -1,
                "data": -1,
                "payload": -1,
                "allowed_connection_types": [asked.kind],
                "type": "user",
                "version": 2,
            },
        }
    )


def write_answer(
    asked: LoginRequest,
    said: Mapping[str, str],
    *,
    now: datetime,
    key: SigningKey,
    ours: CurveKey,
    entropy: Callable[[int], bytes],
) -> bytes:
    """The answer, sealed: `said` is `{"jwt": …}` or `{"error": …}`, which goes to the server's log and no further."""
    answer = key.jwt(
        {
            "jti": b64encode(entropy(16)),
            "iat": int(now.timestamp()),
            "sub": asked.user,
            "aud": asked.server,
            "nats": {**said, "type": "authorization_response", "version": 2},
        }
    )
    return ours.seal(answer.encode(), recipient=asked.server_xkey, entropy=entropy)
