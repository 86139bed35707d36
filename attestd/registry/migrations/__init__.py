"""The tables' history, oldest first. Alembic runs it by `upgrade`; no alembic.ini is involved.

A migration is written by hand, runs in one transaction, and names its constraints. Revisions are four-digit numbers,
so that "newer" is a comparison. `attestd.registry.tables.SCHEMA` names the last one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic is loaded by what changes tables: a worker never does, and would hold it in memory all its life.


def alembic_config(connection: Connection) -> Config:
    """What Alembic needs to know; the connection travels to env.py in it."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Brings the tables up to date, or up to a revision, within the connection's transaction."""
    from alembic import command

    command.upgrade(alembic_config(connection), revision)


def revisions(connection: Connection) -> tuple[str, ...]:
    """Every revision that there ever was, the oldest first."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(alembic_config(connection))
    return tuple(sorted(found.revision for found in script.walk_revisions()))
