"""`attestd evidence`: what a result rests on, in a file that anybody can check again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from attestd.cli.calls import service
from attestd.cli.devices import Id
from attestd.cli.explaining import explained
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing
from attestd.errors import Conflict, NotFound
from attestd.protocol.encoding import write_object

app = typer.Typer(
    help="Evidence: explain it, or export it, so that anybody can appraise it again.", no_args_is_help=True
)


class FileExists(Conflict):
    """There is a file of this name already"""

    remedy = "Name another with --out; evidence is never written over."


@app.command()
def export(
    id: Id,
    out: Annotated[Path | None, typer.Option(help="The file to write; left out: ID.evidence.json.")] = None,
    verdict: Annotated[
        str | None, typer.Option(help='"good" or "bad": the newest of this kind, not the newest of all.')
    ] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Write a device's evidence with endorsement, logs, reference values and result to one file.

    `attestd appraise bundle FILE` draws the result again from it, anywhere, without an instance. The file holds the
    TPM's certificate, which names the machine for life: keep it as you keep an inventory.
    """
    with failing(as_json=as_json):
        file = out or Path(f"{id}.evidence.json")
        bundle = write_object(service(dir).get(f"/devices/{id}/evidence", verdict=verdict))
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
                written.write(bundle)
        except FileExistsError:
            raise FileExists(seen=str(file)) from None
        document = {"file": str(file), "size": len(bundle)}
        emit(document, as_json=as_json, text=f"Wrote {file}. Check it: attestd appraise bundle {file}")


class NeverAttested(NotFound):
    """This device has not attested yet"""

    remedy = "Have it attest: `attestd devices demand`, or wait for its agent."


@app.command()
def explain(
    id: Id,
    attestation: Annotated[
        int | None, typer.Option(help="Its number, as `attestd devices history` shows it; left out: the newest.", min=1)
    ] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Say why an attestation came to its result: which boot events differ, what reference values expect there."""
    with failing(as_json=as_json):
        api = service(dir)
        if attestation is None:
            runs = api.get(f"/devices/{id}/history", only="attestation", limit=1)["entries"]
            if not runs:
                raise NeverAttested(seen=str(id))
            attestation = runs[0]["last"]
        page = api.get(f"/devices/{id}/attestations/{attestation}")
        emit(page, as_json=as_json, text=explained(page))
