"""The command's table of contents."""

from __future__ import annotations

import os
from importlib.metadata import version as installed
from typing import Annotated

import typer

from attestd.cli import credentials, devices, proxies, trust
from attestd.cli.doctor import doctor
from attestd.cli.instance import create_instance, describe, now, open_instance, renew_admin
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, say
from attestd.cli.serve import serve
from attestd.ids import TrustDomain

app = typer.Typer(
    name="attestd",
    help="Device identity and attestation: devices prove their TPM, get short-lived credentials, and edges check them.",
    epilog="A first hour: `attestd init --trust-domain example.org`, `attestd trust add <maker's root>`, "
    "`attestd serve`; then `attestd-agent enroll` on a device and `attestd devices approve` here.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
admin = typer.Typer(help="The operator's own credential.", no_args_is_help=True)
app.add_typer(devices.app, name="devices")
app.add_typer(trust.app, name="trust")
app.add_typer(credentials.app, name="credentials")
app.add_typer(proxies.app, name="proxies")
app.add_typer(proxies.policy, name="policy")
app.add_typer(admin, name="admin")
app.command()(serve)
app.command()(doctor)


@app.command()
def init(
    trust_domain: Annotated[str, typer.Option(help="The name of your world in every identity, like example.org.")],
    dir: Dir = DEFAULT_DIR,
    listen: Annotated[str, typer.Option(help="Where the service will listen.")] = "127.0.0.1:8443",
    as_json: Json = False,
) -> None:
    """Make a new instance: a certificate authority, a database, a first policy and a first admin.

    Nothing is overwritten: an instance that exists is left alone, and the command fails.
    """
    with failing(as_json=as_json):
        instance = create_instance(dir, TrustDomain(trust_domain), listen=listen, environ=os.environ)
        said = describe(instance)
        emit(
            said,
            as_json=as_json,
            text=f"Instance {dir} for trust domain {trust_domain} is ready.\n"
            f"  root certificate  {dir / 'ca' / 'root.pem'}\n"
            f"  pin it as         sha256:{said['root_sha256']}\n"
            f"  admin key         {dir / 'admin' / 'admin.key'} (keep it; it may do everything)\n"
            f"Next: attestd trust add <TPM maker's root> --dir {dir}, then attestd serve --dir {dir}",
        )


@admin.command("renew")
def admin_renew(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """Make a fresh key and credential for the first admin. Needs the instance's folder, not the old key."""
    with failing(as_json=as_json):
        instance = open_instance(dir, os.environ)
        renew_admin(instance, now())
        key = dir / "admin" / "admin.key"
        emit({"key": str(key)}, as_json=as_json, text=f"The admin's new key is {key}.")


@app.command()
def version() -> None:
    """Print the version."""
    say(installed("attestd-fleet"))


def main() -> None:
    """The console script's entry point."""
    os.umask(0o077)
    app(prog_name="attestd")
