"""Where Envoy connects: a Unix socket with permissions, or TLS with a client certificate of the hop's authority.

gRPC makes its sockets by itself. A Unix socket takes its permissions from the process's mask at that moment (unix(7)),
so it is born with none, and gets its own when owner and group are right. There is no third kind of listener.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509

from attestd.errors import AttestdError
from attestd_edge.files import read_file, replace_file
from attestd_edge.identity import MAX_PEM
from attestd_edge.listen import ListenerFailed, open_unix
from attestd_edge.settings import TlsListen, UnixListen

logger = logging.getLogger("attestd_edge.envoy")

_MAX_QUESTION: Final = 256 * 1024  # octets: Envoy's own limit for headers is 60 kB, and a certificate takes a few
_WORKERS: Final = 8
_UNDER_WAY: Final = 512  # questions at once; more are turned away, and Envoy refuses their requests
_STREAMS: Final = 1024  # of one connection
_GRACE: Final = 10  # seconds for questions that are under way at the end
_COUNTED: Final = 15  # seconds from one record of the counts to the next

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_QUESTION),
    ("grpc.max_concurrent_streams", _STREAMS),
    ("grpc.so_reuseport", 0),  # else a second process could take half of the questions without a word
)


def serve(
    handlers: tuple[grpc.GenericRpcHandler, ...],
    where: UnixListen | TlsListen,
    *,
    ready: Callable[[], None],
    counts: Callable[[], bytes],
    counts_file: Path,
) -> None:
    """Serves until SIGTERM or SIGINT, then ends what is under way; `ready` is called once connections are accepted.

    `counts` are written to `counts_file` now and then: there is no HTTP here to ask for them. Raises ListenerFailed.
    """
    ended: list[int] = []
    server = make_server(handlers)
    if isinstance(where, UnixListen):
        bind_unix(server, where)
    else:
        bind_tls(server, where)
    before = {
        number: signal.signal(number, lambda number, _: ended.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    # A signal may come to any thread, or just before a wait: an octet in a pipe is there in either case.
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    woken_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        server.start()
        ready()
        while not ended:
            select.select([reader], [], [], _COUNTED)
            _keep(counts, counts_file)
    finally:
        signal.set_wakeup_fd(woken_before)
        os.close(reader)
        os.close(writer)
        server.stop(_GRACE).wait()
        _keep(counts, counts_file)
        for number, handler in before.items():
            signal.signal(number, handler)
        if isinstance(where, UnixListen):
            where.path.unlink(missing_ok=True)


def make_server(handlers: tuple[grpc.GenericRpcHandler, ...]) -> grpc.Server:
    """Bounded in what it takes, and not bound anywhere yet."""
    return grpc.server(
        ThreadPoolExecutor(_WORKERS, thread_name_prefix="envoy"),
        handlers=handlers,
        options=_OPTIONS,
        maximum_concurrent_rpcs=_UNDER_WAY,
    )


def _keep(counts: Callable[[], bytes], file: Path) -> None:
    try:
        replace_file(file, counts(), mode=0o644)
    except AttestdError as error:
        logger.warning("the counts are not kept: %s", error)


def bind_unix(server: grpc.Server, where: UnixListen) -> None:
    """Before the first thread is started: the mask is the whole process's. Raises ListenerFailed."""
    open_unix(where).close()  # refuses a file that is there, and a socket on which somebody listens; gRPC would not
    try:
        before = os.umask(0o777)
        try:
            server.add_insecure_port(f"unix:{where.path.absolute()}")
        finally:
            os.umask(before)
        if where.group is not None:
            shutil.chown(where.path, group=where.group)
        where.path.chmod(where.mode)
    except (OSError, LookupError, RuntimeError) as error:
        raise ListenerFailed(f"{where.path}: {error}") from error


def bind_tls(server: grpc.Server, where: TlsListen) -> None:
    """Only certificates of the hop's authority may connect. Raises ListenerFailed or FileUnreadable."""
    key, chain, hops = (read_file(file, limit=MAX_PEM) for file in (where.key, where.certificate, where.hop_ca))
    try:
        x509.load_pem_x509_certificates(hops)
    except ValueError:
        raise ListenerFailed(f"{where.hop_ca} holds no certificates that a proxy could be known by.") from None
    host = f"[{where.host}]" if ":" in where.host else where.host
    try:
        credentials = grpc.ssl_server_credentials([(key, chain)], root_certificates=hops, require_client_auth=True)
        server.add_secure_port(f"{host}:{where.port}", credentials)
    except (ValueError, RuntimeError) as error:
        raise ListenerFailed(f"{host}:{where.port}: {error}") from error
