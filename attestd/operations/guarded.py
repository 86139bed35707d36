"""What an edge guards, as it tells it in its reports: each boundary from where to where, and what is demanded there.

An edge's settings are its own, so the service knows of them what the edge says. Nothing is decided by it: it is for
operators to see, beside the figures that the same edge reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from attestd.errors import InputTooLarge, MalformedInput
from attestd.ids import Site, Tier
from attestd.protocol.encoding import MAX_SECONDS, Members

MAX_GUARDED: Final = 256  # boundaries of one edge
RECEIPTS: Final = ("allowed", "all")


class BoundaryMalformed(MalformedInput):
    """This is not a boundary as an edge tells it"""

    remedy = "Bring the edge and the service to the same version."


@dataclass(frozen=True, slots=True)
class Guarded:
    """One boundary. `from_site` None: from any site. `receipts`: of what crossed (`allowed`), of all, or of nothing
    (None). After `max_staleness` seconds without news of the service only the class `when_stale` crosses, if any."""

    from_tier: Tier
    from_site: Site | None
    to_tier: Tier
    to_site: Site
    receipts: str | None = None
    max_staleness: int | None = None
    when_stale: str | None = None

    @classmethod
    def read(cls, said: Members) -> Self:
        """Raises MalformedInput."""
        start, end = said.object("from"), said.object("to")
        receipts = said.text("receipts", limit=16) if "receipts" in said else None
        if receipts is not None and receipts not in RECEIPTS:
            raise BoundaryMalformed(seen=repr(receipts), expected=" or ".join(RECEIPTS))
        found = cls(
            Tier.parse(start.text("tier", limit=16)),
            Site(start.text("site", limit=64)) if "site" in start else None,
            Tier.parse(end.text("tier", limit=16)),
            Site(end.text("site", limit=64)),
            receipts,
            said.number("max_staleness", least=1, most=MAX_SECONDS) if "max_staleness" in said else None,
            str(Site(said.text("when_stale", limit=64))) if "when_stale" in said else None,
        )
        for used in (start, end, said):
            used.done()
        return found

    def to_members(self) -> dict[str, Any]:
        """What `read` reads."""
        start = {"tier": self.from_tier.value} | ({} if self.from_site is None else {"site": str(self.from_site)})
        found: dict[str, Any] = {"from": start, "to": {"tier": self.to_tier.value, "site": str(self.to_site)}}
        more = {"receipts": self.receipts, "max_staleness": self.max_staleness, "when_stale": self.when_stale}
        return found | {name: value for name, value in more.items() if value is not None}


def read_guarded(members: Members) -> dict[str, Guarded]:
    """Boundaries by their names. Raises MalformedInput or InputTooLarge."""
    names = [name for name, _ in members.items()]
    if len(names) > MAX_GUARDED:
        raise InputTooLarge("The edge tells too many boundaries.", seen=len(names), expected=f"at most {MAX_GUARDED}")
    return {str(Site(name)): Guarded.read(members.object(name)) for name in names}


def write_guarded(boundaries: Mapping[str, Guarded]) -> dict[str, Any]:
    """What `read_guarded` reads."""
    return {name: guarded.to_members() for name, guarded in boundaries.items()}
