"""A disk that loses power at the n-th system call and forgets what was not synced, or that has no room from there on.

What a file system may do with unsynced data is modelled at its extremes: contents written without fsync are lost or
kept; entries made without an fsync of their folder are all kept, all lost, or one rename alone is lost while later
ones are kept (nothing but fsync orders two changes of a folder).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_NEED_ROOM = frozenset({"open", "write", "mkdir", "symlink", "rename"})
_CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "symlink", "unlink", "rmdir")


class PowerCut(BaseException):
    """Nothing after this happens: each further call on the disk raises it again."""


@dataclass(frozen=True)
class NoRoom:
    """A full disk (ENOSPC) for everything that needs room: `lasting` until the end, else for one call."""

    lasting: bool


@dataclass
class _Change:
    """One change of a folder's entries that no fsync of the folder has made lasting yet."""

    kind: str
    path: str
    source: str = ""  # where a rename came from
    former: tuple[str, Any] | None = (
        None  # what the path held before: ("link", target), ("file", data), ("folder", None)
    )


class Disk:
    """Counts the calls below `root` and cuts the power when the one numbered `at` is due, or is full from there on."""

    def __init__(self, root: Path, *, at: int, full: NoRoom | None = None) -> None:
        self.root, self.at = str(root), at
        self._full = full
        self.calls: list[str] = []
        self.dead = False
        self._real = {name: getattr(os, name) for name in _CALLS}
        self._paths: dict[int, str] = {}
        self._unsynced: set[str] = set()  # files whose contents are not safe
        self._changes: list[_Change] = []

    @contextmanager
    def mounted(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patched:
            for name in _CALLS:
                patched.setattr(os, name, self._watch(name))
            yield

    def _watch(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*arguments: Any, **options: Any) -> Any:
            first = arguments[1] if name in ("symlink", "rename") else arguments[0]
            path = self._paths.get(first) if isinstance(first, int) else os.fspath(first)
            if path is None or not path.startswith(self.root) or path.endswith("/lock"):
                return real(*arguments, **options)
            if self.dead and self._full is None:
                if name == "close":
                    return real(*arguments)
                raise PowerCut
            self.calls.append(f"{name} {path.removeprefix(self.root)}")
            due = self.at == len(self.calls) - 1
            self.dead = self.dead or due
            if due and self._full is None:
                raise PowerCut
            if self._full is not None and self._lacks_room(name, arguments, due=due):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return self._noted(name, path, arguments, options)

        return call

    def _lacks_room(self, name: str, arguments: tuple[Any, ...], *, due: bool) -> bool:
        makes = name in _NEED_ROOM and (name != "open" or bool(arguments[1] & os.O_CREAT))
        return makes and (due or (self.dead and self._full is not None and self._full.lasting))

    def _noted(self, name: str, path: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        former = _held(path)
        result = None if name == "fsync" else self._real[name](*arguments, **options)  # the machine's own disk may nap
        if name == "open":
            self._paths[result] = path
            if arguments[1] & os.O_CREAT and former is None:
                self._changes.append(_Change("create", path))
        elif name == "write":
            self._unsynced.add(path)
        elif name == "fsync":
            self._unsynced.discard(path)
            self._changes = [change for change in self._changes if str(Path(change.path).parent) != path]
        elif name == "close":
            del self._paths[arguments[0]]
        elif name == "rename":
            self._moved(os.fspath(arguments[0]), path)
            self._changes.append(_Change(name, path, os.fspath(arguments[0]), former))
        else:
            self._changes.append(_Change(name, path, former=former))
        return result

    def _moved(self, source: str, target: str) -> None:
        """A folder takes what is in it along."""

        def now(path: str) -> str:
            return target + path.removeprefix(source) if path.startswith(source + "/") else path

        self._unsynced = {target if path == source else now(path) for path in self._unsynced}
        for change in self._changes:
            change.path, change.source = now(change.path), now(change.source)

    @property
    def renames(self) -> int:
        """How many renames a power cut could undo now."""
        return sum(1 for change in self._changes if change.kind == "rename")

    def forget(self, *, contents: bool, entries: bool | int) -> None:
        """What is left after the power came back. `entries`: all changes are lost, none, or the n-th rename alone."""
        for path in self._unsynced if contents else ():
            if Path(path).is_file():
                Path(path).write_bytes(b"")
        if entries is True:
            for change in reversed(self._changes):
                self._undo(change)
        elif entries is not False:
            self._undo([change for change in self._changes if change.kind == "rename"][entries])

    def _undo(self, change: _Change) -> None:
        with suppress(FileNotFoundError):  # inside a folder that is forgotten itself
            if change.kind in ("create", "symlink"):
                Path(change.path).unlink()
            elif change.kind == "mkdir":
                shutil.rmtree(change.path)
            elif change.kind == "rename":
                Path(change.path).rename(change.source)
            if change.former is not None:
                kind, value = change.former
                if kind == "link":
                    Path(change.path).symlink_to(value)
                elif kind == "file":
                    Path(change.path).write_bytes(value)
                else:
                    Path(change.path).mkdir(mode=0o700)


def _held(path: str) -> tuple[str, Any] | None:
    found = Path(path)
    if found.is_symlink():
        return "link", str(found.readlink())
    if found.is_file():
        return "file", found.read_bytes()
    return ("folder", None) if found.is_dir() else None
