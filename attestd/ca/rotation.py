"""Replacing keys without anybody noticing: each goes through next, current and old.

    prepare     a next key is made and published: relying parties and other processes get to know it
    activate    it becomes current, the current one old; what the old one signed is still good
    retire      the old one is forgotten, and its private key destroyed, once nothing that it signed counts any more

A stage is one replacement of one file, so whatever is interrupted is simply done again. Roots: `rollover`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from attestd.ca.authorities import Ceremony, Lifetimes
from attestd.ca.hierarchy import root_signer, write_certificate
from attestd.ca.keyfiles import replace_secret
from attestd.ca.keystore import encrypts, key_path, open_store
from attestd.ca.manifest import (
    CERTIFICATES,
    KEYS,
    MAX_ENTRIES,
    Entry,
    KeyState,
    Kind,
    Manifest,
    read_manifest,
    write_manifest,
)
from attestd.ca.pkcs11 import KeyToken
from attestd.ca.sealing import SEALING, SealingKey, read_sealing_file, sealing_file
from attestd.ca.signer import Signer, SigningKey
from attestd.ca.unlocking import Unlocking, seal_file
from attestd.errors import Conflict, Unavailable

Stage = Literal["prepare", "activate", "retire"]
Rotating = Literal["issuers", "bundle_signers", "audit_signers", "token_keys", "sealing_keys"]

_NAMES: dict[Rotating, str] = {
    "issuers": "issuer",
    "bundle_signers": "bundle",
    "audit_signers": "audit",
    "token_keys": "token",
    "sealing_keys": "sealing",
}


class StageNotDue(Conflict):
    """It is too early for this stage"""

    remedy = "Wait until then, or say --now if every relying party has been told."


class StillNeeded(Conflict):
    """What this key signed is still in use"""

    remedy = "Wait until it has ended; meanwhile the key is kept and published."


class StageImpossible(Conflict):
    """There is nothing to do this stage with"""

    remedy = "`attestd ca list` shows what there is and what is due."


class KeysBusy(Unavailable):
    """Another command is changing the keys"""

    remedy = "Wait for it, then look at `attestd ca list`."


class Held(Protocol):
    """A key's place in its rotation."""

    @property
    def state(self) -> KeyState: ...

    @property
    def since(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Due:
    """The next stage, and from when on it may be done (unix seconds)."""

    stage: Stage
    at: int


@dataclass(frozen=True, slots=True)
class Pace:
    """For how long a next key is published before it signs, and an old one is kept after it did; in seconds."""

    publish: int
    keep: int


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that was done, and with which key."""

    stage: Stage
    name: str


def due(held: Sequence[Held], pace: Pace) -> Due:
    """What comes next for keys of one kind. An old key is retired before the next rotation begins."""
    if old := [key.since for key in held if key.state == "old"]:
        return Due("retire", min(old) + pace.keep)
    if following := [key.since for key in held if key.state == "next"]:
        return Due("activate", min(following) + pace.publish)
    return Due("prepare", 0)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The keys of one instance, to be rotated. `needed` raises StillNeeded for an issuer whose certificates count.

    `pace` says for each kind how long its stages take; `now` and `entropy` as everywhere.
    """

    folder: Path
    unlocking: Unlocking
    lifetimes: Lifetimes
    pace: Callable[[Rotating], Pace]
    needed: Callable[[Entry], None]
    now: datetime
    entropy: Callable[[int], bytes]

    def due(self, kind: Rotating) -> Due:
        """Raises the errors of `read_manifest`, and those of `read_sealing_file` for sealing keys."""
        return due(self._held(kind), self.pace(kind))

    def plan(self, kind: Rotating, stage: Stage | None, *, at_once: bool) -> tuple[Stage, str]:
        """The stage that is to be done (the due one unless `stage` names another) and its key's name.

        Raises StageNotDue unless `at_once`, StageImpossible, StillNeeded.
        """
        found = self.due(kind)
        chosen = found.stage if stage is None else stage
        held = self._held(kind)
        seconds = int(self.now.timestamp())
        wanted: dict[Stage, KeyState] = {"activate": "next", "retire": "old"}
        if chosen == "prepare":
            if any(key.state == "next" for key in held) or len(held) >= MAX_ENTRIES:
                raise StageImpossible("There is a next key already.", expected="activate")
            return chosen, f"{_NAMES[kind]}-{self.entropy(4).hex()}"
        ready = sorted((key for key in held if key.state == wanted[chosen]), key=lambda key: key.since)
        if not ready:
            raise StageImpossible(f"No key is {wanted[chosen]}.", seen=found.stage, expected=chosen)
        pace = self.pace(kind)
        from_then = ready[0].since + (pace.publish if chosen == "activate" else pace.keep)
        if isinstance(ready[0], Entry) and chosen == "retire" and kind == "issuers":
            self.needed(ready[0])  # whatever anybody says: its certificates would fail
        elif seconds < from_then and not at_once:
            raise StageNotDue(
                f"It is too early to {chosen} {_NAMES[kind]} keys.",
                seen=_moment(seconds),
                expected=f"{_moment(from_then)} or later",
            )
        return chosen, _name(ready[0])

    def do(self, kind: Rotating, stage: Stage, name: str) -> Done:
        """Does what `plan` planned. Raises RootKeyAbsent for keys that need the root's word, and the store's errors."""
        if kind == "sealing_keys":
            self._rotate_sealing(stage, name)
            return Done(stage, name)
        manifest = read_manifest(self.folder)
        entries = manifest.entries[kind]
        if stage == "prepare":
            entries = (*entries, self._make(kind, name, manifest))
        else:
            entries = tuple(self._moved(entry, stage, name) for entry in entries if not _gone(entry, stage, name))
        gone = [entry for entry in manifest.entries[kind] if _gone(entry, stage, name)]
        write_manifest(self.folder, manifest.with_entries(kind, entries), entropy=self.entropy)
        for entry in gone:
            destroy(self.folder, manifest, entry, self.unlocking)
        return Done(stage, name)

    def _held(self, kind: Rotating) -> Sequence[Entry] | Sequence[SealingKey]:
        if kind == "sealing_keys":
            return read_sealing_file(self.folder / KEYS / SEALING, self.unlocking)
        return read_manifest(self.folder).entries[kind]

    def _make(self, kind: Kind, name: str, manifest: Manifest) -> Entry:
        store = open_store(self.folder, manifest, self.unlocking, self.entropy)
        signer: Callable[[SigningKey, Signer], Signer] | None = None
        ceremony = Ceremony(manifest.trust_domain, self.now, self.lifetimes, self.entropy)
        if kind == "issuers":
            signer = ceremony.issuer
        elif kind in ("bundle_signers", "audit_signers"):
            signer = ceremony.bundle_signer if kind == "bundle_signers" else ceremony.audit_signer
        root = root_signer(self.folder, manifest, store) if signer is not None else None
        key, label = store.make(name)
        if signer is not None and root is not None:
            write_certificate(self.folder, name, signer(key, root).certificate, entropy=self.entropy)
        return Entry(name, "next", int(self.now.timestamp()), label)

    def _moved(self, entry: Entry, stage: Stage, name: str) -> Entry:
        """An activation makes the next one current and the current one old."""
        if stage != "activate" or not (entry.name == name or entry.state == "current"):
            return entry
        state: KeyState = "current" if entry.name == name else "old"
        return replace(entry, state=state, since=int(self.now.timestamp()))

    def _rotate_sealing(self, stage: Stage, name: str) -> None:
        path, seconds = self.folder / KEYS / SEALING, int(self.now.timestamp())
        keys = list(read_sealing_file(path, self.unlocking))
        if stage == "prepare":
            keys.append(SealingKey.fresh("next", self.entropy, seconds))
        elif stage == "activate":
            states: dict[str, KeyState] = {key.id.hex(): "old" for key in keys if key.state == "current"}
            states[name] = "current"
            keys = [
                replace(key, state=states[key.id.hex()], since=seconds) if key.id.hex() in states else key
                for key in keys
            ]
        else:
            keys = [key for key in keys if key.id.hex() != name]
        data = sealing_file(keys)
        if encrypts(self.folder):
            data = seal_file(data, self.unlocking.passphrase(), self.entropy)
        replace_secret(path, data, entropy=self.entropy)


def destroy(folder: Path, manifest: Manifest, entry: Entry, unlocking: Unlocking) -> None:
    """The private key of a retired entry is gone afterwards: from its file, or from the token."""
    if entry.label is None:
        key_path(folder, entry.name).unlink(missing_ok=True)
    elif manifest.place is not None:
        KeyToken.of(manifest.place, unlocking, folder).destroy(entry.label)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other commands from changing the keys meanwhile. Raises KeysBusy."""
    descriptor = os.open(folder / CERTIFICATES, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeysBusy(seen=str(folder)) from None
        yield
    finally:
        os.close(descriptor)


def _gone(entry: Entry, stage: Stage, name: str) -> bool:
    return stage == "retire" and entry.name == name


def _name(key: Held) -> str:
    return key.name if isinstance(key, Entry) else key.id.hex() if isinstance(key, SealingKey) else ""


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
