"""The commands, run in this process."""

from __future__ import annotations

from tests.commands import run

__all__ = ["run"]
