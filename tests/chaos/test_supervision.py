"""Who looks after whom: workers that die come back, a dead supervisor leaves nothing behind, and says nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from attestd.cli.api import running_url
from attestd.cli.counting import FOLDER_VARIABLE, counting, reserve, tidy
from tests.chaos.served import Served, alive, kill, until
from tests.processes import children, nursery_of


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served.make(tmp_path_factory.mktemp("supervision") / "instance")
    yield made
    made.close()


@pytest.fixture
def served(instance: Served) -> Served:
    """It runs, with both workers; the test before may have ended it."""
    if instance.process is None or instance.process.poll() is not None:
        instance.start()
    until(lambda: len(instance.workers) == 2, "both workers are there")
    return instance


def test_the_workers_of_a_dead_supervisor_end_and_the_port_is_free(served: Served) -> None:
    orphans = served.kill_supervisor()
    assert len(orphans) == 2
    until(lambda: not any(map(alive, orphans)), "the orphans have ended", patience=5)
    served.start()
    assert served.answers("/readyz")


def test_a_worker_that_still_starts_ends_with_its_supervisor_too(served: Served) -> None:
    young = replaced(served, *served.workers)
    served.kill_supervisor()
    until(lambda: not alive(young), "it has ended", patience=10)


def replaced(served: Served, elder: int, other: int) -> int:
    """Kills the other worker, and returns the one that takes its place."""
    kill(other)
    until(lambda: not alive(other) and len(served.workers) == 2, "its place is filled")
    (young,) = set(served.workers) - {elder}
    return young


def test_a_worker_killed_over_and_over_is_replaced_over_and_over(served: Served) -> None:
    elder, other = served.workers
    for _ in range(4):
        other = replaced(served, elder, other)
    for _ in range(10):
        assert served.answers("/readyz")
    assert served.stop() == 0


def test_the_workers_of_a_killed_nursery_are_replaced(served: Served) -> None:
    """By those of another one: what its supervisor can't see any more does not serve."""
    nursery, orphans = nursery_of(served.supervisor), served.workers
    assert nursery is not None
    kill(nursery)
    until(lambda: not any(map(alive, (nursery, *orphans))), "the orphans have ended", patience=20)
    until(lambda: len(served.workers) == 2, "both places are filled")
    until(lambda: served.answers("/readyz"), "they answer")
    assert served.stop() == 0


def test_all_its_processes_may_be_told_to_stop_at_once(served: Served) -> None:
    """As service managers and terminals do: those who see that the workers end must be there until they have."""
    for number in (signal.SIGTERM, signal.SIGINT):
        family = [served.supervisor, *children(served.supervisor), *served.workers]
        for pid in family:
            with suppress(ProcessLookupError):  # the supervisor was told first, and a worker may be gone by now
                os.kill(pid, number)
        assert served.process is not None
        assert served.process.wait(30) == 0
        until(lambda family=family: not any(map(alive, family)), "all have ended", patience=5)  # type: ignore[misc]
        served.start()
        until(lambda: len(served.workers) == 2, "both workers are there")


def test_a_worker_that_can_not_start_ends_the_service(served: Served) -> None:
    """What is wrong with the instance is said, and not over and over."""
    settings = served.folder / "attestd.toml"
    good = settings.read_text()
    settings.write_text(good + "\n[nonsense]\n")
    try:
        kill(served.workers[0])
        assert served.process is not None
        assert served.process.wait(60) == 1
        assert "nonsense" in served.log
    finally:
        settings.write_text(good)


def test_a_note_of_a_dead_service_misleads_nobody(served: Served) -> None:
    until(lambda: running_url(served.folder) == served.url, "the note is written, and found true")
    served.kill()
    note = json.loads((served.folder / "run" / "service.json").read_text())
    assert note["local_url"] == served.url
    assert running_url(served.folder) is None


def test_what_a_killed_service_left_behind_is_removed(served: Served) -> None:
    counts = counts_of(served)
    assert counts.is_dir()
    served.kill()
    served.start()
    assert not counts.exists()
    assert counts_of(served).is_dir()


def counts_of(served: Served) -> Path:
    """Where a service's workers count."""
    environ = Path(f"/proc/{served.workers[0]}/environ").read_bytes().split(b"\0")
    (found,) = [line for line in environ if line.startswith(FOLDER_VARIABLE.encode())]
    return Path(os.fsdecode(found.partition(b"=")[2]))


# ---- The folder of counts ---------------------------------------------------------------------------------------


def test_a_running_service_s_folder_of_counts_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr("attestd.cli.counting._MEMORY", tmp_path / "absent")  # a machine without one
    with counting(tmp_path):
        first = Path(os.environ[FOLDER_VARIABLE])
        with counting(tmp_path):
            assert first.is_dir()
            assert Path(os.environ[FOLDER_VARIABLE]) != first
    assert list(tmp_path.iterdir()) == []
    assert FOLDER_VARIABLE not in os.environ


def test_counts_have_their_room_before_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    reserve()
    for path in tmp_path.glob(f"*_{os.getpid()}.db"):
        assert path.stat().st_blocks * 512 >= path.stat().st_size > 0, path
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "absent"))
    reserve()
    assert FOLDER_VARIABLE not in os.environ, "without room it counts alone"
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.undo()


def test_what_the_dead_counted_stays_and_their_room_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prometheus_client import CollectorRegistry, generate_latest, mmap_dict, multiprocess

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    child = os.fork()
    if child == 0:
        try:
            reserve()
            counts = mmap_dict.MmapedDict(str(tmp_path / f"counter_{os.getpid()}.db"))
            counts.write_value(mmap_dict.mmap_key("seen", "seen_total", [], [], "Seen."), 3.0, 0.0)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]
    before = generate_latest(registry)
    assert b"seen_total 3.0" in before
    tidy()
    assert generate_latest(registry) == before
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4096
