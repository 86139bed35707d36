"""When the daemon acts next, and what it does. Pure: time and chance come in, a plan comes out.

- Healthy: attest when the service said so, give or take the jitter that was drawn when the credential came.
- Told to wait (Retry-After): never earlier, and a little later, so that not all that were told the same come at once.
- Failed: exponential backoff with full jitter (a random part of 2, 4, 8, … seconds, at most 5 minutes), but while the
  credential lives never so late that the next attempt would come after half of what is left.
- After a restart everything follows from the state folder. What is overdue then is spread over a few seconds: a power
  cut ends for all devices of a site at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from attestd_agent.records import Record, Waiting
from attestd_agent.server import MAX_WAIT

FIRST_BACKOFF = 2.0  # seconds
MAX_BACKOFF = 300.0
SPREAD = 5.0  # seconds that overdue work is spread over after a restart
_WAIT_JITTER = 0.1
_CLOCK_TOLERANCE = 60  # seconds by which a clock may be set back without anybody noticing


class Act(Enum):
    """What the daemon can do."""

    ENROLL = "enroll"
    ATTEST = "attest"


@dataclass(frozen=True, slots=True)
class Plan:
    """The next act, in so many seconds from now. `asked`: somebody wants it, whether it is due or not."""

    act: Act
    delay: float
    asked: bool = False


class Schedule:
    """Keeps count of failures in a row, and nothing else. `random` is uniform in [0, 1); `now` is in Unix seconds."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0

    def start(self, record: Record | None, waiting: Waiting | None, *, now: float) -> Plan:
        """From the state folder alone: at start, and whenever somebody else changed it."""
        act = _act(record, waiting)
        if waiting is not None:
            left = waiting.retry_at - now
            return Plan(act, left if 0 < left <= MAX_WAIT else 0.0)
        if record is None:
            return Plan(act, 0.0)
        if now < record.obtained_at - _CLOCK_TOLERANCE:
            # The clock was set back: nothing that was written down says any more when the credential ends.
            return Plan(act, SPREAD * self._random())
        return Plan(act, max(record.renew_at - now, SPREAD * self._random()))

    def succeeded(self, record: Record, *, now: float) -> Plan:
        self._failures = 0
        return Plan(Act.ATTEST, max(record.renew_at - now, 1.0))

    def told_to_wait(self, retry_after: int, record: Record | None, waiting: Waiting | None) -> Plan:
        self._failures = 0
        return Plan(_act(record, waiting), self._patient(retry_after))

    def failed(
        self, act: Act, *, record: Record | None, now: float, retry_after: int | None = None, enroll: bool = False
    ) -> Plan:
        """`enroll`: the failure is one that only a new enrollment can mend."""
        ceiling = min(FIRST_BACKOFF * 2.0 ** min(self._failures, 30), MAX_BACKOFF)
        self._failures += 1
        delay = ceiling * self._random()
        if record is not None and record.expires_at > now:
            delay = min(delay, (record.expires_at - now) / 2)
        delay = max(delay, 1.0)
        if retry_after is not None:
            delay = max(delay, self._patient(retry_after))
        return Plan(Act.ENROLL if enroll else act, delay)

    def _patient(self, retry_after: int) -> float:
        return min(max(retry_after, 1), MAX_WAIT) * (1 + _WAIT_JITTER * self._random())


def _act(record: Record | None, waiting: Waiting | None) -> Act:
    # A quarantined device may attest and is told its result; a pending one has nothing to attest with.
    pending = waiting is not None and waiting.state == "pending"
    return Act.ENROLL if record is None or pending else Act.ATTEST
