"""The supervisor's way with worker processes that die."""

from __future__ import annotations

import time
from typing import Any

from granian.server.mp import MPServer

_PAUSE = 0.5  # seconds


class Workers(MPServer):
    """granian's worker processes. It ends the whole service when one of them dies twice within seconds; here, only if
    that one ended by itself, as the next one would. One that was killed (for want of memory, by an operator, by a
    fault in native code) has its place filled, however often."""

    def _serve_loop(self, spawn_target: Any, target_loader: Any) -> None:
        while True:
            super()._serve_loop(spawn_target, target_loader)  # type: ignore[no-untyped-call]  # granian's
            dead = [self.wrks[index].inner for index in self.interrupt_children]
            if self.interrupt_signal or any(process.exitcode >= 0 for process in dead):
                return
            time.sleep(_PAUSE)
            self.respawned_wrks.clear()
