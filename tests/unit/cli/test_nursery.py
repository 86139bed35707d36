"""The nursery: what workers are copied from must be safe to copy, and hold nothing that no worker needs."""

from __future__ import annotations

import subprocess
import sys

_PRELOADED = "import gc, os, signal, sys; import attestd.cli.preloaded\n"


def told(code: str) -> str:
    """What a fresh process says that has loaded what the nursery loads."""
    done = subprocess.run([sys.executable, "-c", _PRELOADED + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_has_one_thread() -> None:
    """A thread would be missing in the copy, and the locks that it held at that moment would be there for ever."""
    assert told("print(len(os.listdir('/proc/self/task')))") == "1"


def test_it_holds_no_file_but_its_three() -> None:
    """An open database, a socket or a key would be shared by all copies."""
    assert told("print(*sorted(os.listdir('/proc/self/fd'))[:-1])") == "0 1 2"  # the last one is the listing's own


def test_it_is_not_ended_with_its_workers_but_copies_are() -> None:
    handlers = "*(signal.getsignal(n).name for n in (signal.SIGTERM, signal.SIGHUP))"
    assert told(f"print({handlers})") == "SIG_IGN SIG_IGN"
    copy = f"pid = os.fork(); pid or (print({handlers}, gc.isenabled(), flush=True), os._exit(0)); os.waitpid(pid, 0)"
    assert told(copy) == "SIG_DFL SIG_DFL True"


def test_copies_draw_different_random_numbers() -> None:
    """Also if the nursery itself had drawn some: signatures with one nonce for two messages would tell the key."""
    draws = """
import random
from cryptography.hazmat.primitives.asymmetric import ec
def draw():
    return ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value, random.random(), os.urandom(8)
draw()
for _ in range(2):
    pid = os.fork()
    if not pid:
        print(*draw(), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""
    first, second = (set(line.split()) for line in told(draws).splitlines())
    assert not first & second


def test_it_holds_nothing_that_no_worker_needs() -> None:
    """Each of these takes megabytes of every worker, and a part of the time in which the service starts."""
    unwanted = ("alembic", "httpx", "psycopg", "rich", "typer", "sqlalchemy.dialects.postgresql")
    assert told(f"print(*[name for name in {unwanted} if name in sys.modules])") == ""
