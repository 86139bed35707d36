"""`attestd credentials`: what was issued, and taking it back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attestd.cli.calls import service
from attestd.cli.options import DEFAULT_DIR, Dir, Json, Reason
from attestd.cli.output import emit, failing, moment, table

app = typer.Typer(help="Issued certificates: list, revoke.", no_args_is_help=True)

_COLUMNS = {"serial": "SERIAL", "profile": "PROFILE", "subject": "IDENTITY", "until": "UNTIL", "revoked": "REVOKED"}


@app.command("list")
def list_(
    dir: Dir = DEFAULT_DIR,
    device: Annotated[str | None, typer.Option(help="Only this device's.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many, the newest first.", min=1, max=1000)] = 100,
    as_json: Json = False,
) -> None:
    """List certificates, the newest first."""
    with failing(as_json=as_json):
        found: list[dict[str, Any]] = service(dir).get("/credentials", device=device, limit=limit)["credentials"]
        rows = [
            entry | {"until": moment(entry["not_after"]), "revoked": entry.get("revoked_because")} for entry in found
        ]
        emit(found, as_json=as_json, text=table(rows, _COLUMNS, empty="No certificates were issued."))


@app.command()
def revoke(
    serial: Annotated[str, typer.Argument(help="The serial number, as `attestd credentials list` shows it.")],
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Revoke one certificate. Its device may get another; to stop the device, quarantine or retire it."""
    with failing(as_json=as_json):
        done = service(dir).post(f"/credentials/{serial}/revoke", {"reason": reason})
        emit(done, as_json=as_json, text=f"Revoked {serial}. Edges refuse it within a second or two.")
