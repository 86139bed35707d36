"""From options to an agent: the one place where clocks, randomness, files and the TPM come together."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attestd.errors import Misconfigured
from attestd_agent.agent import Agent
from attestd_agent.bootlogs import BootLogs
from attestd_agent.clock import DeviceClock
from attestd_agent.ekcerts import MAX_FILE, read_certificate_file
from attestd_agent.records import Enrolled
from attestd_agent.server import Server
from attestd_agent.state import StateBroken, StateDir
from attestd_agent.transport import RootMalformed, Transport, fetch_root, read_roots, read_url, write_roots

if TYPE_CHECKING:
    from attestd_agent.device import Device

DEFAULT_TCTI = "device:/dev/tpmrm0"
_HANDLE = re.compile(r"0x81[0-9a-f]{6}", re.ASCII | re.IGNORECASE)  # persistent (TPM 2.0 Library, Part 2, 7.2)
_FINGERPRINT = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII | re.IGNORECASE)


class TpmLibraryMissing(Misconfigured):
    """The TPM library is not installed"""

    remedy = "Install libtss2 (apt install libtss2-dev) and the agent's extra (pip install 'attestd-fleet[agent]')."


class ServerNotNamed(Misconfigured):
    """No service was named"""

    remedy = "Give --server https://HOST[:PORT]; after enrolling, the agent remembers it."


class RootNotNamed(Misconfigured):
    """No root certificate was named"""

    remedy = "Give --ca FILE (the service's root certificate) or --ca sha256:FINGERPRINT; the agent remembers it."


class IdentityKeyHalfNamed(Misconfigured):
    """An identity key takes a handle and a certificate"""

    remedy = "Give both: --iak 0x81020001 (or where the key lies) and --iak-cert FILE."


class FileUnreadable(Misconfigured):
    """A file can't be read"""


@dataclass(frozen=True, slots=True)
class Options:
    """What a command was given. What is None comes from the state folder."""

    state_dir: Path
    tcti: str = DEFAULT_TCTI
    server: str | None = None
    ca: str | None = None
    ek: str | None = None
    ek_certificate: Path | None = None
    iak: str | None = None
    iak_certificate: Path | None = None
    eventlog: Path | None = None
    ima: Path | None = None


def boot_clock() -> float:
    """Seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def open_device(tcti: str) -> Device:
    """Raises TpmLibraryMissing where tpm2-pytss or libtss2 is not installed; does not touch the TPM yet."""
    os.environ.setdefault("TSS2_LOG", "all+none")  # its failures are named and shown by us, once
    try:
        from attestd_agent.device import Device  # noqa: PLC0415
    except ImportError as missing:
        raise TpmLibraryMissing(seen=str(missing)) from missing
    return Device(tcti)


def open_clock(state: StateDir) -> DeviceClock:
    """The device's clock above its floor: build time, last signed time, the certificate's notBefore."""
    floor = datetime.fromtimestamp(state.floor(), UTC)
    if (known := _known(state)) is not None:
        floor = max(floor, known.leaf.not_valid_before_utc)
    return DeviceClock(system=lambda: datetime.now(UTC), boot=boot_clock, floor=floor)


def assemble(options: Options, *, interruptible: Callable[[], AbstractContextManager[None]] = nullcontext) -> Agent:
    """An agent that is ready to act. May ask the service for its root, if all that is known is its fingerprint."""
    state = StateDir(options.state_dir)
    known, waiting = _known(state), state.waiting()
    url = options.server or (known.record.server if known else None) or (waiting.server if waiting else None)
    if url is None:
        raise ServerNotNamed
    url = read_url(url)
    certificates: tuple[bytes, ...] = ()
    if options.ek_certificate is not None:
        certificates = read_certificate_file(read_file(options.ek_certificate))
    iak = _iak(options)
    device = open_device(options.tcti)
    clock = open_clock(state)
    roots = _roots(options.ca, state, url)
    if roots != state.roots():
        with state.exclusive():
            state.save_roots(roots)
    transport = Transport(url, roots, clock, interruptible=interruptible)
    return Agent(
        state=state,
        device=device,
        server=Server(transport, roots, entropy=os.urandom),
        clock=clock,
        random=random.SystemRandom().random,
        ek=options.ek,
        ek_certificates=certificates,
        iak=iak,
        logs=BootLogs.of(options.tcti, eventlog=options.eventlog, ima=options.ima),
    )


def _iak(options: Options) -> tuple[int, tuple[bytes, ...]] | None:
    if options.iak is None and options.iak_certificate is None:
        return None
    if options.iak is None or options.iak_certificate is None or not _HANDLE.fullmatch(options.iak):
        raise IdentityKeyHalfNamed(seen=repr(options.iak), expected="--iak 0x81…, eight digits, and --iak-cert FILE")
    return int(options.iak, 16), read_certificate_file(read_file(options.iak_certificate))


def _known(state: StateDir) -> Enrolled | None:
    with suppress(StateBroken):  # acts name it, or mend it
        return state.load()
    return None


def _roots(ca: str | None, state: StateDir, url: str) -> bytes:
    """The pinned roots as PEM: those of --ca, or those that an earlier --ca left in the state folder."""
    stored = state.roots()
    if ca is None:
        if stored is None:
            raise RootNotNamed
        return stored
    fingerprint = _FINGERPRINT.fullmatch(ca)
    if fingerprint is None:
        if ca.lower().startswith("sha256:"):
            raise RootMalformed(
                "This is not a fingerprint.", seen=ca[:80], expected="sha256: and 64 hexadecimal digits"
            )
        named = read_roots(read_file(Path(ca)))
        if stored is not None and {hashlib.sha256(der).hexdigest() for der in named} == state.roots_origin():
            return stored  # where they led to since
        return write_roots(named)
    wanted = bytes.fromhex(fingerprint[1])
    if stored is not None and state.roots_origin() == {wanted.hex()}:
        return stored
    for der in read_roots(stored) if stored is not None else ():
        if hmac.compare_digest(hashlib.sha256(der).digest(), wanted):
            return write_roots([der])
    return fetch_root(url, wanted)


def read_file(path: Path) -> bytes:
    """A file named by an option, of bounded size. Raises FileUnreadable."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE + 1)
    except OSError as failure:
        raise FileUnreadable(f"{path}: {failure.strerror}.", remedy="Check the path and its permissions.") from failure
