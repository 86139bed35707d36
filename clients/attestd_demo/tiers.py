"""Three tiers on one machine: a nats-server at the site and one in the cloud, the edge's NATS side between them, and
what a device and somebody in the cloud say and hear there.

The servers speak without TLS, on loopback alone; deploy/nats has them as they are run. The way up is a leaf node that
may send what was cleared, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import nats
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from attestd.credentials.jwk import public_jwk
from attestd.errors import Unavailable
from attestd_agent.session import DeviceSession
from attestd_demo.processes import end, program
from attestd_edge.nats.keys import make
from attestd_edge.nats.present import login_options

NATS_BOUNDARY = "field-to-berlin-nats"
CARRIED = "berlin-to-cloud"
ORIGIN = "https://nats.demo.example"
_LIMIT = 20.0  # seconds
_Found = TypeVar("_Found")

# For edge.toml, behind the edge's own.
NATS_SETTINGS = """
[[boundary]]
name = "{nats}"
from = {{ tier = "device", site = "berlin" }}
to = {{ tier = "edge", site = "berlin" }}

[[boundary]]
name = "{carried}"
from = {{ tier = "device", site = "berlin" }}
to = {{ tier = "cloud", site = "cloud" }}
receipts = "all"

[nats]
server = "nats://127.0.0.1:{port}"
keys = "nats"
account = "FIELD"
origin = "{origin}"
lifetime = 300

[[nats.grant]]
boundary = "{nats}"
publish = ["field.{{site}}.{{device}}.>"]
subscribe = ["_INBOX.{{device}}.>"]

[nats.carry]
boundary = "{carried}"
stream = "FIELD"
from = "field.{{site}}.{{device}}.>"
to = "cleared.{{site}}.{{device}}.>"
withheld = "withheld.{{site}}.{{device}}.>"
"""
_SITE = """
include "keys.conf"
server_name: "edge-berlin"
listen: "127.0.0.1:{port}"
max_control_line: 16KB
authorization {{
  timeout: 5
  auth_callout {{
    issuer: $ATTESTD_ISSUER
    xkey: $ATTESTD_SEALING
    account: AUTH
    auth_users: [ $ATTESTD_CALLOUT, $ATTESTD_WATCH, $ATTESTD_CARRY ]
    allowed_accounts: [ FIELD ]
  }}
}}
accounts {{
  AUTH {{ users: [ {{ nkey: $ATTESTD_CALLOUT }} ] }}
  SYS {{ users: [ {{
    nkey: $ATTESTD_WATCH
    permissions {{ publish: [ "$SYS.REQ.SERVER.*.KICK" ], subscribe: [ "_INBOX.attestd.>" ] }}
  }} ] }}
  FIELD {{ jetstream: enabled, users: [ {{ nkey: $ATTESTD_CARRY }} ] }}
}}
system_account: SYS
jetstream {{ store_dir: "jetstream", domain: "berlin", max_file_store: 4GB }}
leafnodes {{
  reconnect: 1
  remotes: [ {{
    url: "nats://uplink:{secret}@127.0.0.1:{leaf}"
    account: FIELD
    deny_imports: [ "field.>", "withheld.>", "$JS.>" ]
    deny_exports: [ "field.>", "withheld.>" ]
  }} ]
}}
"""
_CLOUD = """
server_name: "cloud-1"
listen: "127.0.0.1:{cloud}"
accounts {{
  FLEET {{ jetstream: enabled, users: [
    {{ user: reader, password: "{secret}" }}
    {{ user: uplink, password: "{secret}",
      permissions {{ publish: [ "cleared.berlin.>" ], subscribe: [ "_INBOX.carry.berlin.>" ] }} }}
  ] }}
}}
jetstream {{ store_dir: "jetstream", domain: "cloud", max_file_store: 64MB }}
leafnodes {{ listen: "127.0.0.1:{leaf}" }}
"""


class NotThere(Unavailable):
    """A program of the three tiers did not answer in time"""

    remedy = "Its log is in the instance's folder, under demo/."


@dataclass
class Tiers:
    """Servers and the edge's NATS side. What is asked of NATS runs on a loop in a thread of its own."""

    folder: Path
    config: Path  # the edge's
    port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    client: Client | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.port, self._leaf, self._cloud = _free_port(), _free_port(), _free_port()
        self._secret = secrets.token_urlsafe(16)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()

    def settings(self) -> str:
        """What the edge's configuration has to say of it."""
        return NATS_SETTINGS.format(nats=NATS_BOUNDARY, carried=CARRIED, port=self.port, origin=ORIGIN)

    # ---- Programs ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Both servers, the cloud's stream, and the edge's NATS side."""
        keys = self.config.parent / "nats"
        if not keys.exists():
            make(keys, entropy=os.urandom)
        ports = {"port": self.port, "leaf": self._leaf, "cloud": self._cloud, "secret": self._secret}
        for name, text in (("cloud", _CLOUD), ("site", _SITE)):
            place = self.folder / name
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            (place / "nats.conf").write_text(text.format(**ports), "utf-8")
        shutil.copy(keys / "keys.conf", self.folder / "site" / "keys.conf")
        self.start_server("cloud")
        self.start_server("site")
        self.start_edge()
        self.said(self._make_stream())

    def start_server(self, name: str) -> None:
        """A nats-server, from its folder."""
        place = self.folder / name
        self._start(name, [program("nats-server"), "-c", "nats.conf"], cwd=place)
        port = self.port if name == "site" else self._cloud
        until(f"the nats-server of the {name}", lambda: _listens(port))

    def start_edge(self) -> None:
        """`attestd-edge nats serve`, which nats-server can ask from then on."""
        process = self._start("edge-nats", [program("attestd-edge"), "nats", "serve", "--config", str(self.config)])
        assert process.stdout is not None  # noqa: S101 - it was asked for
        if b"answers" not in process.stdout.readline():
            raise NotThere("The edge's NATS side ended.")

    def stop(self, name: str) -> None:
        """Ends one of them."""
        end(self.processes.pop(name, None))

    def _start(self, name: str, command: list[str], cwd: Path | None = None) -> subprocess.Popen[bytes]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if name == "edge-nats" else log,
                stderr=log,
                cwd=cwd,
                start_new_session=True,
            )
        return self.processes[name]

    # ---- The device -------------------------------------------------------------------------------------------

    def log_in(self, session: DeviceSession) -> None:
        """The device, by its token and a proof that its TPM makes over the server's own challenge."""
        self.ended.clear()
        self.client = self.said(self._log_in(session))

    def send(self, subject: str, data: bytes) -> None:
        """A message of the device's, which the site's server has taken."""
        self.said(self._send(subject, data))

    async def _log_in(self, session: DeviceSession) -> Client:
        known = session.enrolled
        proof = login_options(
            lambda: session.token("edge"),
            sign=session.sign,
            jwk=public_jwk(known.ck.key),
            origin=ORIGIN,
            now=lambda: datetime.now(UTC),
            entropy=os.urandom,
        )

        async def ended() -> None:
            self.ended.set()

        async def failed(_error: Exception) -> None:
            """What the server says before it ends a connection; `ended` follows."""

        client: Client = await nats.connect(
            f"nats://127.0.0.1:{self.port}",
            allow_reconnect=False,
            connect_timeout=10,
            inbox_prefix=f"_INBOX.{known.record.device_id}".encode(),
            closed_cb=ended,
            disconnected_cb=ended,
            error_cb=failed,
            **proof,
        )
        return client

    async def _send(self, subject: str, data: bytes) -> None:
        if self.client is None:
            raise NotThere("The device has not logged in.")
        await self.client.publish(subject, data)
        await self.client.flush(5)

    # ---- The cloud --------------------------------------------------------------------------------------------

    def arrived(self) -> list[tuple[str, bytes]]:
        """Subjects and contents of all that came to the cloud so far."""
        return self.said(self._arrived())

    async def _reader(self) -> Client:
        address = f"nats://reader:{self._secret}@127.0.0.1:{self._cloud}"
        client: Client = await nats.connect(address, allow_reconnect=False, connect_timeout=5)
        return client

    async def _make_stream(self) -> None:
        client = await self._reader()
        js = client.jetstream()
        try:
            await js.stream_info("FLEET")
        except NotFoundError:
            await js.add_stream(name="FLEET", subjects=["cleared.>"])
        await client.close()

    async def _arrived(self) -> list[tuple[str, bytes]]:
        client = await self._reader()
        try:
            js = client.jetstream()
            state = (await js.stream_info("FLEET")).state
            numbers = range(state.first_seq, state.last_seq + 1) if state.messages else ()
            found = [await js.get_msg("FLEET", number) for number in numbers]
            return [(message.subject or "", message.data or b"") for message in found]
        finally:
            await client.close()

    # ---- The end ----------------------------------------------------------------------------------------------

    def said(self, asked: Coroutine[Any, Any, _Found]) -> _Found:
        """What NATS answers."""
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result(_LIMIT)

    def close(self) -> None:
        """Ends what was started."""
        if self.client is not None:
            with contextlib.suppress(Exception):  # it may be gone
                self.said(self.client.close())
        for name in ("edge-nats", "site", "cloud"):
            self.stop(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


def until(what: str, holds: Callable[[], bool], *, within: float = _LIMIT) -> None:
    """Waits for it. Raises NotThere."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            raise NotThere(f"Waited {within:.0f} s for {what}.")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
