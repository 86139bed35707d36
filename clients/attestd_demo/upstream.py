"""What the device wants to reach: a small application, behind the edge's middleware, on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import uvicorn

from attestd_edge.asgi import EdgeMiddleware
from attestd_edge.edge import Edge

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Callable[[], Awaitable[Any]], Send], Awaitable[None]]
BOUNDARY = "field-to-berlin"
ONWARD = "berlin-to-the-cloud"


async def readings(scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
    """Answers with what it knows of its caller: a typed identity, proven by the middleware in front."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    identity = scope["attestd.identity"]
    said = {"hello": str(identity.spiffe_id), "tier": identity.tier.value, "site": str(identity.site)}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


def passing_on(cloud: str) -> Application:
    """The site's application: answers itself, and passes on to the cloud what comes with a proof for the cloud.

    The device makes that proof: nobody on the way could, and the cloud's edge judges the device, not this site.
    """

    async def application(scope: Scope, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        told = dict(scope["headers"]) if scope["type"] == "http" else {}
        proof = told.get(b"onward-dpop")
        if scope.get("path") != "/onward":
            await readings(scope, receive, send)
            return
        headers = {} if proof is None else {"DPoP": proof, "Authorization": told[b"authorization"]}
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{cloud}/readings", headers=headers)
        passed = [(b"content-type", answer.headers["Content-Type"].encode())]
        if nonce := answer.headers.get("DPoP-Nonce"):
            passed.append((b"onward-nonce", nonce.encode()))
        await send({"type": "http.response.start", "status": answer.status_code, "headers": passed})
        await send({"type": "http.response.body", "body": answer.content})

    return application


class Upstream:
    """An application and the edge before it, in a thread of this process."""

    def __init__(self, edge: Edge, listener: socket.socket, application: Application, boundary: str) -> None:
        self.edge = edge
        self._listener = listener
        config = uvicorn.Config(EdgeMiddleware(application, edge, boundary), log_level="error", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)

    def start(self) -> None:
        """Listens from now on."""
        self.edge.start()
        self._thread.start()

    def close(self) -> None:
        """Ends the application and the edge's refreshing."""
        self._server.should_exit = True
        self._thread.join(5)
        self.edge.stop()
        self._listener.close()
