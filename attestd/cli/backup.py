"""`attestd backup`, `restore`, `upgrade`: they work where the instance's folder is, and act on it directly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from attestd.cli.options import DEFAULT_DIR, Dir, Json
from attestd.cli.output import emit, failing, moment, report
from attestd.errors import Conflict, Misconfigured, Unavailable

_MAX_PASSPHRASE = 1024  # octets

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="A file (mode 0600) with the passphrase that the backup is encrypted with."),
]


class BundleUnsaid(Misconfigured):
    """Nothing was said about the newest bundle"""

    remedy = (
        "Copy bundle.json from the state folder of the edge that was connected last, and name it: --bundle FILE. If no "
        "edge has one, say --without-bundle: every device then waits in quarantine for your word."
    )


class ServiceRunning(Conflict):
    """The service is running"""

    remedy = "Stop every process of the service that uses this database, then run the command again."


def backup(
    file: Annotated[Path, typer.Argument(help="Where the backup goes; a file that exists is never overwritten.")],
    dir: Dir = DEFAULT_DIR,
    passphrase_file: PassphraseFile = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Leave the private keys out; keep them elsewhere, then.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Back the instance up: registry, settings, certificates and keys of one moment, also while the service runs.

    The file holds everything that the instance is. Without --passphrase-file it is as secret as the keys folder.
    """
    from importlib.metadata import version

    from attestd.backups.making import make_backup
    from attestd.cli.instance import now
    from attestd.config import Settings
    from attestd.registry.engine import Registry

    with failing(as_json=as_json):
        settings = Settings.load(dir, os.environ)
        registry = Registry(settings.database_url)
        try:
            made = make_backup(
                file,
                settings,
                registry,
                now=now(),
                version=version("attestd-fleet"),
                entropy=os.urandom,
                keys=not without_keys,
                passphrase=_passphrase(passphrase_file),
            )
            _note(registry, made.made_at, without_keys=without_keys, encrypted=passphrase_file is not None)
        finally:
            registry.close()
        rows = sum(made.rows.values())
        text = f"{file}: {rows} rows and {made.files} files of {moment(made.made_at)}, {made.octets} octets."
        emit({"file": str(file)} | asdict(made), as_json=as_json, text=text)


def _note(registry: Any, at: int, **detail: Any) -> None:
    """The audit row. A registry that can't be written can be backed up all the same, and now more than ever."""
    from attestd.registry import audit

    try:
        if registry.schema_is_current():
            with registry.acting() as c:
                audit.append(
                    c,
                    at=at,
                    actor="attestd backup",
                    act="backup",
                    subject="registry",
                    request_id="local",
                    detail=detail,
                )
    except Unavailable as error:
        report(error)


def restore(
    file: Annotated[Path, typer.Argument(help="The backup.")],
    dir: Annotated[Path, typer.Option(help="The new instance's folder: empty or absent.")],
    database: Annotated[
        str | None,
        typer.Option(envvar="ATTESTD_DATABASE_URL", help="An empty PostgreSQL database to restore into."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="The newest bundle of any edge: bundle.json in its state folder.")
    ] = None,
    without_bundle: Annotated[
        bool, typer.Option("--without-bundle", help="There is none: every device waits in quarantine.")
    ] = False,
    keys: Annotated[
        Path | None, typer.Option(help="The folder with the private keys, for a backup made without them.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make an instance from a backup. Every device attests again before it gets anything; edges follow by themselves.

    What was quarantined, retired, replaced or revoked after the backup is in no backup: the newest bundle of an edge
    says it. Make sure that the old instance never runs again.
    """
    from attestd.backups.reading import open_backup
    from attestd.backups.restoring import restore as restore_backup
    from attestd.cli.instance import ADMIN, now

    with failing(as_json=as_json):
        if (bundle is None) != without_bundle:
            raise BundleUnsaid
        with open_backup(file, passphrase=_passphrase(passphrase_file)) as found:
            done = restore_backup(
                found,
                dir,
                database=database,
                bundle=None if bundle is None else _bundle(bundle),
                keys=keys,
                now=now(),
                entropy=os.urandom,
                environ=os.environ,
                keep_operator=ADMIN,
                unlock=_unlocking,
                finish=_finish,
            )
        recovered = done.recovered
        document: dict[str, Any] = {
            "dir": str(dir),
            "database": done.database,
            "trust_domain": str(done.manifest.trust_domain),
            "made_at": done.manifest.made_at,
            "bundle_issued_at": done.bundle_issued_at,
            **asdict(recovered),
        }
        emit(document, as_json=as_json, text=_told(document))


def _told(done: Mapping[str, Any]) -> str:
    known = done["bundle_issued_at"] or done["made_at"]
    lines = [
        f"Instance {done['dir']} is restored: {done['devices']} devices of {moment(done['made_at'])}, epoch "
        f"{done['epoch']}.",
        f"  quarantined     {done['quarantined']} devices; those that attest well come back by `attestd devices "
        "release --restored`",
        f"  not known       whom you approved, disabled or distrusted after {moment(known)}: look at the lists of "
        "devices, proxies and TPM makers",
        f"  admin key       {done['dir']}/admin/admin.key is a new one; copies of the old one are worth nothing",
    ]
    if disabled := done["operators_disabled"]:
        lines.append(f"  operators       {', '.join(disabled)}: disabled; `attestd operators add` brings each one back")
    return "\n".join([*lines, f"Next: attestd serve --dir {done['dir']}, and never the old instance again."])


def _finish(draft: Path, environ: Mapping[str, str], manifest: Any) -> None:
    """Opens the draft as a service would."""
    from attestd.cli.instance import now, open_instance, renew_admin

    instance = open_instance(draft, environ)
    try:
        renew_proxies(instance.service.certifying, made_at=manifest.made_at, at=now())
        renew_admin(instance, now())
    finally:
        instance.registry.close()


def renew_proxies(certifying: Any, *, made_at: int, at: datetime) -> None:
    """Certificates for the proxies that had good ones at the time of the backup: a day later they would be shut out."""
    from attestd.operations import Act
    from attestd.registry import issued, proxies

    with certifying.registry.reading() as c:
        alive = []
        for proxy in proxies.every(c):
            with suppress(issued.UnknownCredential):  # forgotten, long after it expired
                held = issued.by_serial(c, proxy.serial)
                if proxy.disabled_at is None and held.revoked_at is None and held.not_after > made_at:
                    alive.append(proxy.name)
    for name in alive:
        certifying.renew_proxy(name, Act(actor="attestd restore", now=at, request_id="local"))


def upgrade(
    dir: Dir = DEFAULT_DIR,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring an instance up to this program: its tables, and keys that older versions did not make.

    Make a backup first, and stop the service: a process of the older version must not go on with newer tables.
    """
    from attestd.ca.manifest import read_manifest
    from attestd.cli.answering import running_url
    from attestd.cli.instance import now
    from attestd.config import Settings
    from attestd.registry.engine import Registry, SchemaTooNew
    from attestd.registry.tables import SCHEMA

    with failing(as_json=as_json):
        settings = Settings.load(dir, os.environ)
        registry = Registry(settings.database_url)
        try:
            seen = registry.schema()
            if seen is not None and seen > SCHEMA:
                raise SchemaTooNew(seen=seen, expected=SCHEMA)
            lacks = read_manifest(dir).lacks
            steps = [] if seen == SCHEMA else [f"tables: {seen or 'none'} -> {SCHEMA}"]
            steps += [f"keys: {kind}" for kind in lacks]
            if steps and not dry_run:
                if (url := running_url(dir)) is not None:
                    raise ServiceRunning(seen=url)
                registry.migrate()
                _complete(settings)
        finally:
            registry.close()
        done = [] if dry_run else steps
        said = "Would do" if dry_run else "Done"
        text = "\n".join([f"{said}:", *(f"  {step}" for step in steps)]) if steps else "Nothing to do."
        emit({"steps": steps, "done": done, "at": int(now().timestamp())}, as_json=as_json, text=text)


def _complete(settings: Any) -> None:
    from attestd.ca.hierarchy import complete_hierarchy
    from attestd.cli.instance import now

    complete_hierarchy(settings.dir, now=now(), entropy=os.urandom, unlocking=_unlocking(settings))


def _unlocking(settings: Any) -> Any:
    from attestd.cli.instance import unlocking_of

    return unlocking_of(settings, os.environ)


def _passphrase(file: Path | None) -> bytes | None:
    from attestd.ca.keyfiles import read_secret

    if file is None:
        return None
    return read_secret(file, limit=_MAX_PASSPHRASE).removesuffix(b"\n").removesuffix(b"\r")


def _bundle(file: Path) -> bytes:
    from attestd.backups.reading import BackupUnreadable
    from attestd.credentials.copies import MAX_COPY

    try:
        with file.open("rb") as opened:
            return opened.read(MAX_COPY + 1)
    except OSError as error:
        raise BackupUnreadable(f"{file} can't be read: {error.strerror}.") from None


def release_restored(api: Any, *, attested: bool, reason: str) -> list[str]:
    """Devices that a restore quarantined for want of knowledge become active; returns their ids.

    `attested`: those that have attested since, and not badly. Else those that never enrolled. A device that the newest
    bundle spoke against is neither: an operator names it, or it stays.
    """
    from attestd.registry.recovery import NEVER_SEEN, UNKNOWN_SINCE

    released: list[str] = []
    after: str | None = None
    while True:
        page = api.get("/devices", state="quarantined", after=after, limit=1000)
        for device in page["devices"]:
            good = device["attested_at"] is not None and device["result"]["status"] != "contraindicated"
            if device["state_reason"] == (UNKNOWN_SINCE if attested else NEVER_SEEN) and (good or not attested):
                api.post(f"/devices/{device['id']}/release", {"reason": reason or "restored"})
                released.append(device["id"])
        after = page.get("after")
        if not after:
            return released
