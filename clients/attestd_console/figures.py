"""Numbers and times as people read them. Times are relative; the exact one stands beside them, in UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

THIN = "\N{NARROW NO-BREAK SPACE}"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_FIRMWARE = re.compile(r"id:(?:([0-9A-Fa-f]{2})([0-9A-Fa-f]{2})|([0-9A-Fa-f]{4})([0-9A-Fa-f]{4}))", re.ASCII)
_YEARS = 3 * 365  # days from which a span is told in years


def count(number: int | float | None) -> str:
    """41318 -> 41,318."""
    return "–" if number is None else f"{number:,.0f}"


def share(part: int, whole: int) -> str:
    """98.9 %. Never rounded up to all, nor down to none."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if percent in (0, 100):
        return f"{percent:.0f} %"
    digits = 2 if percent > 99 or percent < 1 else 1
    bounded = min(max(percent, 10**-digits), 100 - 10**-digits)
    return f"{bounded:.{digits}f} %"


def span(seconds: float) -> str:
    """A length of time in its two largest units at most: 44 min, 2 h 12 min, 3 d."""
    seconds = max(0, int(seconds))
    if seconds < _MINUTE:
        return f"{seconds} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE} min"
    if seconds < _DAY:
        hours, rest = divmod(seconds, _HOUR)
        return f"{hours} h {rest // _MINUTE} min" if rest >= _MINUTE and hours < 10 else f"{hours} h"
    days, rest = divmod(seconds, _DAY)
    if days >= _YEARS:
        return f"{days // 365} years"
    return f"{days} d {rest // _HOUR} h" if rest >= _HOUR and days < 3 else f"{days} d"


def ago(unix: float, now: float) -> str:
    if unix > now:
        return f"in {span(unix - now)}"
    return "now" if now - unix < 1 else f"{span(now - unix)} ago"


def left(unix: float, now: float) -> str:
    """Until then: `in 5 h`, or `over`."""
    return f"in {span(unix - now)}" if unix > now else "over"


def exact(unix: float) -> str:
    """23 Nov 2026, 16:01:49 UTC."""
    return _moment(unix).strftime("%-d %b %Y, %H:%M:%S UTC")


def machine(unix: float) -> str:
    """For the `datetime` attribute."""
    return _moment(unix).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(unix: float) -> str:
    return _moment(unix).strftime("%H:%M:%S")


def day(unix: float, *, year: bool = False) -> str:
    """21 Nov, or 21 Nov 2039."""
    return _moment(unix).strftime("%-d %b %Y" if year else "%-d %b")


def firmware(version: str) -> str:
    """A TPM's: id:00070055 or id:0755 -> 7.85 (TCG EK Credential Profile 2.5, section 3.1.2); others as they are."""
    said = _FIRMWARE.fullmatch(version)
    return version if said is None else ".".join(str(int(part, 16)) for part in said.groups() if part)


def short(value: str) -> str:
    """A digest's both ends: what differs may differ in either."""
    return value if len(value) <= 14 else f"{value[:8]}…{value[-4:]}"


def _moment(unix: float) -> datetime:
    # Whatever a device says of its clock is shown, not computed with: out of range becomes the nearest that exists.
    return datetime.fromtimestamp(min(max(unix, 0), 253402300799), UTC)


def brief(number: float) -> str:
    """For an axis: 0, 500, 1k, 2.5k, 3M."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return f"{number:g}"


def scale(most: float) -> int:
    """The top of an axis on which this fits: an even number that begins with 1, 2, 4, 6 or 8 (at least 2)."""
    size = 1
    while True:
        for first in (1, 2, 4, 6, 8):
            if (top := first * size) >= most and top >= 2:
                return top
        size *= 10


def most_odd(buckets: Sequence[Mapping[str, Any]]) -> int:
    """The most results of a bucket that were not affirmed."""
    return max((int(bucket["warning"]) + int(bucket["contraindicated"]) for bucket in buckets), default=0)
