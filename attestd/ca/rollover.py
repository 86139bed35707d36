"""From one root to the next, by cross-signing: who pinned the old root gets to the new one by the old one's own word.

    prepare     a new root, of the old one's name; the old root certifies its key, and it certifies the old one's
    activate    the new root is current: what is made from now on hangs under it
    retire      the old root is withdrawn, once nothing in use hangs under it

What the old root says for the new one stays published: devices and edges that slept through all of it still follow.
What the new one says for the old one ends at the retirement: edges refuse it then, and it is short-lived besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from attestd.ca.authorities import Ceremony, Lifetimes
from attestd.ca.hierarchy import root_signer, write_certificate
from attestd.ca.keystore import open_store
from attestd.ca.manifest import CERTIFICATES, MAX_ENTRIES, Entry, Kind, Manifest, read_manifest, write_manifest
from attestd.ca.reading import names_issuer
from attestd.ca.rotation import Done, Due, Pace, Stage, StageImpossible, StageNotDue, StillNeeded, destroy, due
from attestd.ca.signer import load_certificate
from attestd.ca.unlocking import Unlocking
from attestd.errors import Misconfigured

# For how long the new root speaks for the old one's key: what hangs under the old root is replaced within that time.
TRANSITION = timedelta(days=90)
_FORWARD, _BACKWARD = "-by-former", "-for-former"
_BELOW: tuple[Kind, ...] = ("issuers", "bundle_signers", "audit_signers")


class RootTooYoung(Misconfigured):
    """The next root would not begin after the current one"""

    remedy = "Check the clock. Relying parties follow from an earlier root to a later one, never back."


@dataclass(frozen=True, slots=True)
class Rollover:
    """The roots of one instance, to be replaced. Like `Rotation`."""

    folder: Path
    unlocking: Unlocking
    lifetimes: Lifetimes
    pace: Pace
    now: datetime
    entropy: Callable[[int], bytes]

    def due(self) -> Due:
        """Raises the errors of `read_manifest`."""
        return due(read_manifest(self.folder).entries["roots"], self.pace)

    def plan(self, stage: Stage | None, *, at_once: bool) -> tuple[Stage, str]:
        """The stage that is to be done, and the root's name. Raises StageNotDue, StageImpossible, StillNeeded."""
        found = self.due()
        chosen = found.stage if stage is None else stage
        manifest = read_manifest(self.folder)
        roots = manifest.entries["roots"]
        if chosen == "prepare":
            if len(roots) > 1 or len(manifest.crosses) + 2 > MAX_ENTRIES:
                raise StageImpossible("A rollover is under way.", expected=found.stage)
            return chosen, f"root-{self.entropy(4).hex()}"
        wanted = "next" if chosen == "activate" else "old"
        ready = [entry for entry in roots if entry.state == wanted]
        if not ready:
            raise StageImpossible(f"No root is {wanted}.", seen=found.stage, expected=chosen)
        if chosen == "retire":
            self._require_idle(manifest, ready[0])
        if found.stage == chosen and self.now.timestamp() < found.at and not at_once:
            raise StageNotDue(
                f"It is too early to {chosen} a root.", expected=f"{datetime.fromtimestamp(found.at, UTC)} or later"
            )
        return chosen, ready[0].name

    def do(self, stage: Stage, name: str) -> Done:
        """Does what `plan` planned. Raises RootKeyAbsent, RootTooYoung and the store's errors."""
        manifest = read_manifest(self.folder)
        if stage == "prepare":
            manifest = self._prepare(manifest, name)
        elif stage == "activate":
            manifest = manifest.with_entries("roots", [self._moved(e, name) for e in manifest.entries["roots"]])
        else:
            manifest = self._without(manifest, name)
        before = read_manifest(self.folder).entries["roots"]
        write_manifest(self.folder, manifest, entropy=self.entropy)
        for entry in before:
            if stage == "retire" and entry.name == name:
                destroy(self.folder, manifest, entry, self.unlocking)
        return Done(stage, name)

    def _prepare(self, manifest: Manifest, name: str) -> Manifest:
        store = open_store(self.folder, manifest, self.unlocking, self.entropy)
        old = root_signer(self.folder, manifest, store)
        ceremony = Ceremony(manifest.trust_domain, self.now, self.lifetimes, self.entropy)
        key, label = store.make(name)
        new = ceremony.root(key, name=old.certificate.subject)
        if not old.certificate.not_valid_before_utc < new.certificate.not_valid_before_utc:
            raise RootTooYoung(
                seen=new.certificate.not_valid_before_utc, expected=f"after {old.certificate.not_valid_before_utc}"
            )
        forward = ceremony.cross(new.certificate, old, not_after=old.certificate.not_valid_after_utc)
        backward = ceremony.cross(old.certificate, new, not_after=self.now + TRANSITION)
        names = (f"{name}{_FORWARD}", f"{name}{_BACKWARD}")
        for one, certificate in zip((name, *names), (new.certificate, forward, backward), strict=True):
            write_certificate(self.folder, one, certificate, entropy=self.entropy)
        entry = Entry(name, "next", int(self.now.timestamp()), label)
        manifest = manifest.with_entries("roots", (*manifest.entries["roots"], entry))
        standing = tuple(cross for cross in manifest.crosses if self._read(cross).not_valid_after_utc > self.now)
        return replace(manifest, crosses=(*standing, *names))

    def _moved(self, entry: Entry, name: str) -> Entry:
        if not (entry.name == name or entry.state == "current"):
            return entry
        return replace(entry, state="current" if entry.name == name else "old", since=int(self.now.timestamp()))

    def _without(self, manifest: Manifest, name: str) -> Manifest:
        """The root is a former one, and no later one speaks for its key any more."""
        key = self._read(name).public_key()
        spoken = [cross for cross in manifest.crosses if self._read(cross).public_key() == key]
        manifest = manifest.with_entries("roots", [e for e in manifest.entries["roots"] if e.name != name])
        ended = [one for one in manifest.withdrawn if self._read(one).not_valid_after_utc <= self.now]
        # What a root before it says for this one's key still leads sleepers on, by way of this one's own word.
        backward = tuple(one for one in spoken if one.endswith(_BACKWARD))
        return replace(
            manifest,
            crosses=tuple(cross for cross in manifest.crosses if cross not in backward),
            withdrawn=(*(one for one in manifest.withdrawn if one not in ended), *backward),
            retired=(*manifest.retired, name)[-MAX_ENTRIES:],
        )

    def _require_idle(self, manifest: Manifest, root: Entry) -> None:
        certificate = self._read(root.name)
        below = [
            entry.name
            for kind in _BELOW
            for entry in manifest.entries[kind]
            if names_issuer(self._read(entry.name), certificate)
        ]
        if below:
            raise StillNeeded(
                "Keys that this root speaks for are in use.",
                seen=", ".join(below),
                expected="none",
                remedy="Rotate them first: attestd ca rotate issuer, bundle and audit, each until nothing is due.",
            )

    def _read(self, name: str) -> x509.Certificate:
        return load_certificate(self.folder / CERTIFICATES / f"{name}.pem")
