"""A bounded memory: what was used least lately is forgotten first. Safe for threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memo(Generic[Key, Value]):
    """At most `capacity` values. It knows no time: who reads an entry checks that it still holds."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a memo holds at least one value")
        self._capacity = capacity
        self._lock = threading.Lock()
        self._found: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """The value last kept under this key, if it is still here."""
        with self._lock:
            value = self._found.get(key)
            if value is not None:
                self._found.move_to_end(key)
            return value

    def keep(self, key: Key, value: Value) -> Value:
        """Remembers `value`, and returns it."""
        with self._lock:
            self._found[key] = value
            self._found.move_to_end(key)
            while len(self._found) > self._capacity:
                self._found.popitem(last=False)
        return value

    def __len__(self) -> int:
        with self._lock:
            return len(self._found)
