"""ca/hierarchy.json: what keys and certificates there are, and where each stands in its rotation.

    {"v": 1, "trust_domain": …, "roots": [entry…], "issuers": […], "bundle_signers": […], "audit_signers": […],
     "token_keys": […], "crosses": [name…], "withdrawn": [name…], "retired": [name…],
     "pkcs11": {"module": …, "token": …}}
    entry = {"name", "state": "current" | "next" | "old", "since": unix seconds, "key": label in the token}

`crosses` are what roots say for each other's keys, `withdrawn` those that no longer count, `retired` former roots: all
certificates alone. `since` says when the key came to its state. A key with a label is in the token, any other in
keys/<name>.pem. The file is replaced whole: it is what makes a new key, or a new state, count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from attestd.ca.keyfiles import KeyFileMissing, read_public, replace_public, write_public
from attestd.errors import InputTooLarge, MalformedInput, Misconfigured
from attestd.ids import TrustDomain
from attestd.protocol.encoding import Members, read_object, write_object

# Where a key stands in its rotation: published before it is used, used, kept while what it signed is still valid.
KeyState = Literal["old", "current", "next"]
KEY_STATES: tuple[KeyState, ...] = ("old", "current", "next")

Kind = Literal["roots", "issuers", "bundle_signers", "audit_signers", "token_keys"]
KINDS: tuple[Kind, ...] = get_args(Kind)

CERTIFICATES, KEYS = "ca", "keys"
MANIFEST = "hierarchy.json"
MAX_MANIFEST = 64 * 1024
MAX_ENTRIES = 16
_MAX_TIME = 1 << 40
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_LABEL = re.compile(r"[ -~]{1,64}", re.ASCII)
_LISTS = ("crosses", "withdrawn", "retired")
_ORDER = ("current", "next", "old")


class HierarchyMissing(Misconfigured):
    """There is no certificate authority here"""

    remedy = (
        "Run `attestd init`. If that was interrupted, remove the folders ca/ and keys/ first: nothing was issued yet."
    )


class ManifestMalformed(Misconfigured):
    """ca/hierarchy.json can't be read"""

    remedy = "Restore the file from the backup of this instance's folder."


@dataclass(frozen=True, slots=True)
class Entry:
    """One key: its name, its state since when (unix seconds; 0 if that was not noted), its label in the token."""

    name: str
    state: KeyState
    since: int = 0
    label: str | None = None

    def to_members(self) -> dict[str, Any]:
        members: dict[str, Any] = {"name": self.name, "state": self.state}
        if self.since:
            members["since"] = self.since
        if self.label is not None:
            members["key"] = self.label
        return members


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """A PKCS #11 token: the module's path, and the token's label."""

    module: str
    token: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What there is. In each tuple the current one comes first, then next, then old."""

    trust_domain: TrustDomain
    entries: Mapping[Kind, tuple[Entry, ...]]
    crosses: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    place: TokenPlace | None = None
    lacks: tuple[Kind, ...] = field(default=(), compare=False)  # kinds that an older version did not know

    def with_entries(self, kind: Kind, entries: Iterable[Entry]) -> Self:
        """A manifest in which this kind has these entries."""
        ordered = tuple(sorted(entries, key=lambda entry: _ORDER.index(entry.state)))
        return replace(self, entries={**self.entries, kind: ordered})

    def to_bytes(self) -> bytes:
        members: dict[str, Any] = {"v": 1, "trust_domain": str(self.trust_domain)}
        members |= {kind: [entry.to_members() for entry in self.entries[kind]] for kind in KINDS}
        members |= {name: list(getattr(self, name)) for name in _LISTS if getattr(self, name)}
        if self.place is not None:
            members["pkcs11"] = {"module": self.place.module, "token": self.place.token}
        return write_object(members)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the instance in `folder`. Raises HierarchyMissing, ManifestMalformed, KeyFileUnreadable."""
    path = folder / CERTIFICATES / MANIFEST
    try:
        data = read_public(path, limit=MAX_MANIFEST)
    except KeyFileMissing:
        raise HierarchyMissing(f"{path} does not exist.") from None
    try:
        members = Members(read_object(data, limit=MAX_MANIFEST, name="file"), "file")
        members.version()
        found = _parse(members)
        members.done()
    except (MalformedInput, InputTooLarge) as error:
        raise ManifestMalformed(f"{path}: {error.detail}", seen=error.seen, expected=error.expected) from None
    names = [entry.name for listed in found.entries.values() for entry in listed]
    names += [*found.crosses, *found.withdrawn, *found.retired]
    if len(set(names)) != len(names):
        raise ManifestMalformed(f"{path} lists a name twice.", seen=", ".join(sorted(names)))
    for kind, listed in found.entries.items():
        current = sum(entry.state == "current" for entry in listed)
        if current != 1 and kind not in found.lacks:
            raise ManifestMalformed(f"{path}: which of the {kind} is current is not certain.", seen=current, expected=1)
    if found.place is None and any(entry.label is not None for listed in found.entries.values() for entry in listed):
        raise ManifestMalformed(f"{path} speaks of keys in a token, and of no token.", expected="pkcs11")
    return found


def write_manifest(folder: Path, manifest: Manifest, *, entropy: Callable[[int], bytes], new: bool = False) -> None:
    """Writes it whole, or over the one that is there unless `new`. Raises KeyFileExists, KeyFileUnwritable."""
    put = write_public if new else replace_public
    put(folder / CERTIFICATES / MANIFEST, manifest.to_bytes(), entropy=entropy)


def _parse(members: Members) -> Manifest:
    domain = TrustDomain(members.text("trust_domain", limit=255))
    # The first release had no signers of audit heads.
    lacks: tuple[Kind, ...] = () if "audit_signers" in members else ("audit_signers",)
    entries: dict[Kind, tuple[Entry, ...]] = {}
    for kind in KINDS:
        listed = () if kind in lacks else members.objects(kind, most=MAX_ENTRIES)
        entries[kind] = tuple(sorted(map(_entry, listed), key=lambda entry: _ORDER.index(entry.state)))
    lists = {name: members.texts(name, most=MAX_ENTRIES, limit=40) if name in members else () for name in _LISTS}
    for name in (name for listed in lists.values() for name in listed):
        _require_name(name)
    place = None
    if "pkcs11" in members:
        token = members.object("pkcs11")
        place = TokenPlace(token.text("module", limit=4096), token.text("token", limit=32))
        token.done()
    return Manifest(domain, entries, **lists, place=place, lacks=lacks)


def _entry(members: Members) -> Entry:
    name, state = members.text("name", limit=40), members.text("state", limit=8)
    since = members.integer("since") if "since" in members else 0
    label = members.text("key", limit=64) if "key" in members else None
    members.done()
    _require_name(name)
    if state not in KEY_STATES:
        raise ManifestMalformed(f"{name} has no known state.", seen=repr(state), expected=", ".join(KEY_STATES))
    if not 0 <= since < _MAX_TIME:
        raise ManifestMalformed(f"{name} came to its state at an impossible time.", seen=since)
    if label is not None and not _LABEL.fullmatch(label):
        raise ManifestMalformed(f"{name} has an impossible label in the token.", seen=repr(label))
    return Entry(name, state, since, label)


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):  # it becomes part of a path
        raise ManifestMalformed("A name in ca/hierarchy.json is not one.", seen=repr(name), expected="a-z 0-9 -")
