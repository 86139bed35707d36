"""`attestd audit`: reading the trail, proving one row to others, and examining all of it."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.cli import cohorts
from attestd.cli.calls import service
from attestd.cli.devices import UnreadableFile, read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json, elsewhere
from attestd.cli.output import FAILED, emit, failing, moment, say, table
from attestd.cli.receipts import app as receipts_app
from attestd.config import Settings
from attestd.errors import MalformedInput
from attestd.protocol.encoding import write_object

if TYPE_CHECKING:
    from attestd.auditing.examination import Examination

app = typer.Typer(help="The audit trail: list, prove one row, examine all of it.", no_args_is_help=True)
app.add_typer(receipts_app, name="receipts")

_COLUMNS = {"number": "NUMBER", "when": "WHEN", "actor": "ACTOR", "act": "ACT", "subject": "SUBJECT", "leaf": "LEAF"}
_WITNESSES = {"name": "EDGE", "site": "SITE", "state": "STATE", "heard": "HEARD", "log": "LOG", "size": "ROWS SEEN"}
_TOLD_EVERY = 2.0  # seconds between words about progress


class RootUnreadable(MalformedInput):
    """This is not a root certificate"""

    remedy = "Name the service's root certificate in PEM: `GET /v1/root`, or ca/root.pem of the instance."


@app.command("list")
def list_(
    dir: Dir = DEFAULT_DIR,
    subject: Annotated[str | None, typer.Option(help="Only rows about this device, operator or thing.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this one did: operator:ada, device:ID, attestd.")] = None,
    act: Annotated[list[str] | None, typer.Option(help="Only this act: quarantine, set-policy, … Repeatable.")] = None,
    but: Annotated[list[str] | None, typer.Option(help="Not this act: renew, attest, … Repeatable.")] = None,
    since: Annotated[str | None, typer.Option(help="From then on: a date, a time, or how long ago (2h, 7d).")] = None,
    until: Annotated[str | None, typer.Option(help="Before then: a date, a time, or how long ago.")] = None,
    text: Annotated[str | None, typer.Option(help="Only rows with these words in them, reasons included.")] = None,
    before: Annotated[int | None, typer.Option(help="Only rows with lower numbers.", min=1)] = None,
    limit: Annotated[int, typer.Option(help="At most this many, the newest first.", min=1, max=1000)] = 50,
    as_json: Json = False,
) -> None:
    """List who did what, the newest first, archived rows included."""
    with failing(as_json=as_json):
        now = datetime.now(UTC)
        wanted = {
            "subject": subject,
            "actor": actor,
            "act": ",".join(act or ()),
            "but": ",".join(but or ()),
            "since": None if since is None else cohorts.since(since, now=now),
            "until": None if until is None else cohorts.since(until, now=now, name="--until"),
            "text": text,
        }
        api, found = service(dir), list[dict[str, Any]]()
        while len(found) < limit:  # one answer looks at so many rows, and may have found fewer than were wanted
            page = api.get("/audit", before=before, limit=limit - len(found), **wanted)
            found += page["audit"]
            if "unread" in page and not as_json:
                typer.echo(
                    f"Rows up to {page['unread']} are in archive files that are not on the service's disk.", err=True
                )
            if (before := page["before"]) is None:
                break
        rows = [row | {"when": moment(row["at"])} for row in found]
        emit(found, as_json=as_json, text=table(rows, _COLUMNS, empty="There are no such rows."))


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="The row's number, as `attestd audit list` shows it.", min=1)],
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Show one row with all that it says, and its place in the tree."""
    with failing(as_json=as_json):
        found = service(dir).get(f"/audit/{number}")
        row, head = found["row"], found["head"]
        lines = [
            f"{moment(row['at'])}  {row['actor']}  {row['act']}  {row['subject']}",
            json.dumps(row["detail"], indent=2, ensure_ascii=False),
            f"Request {row['request_id'] or '-'}" + ("; in an archive file" if found["archived"] else ""),
            f"Leaf {row['leaf']} of {head['size']} in log {head['log']}, sealed by {moment(head['time'])}."
            if head is not None
            else f"Not proven by the tree: {found['trouble'] or 'it is not sealed yet'}.",
        ]
        emit(found, as_json=as_json, text="\n".join(lines))


@app.command()
def witnesses(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """Which head of the tree each edge last used: it found that head to go on from all that it saw before."""
    with failing(as_json=as_json):
        found = service(dir).get("/audit/witnesses")
        rows = [edge | {"heard": moment(edge["heard_at"])} for edge in found["edges"]]
        told = table(rows, _WITNESSES, empty="There are no edges.")
        emit(found, as_json=as_json, text=f"{told}\nThe newest head: log {found['log']}, {found['size']} rows.")


@app.command()
def proof(
    number: Annotated[int, typer.Argument(help="The row's number, as `attestd audit list` shows it.", min=1)],
    out: Annotated[Path | None, typer.Option(help="Write the proof here instead of printing it.")] = None,
    dir: Dir = DEFAULT_DIR,
) -> None:
    """Prove one row to somebody else: the row, its place in the tree, and a signed head.

    Who gets the file checks it with `attestd audit verify --proof FILE --root root.pem`, without this service.
    """
    with failing():
        document = write_object(service(dir).get(f"/audit/{number}/proof")) + b"\n"
        if out is None:
            say(document.decode().rstrip("\n"))
            return
        try:
            out.write_bytes(document)
        except OSError as error:
            raise UnreadableFile(f"{out} can't be written.", seen=error.strerror) from None
        say(f"The proof of row {number} is {out}.")


@app.command()
def verify(
    proof: Annotated[Path | None, typer.Option(help="Check this proof of one row, and nothing else.")] = None,
    root: Annotated[Path | None, typer.Option(help="With --proof: the root certificate that you trust (PEM).")] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Examine the whole trail: every row, here and in archives, every tile, every signed head.

    Names each row that was changed, removed, added or moved behind the service's back. Exit code 0: everything is as it
    was sealed; 1: it is not. Reads the instance's database, archives and certificates; opens no key and writes nothing.
    """
    with failing(as_json=as_json):
        if (proof is None) != (root is None):
            raise typer.BadParameter("--proof and --root belong together.")
        if proof is not None and root is not None:
            _verify_proof(proof, root, as_json=as_json)
            return
        if elsewhere.get() is not None:
            raise typer.BadParameter("The whole trail is examined where the instance is; --proof works anywhere.")
        seen = _examine(dir, quiet=as_json)
    _tell(seen, as_json=as_json)
    if seen.findings:
        raise typer.Exit(FAILED)


def _verify_proof(file: Path, root: Path, *, as_json: bool) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from attestd.credentials.transparency import InclusionProof

    try:
        der = x509.load_pem_x509_certificate(read_file(root)).public_bytes(Encoding.DER)
    except (ValueError, x509.InvalidVersion):
        raise RootUnreadable(f"{root} can't be read.") from None
    given = InclusionProof.parse(read_file(file))
    head = given.verify(der, now=datetime.now(UTC))
    entry = given.entry
    said = {
        "entry": dict(entry),
        "leaf": given.leaf,
        "trust_domain": str(head.trust_domain),
        "log": head.log,
        "size": head.size,
        "time": head.at,
    }
    emit(
        said,
        as_json=as_json,
        text=f"Proven: row {entry.get('number')} is leaf {given.leaf} of {head.trust_domain}'s log {head.log}, "
        f"sealed by {moment(head.at)} with {head.size} rows.\n{json.dumps(dict(entry), indent=2, ensure_ascii=False)}",
    )


def _examine(dir: Path, *, quiet: bool) -> Examination:
    from cryptography.hazmat.primitives.serialization import Encoding

    from attestd.auditing.archives import FOLDER
    from attestd.auditing.examination import examine
    from attestd.ca.manifest import CERTIFICATES, read_manifest
    from attestd.ca.signer import load_certificate
    from attestd.registry.engine import Registry

    settings = Settings.load(dir, os.environ)
    # No key is needed, so none is opened. Former roots, too: what was signed under them stays evidence.
    manifest = read_manifest(dir)
    names = (*(root.name for root in manifest.entries["roots"]), *manifest.retired)
    registry = Registry.open(settings.database_url)
    told = time.monotonic()

    def progress(leaves: int) -> None:
        nonlocal told
        if not quiet and sys.stderr.isatty() and time.monotonic() - told > _TOLD_EVERY:
            told = time.monotonic()
            typer.echo(f"{leaves} rows so far", err=True)

    try:
        return examine(
            registry,
            settings.dir / FOLDER,
            roots=[load_certificate(dir / CERTIFICATES / f"{name}.pem").public_bytes(Encoding.DER) for name in names],
            trust_domain=settings.trust_domain,
            progress=progress,
        )
    finally:
        registry.close()


def _tell(seen: Examination, *, as_json: bool) -> None:
    document = {
        "log": seen.log,
        "size": seen.size,
        "archived": seen.archived,
        "heads": seen.heads,
        "unsealed": seen.unsealed,
        "findings": [
            {"kind": finding.kind, "number": finding.number, "text": finding.text} for finding in seen.findings
        ],
        "more": seen.more,
    }
    lines = [f"{finding.text}." for finding in seen.findings]
    if seen.more:
        lines.append(f"And {seen.more} more.")
    lines.append(
        f"{seen.size} sealed rows ({seen.archived} of them in archives), {seen.heads} heads of up to log {seen.log}; "
        f"{seen.unsealed} rows are not sealed yet."
    )
    lines.append("Something was changed behind the service's back." if seen.findings else "All is as it was sealed.")
    emit(document, as_json=as_json, text="\n".join(lines))
