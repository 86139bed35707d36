"""Where worker processes come from: one process that has loaded all that they need, and is copied for each of them.

Loading takes a second. The nursery does it once, beside the supervisor, while that opens the instance; a copy is there
within some hundredths of a second, also in the place of one that died, and shares what was loaded with its siblings.
Python calls this a fork server. It has one thread, no connection and no key, so a copy of it holds no lock that
somebody else would have to release.
"""

from __future__ import annotations

import os
import signal
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from attestd.web.front import Front

DIR_VARIABLE: Final = "ATTESTD_DIR"  # tells a worker its instance
# The exit code of a process whose nursery died: nobody knows any more what becomes of it (multiprocessing's choice).
LOST: Final = 255
STREAMS_END: Final = signal.SIGUSR1  # to a worker that is told to end next

_ENVIRONMENT: Final = {
    # glibc gives threads heaps of their own, and every heap keeps what was once needed in it.
    "MALLOC_ARENA_MAX": "2",
    # The nursery is a `python -c`, which would first look for modules in the folder where the command was given.
    "PYTHONSAFEPATH": "1",
}


def start() -> None:
    """Starts the nursery and goes on. Workers see the environment of now; the nursery ends after the last of them."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # who has set one knows better
    forkserver.set_forkserver_preload(["attestd.cli.preloaded"])
    forkserver.ensure_running()


def front() -> Front:
    """What a worker serves. Named here, where the supervisor can name it without loading it."""
    from attestd.cli.worker import create_front

    return create_front()
