"""`attestd-edge envoy serve`. Only wiring."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from attestd.errors import Misconfigured
from attestd_edge.edge import Edge
from attestd_edge.failing import failing
from attestd_edge.journal import log_to_stderr
from attestd_edge.settings import Settings, SettingsInvalid, UnixListen

app = typer.Typer(
    name="envoy",
    help="Answer Envoy's external authorization over gRPC (docs/envoy.md); `attestd-edge serve` has its HTTP mode.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Config = Annotated[Path, typer.Option("--config", envvar="ATTESTD_EDGE_CONFIG", help="The edge's TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
COUNTS: Final = "envoy.prom"  # in the state folder


class EnvoyMissing(Misconfigured):
    """What Envoy's gRPC service takes is not installed here"""

    remedy = "Install attestd-fleet with the extra `envoy`."


@app.callback()
def envoy() -> None:
    """One group, so that `envoy serve` is spelled like `nats serve`."""


@app.command()
def serve(
    config: Config,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every crossing that is allowed, too.")] = False,
    as_json: Json = False,
) -> None:
    """Answer envoy.service.auth.v3.Authorization until SIGTERM.

    One process: proofs are single use because one memory holds those seen. Logs are JSON lines on stderr; the first
    line on stdout says that it serves, and where. Counts are kept in envoy.prom in the state folder.
    """
    with failing(as_json=as_json):
        if missing := [name for name in ("grpc", "envoy") if find_spec(name) is None]:
            raise EnvoyMissing(f"{', '.join(missing)} can't be imported.")
        from attestd_edge.envoy.listen import serve as serve_on
        from attestd_edge.envoy.service import Authorization

        settings = Settings.load(config)
        where = settings.envoy
        if where is None:
            raise SettingsInvalid("There is nothing to listen on.", expected="envoy.unix or envoy.tls")
        log_to_stderr(verbose=verbose)
        edge = Edge.open(settings)
        handlers = Authorization(edge, settings.boundaries).handlers()
        address = f"unix:{where.path}" if isinstance(where, UnixListen) else f"https://{where.host}:{where.port}"

        def ready() -> None:
            edge.start()
            typer.echo(json.dumps({"listening": address}) if as_json else f"attestd-edge answers Envoy on {address}")
            sys.stdout.flush()

        try:
            serve_on(handlers, where, ready=ready, counts=edge.metrics.text, counts_file=settings.state_dir / COUNTS)
        finally:
            edge.stop()
