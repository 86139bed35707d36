"""What `attestd-agent run` becomes: the daemon, in the same process, without the command line.

A program that has read its options can't unload what that took, and this one stays for months, often on a small
machine. So it begins anew (execve(2)) with its options read: same process id, same environment, a sixth less memory.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
from pathlib import Path
from typing import NoReturn

from attestd.errors import AttestdError
from attestd_agent.agent import Agent
from attestd_agent.assemble import Options, assemble, boot_clock
from attestd_agent.checkins import CheckIns
from attestd_agent.daemon import Daemon, Notifier, StopRequest
from attestd_agent.journal import configure
from attestd_agent.outcomes import OK, report
from attestd_agent.schedule import Schedule
from attestd_agent.transport import ServerTooSlow, ServerUnreachable

_log = logging.getLogger(__name__)


def become(options: Options, *, check_in: float, as_json: bool, debug: bool) -> NoReturn:
    """Replaces the program that this process runs."""
    members = {
        name: str(value) if isinstance(value, Path) else value
        for name in Options.__dataclass_fields__
        if (value := getattr(options, name)) is not None
    }
    told = json.dumps({"options": members, "check_in": check_in, "as_json": as_json, "debug": debug})
    # -P: `-m` would look for modules in the folder where the command was given.
    os.execv(sys.executable, [sys.executable, "-P", "-m", __name__, told])  # noqa: S606 - itself, without a shell


def main(told: str) -> int:
    """Runs until a signal ends it; returns the exit code. `told` is what `become` says."""
    read = json.loads(told)
    members, as_json = read["options"], bool(read["as_json"])
    for name in ("state_dir", "ek_certificate", "iak_certificate", "eventlog", "ima"):
        if members.get(name) is not None:
            members[name] = Path(members[name])
    options = Options(**members)
    configure(objects=as_json, debug=bool(read["debug"]))
    stop = StopRequest()
    stop.listen(hangup=True)
    notifier = Notifier(os.environ)
    notifier.tell(READY="1")
    try:
        agent = _assembled(options, stop, notifier)
        if agent is not None:
            chance = random.SystemRandom().random
            Daemon(
                agent,
                schedule=Schedule(chance),
                stop=stop,
                notifier=notifier,
                boot=boot_clock,
                check_ins=CheckIns(agent.is_demanded, every=float(read["check_in"]), random=chance),
            ).run()
    except AttestdError as error:
        return report(error, as_json=as_json)
    return OK


def _assembled(options: Options, stop: StopRequest, notifier: Notifier) -> Agent | None:
    """A daemon that starts before the network, the TPM or its settings are there waits for them."""
    delay = 1.0
    while not stop.requested:
        try:
            return assemble(options, interruptible=stop.interruptible)
        except (ServerUnreachable, ServerTooSlow) as failure:
            notifier.tell(WATCHDOG="1", STATUS=f"fetching the service's root: {failure.detail}")
            _log.warning("no root yet", extra={"why": str(failure), "retry_in": delay})
            stop.sleep(delay)
            delay = min(delay * 2, 60.0)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
