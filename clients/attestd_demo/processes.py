"""Programs that the story starts, and their ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attestd.errors import AttestdError


class CommandFailed(AttestdError):
    """A command failed"""

    remedy = "Its own words are above."


def command(name: str, *words: str) -> str:
    """What a command says. Raises CommandFailed."""
    done = subprocess.run(
        [program(name), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise CommandFailed(f"{name} {' '.join(words[:2])} failed.", seen=(done.stderr or done.stdout).strip()[-500:])
    return done.stdout.strip()


def program(name: str) -> str:
    """The console script beside this interpreter."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def pause(process: subprocess.Popen[Any]) -> None:
    """Stops it and its children where they are: nobody answers, as when a line is cut."""
    os.killpg(process.pid, signal.SIGSTOP)


def resume(process: subprocess.Popen[Any]) -> None:
    """Lets them go on."""
    os.killpg(process.pid, signal.SIGCONT)


def end(process: subprocess.Popen[Any] | None) -> None:
    """Asks it to end, and waits; not for ever."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
