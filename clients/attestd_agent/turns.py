"""Taking turns at a TPM that has no resource manager: a software TPM behind a socket.

Its three object slots are everybody's, and its clients' commands interleave. Agents on one machine take turns, by the
name of an abstract Unix socket, which ends with the process that holds it (unix(7)). Other programs know nothing of
this; where they fill the TPM, the agent waits a while before it takes their objects for a dead client's.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from attestd_agent.failures import TpmFull

# Seconds between attempts at a full TPM, before what lies in it is held to be abandoned.
PAUSES = (0.1, 0.2, 0.4, 0.8)
_PATIENCE = 60.0  # seconds for a turn


def is_unmanaged(tcti: str) -> bool:
    """Whether nothing stands between this TCTI's clients and the TPM; the kernel's /dev/tpmrm0 swaps objects."""
    return tcti.partition(":")[0] in ("swtpm", "mssim")


@contextmanager
def turn_at(tcti: str, *, patience: float = _PATIENCE) -> Iterator[None]:
    """Keeps other agents from this TPM meanwhile, if it is an unmanaged one. Raises TpmFull after `patience`."""
    if not is_unmanaged(tcti):
        yield
        return
    name = b"\0attestd-agent-" + hashlib.sha256(tcti.encode()).hexdigest()[:32].encode()
    give_up = time.monotonic() + patience
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        while True:
            try:
                held.bind(name)
                break
            except OSError:
                if time.monotonic() >= give_up:
                    raise TpmFull("Another agent uses this TPM all the time.", seen=tcti) from None
                time.sleep(0.01)
        yield
