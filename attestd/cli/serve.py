"""`attestd serve`: first what can be found wrong at once, then the workers' nursery, and beside it the supervisor."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from attestd.cli import counting, nursery
from attestd.config import ServerSettings, Settings
from attestd.errors import Unavailable


class AddressTaken(Unavailable):
    """The service can't listen there"""

    remedy = "Stop what listens there, or set server.listen in attestd.toml (or --listen)."


def run_service(dir: Path, listen: str | None, *, as_json: bool) -> None:
    """Serves until a signal ends it. Raises Misconfigured's children, AddressTaken and RunFolderUnusable."""
    if listen is not None:
        os.environ["ATTESTD_SERVER_LISTEN"] = _with_port(listen)
    os.environ[nursery.DIR_VARIABLE] = str(dir.resolve())
    settings = Settings.load(dir, os.environ)
    _require_free(settings.server)
    with counting.counting(settings.dir / "run"):
        nursery.start()
        # From here on both load what they need, at the same time; so this is not loaded before.
        from attestd.cli.supervisor import supervise

        supervise(dir, as_json=as_json)


def _with_port(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    if port != "0":
        return listen
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _require_free(server: ServerSettings) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((server.host, server.port))
    except OSError as error:
        raise AddressTaken(f"{server.listen} is not free.", seen=error.strerror) from None
