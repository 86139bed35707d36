"""Listeners that only the hop can reach: a Unix socket with permissions, or TLS with a client certificate of the hop's
authority (docs/protocol.md, section 6). There is no third kind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from attestd.errors import Misconfigured
from attestd_edge.asgi import App
from attestd_edge.settings import TlsListen, UnixListen

_BACKLOG = 512
_MAX_HEAD = 128 * 1024  # octets of a request's head; an escaped certificate takes a few thousand
_GRACE = 10  # seconds for requests that are under way at the end


class ListenerFailed(Misconfigured):
    """The edge can't listen where it should"""

    remedy = "Check listen.* in the configuration, the folder's permissions, and that no other edge runs there."


def open_unix(where: UnixListen) -> socket.socket:
    """A Unix socket that nobody could connect to before its owner and mode were right. Raises ListenerFailed."""
    _clear(where.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o777)  # the socket is born without permissions (unix(7))
        try:
            listener.bind(str(where.path))
        finally:
            os.umask(before)
        if where.group is not None:
            shutil.chown(where.path, group=where.group)
        where.path.chmod(where.mode)
        listener.listen(_BACKLOG)
    except (OSError, LookupError) as error:
        listener.close()
        raise ListenerFailed(f"{where.path}: {error}") from error
    return listener


def _clear(path: Path) -> None:
    """Removes a socket that a dead process left; nothing else, and no socket on which somebody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenerFailed(f"{path} is there, and is not a socket.")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenerFailed(f"{path}: {error}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ListenerFailed(f"{path}: {error}") from error
        else:
            raise ListenerFailed(f"Somebody listens on {path} already.")


class _Server(uvicorn.Server):
    """Says when it listens, and ends by returning: uvicorn's own would send itself the signal again and leave the
    socket behind."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, after which connections are accepted."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """SIGTERM and SIGINT ask for a graceful end; a second SIGINT does not wait for it."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(app: App, where: UnixListen | TlsListen, *, ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then ends what is under way; `ready` is called once connections are accepted.

    Raises ListenerFailed.
    """
    listener: socket.socket | None = None
    if isinstance(where, UnixListen):
        listener = open_unix(where)
        server = _Server(_config(app), ready)
    else:
        server = _Server(_tls_config(app, where), ready)
    try:
        server.run(sockets=None if listener is None else [listener])
    finally:
        if listener is not None and isinstance(where, UnixListen):
            listener.close()
            where.path.unlink(missing_ok=True)


def _tls_config(app: App, where: TlsListen) -> uvicorn.Config:
    try:
        config = _config(
            app,
            host=where.host,
            port=where.port,
            ssl_certfile=str(where.certificate),
            ssl_keyfile=str(where.key),
            ssl_ca_certs=str(where.hop_ca),
            ssl_cert_reqs=int(ssl.CERT_REQUIRED),
        )
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ListenerFailed(f"TLS can't be set up: {error}") from error
    # A server that leaves verification out without a word has been seen elsewhere; here it would open every boundary.
    if config.ssl is None or config.ssl.verify_mode is not ssl.CERT_REQUIRED or not config.ssl.get_ca_certs():
        raise ListenerFailed("The server does not verify its peers' certificates.")
    return config


def _config(app: App, **more: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="on",
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would believe any loopback peer about addresses and schemes
        h11_max_incomplete_event_size=_MAX_HEAD,
        timeout_graceful_shutdown=_GRACE,
        backlog=_BACKLOG,
        **more,  # type: ignore[arg-type]
    )
