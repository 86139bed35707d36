"""Doing nothing twice: an operator's change that carries an `Idempotency-Key` is carried out once.

The hook stands behind the one that proves callers. A key is its sender's own: two operators may make up the same. The
second call with a key is refused, whatever it says, and told what is known of the first:

- it was answered: it was done, and which audit rows it left;
- it was not answered, and left audit rows: it was done, and its answer was lost;
- neither: it is still being done, or the service ended before it did anything.

A call that was refused frees its key. One that failed (a status of 500 and above) does so only if it left no audit row:
an act and its row are one transaction, and an answer can be lost behind it.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from flask import Flask, Response, g, request

from attestd.errors import AttestdError, Conflict, MalformedInput
from attestd.registry import audit
from attestd.registry import once as registry_once
from attestd.registry.engine import Connection
from attestd.registry.once import KeyTaken, Sent
from attestd.web.access import Door, Who
from attestd.web.context import Exchange, Service, exchange

HEADER: Final = "Idempotency-Key"
SCHEMA: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"}
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)
_OPERATORS: Final = frozenset({Who.VIEWER, Who.OPERATOR, Who.ADMIN})
_READS: Final = frozenset({"GET", "HEAD"})
_SHOWN: Final = 1000  # audit rows that are counted

_log = logging.getLogger("attestd.web.once")


class IdempotencyKeyMalformed(MalformedInput):
    """The Idempotency-Key is not well formed"""

    remedy = "Send 16 to 64 characters of A-Z a-z 0-9 - _, made up anew for each act."


class DoneAlready(Conflict):
    """This was sent before"""

    remedy = "Nothing was done now. Look at what it was about; if it is not done, begin again."


def is_once(route: str, door: Door) -> bool:
    """Whether the hook looks after this route: an operator's change."""
    return door.who in _OPERATORS and route.partition(" ")[0] not in _READS


def register(app: Flask, service: Service) -> None:
    """Puts the hooks in; after those of `access`."""

    def take() -> None:
        """1. An operator's change with a key. 2. The key is theirs from now on, or the call is refused."""
        current, key = exchange(), request.headers.get(HEADER)
        if key is None or current.door is None or not is_once(f"{request.method} ", current.door):  # 1
            return
        if not _KEY.fullmatch(key):
            raise IdempotencyKeyMalformed(seen=repr(key[:80]), expected="16 to 64 of A-Z a-z 0-9 - _")
        actor = current.caller.actor
        with service.registry.reading() as c:
            last = audit.last_number(c)
        sent = Sent(actor, key, _digest(current), current.request_id, int(current.now.timestamp()), last)
        try:
            service.registry.act(registry_once.taking(sent))  # 2
        except KeyTaken:
            with service.registry.reading() as c:
                raise _refusal(c, sent) from None
        g.once = sent

    def settle(response: Response) -> Response:
        sent: Sent | None = g.pop("once", None)
        if sent is not None:
            try:
                _settle(service, sent, response.status_code)
            except AttestdError as error:  # the trail says what was done, whenever somebody asks
                _log.warning("a call's key was not settled", extra={"members": {"problem": error.slug()}})
        return response

    app.before_request(take)
    app.after_request(settle)


def _digest(current: Exchange) -> bytes:
    said = (request.method, request.full_path, request.mimetype)
    return sha256("\0".join(said).encode() + b"\0" + current.body).digest()


def _settle(service: Service, sent: Sent, status: int) -> None:
    with service.registry.acting() as c:
        if status < 400 or (status >= 500 and _rows(c, sent)):
            registry_once.settle(c, sent, now=int(service.clock().timestamp()))
        else:
            registry_once.give_back(c, sent)


def _refusal(c: Connection, again: Sent) -> DoneAlready:
    before = registry_once.find(c, again.actor, again.name)
    if before is None:  # it was refused a moment ago, and gave its key back
        return DoneAlready("The same was sent a moment ago, and refused.", remedy="Nothing was done. Send it again.")
    when = f"{datetime.fromtimestamp(before.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if before.digest != again.digest:
        told = f"Something else was sent with the same key at {when}; this was not done."
    elif rows := _rows(c, before):
        named = f"audit row {rows[0]} has it" if len(rows) == 1 else f"audit rows {rows[0]} to {rows[-1]} have it"
        told = f"This was sent before, at {when}, and it was done: {named}. Nothing was done again."
    elif before.answered_at is not None:
        told = f"This was sent before, at {when}, and answered. Nothing was done again."
    else:
        told = (
            f"This was sent before, at {when}, and the audit trail has nothing of it: it is still being done, or the "
            "service ended before it did anything. Nothing was done now."
        )
    return DoneAlready(told, seen=f"request {before.request_id}")


def _rows(c: Connection, sent: Sent) -> list[int]:
    return audit.of_request(c, sent.request_id, actor=sent.actor, after=sent.last_row, limit=_SHOWN)
