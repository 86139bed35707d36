"""The console in processes of its own: granian, threads, and nothing kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from wsgiref.types import WSGIApplication

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server import Server

from attestd_console.api import Service
from attestd_console.app import create_app
from attestd_console.cli import ROOT, SERVER, ListenUnusable, ServerUnusable, trusting
from attestd_console.console import Console

_THREADS: Final = 64  # a page that listens for changes has one


def service_of(server: str, root: Path) -> Service:
    """Raises ServerUnusable, RootUnusable."""
    parts = urlsplit(server)
    if parts.scheme != "https" or not parts.netloc or parts.path.strip("/") or parts.query:
        raise ServerUnusable(seen=server[:200], expected="https://HOST[:PORT]")
    return Service.over_https(f"https://{parts.netloc}", trusting(root))


def create() -> WSGIApplication:
    """What each worker process makes."""
    return create_app(Console(service_of(os.environ[SERVER], Path(os.environ[ROOT])))).wsgi_app


def run(listen: str, cert: Path | None, key: Path | None) -> None:
    """Serves until a signal ends it. Raises Misconfigured's children."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or (cert is None) != (key is None):
        raise ListenUnusable(seen=listen)
    if cert is None and host.strip("[]") not in ("127.0.0.1", "::1", "localhost"):
        raise ListenUnusable("Without a certificate the console listens on this machine alone.", seen=listen)
    service_of(os.environ[SERVER], Path(os.environ[ROOT]))  # what is wrong shows here and not in a worker
    print(f"attestd-console answers at {'https' if cert else 'http'}://{listen}", flush=True)  # noqa: T201
    Server(
        "attestd_console.apart:create",
        factory=True,
        address=host.strip("[]"),
        port=int(port),
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        workers=1,
        blocking_threads=_THREADS,
        backpressure=2 * _THREADS,
        ssl_cert=cert,
        ssl_key=key,
        log_level=LogLevels.warning,
    ).serve()
