"""Bundles are kept as they travel: a statement and its parts.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_COUNTERS = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
_BUNDLES = sa.table("bundles", sa.column("version", sa.BigInteger))


def upgrade() -> None:
    """Versions go on from the last one: edges accept nothing lower. The next bundle is signed in the new form."""
    op.execute("ALTER TABLE bundles RENAME COLUMN jws TO content")
    signed = sa.select(sa.literal(1)).select_from(_BUNDLES).exists()
    op.execute(_COUNTERS.update().where(_COUNTERS.c.name == "revision", signed).values(value=_COUNTERS.c.value + 1))
