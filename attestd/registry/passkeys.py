"""Passkeys: the public halves of what people sign in with, each an operator's. Times are unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict, NotFound
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import passkeys

MAX_PASSKEYS = 20  # of one operator


class UnknownPasskey(NotFound):
    """There is no such passkey"""

    remedy = "`attestd operators passkeys` shows those that there are."


class PasskeyTaken(Conflict):
    """This passkey is registered already"""

    remedy = "Sign in with it, or use another authenticator."


class TooManyPasskeys(Conflict):
    """This operator has as many passkeys as there may be"""

    remedy = "Remove one that is not used any more."


class PasskeyUsedMeanwhile(Conflict):
    """This passkey was used by somebody else at the same moment"""

    remedy = "Try again. If you did not use it twice, remove this passkey: it may have been copied."


@dataclass(frozen=True, slots=True)
class Passkey:
    """One passkey. `id` names it to people; `credential` is the authenticator's own name for it."""

    id: str
    credential: bytes = field(repr=False)
    operator: str
    public_key: bytes = field(repr=False)  # COSE_Key
    sign_count: int
    label: str
    transports: tuple[str, ...]
    backed_up: bool
    created_at: int
    used_at: int | None


def add(
    c: Connection,
    *,
    id: str,
    credential: bytes,
    operator: str,
    public_key: bytes,
    sign_count: int,
    label: str,
    transports: Sequence[str],
    backed_up: bool,
    now: int,
) -> Passkey:
    """A new passkey. Raises PasskeyTaken, whoever has it, and TooManyPasskeys."""
    if count(c, operator) >= MAX_PASSKEYS:
        raise TooManyPasskeys(seen=MAX_PASSKEYS, expected=f"fewer than {MAX_PASSKEYS}")
    values = {
        "id": id,
        "credential": credential,
        "operator": operator,
        "public_key": public_key,
        "sign_count": sign_count,
        "label": label,
        "transports": list(transports),
        "backed_up": backed_up,
        "created_at": now,
    }
    try:
        return _passkey_of(c.execute(insert(passkeys).values(values).returning(passkeys)).one())
    except IntegrityError as error:
        if is_unique_violation(error):
            raise PasskeyTaken from None
        raise


def by_credential(c: Connection, credential: bytes) -> Passkey | None:
    """The passkey that an authenticator calls so."""
    row = c.execute(select(passkeys).where(passkeys.c.credential == credential)).one_or_none()
    return None if row is None else _passkey_of(row)


def by_id(c: Connection, id: str) -> Passkey:
    """Raises UnknownPasskey."""
    row = None if "\0" in id else c.execute(select(passkeys).where(passkeys.c.id == id)).one_or_none()
    if row is None:
        raise UnknownPasskey(seen=repr(id[:40]))
    return _passkey_of(row)


def of_operator(c: Connection, operator: str) -> list[Passkey]:
    """An operator's passkeys, the oldest first."""
    wanted = select(passkeys).where(passkeys.c.operator == operator)
    return [_passkey_of(row) for row in c.execute(wanted.order_by(passkeys.c.created_at, passkeys.c.id))]


def count(c: Connection, operator: str) -> int:
    """How many passkeys an operator has."""
    wanted = select(func.count()).select_from(passkeys).where(passkeys.c.operator == operator)
    return int(c.execute(wanted).scalar_one())


def counts(c: Connection) -> dict[str, int]:
    """How many each operator has, who has any."""
    wanted = select(passkeys.c.operator, func.count()).group_by(passkeys.c.operator)
    return {operator: int(number) for operator, number in c.execute(wanted)}


def any_at_all(c: Connection) -> bool:
    return c.execute(select(passkeys.c.id).limit(1)).one_or_none() is not None


def used(c: Connection, passkey: Passkey, *, sign_count: int, backed_up: bool, now: int) -> None:
    """Notes a use, if nobody else used it since it was read. Raises PasskeyUsedMeanwhile."""
    statement = (
        update(passkeys)
        .where(passkeys.c.id == passkey.id, passkeys.c.sign_count == passkey.sign_count)
        .values(sign_count=sign_count, backed_up=backed_up, used_at=now)
    )
    if c.execute(statement).rowcount != 1:
        raise PasskeyUsedMeanwhile


def remove(c: Connection, id: str) -> None:
    """Raises UnknownPasskey."""
    if c.execute(delete(passkeys).where(passkeys.c.id == id)).rowcount != 1:
        raise UnknownPasskey(seen=id)


def _passkey_of(row: Row[Any]) -> Passkey:
    found = dict(row._mapping)
    found["transports"] = tuple(found["transports"])
    return Passkey(**found)
