"""How a command of the agent ends: exit codes that mean something, and errors as people and machines can use them."""

from __future__ import annotations

import json
import sys

from attestd.errors import AttestdError, Misconfigured
from attestd_agent.agent import NotEnrolled
from attestd_agent.failures import HierarchyLocked, TpmFailed, TpmFull, TpmUnavailable
from attestd_agent.server import ServerRefused
from attestd_agent.transport import ServerTooSlow, ServerUnreachable

OK, FAILED, MISUSED, NOT_ENROLLED, WAITING, EXPIRED, REFUSED, UNREACHABLE, TPM = 0, 1, 2, 3, 4, 5, 6, 7, 8
CODES = (
    "Exit codes: 0 done, or healthy · 1 failed · 2 wrong option or setting · 3 not enrolled · 4 waiting: for approval, "
    "or quarantined · 5 the certificate has expired · 6 the service refused · 7 the service can't be reached · "
    "8 the TPM can't be used."
)


def report(error: AttestdError, *, as_json: bool) -> int:
    """Says what failed and what to do: to machines on stdout, to people on stderr. Returns the exit code."""
    if as_json:
        members = {"name": error.slug(), "title": error.title(), "detail": error.detail, "seen": error.seen}
        members |= {"expected": error.expected, "remedy": error.what_to_do}
        if isinstance(error, ServerRefused):
            members |= {"problem": error.problem, "status": str(error.status), "request_id": error.request_id}
        print(json.dumps({"error": {name: value for name, value in members.items() if value}}))
    else:
        told = str(error)
        if not isinstance(error, ServerRefused) and not told.startswith(error.title()):
            told = f"{error.title()}. {told}"
        print(f"attestd-agent: {told}\n  what to do: {error.what_to_do}", file=sys.stderr)
    return _code(error)


def _code(error: AttestdError) -> int:
    table: tuple[tuple[tuple[type[AttestdError], ...], int], ...] = (
        ((NotEnrolled,), NOT_ENROLLED),
        ((ServerRefused,), REFUSED),
        ((ServerUnreachable, ServerTooSlow), UNREACHABLE),
        ((TpmUnavailable, TpmFailed, TpmFull, HierarchyLocked), TPM),
        ((Misconfigured,), MISUSED),
    )
    return next((code for kinds, code in table if isinstance(error, kinds)), FAILED)
