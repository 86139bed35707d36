"""`attestd-agent run`: does what the schedule says until it is told to stop.

One thread. SIGTERM and SIGINT end a sleep or an exchange with the service at once; what is between the agent and the
TPM or the disk is finished first, so that nothing is left loaded or half written. SIGHUP brings the next act forward
to now, and so does a service that demands an attestation.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType

from attestd.errors import AttestdError
from attestd.protocol.messages import WaitAnswer
from attestd_agent.agent import Agent, NotEnrolled
from attestd_agent.checkins import CheckIns
from attestd_agent.failures import KeysNotOfThisTpm
from attestd_agent.records import Enrolled, Record
from attestd_agent.schedule import Act, Plan, Schedule
from attestd_agent.server import ServerRefused
from attestd_agent.state import StateBroken

_log = logging.getLogger(__name__)
_NAP = 30.0  # seconds; the longest sleep in one piece: a suspended machine wakes up to what is due

# Refusals that only a new enrollment can mend: the service does not know the device or its keys (any more), or wants
# other PCRs by now and does not say which but to whom enrolls (as older services do).
_ENROLL_AGAIN = frozenset({"device-unknown", "signature-wrong", "pcr-selection-mismatch", "clock-went-back"})


class Stopped(BaseException):
    """The daemon was told to stop, in the middle of something that may be broken off."""


class StopRequest:
    """SIGTERM and SIGINT, and SIGHUP to who wants it: told to the one thread that there is.

    What wakes a sleeper is an octet in a pipe, which the interpreter writes in the very moment of the signal
    (`signal.set_wakeup_fd`). Waiting for a lock would not do: a signal that comes just before the wait, or to another
    thread, ends no wait, and a handler that wants a lock may find it in the hands of the thread that it interrupted.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        weakref.finalize(self, _close, self._reader, self._writer)
        self._requested = False
        self._interruptible = False
        self._hurried = False

    @property
    def requested(self) -> bool:
        return self._requested

    def listen(self, *, hangup: bool = False) -> None:
        """Takes the signals over, SIGHUP with `hangup`. In the main thread only, for as long as the process lives."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        if hangup:
            signal.signal(signal.SIGHUP, lambda number, frame: self.hurry())

    def _told(self, number: int, frame: FrameType | None) -> None:
        self.stop()
        if self._interruptible:
            raise Stopped

    def stop(self) -> None:
        self._requested = True
        self._wake()

    def hurry(self) -> None:
        """Ends a sleep; `hurried` tells why, once."""
        self._hurried = True
        self._wake()

    def hurried(self) -> bool:
        hurried, self._hurried = self._hurried, False
        if hurried:
            self._forget_wakes()
        return hurried

    def sleep(self, seconds: float) -> None:
        """Sleeps, at most until a stop or hurry is requested; not at all if one is."""
        if not self._requested and not self._hurried:
            select.select([self._reader], [], [], max(seconds, 0.0))
            self._forget_wakes()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full of wake-ups: one of them will do
            os.write(self._writer, b"\0")

    def _forget_wakes(self) -> None:
        """What they were for is in the two flags."""
        with suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, a signal raises Stopped at once; Stopped is raised on entry if one came before."""
        self._interruptible = True
        try:
            if self.requested:
                raise Stopped
            yield
        finally:
            self._interruptible = False


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class Notifier:
    """Tells systemd how the daemon is (sd_notify(3)); does nothing where NOTIFY_SOCKET is not set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Seconds between two signs of life; systemd advises half of what it grants.
        self.interval = int(usec) / 2e6 if usec.isascii() and usec.isdigit() and int(usec) and mine else None

    def tell(self, **fields: str) -> None:
        """READY="1", WATCHDOG="1", STOPPING="1", STATUS="…"."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        # Never blocking: a reader that is stuck must not hold up what the device is for.
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as channel:
            channel.sendto(text.encode(), self._address)


class Daemon:
    """The loop around one agent. `boot` is a clock in seconds that nobody can set and that counts suspended time."""

    def __init__(
        self,
        agent: Agent,
        *,
        schedule: Schedule,
        stop: StopRequest,
        notifier: Notifier,
        boot: Callable[[], float],
        check_ins: CheckIns | None = None,
    ) -> None:
        self._agent = agent
        self._check_ins = check_ins
        self._schedule = schedule
        self._stop = stop
        self._notifier = notifier
        self._boot = boot

    def run(self) -> None:
        """Returns when a stop was requested."""
        try:
            plan = self._wait(self._plan())
            while plan is not None:
                plan = self._wait(self.step(plan))
        except Stopped:
            pass
        finally:
            self._notifier.tell(STOPPING="1")
            _log.info("stopped")

    def _wait(self, plan: Plan) -> Plan | None:
        """Until the plan is due, or somebody wants it now; None if a stop came first."""
        self._say(f"next: {plan.act.value} in {plan.delay:.0f} s")
        _log.debug("waiting", extra={"next": plan.act.value, "delay": round(plan.delay, 1)})
        due = self._boot() + plan.delay
        while not self._stop.requested and (left := due - self._boot()) > 0:
            self._notifier.tell(WATCHDOG="1")
            if self._is_wanted_now(plan):
                plan = replace(plan, asked=True)
                break
            self._stop.sleep(min(left, _NAP, self._notifier.interval or _NAP, self._until_check_in(plan)))
        self._notifier.tell(WATCHDOG="1")
        return None if self._stop.requested else plan

    def _is_wanted_now(self, plan: Plan) -> bool:
        if self._stop.hurried():
            _log.info("told to act now")
            return True
        if self._check_ins is None or self._until_check_in(plan) > 0:
            return False
        if wanted := self._check_ins.check(self._boot()):
            _log.info("the service wants an attestation now")
        return wanted

    def _until_check_in(self, plan: Plan) -> float:
        """Infinite where nobody checks in, as without anything to attest with."""
        if self._check_ins is None or plan.act is not Act.ATTEST:
            return float("inf")
        return self._check_ins.due_in(self._boot())

    def _now(self) -> float:
        return self._agent.clock.now().timestamp()

    def _record(self) -> Record | None:
        with suppress(AttestdError):
            known = self._agent.state.load()
            return None if known is None else known.record
        return None

    def _plan(self) -> Plan:
        if self._agent.state.unanswered:
            return Plan(Act.ATTEST, 0.0)
        return self._schedule.start(self._record(), self._agent.state.waiting(), now=self._now())

    def step(self, plan: Plan) -> Plan:
        """One act, whatever comes of it, and the plan for the next."""
        record = self._record()
        if plan.act is Act.ATTEST and not plan.asked and record is not None and self._renewed_elsewhere(record):
            return self._plan()
        try:
            answer = self._agent.enroll() if plan.act is Act.ENROLL else self._agent.attest()
        except AttestdError as failure:
            return self._failed(plan.act, failure)
        except Exception:  # noqa: BLE001  (a fault of ours must not end the device's identity)
            _log.exception("unexpected failure")
            return self._schedule.failed(plan.act, record=self._record(), now=self._now())
        if isinstance(answer, WaitAnswer):
            _log.info("the service says to wait", extra={"state": answer.state, "retry_after": answer.retry_after})
            return self._schedule.told_to_wait(answer.retry_after, self._record(), self._agent.state.waiting())
        return self._succeeded(plan.act, answer)

    def _renewed_elsewhere(self, record: Record) -> bool:
        """Whether a command renewed meanwhile, so that nothing is due any more."""
        due = self._agent.state.unanswered or self._agent.state.waiting() is not None
        return not due and record.obtained_at <= self._now() < record.renew_at

    def _succeeded(self, act: Act, enrolled: Enrolled) -> Plan:
        record = enrolled.record
        _log.info(
            "enrolled" if act is Act.ENROLL else "attested",
            extra={
                "spiffe_id": record.spiffe_id,
                "serial": f"{enrolled.leaf.serial_number:040x}",
                "expires_in": record.expires_at - record.obtained_at,
                "renew_in": record.renew_at - record.obtained_at,
            },
        )
        return self._schedule.succeeded(record, now=self._now())

    def _failed(self, act: Act, failure: AttestdError) -> Plan:
        record, now = self._record(), self._now()
        again = isinstance(failure, (KeysNotOfThisTpm, NotEnrolled, StateBroken)) or (
            isinstance(failure, ServerRefused) and act is Act.ATTEST and failure.problem in _ENROLL_AGAIN
        )
        retry_after = failure.retry_after if isinstance(failure, ServerRefused) else None
        plan = self._schedule.failed(act, record=record, now=now, retry_after=retry_after, enroll=again)
        _log.warning(
            "failed",
            extra={
                "act": act.value,
                "failure": failure.slug(),
                "why": str(failure),
                "remedy": failure.what_to_do,
                "next": plan.act.value,
                "retry_in": round(plan.delay, 1),
                "credential_left": None if record is None else round(record.expires_at - now),
            },
        )
        return plan

    def _say(self, text: str) -> None:
        self._notifier.tell(STATUS=text)
