"""`attestd devices`: the fleet, from import to retirement."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from attestd.cli import cohorts
from attestd.cli.backup import release_restored
from attestd.cli.calls import service
from attestd.cli.explaining import timeline
from attestd.cli.labels import asked_for, labels_of
from attestd.cli.options import DEFAULT_DIR, Dir, Json, Reason
from attestd.cli.output import emit, failing, moment, say, table
from attestd.errors import MalformedInput

app = typer.Typer(help="Devices: import, list, approve, quarantine, retire.", no_args_is_help=True)
_NAMED_AT_ONCE = 200  # in one call; the service takes some more
Id = Annotated[str, typer.Argument(metavar="ID", help="The device's id, as `attestd devices list` shows it.")]

_COLUMNS = {
    "id": "ID",
    "state": "STATE",
    "tier": "TIER",
    "site": "SITE",
    "manufacturer": "TPM",
    "status": "RESULT",
    "attested": "ATTESTED",
}


class UnreadableFile(MalformedInput):
    """The file can't be read"""

    remedy = "Check its path and permissions."


def read_file(path: Path) -> bytes:
    """A file named on the command line. Raises UnreadableFile."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFile(f"{path} can't be read.", seen=error.strerror) from None


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV or JSON Lines: ek_hash, serial_number, tier, site, labels, id.")],
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Import an inventory: devices that may enroll without being approved one by one.

    The file is checked whole before anything is imported; errors name their lines; it is all or nothing. CSV needs a
    header line; labels are `name=value;name=value` or columns called label.NAME. `attestd-agent evidence` prints a
    device's EK hash.
    """
    with failing(as_json=as_json):
        kind = "application/jsonl" if file.suffix in (".jsonl", ".ndjson", ".json") else "text/csv"
        done = service(dir).upload("/devices/import", read_file(file), kind)
        emit(done, as_json=as_json, text=f"Imported {done['added']} devices; {done['unchanged']} were known already.")


@app.command("list")
def list_(
    dir: Dir = DEFAULT_DIR,
    state: Annotated[
        str | None, typer.Option(help="Only devices in one of these states: with commas; `overdue` may be one.")
    ] = None,
    result: Annotated[str | None, typer.Option(help="Only devices with one of these results: with commas.")] = None,
    tier: Annotated[str | None, typer.Option(help="Only devices of this tier.")] = None,
    site: Annotated[str | None, typer.Option(help="Only devices of this site.")] = None,
    maker: Annotated[str | None, typer.Option(help="Only devices with this maker's TPM.")] = None,
    label: Annotated[str | None, typer.Option(help="Only devices with this label: NAME=VALUE, or NAME.")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only active devices whose result ended.")] = False,
    search: Annotated[
        str | None, typer.Option(help="Words that an id, serial number, maker, model, site or label begins with.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most this many.", min=1)] = 1000,
    as_json: Json = False,
) -> None:
    """List devices. With --json an array of objects with id, state, tier, site and more.

    `held` beside a result: the brake holds a newer one back (`attestd brake show`).
    """
    with failing(as_json=as_json):
        api = service(dir)
        found: list[dict[str, Any]] = []
        after: str | None = None
        while len(found) < limit:
            page = api.get(
                "/devices",
                state=state,
                tier=tier,
                site=site,
                result=result,
                maker=maker,
                label=label,
                overdue="yes" if overdue else None,
                q=search,
                after=after,
                limit=min(1000, limit - len(found)),
            )
            held = {each["device_id"] for each in page["held"]}
            found += [device | {"held": device["id"] in held} for device in page["devices"]]
            after = page.get("after")
            if not after:
                break
        emit(
            found,
            as_json=as_json,
            text=table([_row(device) for device in found], _COLUMNS, empty=_NOBODY if not found else ""),
        )


_NOBODY = (
    "No devices. On a machine with a TPM: attestd-agent enroll --server <URL> --ca <root.pem>\n"
    "An unknown device then waits here as pending: attestd devices approve ID --tier device --site NAME"
)


def _row(device: dict[str, Any]) -> dict[str, Any]:
    result = device.get("result") or {}
    status = result.get("status")
    shown = f"{status or '-'}, held" if device["held"] else status
    return device | {"status": shown, "attested": moment(device.get("attested_at"))}


@app.command()
def show(id: Id, dir: Dir = DEFAULT_DIR, as_json: Json = False) -> None:
    """Show one device: identity, TPM, state and why, last result, credentials, what happened to it."""
    with failing(as_json=as_json):
        api = service(dir)
        document = api.get(f"/devices/{id}")
        if document["device"]["state"] in ("quarantined", "retired"):
            told = api.get(f"/devices/{id}/edges")
            document["edges"] = {name: told[name] for name in ("edges", "refuse", "others")}
        emit(document, as_json=as_json, text=_described(document))


@app.command()
def history(
    id: Id,
    limit: Annotated[int, typer.Option(help="At most this many entries.", min=1, max=1000)] = 50,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """What happened to a device, the newest first: results, certificates, crossings, and what was done to it."""
    with failing(as_json=as_json):
        api = service(dir)
        found: list[dict[str, Any]] = []
        before: str | None = None
        while len(found) < limit:
            page = api.get(f"/devices/{id}/history", before=before, limit=min(200, limit - len(found)))
            found += page["entries"]
            before = page["before"]
            if before is None:
                break
        emit(found, as_json=as_json, text=timeline(found))


def _described(document: dict[str, Any]) -> str:
    device = document["device"]
    result = device.get("result") or {}
    lines = [
        f"{device['id']}  {device['state']}" + (f": {device['state_reason']}" if device.get("state_reason") else ""),
        f"  identity     {device.get('spiffe_id') or '- (not approved)'}",
        f"  TPM          {device.get('manufacturer') or '-'} {device.get('model') or ''} "
        f"{device.get('firmware_version') or ''}".rstrip()
        + f", endorsed by {device.get('endorsement') or 'nobody yet'}",
        f"  EK hash      {device.get('ek_hash')}",
        f"  serial no.   {device.get('serial_number') or '-'}",
        f"  labels       {labels_of(device)}",
        f"  attested     {moment(device.get('attested_at'))}, result {result.get('status', '-')}",
    ]
    lines += [f"    {reason}" for reason in result.get("reasons", [])]
    if (held := document["held"]) is not None:
        lines.append(f"  held         {held['result']['status']} since {moment(held['at'])}: attestd brake show")
        lines += [f"    {reason}" for reason in held["result"]["reasons"]]
    if told := document.get("edges"):
        lines.append(f"  edges        {told['refuse']} of {told['edges']} refuse it, by the bundles that they reported")
        lines += [f"    not known of {each['name']}, heard {moment(each['heard_at'])}" for each in told["others"]]
    credentials = document.get("credentials", [])
    lines.append(f"  credentials  {len(credentials)} newest:" if credentials else "  credentials  none")
    lines += [
        f"    {entry['serial']}  until {moment(entry['not_after'])}"
        + (f"  REVOKED: {entry['revoked_because']}" if entry.get("revoked_at") else "")
        for entry in credentials[:5]
    ]
    rows = document.get("audit", [])
    lines.append("  history" if rows else "  history      none")
    lines += [f"    {moment(row['at'])}  {row['act']} by {row['actor']}" for row in rows[:10]]
    return "\n".join(lines)


@app.command()
def approve(
    id: Id,
    tier: Annotated[str, typer.Option(help="device, edge or cloud.")],
    site: Annotated[str, typer.Option(help="The device's home site.")],
    label: Annotated[list[str] | None, typer.Option(help="A label, NAME=VALUE; repeatable.")] = None,
    dir: Dir = DEFAULT_DIR,
    as_json: Json = False,
) -> None:
    """Approve a pending device into a tier and a site. Issues nothing: the device's agent comes back by itself."""
    with failing(as_json=as_json):
        message: dict[str, Any] = {"tier": tier, "site": site}
        if label:
            message["labels"] = dict(_label(entry) for entry in label)
        _act(dir, id, "approve", message, as_json)


def _label(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise MalformedInput("This is not a label.", seen=repr(entry[:80]), expected="NAME=VALUE")
    return name, value


@app.command("label")
def label_(
    id: Id,
    label: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Labels to set.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="The name of a label to remove; repeatable.")] = None,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Revoke its certificates, which say the old labels until they end.")
    ] = False,
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Set and remove labels of a device; those that are not named stay. It is asked to attest.

    Certificates carry labels: the next one says the new ones, and reference manifests that are for them judge it. The
    present one counts until it ends, unless it is revoked too; the device is refused then until it has attested.
    """
    with failing(as_json=as_json):
        message: dict[str, Any] = {"reason": reason, "revoke": revoke}
        message |= {"labels": dict(_label(entry) for entry in label)} if label else {}
        message |= {"remove": remove} if remove else {}
        api = service(dir)
        device = api.post(f"/devices/{id}/label", message)["device"]
        shown = f"{id} has the labels: {labels_of(device)}.\n{asked_for(api.get('/labels'))}"
        emit(device, as_json=as_json, text=shown)


@app.command()
def reject(id: Id, dir: Dir = DEFAULT_DIR, reason: Reason = "", as_json: Json = False) -> None:
    """Reject a pending device: its TPM is refused from now on."""
    with failing(as_json=as_json):
        _act(dir, id, "reject", {"reason": reason}, as_json)


@app.command()
def quarantine(id: Id, dir: Dir = DEFAULT_DIR, reason: Reason = "", as_json: Json = False) -> None:
    """Quarantine a device: edges refuse it within a second or two, and it gets no credentials until released."""
    with failing(as_json=as_json):
        _act(dir, id, "quarantine", {"reason": reason}, as_json)


@app.command()
def release(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The device's id.")] = None,
    restored: Annotated[
        bool, typer.Option("--restored", help="Instead: all that a restore put there and that attested well since.")
    ] = False,
    never_enrolled: Annotated[
        bool, typer.Option("--never-enrolled", help="Instead: all that a restore put there before they ever enrolled.")
    ] = False,
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Release a quarantined device, or those that `attestd restore` quarantined."""
    with failing(as_json=as_json):
        if (id is not None) + restored + never_enrolled != 1:
            raise typer.BadParameter("Name one device, or --restored, or --never-enrolled.")
        if id is not None:
            _act(dir, id, "release", {"reason": reason}, as_json)
            return
        released = release_restored(service(dir), attested=restored, reason=reason)
        emit(released, as_json=as_json, text="\n".join([*released, f"{len(released)} devices are active."]))


@app.command("release-cohort")
def release_cohort(
    site: Annotated[str | None, typer.Option(help="Those of this site.")] = None,
    tier: Annotated[str | None, typer.Option(help="Those of this tier.")] = None,
    label: Annotated[str | None, typer.Option(help="Those with this label, NAME=VALUE.")] = None,
    since: Annotated[str | None, typer.Option(help='Those quarantined since then: "2h" ago, or a time.')] = None,
    by: Annotated[str | None, typer.Option(help="Those quarantined by `appraisal`, or by an `operator`.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show them.")] = False,
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Release quarantined devices that belong together, all by one act. Shows them first, and asks.

    What quarantined them must be mended before, or their next attestation does it again.
    """
    with failing(as_json=as_json):
        if as_json and not (yes or dry_run):
            raise typer.BadParameter("--json needs --yes or --dry-run: nobody can be asked.")
        wanted: dict[str, Any] = {"site": site, "tier": tier, "label": label, "by": by}
        if since is not None:
            wanted["since"] = cohorts.since(since, now=datetime.now(UTC))
        cohort = {name: value for name, value in wanted.items() if value is not None}
        api = service(dir)
        seen = api.post("/devices/release-cohort", {**cohort, "dry_run": True})
        if not as_json:
            say(cohorts.described(seen))
        if dry_run:
            emit(seen, as_json=as_json, text=f"{seen['count']} devices would be active.")
            return
        if seen["count"] and not yes:
            typer.confirm(f"Release {seen['count']} devices?", abort=True)
        released = cohorts.release(api, cohort, count=seen["count"], reason=reason)
        emit({"released": released}, as_json=as_json, text=f"{released} devices are active.")


@app.command()
def demand(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Devices' ids.")] = None,
    site: Annotated[str | None, typer.Option(help="Instead: all devices of this site.")] = None,
    tier: Annotated[str | None, typer.Option(help="Instead: all devices of this tier.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Instead: with this label, NAME=VALUE; repeatable.")] = None,
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Demand that devices attest now. Agents ask for it every so often; who stays silent soon gets no credentials.

    What is named beside each other must all hold. A large cohort is taken act by act.
    """
    with failing(as_json=as_json):
        message: dict[str, Any] = {"reason": reason}
        message |= {name: value for name, value in (("site", site), ("tier", tier)) if value is not None}
        if label:
            message["labels"] = dict(_label(entry) for entry in label)
        api = service(dir)
        demanded: list[str] = []
        for named in _batches(ids or []):
            after: str | None = None
            while True:
                said = message | ({"ids": named} if named else {}) | ({"after": after} if after else {})
                done = api.post("/devices/demand", said)
                demanded += done["demanded"]
                if (after := done["after"]) is None:
                    break
        emit(demanded, as_json=as_json, text="\n".join([*demanded, f"{len(demanded)} devices shall attest now."]))


def _batches(ids: list[str]) -> list[list[str]]:
    """As many as one act takes; one empty batch for who names none."""
    return [ids[start : start + _NAMED_AT_ONCE] for start in range(0, max(1, len(ids)), _NAMED_AT_ONCE)]


@app.command()
def retire(id: Id, dir: Dir = DEFAULT_DIR, reason: Reason = "", as_json: Json = False) -> None:
    """Retire a device for good: all its credentials are revoked. If it enrolls again, it waits for approval."""
    with failing(as_json=as_json):
        _act(dir, id, "retire", {"reason": reason}, as_json)


@app.command()
def replace(
    id: Id,
    ek_hash: Annotated[str, typer.Option(help="The new TPM's EK hash, from `attestd-agent evidence` on the device.")],
    dir: Dir = DEFAULT_DIR,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Give a device's identity to another TPM: its old credentials are revoked and its old TPM blocked for ever."""
    with failing(as_json=as_json):
        _act(dir, id, "replace", {"ek_hash": ek_hash, "reason": reason}, as_json)


def _act(dir: Path, id: str, verb: str, message: dict[str, Any], as_json: bool) -> None:
    document = service(dir).post(f"/devices/{id}/{verb}", message)
    device = document["device"]
    emit(device, as_json=as_json, text=f"{device['id']} is {device['state']}.")
