"""`attestd serve` in the hands of somebody who pulls its plug."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from attestd.cli.output import UNAVAILABLE
from attestd.policy import default_policy, edge_tokens_policy
from attestd.registry.engine import Registry
from tests import ek_ca
from tests.chaos.load import Load
from tests.processes import status, workers_of
from tests.service import URL

BIN = Path(sys.executable).parent
_PATIENCE = 60.0  # seconds for a start or an end on a busy machine


@dataclass
class Served:
    """One instance's service on one port, through any number of lives."""

    folder: Path
    port: int
    log_file: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, folder: Path, *, database: str = "", more: str = "", log_file: Path | None = None) -> Served:
        """A new instance, not started. `database`: a URL, if it is not the folder's own file; `more`: settings."""
        environ = {"ATTESTD_DATABASE_URL": database} if database else {}
        command = [str(BIN / "attestd"), "init", "--trust-domain", "fleet.example", "--dir", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environ)
        assert done.returncode == 0, done.stdout + done.stderr
        settings = folder / "attestd.toml"
        text = settings.read_text("utf-8")
        text = text.replace("[server]\n", f'[server]\npublic_url = "{URL}"\n')
        if database:
            text = text.replace('url = "sqlite:///registry.db"', f'url = "{database}"')
        settings.write_text(text + more, "utf-8")
        return cls(folder, _free_port(), log_file or folder / "log", environ)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    @property
    def failures(self) -> str:
        """What the log says of answers that nobody foresaw."""
        return "\n".join(line for line in self.log.splitlines() if '"cause"' in line and '"status":503' not in line)

    def registry(self) -> Registry:
        """The same database, seen by the test."""
        return Registry.open(self.environ.get("ATTESTD_DATABASE_URL") or f"sqlite:///{self.folder}/registry.db")

    def load(self, seed: int, **options: float) -> Load:
        """Clients of this service, which runs: their TPMs' maker is trusted and they may have tokens."""
        load = Load(self.url, self.folder, seed, **options)  # type: ignore[arg-type]
        load.operator.trust(ek_ca.maker().root.certificate)
        load.operator.permit_tokens(default_policy() + edge_tokens_policy())
        return load

    # ---- Living and dying -------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Starts it on its port; `wait` until it answers."""
        command = [str(BIN / "attestd"), "serve", "--dir", str(self.folder), "--listen", f"127.0.0.1:{self.port}"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers. Raises AssertionError if it has ended, or does not in time."""
        until(self.answers, "the service answers", lambda: self.log[-3000:])

    def answers(self, path: str = "/healthz") -> bool:
        """Whether it does now. A service that found its database away ends, and is started again as by systemd."""
        assert self.process is not None
        if self.process.poll() == UNAVAILABLE:
            self.start(wait=False)
        assert self.process.poll() is None, (
            f"the service ended by itself, {self.process.returncode}:\n{self.log[-3000:]}"
        )
        with suppress(httpx.TransportError):
            return self.get(path).status_code == 200
        return False

    def get(self, path: str, *, timeout: float = 5.0) -> httpx.Response:
        trust = ssl.create_default_context(cafile=str(self.folder / "ca" / "root.pem"))
        return httpx.get(self.url + path, verify=trust, timeout=timeout, headers={"Host": URL.removeprefix("https://")})

    @property
    def supervisor(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        """The process ids of those that are alive, the oldest first."""
        return workers_of(self.supervisor)

    def kill(self) -> list[int]:
        """All of it at once. Returns the workers that there were."""
        workers = self.workers
        for pid in (self.supervisor, *workers):
            kill(pid)
        self._reap()
        return workers

    def kill_supervisor(self) -> list[int]:
        """The supervisor alone. Returns the workers that there were: they must not live on."""
        workers = self.workers
        kill(self.supervisor)
        self._reap()
        return workers

    def stop(self) -> int:
        """As an operator does. Returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_PATIENCE)

    def close(self) -> None:
        """Leaves nothing behind, in whatever state it is."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def _reap(self) -> None:
        assert self.process is not None
        self.process.wait(_PATIENCE)


def until(
    happens: Callable[[], bool], what: str, diagnosis: Callable[[], str] = str, *, patience: float = _PATIENCE
) -> None:
    """Waits for something. Raises AssertionError if it does not happen."""
    ends = time.monotonic() + patience
    while not happens():
        assert time.monotonic() < ends, f"waited {patience:g} s until {what}; {diagnosis()}"
        time.sleep(0.05)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    return status(pid)[:1] not in ([], ["Z"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
