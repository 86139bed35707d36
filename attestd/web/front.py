"""The front: takes a request in whole, within bounds of size, time and memory, before any worker thread hears of it.

The WSGI server underneath has no limit on how slowly a body may arrive, and one thread for each that does (docs/adr/
has the measurement). So it is used as an ASGI server, and this adapter collects each body on the event loop, where a
slow one costs a buffer and no thread, then runs the WSGI application in a bounded pool.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker process takes in. Sizes in octets, times in seconds."""

    body: int = 13 * 1024 * 1024
    body_time: float = 30.0
    in_flight: int = 256 * 1024 * 1024  # all bodies together
    waiting: int = 256  # requests that wait for a thread or run in one
    large_at_once: int = 2  # bodies beyond `body`, so that strangers can't fill `in_flight` with them
    # Paths that may send more than `body`.
    larger: tuple[tuple[str, int], ...] = (("/v1/admin/devices/import", 64 * 1024 * 1024),)

    def of(self, path: str) -> int:
        """The limit for one path's body."""
        return next((limit for prefix, limit in self.larger if path == prefix), self.body)


class _Refused(Exception):
    """Answered here, before the application."""

    def __init__(self, status: HTTPStatus, slug: str, detail: str, retry_after: int = 0) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail, self.retry_after = status, slug, detail, retry_after


class Front:
    """An ASGI application around a WSGI one."""

    def __init__(self, application: WSGIApplication, *, threads: int, limits: Limits | None = None) -> None:
        self._application = application
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="attestd")
        self._limits = limits or Limits()
        self._in_flight = 0
        self._waiting = 0
        self._large = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            status, headers, content = await self._answer(scope, receive)
        except TimeoutError:
            refusal = _Refused(HTTPStatus.REQUEST_TIMEOUT, "request-too-slow", "The request took too long to arrive.")
            status, headers, content = _problem(refusal)
        except _Refused as refusal:
            status, headers, content = _problem(refusal)
        except ConnectionError:
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        if self._waiting >= self._limits.waiting:
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "Too many requests at once.", 2)
        taken = 0
        large = False
        self._waiting += 1
        try:
            body = bytearray()
            async with asyncio.timeout(self._limits.body_time):
                async for chunk in self._chunks(scope, receive):
                    body += chunk
                    taken += len(chunk)
                    self._in_flight += len(chunk)
                    if not large and taken > self._limits.body:
                        if self._large >= self._limits.large_at_once:
                            raise _Refused(
                                HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "Too many large bodies at once.", 5
                            )
                        large = True
                        self._large += 1
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._run, _environ(scope, bytes(body)))
        finally:
            self._waiting -= 1
            self._in_flight -= taken
            self._large -= large

    async def _chunks(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        limit = self._limits.of(scope["path"])
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or int(declared[:20]) > limit:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "input-too-large", f"The body may have at most {limit} octets."
            )
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _Refused(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "input-too-large", f"The body may have at most {limit} octets."
                )
            if self._in_flight + len(chunk) > self._limits.in_flight:
                raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "Too much is arriving at once.", 2)
            yield chunk
            if not message.get("more_body", False):
                return

    def _run(self, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """One call of the WSGI application (PEP 3333), its whole answer in memory."""
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], _error: Any = None
        ) -> Callable[[bytes], object]:
            started[:] = [(status, headers)]
            return written.append

        written: list[bytes] = []
        start: StartResponse = start_response
        answer: Iterable[bytes] = self._application(environ, start)
        try:
            written.extend(answer)
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()
        status, headers = started[0]
        lowered = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return int(status.split(" ", 1)[0]), lowered, b"".join(written)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self._pool.shutdown(wait=True, cancel_futures=True)
                await send({"type": "lifespan.shutdown.complete"})
                return


def _environ(scope: Scope, body: bytes) -> dict[str, Any]:
    """PEP 3333's environ for an ASGI HTTP scope. A header that comes twice is joined, as RFC 9110, 5.3 has it."""
    host, port = scope.get("server") or ("", 0)
    client = scope.get("client") or ("", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode("utf-8").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": str(host),
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": str(client[0]),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == "content-type":
            environ["CONTENT_TYPE"] = value
        elif name not in ("content-length", "transfer-encoding") and "_" not in name:
            # A name with an underscore would collide with the one with a hyphen (CGI's old smuggling trick).
            key = "HTTP_" + name.upper().replace("-", "_")
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def _problem(refusal: _Refused) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """The same form as the application's problems (RFC 9457)."""
    document = {
        "type": f"urn:attestd:problem:{refusal.slug}",
        "title": refusal.status.phrase,
        "status": refusal.status.value,
        "detail": refusal.detail,
        "remedy": "Send less, or send it faster; nothing was changed.",
    }
    headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
    if refusal.retry_after:
        headers.append((b"retry-after", str(refusal.retry_after).encode("ascii")))
    return refusal.status.value, headers, json.dumps(document).encode()
