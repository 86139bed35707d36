"""The admin API for commands, loaded by the one that calls it: an HTTP client and cryptography take a while."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attestd.cli.api import AdminApi


def service(dir: Path) -> AdminApi:
    """Signed calls to the service that the command's options name (see `AdminApi.connect`)."""
    from attestd.cli.api import AdminApi

    return AdminApi.connect(dir)
