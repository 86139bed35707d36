"""What an edge tells Envoy about a request that may go on: the same headers as to other proxies (forward_auth.py)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from attestd.policy import Boundary
from attestd_edge.edge import Admitted
from attestd_edge.hop import is_reserved
from attestd_edge.problems import MEDIA_TYPE, URN

# A proxy that asks about a boundary that is not here must refuse, whatever it makes of other statuses.
NO_SUCH_BOUNDARY: Final = 403


def identity_headers(answer: Admitted, boundary: Boundary) -> list[tuple[str, str]]:
    """Who it is, for the application. Values are names that were parsed, so no header's syntax can be in them."""
    identity = answer.identity
    return [
        ("Attestd-Identity", str(identity.spiffe_id)),
        ("Attestd-Tier", identity.tier.value),
        ("Attestd-Site", str(identity.site)),
        ("Attestd-Device", str(identity.device_id)),
        ("Attestd-Credential", identity.kind),
        ("Attestd-Boundary", boundary.name),
        ("Attestd-Request-Id", answer.request_id),
    ]


def to_remove(names: Iterable[str], told: Iterable[tuple[str, str]]) -> list[str]:
    """Of the names of a request's headers those that an application could take for our word or a hop's.

    Without those that are told: Envoy removes last, and would remove ours.
    """
    ours = {name.lower() for name, _ in told}
    return sorted({name for name in names if is_reserved(name) and name.lower() not in ours})


def no_such_boundary() -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body."""
    document = {
        "type": f"{URN}no-such-boundary",
        "title": "No such boundary is configured here",
        "status": NO_SUCH_BOUNDARY,
    }
    return [("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store")], json.dumps(document).encode()
