"""The supervisor's way with worker processes: where they come from, when they die, how they make room for others."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from granian.server.mp import MPServer

from attestd.cli.nursery import LOST, STREAMS_END

_PAUSE = 0.5  # seconds
_TRIES = 5  # with a pause each
_PATIENCE = 60.0  # seconds until a new worker listens, on a machine that is busy
_LISTEN = "0A"  # in /proc/net/tcp


class _Copy(ForkServerProcess):
    """A process that the nursery makes."""

    def start(self) -> None:
        """A nursery that dies at this moment is not dead yet for multiprocessing, which makes another one after it."""
        for _ in range(_TRIES):
            with suppress(OSError, EOFError):
                super().start()
                return
            time.sleep(_PAUSE)
        super().start()


class Workers(MPServer):
    """granian's worker processes. It ends the whole service when one of them dies twice within seconds; here, only if
    that one ended by itself, as the next one would. One that was killed (for want of memory, by an operator, by a
    fault in native code) has its place filled, however often, and so have those whose nursery was killed."""

    def _serve_loop(self, spawn_target: Any, target_loader: Any) -> None:
        while True:
            super()._serve_loop(spawn_target, target_loader)  # type: ignore[no-untyped-call]  # granian's
            codes = [self.wrks[index].inner.exitcode for index in self.interrupt_children]
            if self.interrupt_signal or any(code >= 0 and code != LOST for code in codes):
                return
            time.sleep(_PAUSE)
            self.respawned_wrks.clear()

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]
        """Made by the nursery; granian knows two other ways."""
        worker: Any = super()._spawn_worker(idx, target, callback_loader)
        planned: Any = worker.inner  # a process that was not started
        worker.inner = _Copy(name=f"attestd-worker-{idx + 1}", target=planned._target, args=planned._args)
        return worker

    def _stop_workers(self) -> None:
        for worker in self.wrks:
            _end_streams(worker)
        super()._stop_workers()  # type: ignore[no-untyped-call]

    def _respawn_workers(self, workers: Any, spawn_target: Any, target_loader: Any, delay: float = 0) -> None:
        """With a pause, the old workers live: each goes only once the one in its place takes connections. granian waits
        for a fixed time, which is too short on a busy machine: for a moment nobody would listen."""
        for index in workers:
            self.respawned_wrks[index] = time.monotonic()
            old: Any = self.wrks.pop(index)
            young: Any = self._spawn_worker(idx=index, target=spawn_target, callback_loader=target_loader)
            young.start()
            self.wrks.insert(index, young)
            until = time.monotonic() + _PATIENCE
            while delay and young.is_alive() and not _listens(young.inner.pid) and time.monotonic() < until:
                time.sleep(_PAUSE / 5)
            _end_streams(old)
            old.terminate()
            old.join(self.workers_kill_timeout)
            if old.is_alive():
                old.kill()
                old.join()
            # An old one that lives on without its nursery ends with the last reference to it, which it takes for its
            # supervisor's end. (Not sooner: granian's watcher may still read from what close() would close.)
            del old
        self._metrics.incr_spawn(len(workers))


def _end_streams(worker: Any) -> None:
    """A worker that is told to end finishes what it answers, and a stream is an answer without end."""
    with suppress(OSError, TypeError):
        os.kill(worker.inner.pid, STREAMS_END)


def _listens(pid: int) -> bool:
    """Whether this process has a listening socket."""
    listening = set()
    with suppress(OSError):
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    listening.add(f"socket:[{fields[9]}]")
    with suppress(OSError):
        return any(str(one.readlink()) in listening for one in Path(f"/proc/{pid}/fd").iterdir())
    return False
