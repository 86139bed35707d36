"""The command line: `attestd-edge init`, `check`, `serve`. Only wiring."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from attestd_edge import starter
from attestd_edge.checkup import examine
from attestd_edge.edge import Edge
from attestd_edge.envoy.cli import app as envoy_app
from attestd_edge.failing import FAILED, failing
from attestd_edge.forward_auth import ForwardAuth
from attestd_edge.journal import log_to_stderr
from attestd_edge.listen import serve as serve_on
from attestd_edge.nats.cli import app as nats_app
from attestd_edge.settings import Settings, SettingsInvalid, UnixListen

_CODES = (
    "Exit codes: 0 done · 1 something is wrong · 2 wrong usage · 3 the configuration is wrong · "
    "4 the service can't be reached."
)

app = typer.Typer(
    name="attestd-edge",
    help="""Guards boundaries: lets machines cross that prove who they are and that policy permits, and nothing else.

    \b
    A first edge, behind nginx on the same machine:
      attestd-edge init /var/lib/attestd-edge --server https://attestd.example.org:8443 \\
          --trust-domain example.org --site munich
      attestd proxies add munich-1 --site munich --key proxy.pub.pem --out proxy.pem     (where the service runs)
      copy proxy.pem and the service's root.pem to /var/lib/attestd-edge
      attestd-edge check --config /var/lib/attestd-edge/edge.toml --online
      attestd-edge serve --config /var/lib/attestd-edge/edge.toml                        (better: the systemd unit)

    It keeps what it fetches: with the service unreachable it goes on deciding until its bundle is stale.
    """,
    epilog=_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[Path, typer.Option("--config", envvar="ATTESTD_EDGE_CONFIG", help="The edge's TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command(epilog=_CODES)
def init(
    folder: Annotated[Path, typer.Argument(help="Where key and configuration go; made if it is missing.")],
    server: Annotated[str, typer.Option(help="The service: https://HOST[:PORT].")],
    trust_domain: Annotated[str, typer.Option(help="The trust domain, like example.org.")],
    site: Annotated[str, typer.Option(help="The site that this edge guards.")],
    as_json: Json = False,
) -> None:
    """Make a key for this proxy and a first configuration.

    The private key stays here (mode 0600). Nothing that exists is overwritten. An admin of the service then makes the
    certificate from proxy.pub.pem.
    """
    with failing(as_json=as_json):
        made = starter.make(folder, server=server, trust_domain=trust_domain, site=site)
        text = (
            f"Wrote {made.key} (keep it here), {made.public_key} and {made.config}.\n"
            "Next, where the service runs:\n"
            f"  attestd proxies add NAME --site {site} --key proxy.pub.pem --out proxy.pem\n"
            f"Then put proxy.pem and the service's root.pem into {folder}, and run attestd-edge check."
        )
        document = {"key": str(made.key), "public_key": str(made.public_key), "config": str(made.config)}
        typer.echo(json.dumps(document, indent=2) if as_json else text)


@app.command(epilog=_CODES)
def check(
    config: Config,
    online: Annotated[bool, typer.Option("--online", help="Ask the service for a bundle, too.")] = False,
    as_json: Json = False,
) -> None:
    """Say what is wrong with the configuration and the state on disk, and how to mend it. Changes nothing."""
    with failing(as_json=as_json):
        findings = list(examine(Settings.load(config), now=datetime.now(UTC), online=online))
        if as_json:
            typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
        else:
            for finding in findings:
                typer.echo(f"{'ok  ' if finding.ok else 'BAD '} {finding.name + ':':<13}{finding.detail}")
                if finding.remedy:
                    typer.echo(f"{'':18}do: {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(FAILED)


@app.command(epilog=_CODES)
def serve(
    config: Config,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every crossing that is allowed, too.")] = False,
    as_json: Json = False,
) -> None:
    """Answer a reverse proxy's auth requests (nginx: auth_request) until SIGTERM.

    One process: proofs are single use because one memory holds those seen. Logs are JSON lines on stderr; the first
    line on stdout says that it serves, and where.
    """
    with failing(as_json=as_json):
        settings = Settings.load(config)
        where = settings.listen
        if where is None:
            raise SettingsInvalid("There is nothing to listen on.", expected="listen.unix or listen.tls")
        log_to_stderr(verbose=verbose)
        address = f"unix:{where.path}" if isinstance(where, UnixListen) else f"https://{where.host}:{where.port}"

        def ready() -> None:
            typer.echo(json.dumps({"listening": address}) if as_json else f"attestd-edge serves on {address}")
            sys.stdout.flush()

        serve_on(ForwardAuth(Edge.open(settings), settings), where, ready=ready)


app.add_typer(nats_app)
app.add_typer(envoy_app)


def main() -> None:
    """The console script."""
    app()
