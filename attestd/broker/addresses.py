"""Where a nats-server is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from attestd.errors import Misconfigured

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class BrokerMisconfigured(Misconfigured):
    """What is said about the message broker is wrong"""


class BrokerMissing(Misconfigured):
    """What NATS takes is not installed here"""

    remedy = "Install attestd-fleet with the extra `nats`."


def require_client() -> None:
    """Raises BrokerMissing."""
    if find_spec("nats") is None:
        raise BrokerMissing("nats-py can't be imported.")


def check_address(name: str, server: str, ca: Path | None, wrong: type[Misconfigured] = BrokerMisconfigured) -> None:
    """With TLS, or on this machine alone. Raises `wrong`, which names the setting `name`."""
    parts = urlsplit(server)
    if parts.scheme not in ("tls", "nats") or not parts.hostname or parts.path or parts.username is not None:
        raise wrong(f"{name} is not an address.", seen=repr(server[:80]), expected="tls://<host>:<port>")
    if parts.scheme == "nats" and parts.hostname not in _LOOPBACK:
        raise wrong(f"{name} is elsewhere and without TLS.", seen=server[:80], expected="tls://…")
    if (parts.scheme == "tls") != (ca is not None):
        raise wrong(f"{name}: its authority (ca) and TLS belong together.", expected="tls:// with ca, or neither")
