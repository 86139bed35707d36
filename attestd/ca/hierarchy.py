"""An instance's keys and certificates on disk: made once, read at every start, examined by `attestd doctor`.

    <dir>/ca/hierarchy.json     what there is, each kind as several (old, current, next): rotation needs no new format
    <dir>/ca/<name>.pem         certificates
    <dir>/keys/<name>.pem       their private keys and the token keys, PKCS #8, mode 0600 in a folder of mode 0700
    <dir>/keys/sealing.json     the sealing keys

Separate keys for the CA, tokens, bundles and sealing (docs/protocol.md, section 5). The root's key is needed only to
replace what it signed: it may be kept elsewhere, and nothing here holds it after the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.authorities import (
    Ceremony,
    ChainBroken,
    Lifetimes,
    require_audit_signer,
    require_bundle_signer,
    require_in_time,
    require_issuer,
    require_root,
)
from attestd.ca.keyfiles import (
    KeyFileMissing,
    make_private_folder,
    read_public,
    replace_public,
    require_private_folder,
    write_public,
    write_secret,
)
from attestd.ca.sealing import SealingKey, SealingKeys, sealing_file
from attestd.ca.signer import KEY_STATES, FileSigner, KeyState, TokenKey, load_certificate, load_key
from attestd.credentials.jwk import jwk_thumbprint, public_jwk
from attestd.credentials.requests import SoftwareKey
from attestd.errors import AttestdError, Conflict, InputTooLarge, MalformedInput, Misconfigured
from attestd.ids import TrustDomain
from attestd.protocol.encoding import Members, read_object, write_object

_CERTIFICATES, _KEYS = "ca", "keys"
_MANIFEST, _SEALING = "hierarchy.json", "sealing.json"
_MAX_MANIFEST = 64 * 1024
_MAX_ENTRIES = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_KINDS = ("roots", "issuers", "bundle_signers", "audit_signers", "token_keys")
_T = TypeVar("_T")


class HierarchyMissing(Misconfigured):
    """There is no certificate authority here"""

    remedy = (
        "Run `attestd init`. If that was interrupted, remove the folders ca/ and keys/ first: nothing was issued yet."
    )


class HierarchyExists(Conflict):
    """There is a certificate authority here already"""

    remedy = "Name another folder; an authority is never overwritten."


class ManifestMalformed(Misconfigured):
    """ca/hierarchy.json can't be read"""

    remedy = "Restore the file from the backup of this instance's folder."


class AuditSignersMissing(Misconfigured):
    """This instance has no key that signs the audit trail's heads"""

    remedy = "Run `attestd upgrade` once; it needs the root's key (keys/root.pem)."


class RootKeyAbsent(Misconfigured):
    """The root's private key is not here"""

    remedy = "Put the root's key back as keys/root.pem for this command, and take it away again afterwards."


class KeyReused(Misconfigured):
    """One key serves two purposes"""

    remedy = "Restore keys/ from the backup of this instance's folder; each purpose has a key of its own."


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The authorities and keys of one instance. In each tuple the current one comes first, then next, then old."""

    folder: Path
    trust_domain: TrustDomain
    roots: tuple[x509.Certificate, ...]
    issuers: tuple[FileSigner, ...]
    bundle_signers: tuple[FileSigner, ...]
    audit_signers: tuple[FileSigner, ...]
    token_keys: tuple[TokenKey, ...]
    sealing: SealingKeys

    @staticmethod
    def load(folder: Path) -> Hierarchy:
        """Everything read, each key matched with its certificate, each certificate with its issuer.

        Raises HierarchyMissing, AuditSignersMissing, ManifestMalformed, ChainBroken, NotAnAuthority, KeyReused, KeyMismatch,
        CertificateFileMalformed, SealingKeysMalformed, KeyFileMalformed and the errors of `keyfiles`, for the first
        thing that is wrong. Whether certificates are within their time is `examine`'s question, and each issue's.
        """
        reading = _Reading(folder)
        found = reading.hierarchy()
        if found is None:
            raise reading.problems[0]
        return found

    @property
    def root(self) -> x509.Certificate:
        """The current root."""
        return self.roots[0]

    @property
    def issuer(self) -> FileSigner:
        """What certificates and CRLs are signed with now."""
        return self.issuers[0]

    @property
    def bundle_signer(self) -> FileSigner:
        """What bundles and times are signed with now."""
        return self.bundle_signers[0]

    @property
    def audit_signer(self) -> FileSigner:
        """What heads of the audit trail are signed with now."""
        return self.audit_signers[0]

    @property
    def token_key(self) -> TokenKey:
        """What access tokens are signed with now."""
        return self.token_keys[0]

    @property
    def token_jwks(self) -> Mapping[str, Mapping[str, str]]:
        """All token keys by key id, public members only, as bundles list them."""
        return {key.kid: public_jwk(key.key.public_key) for key in self.token_keys}


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
) -> Hierarchy:
    """Makes all keys and certificates of a new instance and writes them; the manifest last, so that it is all or none.

    Private keys come from the cryptography library's own generator; `entropy` makes serial numbers and sealing keys.
    Raises LifetimesContradict, HierarchyExists, KeyFileExists, KeyFileUnwritable, KeyFileExposed.
    """
    chosen = lifetimes or Lifetimes()
    chosen.check()
    certificates, keys = folder / _CERTIFICATES, folder / _KEYS
    if (certificates / _MANIFEST).exists():
        raise HierarchyExists(f"{certificates / _MANIFEST} exists.")

    ceremony = Ceremony(trust_domain, now, chosen, entropy)
    root = ceremony.root(root_key := _new_key())
    issuer = ceremony.issuer(issuer_key := _new_key(), root)
    made: list[tuple[str, KeyState, str, ec.EllipticCurvePrivateKey, FileSigner | None]] = [
        ("roots", "current", "root", root_key, root),
        ("issuers", "current", "issuer", issuer_key, issuer),
    ]
    states: tuple[KeyState, KeyState] = ("current", "next")
    for number, state in enumerate(states, 1):
        key = _new_key()
        made.append(("bundle_signers", state, f"bundle-{number}", key, ceremony.bundle_signer(key, root)))
        key = _new_key()
        made.append(("audit_signers", state, f"audit-{number}", key, ceremony.audit_signer(key, root)))
        made.append(("token_keys", state, f"token-{number}", _new_key(), None))

    make_private_folder(keys)
    certificates.mkdir(parents=True, exist_ok=True)
    write_secret(keys / _SEALING, sealing_file(SealingKey.fresh(state, entropy) for state in states), entropy=entropy)
    for _, _, name, key, signer in made:
        write_secret(keys / f"{name}.pem", _pkcs8(key), entropy=entropy)
        if signer is not None:
            pem = signer.certificate.public_bytes(serialization.Encoding.PEM)
            write_public(certificates / f"{name}.pem", pem, entropy=entropy)
    manifest: dict[str, Any] = {"v": 1, "trust_domain": str(trust_domain)}
    for kind in _KINDS:
        manifest[kind] = [{"name": name, "state": state} for of, state, name, _, _ in made if of == kind]
    write_public(certificates / _MANIFEST, write_object(manifest), entropy=entropy)
    return Hierarchy.load(folder)


def complete_hierarchy(
    folder: Path, *, now: datetime, entropy: Callable[[int], bytes], lifetimes: Lifetimes | None = None
) -> tuple[str, ...]:
    """Adds the kinds of keys that an instance made by an older version lacks. Returns the names of what was added.

    The manifest is replaced last, so that an interrupted call is simply made again; what is there is never changed.
    Raises RootKeyAbsent, and the errors of `Hierarchy.load`.
    """
    path = folder / _CERTIFICATES / _MANIFEST
    try:
        _read_manifest(path)
    except AuditSignersMissing:
        pass
    else:
        return ()
    document = dict(read_object(read_public(path, limit=_MAX_MANIFEST), limit=_MAX_MANIFEST, name="file"))
    trust_domain, entries = _read_manifest(path, without_audit=True)
    name = entries["roots"][0][0]
    root_certificate, root_key = folder / _CERTIFICATES / f"{name}.pem", folder / _KEYS / f"{name}.pem"
    if not root_key.exists():
        raise RootKeyAbsent(f"{root_key} does not exist.")
    root = FileSigner.load(root_key, root_certificate)
    require_root(root.certificate, trust_domain)
    chosen = lifetimes or Lifetimes()
    left = root.certificate.not_valid_after_utc - now.replace(microsecond=0)
    ceremony = Ceremony(trust_domain, now, replace(chosen, bundle_signer=min(chosen.signer, left)), entropy)
    listed = []
    states: tuple[KeyState, KeyState] = ("current", "next")
    for state in states:
        # A fresh name: an interrupted call may have left files of the plain one.
        name = f"audit-{entropy(4).hex()}"
        key = _new_key()
        pem = ceremony.audit_signer(key, root).certificate.public_bytes(serialization.Encoding.PEM)
        write_secret(folder / _KEYS / f"{name}.pem", _pkcs8(key), entropy=entropy)
        write_public(folder / _CERTIFICATES / f"{name}.pem", pem, entropy=entropy)
        listed.append({"name": name, "state": state})
    replace_public(path, write_object(document | {"audit_signers": listed}), entropy=entropy)
    return tuple(entry["name"] for entry in listed)


def examine(folder: Path, now: datetime) -> tuple[AttestdError, ...]:
    """Everything that is wrong with the authorities and keys in this folder, each with its remedy; () if nothing is.

    AuthorityExpiring is a warning; every other error stops the service, or soon will.
    """
    reading = _Reading(folder)
    reading.hierarchy()
    for certificate in reading.certificates:
        try:
            require_in_time(certificate, now)
        except AttestdError as problem:
            reading.problems.append(problem)
    return tuple(reading.problems)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# ---- Reading ----------------------------------------------------------------------------------------------------

# One line of the manifest: the name of the files, and where the key stands in its rotation.
_Entry = tuple[str, KeyState]


class _Reading:
    """Reads a hierarchy and notes everything that is wrong with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._certificates = folder / _CERTIFICATES
        self._keys = folder / _KEYS
        self.problems: list[AttestdError] = []
        self.certificates: list[x509.Certificate] = []

    def hierarchy(self) -> Hierarchy | None:
        """What there is, or None if a problem was noted.

        1. The manifest says what there is.
        2. Only the owner enters keys/.
        3. Roots are signed by themselves, issuers and delegated signers by a root; all are what they should be.
        4. Each key is its certificate's, and none serves twice.
        """
        manifest = self._noting(lambda: _read_manifest(self._certificates / _MANIFEST))  # 1
        if manifest is None:
            return None
        trust_domain, entries = manifest
        self._noting(lambda: require_private_folder(self._keys))  # 2
        sealing = self._noting(lambda: SealingKeys.load(self._keys / _SEALING))
        roots = self._each(entries["roots"], lambda entry: self._root(entry, trust_domain))  # 3, 4
        issuers = self._each(
            entries["issuers"],
            lambda entry: self._issued(entry, roots, lambda mine, root: require_issuer(mine, root, trust_domain)),
        )
        signers = self._each(entries["bundle_signers"], lambda entry: self._issued(entry, roots, require_bundle_signer))
        auditors = self._each(entries["audit_signers"], lambda entry: self._issued(entry, roots, require_audit_signer))
        tokens = self._each(entries["token_keys"], self._token_key)
        certified = (*issuers, *signers, *auditors)
        publics = [signer.public_key for signer in certified] + [token.key.public_key for token in tokens]
        self._noting(lambda: _require_distinct([*(root.public_key() for root in roots), *publics]))
        if self.problems or sealing is None:
            return None
        return Hierarchy(self._folder, trust_domain, roots, issuers, signers, auditors, tokens, sealing)

    def _noting(self, step: Callable[[], _T]) -> _T | None:
        try:
            return step()
        except AttestdError as problem:
            self.problems.append(problem)
            return None

    def _each(self, entries: Sequence[_Entry], step: Callable[[_Entry], _T]) -> tuple[_T, ...]:
        found = []
        for entry in entries:
            value = self._noting(partial(step, entry))
            if value is not None:
                found.append(value)
        return tuple(found)

    def _root(self, entry: _Entry, trust_domain: TrustDomain) -> x509.Certificate:
        path = self._certificates / f"{entry[0]}.pem"
        certificate = load_certificate(path)
        self.certificates.append(certificate)
        require_root(certificate, trust_domain)
        key = self._keys / f"{entry[0]}.pem"
        if key.exists():  # else it is kept elsewhere
            self._noting(lambda: FileSigner.load(key, path))
        return certificate

    def _issued(
        self,
        entry: _Entry,
        roots: Sequence[x509.Certificate],
        require: Callable[[x509.Certificate, x509.Certificate], None],
    ) -> FileSigner:
        path = self._certificates / f"{entry[0]}.pem"
        certificate = load_certificate(path)
        self.certificates.append(certificate)
        named = [root for root in roots if root.subject == certificate.issuer]
        if named:
            require(certificate, named[0])
        elif roots:  # without any root, that is the problem to mend, and it has been noted
            raise ChainBroken(f"{path} names an issuer that is not here.", seen=certificate.issuer.rfc4514_string())
        return FileSigner.load(self._keys / f"{entry[0]}.pem", path)

    def _token_key(self, entry: _Entry) -> TokenKey:
        return TokenKey(entry[1], SoftwareKey(load_key(self._keys / f"{entry[0]}.pem")))


def _read_manifest(
    path: Path, *, without_audit: bool = False
) -> tuple[TrustDomain, dict[str, tuple[_Entry, ...]]]:
    kinds = tuple(kind for kind in _KINDS if not (without_audit and kind == "audit_signers"))
    try:
        data = read_public(path, limit=_MAX_MANIFEST)
    except KeyFileMissing:
        raise HierarchyMissing(f"{path} does not exist.") from None
    try:
        members = Members(read_object(data, limit=_MAX_MANIFEST, name="file"), "file")
        members.version()
        trust_domain = TrustDomain(members.text("trust_domain", limit=255))
        if "audit_signers" in kinds and "audit_signers" not in members:
            raise AuditSignersMissing(f"{path} lists no audit_signers: an older version made this instance.")
        entries = {
            kind: tuple(_read_entry(entry) for entry in members.objects(kind, most=_MAX_ENTRIES)) for kind in kinds
        }
        members.done()
    except (MalformedInput, InputTooLarge) as error:
        raise ManifestMalformed(f"{path}: {error.detail}", seen=error.seen, expected=error.expected) from None
    names = [name for listed in entries.values() for name, _ in listed]
    if len(set(names)) != len(names):
        raise ManifestMalformed(f"{path} lists a name twice.", seen=", ".join(sorted(names)))
    for kind, listed in entries.items():
        if (current := sum(state == "current" for _, state in listed)) != 1:
            raise ManifestMalformed(f"{path}: which of the {kind} is current is not certain.", seen=current, expected=1)
    order = ("current", "next", "old")
    return trust_domain, {
        kind: tuple(sorted(listed, key=lambda entry: order.index(entry[1]))) for kind, listed in entries.items()
    }


def _read_entry(entry: Members) -> _Entry:
    name, state = entry.text("name", limit=40), entry.text("state", limit=8)
    entry.done()
    if not _NAME.fullmatch(name):  # it becomes part of a path
        raise ManifestMalformed("A name in ca/hierarchy.json is not one.", seen=repr(name), expected="a-z 0-9 -")
    if state not in KEY_STATES:
        raise ManifestMalformed(f"{name} has no known state.", seen=repr(state), expected=", ".join(KEY_STATES))
    return name, state


def _require_distinct(keys: Sequence[object]) -> None:
    thumbprints = [jwk_thumbprint(key) for key in keys if isinstance(key, ec.EllipticCurvePublicKey)]
    if len(set(thumbprints)) != len(thumbprints):
        raise KeyReused(seen=next(one for one in thumbprints if thumbprints.count(one) > 1))
