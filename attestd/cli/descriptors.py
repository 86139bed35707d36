"""File descriptors: as many as the system lets this process have, and how many connections that is."""

from __future__ import annotations

import logging
import resource
from typing import Final

_log = logging.getLogger("attestd.serve")
# A worker's own: database, log, metrics. And half of the rest is for handshakes, which no setting bounds but theirs of
# ten seconds.
_OWN: Final = 256


def connections(wanted: int) -> int:
    """Raises this process's limit of descriptors (its children inherit it) to the hard one; how many connections of
    one worker leave room for as many that still shake hands: `wanted`, or fewer, which the log then says."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = max(1, (hard - _OWN) // 2) if hard != resource.RLIM_INFINITY else wanted
    if possible < wanted:
        _log.warning(
            "limits.connections is %d, and %d file descriptors a process leave room for %d (LimitNOFILE= in a unit)",
            wanted,
            hard,
            possible,
        )
    return min(wanted, possible)
