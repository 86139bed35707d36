"""What the nursery loads. Importing this prepares the process that workers are copied from (see `nursery`)."""

from __future__ import annotations

import gc
import os
import signal
from importlib import import_module
from typing import Final

_LOADED: Final = ("attestd.cli.worker", "granian.server.mp")
# A terminal's Ctrl-C and a service manager's stop reach every process at once. The nursery outlives its workers, which
# finish what they began: only it can tell the supervisor that they ended.
_OUTLIVED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _prepare() -> None:
    for number in _OUTLIVED:
        signal.signal(number, signal.SIG_IGN)
    gc.disable()
    for name in _LOADED:
        import_module(name)
    # What is loaded stays. The collector would look at it again and again, and write to memory that copies share.
    gc.freeze()
    os.register_at_fork(after_in_child=_begin)


def _begin() -> None:
    """In each copy."""
    for number in _OUTLIVED:
        signal.signal(number, signal.SIG_DFL)
    gc.enable()


_prepare()
