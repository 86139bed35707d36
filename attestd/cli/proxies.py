"""`attestd proxies`: the edges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attestd.cli.calls import service
from attestd.cli.devices import UnreadableFile, read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, table

app = typer.Typer(help="Edge proxies: who may fetch the bundle that boundaries decide by.", no_args_is_help=True)

_COLUMNS = {"name": "NAME", "site": "SITE", "disabled_at": "DISABLED"}


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
    """List the proxies."""
    with failing(as_json=as_json):
        found: list[dict[str, Any]] = service(dir).get("/proxies")["proxies"]
        emit(found, as_json=as_json, text=table(found, _COLUMNS, empty="No proxies. attestd proxies add NAME …"))


@app.command()
def disable(
    name: Annotated[str, typer.Argument(help="The proxy's name.")], dir: Dir = DEFAULT_DIR, as_json: Json = False
) -> None:
    """Disable a proxy: it fetches nothing any more, and what it has goes stale."""
    with failing(as_json=as_json):
        done = service(dir).post(f"/proxies/{name}/disable")
        emit(done, as_json=as_json, text=f"{name} is disabled.")
