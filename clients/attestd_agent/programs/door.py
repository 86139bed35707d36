"""The agent's door: what programs on this machine ask for, over a Unix socket whose permissions say who may.

    POST /v1/presentations   {"v": 1, "method": "GET", "url": "https://…/orders", "audience": "edge", "nonce": "…"}
    200                      {"v": 1, "authorization": "DPoP …", "dpop": "…"}

A program gets a proof for one request, never the use of the key for something else: for the audiences and origins that
the door was opened for, so a program that follows a redirect astray is stopped here, too. Refusals are problem
documents (RFC 9457). One question a connection, so that no program holds a place that it does not use.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from attestd.credentials.dpop import MalformedUri, ProofMalformed
from attestd.errors import AttestdError, Forbidden, InputTooLarge, MalformedInput, Misconfigured, Unavailable
from attestd.protocol.encoding import Members, read_object, write_object
from attestd_agent.programs.origins import origin_of, read_origins
from attestd_agent.programs.presenting import Speaker
from attestd_agent.programs.voice import PATH
from attestd_agent.server import ServerRefused

_log = logging.getLogger(__name__)
MAX_BODY = 8 * 1024  # octets
_PATIENCE = 5.0  # seconds for a question to be asked in
_AT_ONCE = 8  # questions; the TPM takes them one by one anyway
_METHOD_LENGTH = 32  # characters, as at the edge
_CREDENTIALS = struct.Struct("3i")  # ucred: process, user, group (unix(7), SO_PEERCRED)


class DoorBlocked(Misconfigured):
    """The door can't be opened there"""

    remedy = "Check the folder's permissions and the group, and that no other `attestd-agent serve` runs there."


class NotForThis(Forbidden):
    """The device's identity is not for this audience or origin"""

    remedy = "Start `attestd-agent serve` with this --audience and --origin, if programs may present the device there."


class AgentFailed(Unavailable):
    """The agent failed"""

    remedy = "See the log of `attestd-agent serve`."


class QuestionUnknown(MalformedInput):
    """The door knows no such question"""

    remedy = f"POST {PATH}, with a Content-Length of at most {MAX_BODY}."


class Presentations:
    """Answers questions, within the audiences and origins that it was opened for."""

    def __init__(self, speaker: Speaker, *, audiences: Iterable[str], origins: Iterable[str]) -> None:
        """Raises OriginInvalid."""
        self._speaker = speaker
        self._audiences = frozenset(audiences)
        self._origins = read_origins(origins)

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and document. Never raises."""
        try:
            return 200, {"v": 1} | self._present(body)
        except AttestdError as error:
            _log.warning("refused", extra={"problem": error.slug(), "why": str(error)})
            return _problem(error)
        except Exception:  # noqa: BLE001  (a program's question must not end the door)
            _log.exception("unexpected failure")
            return _problem(AgentFailed())

    def _present(self, body: bytes) -> dict[str, str]:
        asked = Members(read_object(body, limit=MAX_BODY, name="question"), "question")
        asked.version()
        method, url = asked.text("method", limit=_METHOD_LENGTH), asked.text("url", limit=2048)
        audience, nonce = asked.text("audience", limit=256), asked.text("nonce", limit=128)
        asked.done()
        if audience not in self._audiences:
            raise NotForThis(seen=repr(audience), expected=", ".join(sorted(self._audiences)))
        if (origin := origin_of(url)) not in self._origins:
            raise NotForThis(seen=origin, expected=", ".join(sorted(self._origins)))
        headers = self._speaker.dpop_headers(method, url, audience=audience, edge_nonce=nonce)
        return {name.lower(): value for name, value in headers.items()}


def _problem(error: AttestdError) -> tuple[int, dict[str, Any]]:
    status = 503
    if isinstance(error, (MalformedInput, InputTooLarge, MalformedUri, ProofMalformed)):
        status = 400
    elif isinstance(error, Forbidden) or (isinstance(error, ServerRefused) and error.status in (401, 403)):
        status = 403
    kind = error.type if isinstance(error, ServerRefused) else f"urn:attestd:problem:{error.slug()}"
    members = {"type": kind, "title": error.title(), "status": status, "detail": str(error), "remedy": error.what_to_do}
    return status, members


class _Question(BaseHTTPRequestHandler):
    """One connection."""

    server: Door
    protocol_version = "HTTP/1.1"
    server_version = "attestd-agent"
    sys_version = ""

    def setup(self) -> None:
        """Nothing waits longer than this for a program that is slow to ask."""
        super().setup()
        self.connection.settimeout(_PATIENCE)
        # Each octet alone could come in time; the whole has to.
        self._late = threading.Timer(_PATIENCE, self._give_up)
        self._late.daemon = True
        self._late.start()

    def _give_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def finish(self) -> None:
        self._late.cancel()
        super().finish()

    def do_POST(self) -> None:
        """A question."""
        self.close_connection = True
        length = self.headers.get("Content-Length", "")
        if self.path != PATH or not (length.isascii() and length.isdigit() and int(length) <= MAX_BODY):
            self._say(*_problem(QuestionUnknown(seen=f"{self.path[:80]}, Content-Length {length[:20]}")))
            return
        body = self.rfile.read(int(length))
        self._late.cancel()
        _log.debug("asked", extra=dict(zip(("pid", "uid"), _asker(self.connection), strict=True)))
        self._say(*self.server.presentations.answer(body))

    def _say(self, status: int, members: dict[str, Any]) -> None:
        body = write_object(members)
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The journal has its own words."""


def _asker(connection: socket.socket) -> tuple[int, int]:
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


class Door(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The socket, from `open` to `close`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path, presentations: Presentations, *, mode: int, group: str | None) -> None:
        """Nobody could connect before owner and mode were right. Raises DoorBlocked."""
        self.presentations = presentations
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._path = path
        try:
            _clear(path)
            before = os.umask(0o777)  # the socket is born without permissions (unix(7))
            try:
                super().__init__(str(path), _Question)
            finally:
                os.umask(before)
            if group is not None:
                shutil.chown(path, group=group)
            path.chmod(mode)
        except (OSError, LookupError) as error:
            raise DoorBlocked(f"{path}: {error}") from error

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more thread, once there is a place; others wait in the socket's queue."""
        self._places.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A program that went away, or a fault of ours: the next one is served."""
        _log.debug("a question broke off", exc_info=True)

    def close(self) -> None:
        """Ends serving and takes the socket away."""
        self.shutdown()
        self.server_close()
        self._path.unlink(missing_ok=True)

    def serving(self) -> Callable[[], None]:
        """Begins to answer; call what is returned to end."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self.close


def _clear(path: Path) -> None:
    """Removes a socket that a dead process left; nothing else, and none at which somebody listens."""
    if not path.is_socket():
        if path.exists():
            raise DoorBlocked(f"{path} is there, and is not a socket.")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise DoorBlocked(f"Somebody listens at {path} already.")
