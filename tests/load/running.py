"""The service as people run it, its devices, and what can be seen of its processes, for tests of load and abuse.

Everything is on loopback, which has sixteen million addresses: 127.0.0.1 is held by no rate, like any address of the
service's own machine; devices and attackers come from others.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from attestd.protocol.encoding import b64decode
from tests.forger import Forger
from tests.processes import workers_of
from tests.soft_device import URL, SoftDevice

BIN = Path(sys.executable).parent
LOCAL = "127.0.0.1"


@dataclass
class Answered:
    """An answer over the wire, in the form that SoftDevice reads."""

    status_code: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@dataclass
class Running:
    """One `attestd serve`."""

    folder: Path
    process: subprocess.Popen[str]
    port: int

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca" / "root.pem"))

    def workers(self) -> list[int]:
        """The processes that serve."""
        return workers_of(self.process.pid)

    def memory(self) -> list[int]:
        """Resident MiB of each worker."""
        return [_status(pid, "VmRSS") // 1024 for pid in self.workers()]

    def descriptors(self) -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.workers()]

    def processor_time(self) -> float:
        """Seconds that the workers have computed so far."""
        ticks = 0
        for pid in self.workers():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def connect(self, source: str = LOCAL, *, tls: bool = True, timeout: float = 20.0) -> socket.socket:
        plain = socket.create_connection((LOCAL, self.port), timeout, source_address=(source, 0))
        return self.trust.wrap_socket(plain, server_hostname=LOCAL) if tls else plain

    def metrics(self) -> Mapping[str, float]:
        """/metrics, summed over the labels that start each key: `name{labels}`."""
        caller = Client(self)
        lines = caller.get("/metrics").text.splitlines()
        caller.close()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def attestd(folder: Path, *words: str, environ: Mapping[str, str] | None = None) -> str:
    command = [str(BIN / "attestd"), *words, "--dir", str(folder)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environ or {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(folder: Path, *, port: int = 0, **settings: str) -> Iterator[Running]:
    """Starts the service on an instance; `limits_reads="5"` sets `[limits] reads`. It ends with the block. `port`: 0
    for any."""
    environ = {f"ATTESTD_{name}".upper(): value for name, value in settings.items()}
    environ |= {"ATTESTD_SERVER_PUBLIC_URL": URL}
    process = subprocess.Popen(
        [str(BIN / "attestd"), "serve", "--dir", str(folder), "--listen", f"{LOCAL}:{port}", "--json"],
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("wb"),
        text=True,
        env={**os.environ, **environ},
    )
    try:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("}"):
                break
        else:
            raise AssertionError((folder / "log").read_text())
        note = json.loads((folder / "run" / "service.json").read_text())
        yield Running(folder, process, int(note["local_url"].rsplit(":", 1)[1]))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()


class Turned(Exception):
    """No nonce was given."""


class Client:
    """One party's connection, from one source address; made anew whenever it was lost."""

    def __init__(self, service: Running, source: str = LOCAL, *, timeout: float = 20.0) -> None:
        self._service, self._source, self._timeout = service, source, timeout
        self._trust = service.trust
        self._connection: http.client.HTTPSConnection | None = None
        self._nonce: bytes | None = None

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answered:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                LOCAL, self._service.port, context=self._trust, timeout=self._timeout, source_address=(self._source, 0)
            )
        try:
            told = {name.replace("_", "-"): value for name, value in headers.items()}
            self._connection.request(method, path, body, {"Host": URL.removeprefix("https://"), **told})
            answer = self._connection.getresponse()
            found = Answered(answer.status, answer.headers, answer.read())
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if (nonce := found.headers.get("Replay-Nonce")) is not None:
            self._nonce = b64decode(nonce)
        return found

    def get(self, path: str, **headers: str) -> Answered:
        return self.request("GET", path, **headers)

    # What SoftDevice asks of its world.

    def post(self, path: str, body: bytes, *, content_type: str = "application/json", **headers: str) -> Any:
        return self.request("POST", path, body, Content_Type=content_type, **headers)

    def nonce(self) -> bytes:
        """The last answer's, once; else a fresh one."""
        nonce, self._nonce = self._nonce, None
        if nonce is None:
            answer = self.get("/v1/nonce")
            if answer.status_code != 204:
                raise Turned(answer.text)
            nonce, self._nonce = self._nonce, None
        assert nonce is not None
        return nonce

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def enroll(service: Running, sources: Iterable[str]) -> list[SoftDevice]:
    """Devices with credentials, one from each source: the inventory knows their EKs."""
    devices = [SoftDevice(cast("Any", Client(service, source)), Forger(), []) for source in sources]
    inventory = service.folder.parent / "inventory.csv"
    rows = [f"{device.ek_hash.hex()},device,berlin" for device in devices]
    inventory.write_text("\n".join(["ek_hash,tier,site", *rows, ""]))
    attestd(service.folder, "devices", "import", str(inventory), environ={"ATTESTD_SERVER_PUBLIC_URL": URL})
    for device in devices:
        answer = device.enroll()
        assert answer.status_code == 200, answer.text
    return devices


@dataclass
class Renewals:
    """What happened to devices that renewed during an attack."""

    seconds: list[float] = field(default_factory=list)  # from wanting a certificate to having it
    attempts: int = 0
    failures: list[str] = field(default_factory=list)
    silent: int = 0  # requests that got no answer at all in a client's time
    by_device: Counter[int] = field(default_factory=Counter)

    @property
    def slowest(self) -> float:
        return max(self.seconds)

    @property
    def middle(self) -> float:
        return sorted(self.seconds)[len(self.seconds) // 2]


def renew(device: SoftDevice, outcome: Renewals, *, promise: float) -> None:
    """One renewal, with the retries of an agent: after Retry-After, or a little after a lost connection."""
    started = time.monotonic()
    said = ""
    while time.monotonic() - started < promise:
        outcome.attempts += 1
        cast("Client", device.world).close()  # a device comes back once in a while, and has no connection by then
        try:
            answer = device.renew()
        except (OSError, http.client.HTTPException, Turned) as error:
            outcome.silent += isinstance(error, TimeoutError)
            said = repr(error)[:200]
            time.sleep(0.3)
            continue
        if answer.status_code == 200:
            outcome.seconds.append(time.monotonic() - started)
            outcome.by_device[id(device)] += 1
            return
        said = f"{answer.status_code} {answer.text[:200]}"
        if answer.status_code not in (429, 503):
            break
        time.sleep(min(10.0, float(answer.headers["Retry-After"])))
    outcome.failures.append(f"after {time.monotonic() - started:.1f} s: {said}")


@contextmanager
def renewing(devices: list[SoftDevice], *, every: float = 0.5, promise: float = 30.0) -> Iterator[Renewals]:
    """While the block runs, each device renews again and again; afterwards the outcome is complete."""
    outcome = Renewals()
    ended = threading.Event()

    def live(device: SoftDevice) -> None:
        while not ended.wait(every):
            renew(device, outcome, promise=promise)

    threads = [threading.Thread(target=live, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    try:
        yield outcome
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextmanager
def attackers(service: Running, attack: str, *, count: int = 1, **details: str | int) -> Iterator[list[Path]]:
    """`count` processes of tests/load/attackers.py; the block runs once all have begun. Yields where they tell."""
    paths = [service.folder.parent / f"attack-{attack}-{n}.json" for n in range(count)]
    processes = []
    for n, path in enumerate(paths):
        path.unlink(missing_ok=True)
        words = [f"--{name}={value}" for name, value in details.items()]
        root = str(service.folder / "ca" / "root.pem")
        command = [
            sys.executable,
            "-m",
            "tests.load.attackers",
            attack,
            str(service.port),
            root,
            str(path),
            str(n),
            *words,
        ]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path(__file__).parents[2]))
    try:
        deadline = time.monotonic() + 60
        while not all(path.exists() for path in paths):
            assert time.monotonic() < deadline, "the attack did not begin"
            assert all(process.poll() in (None, 0) for process in processes)
            time.sleep(0.05)
        yield paths
    finally:
        for process in processes:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()  # which ends it
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def told(path: Path) -> Counter[str]:
    """What an attack has told so far."""
    return Counter(json.loads(path.read_text()))


def eventually(true: Callable[[], bool], *, within: float) -> bool:
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0
