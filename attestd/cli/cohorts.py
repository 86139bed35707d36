"""`attestd devices release-cohort`: quarantined devices that belong together, seen first, then released by one act."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from attestd.cli.output import moment, table
from attestd.config import SettingInvalid, parse_duration
from attestd.errors import MalformedInput

_COLUMNS = {"id": "ID", "tier": "TIER", "site": "SITE", "attested": "ATTESTED", "state_reason": "QUARANTINED BECAUSE"}


def since(text: str, *, now: datetime, name: str = "--since") -> int:
    """ "2h" (ago), or a time as ISO 8601 has it, in UTC unless it says otherwise: unix seconds."""
    try:
        return int((now - parse_duration(text, name)).timestamp())
    except SettingInvalid:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise MalformedInput(
            f"{name} is not a time.", seen=repr(text)[:80], expected='like "2h", or "2026-11-28 07:30"'
        ) from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def described(preview: dict[str, Any]) -> str:
    """What would be released."""
    rows = [{**device, "attested": moment(device["attested_at"])} for device in preview["devices"]]
    shown = table(rows, _COLUMNS, empty="No quarantined device is meant.")
    more = preview["count"] - len(rows)
    return f"{shown}\n… and {more} more" if more > 0 else shown


def release(api: Any, cohort: dict[str, Any], *, count: int, reason: str) -> int:
    """Releases as many as were seen: by one act, or by one for each part that an act takes. Returns how many."""
    released, left = 0, count
    while left:
        done = api.post("/devices/release-cohort", {**cohort, "expected": left, "reason": reason})
        released, left = released + done["released"], done["left"]
    return released
