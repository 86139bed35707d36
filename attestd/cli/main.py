"""The command's table of contents.

Commands that open an instance import what that takes when they run: the others, and --help, answer at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from attestd.cli import (
    appraise,
    audit,
    backup,
    boundaries,
    brake,
    ca,
    credentials,
    devices,
    evidence,
    operators,
    policy,
    proxies,
    references,
    trust,
)
from attestd.cli.options import DEFAULT_DIR, Dir, Json, Remote, elsewhere
from attestd.cli.output import emit, failing, say
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
app.add_typer(evidence.app, name="evidence")
app.add_typer(brake.app, name="brake")
app.add_typer(trust.app, name="trust")
app.add_typer(references.app, name="references")
app.add_typer(credentials.app, name="credentials")
app.add_typer(operators.app, name="operators")
app.add_typer(proxies.app, name="proxies")
app.add_typer(boundaries.app, name="boundaries")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(admin, name="admin")
app.add_typer(ca.app, name="ca")
app.add_typer(appraise.app, name="appraise")
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(backup.upgrade)


_LOCAL = ("init", "serve", "doctor", "admin", "ca", "backup", "restore", "upgrade")  # these need the instance's folder


@app.callback()
def remote(
    context: typer.Context,
    server: Annotated[
        str | None, typer.Option(envvar="ATTESTD_URL", help="Work with a service elsewhere: https://HOST[:PORT].")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(envvar="ATTESTD_KEY", help="Your private key, by `attestd operators keygen`.")
    ] = None,
    credential: Annotated[
        Path | None, typer.Option(envvar="ATTESTD_CREDENTIAL", help="Your credential, by `attestd operators add`.")
    ] = None,
) -> None:
    """The options of who works from another machine; without them the instance's own folder is used."""
    if server is None and key is None and credential is None:
        return
    if server is None or key is None or credential is None:
        raise typer.BadParameter("--server, --key and --credential belong together.")
    if context.invoked_subcommand in _LOCAL:
        raise typer.BadParameter(f"`attestd {context.invoked_subcommand}` works where the instance is.")
    elsewhere.set(Remote(server, key, credential))


@app.command()
def init(
    trust_domain: Annotated[str, typer.Option(help="The name of your world in every identity, like example.org.")],
    dir: Dir = DEFAULT_DIR,
    listen: Annotated[str, typer.Option(help="Where the service will listen.")] = "127.0.0.1:8443",
    database: Annotated[
        str,
        typer.Option(
            help="postgresql://USER@HOST/NAME, if it is not to be a file of its own. A password comes from PGPASSFILE, "
            "or with the whole URL from ATTESTD_DATABASE_URL."
        ),
    ] = "",
    encrypt_keys: Annotated[bool, typer.Option("--encrypt-keys", help="Encrypt the key files.")] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="The file with their passphrase; without it you are asked.")
    ] = None,
    pkcs11_module: Annotated[
        Path | None, typer.Option(help="Make the signing keys in a PKCS #11 token: its module, a .so file.")
    ] = None,
    token_label: Annotated[str, typer.Option(help="The token's label.")] = "",
    pin_file: Annotated[Path | None, typer.Option(help="The file with the token's PIN.")] = None,
    as_json: Json = False,
) -> None:
    """Make a new instance: a certificate authority, a database, a first policy and a first admin.

    Nothing is overwritten: an instance that exists is left alone, and the command fails.
    """
    from attestd.cli.instance import OWN_FILE, create_instance, describe, first_link, now
    from attestd.cli.keeping import choose_keys, without_password

    with failing(as_json=as_json):
        keys = choose_keys(encrypt_keys, passphrase_file, pkcs11_module, token_label, pin_file)
        instance = create_instance(
            dir,
            TrustDomain(trust_domain),
            listen=listen,
            environ=os.environ,
            keys=keys,
            database=without_password(database) or OWN_FILE,
        )
        said = describe(instance)
        if instance.settings.console.enabled:
            said["first_link"] = first_link(instance, now())
        emit(
            said,
            as_json=as_json,
            text=f"Instance {dir} for trust domain {trust_domain} is ready.\n"
            f"  root certificate  {dir / 'ca' / 'root.pem'}\n"
            f"  pin it as         sha256:{said['root_sha256']}\n"
            f"  admin key         {dir / 'admin' / 'admin.key'} (keep it; it may do everything)\n"
            + _first(said.get("first_link"))
            + f"Next: attestd trust add <TPM maker's root> --dir {dir}, then attestd serve --dir {dir}",
        )


def _first(link: str | None) -> str:
    """What `init` says of the first admin's way into the console."""
    if link is None:
        return ""
    return (
        f"  first sign-in     {link}\n"
        "                    Open it once `attestd serve` runs: it registers your passkey as the admin's.\n"
        "                    Good once, for 24 hours. Another one: attestd operators invite admin --role admin\n"
    )


@admin.command("renew")
def admin_renew(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """Make a fresh key and credential for the first admin. Needs the instance's folder, not the old key."""
    from attestd.cli.instance import now, open_instance, renew_admin

    with failing(as_json=as_json):
        instance = open_instance(dir, os.environ)
        renew_admin(instance, now())
        key = dir / "admin" / "admin.key"
        emit({"key": str(key)}, as_json=as_json, text=f"The admin's new key is {key}.")


@app.command()
def serve(
    dir: Dir = DEFAULT_DIR,
    listen: Annotated[str | None, typer.Option(help="Listen here instead; port 0 takes a free one.")] = None,
    as_json: Json = False,
) -> None:
    """Run the service with TLS until SIGTERM or Ctrl-C, which let requests in progress finish.

    Prints its URL once it answers. Logs are JSON lines on stderr.
    """
    from attestd.cli.serve import run_service

    with failing(as_json=as_json):
        run_service(dir, listen, as_json=as_json)


@app.command()
def doctor(
    dir: Dir = DEFAULT_DIR,
    recount: Annotated[bool, typer.Option("--recount", help="Put the fleet's kept counts right.")] = False,
    as_json: Json = False,
) -> None:
    """Examine this instance: settings, lifetimes, keys, database, policy, operators, trust store, the service.

    Says what is wrong and how to mend it. Exit code 0: nothing is broken (there may be warnings); 1: something is.
    """
    from attestd.cli.doctor import report_on

    report_on(dir, recount=recount, as_json=as_json)


@app.command()
def openapi() -> None:
    """Print the service's OpenAPI description (3.1, JSON), as GET /v1/openapi.json gives it."""
    from attestd.web.openapi import describe

    say(describe().decode())


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    say(installed("attestd-fleet"))


def main() -> None:
    """The console script's entry point."""
    os.umask(0o077)
    app(prog_name="attestd")
