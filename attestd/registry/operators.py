"""Who may call the admin API: people and programs, each known by a key. Times are unix seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import Connection, Row, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict, MalformedInput, NotFound, Unauthenticated
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import identities, operators, passkeys


class UnknownOperator(NotFound):
    """There is no such operator"""

    remedy = "Use the name of an operator that exists and is in the state this act needs."


class OperatorDisabled(Unauthenticated):
    """This operator has been disabled"""

    remedy = "Ask an admin of this service for an invitation."


class OperatorTaken(Conflict):
    """An operator of this name, or with this key, exists already"""

    remedy = "Choose another name, and give each operator a key of their own."


class LastAdmin(Conflict):
    """This is the last admin who can act"""

    remedy = "Add another admin first: `attestd operators invite NAME --role admin`."


class UnknownRole(MalformedInput):
    """This is not a role"""

    remedy = "Name one of the roles: viewer, operator, admin."


class Role(StrEnum):
    """What an operator may do; each includes the ones before."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UnknownRole."""
        try:
            return cls(text)
        except ValueError:
            raise UnknownRole(seen=repr(text[:40]), expected=", ".join(cls)) from None


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """The key that an operator signs calls with, and the certificate over it."""

    thumbprint: bytes  # of the public key (RFC 7638)
    public_key: bytes = field(repr=False)  # SubjectPublicKeyInfo, DER
    certificate: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Operator:
    """One caller of the admin API. Without a `key` it is a person who comes through the console alone."""

    name: str
    role: Role
    key: OperatorKey | None
    created_at: int
    disabled_at: int | None


def add(
    c: Connection, *, name: str, role: Role, thumbprint: bytes, public_key: bytes, certificate: bytes, now: int
) -> Operator:
    """A new operator. Raises OperatorTaken."""
    values = {
        "name": name,
        "role": role.value,
        "thumbprint": thumbprint,
        "public_key": public_key,
        "certificate": certificate,
        "created_at": now,
    }
    try:
        return _operator_of(c.execute(insert(operators).values(values).returning(operators)).one())
    except IntegrityError as error:
        if is_unique_violation(error):
            raise OperatorTaken(seen=name) from None
        raise


def admit(
    c: Connection, *, name: str, role: Role, thumbprint: bytes, public_key: bytes, certificate: bytes, now: int
) -> Operator:
    """An operator by an admin's act. A name that is free, or whose operator was disabled, is given anew; the same
    operator with the same key and role gets another certificate; a person of this role gets a key. Raises
    OperatorTaken for everything else."""
    given = {"thumbprint": thumbprint, "public_key": public_key, "certificate": certificate}
    anew = (
        update(operators)
        .where(operators.c.name == name, operators.c.disabled_at.is_not(None))
        .values(role=role.value, created_at=now, disabled_at=None, **given)
    )
    same = (
        update(operators)
        .where(
            operators.c.name == name,
            operators.c.disabled_at.is_(None),
            operators.c.role == role.value,
            or_(operators.c.thumbprint == thumbprint, operators.c.thumbprint.is_(None)),
        )
        .values(**given)
    )
    try:
        if c.execute(anew).rowcount == 1:
            forget_ways_in(c, name)
            return by_name(c, name)
        if c.execute(same).rowcount == 1:
            return by_name(c, name)
    except IntegrityError as error:
        if is_unique_violation(error):  # the key is another operator's
            raise OperatorTaken(seen=name) from None
        raise
    return add(c, name=name, role=role, now=now, **given)


def admit_person(c: Connection, *, name: str, role: Role, now: int) -> Operator:
    """A person who comes through the console. A name that is free, or whose operator was disabled, is given anew; an
    operator of this role stays as they are. Raises OperatorTaken for one of another role."""
    anew = (
        update(operators)
        .where(operators.c.name == name, operators.c.disabled_at.is_not(None))
        .values(role=role.value, created_at=now, disabled_at=None, thumbprint=None, public_key=None, certificate=None)
    )
    if c.execute(anew).rowcount == 1:
        forget_ways_in(c, name)
    elif c.execute(select(operators.c.name).where(operators.c.name == name)).one_or_none() is None:
        c.execute(insert(operators).values(name=name, role=role.value, created_at=now))
    found = by_name(c, name)
    if found.role is not role:
        raise OperatorTaken("This operator has another role.", seen=found.role.value, expected=role.value)
    return found


def add_person(c: Connection, *, name: str, role: Role, now: int) -> Operator:
    """A person under a name that nobody ever had. Raises OperatorTaken."""
    try:
        c.execute(insert(operators).values(name=name, role=role.value, created_at=now))
    except IntegrityError as error:
        if is_unique_violation(error):
            raise OperatorTaken(seen=name) from None
        raise
    return by_name(c, name)


def forget_ways_in(c: Connection, name: str) -> None:
    """Passkeys and identities of who was disabled open nothing for who has the name afterwards."""
    c.execute(delete(passkeys).where(passkeys.c.operator == name))
    c.execute(delete(identities).where(identities.c.operator == name))


def set_role(c: Connection, name: str, role: Role) -> None:
    """Another role for an operator who is not disabled. Raises UnknownOperator."""
    statement = update(operators).where(operators.c.name == name, operators.c.disabled_at.is_(None))
    if c.execute(statement.values(role=role.value)).rowcount != 1:
        raise UnknownOperator(seen=name, expected="an operator who is not disabled")


def admins(c: Connection) -> list[Operator]:
    """The admins who are not disabled. Whoever reads them in a transaction that acts keeps them as they are until its
    end: two admins can't disable each other at once."""
    statement = (
        select(operators)
        .where(operators.c.role == Role.ADMIN.value, operators.c.disabled_at.is_(None))
        .order_by(operators.c.name)
        .with_for_update()
    )
    return [_operator_of(row) for row in c.execute(statement)]


def find(c: Connection, name: str) -> Operator | None:
    """The operator of this name, disabled or not."""
    row = None if "\0" in name else c.execute(select(operators).where(operators.c.name == name)).one_or_none()
    return None if row is None else _operator_of(row)


def by_name(c: Connection, name: str) -> Operator:
    """The operator of this name, disabled or not. Raises UnknownOperator."""
    found = find(c, name)
    if found is None:
        raise UnknownOperator(seen=name)
    return found


def require_enabled(c: Connection, name: str) -> Operator:
    """The operator, who stays as they are until this transaction ends. Raises OperatorDisabled."""
    row = c.execute(select(operators).where(operators.c.name == name).with_for_update()).one_or_none()
    if row is None or row.disabled_at is not None:
        raise OperatorDisabled
    return _operator_of(row)


def by_thumbprint(c: Connection, thumbprint: bytes) -> Operator | None:
    """The operator with this key, disabled or not."""
    row = c.execute(select(operators).where(operators.c.thumbprint == thumbprint)).one_or_none()
    return None if row is None else _operator_of(row)


def every(c: Connection) -> list[Operator]:
    """All operators, in the order of their names."""
    return [_operator_of(row) for row in c.execute(select(operators).order_by(operators.c.name))]


def renew(c: Connection, name: str, *, thumbprint: bytes, public_key: bytes, certificate: bytes) -> None:
    """Another certificate for an operator who is not disabled. Raises UnknownOperator, OperatorTaken."""
    statement = (
        update(operators)
        .where(operators.c.name == name, operators.c.disabled_at.is_(None))
        .values(thumbprint=thumbprint, public_key=public_key, certificate=certificate)
    )
    try:
        changed = c.execute(statement).rowcount
    except IntegrityError as error:
        if is_unique_violation(error):
            raise OperatorTaken(seen=name) from None
        raise
    if changed != 1:
        raise UnknownOperator(seen=name, expected="an operator who is not disabled")


def disable(c: Connection, name: str, *, now: int) -> None:
    """Ends what this operator may do. Raises UnknownOperator, also if it was ended before."""
    statement = (
        update(operators).where(operators.c.name == name, operators.c.disabled_at.is_(None)).values(disabled_at=now)
    )
    if "\0" in name or c.execute(statement).rowcount != 1:  # PostgreSQL's text takes no NUL; nobody is called so
        raise UnknownOperator(seen=name, expected="an operator who is not disabled")


def _operator_of(row: Row[Any]) -> Operator:
    key = None if row.thumbprint is None else OperatorKey(row.thumbprint, row.public_key, row.certificate)
    return Operator(row.name, Role(row.role), key, row.created_at, row.disabled_at)
