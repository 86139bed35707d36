"""People: passkeys, identities at OpenID providers, invitations, the sessions of their browsers.

Revision: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def _text() -> sa.String:
    """Sorted by its octets on every database."""
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """An operator may be without a key of their own; what a person comes in by has tables beside."""
    with op.batch_alter_table("operators") as changed:
        for name in ("thumbprint", "public_key", "certificate"):
            changed.alter_column(name, existing_type=sa.LargeBinary(), nullable=True)
    op.create_table(
        "passkeys",
        sa.Column("id", _text(), nullable=False),
        sa.Column("credential", sa.LargeBinary, nullable=False),
        sa.Column("operator", _text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("sign_count", sa.BigInteger, nullable=False),
        sa.Column("label", _text(), nullable=False),
        sa.Column("transports", sa.JSON, nullable=False),
        sa.Column("backed_up", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_passkeys"),
        sa.UniqueConstraint("credential", name="uq_passkeys_credential"),
    )
    op.create_index("ix_passkeys_operator", "passkeys", ["operator"])
    op.create_table(
        "identities",
        sa.Column("issuer", _text(), nullable=False),
        sa.Column("subject", _text(), nullable=False),
        sa.Column("operator", _text(), nullable=False),
        sa.Column("by_claims", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("issuer", "subject", name="pk_identities"),
    )
    op.create_index("ix_identities_operator", "identities", ["operator"])
    op.create_table(
        "invitations",
        sa.Column("id", _text(), nullable=False),
        sa.Column("token", sa.LargeBinary, nullable=False),
        sa.Column("name", _text(), nullable=False),
        sa.Column("role", _text(), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", _text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("spent_at", sa.BigInteger),
        sa.Column("withdrawn_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_invitations"),
        sa.UniqueConstraint("token", name="uq_invitations_token"),
    )
    op.create_index("ix_invitations_name", "invitations", ["name"])
    op.create_table(
        "console_sessions",
        sa.Column("id", _text(), nullable=False),
        sa.Column("thumbprint", sa.LargeBinary, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("operator", _text(), nullable=False),
        sa.Column("method", _text(), nullable=False),
        sa.Column("passkey", _text()),
        sa.Column("began_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
        sa.Column("agent", _text(), nullable=False),
        sa.Column("address", _text(), nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("ended_because", _text()),
        sa.PrimaryKeyConstraint("id", name="pk_console_sessions"),
        sa.UniqueConstraint("thumbprint", name="uq_console_sessions_thumbprint"),
    )
    op.create_index("ix_console_sessions_operator_ends_at", "console_sessions", ["operator", "ends_at"])
    op.create_index("ix_console_sessions_ends_at", "console_sessions", ["ends_at"])
