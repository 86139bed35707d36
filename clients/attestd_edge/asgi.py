"""The edge before an ASGI application (ASGI 3.0, HTTP and WebSocket).

    from attestd_edge.asgi import EdgeMiddleware
    from attestd_edge.edge import Edge
    from attestd_edge.hop import CertificateSource

    edge = Edge.from_file("/etc/attestd-edge/edge.toml")
    app = EdgeMiddleware(app, edge, "field-to-munich", certificate_source=CertificateSource.TLS)

The application finds a VerifiedIdentity in `scope["attestd.identity"]` (in Starlette also as
`request.state.attestd_identity`), and no request comes to it without one. CertificateSource.TLS needs a server that
speaks ASGI's TLS extension (version 0.2: `client_cert_chain`).

The verdict is about the start of a request, so streams and WebSockets end at a maximum age (docs/protocol.md, 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import timedelta
from typing import Any

from attestd.policy import Boundary
from attestd_edge.decide import Request
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.hop import CertificateSource, Door, Headers, Hop, Peer, from_pem, is_reserved
from attestd_edge.labels import NOTHING, claims_of, labels_of
from attestd_edge.paths import encode_path
from attestd_edge.problems import Refusal
from attestd_edge.receipts.crossings import claimed_digest

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_AGE = timedelta(minutes=15)
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class EdgeMiddleware:
    """Lets the application see only what may cross `boundary`."""

    def __init__(
        self,
        app: App,
        edge: Edge,
        boundary: Boundary | str,
        *,
        certificate_source: CertificateSource | None = None,
        hop: Hop | None = None,
        labels: Callable[[Scope], Mapping[str, str]] | None = None,
        max_age: timedelta = MAX_AGE,
    ) -> None:
        """`labels` tells what data a request carries, beside the configured labels of a boundary named here; what it
        tells otherwise than they do is refused (labels.py).
        A stream or WebSocket ends after `max_age`, or when its credential does.

        Raises HopUnauthenticated for a certificate header without a hop, SettingsInvalid for an unknown boundary.
        """
        self._app = app
        self._edge = edge
        self._boundary = edge.boundary(boundary)
        self._door = Door(certificate_source, hop)
        self._guarded = edge.boundaries.get(boundary) if isinstance(boundary, str) else None
        self._told = labels
        self._max_age = max_age

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection scope. Types other than HTTP, WebSocket and lifespan are refused: nobody judged them."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise NotImplementedError(f"attestd does not judge ASGI scopes of type {scope['type']!r}")
        answer = await self._edge.admit_soon(self._boundary, lambda: self._read(scope))
        if isinstance(answer, Refusal):
            await _refuse(answer, scope, receive, send)
            return
        await self._go_on(answer, scope, receive, send)

    def _read(self, scope: Scope) -> Asked:
        headers, peer = read_headers(scope), read_peer(scope)
        told = self._told(scope) if self._told is not None else NOTHING
        scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
        query = scope.get("query_string", b"").decode("latin-1")
        # The path that the application will see, encoded again, so that policy judges the same one.
        target = encode_path(scope["path"].encode("utf-8", "surrogateescape")) + (f"?{query}" if query else "")
        request = Request(
            method=scope.get("method", "GET"),
            origin=f"{scheme}://{headers.one('host') or ''}",
            target=target,
            labels=labels_of(self._guarded, headers, door=self._door, peer=peer, told=told),
            claims=claims_of(headers),
        )
        return Asked(self._door.present(headers, peer), request, digest_claimed=claimed_digest(headers))

    async def _go_on(self, answer: Admitted, scope: Scope, receive: Receive, send: Send) -> None:
        inner = dict(scope)
        inner["headers"] = [
            (name, value) for name, value in scope["headers"] if not is_reserved(bytes(name).decode("latin-1"))
        ]
        inner["attestd.identity"] = answer.identity
        inner["attestd.request_id"] = answer.request_id
        inner["state"] = {**scope.get("state", {}), "attestd_identity": answer.identity}
        ours = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        accepted = closed = False

        async def send_on(message: Message) -> None:
            nonlocal accepted, closed
            if message["type"] in ("http.response.start", "websocket.accept"):
                accepted = True
                message = {**message, "headers": [*message.get("headers", []), *ours]}
            closed = closed or message["type"] == "websocket.close"
            await send(message)

        left = min(self._max_age, answer.identity.not_after - self._edge.store.clock.now())
        try:
            async with asyncio.timeout(left.total_seconds()) as limit:
                await self._app(inner, receive, send_on)
        except TimeoutError:
            if not limit.expired():
                raise  # the application's own
            if scope["type"] == "websocket" and accepted and not closed:
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "connection age"})
            # An HTTP answer that is cut here lacks its end, so the server breaks the connection: no client can take it
            # for a whole one.


def read_headers(scope: Scope) -> Headers:
    """The scope's headers, duplicates kept apart."""
    return Headers.of(
        (bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in scope["headers"]
    )


def read_peer(scope: Scope) -> Peer:
    """Who is at the other end, by what the server says; nothing here can be set by a request."""
    server = scope.get("server")
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return Peer(
        # ASGI, HTTP connection scope: a Unix socket's `server` is (path, None); and such a peer has no address.
        unix=server is not None and server[1] is None and not scope.get("client"),
        chain=tuple(from_pem(pem) for pem in tls.get("client_cert_chain") or ()),
    )


async def _refuse(answer: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode("ascii")))
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": answer.slug})
            return
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": answer.body})
