"""Rules by path for what IMA measured: patterns that match in one pass, and which rule a path falls under.

A pattern is a path in which `*` stands for any part of one name, and one component `**` for any number of directories;
at the end `**` is all that is below. `/var/log/**`, `/usr/lib/modules/*/kernel/**`, `/usr/lib/python3*/**/*.pyc`,
`memfd:*`. There is nothing else: a pattern of this kind never has to try two ways, so no path that a device makes up
can make it slow. A pattern takes one `**`, because two would have to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from attestd.errors import MalformedInput

MAX_PATTERN = 512  # octets
MAX_STARS = 16
MAX_RULES = 1000
MAX_MATCHED = 4096  # octets of a path that patterns are tried on: Linux's PATH_MAX


class UnusablePattern(MalformedInput):
    """A path pattern can't be used"""

    remedy = "Write a path with * within a name, and at most one component **."


class Verdict(StrEnum):
    """What makes a file good. There is none that takes a file whatever it is and says that it was judged."""

    IGNORE = "ignore"  # not judged: a hole in the appraisal, and counted as one
    REFUSE = "refuse"
    LISTED = "listed"
    SIGNED = "signed"
    EITHER = "listed or signed"


def as_measured(path: str) -> bytes:
    """A path as the kernel writes it in a measurement list: spaces are underscores (ima_write_template_field_data)."""
    return path.encode("utf-8", "surrogateescape").replace(b" ", b"_")


class _Name:
    """A component of a path with `*`s: first and last piece at its ends, the others between, leftmost first."""

    __slots__ = ("_first", "_last", "_least", "_middle")

    def __init__(self, pattern: bytes) -> None:
        self._first, *middle, self._last = pattern.split(b"*")
        self._middle = [piece for piece in middle if piece]
        self._least = len(self._first) + len(self._last)

    def matches(self, name: bytes) -> bool:
        if len(name) < self._least or not (name.startswith(self._first) and name.endswith(self._last)):
            return False
        at, end = len(self._first), len(name) - len(self._last)
        for piece in self._middle:
            found = name.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


class PathPattern:
    """One pattern. Raises UnusablePattern."""

    __slots__ = ("_deep", "_head", "_prefix", "_tail", "exact", "text")

    def __init__(self, text: str) -> None:
        pattern = as_measured(text)
        parts = pattern.split(b"/")
        if len(pattern) > MAX_PATTERN or b"\0" in pattern:
            raise UnusablePattern(seen=repr(text[:80]), expected=f"at most {MAX_PATTERN} octets, no NUL")
        if not pattern.strip(b"*/"):
            raise UnusablePattern("A path pattern must name something.", seen=repr(text[:80]))
        if parts.count(b"**") > 1 or any(b"**" in part and part != b"**" for part in parts):
            raise UnusablePattern("A path pattern has ** more than once, or within a name.", seen=repr(text[:80]))
        if pattern.count(b"*") > MAX_STARS:
            raise UnusablePattern("A path pattern has too many stars.", seen=repr(text[:80]), expected=MAX_STARS)
        self.text = text
        self.exact = pattern if b"*" not in pattern else None
        self._prefix = pattern.partition(b"*")[0]
        self._deep = b"**" in parts
        at = parts.index(b"**") if self._deep else len(parts)
        self._head = [_Name(part) if b"*" in part else part for part in parts[:at]]
        self._tail = [_Name(part) if b"*" in part else part for part in parts[at + 1 :]]

    def matches(self, path: bytes, parts: list[bytes] | None = None) -> bool:
        """Whether this path, as the kernel wrote it, is one of the pattern's. Linear in its size; `parts` is the path
        split at its slashes, for whoever asks many patterns."""
        if not path.startswith(self._prefix):
            return False
        if self.exact is not None:
            return path == self.exact
        if parts is None:
            parts = path.split(b"/")
        head, tail = self._head, self._tail
        spare = len(parts) - len(head) - len(tail)
        if (spare < (not tail)) if self._deep else spare:
            return False
        return _all_match(head, parts) and _all_match(tail, parts[len(parts) - len(tail) :])


def _all_match(patterns: list[_Name | bytes], names: list[bytes]) -> bool:
    return all(
        pattern.matches(name) if isinstance(pattern, _Name) else pattern == name
        for pattern, name in zip(patterns, names, strict=False)
    )


@dataclass(frozen=True, slots=True)
class PathRule:
    """What files under a pattern must be; `keyrings` are those whose signatures count, all of the policy's if None."""

    pattern: PathPattern
    verdict: Verdict
    keyrings: tuple[str, ...] | None = None


class PathRules:
    """Rules in the operator's order, of which the first that matches a path counts. Raises UnusablePattern."""

    __slots__ = ("_exact", "_patterns", "_rules")

    def __init__(self, rules: Iterable[PathRule] = ()) -> None:
        self._rules = tuple(rules)
        if len(self._rules) > MAX_RULES:
            raise UnusablePattern("There are too many path rules.", seen=len(self._rules), expected=MAX_RULES)
        self._exact: dict[bytes, int] = {}
        self._patterns: list[tuple[int, PathPattern]] = []
        for number, rule in enumerate(self._rules):
            if rule.pattern.exact is not None:
                self._exact.setdefault(rule.pattern.exact, number)
            else:
                self._patterns.append((number, rule.pattern))

    def __iter__(self) -> Iterator[PathRule]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def of(self, path: bytes) -> PathRule | None:
        """The rule that counts for this path; None where none speaks of it, as for paths that no kernel writes."""
        if len(path) > MAX_MATCHED or b"/../" in path or b"/./" in path or path.endswith((b"/..", b"/.")):
            return None
        last, parts = self._exact.get(path, len(self._rules)), path.split(b"/")
        for number, pattern in self._patterns:
            if number >= last:
                break
            if pattern.matches(path, parts):
                return self._rules[number]
        return self._rules[last] if last < len(self._rules) else None
