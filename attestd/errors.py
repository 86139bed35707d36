"""Every failure the product can name, without a word about HTTP.

Each class is one way to fail. Its first docstring line is the title people read, `remedy` says what to do,
and the instance carries what was seen and what was expected. `web/problems.py` and the edge's adapters map the
*categories* (the direct children of `AttestdError`) to the wire in one table each.

Nothing secret goes into `detail`, `seen` or `expected`: they are shown to callers and written to logs.
"""

from __future__ import annotations

import re
from typing import ClassVar


class AttestdError(Exception):
    """Something failed"""

    remedy: ClassVar[str] = "See the service's log under this request id."

    def __init__(
        self,
        detail: str = "",
        *,
        seen: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.detail = detail or self.title()
        self.seen = None if seen is None else str(seen)
        self.expected = None if expected is None else str(expected)
        self.what_to_do = remedy or type(self).remedy
        super().__init__(self.detail)

    @classmethod
    def title(cls) -> str:
        """The class's first docstring line: the same for every occurrence (RFC 9457, section 3.1.3)."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")

    @classmethod
    def slug(cls) -> str:
        """The stable name in `type` URNs, logs and metrics: AkNotRestricted -> ak-not-restricted, NotADevice ->
        not-a-device."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()

    def __str__(self) -> str:
        parts = [self.detail]
        if self.seen is not None:
            parts.append(f"seen: {self.seen}")
        if self.expected is not None:
            parts.append(f"expected: {self.expected}")
        return "; ".join(parts)


# ---- Categories: what kind of failure it is ---------------------------------------------------------------------


class MalformedInput(AttestdError):
    """The input can't be read"""

    remedy = "Send the message as the protocol describes it."


class InputTooLarge(AttestdError):
    """The input is larger than allowed"""

    remedy = "Send less; the limit is in the message."


class Unauthenticated(AttestdError):
    """The caller did not prove who it is"""

    remedy = "Present a valid credential."


class EvidenceRefused(AttestdError):
    """The evidence does not prove what it claims"""

    remedy = "Begin again with fresh evidence from the device's own TPM."


class Forbidden(AttestdError):
    """The caller is known and may not do this"""

    remedy = "Ask an operator of this service."


class NotFound(AttestdError):
    """There is no such thing"""

    remedy = "Check the name; the list commands show what exists."


class Conflict(AttestdError):
    """The state of things does not allow this now"""

    remedy = "Read the current state and try again."


class Limited(AttestdError):
    """Too much was asked for now"""

    remedy = "Wait for the stated time, then try again."

    def __init__(
        self, detail: str = "", *, retry_after: int = 30, seen: object = None, expected: object = None
    ) -> None:
        super().__init__(detail, seen=seen, expected=expected)
        self.retry_after = retry_after  # seconds


class Unavailable(AttestdError):
    """The service can't do this at the moment"""

    remedy = "Try again after the stated time; nothing was changed."

    def __init__(self, detail: str = "", *, retry_after: int = 5, seen: object = None, expected: object = None) -> None:
        super().__init__(detail, seen=seen, expected=expected)
        self.retry_after = retry_after  # seconds


class Misconfigured(AttestdError):
    """The configuration contradicts itself or the world"""

    remedy = "Correct the named setting; `attestd doctor` checks all of them."
