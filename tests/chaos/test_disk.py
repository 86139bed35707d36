"""A disk that is full, fails or freezes: clear errors, no damage, and everything goes on when it is well again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.conftest import long_form, show
from tests.chaos.disks import Disk
from tests.chaos.load import Load
from tests.chaos.served import BIN, Served, alive, kill, until
from tests.chaos.test_kills import settle

pytestmark = pytest.mark.timeout(180)


@contextmanager
def busy(served: Served, seed: int) -> Iterator[Load]:
    """A running service with callers; in the end everybody comes back and the registry is whole."""
    served.start()
    load = served.load(seed, threads=3)
    try:
        load.start()
        until(lambda: load.ledger.counted["/v1/renewals 200"] > 5, "devices renew")
        yield load
        load.stop()
        load.recover()
        assert served.answers("/readyz")
        settle(served, load)
    finally:
        show(load.ledger.summary() + served.failures)
        load.close()
        served.close()


@pytest.mark.small_disk()
def test_a_full_disk_is_said_damages_nothing_and_ends_when_there_is_room(disk: Disk, seed: int) -> None:
    served = Served.make(disk.path / "instance")
    with busy(served, seed) as load:
        supervisor, workers = served.supervisor, served.workers
        disk.fill()
        until(lambda: load.ledger.counted["503 database-not-writable"] >= 10, "clients are told", load.ledger.summary)
        assert served.workers == workers, "who counts on a full disk does not die of it"
        assert served.get("/v1/crl").status_code == 200, "reading goes on"
        # One that is killed now finds no room to start. It waits, and does not take the others down.
        kill(workers[0])
        until(lambda: len(served.workers) == 2, "its place is filled")
        assert served.get("/healthz").status_code == 200
        disk.free()
        before = load.ledger.counted["/v1/renewals 200"]
        until(lambda: load.ledger.counted["/v1/renewals 200"] > before + 5, "devices renew again")
        until(lambda: len(served.workers) == 2, "both workers are there")
        assert alive(supervisor)
        assert served.supervisor == supervisor


@pytest.mark.small_disk()
def test_a_service_that_starts_on_a_full_disk_says_so_and_starts_when_there_is_room(disk: Disk) -> None:
    served = Served.make(disk.path / "instance")
    disk.fill()
    command = [str(BIN / "attestd"), "serve", "--dir", str(served.folder), "--listen", f"127.0.0.1:{served.port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=os.environ)
    said = done.stdout + done.stderr
    assert done.returncode in (3, 4), said
    assert "Traceback" not in said
    assert "ree space" in said, "what to do"
    disk.free()
    try:
        served.start()
        assert served.answers("/readyz")
    finally:
        served.close()


@pytest.mark.small_disk(kind="ext4")
def test_a_disk_that_nobody_may_write_any_more_still_serves_what_is_on_it(
    disk: Disk, tmp_path: Path, seed: int
) -> None:
    """What is read is read, bundles are served until they are stale, and acts are refused by name."""
    settings = '[bundle]\nstale_after = "12s"\n'
    served = Served.make(disk.path / "instance", more=settings, log_file=tmp_path / "log")
    served.start()
    load = served.load(seed)
    try:
        proxy = load.proxy()
        load.start()
        until(lambda: load.ledger.counted["/v1/renewals 200"] > 5, "devices renew")
        load.stop()
        newest = proxy.bundle()
        disk.fail()
        load.start()
        until(lambda: load.ledger.counted["503 database-not-writable"] >= 10, "clients are told", load.ledger.summary)
        assert served.get("/v1/crl").status_code == 200
        assert load.operator.devices("active")
        assert not load.ledger.complaints
        time.sleep(3)  # the bundle would be signed anew by now
        again = proxy.bundle()
        assert (again.status_code, again.headers["ETag"]) == (200, newest.headers["ETag"]), again.text
        ready = served.get("/readyz")
        assert ready.status_code == 503
        assert "can't be written" in ready.text
    finally:
        show(load.ledger.summary() + served.failures)
        load.abandon()
        served.close()


@long_form
@pytest.mark.small_disk(kind="ext4")
def test_a_disk_that_stands_still_for_ten_seconds_delays_and_loses_nothing(
    disk: Disk, tmp_path: Path, seed: int
) -> None:
    served = Served.make(disk.path / "instance", log_file=tmp_path / "log")
    with busy(served, seed) as load:
        with disk.frozen():
            time.sleep(10)
            assert served.get("/healthz").status_code == 200
        before = load.ledger.counted["/v1/renewals 200"]
        until(lambda: load.ledger.counted["/v1/renewals 200"] > before + 5, "devices renew again")
