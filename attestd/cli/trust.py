"""`attestd trust`: whose TPMs may ask for admission."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attestd.cli.calls import service
from attestd.cli.devices import read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, moment, table

app = typer.Typer(help="TPM makers' CA certificates that this instance trusts.", no_args_is_help=True)

_COLUMNS = {"sha256": "SHA-256", "kind": "KIND", "until": "UNTIL", "subject": "SUBJECT"}


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A PEM (one or several) or DER file with a maker's CA certificates.")],
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Trust a TPM maker's certificates. Self-signed ones become anchors, the others help to build chains.

    Get them from the maker itself, and compare the fingerprint that is shown: whoever holds such a key can make TPMs
    that this instance believes in.
    """
    with failing(as_json=as_json):
        done = service(dir).upload("/trust", read_file(file), "application/octet-stream")
        shown = [entry | {"kind": "root" if entry["is_root"] else "intermediate"} for entry in done["makers"]]
        lines = "\n".join(f"  {entry['kind']}  sha256:{entry['sha256']}  {entry['subject']}" for entry in shown)
        emit(done["makers"], as_json=as_json, text=f"Trusted from now on:\n{lines}")


@app.command("list")
def list_(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """List the certificates that are trusted."""
    with failing(as_json=as_json):
        makers = service(dir).get("/trust")["makers"]
        rows = [
            entry | {"kind": "root" if entry["is_root"] else "intermediate", "until": moment(entry["not_after"])}
            for entry in makers
        ]
        empty = "No TPM maker is trusted, so only devices of the inventory can enroll. attestd trust add FILE"
        emit(makers, as_json=as_json, text=table(rows, _COLUMNS, empty=empty))


@app.command()
def remove(
    sha256: Annotated[str, typer.Argument(help="The certificate's SHA-256, as `attestd trust list` shows it.")],
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Trust a certificate no longer. Devices that enrolled through it stay: quarantine or retire those that must go."""
    with failing(as_json=as_json):
        done = service(dir).delete(f"/trust/{sha256}")
        emit(done, as_json=as_json, text="Not trusted any more.")
