"""`attestd proxies`: the edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from attestd.cli.calls import service
from attestd.cli.devices import UnreadableFile, read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, table

app = typer.Typer(help="Edge proxies: who may fetch the bundle that boundaries decide by.", no_args_is_help=True)

_COLUMNS = {
    "name": "NAME",
    "site": "SITE",
    "state": "STATE",
    "heard": "HEARD",
    "bundle": "BUNDLE",
    "behind": "BEHIND",
    "stale": "STALE",
    "waiting": "RECEIPTS WAITING",
}
_BOUNDARY_COLUMNS = {"name": "BOUNDARY", "allowed": "ALLOWED", "refused": "REFUSED", "reasons": "WHY", "stale": "STALE"}


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The proxy's name.")],
    site: Annotated[str, typer.Option(help="The site it guards.")],
    key: Annotated[Path, typer.Option(help="Its public key (PEM), made by `attestd-edge init` on its machine.")],
    out: Annotated[Path | None, typer.Option(help="Write its certificate chain here (PEM).")] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Give an edge proxy an identity of its own. It renews its certificate by itself from then on.

    The private key never leaves the proxy. Repeat the command if the proxy slept past its certificate.
    """
    with failing(as_json=as_json):
        message = {"name": name, "site": site, "public_key": read_file(key).decode("ascii", "replace")}
        done = service(dir).post("/proxies", message)
        if out is not None:
            try:
                out.write_text(done["chain"], "ascii")
            except OSError as error:
                raise UnreadableFile(f"{out} can't be written.", seen=error.strerror) from None
        emit(done, as_json=as_json, text=done["chain"] if out is None else f"Wrote {out}.")


@app.command("list")
def list_(dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """List the proxies: when each was heard, and how far its bundle is behind.

    \b
    current    it was heard lately, and has the newest bundle
    behind     it was heard lately, and a newer bundle has been out for a while
    silent     it was not heard for a while (edges.silent_after)
    never      it has not reported yet
    """
    with failing(as_json=as_json):
        said = service(dir).get("/proxies")
        found: list[dict[str, Any]] = said["proxies"]
        rows = [_row(proxy, said["time"]) for proxy in found]
        emit(found, as_json=as_json, text=table(rows, _COLUMNS, empty="No proxies. attestd proxies add NAME …"))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The proxy's name.")],
    hours: Annotated[int, typer.Option(help="Count what it decided in so many hours until now.", min=1)] = 24,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Show one proxy: how it stands, and what it decided at each boundary."""
    with failing(as_json=as_json):
        since = int((datetime.now(UTC) - timedelta(hours=hours)).timestamp())
        found = service(dir).get(f"/proxies/{name}", since=since)
        row, totals = _row(found["proxy"], found["time"]), found["totals"]
        lines = [
            f"{heading.lower() + ':':<18}{'-' if row[key] in (None, '') else row[key]}"
            for key, heading in _COLUMNS.items()
        ]
        lines.append(f"{'in all:':<18}{totals['allowed']} allowed, {totals['refused']} refused")
        if totals["missed"]:
            lines.append(f"{'missing:':<18}{totals['missed']} reports never came")
        counted = list(map(_boundary, found["boundaries"]))
        lines += ["", f"In the last {hours} h:", table(counted, _BOUNDARY_COLUMNS, empty="Nothing was decided.")]
        emit(found, as_json=as_json, text="\n".join(lines))


def _row(proxy: dict[str, Any], time: int) -> dict[str, Any]:
    """For people; `time` is the service's."""
    bundle, behind = proxy["bundle"], proxy["versions_behind"]
    versions = "" if behind is None else f"{behind} versions, "
    return proxy | {
        "heard": "" if proxy["heard_at"] is None else f"{max(0, time - proxy['heard_at'])} s ago",
        "bundle": "" if bundle is None else f"{bundle['epoch']}.{bundle['version']}, {proxy['bundle_age']} s old",
        "behind": f"{versions}{proxy['seconds_behind']} s" if proxy["seconds_behind"] else "",
        "stale": f"{proxy['stale_boundaries']} boundaries" if proxy["stale_boundaries"] else "",
        "waiting": proxy["receipts_waiting"] or "",
    }


def _boundary(found: dict[str, Any]) -> dict[str, Any]:
    """For people."""
    refused: dict[str, int] = found["refused"]
    return found | {
        "refused": sum(refused.values()),
        "reasons": ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items())),
        "stale": f"for {found['stale_for']} s" if found["stale_for"] else "",
    }


@app.command()
def disable(
    name: Annotated[str, typer.Argument(help="The proxy's name.")], dir: Dir = DEFAULT_DIR, as_json: Json = False
) -> None:
    """Disable a proxy: it fetches nothing any more, and what it has goes stale."""
    with failing(as_json=as_json):
        done = service(dir).post(f"/proxies/{name}/disable")
        emit(done, as_json=as_json, text=f"{name} is disabled.")
