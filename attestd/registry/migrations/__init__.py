"""The tables' history, oldest first. Alembic runs it by `upgrade`; no alembic.ini is involved.

A migration is written by hand, runs in one transaction, and names its constraints. Revisions are four-digit numbers,
so that "newer" is a comparison. `attestd.registry.tables.SCHEMA` names the last one.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def alembic_config(connection: Connection) -> Config:
    """What Alembic needs to know; the connection travels to env.py in it."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: Connection) -> None:
    """Brings the tables up to date within the connection's transaction."""
    command.upgrade(alembic_config(connection), "head")
