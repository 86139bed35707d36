"""What the device wants to reach: a small application, behind the edge's middleware, on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from attestd_edge.asgi import EdgeMiddleware
from attestd_edge.edge import Edge

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
BOUNDARY = "field-to-berlin"


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


class Upstream:
    """The application and the edge before it, in a thread of this process."""

    def __init__(self, edge: Edge, listener: socket.socket) -> None:
        self.edge = edge
        self._listener = listener
        application = EdgeMiddleware(readings, edge, BOUNDARY)
        config = uvicorn.Config(application, log_level="error", access_log=False)
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
