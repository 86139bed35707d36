"""`attestd trust`: whose TPMs may ask for admission."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli.calls import service
from attestd.cli.devices import read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, moment, say, table
from attestd.errors import MalformedInput, NotFound

if TYPE_CHECKING:
    from attestd.cli.api import AdminApi

app = typer.Typer(help="TPM makers' CA certificates that this instance trusts.", no_args_is_help=True)

_COLUMNS = {
    "sha256": "SHA-256",
    "kind": "KIND",
    "until": "UNTIL",
    "devices": "DEVICES",
    "maker": "MAKER",
    "subject": "SUBJECT",
}
_SHORTEST = 8  # digits by which `show` finds a certificate


class NotTrusted(NotFound):
    """No certificate of this SHA-256 is trusted"""

    remedy = f"`attestd trust list` shows those that are; name one by its first {_SHORTEST} digits or more."


class SeveralMeant(MalformedInput):
    """Several certificates begin with this"""

    remedy = "Name more digits of it."


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
    """List the certificates that are trusted, and how many devices enrolled under each."""
    with failing(as_json=as_json):
        makers = _makers(service(dir))
        rows = [_shown(entry) for entry in makers]
        empty = "No TPM maker is trusted, so only devices of the inventory can enroll. attestd trust add FILE"
        emit(makers, as_json=as_json, text=table(rows, _COLUMNS, empty=empty))


@app.command()
def show(
    sha256: Annotated[str, typer.Argument(help=f"The certificate's SHA-256, or its first {_SHORTEST} digits or more.")],
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Show one certificate that is trusted, who added it, and what depends on it."""
    with failing(as_json=as_json):
        wanted = sha256.lower().removeprefix("sha256:").replace(":", "")
        found = [entry for entry in _makers(service(dir)) if entry["sha256"].startswith(wanted)]
        if not found or len(wanted) < _SHORTEST:
            raise NotTrusted(seen=repr(sha256[:80]))
        if len(found) > 1:
            raise SeveralMeant(seen=repr(sha256[:80]))
        emit(found[0], as_json=as_json, text=_described(_shown(found[0])))


def _makers(api: AdminApi) -> list[dict[str, Any]]:
    """What is trusted, each with how many devices that are not retired enrolled under it."""
    counted = {one["sha256"]: one["devices"] for one in api.get("/trust/dependents")["makers"]}
    return [entry | {"devices": counted.get(entry["sha256"], 0)} for entry in api.get("/trust")["makers"]]


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    from attestd.issuance.makers import known_makers

    known = known_makers().certificates.get(bytes.fromhex(entry["sha256"]))
    return entry | {
        "kind": "root" if entry["is_root"] else "intermediate",
        "until": moment(entry["not_after"]),
        "maker": "" if known is None else known.maker,
    }


def _described(entry: dict[str, Any]) -> str:
    count = entry["devices"]
    depends = "1 device that is" if count == 1 else f"{count} devices that are"
    return "\n".join(
        [
            entry["subject"],
            f"  sha256:{entry['sha256']}",
            f"  {entry['kind']}, until {entry['until']}, maker {entry['maker'] or 'not known to the manifest'}",
            f"  added by {entry['added_by']}, {moment(entry['added_at'])}",
            f"  {depends} not retired enrolled under it. They stay if it is removed; who is new, or enrolls again, is "
            "refused unless something else that is trusted endorses it.",
        ]
    )


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
