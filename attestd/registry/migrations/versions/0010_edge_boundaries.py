"""What each edge guards: its boundaries, as its reports tell them.

Revision: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Empty until the edge reports next."""
    op.add_column("edge_reports", sa.Column("boundaries", sa.JSON))
