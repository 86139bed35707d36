"""A policy's text as a page shows it: cut into lines and words, with faults at their place, or beside another text.

What Cedar is, the service says. Here words are only told apart by their looks; nothing rests on it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Final

AROUND: Final = 3  # lines that are shown around a difference
MAX_COMPARED: Final = 3000  # lines that differ, of either text
_WORD: Final = re.compile(
    r"""(?P<cm>//.*)|(?P<str>"(?:[^"\\]|\\.)*")|(?P<at>@[a-z_]+)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<rest>\s+|.)"""
)
_KEYWORDS: Final = frozenset(["permit", "forbid", "when", "unless", "is", "in", "has", "like", "if", "then", "else"])


@dataclass(frozen=True, slots=True)
class Part:
    """Some characters of a line; `kind` is their class: a comment, a keyword, a text, something hidden."""

    text: str
    kind: str = ""


@dataclass(slots=True)
class Line:
    """One line. `kind`: add, del, flaw, look (worth a look), gap, or nothing. `said`: what is wrong here."""

    number: str
    parts: list[Part]
    kind: str = ""
    said: list[tuple[str, str]] = field(default_factory=list)


def plain(text: str) -> str:
    """As it was before a form carried it: forms end lines their own way."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(
    text: str, flaws: Sequence[Mapping[str, Any]] = (), warnings: Sequence[Mapping[str, Any]] = ()
) -> list[Line]:
    """The whole text."""
    found = [Line(str(number), _parts(line)) for number, line in enumerate(text.split("\n"), 1)]
    if found and not found[-1].parts and len(found) > 1:
        found.pop()  # what follows the last line's end is no line
    for kind, told in (("look", warnings), ("flaw", flaws)):
        for one in told:
            line = found[min(max(int(one["line"]), 1), len(found)) - 1]
            line.kind = kind
            line.said.append(("bad" if kind == "flaw" else "warn", f"Column {one['column']}: {one['message']}"))
    return found


def _parts(line: str) -> list[Part]:
    found: list[Part] = []
    for match in _WORD.finditer(line):
        kind, text = match.lastgroup or "", match[0]
        if kind == "word":
            kind = "kw" if text in _KEYWORDS else ""
        elif kind in ("rest", "at"):
            kind = "kw" if kind == "at" else ""
        if not text.isprintable() and text.strip("\t"):
            found += _hidden(text, kind)
        elif found and found[-1].kind == kind:
            found[-1] = Part(found[-1].text + text, kind)
        else:
            found.append(Part(text, kind))
    return found


def _hidden(text: str, kind: str) -> Iterator[Part]:
    """Characters that nobody would see, by their names; the rest around them."""
    for character in text:
        unseen = character != "\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        yield Part(f"U+{ord(character):04X}", "hid") if unseen else Part(character, kind)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two texts. `lines` is None where they differ in more than can be compared."""

    added: int
    removed: int
    lines: list[Line] | None

    @property
    def same(self) -> bool:
        return not (self.added or self.removed)


def difference(old: str, new: str) -> Difference:
    """From the old text to the new one, line by line, with a few lines around each change."""
    before, after = old.rstrip("\n").split("\n"), new.rstrip("\n").split("\n")
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    middle_old, middle_new = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(middle_old) > MAX_COMPARED or len(middle_new) > MAX_COMPARED:
        return Difference(len(middle_new), len(middle_old), None)
    changes: list[tuple[str, int, int, int, int]] = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, middle_old, middle_new).get_opcodes():
        if tag != "equal":
            changes.append((tag, head + i1, head + i2, head + j1, head + j2))
    lines: list[Line] = []
    shown = 0  # of the new text
    for _, i1, i2, j1, j2 in changes:
        begin = max(shown, j1 - AROUND)
        if begin > shown:
            lines.append(Line("", [Part(f"{begin - shown} lines as they were")], "gap"))
        lines += [Line(str(number + 1), _parts(after[number])) for number in range(begin, j1)]
        lines += [Line(f"{number + 1}", _parts(before[number]), "del") for number in range(i1, i2)]
        lines += [Line(f"{number + 1}", _parts(after[number]), "add") for number in range(j1, j2)]
        following = next((change[3] for change in changes if change[3] > j1), len(after))
        shown = min(j2 + AROUND, following)
        lines += [Line(str(number + 1), _parts(after[number])) for number in range(j2, shown)]
    if changes and shown < len(after):
        lines.append(Line("", [Part(f"{len(after) - shown} lines as they were")], "gap"))
    return Difference(sum(j2 - j1 for _, _, _, j1, j2 in changes), sum(i2 - i1 for _, i1, i2, _, _ in changes), lines)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines both begin with."""
    number = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        number += 1
    return number
