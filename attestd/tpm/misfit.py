"""How far a log that does not replay still fits, for whoever has to find out why.

A PCR's value tells one sequence of digests from all others, but not where another one leaves it. So the log is tried
with the one change that most often explains it: cut after an event, one event left out, one digest taken from its
event's data, two neighbours in turn. Nothing is believed that fits only then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from attestd.tpm.eventlog import Event

_MOST_TRIED: Final = 128  # events of one PCR; each change costs a replay of what follows


class Misfit(NamedTuple):
    """`last_fitting`: the number of the last event that still fits; None where none does, or none can be named."""

    last_fitting: int | None
    how: str


def locate(events: Sequence[Event], bank: str, position: int, start: bytes, wanted: bytes) -> Misfit:
    """Where `events`, all of one PCR that begins at `start`, leave the way to the value `wanted`.

    `position` is the bank's among each event's digests, of which none is None.
    """
    if not events:
        return Misfit(None, "the log has no event of this PCR, whose value is not the one at reset")
    new = getattr(hashlib, bank)
    digests = [event.digests[position] or b"" for event in events]
    if wanted in (start, bytes(len(wanted))):
        return Misfit(None, f"the PCR was never extended, where the log has {len(events)} events of it")
    values = [start]
    for at, digest in enumerate(digests):
        values.append(new(values[-1] + digest).digest())
        if values[-1] == wanted:
            more = len(digests) - 1 - at
            return Misfit(
                events[at].number, f"the last event that still fits is {events[at]}, and {more} more follow it"
            )
    if len(events) <= _MOST_TRIED:
        for at, count, instead, how in _changes(events, digests, new):
            value = values[at]
            for digest in (*instead, *digests[at + count :]):
                value = new(value + digest).digest()
            if value == wanted:
                last = events[at - 1] if at else None
                return Misfit(
                    last.number if last else None,
                    f"the last event that still fits is {last}, and {how}" if last else f"no event fits, and {how}",
                )
    return Misfit(None, "no part of the log leads to the quoted value")


def _changes(
    events: Sequence[Event], digests: Sequence[bytes], new: Callable[[bytes], Any]
) -> Iterator[tuple[int, int, tuple[bytes, ...], str]]:
    """(where, how many digests are replaced, by which, in words)."""
    for at, event in enumerate(events):
        yield at, 1, (), f"without {event} the log would replay"
        for octets in (event.data, event.data[:-1]):
            yield at, 1, (new(octets).digest(),), f"with the digest of its data {event} would"
        if at + 1 < len(events):
            yield at, 2, (digests[at + 1], digests[at]), f"{event} and {events[at + 1]} would, the other way round"
