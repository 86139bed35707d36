"""The daemon: what it makes of each outcome, and its life as a real process among a TPM, a service and signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.protocol.messages import WaitAnswer
from attestd_agent.agent import NotEnrolled
from attestd_agent.checkins import CheckIns
from attestd_agent.clock import DeviceClock
from attestd_agent.daemon import Daemon, Notifier, Stopped, StopRequest
from attestd_agent.failures import KeysNotOfThisTpm, TpmUnavailable
from attestd_agent.records import Enrolled, Waiting
from attestd_agent.schedule import Act, Plan, Schedule
from attestd_agent.server import ServerRefused
from attestd_agent.state import StateBroken
from attestd_agent.transport import ServerUnreachable
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.fake_service import FakeService, on, write_root
from tests.unit.attestd_agent.keysmith import NOW, enrolled, record

ROOT = Path(__file__).parents[3]
T = NOW.timestamp()


class Outcomes:
    """An agent that does as it is told, and the state that it keeps."""

    def __init__(self, known: Enrolled | None = None) -> None:
        self.known, self.kept_waiting = known, None
        self.unanswered = False
        self.next: list[Any] = []
        self.acts: list[str] = []
        self.state = self
        self.clock = DeviceClock(system=lambda: NOW, boot=lambda: 0.0, floor=NOW)

    def load(self) -> Enrolled | None:
        return self.known

    def waiting(self) -> Waiting | None:
        return self.kept_waiting

    def _act(self, name: str) -> Any:
        self.acts.append(name)
        outcome = self.next.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def enroll(self) -> Any:
        return self._act("enroll")

    def attest(self) -> Any:
        return self._act("attest")


def daemon(agent: Outcomes, *, chance: float = 0.5, **options: Any) -> Daemon:
    found: Any = agent
    return Daemon(
        found,
        schedule=Schedule(lambda: chance),
        stop=options.get("stop", StopRequest()),
        notifier=Notifier({}),
        boot=options.get("boot", lambda: 0.0),
        check_ins=options.get("check_ins"),
    )


DUE = enrolled(record(obtained_at=T - 1800))
ATTEST, ENROLL = Plan(Act.ATTEST, 0), Plan(Act.ENROLL, 0)


def refused(problem: str, status: int = 401, retry_after: int | None = None) -> ServerRefused:
    return ServerRefused("no", status=status, type=f"urn:attestd:problem:{problem}", retry_after=retry_after)


def test_success_leads_to_the_renewal() -> None:
    agent = Outcomes(DUE)
    agent.next = [enrolled(record(renew_in=1700))]
    assert daemon(agent).step(ATTEST) == Plan(Act.ATTEST, 1700.0)


def test_new_keys_whose_answer_is_not_saved_are_asked_about_at_once() -> None:
    """Nothing else is due: the credential in the state has an hour to go, and may be revoked."""
    agent = Outcomes(enrolled(record(obtained_at=T, renew_in=1700)))
    agent.unanswered = True
    agent.next = [enrolled(record(renew_in=1700))]
    begun = daemon(agent)
    assert begun._plan() == ATTEST
    begun.step(ATTEST)
    assert agent.acts == ["attest"]


def test_waiting_leads_to_the_appointment() -> None:
    agent = Outcomes()
    agent.next = [WaitAnswer("pending", 40)]
    plan = daemon(agent).step(ENROLL)
    assert plan.act is Act.ENROLL
    assert 40 <= plan.delay <= 44


@pytest.mark.parametrize(
    ("failure", "then"),
    [
        (KeysNotOfThisTpm(), Act.ENROLL),
        (NotEnrolled(), Act.ENROLL),
        (StateBroken(), Act.ENROLL),
        (refused("device-unknown"), Act.ENROLL),
        (refused("signature-wrong"), Act.ENROLL),
        (refused("pcr-selection-mismatch", 403), Act.ENROLL),
        (refused("clock-went-back", 403), Act.ENROLL),
        (refused("device-quarantined", 403), Act.ATTEST),
        (refused("device-not-active", 403), Act.ATTEST),
        (refused("internal-error", 500), Act.ATTEST),
        (ServerUnreachable(), Act.ATTEST),
        (TpmUnavailable(), Act.ATTEST),
        (RuntimeError("a fault of ours"), Act.ATTEST),
    ],
    ids=lambda value: getattr(value, "problem", type(value).__name__) if isinstance(value, Exception) else value.value,
)
def test_each_failure_leads_to_what_can_mend_it(failure: Exception, then: Act) -> None:
    agent = Outcomes(DUE)
    agent.next = [failure]
    plan = daemon(agent).step(ATTEST)
    assert plan.act is then
    assert 1.0 <= plan.delay <= 2.0


def test_a_failed_enrollment_is_tried_again() -> None:
    agent = Outcomes()
    agent.next = [refused("device-unknown"), ServerUnreachable()]
    running = daemon(agent)
    assert running.step(ENROLL).act is Act.ENROLL
    assert running.step(ENROLL).act is Act.ENROLL


def test_retry_after_is_obeyed() -> None:
    agent = Outcomes(DUE)
    agent.next = [refused("too-many-pending", 429, retry_after=300)]
    assert 300 <= daemon(agent).step(ATTEST).delay <= 330


def test_a_credential_that_a_command_renewed_is_not_renewed_again() -> None:
    agent = Outcomes(enrolled(record(renew_in=1800)))
    assert daemon(agent).step(ATTEST) == Plan(Act.ATTEST, 1800.0)
    assert agent.acts == []


def test_a_quarantined_device_attests_though_nothing_is_due() -> None:
    agent = Outcomes(enrolled(record(renew_in=1800)))
    agent.kept_waiting = Waiting("quarantined", "https://attestd.test", int(T), int(T))  # type: ignore[assignment]
    agent.next = [WaitAnswer("quarantined", 40)]
    assert daemon(agent).step(ATTEST).act is Act.ATTEST
    assert agent.acts == ["attest"]


def test_the_loop_runs_until_it_is_told_to_stop() -> None:
    agent, stop, slept = Outcomes(), StopRequest(), []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds
        if len(slept) > 70:
            stop.stop()

    stop.sleep = sleep  # type: ignore[method-assign]
    agent.next = [ServerUnreachable(), enrolled(record(renew_in=1800)), enrolled(record(renew_in=1800))]
    daemon(agent, stop=stop, boot=lambda: now[0]).run()
    assert agent.acts == ["enroll", "enroll", "attest"]
    assert max(slept) <= 30.0  # a suspended machine wakes up to what is due


def test_a_plan_comes_when_it_is_due() -> None:
    now = iter([0.0, 0.0, 20.0, 20.0])
    assert daemon(Outcomes(DUE), boot=lambda: next(now), stop=Sleepless())._wait(Plan(Act.ATTEST, 10)) == Plan(
        Act.ATTEST, 10
    )


class Sleepless(StopRequest):
    """Sleeps by a clock that the test reads."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("act", [Act.ATTEST, Act.ENROLL])
def test_a_hangup_brings_the_next_act_forward(act: Act) -> None:
    stop = Sleepless()
    stop.hurry()
    found = daemon(Outcomes(DUE), stop=stop, boot=lambda: stop.now)._wait(Plan(act, 1800))
    assert found == Plan(act, 1800, asked=True)
    assert stop.now == 0
    assert not stop.hurried()  # once


def test_it_ends_a_sleep() -> None:
    stop = StopRequest()
    stop.hurry()
    began = time.monotonic()
    stop.sleep(30)
    assert time.monotonic() - began < 5
    assert not stop.requested
    assert stop.hurried()
    began = time.monotonic()
    stop.sleep(0.1)  # and is over: the next sleep sleeps
    assert time.monotonic() - began > 0.09


def test_a_stop_is_not_forgotten_for_a_hangup() -> None:
    stop = StopRequest()
    stop.hurry()
    stop.stop()
    assert stop.hurried()
    began = time.monotonic()
    stop.sleep(30)
    assert time.monotonic() - began < 5
    assert stop.requested


def test_a_signal_may_come_at_any_instruction() -> None:
    """A handler interrupts the very thread that sleeps, also where that thread holds a lock: it must not want it."""
    program = """
import signal, sys
from attestd_agent.daemon import StopRequest
stop = StopRequest()
stop.listen(hangup=True)
signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGHUP))
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
for _ in range(30_000):
    stop.sleep(0.00001)
    stop.hurried()
signal.setitimer(signal.ITIMER_REAL, 0)
print("awake")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "awake\n"), ended.stderr


def test_a_signal_that_another_thread_takes_ends_the_sleep() -> None:
    """The kernel gives a process's signal to any of its threads; only that one's system calls are interrupted."""
    program = """
import os, signal, threading, time
from attestd_agent.daemon import StopRequest
stop = StopRequest()
stop.listen()
def tell():
    time.sleep(0.3)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)
threading.Thread(target=tell, daemon=True).start()
stop.sleep(60)
print(stop.requested, flush=True)
os._exit(0)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


def wanted_after(seconds: float, stop: Sleepless, *, every: float = 300.0) -> tuple[CheckIns, list[float]]:
    """A service that wants an attestation after so long, and when it was asked."""
    asked: list[float] = []

    def ask() -> bool:
        asked.append(stop.now)
        return stop.now >= seconds

    return CheckIns(ask, every=every, random=lambda: 0.5), asked


def test_a_service_that_wants_it_is_obeyed_at_once() -> None:
    stop = Sleepless()
    check_ins, asked = wanted_after(700, stop)
    running = daemon(Outcomes(DUE), stop=stop, boot=lambda: stop.now, check_ins=check_ins)
    assert running._wait(Plan(Act.ATTEST, 1800)) == Plan(Act.ATTEST, 1800, asked=True)
    assert [round(at, -2) for at in asked] == [300, 600, 900]


def test_a_service_that_does_not_changes_no_plan() -> None:
    stop = Sleepless()
    check_ins, asked = wanted_after(1e9, stop)
    running = daemon(Outcomes(DUE), stop=stop, boot=lambda: stop.now, check_ins=check_ins)
    assert running._wait(Plan(Act.ATTEST, 1000)) == Plan(Act.ATTEST, 1000)
    assert stop.now == 1000
    assert len(asked) == 3


def test_who_has_nothing_to_attest_with_is_not_asked_for() -> None:
    stop = Sleepless()
    check_ins, asked = wanted_after(0, stop)
    running = daemon(Outcomes(), stop=stop, boot=lambda: stop.now, check_ins=check_ins)
    assert running._wait(Plan(Act.ENROLL, 1000)) == Plan(Act.ENROLL, 1000)
    assert asked == []


def test_what_is_asked_for_is_done_though_nothing_is_due() -> None:
    agent = Outcomes(enrolled(record(renew_in=1800)))
    agent.next = [enrolled(record(renew_in=1700))]
    assert daemon(agent).step(Plan(Act.ATTEST, 1800, asked=True)) == Plan(Act.ATTEST, 1700.0)
    assert agent.acts == ["attest"]


def test_stopping_while_an_exchange_is_under_way_raises_at_once() -> None:
    stop = StopRequest()
    with pytest.raises(Stopped), stop.interruptible():
        stop._told(signal.SIGTERM, None)
    with pytest.raises(Stopped), stop.interruptible():
        pytest.fail("entered though a stop was requested")
    stop._told(signal.SIGTERM, None)  # outside: nothing is broken off


# ---- sd_notify ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, abstract: bool) -> None:
    address = f"\0attestd-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(5)
        Notifier({"NOTIFY_SOCKET": address.replace("\0", "@")}).tell(READY="1", STATUS="fine")
        assert channel.recv(1024) == b"READY=1\nSTATUS=fine"


def test_a_reader_that_is_stuck_holds_nothing_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(2000):
            notifier.tell(WATCHDOG="1")


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    Notifier({}).tell(READY="1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(READY="1")


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_s_interval(environ: dict[str, str], interval: float | None) -> None:
    assert Notifier(environ).interval == interval


# ---- A real process -------------------------------------------------------------------------------------------------


class Process:
    """`attestd-agent run` as systemd would start it; its log, read as it comes."""

    def __init__(self, tpm: SoftwareTpm, service: FakeService, folder: Path, *words: str) -> None:
        self.state = folder / "state"
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = folder / f"notify-{time.monotonic_ns()}"
        self.channel.bind(str(address))
        self.channel.settimeout(30)
        self.log = folder / f"log-{time.monotonic_ns()}"
        options = ["--state-dir", str(self.state), "--tcti", tpm.tcti, "--server", service.url, "--json", "--debug"]
        options += [
            "--ca",
            str(write_root(service.authority.root.public_bytes(Encoding.DER), folder)),
            "--ek",
            "ecc-p256",
            *words,
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "attestd_agent", "run", *options],
                env={
                    **os.environ,
                    "NOTIFY_SOCKET": str(address),
                    "PYTHONPATH": os.pathsep.join([str(ROOT / "clients"), str(ROOT)]),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
            )

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def until(self, event: str, count: int = 1, patience: float = 30.0) -> None:
        give_up = time.monotonic() + patience
        while sum(1 for one in self.events() if one["event"] == event) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.02)

    def told(self) -> str:
        return self.channel.recv(4096).decode()

    def end(self, number: int = signal.SIGTERM, patience: float = 3.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(patience)


@contextmanager
def running(tpm: SoftwareTpm, service: FakeService, folder: Path, *words: str) -> Iterator[Process]:
    found = Process(tpm, service, folder, *words)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
            found.process.wait()
        found.channel.close()


def test_it_enrolls_renews_outlives_a_dead_service_and_ends_on_sigterm(
    blank_tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    service.lifetime, service.renew_after = 60, 1
    with running(blank_tpm, service, tmp_path) as process:
        assert process.told() == "READY=1"
        process.until("enrolled")
        process.until("attested", 2)
        service.stop()
        process.until("failed", 1)
        service.start()
        done = sum(1 for one in process.events() if one["event"] == "attested")
        process.until("attested", done + 1)
        assert process.end() == 0
        assert process.events()[-1]["event"] == "stopped"
        assert "EK" not in process.log.read_text()
    from attestd_agent.state import StateDir

    kept = StateDir(tmp_path / "state").load()
    assert kept is not None
    assert kept.leaf == service.issued[-1]


def test_it_attests_when_the_service_or_a_signal_says_so(
    blank_tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    with running(blank_tpm, service, tmp_path, "--check-in", "0.2") as process:
        process.until("enrolled")
        process.process.send_signal(signal.SIGHUP)
        process.until("attested", 1)
        service.wants_attestation = True
        process.until("attested", 2)
        service.wants_attestation = False
        assert process.end() == 0
        assert {"told to act now", "the service wants an attestation now"} <= {e["event"] for e in process.events()}


def test_after_a_restart_it_keeps_the_credential_and_its_appointment(
    blank_tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    with running(blank_tpm, service, tmp_path) as process:
        process.until("enrolled")
        assert process.end(signal.SIGINT) == 0
    with running(blank_tpm, service, tmp_path) as process:
        process.until("waiting")
        waiting = next(one for one in process.events() if one["event"] == "waiting")
        assert waiting["next"] == "attest"
        assert 1500 < waiting["delay"] <= 1980
        assert process.end() == 0
    assert len(service.issued) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_hangs_does_not_hold_up_the_end(
    blank_tpm: SoftwareTpm, service: FakeService, tmp_path: Path, number: int
) -> None:
    hung: list[Any] = []

    def hang(handler: Any) -> None:
        handler.wrote = True
        hung.append(handler)
        time.sleep(15)

    service.hooks.append(on("/v1/enrollments/complete", hang))
    with running(blank_tpm, service, tmp_path) as process:
        give_up = time.monotonic() + 30
        while not hung:
            assert time.monotonic() < give_up, process.log.read_text()
            time.sleep(0.02)
        began = time.monotonic()
        assert process.end(number) == 0
        assert time.monotonic() - began < 2
    from tests.unit.attestd_agent.test_agent_device import loaded

    assert loaded(blank_tpm) == []


def test_killed_at_any_moment_it_goes_on_afterwards(
    blank_tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    """SIGKILL after ever longer times; each time the state is whole, and at last an undisturbed run succeeds."""
    from attestd_agent.state import StateDir

    service.renew_after = 1
    state = StateDir(tmp_path / "state")
    for number in range(4):
        with running(blank_tpm, service, tmp_path) as process:
            give_up = time.monotonic() + 30
            asked = len(service.requests)
            while len(service.requests) < asked + 1 + number and time.monotonic() < give_up:
                time.sleep(0.005)
            process.process.kill()
            process.process.wait()
        state.load()
    with running(blank_tpm, service, tmp_path) as process:
        process.until("attested")
        assert process.end() == 0
    kept = state.load()
    assert kept is not None
    assert kept.leaf == service.issued[-1]


def test_without_a_tpm_it_stays_and_says_so(service: FakeService, tmp_path: Path, blank_tpm: SoftwareTpm) -> None:
    blank_tpm.stop()
    with running(blank_tpm, service, tmp_path) as process:
        process.until("failed")
        failed = next(one for one in process.events() if one["event"] == "failed")
        assert failed["failure"] == "tpm-unavailable"
        blank_tpm.start()
        process.until("enrolled")
        assert process.end() == 0
