"""What the service publishes: the root, token keys, the CRL, the signed time, and the bundle that edges decide with."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.auditing.archives import FOLDER
from attestd.auditing.log import AuditLog, NotSealed
from attestd.ca.bundles import sign_bundle, sign_time
from attestd.ca.hierarchy import Hierarchy, jwks
from attestd.ca.revocation import build_crl
from attestd.config import Settings
from attestd.credentials.bundle import Bundle
from attestd.credentials.status import Status, StatusList
from attestd.errors import AttestdError, Unavailable
from attestd.ids import Serial
from attestd.registry import bundles, devices, issued, policies, revision
from attestd.registry.engine import Connection, Registry

# A bundle whose content stays is signed anew after this share of its staleness limit, so that edges see it is alive.
_REFRESH = 1 / 6
_CRL_LIFETIME = timedelta(hours=1)
_KEEP = 8  # stored bundles: a process that is slow to read the newest still finds it


@dataclass(frozen=True, slots=True)
class PublishedBundle:
    """A signed bundle and its strong ETag (RFC 9110, section 8.8.3). `overdue`: what kept it from being signed anew."""

    jws: str
    etag: str
    overdue: AttestdError | None = None


class Publication:
    """Builds and signs what is published. One object a process; safe from several threads."""

    def __init__(self, settings: Settings, registry: Registry, hierarchy: Hierarchy) -> None:
        self._settings = settings
        self._registry = registry
        self._hierarchy = hierarchy
        self.audit = AuditLog(registry, hierarchy, settings.dir / FOLDER)
        self._lock = threading.Lock()
        self._latest: bundles.StoredBundle | None = None

    @property
    def root_pem(self) -> str:
        """The trust domain's root."""
        return self._hierarchy.root.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def roots_pem(self) -> str:
        """The trust domain's root; during a rollover also the others, and what they say for each other's keys."""
        keys = self._hierarchy.keys
        return "".join(
            one.public_bytes(serialization.Encoding.PEM).decode("ascii") for one in (*keys.roots, *keys.crosses)
        )

    def jwks(self) -> dict[str, Any]:
        """The token keys as a JWK set (RFC 7517, section 5)."""
        return jwks(self._hierarchy)

    def crl(self, now: datetime) -> bytes:
        """The issuing CA's full CRL, DER (RFC 5280, section 5)."""
        with self._registry.reading() as c:
            revoked = issued.revoked_unexpired(c, now=int(now.timestamp()))
            # Grows with time, and within one second with what is revoked (RFC 5280, section 5.2.3).
            number = (int(now.timestamp()) << 32) + (revision.current(c) & 0xFFFFFFFF)
        return build_crl(
            [(entry.serial, entry.at, entry.reason) for entry in revoked],
            self._hierarchy.issuer,
            number=number,
            now=now,
            next_update=now + _CRL_LIFETIME,
        )

    def signed_time(self, nonce: bytes, now: datetime) -> str:
        """The time, signed in answer to a device's nonce (docs/protocol.md, section 7)."""
        signer = self._hierarchy.bundle_signer
        return sign_time(nonce, now, signer, self._hierarchy.crosses_above(signer))

    def bundle(self, now: datetime) -> PublishedBundle:
        """The current bundle, signed anew when its content changed or its signature is getting old.

        Versions only grow: the row that stores one is inserted under its number, so that of several processes one
        wins and the others publish the winner's.
        """
        with self._lock:  # one thread of a process signs, the others take what it signed
            with self._registry.reading() as c:
                current = revision.current(c)
                newest = bundles.newest(c)
            overdue = None
            if newest is None or not self._stands(newest, current, now):
                try:
                    newest = self._sign_next(now)
                except Unavailable as error:
                    # If nothing has changed, the last one still says all there is to say. Edges know when it is stale.
                    if newest is None or newest.revision != current:
                        raise
                    overdue = error
            latest = self._latest
            if latest is None or (latest.epoch, latest.version) < (newest.epoch, newest.version):
                with self._registry.reading() as c:
                    latest = self._latest = bundles.stored(c, epoch=newest.epoch, version=newest.version)
        return PublishedBundle(latest.jws, f'"{latest.epoch}.{latest.version}"', overdue)

    def _stands(self, head: bundles.BundleHead, current: int, now: datetime) -> bool:
        """Whether this one says what there is to say at revision `current`, and not too long ago."""
        refresh = self._settings.bundle.stale_after.total_seconds() * _REFRESH
        return head.revision == current and now.timestamp() - head.issued_at < refresh

    def _sign_next(self, now: datetime) -> bundles.BundleHead:
        audit_head = self.audit.head(now)
        with self._registry.reading() as c:
            # Read before the content: if the content changes in between, the next call signs again.
            head = bundles.newest(c)
            current = revision.current(c)
            if head is not None and self._stands(head, current, now):
                return head  # another process was faster
            epoch = revision.epoch(c)
            version = 1 if head is None or head.epoch != epoch else head.version + 1
            if audit_head.head.log != epoch:
                raise NotSealed("A restore began a new epoch meanwhile.")
            with suppress(AttestdError):  # who follows the keys tells; those in use are good
                self._hierarchy.refresh()  # what a command has changed a moment ago counts already
            bundle = replace(self._content(c, epoch, version, now), audit_head=audit_head.jws)
        signer = self._hierarchy.bundle_signer
        jws = sign_bundle(bundle, signer, self._hierarchy.crosses_above(signer))
        with self._registry.acting() as c:
            bundles.store(c, epoch=epoch, version=version, revision=current, issued_at=bundle.issued_at, jws=jws)
            bundles.purge(c, keep=_KEEP)
        with self._registry.reading() as c:
            newest = bundles.newest(c)
        assert newest is not None  # noqa: S101 - the transaction above stored it, or another one did
        return newest

    def _content(self, c: Connection, epoch: int, version: int, now: datetime) -> Bundle:
        keys = self._hierarchy.keys
        policy = policies.latest(c)
        entries = dict(devices.status_entries(c))
        return Bundle(
            trust_domain=self._settings.trust_domain,
            epoch=epoch,
            version=version,
            issued_at=int(now.timestamp()),
            stale_after=int(self._settings.bundle.stale_after.total_seconds()),
            roots=tuple(_der(root) for root in keys.roots),
            issuers=tuple(_der(one) for one in (*(issuer.certificate for issuer in keys.issuers), *keys.crosses)),
            token_issuer=self._settings.server.url,
            token_keys=self._hierarchy.token_jwks,
            policy_version=policy.version,
            policy=policy.text,
            # An index that is nobody's yet is invalid, also where it fills the last octet: absence fails.
            status=StatusList.of(entries, size=max(entries, default=-1) + 1, rest=Status.INVALID),
            revoked=frozenset(entry.serial for entry in issued.revoked_unexpired(c, now=int(now.timestamp())))
            | {Serial(cross.serial_number) for cross in keys.withdrawn if cross.not_valid_after_utc > now},
        )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
