"""The logs that explain the PCRs: the firmware's event log and IMA's measurement list, as the kernel shows them.

Both are readable by root alone; deploy/systemd/attestd-agent.tmpfiles hands them to the group that the agent runs with.
Kernel documentation: Documentation/security/tpm/tpm_event_log.rst and Documentation/ABI/testing/ima_policy.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from attestd.protocol.demanded import EVENT_LOG, IMA

MAX_LIST = 64 * 1024 * 1024  # octets read of one log; of a list that long, only the end may be new
_log = logging.getLogger(__name__)
_SECURITYFS = Path("/sys/kernel/security")
_KERNEL_TPM = re.compile(r"device:/dev/tpm(?:rm)?([0-9]{1,3})", re.ASCII)


@dataclass(frozen=True, slots=True)
class BootLogs:
    """Where the logs of this TPM are; None where there are none that could be its."""

    eventlog: Path | None = None
    ima: Path | None = None

    @classmethod
    def of(cls, tcti: str, *, eventlog: Path | None = None, ima: Path | None = None) -> Self:
        """Those that somebody named; else the kernel's, if the TPM is the kernel's: those of the machine on which a
        software TPM happens to run say nothing of that TPM. IMA extends the first TPM and no other."""
        if found := _KERNEL_TPM.fullmatch(tcti):
            eventlog = eventlog or _SECURITYFS / f"tpm{int(found[1])}" / "binary_bios_measurements"
            ima = ima or (None if int(found[1]) else _SECURITYFS / "ima" / "binary_runtime_measurements")
        return cls(eventlog, ima)

    def read(self, name: str) -> bytes | None:
        """`eventlog` or `ima`, whole. None, and a line in the log, where it is not there, can't be read, or is larger
        than MAX_LIST: the service decides without it."""
        path = {EVENT_LOG: self.eventlog, IMA: self.ima}.get(name)
        if path is None:
            known = name in (EVENT_LOG, IMA)
            why = "this TPM has none that is known" if known else "this agent does not know it"
            _log.warning("the service wants a log that can't be sent", extra={"wants": name[:40], "why": why})
            return None
        try:
            with path.open("rb") as file:
                data = file.read(MAX_LIST + 1)
        except OSError as failure:
            _log.warning("a boot log can't be read", extra={"wants": name, "path": path, "why": failure.strerror})
            return None
        if len(data) > MAX_LIST:
            warn_too_large(name, f"more than {MAX_LIST}", MAX_LIST)
            return None
        return data


_WHAT_TO_DO = {
    EVENT_LOG: "Tell the service's operator: a firmware's log of this size is not normal, and is not appraised.",
    IMA: "Restart the device: its list begins anew, and only new entries travel from then on. If it comes back, let "
    "the kernel's IMA policy measure less.",
}


def warn_too_large(name: str, octets: object, limit: int) -> None:
    extra = {"wants": name, "octets": octets, "limit": limit, "remedy": _WHAT_TO_DO[name]}
    _log.warning("a boot log is too large to send", extra=extra)
