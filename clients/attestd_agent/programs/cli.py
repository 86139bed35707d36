"""`attestd-agent serve`: only wiring."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from attestd.errors import Misconfigured
from attestd_agent.agent import NotEnrolled
from attestd_agent.assemble import DEFAULT_TCTI
from attestd_agent.daemon import StopRequest
from attestd_agent.journal import configure
from attestd_agent.options import (
    DEFAULT_STATE,
    EventLogOption,
    ImaOption,
    JsonOption,
    StateOption,
    TctiOption,
    reported,
)
from attestd_agent.programs.door import Door, Presentations
from attestd_agent.session import DeviceSession, LastingSession
from attestd_agent.state import StateDir

DEFAULT_SOCKET = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/attestd-agent").partition(":")[0]) / "programs.sock"


class ModeTooOpen(Misconfigured):
    """The socket's mode lets everybody on this machine speak as the device, or is no mode"""

    remedy = "Give a mode such as 0660, with nothing for others; --group says who may connect."


def serve(
    audience: Annotated[
        list[str], typer.Option("--audience", help="Whom tokens may be for; issuance policy names them. Repeatable.")
    ],
    origin: Annotated[
        list[str], typer.Option("--origin", help="Where the device is presented: https://HOST[:PORT]. Repeatable.")
    ],
    socket: Annotated[
        Path, typer.Option("--socket", envvar="ATTESTD_AGENT_SOCKET", help="Where programs connect.")
    ] = DEFAULT_SOCKET,
    group: Annotated[str | None, typer.Option("--group", help="Whose programs may connect.")] = None,
    mode: Annotated[str, typer.Option("--mode", help="The socket's mode.")] = "0660",
    state_dir: StateOption = DEFAULT_STATE,
    tcti: TctiOption = DEFAULT_TCTI,
    eventlog: EventLogOption = None,
    ima: ImaOption = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log more.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let programs on this machine present its identity, by tokens with proofs, until SIGTERM (docs/programs.md).

    Beside `attestd-agent run`, which keeps the certificate fresh. The first line on stdout says that it serves.
    """
    configure(objects=as_json, debug=debug)
    with reported(as_json):
        if not re.fullmatch(r"0?[0-7]{3}", mode) or int(mode, 8) & 0o007:
            raise ModeTooOpen(seen=mode)
        state = StateDir(state_dir)

        def open_session() -> DeviceSession:
            if state.load() is None:
                raise NotEnrolled(seen=str(state_dir))
            return DeviceSession.open(state_dir, tcti=tcti, eventlog=eventlog, ima=ima)

        session = LastingSession(open_session, roots=state.roots)
        presentations = Presentations(session, audiences=audience, origins=origin)
        stop = StopRequest()
        stop.listen()
        end = Door(socket, presentations, mode=int(mode, 8), group=group).serving()
        try:
            typer.echo(json.dumps({"listening": f"unix:{socket}"}) if as_json else f"attestd-agent serves at {socket}")
            sys.stdout.flush()
            while not stop.requested:
                stop.sleep(3600)
        finally:
            end()
