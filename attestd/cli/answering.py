"""Does this instance's own service answer? Asked with the standard library, which is there at once: a service that
starts asks itself, and so do commands that then work without it."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from attestd.ca.manifest import read_manifest


def running_url(dir: Path) -> str | None:
    """Where this instance's service answers, by the note that `attestd serve` leaves; None if it is not running."""
    try:
        note = json.loads((dir / "run" / "service.json").read_text("utf-8"))
        url = str(note["local_url"])
        return url if is_alive(url, trusting(dir), timeout=2.0) else None
    except (OSError, ValueError, KeyError):
        return None


def is_alive(url: str, trust: ssl.SSLContext, *, timeout: float) -> bool:
    """Whether GET /healthz is answered by 200, within `timeout` seconds for each step. Raises ValueError for no URL."""
    address = urlsplit(url)
    connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=trust, timeout=timeout)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def trusting(dir: Path) -> ssl.SSLContext:
    """TLS to this instance's own service: each of its roots counts."""
    names = [entry.name for entry in read_manifest(dir).entries["roots"]]
    pem = "".join((dir / "ca" / f"{name}.pem").read_text("ascii") for name in names)
    return ssl.create_default_context(cadata=pem)
