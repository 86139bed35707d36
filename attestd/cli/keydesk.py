"""One instance's keys, settings and registry, as one command works with them: what `attestd ca` does."""

from __future__ import annotations

import getpass
import os
import pwd
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from attestd.ca.authorities import Lifetimes
from attestd.ca.keystore import encrypts
from attestd.ca.manifest import Entry
from attestd.ca.reading import names_issuer
from attestd.ca.rollover import Rollover
from attestd.ca.rotation import Rotation, Stage, StillNeeded, alone
from attestd.ca.sealing import SealingKey, read_sealing_file
from attestd.ca.unlocking import PassphraseMissing, Unlocking
from attestd.cli.instance import now, unlocking_of
from attestd.cli.output import moment
from attestd.config import Settings
from attestd.operations import Act
from attestd.operations.authority import ROTATING, Authority, NextStage
from attestd.registry import revision
from attestd.registry.engine import Registry


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
        self.authority = Authority(self.settings, self.registry, self._sealing)

    def rotation(self) -> Rotation:
        """Of everything but roots."""
        return Rotation(
            self.dir, self.unlocking, self.lifetimes, self.authority.pace, self._needed, self.now, os.urandom
        )

    def rollover(self) -> Rollover:
        """Of roots."""
        pace = self.authority.pace("issuers")
        return Rollover(self.dir, self.unlocking, self.lifetimes, pace, self.now, os.urandom)

    def rotate(self, kind: str, stage: Stage | None, *, at_once: bool) -> tuple[tuple[Stage, str], NextStage]:
        """1. What is to be done. 2. The audit row. 3. The act. 4. Bundles say it."""
        with alone(self.dir):
            if kind == "root":
                rollover = self.rollover()
                planned = rollover.plan(stage, at_once=at_once)
                self.note(f"{planned[0]}-key", kind, name=planned[1])
                rollover.do(*planned)
                following = self.authority.stages(self.now)[0]
            else:
                rotation, rotating = self.rotation(), ROTATING[kind]
                planned = rotation.plan(rotating, stage, at_once=at_once)
                self.note(f"{planned[0]}-key", kind, name=planned[1])
                rotation.do(rotating, *planned)
                following = next(stage for stage in self.authority.stages(self.now) if stage.kind == kind)
        with self.registry.acting() as c:
            revision.bump(c)
        return planned, following

    def note(self, act: str, subject: str, **detail: Any) -> None:
        """The audit row of what is done next, by the local user."""
        with self.registry.acting() as c:
            Act(f"{_user()} (attestd ca)", self.now, "local").note(c, act, subject, **detail)

    def _sealing(self) -> Sequence[SealingKey] | None:
        """Sealing keys stay shut where nobody can give the passphrase."""
        if encrypts(self.dir):
            try:
                self.unlocking.passphrase()
            except PassphraseMissing:
                return None
        return read_sealing_file(self.dir / "keys" / "sealing.json", self.unlocking)

    def _needed(self, entry: Entry) -> None:
        """Raises StillNeeded while a certificate of this issuer is valid, the service's own included."""
        issuer = self.authority.certificate(entry.name)
        own = self.dir / "tls" / "server.pem"
        if own.exists():
            served = x509.load_pem_x509_certificates(own.read_bytes())[0]
            if names_issuer(served, issuer):
                raise StillNeeded(
                    "The service's own TLS certificate is of this issuer.",
                    remedy="A running service replaces it within seconds; start it if it is not running.",
                )
        if (ends := self.authority.last_end(entry, self.now)) is not None:
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


def _user() -> str:
    """The local user, by the kernel's word and not the environment's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
