"""A disk that loses power at the n-th system call, and forgets what was not synced.

What a file system may do with unsynced data is modelled at its extremes: contents written without fsync are lost or
kept, and entries made without an fsync of their folder are lost or kept, in every combination.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "symlink", "unlink", "rmdir")


class PowerCut(BaseException):
    """Nothing after this happens: each further call on the disk raises it again."""


class Disk:
    """Counts the calls below `root` and cuts the power before or after the one numbered `at`."""

    def __init__(self, root: Path, *, at: int | None, after: bool) -> None:
        self.root, self.at, self.after = str(root), at, after
        self.calls: list[str] = []
        self.dead = False
        self._real = {name: getattr(os, name) for name in _CALLS}
        self._paths: dict[int, str] = {}
        self._unsynced: set[str] = set()  # files whose contents are not safe
        self._undo: list[tuple[str, Callable[[], None]]] = []  # folder -> how to forget one entry's change

    @contextmanager
    def mounted(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patched:
            for name in _CALLS:
                patched.setattr(os, name, self._watch(name))
            yield

    def _watch(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*arguments: Any, **options: Any) -> Any:
            first = arguments[0]
            path = self._paths.get(first) if isinstance(first, int) else os.fspath(first)
            if name in ("symlink", "rename"):
                path = os.fspath(arguments[1])
            if path is None or not path.startswith(self.root) or path.endswith("/lock"):
                return real(*arguments, **options)
            if self.dead:
                if name == "close":
                    return real(*arguments)
                raise PowerCut
            self.calls.append(f"{name} {path.removeprefix(self.root)}")
            mine = self.at == len(self.calls) - 1
            if mine and not self.after:
                self.dead = True
                raise PowerCut
            result = self._noted(name, path, arguments, options)
            if mine:
                self.dead = True
                if name == "open":
                    self._real["close"](result)
                raise PowerCut
            return result

        return call

    def _noted(self, name: str, path: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        folder, real = str(Path(path).parent), self._real
        kept = self._keep(path)
        result = real[name](*arguments, **options)
        if name == "open":
            self._paths[result] = path
            if arguments[1] & os.O_CREAT and kept is None:
                self._undo.append((folder, lambda: real["unlink"](path)))
        elif name == "write":
            self._unsynced.add(path)
        elif name == "fsync":
            self._unsynced.discard(path)
            self._undo = [(where, undo) for where, undo in self._undo if where != path]
        elif name == "close":
            del self._paths[arguments[0]]
        elif name == "mkdir":
            self._undo.append((folder, lambda: shutil.rmtree(path)))
        elif name == "symlink":
            self._undo.append((folder, lambda: real["unlink"](path)))
        elif name == "rename":
            source = os.fspath(arguments[0])
            self._unsynced = {path if one == source else one for one in self._unsynced}

            def back() -> None:
                real["rename"](path, source)
                if kept is not None:
                    kept()

            self._undo.append((folder, back))
        elif name in ("unlink", "rmdir") and kept is not None:
            self._undo.append((folder, kept))
        return result

    def _keep(self, path: str) -> Callable[[], None] | None:
        """How to bring back what is at this path now."""
        if os.path.islink(path):
            target = os.readlink(path)
            return lambda: self._real["symlink"](target, path)
        if os.path.isfile(path):
            data = Path(path).read_bytes()
            return lambda: Path(path).write_bytes(data) and None
        if os.path.isdir(path):
            return lambda: self._real["mkdir"](path)
        return None

    def forget(self, *, contents: bool, entries: bool) -> None:
        """What is left after the power came back."""
        if contents:
            for path in self._unsynced:
                if os.path.isfile(path):
                    Path(path).write_bytes(b"")
        if entries:
            for _, undo in reversed(self._undo):
                try:
                    undo()
                except FileNotFoundError:
                    pass  # inside a folder that is forgotten itself
