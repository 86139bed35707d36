"""A PostgreSQL server of the tests' own, in a temporary folder, ended and removed when its process ends or is killed.

    postgres = shared()                              # one a process, quick: it doesn't wait for the disk
    url = postgres.fresh_database()                  # postgresql://attestd@/d1?host=/tmp/attestd-pg-…
    url = postgres.fresh_database("registry", make)  # a copy of a template that `make(url)` filled once
    postgres.drop(url)

    with Postgres.start(fast=False) as postgres:     # as in production: what it acknowledged survives a crash
        postgres.pause(), postgres.resume()          # it hangs, with all connections open
        postgres.kill(), postgres.run()              # it crashes, and recovers

The service's role owns the databases and is no superuser. Text sorts by a language's rules, as in most installations:
whoever counts on the order of octets without asking for it sees a test fail. The server never runs as root.
"""

from __future__ import annotations

import atexit
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import psycopg
import pytest

__all__ = ["Postgres", "require_postgres", "shared"]

USER = "attestd"
_PATIENCE = 60.0  # seconds for a start or a stop on a busy machine
_ROOM = 4 << 30  # octets of free memory file system: every database takes 8 MB

# Starts the server and outlives it. The end of its input is the end of the process that started it, however it ended.
_KEEPER = """
"$@" & server=$!
read -r word
kill -QUIT $server 2>/dev/null
wait $server
[ "$word" = keep ] || rm -rf "$FOLDER"
"""

_SETTINGS = """\
unix_socket_directories = '{folder}'
listen_addresses = '{addresses}'
port = {port}
max_connections = 400
shared_buffers = 32MB
dynamic_shared_memory_type = mmap
autovacuum = off
log_min_messages = warning
log_min_error_statement = panic
lc_messages = 'C'
"""
_FAST = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"
_ACCESS = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@cache
def _programs() -> Path | None:
    """The folder of the newest installed server's programs; Debian keeps them out of PATH."""
    found = {int(path.parts[-3]): path.parent for path in Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres")}
    if found:
        return found[max(found)]
    inside = shutil.which("postgres")
    return None if inside is None else Path(inside).resolve().parent


def require_postgres() -> None:
    """Skips the calling test where no PostgreSQL is installed."""
    if _programs() is None:
        pytest.skip("PostgreSQL is not installed")


@cache
def shared() -> Postgres:
    """This process's quick server."""
    postgres = Postgres.start()
    atexit.register(postgres.stop)
    return postgres


class Postgres:
    """One server with a data directory of its own. It can go away and come back."""

    def __init__(self, folder: Path, owner: pwd.struct_passwd | None, port: int) -> None:
        """`Postgres.start` is the usual way."""
        self._folder = folder
        self._owner = owner
        self._port = port
        self._keeper: subprocess.Popen[bytes] | None = None
        self._postmaster = 0
        self._count = 0
        self._copying = ""
        self._templates: set[str] = set()
        self.password = secrets.token_urlsafe(12)  # of the service's role, over TCP; the socket asks for none

    @classmethod
    def start(cls, *, fast: bool = True, tcp: bool = False) -> Self:
        """A fresh, running server. `fast` forgets what it acknowledged when the machine loses power; `tcp` also listens
        on a loopback port, with passwords."""
        require_postgres()
        folder = Path(tempfile.mkdtemp(prefix="attestd-pg-", dir=_place(fast=fast)))
        postgres = cls(folder, _unprivileged(), _free_port() if tcp else 5432)
        try:
            postgres._make(fast=fast, tcp=tcp)
            postgres.run()
            with postgres.connect() as c:
                c.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{postgres.password}'")
        except BaseException:
            postgres.stop()
            raise
        return postgres

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    # ---- Databases --------------------------------------------------------------------------------------------

    def fresh_database(self, template: str = "", make: Callable[[str], None] | None = None) -> str:
        """The URL of a new database: empty, or a copy of the template that `make` filled when it was first named."""
        self._count += 1
        name = f"d{self._count}"
        if make is not None and template not in self._templates:
            self._create(f"t_{template}", "template1")
            make(self.url(f"t_{template}"))
            self._templates.add(template)
        self._create(name, f"t_{template}" if template else "template1")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drops a database and whoever is connected to it."""
        with self.connect() as c:
            c.execute(f"DROP DATABASE {urlsplit(url).path.removeprefix('/')} WITH (FORCE)")

    def url(self, name: str, *, user: str = USER) -> str:
        """How the service is told to reach a database: by the Unix socket."""
        port = "" if self._port == 5432 else f"&port={self._port}"
        return f"postgresql://{user}@/{name}?host={quote(str(self._folder), safe='/')}{port}"

    def tcp_url(self, url: str) -> str:
        """The same database over TCP, which asks for `password`; the URL is without it."""
        return f"postgresql://{USER}@127.0.0.1:{self._port}{urlsplit(url).path}"

    def connect(self, name: str = "postgres") -> psycopg.Connection[Any]:
        """The administrator's connection; each statement is its own transaction."""
        return psycopg.connect(self.url(name, user="postgres"), autocommit=True)

    def _create(self, name: str, template: str) -> None:
        with self.connect() as c:
            c.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {USER}{self._copying}")

    # ---- Going away and coming back ---------------------------------------------------------------------------

    def run(self) -> None:
        """Starts the server on its data, and returns when it answers."""
        with (self._folder / "log").open("ab") as log:
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "sh", *self._program("postgres"), "-D", str(self._folder / "data")],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the tests
                env={"PATH": os.defpath, "FOLDER": str(self._folder), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                cwd="/",
                **self._as_owner(),
            )
        self._until(self._answers, "started")
        self._postmaster = int((self._folder / "data/postmaster.pid").read_text().splitlines()[0])

    def stop(self) -> None:
        """Ends the server, if it runs, and removes its folder."""
        self._leave(signal.SIGINT, keep=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Crashes the server: connections break, nothing more is written. SIGINT shuts it down in order instead."""
        self._leave(signal_number, keep=True)

    def pause(self) -> None:
        """Every process of the server stands still: connections stay open and nothing is answered."""
        for pid in (self._postmaster, *_children(self._postmaster)):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it stood."""
        for pid in (*_children(self._postmaster), self._postmaster):
            os.kill(pid, signal.SIGCONT)

    def _leave(self, signal_number: int, *, keep: bool) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        family = [self._postmaster, *_children(self._postmaster)] if self._postmaster else []
        if family and keeper.poll() is None:
            for pid in family if signal_number == signal.SIGKILL else family[:1]:
                _signal(pid, signal_number)
            for pid in family:
                _signal(pid, signal.SIGCONT)  # one that stands still hears nothing
        self._until(lambda: not any(_runs(pid) for pid in family), "ended")
        keeper.communicate(b"keep\n" if keep else b"end\n", timeout=_PATIENCE)
        self._postmaster = 0
        if keep:  # or the next start finds the last one's lock, with a process id that may be somebody else's by then
            (self._folder / "data/postmaster.pid").unlink(missing_ok=True)

    # ---- Starting ---------------------------------------------------------------------------------------------

    def _make(self, *, fast: bool, tcp: bool) -> None:
        if self._owner is not None:
            os.chown(self._folder, self._owner.pw_uid, self._owner.pw_gid)
        data = self._folder / "data"
        language = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        made = subprocess.run(
            [*self._program("initdb"), "-D", data, "-U", "postgres", "-E", "UTF8", "-A", "trust", "-N", *language],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            cwd="/",
            **self._as_owner(),
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr}")
        self._copying = " STRATEGY file_copy" if fast else ""  # quicker where the disk need not be waited for
        settings = _SETTINGS.format(folder=self._folder, port=self._port, addresses="127.0.0.1" if tcp else "")
        with (data / "postgresql.conf").open("a") as file:
            file.write(settings + (_FAST if fast else ""))
        (data / "pg_hba.conf").write_text(_ACCESS)

    def _program(self, name: str) -> list[str]:
        folder = _programs()
        assert folder is not None
        return [str(folder / name)]

    def _as_owner(self) -> dict[str, Any]:
        if self._owner is None:
            return {}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}

    def _answers(self) -> bool:
        assert self._keeper is not None
        try:
            self.connect().close()
        except psycopg.OperationalError:
            log = (self._folder / "log").read_text(errors="replace")
            if re.search("FATAL: .*(could not|lock file)|PANIC:", log):
                raise RuntimeError(f"PostgreSQL does not start:\n{log[-2000:]}") from None
            return False
        return True

    def _until(self, happens: Callable[[], bool], what: str) -> None:
        ends = time.monotonic() + _PATIENCE
        while not happens():
            if time.monotonic() > ends:
                log = (self._folder / "log").read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL has not {what} in {_PATIENCE:g} s:\n{log[-2000:]}")
            time.sleep(0.02)


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as where the tests run as root; None: whoever runs the tests."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _place(*, fast: bool) -> str:
    """Where the data lies: in memory, if that will do and there is enough. A socket's path has 107 octets at most."""
    memory = Path("/dev/shm")
    roomy = fast and memory.is_dir() and shutil.disk_usage(memory).free > _ROOM
    return str(memory) if roomy else "/tmp"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the program's name: state, parent's id, …; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(parent: int) -> list[int]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _stat(pid)[1:2] == [str(parent)]]


def _runs(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"])


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
