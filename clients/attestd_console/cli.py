"""`attestd-console serve`: the console apart from the service, on a machine of its own."""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from attestd.errors import AttestdError, Misconfigured

SERVER: Final = "ATTESTD_CONSOLE_SERVER"
ROOT: Final = "ATTESTD_CONSOLE_CA"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


class ServerUnusable(Misconfigured):
    """This is not a service's address"""

    remedy = "Give --server as https://HOST[:PORT], the public address of the service."


class RootUnusable(Misconfigured):
    """This is not a root to trust"""

    remedy = "Give --ca the service's root: `curl https://HOST:PORT/v1/root`, compared by its fingerprint."


class ListenUnusable(Misconfigured):
    """The console can't listen there"""

    remedy = "Give --listen as HOST:PORT, and --cert with --key unless a proxy on this machine ends TLS."


@app.callback()
def _console() -> None:
    """The admin web console of attestd. `attestd serve` shows the same one by itself."""


@app.command()
def serve(
    server: Annotated[str, typer.Option(help="The service's public address, https://HOST[:PORT].")],
    ca: Annotated[Path, typer.Option(help="The service's root certificate (PEM).")],
    listen: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1:8444",
    cert: Annotated[Path | None, typer.Option(help="The certificate that browsers see (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
) -> None:
    """Serves until a signal ends it. It keeps nothing: start as many as you like."""
    from attestd_console.apart import run  # noqa: PLC0415 - what it loads takes a while

    os.environ[SERVER], os.environ[ROOT] = server, str(ca.resolve())
    run(listen, cert, key)


def trusting(root: Path) -> ssl.SSLContext:
    """This root, and none of the system's. Raises RootUnusable."""
    try:
        return ssl.create_default_context(cafile=str(root))
    except (OSError, ssl.SSLError) as error:
        raise RootUnusable(seen=f"{root}: {error.strerror or error}") from None


def main() -> None:
    try:
        app()
    except AttestdError as error:
        print(f"{error.title()}: {error}\n{error.what_to_do}", file=sys.stderr)
        raise SystemExit(1) from None
