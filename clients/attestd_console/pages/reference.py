"""Reference values: what is good, for whom; what watched ones would refuse; and the way from learning to deciding.

A name in the address is one line of versions (docs/references.md): for a model, an image, a ring.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, request

from attestd_console import reasons
from attestd_console.acts import Act, Failed
from attestd_console.api import Refused, at
from attestd_console.console import Console

_MOST: Final = 500  # versions that are looked at
_SHOWN: Final = 200  # devices of a page of refusals
_MAX_DOCUMENT: Final = 512 * 1024  # characters of a document in a form
_MAX_GOLDEN: Final = 32
STAGES: Final = ("learn", "monitor", "enforce")
MEANING: Final[Mapping[str, str]] = {
    "learn": "decides nothing; its devices send their boot logs",
    "monitor": "decides nothing; tells what it would refuse",
    "enforce": "decides: a machine that differs is quarantined",
}
OVERLAPS: Final = ((86400, "a day"), (7 * 86400, "a week"), (14 * 86400, "two weeks"), (30 * 86400, "a month"))


def routes(console: Console) -> Blueprint:
    page = Blueprint("reference", __name__)
    _all(page, console)
    _one(page, console)
    return page


def _every(console: Console, *, over: bool) -> list[dict[str, Any]]:
    """Versions, the newest first: those that count, and with `over` those that did."""
    found = console.api().get("/v1/admin/references", all="true" if over else None, limit=_MOST)
    return list(found["references"])


def _document(console: Console, number: int) -> dict[str, Any]:
    return dict(console.api().get(at("v1", "admin", "references", number))["document"])


def _all(page: Blueprint, console: Console) -> None:
    """The list of names, and what makes a new version."""

    @page.get("/reference")
    def listed() -> Response:
        return overview()

    def overview(failed: Failed | None = None, draft: str = "", notes: Sequence[tuple[str, str]] = ()) -> Response:
        counting = _every(console, over=False)
        names = [(name, *_line(console, versions)) for name, versions in _by_name(counting).items()]
        return console.page(
            "references.html",
            topics=("references", "attestations"),
            failed=failed,
            lead=lead(counting, [line["would_refuse"] for _, _, line in names]),
            names=names,
            meaning=MEANING,
            draft=draft,
            notes=notes,
            overlaps=OVERLAPS,
        )

    @page.post("/reference")
    def add() -> Response:
        text = request.form.get("document", "")[:_MAX_DOCUMENT]
        body, kind = _staged(text, request.form.get("stage", ""))
        query = urlencode(_said_of(request.form))
        done = console.carry_out(
            Act(
                "POST",
                "/v1/admin/references" + (f"?{query}" if query else ""),
                body=body,
                content_type=kind,
                then="/reference",
                said="The reference values were added.",
            )
        )
        return overview(done, draft=text) if isinstance(done, Failed) else done

    @page.post("/reference/learn")
    def learn() -> Response:
        """A draft from golden devices, to be read: nothing is stored."""
        form = request.form
        message: dict[str, Any] = {
            "name": form.get("name", "").strip(),
            "devices": form.get("devices", "").replace(",", " ").split()[:_MAX_GOLDEN],
            "runtime": form.get("runtime") == "yes",
        }
        labels = dict(pair.partition("=")[::2] for pair in form.get("labels", "").split())
        match = {name: value for name, value in (("tier", form.get("tier", "")), ("labels", labels)) if value}
        if match:
            message["match"] = match
        try:
            learned = console.api().post("/v1/admin/references/learn", message)
        except Refused as error:
            if error.status == 401:
                raise
            return overview(Failed.of(error))
        notes = [(where, line) for where, lines in learned["notes"].items() for line in lines]
        notes += [(one["id"], one["why"]) for one in learned["devices"] if one["why"]]
        return overview(draft=json.dumps(learned["document"], indent=2, ensure_ascii=False), notes=notes)


def _one(page: Blueprint, console: Console) -> None:
    """One name, and one of its versions."""

    @page.get("/reference/<name>")
    def one(name: str) -> Response:
        return ring(name)

    def ring(name: str, failed: Failed | None = None) -> Response:
        versions = [entry for entry in _every(console, over=True) if entry["name"] == name]
        if not versions:
            abort(404)
        shown = next((entry for entry in versions if entry["counts"]), versions[0])
        watched = next((entry for entry in versions if entry["counts"] and entry["stage"] == "monitor"), None)
        refusals = None
        if watched is not None:
            path = at("v1", "admin", "references", watched["number"], "refusals")
            refusals = console.api().get(path, after=request.args.get("after"), limit=_SHOWN)
        return console.page(
            "reference.html",
            topics=("references", "attestations"),
            failed=failed,
            name=name,
            versions=versions,
            match=match_words(_document(console, shown["number"]).get("match") or {}),
            deciding=[entry for entry in versions if entry["counts"] and entry["stage"] == "enforce"],
            watched=watched,
            refusals=refusals,
            causes=causes(refusals["devices"]) if refusals else [],
            meaning=MEANING,
        )

    @page.get("/reference/<name>/<number>")
    def version(name: str, number: str) -> Response:
        return single(name, number)

    def single(name: str, number: str, failed: Failed | None = None) -> Response:
        found = console.api().get(at("v1", "admin", "references", number))
        if found["reference"]["name"] != name:
            abort(404)
        prospect = None
        if found["reference"]["stage"] == "monitor" and found["reference"]["counts"]:
            prospect = console.api().get(at("v1", "admin", "references", number, "refusals"), limit=1)["prospect"]
        return console.page(
            "reference_version.html",
            topics=("references",),
            failed=failed,
            name=name,
            entry=found["reference"],
            prospect=prospect,
            document=json.dumps(found["document"], indent=2, ensure_ascii=False),
            match=match_words(found["document"].get("match") or {}),
            stages=STAGES,
            meaning=MEANING,
            overlaps=OVERLAPS,
        )

    @page.post("/reference/<name>/<number>/promote")
    def promote(name: str, number: str) -> Response:
        stage = request.form.get("stage", "")
        message = {"stage": stage, "reason": request.form.get("reason", ""), **_accepted(request.form)}
        done = console.carry_out(
            Act(
                "POST",
                at("v1", "admin", "references", number, "promote"),
                message,
                then=at("reference", name),
                said=f"From now on it {MEANING.get(stage, 'has another stage')}.",
            )
        )
        return single(name, number, done) if isinstance(done, Failed) else done

    @page.post("/reference/<name>/<number>/withdraw")
    def withdraw(name: str, number: str) -> Response:
        done = console.carry_out(
            Act(
                "POST",
                at("v1", "admin", "references", number, "withdraw"),
                {"reason": request.form.get("reason", "")},
                then="/reference",
                said=f"Version {number} counts no longer.",
            )
        )
        return single(name, number, done) if isinstance(done, Failed) else done


def lead(counting: Sequence[Mapping[str, Any]], would_refuse: Sequence[int]) -> str:
    """The first sentence: what decides, what is watched, and what that would do."""
    stages = Counter(entry["stage"] for entry in counting)
    if not counting:
        return "Nothing says what is good, so nothing about a machine’s software can be affirmed."
    decide = stages["enforce"]
    parts = [f"{decide} {'decides' if decide == 1 else 'decide'}" if decide else "Nothing decides yet"]
    if stages["monitor"]:
        refused = sum(would_refuse)
        watched = f"{stages['monitor']} {'is' if stages['monitor'] == 1 else 'are'} watched"
        parts.append(f"{watched} and would refuse {refused:,} {'device' if refused == 1 else 'devices'}")
    if stages["learn"]:
        parts.append(f"{stages['learn']} {'learns' if stages['learn'] == 1 else 'learn'}")
    return "; ".join(parts) + "."


def _by_name(versions: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in versions:
        found.setdefault(str(entry["name"]), []).append(entry)
    return dict(sorted(found.items()))


def _line(console: Console, versions: Sequence[Mapping[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """A name's versions that count, and what its line says."""
    watched = next((entry for entry in versions if entry["stage"] == "monitor"), None)
    would_refuse = 0
    if watched is not None:
        path = at("v1", "admin", "references", watched["number"], "refusals")
        would_refuse = int(console.api().get(path, limit=1)["total"])
    return versions, {
        "would_refuse": would_refuse,
        "watched": watched,
        "match": match_words(_document(console, versions[0]["number"]).get("match") or {}),
    }


def match_words(match: Mapping[str, Any]) -> str:
    """For whom values are, in words."""
    if not match:
        return "every device"
    labels = match.get("labels") or {}
    parts = [f"{name}={value}" for name, value in sorted(labels.items())]
    parts += [f"{name.replace('_', ' ')} {match[name]}" for name in sorted(match) if name != "labels"]
    return ", ".join(parts)


def causes(devices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Refusals by what they have in common, the commonest first: one line a cause, not one a device."""
    by_reasons: dict[tuple[str, ...], list[str]] = {}
    for device in devices:
        by_reasons.setdefault(tuple(device["reasons"]), []).append(device["id"])
    found = [
        {"reasons": [reasons.sentence(reason) for reason in alike], "devices": ids, "count": len(ids)}
        for alike, ids in by_reasons.items()
    ]
    return sorted(found, key=lambda cause: (-int(cause["count"]), cause["reasons"]))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _accepted(form: Mapping[str, str]) -> dict[str, Any]:
    """What the operator knowingly takes."""
    found: dict[str, Any] = {}
    if (refusals := _number(form.get("accept_refusals", ""))) is not None:
        found["accept_refusals"] = refusals
    if (overlap := _number(form.get("overlap", ""))) is not None:
        found["overlap"] = overlap
    if form.get("unwatched") == "yes":
        found["unwatched"] = True
    return found


def _said_of(form: Mapping[str, str]) -> dict[str, str]:
    found = {name: "true" if value is True else str(value) for name, value in _accepted(form).items()}
    if reason := form.get("reason", ""):
        found["reason"] = reason[:500]
    return found


def _staged(text: str, stage: str) -> tuple[bytes, str]:
    """The document as it is sent: JSON at the chosen stage, or whatever else it is, as TOML, as it stands."""
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return text.encode(), "application/toml"
    if isinstance(members, dict) and stage in STAGES:
        members["stage"] = stage
    return json.dumps(members, ensure_ascii=False).encode(), "application/json"
