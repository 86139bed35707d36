"""What the service publishes: the root, token keys, the CRL, the signed time, and the bundle that edges decide with."""

from __future__ import annotations

import threading
from collections import OrderedDict
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
from attestd.ca.tokens import sign_status_list
from attestd.config import Settings
from attestd.credentials.bundle import Bundle
from attestd.credentials.copies import HEAD, STATUS, Copy, read_name
from attestd.credentials.status import Status, StatusList
from attestd.credentials.transparency import Head
from attestd.errors import AttestdError, MalformedInput, Unavailable
from attestd.ids import Serial
from attestd.registry import bundles, devices, issued, policies, revision
from attestd.registry.engine import Connection, Registry

# A bundle whose content stays is signed anew after this share of its staleness limit, so that edges see it is alive.
_REFRESH = 1 / 6
# A head is some two thousand octets, and each edge asks for a proof that goes with it. So what is urgent travels with
# the head of the bundle before, and a new head follows after this time.
_HEAD_PATIENCE = timedelta(seconds=60)
_STATUS_TTL = timedelta(seconds=15)
_CRL_LIFETIME = timedelta(hours=1)
_KEEP = 16  # stored bundles, to each of which the newest can be told as a delta


@dataclass(frozen=True, slots=True)
class PublishedBundle:
    """A signed bundle as it travels (`credentials.copies`). `name`: epoch and version, as in `2.5`.

    `overdue`: what kept it from being signed anew.
    """

    name: str
    content: bytes
    overdue: AttestdError | None = None

    @property
    def etag(self) -> str:
        """Strong (RFC 9110, section 8.8.3)."""
        return f'"{self.name}"'


class Publication:
    """Builds and signs what is published. One object a process; safe from several threads."""

    def __init__(self, settings: Settings, registry: Registry, hierarchy: Hierarchy) -> None:
        self._settings = settings
        self._registry = registry
        self._hierarchy = hierarchy
        self.audit = AuditLog(registry, hierarchy, settings.dir / FOLDER)
        self._lock = threading.Lock()
        self._latest: tuple[bundles.BundleHead, PublishedBundle] | None = None
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        self._deltas: dict[str, bytes] = {}  # to the newest, by the name of the one that they begin at
        self._head_waits_since: datetime | None = None
        self._status_list: tuple[str, str] | None = None  # and the name of the bundle that it is of

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

    def status_list(self, now: datetime) -> str:
        """The newest bundle's states as a Status List Token (`sign_status_list`), signed once for each bundle."""
        name = self.bundle(now).name
        with self._lock:
            if self._status_list is None or self._status_list[0] != name:
                copy = self._copy(name)
                if copy is None:
                    raise NotSealed("The newest bundle can't be read.")
                signed = sign_status_list(
                    self._hierarchy.token_key,
                    StatusList(copy.parts[STATUS]),
                    issuer=self._settings.server.url,
                    uri=self._settings.server.status_list,
                    now=now,
                    ttl=_STATUS_TTL,
                    lifetime=self._settings.bundle.stale_after,
                )
                self._status_list = name, signed
            return self._status_list[1]

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
            published = self._published(newest)
        return published if overdue is None else replace(published, overdue=overdue)

    def update(self, base: str) -> tuple[str, bytes, bool]:
        """What brings who has the bundle named `base` to the one that `bundle` returned last: that one's name, the
        content, and whether it is a delta; a whole bundle if `base` is not kept any more, or is no bundle's name."""
        with self._lock:
            if self._latest is None:
                raise NotSealed("No bundle has been signed yet.")
            newest = self._latest[1]
            if (delta := self._deltas.get(base)) is None:
                before = self._copy(base) if base != newest.name else None
                after = self._copy(newest.name)
                if before is None or after is None:
                    return newest.name, newest.content, False
                delta = self._deltas[base] = after.since(before, base)
            return newest.name, delta, True

    def copy(self, name: str) -> Copy | None:
        """The bundle of that name, taken apart; None if it is not kept any more, or is none."""
        with self._lock:
            return self._copy(name)

    def head_in(self, name: str) -> Head | None:
        """The audit trail's head in the bundle of that name: what an edge that uses it has seen, and found to go on
        from all that it saw before. None if that bundle is not kept any more."""
        copy = self.copy(name)
        if copy is None or HEAD not in copy.parts:
            return None
        return self.audit.read_head(copy.parts[HEAD].decode("ascii"))

    def status_in(self, name: str, index: int) -> Status | None:
        """What the bundle of that name says of the device with this status index, and so what an edge that uses it
        knows. None if that bundle is not kept any more."""
        copy = self.copy(name)
        return None if copy is None or STATUS not in copy.parts else StatusList(copy.parts[STATUS])[index]

    def _published(self, newest: bundles.BundleHead) -> PublishedBundle:
        latest = self._latest
        if latest is None or (latest[0].epoch, latest[0].version) < (newest.epoch, newest.version):
            with self._registry.reading() as c:
                stored = bundles.stored(c, epoch=newest.epoch, version=newest.version)
            published = PublishedBundle(f"{newest.epoch}.{newest.version}", stored.content.encode("utf-8"))
            latest = self._latest = newest, published
            self._deltas = {}
        return latest[1]

    def _copy(self, name: str) -> Copy | None:
        """A stored bundle, taken apart."""
        if name in self._copies:
            self._copies.move_to_end(name)
            return self._copies[name]
        try:
            epoch, version = read_name(name)
            with self._registry.reading() as c:
                stored = bundles.stored(c, epoch=epoch, version=version)
            copy = Copy.read(stored.content.encode("utf-8"))
        except (MalformedInput, bundles.BundleGone):  # no name, none that is kept, or one of a former program
            return None
        self._copies[name] = copy
        while len(self._copies) > _KEEP:
            self._copies.popitem(last=False)
        return copy

    def _stands(self, head: bundles.BundleHead, current: int, now: datetime) -> bool:
        """Whether this one says what there is to say at revision `current`, and not too long ago."""
        return head.revision == current and not self._due(head, now)

    def _due(self, head: bundles.BundleHead, now: datetime) -> bool:
        """Whether it is time to be heard again, or for a head that waits."""
        since = self._head_waits_since
        if since is not None and now - since >= _HEAD_PATIENCE:
            return True
        return now.timestamp() - head.issued_at >= self._settings.bundle.stale_after.total_seconds() * _REFRESH

    def _audit_head(self, newest: bundles.BundleHead | None, epoch: int, now: datetime) -> tuple[str, datetime | None]:
        """The head that the next bundle carries, and since when a newer one waits: the one before's, unless that has to
        give way. Raises NotSealed."""
        if newest is not None and newest.epoch == epoch and not self._due(newest, now):
            before = self._copy(f"{newest.epoch}.{newest.version}")
            if before is not None and HEAD in before.parts:
                return before.parts[HEAD].decode("ascii"), self._head_waits_since or now
        found = self.audit.head(now)
        if found.head.log != epoch:
            raise NotSealed("A restore began a new epoch meanwhile.")
        return found.jws, None

    def _sign_next(self, now: datetime) -> bundles.BundleHead:
        with self._registry.reading() as c:
            newest, epoch = bundles.newest(c), revision.epoch(c)
        audit_head, waits_since = self._audit_head(newest, epoch, now)
        with self._registry.reading() as c:
            # Read before the content: if the content changes in between, the next call signs again.
            head = bundles.newest(c)
            current = revision.current(c)
            if head is not None and self._stands(head, current, now):
                return head  # another process was faster
            if revision.epoch(c) != epoch:
                raise NotSealed("A restore began a new epoch meanwhile.")
            version = 1 if head is None or head.epoch != epoch else head.version + 1
            with suppress(AttestdError):  # who follows the keys tells; those in use are good
                self._hierarchy.refresh()  # what a command has changed a moment ago counts already
            bundle = replace(self._content(c, epoch, version, now), audit_head=audit_head)
        signer = self._hierarchy.bundle_signer
        content = sign_bundle(bundle, signer, self._hierarchy.crosses_above(signer)).to_bytes().decode("utf-8")
        with self._registry.acting() as c:
            bundles.store(
                c, epoch=epoch, version=version, revision=current, issued_at=bundle.issued_at, content=content
            )
            bundles.purge(c, keep=_KEEP)
        self._head_waits_since = waits_since
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
