"""Webhooks: what happened here, told to other systems, at least once and in order.

A webhook follows the sealed audit trail, so an event is told only if it was committed, and none is lost by a crash, an
outage of the receiver or a restart. The format is Standard Webhooks 1.0.0 (signed `id.timestamp.body`): receivers find
libraries for it. A receiver that is down is tried again, ever more slowly; others do not wait for it.

What is told is what the trail says: ids, names and reasons, no evidence and no EK hash.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from attestd.ca.keyfiles import read_secret
from attestd.config import SettingInvalid, Settings, WebhookSettings
from attestd.protocol.encoding import write_object
from attestd.registry import audit, audit_tree, followers
from attestd.registry.audit import AuditRecord
from attestd.registry.engine import Registry

_log = logging.getLogger(__name__)

_HOLD: Final = timedelta(seconds=90)  # for which one process speaks to a receiver; longer than one round takes
_AT_ONCE: Final = 10  # events of one round; with the timeout, it must fit into the time that a receiver is held
_LEAVES: Final = 1000  # looked at in one round: more than a service commits in a second, or it would fall ever behind
_TIMEOUT: Final = 5.0  # seconds for one event
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=2), timedelta(minutes=10)
_PREFIX: Final = "whsec_"
_SECRET: Final = (24, 64)  # octets, by the standard


@dataclass(frozen=True, slots=True)
class Webhook:
    """One receiver: `events` are acts of the trail (`quarantine`, `overdue`, `refuse-attestation`, …), "*" for all."""

    name: str
    url: str
    events: frozenset[str]
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, settings: WebhookSettings, dir: Path) -> Self:
        """With its secret read. Raises SettingInvalid and the errors of `keyfiles`."""
        parts = urlsplit(settings.url)
        loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and loopback)):
            raise SettingInvalid(
                f"webhook {settings.name}: url is not one.", seen=repr(settings.url)[:120], expected="https://…"
            )
        text = read_secret(dir / settings.secret_file, limit=1024).decode("ascii", "replace").strip()
        try:
            secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except ValueError:
            secret = b""
        if not _SECRET[0] <= len(secret) <= _SECRET[1]:
            raise SettingInvalid(
                f"webhook {settings.name}: the secret file holds no secret.",
                expected=f"{_PREFIX}<base64 of {_SECRET[0]} to {_SECRET[1]} octets>",
                remedy="Make one: printf 'whsec_%s' \"$(head -c 32 /dev/urandom | base64)\" > FILE; chmod 600 FILE",
            )
        return cls(settings.name, settings.url, frozenset(settings.events), secret)

    def wants(self, row: AuditRecord) -> bool:
        """Whether the receiver asked for this."""
        return "*" in self.events or row.act in self.events

    def signed(self, leaf: int, body: bytes, now: datetime) -> dict[str, str]:
        """The headers (Standard Webhooks 1.0.0, "Webhook headers" and "Signature scheme")."""
        number, at = f"leaf_{leaf}", str(int(now.timestamp()))
        tag = hmac.digest(self.secret, f"{number}.{at}.".encode() + body, hashlib.sha256)
        return {
            "Content-Type": "application/json",
            "webhook-id": number,
            "webhook-timestamp": at,
            "webhook-signature": f"v1,{base64.b64encode(tag).decode('ascii')}",
        }


@dataclass(slots=True)
class _Patience:
    """When a receiver is tried again."""

    until: datetime | None = None
    pause: timedelta = _FIRST_PAUSE

    def failed(self, now: datetime) -> None:
        self.until = now + self.pause
        self.pause = min(2 * self.pause, _LONGEST_PAUSE)

    def succeeded(self) -> None:
        self.until, self.pause = None, _FIRST_PAUSE


class Deliveries:
    """All webhooks of one process. Several processes on one database share the work, a receiver at a time."""

    def __init__(self, registry: Registry, settings: Settings, *, client: httpx.Client | None = None) -> None:
        """Raises SettingInvalid and the errors of `keyfiles`."""
        self._registry = registry
        self._trust_domain = str(settings.trust_domain)
        self._hooks = tuple(Webhook.of(said, settings.dir) for said in settings.webhooks)
        self._patience = {hook.name: _Patience() for hook in self._hooks}
        self._client = client or httpx.Client(timeout=_TIMEOUT, follow_redirects=False)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def deliver(self, clock: Callable[[], datetime]) -> int:
        """One round: some events to each receiver whose turn it is. Returns how many were delivered.

        Raises the registry's errors; a receiver's failures are logged and end its own round alone.
        """
        delivered = 0
        for hook in self._hooks:
            patience, now = self._patience[hook.name], clock()
            if patience.until is None or now >= patience.until:
                delivered += self._deliver(hook, patience, clock)
        return delivered

    def _deliver(self, hook: Webhook, patience: _Patience, clock: Callable[[], datetime]) -> int:
        with self._registry.reading() as c:
            if followers.place(c, hook.name) == audit_tree.size(c):
                return 0  # as in most rounds: nothing is written for it
        now = int(clock().timestamp())
        with self._registry.acting() as c:
            start = followers.hold(c, hook.name, now=now, until=now + int(_HOLD.total_seconds()))
            if start is None:
                return 0
            end = min(audit_tree.size(c), start + _LEAVES)
            rows = audit.sealed(c, start, end)  # without those that went into archives meanwhile
        told, reached = 0, start
        try:
            for row in rows:
                reached = row.leaf or 0
                if not hook.wants(row):
                    continue
                if told == _AT_ONCE:
                    break
                self._post(hook, row, clock())
                told += 1
            else:
                reached = end
            patience.succeeded()
        except httpx.HTTPError as error:
            patience.failed(clock())
            members = {"webhook": hook.name, "why": type(error).__name__, "retry_in": patience.pause.total_seconds()}
            _log.warning("a webhook's receiver did not take an event", extra={"members": members})
        finally:
            with self._registry.acting() as c:
                followers.move(c, hook.name, known=start, moved=reached)
                followers.let_go(c, hook.name)
        return told

    def _post(self, hook: Webhook, row: AuditRecord, now: datetime) -> None:
        """Raises httpx.HTTPError unless the receiver says 2xx; what it says else is not read."""
        body = write_object(self._event(row))
        with self._client.stream("POST", hook.url, content=body, headers=hook.signed(row.leaf or 0, body, now)) as told:
            if not told.is_success:
                raise httpx.HTTPStatusError("refused", request=told.request, response=told)

    def _event(self, row: AuditRecord) -> dict[str, Any]:
        return {
            "type": f"attestd.{row.act}",
            "timestamp": row.at,
            "data": {
                "trust_domain": self._trust_domain,
                "leaf": row.leaf,
                "actor": row.actor,
                "act": row.act,
                "subject": row.subject,
                "detail": dict(row.detail),
            },
        }
