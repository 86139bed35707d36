"""Listeners that only the hop can reach: a Unix socket with permissions, or TLS with a client certificate of the hop's
authority (docs/protocol.md, section 6). There is no third kind."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from attestd.errors import Misconfigured
from attestd_edge.forward_auth import ForwardAuth
from attestd_edge.server import Connection, Server
from attestd_edge.settings import TlsListen, UnixListen

_BACKLOG = 512
HANDSHAKE_SECONDS = 5.0  # for a peer to prove who it is
SHUTDOWN_SECONDS = 5.0  # for it to say goodbye
_TURN = 0.0005  # seconds of another thread's work that a request may wait for; Python's own is ten times that


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


def tls_context(where: TlsListen) -> ssl.SSLContext:
    """A server's context that lets in who shows a certificate of the hop's authority. Raises ListenerFailed."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(where.certificate, where.key)
        context.load_verify_locations(where.hop_ca)
    except (OSError, ssl.SSLError) as error:
        raise ListenerFailed(f"TLS can't be set up: {error}") from error
    # A server that leaves verification out without a word has been seen elsewhere; here it would open every boundary.
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.get_ca_certs():
        raise ListenerFailed("The server does not verify its peers' certificates.")
    return context


def serve(door: ForwardAuth, where: UnixListen | TlsListen, *, ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, then ends what is under way; `ready` is called once connections are accepted.

    Raises ListenerFailed.
    """
    if isinstance(where, TlsListen):
        uvloop.run(_serve(door, where, tls_context(where), ready))
        return
    listener = open_unix(where)
    try:
        uvloop.run(_serve(door, listener, None, ready))
    finally:
        listener.close()
        where.path.unlink(missing_ok=True)


async def _serve(
    door: ForwardAuth, where: socket.socket | TlsListen, tls: ssl.SSLContext | None, ready: Callable[[], None]
) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    server = Server(door, loop)
    listening = await listen(server, where, tls)
    door.start()
    server.begin()
    # The thread that takes up a bundle computes for milliseconds, and a request that comes then waits for a turn of it.
    sys.setswitchinterval(_TURN)
    gc.collect()
    gc.freeze()  # what is here now stays: collections need not look at it again
    ready()
    await ended.wait()
    listening.close()
    await server.end()
    await asyncio.to_thread(door.stop)


async def listen(server: Server, where: socket.socket | TlsListen, tls: ssl.SSLContext | None) -> asyncio.Server:
    """Connections come to `server` from now on. Raises ListenerFailed."""
    loop, accept = asyncio.get_running_loop(), partial(Connection, server)
    if not isinstance(where, TlsListen):
        return await loop.create_unix_server(accept, sock=where, backlog=_BACKLOG)
    try:
        return await loop.create_server(
            accept,
            where.host,
            where.port,
            ssl=tls,
            backlog=_BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
    except OSError as error:
        raise ListenerFailed(f"{where.host}:{where.port}: {error}") from error
