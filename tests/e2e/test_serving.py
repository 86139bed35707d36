"""The service as people run it: `attestd serve` with TLS, several workers, and the commands beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.database import database_of_an_instance
from tests.processes import workers_of

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.database


def attestd(folder: Path, *words: str, code: int = 0) -> str:
    """One command; `code` is the exit code that it must have."""
    command = [str(BIN / "attestd"), *words, "--dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass
class Served:
    folder: Path
    process: subprocess.Popen[str]
    url: str

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca" / "root.pem"))

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, verify=self.trust)

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)


def serve(folder: Path, *, port: int = 0, cwd: Path | None = None) -> Served:
    """Starts the service; it is up when it says so."""
    process = subprocess.Popen(
        [str(BIN / "attestd"), "serve", "--dir", str(folder), "--listen", f"127.0.0.1:{port}", "--json"],
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("ab"),
        text=True,
        cwd=cwd,
    )
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            return Served(folder, process, json.loads(text)["url"])
    raise AssertionError((folder / "log").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "instance"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in database_of_an_instance().items():
            patch.setenv(name, value)
        attestd(path, "init", "--trust-domain", "example.org")
    return path


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    running = serve(folder)
    yield running
    if running.process.poll() is None:
        running.stop()


def test_it_answers_with_tls_under_its_own_root(served: Served) -> None:
    assert served.get("/healthz").status_code == 200
    assert served.get("/readyz").status_code == 200
    metrics = served.get("/metrics")
    assert metrics.status_code == 200
    assert "attestd_" in metrics.text
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url + "/healthz")


def test_old_tls_is_refused(served: Served) -> None:
    old = served.trust
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url + "/healthz", verify=old)


def test_every_request_is_logged_with_its_id_and_no_secret(served: Served) -> None:
    answer = served.get("/v1/time?nonce=" + "A" * 43)
    assert answer.status_code == 200
    request_id = answer.headers["X-Request-Id"]
    deadline = time.monotonic() + 5
    while request_id not in (log := (served.folder / "log").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    (line,) = [line for line in log.splitlines() if request_id in line]
    assert json.loads(line)["request_id"] == request_id
    assert "A" * 43 not in line


def test_stalled_bodies_do_not_make_it_deaf(served: Served) -> None:
    host, port = served.url.removeprefix("https://").split(":")
    held = []
    for _ in range(40):
        connection = served.trust.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)
        head = f"POST /v1/enrollments HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 5000\r\n\r\n{{".encode())
        held.append(connection)
    try:
        started = time.monotonic()
        assert served.get("/v1/nonce").status_code == 204
        assert time.monotonic() - started < 10
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_body_is_refused_before_it_is_read(served: Served, announced: bool) -> None:
    host, port = served.url.removeprefix("https://").split(":")
    size = f"Content-Length: {10**9}" if announced else "Transfer-Encoding: chunked"
    head = f"POST /v1/enrollments HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{size}\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with served.trust.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as connection:
        connection.settimeout(20)
        connection.sendall(head.encode())
        try:
            for _ in range(0 if announced else 400):  # 25 MiB
                connection.sendall(chunk)
        except OSError:
            return  # the door was closed on it
        assert b" 413 " in connection.recv(200)


def test_commands_work_beside_the_running_service_and_without_it(folder: Path, served: Served) -> None:
    inventory = folder.parent / "inventory.csv"
    inventory.write_text(f"ek_hash,tier,site,id\n{'ab' * 32},device,berlin,bike-1\n")
    attestd(folder, "devices", "import", str(inventory))
    listed: list[dict[str, Any]] = json.loads(attestd(folder, "devices", "list", "--json"))
    assert [(d["id"], d["state"], d["tier"], d["site"]) for d in listed] == [("bike-1", "approved", "device", "berlin")]


def test_a_stopped_instance_is_looked_after_too(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    assert json.loads(attestd(folder, "devices", "list", "--json")) == []
    inventory = tmp_path / "bad.csv"
    inventory.write_text(f"ek_hash,tier,site\n{'ab' * 32},device,berlin\nxyz,device,berlin\n")
    said = attestd(folder, "devices", "import", str(inventory), code=1)
    assert "line 3" in said
    assert json.loads(attestd(folder, "devices", "list", "--json")) == []


def test_an_instance_is_never_overwritten(folder: Path) -> None:
    before = (folder / "ca" / "root.pem").read_bytes()
    said = attestd(folder, "init", "--trust-domain", "example.org", code=1)
    assert "not empty" in said
    assert (folder / "ca" / "root.pem").read_bytes() == before


def test_no_instance_says_how_to_make_one(tmp_path: Path) -> None:
    assert "attestd init" in attestd(tmp_path / "nothing", "devices", "list", code=3)


def test_nobody_else_reads_the_instance(folder: Path) -> None:
    exposed = [p for p in (folder, *folder.rglob("*")) if p.stat().st_mode & 0o077 and p.name != "log"]
    assert [p for p in exposed if p.parent != folder / "ca" and "run" not in p.parts] == []


def test_lifetimes_that_contradict_are_refused_at_start(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    with (folder / "attestd.toml").open("a") as file:
        file.write('\n[credentials]\ntoken_lifetime = "2h"\n')
    said = attestd(folder, "serve", code=3)
    assert "VIOLATED" in said or "≤" in said
    assert "lifetimes-contradict" in attestd(folder, "doctor", "--json", code=1)


def test_a_taken_port_is_named(folder: Path, served: Served, tmp_path: Path) -> None:
    other = tmp_path / "instance"
    attestd(other, "init", "--trust-domain", "example.org")
    address = served.url.removeprefix("https://")
    said = attestd(other, "serve", "--listen", address, code=4)
    assert "not free" in said


def test_a_worker_that_dies_is_replaced(folder: Path, served: Served) -> None:
    workers = workers_of(served.process.pid)
    os.kill(workers[0], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = workers_of(served.process.pid)
        if len(now) >= len(workers) and workers[0] not in now:
            break
    for _ in range(10):
        assert served.get("/readyz").status_code == 200


def test_what_lies_where_it_is_started_is_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    for name in ("attestd", "flask", "multiprocessing"):
        (tmp_path / f"{name}.py").write_text("print('loaded by mistake', flush=True)\nraise SystemExit(9)\n")
    running = serve(folder, cwd=tmp_path)
    try:
        assert len(workers_of(running.process.pid)) == 2
        assert running.get("/readyz").status_code == 200
    finally:
        assert running.stop() == 0


def test_it_stops_gracefully_and_starts_again_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    running = serve(folder)
    root = running.get("/v1/root").text
    port = int(running.url.rsplit(":", 1)[1])
    assert running.stop() == 0
    assert not (folder / "run" / "service.json").exists()
    with pytest.raises(httpx.ConnectError):
        running.get("/healthz")
    again = serve(folder, port=port)
    try:
        assert again.get("/v1/root").text == root
    finally:
        assert again.stop(signal.SIGINT) == 0
