"""`attestd brake`: what keeps one bad reference manifest from suspending a fleet (docs/operations.md, "The brake")."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attestd.cli.calls import service
from attestd.cli.options import DEFAULT_DIR, Dir, Json, Reason
from attestd.cli.output import emit, failing, moment, table

app = typer.Typer(help="The brake on quarantines: see it, engage it, release it.", no_args_is_help=True)

_COLUMNS = {"device_id": "DEVICE", "since": "HELD AT", "because": "BECAUSE"}


@app.command()
def show(
    dir: Dir = DEFAULT_DIR,
    limit: Annotated[int, typer.Option(help="Show at most this many held results.", min=1)] = 1000,
    as_json: Json = False,
) -> None:
    """Show whether it is engaged, how many quarantines a minute it allows, and which results it holds."""
    with failing(as_json=as_json):
        api = service(dir)
        found = api.get("/brake", limit=min(1000, limit))
        while found["after"] and len(found["held"]) < limit:
            more = api.get("/brake", limit=min(1000, limit - len(found["held"])), after=found["after"])
            found |= {"held": found["held"] + more["held"], "after": more["after"]}
        emit(found, as_json=as_json, text=_described(found))


def _described(found: dict[str, Any]) -> str:
    engaged = found["engaged"]
    if engaged is not None:
        lines = [f"ENGAGED since {moment(engaged['at'])} by {engaged['by']}: {engaged['reason'] or '-'}"]
        lines.append(f"  held        {found['held_count']} results; their devices live on under their last good ones")
        if found["first_end"] is not None:
            lines.append(f"  the first of those ends {moment(found['first_end'])}; its device gets nothing more then")
        lines.append("  to end it   attestd brake release --dismiss, or --quarantine, after you have looked")
    elif not found["enabled"]:
        lines = ["Disabled in attestd.toml ([brake] enabled)."]
    else:
        lines = ["Released: results count."]
    lines.append(f"  quarantined {found['count']} within the last minute, of at most {found['limit']}")
    rows = [
        {**entry, "since": moment(entry["at"]), "because": "; ".join(entry["result"]["reasons"])}
        for entry in found["held"]
    ]
    return "\n".join([*lines, table(rows, _COLUMNS, empty="")]).rstrip()


@app.command()
def engage(dir: Dir = DEFAULT_DIR, reason: Reason = "", as_json: Json = False) -> None:
    """Engage it by hand, before a change that may go wrong: no result quarantines until it is released."""
    with failing(as_json=as_json):
        done = service(dir).post("/brake/engage", {"reason": reason})
        emit(done, as_json=as_json, text="The brake is engaged: results are held.")


@app.command()
def release(
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Drop the held results: the devices' next ones count.")] = (
        False
    ),
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Quarantine every device with a held result.")] = (
        False
    ),
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Release it. What becomes of the held results has to be said."""
    with failing(as_json=as_json):
        if dismiss == quarantine:
            raise typer.BadParameter("Say --dismiss or --quarantine.")
        fate = "dismiss" if dismiss else "quarantine"
        done = service(dir).post("/brake/release", {"held": fate, "reason": reason})
        text = "The brake is released; what it held is dropped."
        if quarantine:
            text = f"The brake is released; {done['quarantined']} devices are quarantined."
        emit(done, as_json=as_json, text=text)
