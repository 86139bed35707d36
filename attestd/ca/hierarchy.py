"""An instance's keys and certificates on disk: made once, read at every start, followed while a service runs.

    <dir>/ca/hierarchy.json     what there is, each kind as several (old, current, next): `manifest`
    <dir>/ca/<name>.pem         certificates
    <dir>/keys/<name>.pem       their private keys and the token keys, PKCS #8, mode 0600 in a folder of mode 0700
    <dir>/keys/sealing.json     the sealing keys

Separate keys for the CA, tokens, bundles, audit heads and sealing (docs/protocol.md, section 5). The root's key is
needed only to replace what it signed: it may be kept elsewhere, and nothing here holds it after the start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.ca.authorities import Ceremony, Lifetimes, require_in_time
from attestd.ca.keyfiles import make_private_folder, write_public, write_secret
from attestd.ca.keystore import FileStore, KeyStore, TokenStore, open_store, root_key
from attestd.ca.manifest import (
    CERTIFICATES,
    KEYS,
    KINDS,
    MANIFEST,
    Entry,
    HierarchyMissing,
    KeyState,
    Kind,
    Manifest,
    ManifestMalformed,
    TokenPlace,
    read_manifest,
    write_manifest,
)
from attestd.ca.pkcs11 import KeyToken
from attestd.ca.reading import AuditSignersMissing, KeyReused, Keys, Reading, marks_of
from attestd.ca.sealing import SEALING, SealingKey, SealingKeys, sealing_file
from attestd.ca.signer import Signer, TokenKey, load_certificate
from attestd.ca.unlocking import NOTHING, Unlocking, require_strong, seal_file
from attestd.credentials.jwk import public_jwk
from attestd.errors import AttestdError, Conflict
from attestd.ids import TrustDomain

__all__ = [
    "AuditSignersMissing",
    "Hierarchy",
    "HierarchyExists",
    "HierarchyMissing",
    "KeyReused",
    "ManifestMalformed",
    "complete_hierarchy",
    "create_hierarchy",
    "examine",
    "jwks",
]


class HierarchyExists(Conflict):
    """There is a certificate authority here already"""

    remedy = "Name another folder; an authority is never overwritten."


class Hierarchy:
    """The authorities and keys of one instance, as they are now. Safe for threads.

    Whoever needs several of them to belong together takes `keys` once: `refresh` changes all of them in one step.
    """

    def __init__(self, folder: Path, keys: Keys, unlocking: Unlocking = NOTHING) -> None:
        self.folder = folder
        self._unlocking = unlocking
        self._keys = keys
        self._sealing = keys.sealing
        self._lock = threading.Lock()

    @staticmethod
    def load(folder: Path, unlocking: Unlocking = NOTHING) -> Hierarchy:
        """Everything read, each key matched with its certificate, each certificate with its issuer.

        Raises HierarchyMissing, AuditSignersMissing, ManifestMalformed, ChainBroken, NotAnAuthority, KeyReused,
        KeyMismatch, CertificateFileMalformed, SealingKeysMalformed, KeyFileMalformed, the errors of `keyfiles`,
        `unlocking` and `pkcs11`, for the first thing that is wrong. Whether certificates are within their time is
        `examine`'s question, and each issue's.
        """
        return Hierarchy(folder, _read(folder, unlocking), unlocking)

    def refresh(self) -> bool:
        """Takes up what changed on disk; whether anything did. Costs two calls of stat when nothing did.

        Raises what `load` raises; then everything stays as it was, and the next call tries again.
        """
        if (marks := marks_of(self.folder)) == self._keys.marks or not marks:
            return False
        with self._lock:
            if marks_of(self.folder) == self._keys.marks:
                return False  # another thread was faster
            found = _read(self.folder, self._unlocking, before=self._keys)
            self._sealing.follow(found.sealing)
            self._keys = found
        return True

    @property
    def keys(self) -> Keys:
        """All of them, at one moment."""
        return self._keys

    @property
    def trust_domain(self) -> TrustDomain:
        return self._keys.manifest.trust_domain

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The roots: during a rollover more than one."""
        return self._keys.roots

    @property
    def crosses(self) -> tuple[x509.Certificate, ...]:
        """What roots say for each other's keys: how relying parties get from one root to the next."""
        return self._keys.crosses

    @property
    def root(self) -> x509.Certificate:
        """The current root."""
        return self._keys.roots[0]

    @property
    def issuers(self) -> tuple[Signer, ...]:
        return self._keys.issuers

    @property
    def issuer(self) -> Signer:
        """What certificates and CRLs are signed with now."""
        return self._keys.issuers[0]

    @property
    def bundle_signers(self) -> tuple[Signer, ...]:
        return self._keys.bundle_signers

    @property
    def bundle_signer(self) -> Signer:
        """What bundles and times are signed with now."""
        return self._keys.bundle_signers[0]

    @property
    def audit_signers(self) -> tuple[Signer, ...]:
        return self._keys.audit_signers

    @property
    def audit_signer(self) -> Signer:
        """What heads of the audit trail are signed with now."""
        return self._keys.audit_signers[0]

    @property
    def token_keys(self) -> tuple[TokenKey, ...]:
        return self._keys.token_keys

    @property
    def token_key(self) -> TokenKey:
        """What access tokens are signed with now."""
        return self._keys.token_keys[0]

    @property
    def sealing(self) -> SealingKeys:
        """One object for as long as the hierarchy is in use: it follows the keys on disk."""
        return self._sealing

    @property
    def token_jwks(self) -> Mapping[str, Mapping[str, str]]:
        """All token keys by key id, public members only, as bundles list them."""
        return {key.kid: public_jwk(key.key.public_key) for key in self._keys.token_keys}

    def chain_above(self, issuer_id: bytes) -> str:
        """What stands above a certificate of the issuer with this key identifier, as PEM, without the root.

        Raises KeyError for an issuer that is not here.
        """
        return self._keys.chains[issuer_id]

    def crosses_above(self, signer: Signer) -> tuple[x509.Certificate, ...]:
        """What other roots say for the root above this signer, for relying parties that know only one of those."""
        return self._keys.above.get(signer.key_identifier, ())

    @property
    def every_root(self) -> tuple[x509.Certificate, ...]:
        """Former roots, too: what was signed under them stays evidence."""
        return (*self._keys.roots, *self._keys.retired)


def _read(folder: Path, unlocking: Unlocking, *, before: Keys | None = None) -> Keys:
    reading = Reading(folder, unlocking, before=before)
    found = reading.keys()
    if found is None:
        raise reading.problems[0]
    return found


def jwks(hierarchy: Hierarchy) -> dict[str, Any]:
    """The token keys as a JWK set (RFC 7517, section 5): also the next one, so that relying parties know it in time."""
    return {"keys": [{**jwk, "kid": kid, "use": "sig", "alg": "ES256"} for kid, jwk in hierarchy.token_jwks.items()]}


def create_hierarchy(
    folder: Path,
    trust_domain: TrustDomain,
    *,
    now: datetime,
    entropy: Callable[[int], bytes],
    lifetimes: Lifetimes | None = None,
    unlocking: Unlocking = NOTHING,
    encrypt: bool = False,
    place: TokenPlace | None = None,
) -> Hierarchy:
    """Makes all keys and certificates of a new instance and writes them; the manifest last, so that it is all or none.

    With `encrypt` every key file is encrypted under `unlocking`'s passphrase; with `place` signing keys are made in
    that token and never leave it. Private keys come from the cryptography library's own generator, or the token's;
    `entropy` makes serial numbers and sealing keys.
    Raises LifetimesContradict, HierarchyExists, KeyFileExists, KeyFileUnwritable, KeyFileExposed, PassphraseTooShort
    and the errors of `unlocking` and `pkcs11`.
    """
    chosen = lifetimes or Lifetimes()
    chosen.check()
    if (folder / CERTIFICATES / MANIFEST).exists():
        raise HierarchyExists(f"{folder / CERTIFICATES / MANIFEST} exists.")
    passphrase = require_strong(unlocking.passphrase()) if encrypt else None
    make_private_folder(folder / KEYS)
    (folder / CERTIFICATES).mkdir(parents=True, exist_ok=True)

    store: KeyStore = FileStore(folder, entropy, unlocking, passphrase)
    if place is not None:
        store = TokenStore(KeyToken.of(place, unlocking, folder), FileStore(folder, entropy, unlocking, passphrase))
    ceremony = Ceremony(trust_domain, now, chosen, entropy)
    since = int(now.timestamp())
    states: tuple[KeyState, KeyState] = ("current", "next")
    sealing = sealing_file(SealingKey.fresh(state, entropy, since) for state in states)
    if passphrase is not None:
        sealing = seal_file(sealing, passphrase, entropy)
    write_secret(folder / KEYS / SEALING, sealing, entropy=entropy)

    entries: dict[Kind, list[Entry]] = {kind: [] for kind in KINDS}

    def made(kind: Kind, state: KeyState, name: str, certify: Callable[[Any], Signer] | None) -> Signer | None:
        key, label = store.make(name)
        entries[kind].append(Entry(name, state, since, label))
        signer = None if certify is None else certify(key)
        if signer is not None:
            write_certificate(folder, name, signer.certificate, entropy=entropy)
        return signer

    root = made("roots", "current", "root", ceremony.root)
    assert root is not None  # noqa: S101 - it was certified
    made("issuers", "current", "issuer", lambda key: ceremony.issuer(key, root))
    for number, state in enumerate(states, 1):
        made("bundle_signers", state, f"bundle-{number}", lambda key: ceremony.bundle_signer(key, root))
        made("audit_signers", state, f"audit-{number}", lambda key: ceremony.audit_signer(key, root))
        made("token_keys", state, f"token-{number}", None)
    manifest = Manifest(trust_domain, {kind: tuple(listed) for kind, listed in entries.items()}, place=place)
    write_manifest(folder, manifest, entropy=entropy, new=True)
    return Hierarchy.load(folder, unlocking)


def complete_hierarchy(
    folder: Path,
    *,
    now: datetime,
    entropy: Callable[[int], bytes],
    lifetimes: Lifetimes | None = None,
    unlocking: Unlocking = NOTHING,
) -> tuple[str, ...]:
    """Adds the kinds of keys that an instance made by an older version lacks. Returns the names of what was added.

    The manifest is replaced last, so that an interrupted call is simply made again; what is there is never changed.
    Raises RootKeyAbsent, and the errors of `Hierarchy.load`.
    """
    manifest = read_manifest(folder)
    if not manifest.lacks:
        return ()
    store = open_store(folder, manifest, unlocking, entropy)
    root = root_signer(folder, manifest, store)
    ceremony = Ceremony(manifest.trust_domain, now, lifetimes or Lifetimes(), entropy)
    states: tuple[KeyState, KeyState] = ("current", "next")
    added = []
    for state in states:
        name = f"audit-{entropy(4).hex()}"  # a fresh name: an interrupted call may have left files of another
        key, label = store.make(name)
        write_certificate(folder, name, ceremony.audit_signer(key, root).certificate, entropy=entropy)
        added.append(Entry(name, state, int(now.timestamp()), label))
    write_manifest(folder, replace(manifest.with_entries("audit_signers", added), lacks=()), entropy=entropy)
    return tuple(entry.name for entry in added)


def root_signer(folder: Path, manifest: Manifest, store: KeyStore) -> Signer:
    """The current root, to sign with. Raises RootKeyAbsent, KeyMismatch and what the store raises."""
    certificate = load_certificate(folder / CERTIFICATES / f"{manifest.entries['roots'][0].name}.pem")
    return root_key(folder, manifest, store).certified(certificate)


def write_certificate(
    folder: Path, name: str, certificate: x509.Certificate, *, entropy: Callable[[int], bytes]
) -> None:
    """A new certificate's file. Raises KeyFileExists, KeyFileUnwritable."""
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    write_public(folder / CERTIFICATES / f"{name}.pem", pem, entropy=entropy)


def examine(folder: Path, now: datetime, unlocking: Unlocking = NOTHING) -> tuple[AttestdError, ...]:
    """Everything that is wrong with the authorities and keys in this folder, each with its remedy; () if nothing is.

    AuthorityExpiring is a warning; every other error stops the service, or soon will.
    """
    reading = Reading(folder, unlocking, thorough=True)
    reading.keys()
    for certificate in reading.certificates:
        try:
            require_in_time(certificate, now)
        except AttestdError as problem:
            reading.problems.append(problem)
    return tuple(reading.problems)
