"""`attestd trust`: whose TPMs may ask for admission."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from attestd.cli.calls import service
from attestd.cli.devices import read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, moment, say, table

app = typer.Typer(help="TPM makers' CA certificates that this instance trusts.", no_args_is_help=True)

_COLUMNS = {"sha256": "SHA-256", "kind": "KIND", "until": "UNTIL", "maker": "MAKER", "subject": "SUBJECT"}


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


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="Microsoft's TrustedTpm.cab, a folder, or a file of PEM or DER.", exists=True)
    ],
    yes: Annotated[
        list[str] | None, typer.Option("--yes", metavar="MAKER", help="Trust this maker; repeatable.")
    ] = None,
    every_maker: Annotated[bool, typer.Option("--all", help="Trust every maker that the manifest knows.")] = False,
    certificate: Annotated[
        list[str] | None,
        typer.Option("--certificate", metavar="SHA256", help="Trust this one, known or not; repeatable."),
    ] = None,
    expired: Annotated[
        bool, typer.Option("--expired", help="Offer expired ones, too: a chip may outlive its maker's root.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is there, and trust nothing.")] = False,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Look through many makers' certificates at once, and trust those of the makers you choose.

    Each is identified by the manifest of known certificates that comes with attestd. The manifest trusts nobody: on a
    terminal you are asked maker by maker, elsewhere you say --yes MAKER or --all. A certificate that the manifest does
    not know is trusted by its fingerprint alone. Running it again changes nothing.
    """
    with failing(as_json=as_json):
        from attestd.cli.certificates import find_certificates
        from attestd.cli.importing import (
            Choice,
            NothingChosen,
            Survey,
            at_a_terminal,
            read_fingerprints,
            send,
            trusted_here,
        )
        from attestd.issuance.makers import known_makers

        choice = Choice(frozenset(yes or ()), every_maker, read_fingerprints(certificate or ()), expired)
        api = service(dir)
        survey = Survey.of(
            find_certificates(source, now=datetime.now(UTC)),
            known_makers(),
            trusted=trusted_here(api),
            expired=expired,
        )
        picked = survey.chosen(choice)
        if not as_json:
            say(survey.text())
        asking = not choice.made and not dry_run and not as_json and at_a_terminal()
        if asking:
            picked = survey.asked(lambda question: typer.confirm(question, default=False))
        added = {} if dry_run else send(api, picked)
        picks = ", ".join(f"{name} ({len(certificates)})" for name, certificates in picked if certificates)
        if as_json:
            emit(survey.document(added), as_json=True, text="")
        elif picks:
            say(f"\n{'Would be trusted' if dry_run else 'Trusted from now on'}: {picks}")
        elif choice.made:
            say("\nNothing new: all of it is trusted already.")
        if not (choice.made or dry_run or asking):
            raise NothingChosen


@app.command("list")
def list_(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """List the certificates that are trusted."""
    with failing(as_json=as_json):
        from attestd.issuance.makers import known_makers

        makers = service(dir).get("/trust")["makers"]
        known = known_makers().certificates
        rows = [
            entry
            | {
                "kind": "root" if entry["is_root"] else "intermediate",
                "until": moment(entry["not_after"]),
                "maker": known[sha256].maker if (sha256 := bytes.fromhex(entry["sha256"])) in known else "",
            }
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
