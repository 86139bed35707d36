"""The edge as an answer to a reverse proxy's question: may this request go on? (nginx's auth_request and its like)

- `GET /auth/<boundary>`, or `/auth` where only one is configured. The hop describes the request in X-Forwarded-Method,
  -Proto, -Host and -Uri, once each, and the client's certificate in the configured header; where the boundary says so,
  the data's labels in Attestd-Labels, too. The client's own Data-Labels are its claims, and no more. 200 with the
  identity in headers, or 401, 403, 503 with a problem document.
- `/envoy/<boundary>/…`, where Envoy is the hop: its HTTP mode (envoy/http_mode.py).
- `GET /healthz`: the process answers. `GET /readyz`: it can decide; 503 while it has no fresh bundle.
- `GET /metrics`: Prometheus.

Everything here believes its peer, so it must be served on a listener that only the hop can reach: `listen` opens those.
"""

from __future__ import annotations

import asyncio
import json

from attestd_edge import metrics
from attestd_edge.asgi import Receive, Scope, Send, read_headers, read_peer
from attestd_edge.decide import Request
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.envoy.http_mode import PREFIX, HttpMode
from attestd_edge.hop import CertificateSource, Door, Headers, HopIncomplete, OnlyPeerHop
from attestd_edge.labels import claims_of, labels_of
from attestd_edge.problems import MEDIA_TYPE, URN
from attestd_edge.receipts.crossings import claimed_digest
from attestd_edge.settings import Guarded, Settings, SettingsInvalid

_AUTH = "/auth"


class ForwardAuth:
    """The ASGI application."""

    def __init__(self, edge: Edge, settings: Settings) -> None:
        """Raises SettingsInvalid without a boundary."""
        if not settings.boundaries:
            raise SettingsInvalid("There is no boundary to guard.", expected="at least one [[boundary]]")
        self._edge = edge
        self._door = Door(CertificateSource(settings.certificate_header), OnlyPeerHop())
        self._envoy = (
            HttpMode(edge, settings.boundaries) if settings.certificate_header is CertificateSource.ENVOY else None
        )
        self._routes = {f"{_AUTH}/{name}": guarded for name, guarded in settings.boundaries.items()}
        if len(settings.boundaries) == 1:
            self._routes[_AUTH] = next(iter(settings.boundaries.values()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, headers, body = self._answer(scope)
            headers = [*headers, ("Content-Length", str(len(body)))]
            raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": body})
        else:
            await receive()  # websocket.connect: nothing is asked over WebSockets here
            await send({"type": "websocket.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        self._edge.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await asyncio.to_thread(self._edge.stop)
        await send({"type": "lifespan.shutdown.complete"})

    def _answer(self, scope: Scope) -> tuple[int, list[tuple[str, str]], bytes]:
        path = scope["path"]
        if self._envoy is not None and path.startswith(PREFIX):
            target = (scope["raw_path"] + (b"?" if scope["query_string"] else b"") + scope["query_string"]).decode()
            return self._envoy.answer(scope["method"], target, lambda: read_headers(scope))
        if (guarded := self._routes.get(path)) is not None:
            return self._judge(scope, guarded)
        if path == "/healthz":
            return _json(200, {"status": "alive"})
        if path == "/readyz":
            ready, why = self._edge.readiness()
            return _json(200 if ready else 503, {"status": "ready" if ready else "not ready", "detail": why})
        if path == "/metrics":
            return 200, [("Content-Type", metrics.MEDIA_TYPE)], self._edge.metrics.text()
        # Not 404: a reverse proxy that asks at the wrong place must refuse, and some take a 404 for an upstream's.
        document = {"type": f"{URN}no-such-boundary", "title": "No such boundary is configured here", "status": 403}
        return 403, [("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store")], json.dumps(document).encode()

    def _judge(self, scope: Scope, guarded: Guarded) -> tuple[int, list[tuple[str, str]], bytes]:
        answer = self._edge.admit(guarded.boundary, lambda: self._read(scope, guarded))
        if not isinstance(answer, Admitted):
            return answer.status, list(answer.headers), answer.body
        identity = answer.identity
        headers = [
            ("Attestd-Identity", str(identity.spiffe_id)),
            ("Attestd-Tier", identity.tier.value),
            ("Attestd-Site", str(identity.site)),
            ("Attestd-Device", str(identity.device_id)),
            ("Attestd-Credential", identity.kind),
            ("Attestd-Boundary", guarded.boundary.name),
            ("Attestd-Request-Id", answer.request_id),
            ("Cache-Control", "no-store"),
        ]
        return 200, [*headers, *answer.headers], b""

    def _read(self, scope: Scope, guarded: Guarded) -> Asked:
        headers, peer = read_headers(scope), read_peer(scope)
        request = Request(
            method=_told(headers, "x-forwarded-method"),
            origin=f"{_told(headers, 'x-forwarded-proto')}://{_told(headers, 'x-forwarded-host')}",
            target=_told(headers, "x-forwarded-uri"),
            labels=labels_of(guarded, headers, door=self._door, peer=peer),
            claims=claims_of(headers),
        )
        return Asked(self._door.present(headers, peer), request, headers.one("x-request-id"), claimed_digest(headers))


def _told(headers: Headers, name: str) -> str:
    """What the hop must say exactly once. Raises HopIncomplete or HeaderDuplicated."""
    value = headers.one(name)
    if not value:
        raise HopIncomplete(f"The reverse proxy did not send {name}.")
    return value


def _json(status: int, members: dict[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
    return status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], json.dumps(members).encode()
