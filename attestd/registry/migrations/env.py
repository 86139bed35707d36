"""Run by Alembic for every command: connects it to the connection that the caller gave."""

from __future__ import annotations

from alembic import context

from attestd.registry.tables import METADATA

# The transaction is the caller's. render_as_batch: SQLite alters a table by building it anew.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
