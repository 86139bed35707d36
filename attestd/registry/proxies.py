"""Edge proxies: each has a name, a site and a certificate, and may fetch what concerns its site. Unix seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict, NotFound
from attestd.ids import Serial, Site
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import issued, proxies, revocations


class UnknownProxy(NotFound):
    """There is no such edge proxy"""

    remedy = "Use the name of a proxy that exists and is not disabled."


class ProxyTaken(Conflict):
    """A proxy of this name, or with this key, exists already"""

    remedy = "Choose another name, and give each proxy a key of its own."


@dataclass(frozen=True, slots=True)
class Proxy:
    """One edge proxy."""

    name: str
    site: Site
    thumbprint: bytes  # of its public key (RFC 7638)
    public_key: bytes = field(repr=False)  # SubjectPublicKeyInfo, DER
    serial: Serial  # of its current certificate
    created_at: int
    disabled_at: int | None


def add(
    c: Connection,
    *,
    name: str,
    site: Site,
    thumbprint: bytes,
    public_key: bytes,
    serial: Serial,
    now: int,
) -> Proxy:
    """A new proxy. Raises ProxyTaken."""
    values = {
        "name": name,
        "site": str(site),
        "thumbprint": thumbprint,
        "public_key": public_key,
        "serial": str(serial),
        "created_at": now,
    }
    try:
        return _proxy_of(c.execute(insert(proxies).values(values).returning(proxies)).one())
    except IntegrityError as error:
        if is_unique_violation(error):
            raise ProxyTaken(seen=name) from None
        raise


def by_name(c: Connection, name: str) -> Proxy:
    """The proxy of this name, disabled or not. Raises UnknownProxy."""
    # PostgreSQL's text takes no NUL, and nobody is called so.
    row = None if "\0" in name else c.execute(select(proxies).where(proxies.c.name == name)).one_or_none()
    if row is None:
        raise UnknownProxy(seen=name)
    return _proxy_of(row)


def by_thumbprint(c: Connection, thumbprint: bytes) -> Proxy | None:
    """The proxy with this key, disabled or not."""
    row = c.execute(select(proxies).where(proxies.c.thumbprint == thumbprint)).one_or_none()
    return None if row is None else _proxy_of(row)


def every(c: Connection) -> list[Proxy]:
    """All proxies, in the order of their names."""
    return [_proxy_of(row) for row in c.execute(select(proxies).order_by(proxies.c.name))]


def allowed(c: Connection, names: Iterable[str], *, now: int) -> frozenset[str]:
    """Which of these proxies are not disabled and hold a certificate that counts."""
    standing = (
        select(proxies.c.name)
        .join(issued, issued.c.serial == proxies.c.serial)
        .outerjoin(revocations, revocations.c.serial == proxies.c.serial)
        .where(proxies.c.name.in_(list(names)), proxies.c.disabled_at.is_(None))
        .where(issued.c.not_after > now, revocations.c.serial.is_(None))
    )
    return frozenset(c.execute(standing).scalars())


def renew(c: Connection, name: str, *, serial: Serial) -> None:
    """Another certificate for the same key of a proxy that is not disabled. Raises UnknownProxy."""
    statement = (
        update(proxies).where(proxies.c.name == name, proxies.c.disabled_at.is_(None)).values(serial=str(serial))
    )
    if c.execute(statement).rowcount != 1:
        raise UnknownProxy(seen=name, expected="a proxy that is not disabled")


def disable(c: Connection, name: str, *, now: int) -> None:
    """Ends what this proxy may fetch. Raises UnknownProxy, also if it was ended before."""
    statement = update(proxies).where(proxies.c.name == name, proxies.c.disabled_at.is_(None)).values(disabled_at=now)
    if "\0" in name or c.execute(statement).rowcount != 1:
        raise UnknownProxy(seen=name, expected="a proxy that is not disabled")


def _proxy_of(row: Row[Any]) -> Proxy:
    found = dict(row._mapping)
    found["site"] = Site(found["site"])
    found["serial"] = Serial.parse(found["serial"])
    return Proxy(**found)
