"""A running service follows its keys: what `attestd ca` changed on disk is in use a second later, in every process.

Nothing restarts for it, so no request is lost. What can't be read is reported once, and the keys in use stay in use.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from attestd.ca.hierarchy import Hierarchy
from attestd.errors import AttestdError

_log = logging.getLogger(__name__)
_EVERY = 1.0  # seconds


def follow_keys(
    hierarchy: Hierarchy,
    *,
    changed: Callable[[], object] = lambda: None,
    ended: threading.Event | None = None,
    every: float = _EVERY,
) -> threading.Thread:
    """Looks at the files once a second, in a thread of its own, until `ended`. Calls `changed` after each change."""
    over = ended or threading.Event()

    def follow() -> None:
        said = ""
        while not over.wait(every):
            try:
                if hierarchy.refresh():
                    _log.info("the keys changed", extra={"members": {"issuer": hierarchy.issuer.key_identifier.hex()}})
                    changed()
                said = ""
            except AttestdError as error:
                if str(error) != said:
                    members = {"problem": error.slug(), "detail": error.detail, "remedy": error.what_to_do}
                    _log.error("the keys on disk can't be used", extra={"members": members})
                said = str(error)

    thread = threading.Thread(target=follow, name="keys", daemon=True)
    thread.start()
    return thread
