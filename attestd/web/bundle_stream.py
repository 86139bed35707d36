"""Bundles pushed to edge proxies that stay connected, each one as a delta from the last (docs/protocol.md, section 5).

A place is a bundle's name, so a proxy that comes again says which one it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from attestd.publication import Publication
from attestd.web.streams import event

KIND: Final = "bundles"
_LOOK: Final = 0.1  # seconds: a quarantine counts at the edges as soon as it is known there


class BundleSource:
    """The newest bundle, and what leads to it. Proxies listen, by their names."""

    def __init__(self, publication: Publication, allowed: Callable[[Iterable[str], datetime], frozenset[str]]) -> None:
        """`allowed`: which of these proxies may still listen."""
        self._publication, self._allowed = publication, allowed
        self.every = _LOOK

    def newest(self, now: datetime) -> str:
        """The newest bundle's name, signed anew if it has to be."""
        return self._publication.bundle(now).name

    def since(self, place: str) -> tuple[str, bytes]:
        """The newest bundle as a delta, or whole where the one before is not kept any more."""
        name, content, is_delta = self._publication.update(place)
        return name, event("delta" if is_delta else "bundle", name, content)

    def allowed(self, listening: frozenset[str], now: datetime) -> frozenset[str]:
        """Which proxies are not disabled and hold a certificate that counts."""
        return self._allowed(listening, now)
