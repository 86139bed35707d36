"""The logs that explain the PCRs: the firmware's event log and IMA's measurement list, as the kernel shows them.

Both are readable by root alone; deploy/systemd/attestd-agent.tmpfiles hands them to the group that the agent runs with.
Kernel documentation: Documentation/security/tpm/tpm_event_log.rst and Documentation/ABI/testing/ima_policy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from attestd.protocol.messages import MAX_LOG

_log = logging.getLogger(__name__)
_SECURITYFS = Path("/sys/kernel/security")


@dataclass(frozen=True, slots=True)
class BootLogs:
    """Where the logs are; what is asked for and can't be read is left out, and the service decides without it."""

    eventlog: Path = _SECURITYFS / "tpm0/binary_bios_measurements"
    ima: Path = _SECURITYFS / "ima/binary_runtime_measurements"

    def read(self, wants: Iterable[str]) -> dict[str, bytes]:
        """The wanted ones of `eventlog` and `ima`, by these names. Read before the quote: IMA's list only grows."""
        places = {"eventlog": self.eventlog, "ima": self.ima}
        found: dict[str, bytes] = {}
        for name in wants:
            if name not in places:
                _log.warning("the service wants evidence that this agent does not know", extra={"wants": name[:40]})
                continue
            try:
                with places[name].open("rb") as file:
                    data = file.read(MAX_LOG + 1)
            except OSError as failure:
                _log.warning("a boot log can't be read", extra={"wants": name, "why": failure.strerror})
                continue
            if len(data) > MAX_LOG:
                _log.warning("a boot log is too large to send", extra={"wants": name, "limit": MAX_LOG})
                continue
            found[name] = data
        return found
