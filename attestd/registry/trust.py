"""The TPM makers' CA certificates that this instance trusts. Times are unix seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from attestd.errors import Conflict, NotFound
from attestd.registry import revision
from attestd.registry.engine import is_unique_violation
from attestd.registry.tables import tpm_makers


class UnknownMaker(NotFound):
    """No such TPM maker's certificate is trusted here"""

    remedy = "`attestd trust list` shows the certificates that are trusted."


class TrustRaced(Conflict):
    """Somebody else changed the trust store at the same time"""

    remedy = "Nothing was added. Look at `attestd trust list`, then try again."


@dataclass(frozen=True, slots=True)
class TrustedMaker:
    """One CA certificate of a TPM maker, a root or an intermediate."""

    sha256: bytes  # of `der`
    der: bytes = field(repr=False)
    subject: str
    not_after: int
    is_root: bool
    added_at: int
    added_by: str


def add(c: Connection, makers: Iterable[TrustedMaker]) -> int:
    """Trusts these too; returns how many were not trusted before. Raises TrustRaced."""
    known = set(c.execute(select(tpm_makers.c.sha256)).scalars())
    new = {maker.sha256: maker for maker in makers if maker.sha256 not in known}
    if not new:
        return 0
    try:
        c.execute(insert(tpm_makers), [asdict(maker) for maker in new.values()])
    except IntegrityError as error:
        if is_unique_violation(error):
            raise TrustRaced from None
        raise
    revision.change_trust(c)
    return len(new)


def remove(c: Connection, sha256: bytes) -> None:
    """Trusts this one no longer; devices that enrolled under it stay. Raises UnknownMaker."""
    if c.execute(delete(tpm_makers).where(tpm_makers.c.sha256 == sha256)).rowcount != 1:
        raise UnknownMaker(seen=sha256.hex())
    revision.change_trust(c)


def every(c: Connection) -> list[TrustedMaker]:
    """All of them, in the order of their subjects."""
    statement = select(tpm_makers).order_by(tpm_makers.c.subject, tpm_makers.c.sha256)
    return [TrustedMaker(**row._mapping) for row in c.execute(statement)]


def version(c: Connection) -> int:
    """Grows with each change: equal versions mean an equal trust store."""
    return revision.trust_version(c)
