"""Reads an instance's keys and certificates, each matched with what it must fit to, and notes everything wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.authorities import (
    ChainBroken,
    require_audit_signer,
    require_bundle_signer,
    require_cross,
    require_issuer,
    require_root,
)
from attestd.ca.keyfiles import read_secret, require_private_folder
from attestd.ca.keystore import KeyStore, key_path, reading_store
from attestd.ca.manifest import CERTIFICATES, KEYS, Entry, Kind, Manifest, read_manifest
from attestd.ca.sealing import SEALING, SealingKeys
from attestd.ca.signer import MAX_PEM, KeyMismatch, Signer, TokenKey, load_certificate
from attestd.ca.unlocking import Unlocking, is_encrypted
from attestd.credentials.jwk import jwk_thumbprint
from attestd.errors import AttestdError, Misconfigured

_T = TypeVar("_T")
_MAX_CROSSES_IN_CHAIN = 2  # with the leaf and its issuer that is what relying parties take in a chain

# What tells whether a file is still the one that was read: another is put in its place, none is ever changed.
Mark = tuple[int, int, int]


class AuditSignersMissing(Misconfigured):
    """This instance has no key that signs the audit trail's heads"""

    remedy = "Run `attestd upgrade` once; it needs the root's key."


class KeyReused(Misconfigured):
    """One key serves two purposes"""

    remedy = "Restore keys/ from the backup of this instance's folder; each purpose has a key of its own."


@dataclass(frozen=True, slots=True)
class Keys:
    """All authorities and keys of an instance at one moment. In each tuple current comes first, then next, then old."""

    manifest: Manifest
    roots: tuple[x509.Certificate, ...]
    crosses: tuple[x509.Certificate, ...]  # a root's key, certified by another root
    withdrawn: tuple[x509.Certificate, ...]  # crosses that count no more
    retired: tuple[x509.Certificate, ...]  # former roots
    issuers: tuple[Signer, ...]
    bundle_signers: tuple[Signer, ...]
    audit_signers: tuple[Signer, ...]
    token_keys: tuple[TokenKey, ...]
    sealing: SealingKeys
    chains: Mapping[bytes, str]  # an issuer's key identifier -> the PEM of what stands above its leaves
    above: Mapping[bytes, tuple[x509.Certificate, ...]]  # any signer's key identifier -> crosses for its root
    marks: tuple[Mark, ...]
    loaded: Mapping[str, tuple[tuple[Mark, ...], Signer | TokenKey]]


def mark(path: Path) -> Mark:
    """Raises FileNotFoundError."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def marks_of(folder: Path) -> tuple[Mark, ...]:
    """Of the files that change when a key or a state does. Empty while one of them is missing."""
    try:
        return mark(folder / CERTIFICATES / "hierarchy.json"), mark(folder / KEYS / SEALING)
    except FileNotFoundError:
        return ()


class Reading:
    """Reads a hierarchy and notes everything that is wrong with it."""

    def __init__(
        self, folder: Path, unlocking: Unlocking, *, before: Keys | None = None, thorough: bool = False
    ) -> None:
        """Keys of `before` whose files are the same are not opened again. `thorough` opens an encrypted root, too."""
        self._folder = folder
        self._certificates = folder / CERTIFICATES
        self._unlocking = unlocking
        self._before: Mapping[str, tuple[tuple[Mark, ...], Signer | TokenKey]] = before.loaded if before else {}
        self._loaded: dict[str, tuple[tuple[Mark, ...], Signer | TokenKey]] = {}
        self._thorough = thorough
        self.problems: list[AttestdError] = []
        self.certificates: list[x509.Certificate] = []

    def keys(self) -> Keys | None:
        """What there is, or None if a problem was noted.

        1. The manifest says what there is.
        2. Only the owner enters keys/.
        3. Roots are signed by themselves, issuers and delegated signers by a root; all are what they should be.
        4. Each key is its certificate's, and none serves twice.
        """
        marks = marks_of(self._folder)  # before anything is read: what changes while we read is then read again
        manifest = self._noting(lambda: read_manifest(self._folder))  # 1
        if manifest is None:
            return None
        if manifest.lacks:
            self.problems.append(AuditSignersMissing("An older version made this instance."))
        entries, trust_domain = manifest.entries, manifest.trust_domain
        self._noting(lambda: require_private_folder(self._folder / KEYS))  # 2
        sealing = self._noting(lambda: SealingKeys.load(self._folder / KEYS / SEALING, self._unlocking))
        store = reading_store(self._folder, manifest, self._unlocking)
        roots = self._each(entries["roots"], lambda entry: self._root(entry, manifest, store))  # 3, 4
        withdrawn, retired = (
            self._each(names, lambda name: load_certificate(self._certificates / f"{name}.pem"))
            for names in (manifest.withdrawn, manifest.retired)
        )
        crosses = self._each(manifest.crosses, lambda name: self._cross(name, (*roots, *retired)))

        def signers(kind: Kind, require: Callable[[x509.Certificate, x509.Certificate], None]) -> tuple[Signer, ...]:
            return self._each(entries[kind], lambda entry: self._issued(entry, roots, require, store))

        issuers = signers("issuers", lambda mine, root: require_issuer(mine, root, trust_domain))
        bundlers = signers("bundle_signers", require_bundle_signer)
        auditors = signers("audit_signers", require_audit_signer)
        tokens = self._each(entries["token_keys"], lambda entry: self._token_key(entry, store))
        publics = [signer.public_key for signer in (*issuers, *bundlers, *auditors)]
        publics += [token.key.public_key for token in tokens]
        self._noting(lambda: _require_distinct([*(root.public_key() for root in roots), *publics]))
        if self.problems or sealing is None:
            return None
        signing = (*issuers, *bundlers, *auditors)
        above = {signer.key_identifier: _above(signer.certificate, roots, crosses) for signer in signing}
        chains = {issuer.key_identifier: _pem(issuer.certificate, *above[issuer.key_identifier]) for issuer in issuers}
        return Keys(
            manifest=manifest,
            roots=roots,
            crosses=crosses,
            withdrawn=withdrawn,
            retired=retired,
            issuers=issuers,
            bundle_signers=bundlers,
            audit_signers=auditors,
            token_keys=tokens,
            sealing=sealing,
            chains=chains,
            above=above,
            marks=marks,
            loaded=self._loaded,
        )

    def _noting(self, step: Callable[[], _T]) -> _T | None:
        try:
            return step()
        except AttestdError as problem:
            self.problems.append(problem)
            return None

    def _each(self, entries: Sequence[_E], step: Callable[[_E], _T]) -> tuple[_T, ...]:
        found = []
        for entry in entries:
            value = self._noting(partial(step, entry))
            if value is not None:
                found.append(value)
        return tuple(found)

    def _root(self, entry: Entry, manifest: Manifest, store: KeyStore) -> x509.Certificate:
        path = self._certificates / f"{entry.name}.pem"
        certificate = load_certificate(path)
        self.certificates.append(certificate)
        require_root(certificate, manifest.trust_domain)
        self._noting(lambda: self._root_key(entry, certificate, path, store))
        return certificate

    def _root_key(self, entry: Entry, certificate: x509.Certificate, path: Path, store: KeyStore) -> None:
        """The root's key, if it is here, is its own. An encrypted one stays shut: nothing needs it at a start."""
        key = key_path(self._folder, entry.name)
        if entry.label is None:
            if not key.exists():  # it is kept elsewhere
                return
            if is_encrypted(read_secret(key, limit=MAX_PEM)) and not self._thorough:
                return
        elif not self._thorough:
            return
        if store.signing(entry).public_key != certificate.public_key():
            raise KeyMismatch(f"{key} is not the key in {path}.")

    def _cross(self, name: str, roots: Sequence[x509.Certificate]) -> x509.Certificate:
        certificate = load_certificate(self._certificates / f"{name}.pem")
        self.certificates.append(certificate)
        require_cross(certificate, roots)
        return certificate

    def _issued(
        self,
        entry: Entry,
        roots: Sequence[x509.Certificate],
        require: Callable[[x509.Certificate, x509.Certificate], None],
        store: KeyStore,
    ) -> Signer:
        path = self._certificates / f"{entry.name}.pem"
        certificate = load_certificate(path)
        self.certificates.append(certificate)
        named = [root for root in roots if names_issuer(certificate, root)]
        if named:
            require(certificate, named[0])
        elif roots:  # without any root, that is the problem to mend, and it has been noted
            raise ChainBroken(f"{path} names an issuer that is not here.", seen=certificate.issuer.rfc4514_string())
        marks = (mark(path), *self._key_marks(entry))
        known = self._known(entry, marks)
        if known is None or isinstance(known, TokenKey):
            key = store.signing(entry)
            if key.public_key != certificate.public_key():
                raise KeyMismatch(f"{key_path(self._folder, entry.name)} is not the key in {path}.")
            known = key.certified(certificate)
        self._loaded[entry.name] = marks, known
        return known

    def _token_key(self, entry: Entry, store: KeyStore) -> TokenKey:
        marks = self._key_marks(entry)
        known = self._known(entry, marks)
        key = known.key if isinstance(known, TokenKey) else store.for_tokens(entry)
        found = TokenKey(entry.state, key)
        self._loaded[entry.name] = marks, found
        return found

    def _key_marks(self, entry: Entry) -> tuple[Mark, ...]:
        """() where the key is in a token, or missing: the store names that."""
        try:
            return () if entry.label is not None else (mark(key_path(self._folder, entry.name)),)
        except FileNotFoundError:
            return ()

    def _known(self, entry: Entry, marks: tuple[Mark, ...]) -> Signer | TokenKey | None:
        before = self._before.get(entry.name)
        return before[1] if before is not None and before[0] == marks else None


_E = TypeVar("_E", Entry, str)


def names_issuer(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Whether this root's name and key are what the certificate names: roots of one instance share their name."""
    if certificate.issuer != root.subject:
        return False
    try:
        authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        own = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except (x509.ExtensionNotFound, ValueError):
        return True  # the signature tells
    return authority.key_identifier in (None, own.digest)


def _above(
    certificate: x509.Certificate, roots: Sequence[x509.Certificate], crosses: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    """What other roots say for the key of the root above this certificate, then for theirs: each signed by the next."""
    found: list[x509.Certificate] = []
    below = certificate
    for _ in range(_MAX_CROSSES_IN_CHAIN):
        following = [cross for cross in crosses if cross not in found and names_issuer(below, cross)]
        # A way back to a key that was passed already leads nowhere.
        following = [cross for cross in following if cross.public_key() not in [one.public_key() for one in found]]
        if not following:
            break
        below = following[0]
        found.append(below)
        if any(names_issuer(below, root) for root in roots):
            break
    return tuple(found)


def _pem(*certificates: x509.Certificate) -> str:
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode("ascii") for one in certificates)


def _require_distinct(keys: Sequence[object]) -> None:
    thumbprints = [jwk_thumbprint(key) for key in keys if isinstance(key, ec.EllipticCurvePublicKey)]
    if len(set(thumbprints)) != len(thumbprints):
        raise KeyReused(seen=next(one for one in thumbprints if thumbprints.count(one) > 1))
