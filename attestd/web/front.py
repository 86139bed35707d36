"""The front: takes a request in whole, within bounds of size, time and memory, before any worker thread hears of it.

The WSGI server underneath has no limit on how slowly a body may arrive, and one thread for each that does (docs/adr/
has the measurement). So it is used as an ASGI server, and this adapter does everything on the event loop that comes
before the work, where a slow client costs a buffer and no thread:

1. whose request is it (`sources`), and may its source ask for this now (`vetting`);
2. its body, within the path's limit, in time, and within what all bodies together may hold;
3. which class of work is it (`vetting`), and its turn for a thread (`admission`);
4. the WSGI application, in that thread; for a device's request with the baton in hand (`baton`).
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication

from attestd.errors import AttestdError, InputTooLarge, Limited, Unavailable
from attestd.protocol.encoding import write_object
from attestd.web.admission import Admission, Overloaded, Told, Work
from attestd.web.baton import Baton
from attestd.web.problems import MEDIA_TYPE, RequestTooSlow, document, status_of
from attestd.web.sources import Proxies, source_of
from attestd.web.streams import FOLLOWS, Streams
from attestd.web.vetting import TooManyRequests, Vetting, Visit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]

PROVEN: Final = "attestd.proven"  # what a mounted application says in its environ: it knows whose session this is
SMALL: Final = 64 * 1024  # octets; the bodies of everything but enrollments, attestations with logs, and imports
_CROWD_PATIENCE: Final = 1.0  # seconds
_FOLLOWS: Final = FOLLOWS.encode("ascii")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker process takes in. Sizes in octets, times in seconds."""

    body_time: float = 30.0  # for a large body
    small_time: float = 10.0  # for one of up to SMALL octets
    crowd: int = 1024  # bodies that are waited for at once; from then on, nobody waits long for one
    in_flight: int = 256 * 1024 * 1024  # all bodies together
    for_all: float = 0.75  # the part of it that large bodies of strangers may fill
    for_one: float = 0.25  # the part that one source may fill
    larger: int = 16 * 1024 * 1024  # a stranger's body beyond this is one of few
    larger_at_once: int = 2
    max_wait: float = 5.0  # in a line for a thread
    waiting: int = 256  # requests in one line
    answer_time: float = 30.0  # in a thread


@dataclass(slots=True)
class _Held:
    """What the bodies of requests that are being read or answered hold, all together and by source."""

    octets: int = 0
    larger: int = 0
    arriving: int = 0  # requests whose body is being waited for
    by_source: dict[str, int] = field(default_factory=dict)

    def take(self, source: str, size: int) -> None:
        self.octets += size
        self.by_source[source] = self.by_source.get(source, 0) + size

    def give_back(self, source: str, size: int) -> None:
        self.octets -= size
        left = self.by_source.get(source, 0) - size
        if left > 0:
            self.by_source[source] = left
        else:
            self.by_source.pop(source, None)


class Front:
    """An ASGI application around a WSGI one."""

    def __init__(
        self,
        application: WSGIApplication,
        *,
        threads: int,
        limits: Limits | None = None,
        vetting: Vetting | None = None,
        proxies: Proxies | None = None,
        told: Told | None = None,
        baton: Baton | None = None,
        streams: Mapping[str, Streams] | None = None,
        started: Callable[[], object] = lambda: None,
    ) -> None:
        """`baton`: devices' requests are computed with it; the registry puts it down where it waits.
        `streams`: who goes on with answers that the application only begins, by their kind.

        `started` is called on the event loop when the process is about to serve.
        """
        self._application = application
        self._baton = baton
        self._limits = limits = limits or Limits()
        self._vetting = vetting or Vetting()
        self._proxies = proxies or Proxies()
        self._told = told or Told()
        self._streams = streams or {}
        self._started = started
        self._admission: Admission[Answer] = Admission(
            threads,
            max_wait=limits.max_wait,
            waiting=limits.waiting,
            answer_time=limits.answer_time,
            told=self._told,
        )
        self._held = _Held()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            status, headers, content = await self._answer(scope, receive)
        except AttestdError as refusal:
            status, headers, content = _problem(refusal)
        except ConnectionError:
            return
        if (follows := _follows(headers)) is not None:
            headers = [header for header in headers if header[0] != _FOLLOWS]
            kind, _, rest = follows.partition(" ")
            if scope["method"] == "GET" and (streams := self._streams.get(kind)) is not None:
                await self._stream(streams, rest, (status, headers, content), receive, send)
                return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})

    async def _stream(self, streams: Streams, follows: str, begin: Answer, receive: Receive, send: Send) -> None:
        """The application proved who asks, and began; from here on it is the event loop's."""
        status, headers, content = begin
        who, _, place = follows.partition(" ")
        if streams.full(who):
            self._told.refused(Work.NEWCOMER, "streams")
            status, headers, content = _problem(Overloaded("Too many listen here.", retry_after=30))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": content})
            return
        headers = [header for header in headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        await streams.follow(who, place, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        headers = scope["headers"]
        peer = str((scope.get("client") or ("", 0))[0])
        address = self._proxies.client(peer, headers)
        visit = self._vetting.arrive(scope["path"], source_of(address))
        try:
            self._vetting.admit(visit)  # 1
        except TooManyRequests:
            self._told.refused(visit.work, "rate")
            raise
        declared = authorization = cookie = b""
        chunked = False
        for name, value in headers:
            if name == b"content-length":
                declared = value
            elif name == b"authorization":
                authorization = value
            elif name == b"cookie":
                cookie = value
            elif name == b"transfer-encoding":
                chunked = True
        if visit.kind.signed in ("header", "cookie"):
            self._look(visit, authorization if visit.kind.signed == "header" else cookie, b"")
        reading = _Reading(self._limits, self._held, visit)
        try:
            if chunked or declared not in (b"", b"0"):
                await self._read(reading, receive, declared)  # 2
            if visit.kind.signed == "body":
                self._look(visit, b"", reading.body)  # 3
            environ = _environ(scope, bytes(reading.body), address)
            # What takes long, an import say or a large log, shares the processor with everybody, as threads do.
            call = partial(self._run, environ)
            if self._baton is not None and visit.kind.of_devices and len(reading.body) <= SMALL:
                call = partial(self._baton.run, call)
            answer = await self._admission.run(visit.work, call, partial(_gone, receive))  # 4
        finally:
            reading.done()
        self._vetting.leave(visit, answer[0], proven=environ.get(PROVEN))
        return answer

    def _look(self, visit: Visit, authorization: bytes, body: bytes | bytearray) -> None:
        try:
            self._vetting.look(visit, authorization, body)
        except TooManyRequests:
            self._told.refused(visit.work, "failures")
            raise

    async def _read(self, reading: _Reading, receive: Receive, declared: bytes) -> None:
        try:
            reading.expect(declared)
            await reading.read(receive)
        except InputTooLarge:
            self._told.refused(reading.visit.work, "size")
            raise
        except Overloaded:
            self._told.refused(reading.visit.work, "memory")
            raise
        except TimeoutError:
            self._told.refused(reading.visit.work, "slow")
            raise RequestTooSlow("The request took too long to arrive.") from None

    def _run(self, environ: dict[str, Any]) -> Answer:
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
                self._started()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self._admission.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


class _Reading:
    """One request's body, as it arrives."""

    def __init__(self, limits: Limits, held: _Held, visit: Visit) -> None:
        self._limits, self._held, self.visit = limits, held, visit
        self.body = bytearray()
        self._limit = visit.kind.limit
        self._time = limits.small_time if self._limit <= SMALL else limits.body_time
        self._larger = False
        self._taken = 0

    def expect(self, declared: bytes) -> None:
        """The Content-Length header, or nothing. Raises InputTooLarge."""
        if not declared:
            return
        if not declared.isdigit() or (size := int(declared[:20])) > self._limit:
            raise self._too_large()
        if size <= SMALL:
            self._time = self._limits.small_time

    async def read(self, receive: Receive) -> None:
        """All of it. Raises InputTooLarge, Overloaded, TimeoutError, ConnectionResetError."""
        held = self._held
        # A body that comes with its headers is there at once. Where many are waited for, the others may not dawdle.
        patience = self._time if held.arriving < self._limits.crowd else min(self._time, _CROWD_PATIENCE)
        held.arriving += 1
        try:
            async with asyncio.timeout(patience):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    self._add(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        finally:
            held.arriving -= 1

    def done(self) -> None:
        """Gives its room back."""
        if self._taken:
            self._held.give_back(self.visit.source, self._taken)
        self._held.larger -= self._larger

    def _add(self, chunk: bytes) -> None:
        limits, held, source = self._limits, self._held, self.visit.source
        size = self._taken + len(chunk)
        if size > self._limit:
            raise self._too_large()
        if size > SMALL and self.visit.work is not Work.OPERATOR:
            # Small bodies, and those whose sender is known before they arrive, may use the rest.
            if held.octets + len(chunk) > limits.in_flight * limits.for_all:
                raise Overloaded("Too much is arriving at once.", retry_after=2)
            if held.by_source.get(source, 0) + len(chunk) > limits.in_flight * limits.for_one:
                raise Overloaded("Too much is arriving from this address at once.", retry_after=2)
            if size > limits.larger and not self._larger:
                if held.larger >= limits.larger_at_once:
                    raise Overloaded("Too many large bodies at once.", retry_after=5)
                self._larger = True
                held.larger += 1
        elif held.octets + len(chunk) > limits.in_flight:
            raise Overloaded("Too much is arriving at once.", retry_after=2)
        held.take(source, len(chunk))
        self._taken = size
        self.body += chunk

    def _too_large(self) -> InputTooLarge:
        return InputTooLarge(f"The body may have at most {self._limit} octets.")


def _follows(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The application's word that this answer goes on."""
    return next((value.decode("latin-1") for name, value in headers if name == _FOLLOWS), None)


async def _gone(receive: Receive) -> None:
    """Ends when the client went away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _environ(scope: Scope, body: bytes, address: str) -> dict[str, Any]:
    """PEP 3333's environ for an ASGI HTTP scope. A header that comes twice is joined, as RFC 9110, 5.3 has it."""
    host, port = scope.get("server") or ("", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode("utf-8").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": str(host),
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": address,
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


def _problem(refusal: AttestdError) -> Answer:
    """The application's form of a problem (RFC 9457), for a request that it does not hear of."""
    members = document(refusal, request_id="")
    del members["request_id"]  # nothing is logged under one
    headers = [(b"content-type", MEDIA_TYPE.encode("ascii"))]
    if isinstance(refusal, Limited | Unavailable):
        headers.append((b"retry-after", str(max(1, refusal.retry_after)).encode("ascii")))
    if isinstance(refusal, InputTooLarge | RequestTooSlow):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    return status_of(type(refusal)).value, headers, write_object(members)
