"""Identities: by which name an OpenID provider knows an operator. Times are unix seconds.

A subject is an issuer's own and lasting name for a person; an email address or a user name is neither, and opens
nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import identities


class IdentityTaken(Conflict):
    """This identity belongs to an operator already"""

    remedy = "Sign in with it, without an invitation; or have an admin disable that operator first."


@dataclass(frozen=True, slots=True)
class Identity:
    """`by_claims`: the operator was made by what the provider says, and has the role that it says."""

    issuer: str
    subject: str
    operator: str
    by_claims: bool
    created_at: int
    used_at: int | None


def bind(c: Connection, *, issuer: str, subject: str, operator: str, by_claims: bool, now: int) -> None:
    """Raises IdentityTaken."""
    values = {
        "issuer": issuer,
        "subject": subject,
        "operator": operator,
        "by_claims": by_claims,
        "created_at": now,
        "used_at": now,
    }
    try:
        c.execute(insert(identities).values(values))
    except IntegrityError as error:
        if is_unique_violation(error):
            raise IdentityTaken from None
        raise


def find(c: Connection, issuer: str, subject: str) -> Identity | None:
    """Whose identity this is."""
    wanted = select(identities).where(identities.c.issuer == issuer, identities.c.subject == subject)
    row = c.execute(wanted).one_or_none()
    return None if row is None else Identity(**row._mapping)


def used(c: Connection, identity: Identity, *, now: int) -> None:
    c.execute(
        update(identities)
        .where(identities.c.issuer == identity.issuer, identities.c.subject == identity.subject)
        .values(used_at=now)
    )


def of_operator(c: Connection, operator: str) -> list[Identity]:
    wanted = select(identities).where(identities.c.operator == operator).order_by(identities.c.issuer)
    return [Identity(**row._mapping) for row in c.execute(wanted)]


def issuers(c: Connection) -> dict[str, list[str]]:
    """By which providers each operator is known."""
    found: dict[str, list[str]] = {}
    for operator, issuer in c.execute(
        select(identities.c.operator, identities.c.issuer).order_by(identities.c.operator, identities.c.issuer)
    ):
        found.setdefault(operator, []).append(issuer)
    return found


def any_at_all(c: Connection) -> bool:
    return c.execute(select(identities.c.subject).limit(1)).one_or_none() is not None
