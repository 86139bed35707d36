"""`attestd-edge nats withheld list|release|drop`. Only wiring."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attestd.errors import Misconfigured
from attestd_edge.failing import failing
from attestd_edge.nats.installed import check_installed
from attestd_edge.settings import Settings

if TYPE_CHECKING:
    from attestd_edge.nats.withheld import Withheld, WithheldMessage

app = typer.Typer(
    name="withheld",
    help="Messages that were not let across: look at them, have them judged anew, or drop them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Config = Annotated[Path, typer.Option("--config", envvar="ATTESTD_EDGE_CONFIG", help="The edge's TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Numbers = Annotated[list[int] | None, typer.Argument(help="As `list` numbers them.")]
Device = Annotated[str | None, typer.Option("--device", help="All of this device.")]
Every = Annotated[bool, typer.Option("--all", help="All that are withheld.")]


class NothingChosen(Misconfigured):
    """No message is named"""

    remedy = "Name numbers, or --device, or --all."


@app.command("list")
def list_(
    config: Config,
    device: Device = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many, the oldest first.")] = 100,
    as_json: Json = False,
) -> None:
    """Show what is withheld, since when, whose it is and why. Contents are not shown."""

    async def show(withheld: Withheld) -> None:
        found: list[WithheldMessage] = []
        async for one in withheld.every():
            if len(found) == limit:
                break
            if device in (None, one.device):
                found.append(one)
        if as_json:
            typer.echo(json.dumps({"withheld": [one.members() for one in found]}))
            return
        for one in found:
            size = f"{len(one.content)} octets"
            typer.echo(f"{one.number:>8}  {one.collected[:19]:<19}  {one.device:<24}  {one.why:<20}  {size}")
        if not found:
            typer.echo("Nothing is withheld.")

    _with(config, show, as_json=as_json)


@app.command()
def release(
    config: Config,
    numbers: Numbers = None,
    device: Device = None,
    every: Every = False,
    as_json: Json = False,
) -> None:
    """Put messages back to be judged anew, as policy and the device's state are then."""
    _each(config, numbers, device, every, "released", lambda withheld: withheld.release, as_json=as_json)


@app.command()
def drop(
    config: Config,
    numbers: Numbers = None,
    device: Device = None,
    every: Every = False,
    as_json: Json = False,
) -> None:
    """End messages for good."""
    _each(config, numbers, device, every, "dropped", lambda withheld: withheld.drop, as_json=as_json)


def _each(
    config: Path,
    numbers: list[int] | None,
    device: str | None,
    every: bool,
    done: str,
    act: Callable[[Withheld], Callable[[int], Awaitable[WithheldMessage]]],
    *,
    as_json: bool,
) -> None:
    async def go(withheld: Withheld) -> None:
        ended: list[dict[str, Any]] = []
        try:
            for number in await withheld.chosen(numbers or [], device=device, every=every):
                ended.append((await act(withheld)(number)).members())
        finally:
            numbered = ", ".join(str(one["number"]) for one in ended[:20]) + (", …" if len(ended) > 20 else "")
            text = f"{len(ended)} {done}{': ' + numbered if ended else ''}"
            typer.echo(json.dumps({done: ended}) if as_json else text)

    with failing(as_json=as_json):
        if not numbers and device is None and not every:
            raise NothingChosen
    _with(config, go, as_json=as_json)


def _with(config: Path, act: Callable[[Withheld], Awaitable[None]], *, as_json: bool) -> None:
    with failing(as_json=as_json):
        check_installed()
        from attestd_edge.nats.withheld import visit

        logging.getLogger("asyncio").setLevel(logging.ERROR)  # of TLS connections that end it says too much
        asyncio.run(visit(Settings.load(config), act))
