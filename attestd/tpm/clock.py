"""What a TPM's clockInfo says of the time between two of its quotes.

TPM 2.0 Library, revision 1.59, Part 1, section 36 (timing components) and Part 2, section 10.11.1 (TPMS_CLOCK_INFO).
`resetCount` counts TPM Resets since the last TPM2_Clear, `restartCount` restarts and resumes since the last Reset, and
both are obfuscated, by a constant of the key's, where the signing key is not of the endorsement hierarchy: so they are
compared by their difference modulo 2^32. `clock` counts milliseconds while the TPM has power and goes on over resets.
After a power cut it may come back behind, and then `safe` should not be set; but TPMs set it too soon (swtpm 0.7 within
seconds), so over a reset the clock is not judged.

| reading | counts | what it means |
|---|---|---|
| same-boot | both equal | PCRs go on from where they were |
| resumed | more restarts | it slept, or was restarted with or without its PCRs: nothing of before is relied on |
| rebooted | more resets | a new boot; the count of restarts begins anew |
| went-back | fewer of one, or in one boot the clock behind | its state is a copy's of earlier |
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from attestd.errors import EvidenceRefused
from attestd.tpm.statements import ClockInfo

_COUNTS: Final = 1 << 32
_FORWARD: Final = 1 << 31  # a difference of less is a step forward


class ClockWentBack(EvidenceRefused):
    """The TPM says that less has happened to it than it said before"""

    remedy = (
        "The TPM was cleared, or its state was restored from a copy (a virtual TPM's snapshot). If the device is "
        "yours, let it enroll again: it gets new keys, and what the old ones held is revoked."
    )


class Reading(StrEnum):
    """What happened between two quotes by one key."""

    SAME_BOOT = "same-boot"
    RESUMED = "resumed"
    REBOOTED = "rebooted"


def read_clock(before: ClockInfo, now: ClockInfo) -> Reading:
    """Raises ClockWentBack."""
    resets = (now.reset_count - before.reset_count) % _COUNTS
    restarts = (now.restart_count - before.restart_count) % _COUNTS
    if resets >= _FORWARD or (resets == 0 and restarts >= _FORWARD):
        raise ClockWentBack(seen=_told(now), expected=f"at least {_told(before)}")
    same_boot = resets == 0 and restarts == 0
    if same_boot and now.clock < before.clock:
        raise ClockWentBack(seen=f"clock {now.clock} ms", expected=f"at least {before.clock} ms")
    if same_boot:
        return Reading.SAME_BOOT
    return Reading.REBOOTED if resets else Reading.RESUMED


def _told(clock: ClockInfo) -> str:
    return f"{clock.reset_count} resets, {clock.restart_count} restarts"
