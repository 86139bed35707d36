"""Whether what NATS takes is installed: the command line is there without it."""

from __future__ import annotations

from importlib.util import find_spec

from attestd.errors import Misconfigured


class NatsMissing(Misconfigured):
    """What NATS takes is not installed here"""

    remedy = "Install attestd-fleet with the extra `nats`."


def check_installed() -> None:
    """Raises NatsMissing."""
    if missing := [name for name in ("nats", "nacl") if find_spec(name) is None]:
        raise NatsMissing(f"{', '.join(missing)} can't be imported.")
