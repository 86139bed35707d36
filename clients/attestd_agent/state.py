"""The agent's state folder: written so that a power cut at any moment leaves the old state or the new one, whole.

    STATE/                    0700, one owner
      credentials -> gen-7    swapped by rename: the key and the chain change together or not at all
      gen-7/                  never changed once `credentials` points to it
        key.pem               the credential key, "TSS2 PRIVATE KEY": only this TPM can use it
        chain.pem             its certificate and the issuers', without the root
        ear.jwt               the attestation's result, for relying parties; absent where the service sent none
        ak.pem                the attestation key, in the same form as key.pem
        device.json           who this is, what the service said, when to renew
      root.pem                the service's root certificate, pinned
      root-origin.json        the roots that led to it, if it was replaced since it was named
      time-floor.json         no time before this can be true
      waiting.json            while the service keeps the device waiting
      lately.json             what the service knows of this boot's logs: the next attestation leaves it out
      unanswered              new keys were sent to the service, and its answer is not saved: which keys count there?
      lock                    held by whoever changes anything

Each file is written under another name, synced, and renamed; then its folder is synced (rename(2) is atomic, and
lasting only after fsync of the folder). The generation before the current one is kept for readers who are in it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attestd.errors import Conflict, InputTooLarge, MalformedInput, Misconfigured, Unavailable
from attestd.protocol.encoding import Members, read_object, write_object
from attestd.protocol.evidence import Lately
from attestd_agent.keys import TpmKey
from attestd_agent.records import Enrolled, Record, Waiting

_log = logging.getLogger(__name__)
_GENERATION = re.compile(r"gen-([0-9]{1,12})", re.ASCII)
_LINK = "credentials"
_UNANSWERED = "unanswered"
_MAX_FILE = 256 * 1024
_MAX_ROOTS = 16
_MAX_TIME = 1 << 40  # Unix seconds
_LOCK_PATIENCE = 60.0  # seconds; longer than any one exchange with TPM and service


class StateBroken(MalformedInput):
    """The state folder holds what the agent did not write"""

    remedy = "Move the folder away and enroll again: `attestd-agent enroll`."


class StateExposed(Misconfigured):
    """Others may read or change the state folder"""

    remedy = "chmod 0700 the folder, or name another with --state-dir."


class StateOfAnotherUser(Misconfigured):
    """The state folder belongs to another user"""

    remedy = "Run the command as that user: sudo -u NAME attestd-agent …"


class StateUnwritable(Unavailable):
    """The state folder can't be used"""

    remedy = "Check that the folder exists, can be written to and has room: --state-dir."


class StateBusy(Conflict):
    """Another agent is changing this state folder"""

    remedy = "Wait for it, or end it; one state folder serves one device."


class StateDir:
    """One state folder. Reading needs no lock; everything that writes happens inside `exclusive()`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    # ---- Reading ------------------------------------------------------------------------------------------------

    @property
    def chain_path(self) -> Path:
        """A stable path to the current chain. Read it and the key through one resolved `credentials`."""
        return self.path / _LINK / "chain.pem"

    @property
    def key_path(self) -> Path:
        return self.path / _LINK / "key.pem"

    @property
    def ear_path(self) -> Path:
        """A stable path to the newest attestation result; there is no file where the service sent none."""
        return self.path / _LINK / "ear.jwt"

    def load(self) -> Enrolled | None:
        """The current credential, or None before the first. Raises StateBroken where key and chain don't match."""
        current = self._current()
        if current is None:
            return None
        folder = self.path / f"gen-{current}"
        try:
            return Enrolled.of(
                ak=TpmKey.from_pem(_read(folder / "ak.pem")),
                ck=TpmKey.from_pem(_read(folder / "key.pem")),
                chain=_read(folder / "chain.pem").decode("ascii"),
                record=Record.parse(_read(folder / "device.json")),
                ear=(_optional(folder / "ear.jwt") or b"").decode("ascii"),
            )
        except (MalformedInput, UnicodeDecodeError) as broken:
            raise StateBroken(f"{folder}: {broken}") from broken
        except FileNotFoundError as missing:
            raise StateBroken(f"{missing.filename} is missing.") from missing
        except OSError as failure:
            raise _unusable(failure) from failure

    def waiting(self) -> Waiting | None:
        """What the service said last, if it was to wait. A file that can't be read is as good as none."""
        data = self._optional("waiting.json")
        with suppress(MalformedInput):
            return None if data is None else Waiting.parse(data)
        return None

    def lately(self) -> Lately:
        """What the service knows of the logs. A file that can't be read is as good as none: all of them are sent."""
        data = self._optional("lately.json")
        with suppress(MalformedInput, InputTooLarge):
            if data is not None:
                members = Members(read_object(data, limit=_MAX_FILE, name="lately.json"), "lately.json")
                members.version()
                return Lately.read(members)
        return Lately()

    @property
    def unanswered(self) -> bool:
        """Whether an agent ended between sending new keys and saving the answer. Attesting shows which keys count."""
        return (self.path / _UNANSWERED).exists()

    def roots(self) -> bytes | None:
        """The pinned root certificates as PEM."""
        return self._optional("root.pem")

    def roots_origin(self) -> frozenset[str]:
        """The roots (SHA-256) that somebody named, if they led to others since. Raises StateBroken."""
        data = self._optional("root-origin.json")
        if data is None:
            return frozenset()
        try:
            members = Members(read_object(data, limit=_MAX_FILE, name="origin"), "root-origin.json")
            members.version()
            return frozenset(members.texts("sha256", most=_MAX_ROOTS, limit=64))
        except (MalformedInput, InputTooLarge) as broken:
            raise StateBroken(f"root-origin.json: {broken}") from broken

    def floor(self) -> int:
        """Unix seconds that have surely passed; 0 if nothing is known. Build time and certificate still count then."""
        data = self._optional("time-floor.json")
        if data is None:
            return 0
        try:
            members = Members(read_object(data, limit=_MAX_FILE, name="time floor"), "time-floor.json")
            members.version()
            return min(members.integer("floor"), _MAX_TIME)
        except MalformedInput as broken:
            _log.warning("the time floor can't be read", extra={"why": str(broken)})
            return 0

    def _optional(self, name: str) -> bytes | None:
        try:
            return _optional(self.path / name)
        except OSError as failure:
            raise _unusable(failure) from failure

    def _current(self) -> int | None:
        try:
            matched = _GENERATION.fullmatch(str((self.path / _LINK).readlink()))
        except FileNotFoundError:
            return None
        except OSError as failure:
            raise _unusable(failure) from failure
        if matched is None:
            raise StateBroken(f"{self.path / _LINK} does not point to a generation.")
        return int(matched[1])

    # ---- Writing ------------------------------------------------------------------------------------------------

    @contextmanager
    def exclusive(self, *, patience: float = _LOCK_PATIENCE) -> Iterator[None]:
        """Creates the folder if need be and keeps other agents out. Raises StateBusy after `patience` seconds."""
        try:
            self._prepare()
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failure:
            raise _unusable(failure) from failure
        try:
            give_up = time.monotonic() + patience
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if time.monotonic() >= give_up:
                    raise StateBusy(seen=str(self.path))
                time.sleep(0.05)
            yield
        finally:
            os.close(lock)

    def _prepare(self) -> None:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            _sync(self.path.parent)
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            raise StateOfAnotherUser(seen=f"user id {os.geteuid()}", expected=f"user id {found.st_uid}")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise StateExposed(str(self.path), seen=f"{stat.S_IMODE(found.st_mode):04o}", expected="0700")

    def save(self, enrolled: Enrolled) -> None:
        """Makes this the current credential. Inside `exclusive()`."""
        with _named_errors():
            current = None
            with suppress(StateBroken):
                current = self._current()
            known = (_GENERATION.fullmatch(entry.name) for entry in self.path.iterdir())
            number = max([int(matched[1]) for matched in known if matched] + [current or 0]) + 1
            # 1. A whole generation under a name that nobody reads, synced.
            draft, final = self.path / f".gen-{number}", self.path / f"gen-{number}"
            self._remove(draft)
            draft.mkdir(mode=0o700)
            _write(draft / "ak.pem", enrolled.ak.to_pem())
            _write(draft / "key.pem", enrolled.ck.to_pem())
            _write(draft / "chain.pem", enrolled.chain.encode("ascii"))
            _write(draft / "device.json", enrolled.record.to_bytes())
            if enrolled.ear:
                _write(draft / "ear.jwt", enrolled.ear.encode("ascii"))
            _sync(draft)
            draft.rename(final)
            _sync(self.path)
            # 2. The swap: from here on it is the current one.
            link = self.path / f".{_LINK}"
            with suppress(FileNotFoundError):
                link.unlink()
            link.symlink_to(final.name)
            link.rename(self.path / _LINK)
            _sync(self.path)
            # 3. What nobody can be reading any more: all but the current and the one before.
            for entry in sorted(self.path.iterdir()):
                matched = _GENERATION.fullmatch(entry.name.removeprefix("."))
                if matched and (entry.name.startswith(".") or int(matched[1]) not in (number, current)):
                    self._remove(entry)

    def _remove(self, folder: Path) -> None:
        with suppress(FileNotFoundError):
            for entry in folder.iterdir():
                entry.unlink()
            folder.rmdir()

    def save_waiting(self, waiting: Waiting | None) -> None:
        if waiting is not None:
            self._replace("waiting.json", waiting.to_bytes())
            return
        with _named_errors(), suppress(FileNotFoundError):
            (self.path / "waiting.json").unlink()
            _sync(self.path)

    def save_lately(self, lately: Lately) -> None:
        """Writes only what is new."""
        if lately != self.lately():
            self._replace("lately.json", write_object({"v": 1, **lately.to_members()}))

    def save_unanswered(self, yes: bool) -> None:
        """True before new keys are sent in the place of current ones, False once the answer is saved.

        On a full disk this fails, and nothing is sent: the answer could not be kept.
        """
        if yes:
            self._replace(_UNANSWERED, write_object({"v": 1}))
        elif self.unanswered:
            with _named_errors(), suppress(FileNotFoundError):
                (self.path / _UNANSWERED).unlink()
                _sync(self.path)

    def save_roots(self, pem: bytes) -> None:
        """Pins roots that somebody named."""
        with _named_errors(), suppress(FileNotFoundError):
            (self.path / "root-origin.json").unlink()
            _sync(self.path)
        self._replace("root.pem", pem)

    def follow_roots(self, pem: bytes, origin: frozenset[str]) -> None:
        """Pins roots that those of `origin` led to (SHA-256 in hexadecimal): whoever names these again means those."""
        self._replace("root-origin.json", write_object({"v": 1, "sha256": sorted(origin)}))
        self._replace("root.pem", pem)

    def raise_floor(self, floor: int) -> None:
        """Never lowers it; writes only when it rises."""
        if floor > self.floor():
            self._replace("time-floor.json", write_object({"v": 1, "floor": floor}))

    def _replace(self, name: str, data: bytes) -> None:
        with _named_errors():
            draft = self.path / f".{name}"
            with suppress(FileNotFoundError):
                draft.unlink()
            _write(draft, data)
            draft.rename(self.path / name)
            _sync(self.path)


def _optional(path: Path) -> bytes | None:
    try:
        return _read(path)
    except FileNotFoundError:
        return None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise StateBroken(f"{path} is too large.", expected=f"at most {_MAX_FILE} octets")
    return data


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(failure: OSError) -> StateUnwritable:
    return StateUnwritable(f"{failure.filename or 'The state folder'}: {failure.strerror}.")


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        raise _unusable(failure) from failure
