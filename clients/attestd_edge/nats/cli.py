"""`attestd-edge nats keys`, `attestd-edge nats serve` and what `withheld_cli` adds. Only wiring."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attestd_edge.failing import failing
from attestd_edge.journal import log_to_stderr
from attestd_edge.nats.installed import check_installed
from attestd_edge.nats.withheld_cli import app as withheld_app
from attestd_edge.settings import Settings

if TYPE_CHECKING:
    from attestd_edge.nats.site import NatsSite

app = typer.Typer(
    name="nats",
    help="Guard a nats-server: who logs in, with which subjects, and what crosses from there (docs/nats.md).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Config = Annotated[Path, typer.Option("--config", envvar="ATTESTD_EDGE_CONFIG", help="The edge's TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


app.add_typer(withheld_app)


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="Where the keys go; made if it is missing.")],
    distribution: Annotated[
        bool, typer.Option("--distribution", help="The two that bundles are published and read with.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the keys between this edge and its nats-server. Private ones stay here (mode 0600)."""
    with failing(as_json=as_json):
        check_installed()
        from attestd_edge.nats.keys import make, make_distribution

        path = (make_distribution if distribution else make)(folder, entropy=os.urandom)
        count = "two" if distribution else "five"
        text = f"Wrote {count} keys into {folder}. nats-server's configuration includes {path}."
        typer.echo(json.dumps({"public": str(path)}) if as_json else text)


@app.command()
def serve(
    config: Config,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every login that is allowed, too.")] = False,
    as_json: Json = False,
) -> None:
    """Answer nats-server's auth callout, disconnect who may not stay, and carry messages; until SIGTERM.

    Logs are JSON lines on stderr; the first line on stdout says that nats-server can ask.
    """
    with failing(as_json=as_json):
        check_installed()
        import uvloop

        from attestd_edge.nats.site import NatsSite

        settings = Settings.load(config)
        log_to_stderr(verbose=verbose)
        site = NatsSite.open(settings)
        uvloop.run(_until_stopped(site, as_json=as_json))


async def _until_stopped(site: NatsSite, *, as_json: bool) -> None:
    running = asyncio.ensure_future(site.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    asked = asyncio.ensure_future(site.asked.wait())
    await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
    if asked.done():
        typer.echo(json.dumps({"serving": "nats"}) if as_json else "attestd-edge answers nats-server")
        sys.stdout.flush()
    asked.cancel()
    await asyncio.gather(running, asked, return_exceptions=True)
    if not running.cancelled() and (error := running.exception()) is not None:
        raise error
