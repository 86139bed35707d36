"""How an instance's authority stands: its keys, what each waits for, and how long what it makes lasts (docs/keys.md).

Nothing here touches a private key. `attestd ca` acts by it, and the admin API shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509

from attestd.ca.keystore import key_path
from attestd.ca.manifest import CERTIFICATES, KINDS, Entry, KeyState, read_manifest
from attestd.ca.rotation import Due, Pace, Rotating, due
from attestd.ca.signer import load_certificate
from attestd.ca.unlocking import is_encrypted
from attestd.config import Settings
from attestd.registry import issued
from attestd.registry.engine import Registry

# What people call each kind, in the order in which they are listed.
ROTATING: Final[Mapping[str, Rotating]] = {
    "issuer": "issuers",
    "bundle": "bundle_signers",
    "audit": "audit_signers",
    "token": "token_keys",
    "sealing": "sealing_keys",
}
ROOT: Final = "root"
# Those who fetch the root and the token keys may keep them this long (`web.publishing`).
_CACHED: Final = timedelta(minutes=5)
# Processes and instances on other machines take up new files, and answer what they have begun.
SPREAD: Final = timedelta(minutes=2)


class HeldSealing(Protocol):
    """A sealing key's name and place in its rotation; its secret is nobody's business here."""

    @property
    def id(self) -> bytes: ...

    @property
    def state(self) -> KeyState: ...

    @property
    def since(self) -> int: ...


@dataclass(frozen=True, slots=True)
class AuthorityKey:
    """One key. `since` when it came to its state (0: nobody noted), `ends` with its certificate (None: it has none);
    unix seconds. `place` is file, encrypted file, "token: LABEL", or elsewhere."""

    kind: str
    name: str
    state: KeyState
    since: int
    ends: int | None
    place: str


@dataclass(frozen=True, slots=True)
class NextStage:
    """What comes next for the keys of a kind, and from when on it may be done (0: at any time)."""

    kind: str
    stage: str
    at: int


@dataclass(frozen=True, slots=True)
class Authority:
    """One instance's authority. `sealing` answers None where nobody can open the sealing keys' file."""

    settings: Settings
    registry: Registry
    sealing: Callable[[], Sequence[HeldSealing] | None]

    @property
    def folder(self) -> Path:
        return self.settings.dir

    def pace(self, kind: Rotating) -> Pace:
        """How long what is new needs to reach everybody, and what is old to be forgotten by everybody."""
        settings = self.settings
        edges = max(settings.bundle.stale_after, _CACHED)
        sealed = max(settings.enrollment.challenge_lifetime, settings.enrollment.nonce_lifetime)
        publish, keep = {
            "issuers": (edges, timedelta(0)),  # kept while a certificate of it is valid: `ends`
            "bundle_signers": (SPREAD, settings.bundle.stale_after + SPREAD),
            "audit_signers": (SPREAD, SPREAD),
            "token_keys": (edges, settings.credentials.token_lifetime + SPREAD),
            "sealing_keys": (SPREAD, sealed + SPREAD),
        }[kind]
        return Pace(int(publish.total_seconds()), int(keep.total_seconds()))

    def held(self) -> list[AuthorityKey]:
        """Every key. Raises the errors of `read_manifest`."""
        names: dict[str, str] = {"roots": ROOT} | {kind: name for name, kind in ROTATING.items()}
        manifest, found = read_manifest(self.folder), []
        for kind in KINDS:
            for entry in manifest.entries[kind]:
                ends = None
                if kind != "token_keys":
                    ends = int(self.certificate(entry.name).not_valid_after_utc.timestamp())
                place = _place(entry, key_path(self.folder, entry.name))
                found.append(AuthorityKey(names[kind], entry.name, entry.state, entry.since, ends, place))
        for key in self.sealing() or ():
            found.append(AuthorityKey("sealing", key.id.hex(), key.state, key.since, None, "file"))
        return found

    def stages(self, now: datetime) -> list[NextStage]:
        """The next stage of each kind, the root's first."""
        entries = read_manifest(self.folder).entries
        found = [_next(ROOT, due(entries["roots"], self.pace("issuers")))]
        for name, kind in ROTATING.items():
            if kind == "sealing_keys":
                if (held := self.sealing()) is not None:
                    found.append(_next(name, due(held, self.pace(kind))))
            elif kind == "issuers":
                found.append(_next(name, self._issuers_due(entries[kind], now)))
            else:
                found.append(_next(name, due(entries[kind], self.pace(kind))))
        return found

    def _issuers_due(self, entries: Sequence[Entry], now: datetime) -> Due:
        """An old issuer waits until its last certificate has ended."""
        coming = due(entries, self.pace("issuers"))
        if coming.stage == "retire":
            old = min((entry for entry in entries if entry.state == "old"), key=lambda entry: entry.since)
            return replace(coming, at=max(coming.at, self.last_end(old, now) or 0))
        return coming

    def last_end(self, entry: Entry, now: datetime) -> int | None:
        """When the last certificate of an old issuer ends; None if none is valid."""
        own = self.certificate(entry.name).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        begun_by = entry.since + int(SPREAD.total_seconds())  # processes that had not heard yet
        with self.registry.reading() as c:
            return issued.last_end(c, issuer_id=own, begun_by=begun_by, now=int(now.timestamp()))

    def certificates(self) -> list[tuple[str, x509.Certificate]]:
        """What signs, and what vouches for it: by the kind of key, the root first; `cross` is what one root says for
        another's key."""
        manifest = read_manifest(self.folder)
        names: dict[str, str] = {"roots": ROOT} | {kind: name for name, kind in ROTATING.items()}
        found = [
            (names[kind], self.certificate(entry.name))
            for kind in KINDS
            if kind != "token_keys"
            for entry in manifest.entries[kind]
        ]
        return found + [("cross", self.certificate(name)) for name in manifest.crosses]

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate of a key. Raises the errors of `load_certificate`."""
        return load_certificate(self.folder / CERTIFICATES / f"{name}.pem")


def _next(kind: str, coming: Due) -> NextStage:
    return NextStage(kind, coming.stage, coming.at)


def _place(entry: Entry, path: Path) -> str:
    if entry.label is not None:
        return f"token: {entry.label}"
    if not path.exists():
        return "elsewhere"
    return "encrypted file" if is_encrypted(path.read_bytes()[:64]) else "file"
