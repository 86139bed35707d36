"""`attestd boundaries`: what crosses between tiers and sites, and what is refused there."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attestd.cli.calls import service
from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, moment, table

app = typer.Typer(help="Boundaries between tiers and sites: what crosses, what is refused.", no_args_is_help=True)

_COLUMNS = {
    "name": "BOUNDARY",
    "start": "FROM",
    "end": "TO",
    "allowed": "ALLOWED",
    "refused": "REFUSED",
    "why": "WHY",
    "receipts": "RECEIPTS",
    "stale": "STALE",
    "guards": "EDGES",
}
_REASONS = 3


@app.command("list")
def list_(
    site: Annotated[str | None, typer.Option(help="Only what edges at this site guard.")] = None,
    hours: Annotated[int, typer.Option(help="Count so many hours until now.", min=1, max=744)] = 24,
    limit: Annotated[int, typer.Option(help="So many, the worst first; the rest is summed up.", min=1, max=1000)] = 100,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """List the boundaries, those where most is refused first.

    From where to where, edges tell; one of an older version does not. Figures are edges' own, by full hours.
    """
    with failing(as_json=as_json):
        found = service(dir).get("/boundaries", site=site, window=hours, limit=limit)
        rows = [_row(each) for each in found["boundaries"]]
        lines = [table(rows, _COLUMNS, empty="No boundaries: no edge has reported yet. attestd proxies add NAME …")]
        others, totals = found["others"], found["totals"]
        if others["boundaries"]:
            lines.append(
                f"and {others['boundaries']} more: {others['allowed']} allowed, {others['refused']} refused (--limit)"
            )
        if rows:
            lines.append(
                f"In all since {moment(found['since'])}: {totals['allowed']} allowed, {totals['refused']} refused."
            )
        emit(found, as_json=as_json, text="\n".join(lines))


def _row(each: dict[str, Any]) -> dict[str, Any]:
    """For people."""
    reasons = list(each["reasons"].items())
    more = f", {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
    named = ", ".join(each["guards"])
    return each | {
        "start": _end(each["from"]),
        "end": _end(each["to"]),
        "why": ", ".join(f"{reason} {count}" for reason, count in reasons[:_REASONS]) + more,
        "receipts": each["receipts"] or "?",
        "stale": f"for {each['stale_for']} s" if each["stale_for"] else "",
        "guards": named if len(each["guards"]) == each["edges"] else f"{named}, … ({each['edges']})",
    }


def _end(end: dict[str, str] | None) -> str:
    return "?" if end is None else f"{end['tier']}/{end.get('site', 'any site')}"
