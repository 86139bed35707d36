"""`attestd references`: what is good, said, watched and put in force (docs/references.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from attestd.cli.calls import service
from attestd.cli.devices import read_file
from attestd.cli.options import DEFAULT_DIR, Dir, Json, Reason
from attestd.cli.output import emit, failing, moment, table

app = typer.Typer(help="Reference manifests: what devices must have booted and run.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(metavar="NUMBER", help="As `attestd references list` shows it.", min=0)]
Overlap = Annotated[
    str, typer.Option(help="How long the version before it still counts: 7d, 12h, 0. Only for what is enforced.")
]
AcceptRefusals = Annotated[
    int, typer.Option("--accept-refusals", metavar="N", help="Enforce it though up to N devices are at risk.", min=0)
]
Unwatched = Annotated[bool, typer.Option("--unwatched", help="Enforce it though nobody watched what it would refuse.")]

_COLUMNS = {
    "number": "NUMBER",
    "name": "NAME",
    "stage": "STAGE",
    "counts": "COUNTS",
    "added": "ADDED",
    "added_by": "BY",
    "until_when": "UNTIL",
    "short": "SHA-256",
}


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="The manifest, in TOML, or in JSON if it is called so.")],
    stage: Annotated[str | None, typer.Option(help="Add it at this stage: learn, monitor or enforce.")] = None,
    overlap: Overlap = "7d",
    accept_refusals: AcceptRefusals = 0,
    unwatched: Unwatched = False,
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Add a manifest, or the next version of one. The file is checked whole before anything is added.

    What is enforced at once, and was never watched, is refused where it could lock devices out. Begin with monitor.
    """
    with failing(as_json=as_json):
        from attestd.appraisal.manifests import ReferenceManifest

        read = ReferenceManifest.from_json if file.suffix == ".json" else ReferenceManifest.from_toml
        manifest = read(read_file(file))
        if stage is not None:
            manifest = manifest.at_stage(_stage(stage))
        query = {"overlap": _seconds(overlap), "accept_refusals": accept_refusals, "reason": reason}
        query |= {"unwatched": "true"} if unwatched else {}
        wanted = urlencode({name: value for name, value in query.items() if value != ""})
        done = service(dir).upload(f"/references?{wanted}", manifest.document, "application/json")
        _tell(done["reference"], as_json)


@app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Also those that count no longer.")] = False,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """List the manifests that count, the newest first. UNTIL: it makes room for another version."""
    with failing(as_json=as_json):
        api = service(dir)
        found: list[dict[str, Any]] = []
        before: int | None = None
        while True:
            page = api.get("/references", all="true" if every else None, before=before, limit=1000)
            found += page["references"]
            before = page["before"]
            if before is None:
                break
        empty = "No reference manifests, so nothing about devices' software is affirmed. attestd references learn"
        emit(found, as_json=as_json, text=table([_row(entry) for entry in found], _COLUMNS, empty=empty))


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **entry,
        "counts": "yes" if entry["counts"] else "no",
        "added": moment(entry["added_at"]),
        "until_when": moment(entry["until"]),
        "short": entry["digest"][:16],
    }


@app.command()
def show(number: Number, dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """Show one version as TOML, ready to be edited and added again."""
    with failing(as_json=as_json):
        from attestd.appraisal.writing import write_toml

        document = service(dir).get(f"/references/{number}")
        entry = document["reference"]
        head = (
            f"Version {entry['number']}, added {moment(entry['added_at'])} by {entry['added_by']}",
            f"{entry['name']}@sha256:{entry['digest']}",
            f"It counts until {moment(entry['until'])}." if entry["until"] is not None else "It counts.",
        )
        emit(document, as_json=as_json, text=write_toml(document["document"], {"": head}).rstrip("\n"))


@app.command()
def refusals(
    number: Number,
    limit: Annotated[int, typer.Option(help="At most this many devices.", min=1)] = 100,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Show which devices a watched manifest would refuse and why, and what enforcing it would do now."""
    with failing(as_json=as_json):
        api = service(dir)
        document = api.get(f"/references/{number}/refusals", limit=min(limit, 1000))
        devices, after = list(document["devices"]), document["after"]
        while after is not None and len(devices) < limit:
            page = api.get(f"/references/{number}/refusals", after=after, limit=min(limit - len(devices), 1000))
            devices += page["devices"]
            after = page["after"]
        document |= {"devices": devices, "after": after}
        emit(document, as_json=as_json, text="\n".join(_refusals(document)))


def _refusals(document: Mapping[str, Any]) -> list[str]:
    lines = []
    for device in document["devices"]:
        lines.append(f"{device['id']}  {moment(device['at'])}")
        lines += [f"    {reason}" for reason in device["reasons"]]
    if document["after"] is not None:
        lines.append(f"… and more; --limit shows them. {document['total']} in all.")
    else:
        lines.append(f"{document['total']} active devices that it would refuse.")
    prospect = document["prospect"]
    if prospect is None:
        lines.append("This version is not watched: only those of stage monitor are.")
        return lines
    least = "at least " if prospect["more"] else ""
    lines.append(
        f"Enforced now: {least}{prospect['refused']} refused at their next attestation, "
        f"{least}{prospect['unheard']} of which nothing is known since {moment(prospect['watched_since'])}, "
        f"{least}{prospect['held']} more that another version holds good for now."
    )
    return lines


@app.command()
def promote(
    number: Number,
    stage: Annotated[str, typer.Argument(help="monitor, enforce, or back: learn.")],
    overlap: Overlap = "7d",
    accept_refusals: AcceptRefusals = 0,
    unwatched: Unwatched = False,
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Take a manifest to another stage. It is enforced only if no device is at risk, or if you say how many may be.

    Back from `enforce` to `monitor` it decides nothing any more, and goes on telling.
    """
    with failing(as_json=as_json):
        message = {
            "stage": _stage(stage).value,
            "overlap": _seconds(overlap),
            "accept_refusals": accept_refusals,
            "unwatched": unwatched,
            "reason": reason,
        }
        _tell(service(dir).post(f"/references/{number}/promote", message)["reference"], as_json)


@app.command()
def withdraw(number: Number, dir: Dir = DEFAULT_DIR, reason: Reason = "", as_json: Json = False) -> None:
    """Withdraw a version: it counts no longer. Devices that nothing else holds good are not affirmed from then on."""
    with failing(as_json=as_json):
        done = service(dir).post(f"/references/{number}/withdraw", {"reason": reason})["reference"]
        emit(done, as_json=as_json, text=f"Version {number} of {done['name']!r} counts no longer.")


@app.command()
def learn(
    devices: Annotated[list[str], typer.Argument(metavar="ID…", help="Golden devices: machines known to be good.")],
    name: Annotated[str, typer.Option(help="What the manifest is to be called.")],
    pcr: Annotated[list[int] | None, typer.Option(help="Learn this PCR, not the stable ones; repeatable.")] = None,
    no_pcrs: Annotated[bool, typer.Option("--no-pcrs", help="Learn no PCR at all.")] = False,
    fact: Annotated[
        list[str] | None, typer.Option(help="Learn this boot fact, instead of the stable ones; repeatable.")
    ] = None,
    no_facts: Annotated[bool, typer.Option("--no-facts", help="Learn no boot facts at all.")] = False,
    runtime: Annotated[bool, typer.Option("--runtime", help="Learn from their IMA lists, too, what may run.")] = False,
    tier: Annotated[str | None, typer.Option(help="For this tier; else for theirs, and their TPMs' model.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="It is to be for devices with this label, NAME=VALUE; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the draft into this file.")] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Learn a draft from golden devices' newest evidence: TOML with comments, to be read and corrected.

    Nothing is added. Says on stderr what could not be learned from which device, and what to do.
    """
    with failing(as_json=as_json):
        from attestd.appraisal.writing import write_toml

        message: dict[str, Any] = {"devices": devices, "name": name, "runtime": runtime}
        if pcr or no_pcrs:
            message["pcrs"] = [] if no_pcrs else pcr
        if fact or no_facts:
            message["facts"] = [] if no_facts else fact
        match: dict[str, Any] = {} if tier is None else {"tier": tier}
        if label:
            match["labels"] = dict(_label(entry) for entry in label)
        if match:
            message["match"] = match
        done = service(dir).post("/references/learn", message)
        missing = [f"{source['id']}: {source['why']}." for source in done["devices"] if source["why"]]
        for line in [*missing, *([_HOW] if missing else [])]:
            typer.echo(line, err=True)
        draft = write_toml(done["document"], done["notes"])
        if out is not None:
            out.write_text(draft, encoding="utf-8")
            emit(done, as_json=as_json, text=f"The draft is in {out}. Read it, then: attestd references add {out}")
        else:
            emit(done, as_json=as_json, text=draft.rstrip("\n"))


_HOW = (
    "Devices send their logs when a manifest is for them: add this draft as it is (stage learn decides nothing), then "
    "`attestd devices demand ID`, then learn again."
)


def _tell(entry: Mapping[str, Any], as_json: bool) -> None:
    words = {
        "learn": "It decides nothing; devices that it is for send their logs.",
        "monitor": "It decides nothing: attestd references refusals shows what it would refuse.",
        "enforce": "It decides from now on.",
    }
    emit(
        entry,
        as_json=as_json,
        text=f"{entry['name']!r} is version {entry['number']}, at stage {entry['stage']}. {words[entry['stage']]}",
    )


def _stage(text: str) -> Any:
    from attestd.appraisal.manifests import Stage

    try:
        return Stage(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a stage: {', '.join(Stage)}") from None


def _seconds(text: str) -> int:
    from attestd.config.values import SettingInvalid, parse_duration

    if text == "0":
        return 0
    try:
        return int(parse_duration(text, "--overlap").total_seconds())
    except SettingInvalid as error:
        raise typer.BadParameter(str(error)) from None


def _label(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise typer.BadParameter(f"{entry[:80]!r} is not a label: NAME=VALUE")
    return name, value
