"""One instance's keys, settings and registry, as one command works with them: what `attestd ca` does."""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from attestd.ca.authorities import Lifetimes
from attestd.ca.keystore import encrypts, key_path
from attestd.ca.manifest import KINDS, Entry, read_manifest
from attestd.ca.reading import names_issuer
from attestd.ca.rollover import Rollover
from attestd.ca.rotation import Due, Pace, Rotating, Rotation, Stage, StillNeeded, alone
from attestd.ca.sealing import read_sealing_file
from attestd.ca.signer import load_certificate
from attestd.ca.unlocking import PassphraseMissing, Unlocking, is_encrypted
from attestd.cli.instance import now, unlocking_of
from attestd.cli.output import moment
from attestd.config import Settings
from attestd.operations import Act
from attestd.registry import issued, revision
from attestd.registry.engine import Registry

ROTATING: dict[str, Rotating] = {
    "issuer": "issuers",
    "bundle": "bundle_signers",
    "audit": "audit_signers",
    "token": "token_keys",
    "sealing": "sealing_keys",
}
# Those who fetch the root and the token keys may keep them this long (`web.publishing`).
_CACHED = timedelta(minutes=5)
# Processes and instances on other machines take up new files, and answer what they have begun.
_SPREAD = timedelta(minutes=2)


class KeyDesk:
    """One instance's keys, settings and registry, for one command."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self.settings: Settings = Settings.load(dir, os.environ)
        self.unlocking: Unlocking = unlocking_of(self.settings, os.environ, ask=asker())
        self.registry: Registry = Registry.open(self.settings.database_url)
        self.now: datetime = now()
        said = self.settings.credentials
        self.lifetimes = Lifetimes(root=said.root_lifetime, issuer=said.issuer_lifetime)

    def rotation(self) -> Rotation:
        """Of everything but roots."""
        return Rotation(self.dir, self.unlocking, self.lifetimes, self.pace, self._needed, self.now, os.urandom)

    def rollover(self) -> Rollover:
        """Of roots."""
        pace = self.pace("issuers")
        return Rollover(self.dir, self.unlocking, self.lifetimes, pace, self.now, os.urandom)

    def pace(self, kind: Rotating) -> Pace:
        """How long what is new needs to reach everybody, and what is old to be forgotten by everybody."""
        settings = self.settings
        edges = max(settings.bundle.stale_after, _CACHED)
        sealed = max(settings.enrollment.challenge_lifetime, settings.enrollment.nonce_lifetime)
        publish, keep = {
            "issuers": (edges, timedelta(0)),  # kept while a certificate of it is valid: `_needed`
            "bundle_signers": (_SPREAD, settings.bundle.stale_after + _SPREAD),
            "audit_signers": (_SPREAD, _SPREAD),
            "token_keys": (edges, settings.credentials.token_lifetime + _SPREAD),
            "sealing_keys": (_SPREAD, sealed + _SPREAD),
        }[kind]
        return Pace(int(publish.total_seconds()), int(keep.total_seconds()))

    def rotate(self, kind: str, stage: Stage | None, *, at_once: bool) -> tuple[tuple[Stage, str], Due]:
        """1. What is to be done. 2. The audit row. 3. The act. 4. Bundles say it."""
        with alone(self.dir):
            if kind == "root":
                rollover = self.rollover()
                planned = rollover.plan(stage, at_once=at_once)
                self.note(f"{planned[0]}-key", kind, name=planned[1])
                rollover.do(*planned)
                following = rollover.due()
            else:
                rotation, rotating = self.rotation(), ROTATING[kind]
                planned = rotation.plan(rotating, stage, at_once=at_once)
                self.note(f"{planned[0]}-key", kind, name=planned[1])
                rotation.do(rotating, *planned)
                following = self._due(rotation, rotating)
        with self.registry.acting() as c:
            revision.bump(c)
        return planned, following

    def note(self, act: str, subject: str, **detail: Any) -> None:
        """The audit row of what is done next, by the local user."""
        with self.registry.acting() as c:
            Act(f"{_user()} (attestd ca)", self.now, "local").note(c, act, subject, **detail)

    def dues(self) -> list[tuple[str, Due]]:
        """The next stage of each kind."""
        rotation = self.rotation()
        return [("root", self.rollover().due())] + [
            (name, self._due(rotation, kind)) for name, kind in ROTATING.items() if self._readable(kind)
        ]

    def _readable(self, kind: Rotating) -> bool:
        """Sealing keys stay shut where nobody can give the passphrase."""
        if kind == "sealing_keys" and encrypts(self.dir):
            try:
                self.unlocking.passphrase()
            except PassphraseMissing:
                return False
        return True

    def rows(self) -> list[dict[str, Any]]:
        """Every key, for a table."""
        names: dict[str, str] = {"roots": "root"} | {kind: name for name, kind in ROTATING.items()}
        manifest, rows = read_manifest(self.dir), []
        for kind in KINDS:
            for entry in manifest.entries[kind]:
                ends = None
                if kind != "token_keys":
                    certificate = load_certificate(self.dir / "ca" / f"{entry.name}.pem")
                    ends = int(certificate.not_valid_after_utc.timestamp())
                place = _place(entry, key_path(self.dir, entry.name))
                row = {"kind": names[kind], "name": entry.name, "state": entry.state, "since": entry.since}
                rows.append(row | {"ends": ends, "place": place})
        if self._readable("sealing_keys"):
            for key in read_sealing_file(self.dir / "keys" / "sealing.json", self.unlocking):
                row = {"kind": "sealing", "name": key.id.hex(), "state": key.state, "since": key.since}
                rows.append(row | {"ends": None, "place": "file"})
        return rows

    def _due(self, rotation: Rotation, kind: Rotating) -> Due:
        """For an old issuer: when its last certificate has ended."""
        due = rotation.due(kind)
        if kind == "issuers" and due.stage == "retire":
            old = min((e for e in read_manifest(self.dir).entries[kind] if e.state == "old"), key=lambda e: e.since)
            return replace(due, at=max(due.at, self._ends(old) or 0))
        return due

    def _ends(self, entry: Entry) -> int | None:
        """When the last certificate of an old issuer ends; None if none is valid."""
        issuer = load_certificate(self.dir / "ca" / f"{entry.name}.pem")
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        begun_by = entry.since + int(_SPREAD.total_seconds())  # processes that had not heard yet
        with self.registry.reading() as c:
            return issued.last_end(c, issuer_id=own, begun_by=begun_by, now=int(self.now.timestamp()))

    def _needed(self, entry: Entry) -> None:
        """Raises StillNeeded while a certificate of this issuer is valid, the service's own included."""
        issuer = load_certificate(self.dir / "ca" / f"{entry.name}.pem")
        own = self.dir / "tls" / "server.pem"
        if own.exists():
            served = x509.load_pem_x509_certificates(own.read_bytes())[0]
            if names_issuer(served, issuer):
                raise StillNeeded(
                    "The service's own TLS certificate is of this issuer.",
                    remedy="A running service replaces it within seconds; start it if it is not running.",
                )
        if (ends := self._ends(entry)) is not None:
            raise StillNeeded("Certificates of this issuer are valid.", expected=f"retired after {moment(ends)}")


def asker() -> Callable[[], bytes] | None:
    """Asks on a terminal, once a command; None where nobody sits."""
    if not os.isatty(0):
        return None
    said: list[bytes] = []

    def ask() -> bytes:
        if not said:
            said.append(getpass.getpass("Passphrase of the keys: ").encode())
        return said[0]

    return ask


def _place(entry: Entry, path: Path) -> str:
    if entry.label is not None:
        return f"token: {entry.label}"
    if not path.exists():
        return "elsewhere"
    return "encrypted file" if is_encrypted(path.read_bytes()[:64]) else "file"


def _user() -> str:
    """The local user, by the kernel's word and not the environment's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
