"""A bounded memory: what was not used lately is forgotten. Safe for threads; reading takes no lock.

Two generations: what is kept or found goes into the young one; when that is half of what there is room for, it becomes
the old one, and the old one is forgotten. So whatever was used within the last half of the room is still here.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_SHARE: Final = 16  # nothing may take more than this part of the room


class Memo(Generic[Key, Value]):
    """At most `capacity` values of at most `octets` together, as their keepers weigh them.

    It knows no time: who reads an entry checks that it still holds. Two keys are one only if they are equal: no digest
    stands for a credential here.
    """

    def __init__(self, capacity: int, *, octets: int = 1 << 40) -> None:
        if capacity < 2:
            raise ValueError("a memo holds at least two values")
        self._most, self._heaviest = capacity // 2, octets // 2
        self._lock = threading.Lock()
        self._weight = 0  # of the young
        self._young: dict[Key, tuple[Value, int]] = {}
        self._old: dict[Key, tuple[Value, int]] = {}

    def get(self, key: Key) -> Value | None:
        """The value last kept under this key, if it is still here."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is None:
                return None
            self._put(key, found)
        return found[0]

    def keep(self, key: Key, value: Value, *, octets: int = 0) -> Value:
        """Remembers `value`, unless it is too heavy, and returns it. `octets`: about what it takes, with its key."""
        if octets <= self._heaviest * 2 // _SHARE:
            self._put(key, (value, octets))
        return value

    def _put(self, key: Key, entry: tuple[Value, int]) -> None:
        with self._lock:
            before = self._young.pop(key, None)
            if before is not None:
                self._weight -= before[1]
            elif len(self._young) >= self._most or self._weight + entry[1] > self._heaviest:
                self._old, self._young, self._weight = self._young, {}, 0
            self._young[key] = entry
            self._weight += entry[1]

    def __len__(self) -> int:
        with self._lock:
            return len(self._young.keys() | self._old.keys())
