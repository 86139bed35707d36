"""What an opened attestation says, for a terminal: the boot's stages, what differs, what is expected there instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from attestd.cli.labels import changed
from attestd.cli.output import moment

_STANDINGS: Final = {
    "expected": "as expected",
    "differs": "DIFFERS",
    "suspect": "in a PCR that differs",
    "unproven": "not proven",
    "unjudged": "no reference value speaks of it",
    "unrelied": "not relied on: measured by code that nobody knows",
}


def stages(chain: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line a stage, in the order in which they run."""
    return [f"    {link['stage']:<12} {_STANDINGS[link['standing']]}" for link in chain]


def differences(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """What differs, the first event first."""
    lines = []
    for each in found:
        where = [] if each["event"] is None else [f"event {each['event']}", each["type"]]
        where += [] if each["pcr"] is None else [f"PCR {each['pcr']}"]
        lines.append(f"    {', '.join(where) or 'the whole boot'}" + ("" if each["relied"] else " (not relied on)"))
        lines += [f"      says      {each['name']}"] if each["name"] else []
        lines.append(f"      measured  {_shown(each['value'])}" + (f"  ({each['fact']})" if each["fact"] else ""))
        for one in each["expected"]:
            values = [f"at least {one['at_least']}"] if one["at_least"] is not None else map(_shown, one["values"])
            ends = f", until {moment(one['ends'])}" if one["ends"] is not None else ""
            more = f" and {one['more']} more" if one["more"] else ""
            lines.append(f"      expected  {', '.join(values) or 'none'}{more}, by {one['manifest']}{ends}")
        lines += _known(each.get("known"))
    return lines


def _shown(value: object) -> str:
    if value is None:
        return "nothing that shows it"
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def _known(known: Mapping[str, Any] | None) -> list[str]:
    if known is None:
        return []
    listed = ", ".join(f"{found['name']} ({found['stage']})" for found in known["manifests"]) or "none"
    return [f"      known     {known['devices']} other devices showed it; manifests that list it: {listed}"]


def explained(page: Mapping[str, Any]) -> str:
    """`attestd evidence explain`."""
    run, found = page["run"], page["explanation"]
    lines = [
        f"Attestation {page['number']}, {moment(page['at'])}: {page['result']['status']}",
        f"  the same from attestation {run['first']} to {run['last']}, since {moment(run['first_at'])}",
        *(f"  because      {reason}" for reason in page["result"]["reasons"]),
    ]
    if found is None:
        return "\n".join(
            [*lines, "  Its evidence is not kept any more: the newest few different ones of a device are."]
        )
    quote = found["quote"]
    lines.append(f"  quote        reset count {quote['reset_count']}, restart count {quote['restart_count']}")
    lines += ["  stages", *stages(found["chain"])]
    if found["differences"]:
        lines += ["  differs, first one first", *differences(found["differences"])]
    if found["more_differences"]:
        lines.append(f"    and {found['more_differences']} more")
    if found["log"] is not None:
        standings = found["log"]["standings"]
        told = ", ".join(f"{count} {_STANDINGS[name].lower()}" for name, count in standings.items() if count)
        lines.append(f"  boot events  {found['log']['events']}: {told}")
    elif not found["log_kept"]:
        lines.append("  boot events  the log was sent and is not kept any more")
    if (files := found["files"]) is not None:
        counted = f"{files['entries']}, {files['refused']} not good, {files['violations']} violations"
        lines.append(f"  IMA entries  {counted}")
        lines += [f"    entry {one['entry']}  {one['path']}: {one['why']}" for one in files["refusals"]]
    return "\n".join(lines)


def timeline(entries: Iterable[Mapping[str, Any]]) -> str:
    """`attestd devices history`."""
    return "\n".join(f"{moment(entry['at'])}  {_entry(entry)}" for entry in entries) or "Nothing is known yet."


def _entry(entry: Mapping[str, Any]) -> str:
    times = f", {entry['count']} times since {moment(entry['first_at'])}" if entry["count"] > 1 else ""
    if entry["kind"] == "attestation":
        why = f": {entry['reasons'][0]}" if entry["reasons"] else ""
        return f"attestation {entry['last']}, {entry['status']}{times}{why}"
    if entry["kind"] == "credential":
        return f"certificate {entry['serial']}, until {moment(entry['not_after'])}{times}"
    if entry["kind"] == "crossing":
        problem = f", {entry['problem']}" if entry["problem"] else ""
        return f"crossing {entry['boundary']} at {entry['edge']}: {entry['decision']}{problem}{times}"
    detail = entry["detail"]
    what = f" ({changed(detail['old'], detail['new'])})" if entry["act"] == "label" else ""
    why = detail.get("reason") or detail.get("why") or "; ".join(map(str, detail.get("because", [])))
    return f"{entry['act']} by {entry['actor']}{times}{what}" + (f": {why}" if why else "")
