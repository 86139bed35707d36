"""A manifest as people write it: TOML 1.0, in the order in which they read it, with comments (docs/references.md).

What is written reads back as the same members: `ReferenceManifest.from_toml(write_toml(members))` has their digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

_FIRST: Final = ("name", "stage", "not_before", "not_after", "match", "pcrs", "boot", "runtime")
_TIMES: Final = frozenset({"not_before", "not_after"})
_LAST_TIME: Final = 253402300799  # 9999-12-31T23:59:59Z: no TOML says more
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_WIDTH: Final = 100  # characters of a list on one line


def write_toml(members: Mapping[str, Any], notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """The document. `notes` are comments by the member that they stand before (`boot.loaders`; "": the head).

    Raises TypeError for a value that no manifest has.
    """
    told = notes or {}
    order = {name: place for place, name in enumerate(_FIRST)}
    sorted_members = dict(sorted(members.items(), key=lambda each: (order.get(each[0], len(_FIRST)), each[0])))
    lines = list(_comments(told, ""))
    if lines:
        lines.append("")
    lines += _table(sorted_members, (), told)
    return "\n".join(lines).strip("\n") + "\n"


def _table(members: Mapping[str, Any], path: tuple[str, ...], notes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Values first: after a table's head, whatever follows belongs to that table."""
    below = []
    for name, value in members.items() if not path else sorted(members.items(), key=_by_number):
        where = (*path, name)
        if _is_table(value, where) or _is_tables(value):
            below.append((where, value))
            continue
        yield from _comments(notes, ".".join(where))
        yield f"{_key(name)} = {_value(_moment(value) if where[0] in _TIMES else value)}"
    for where, value in below:
        for each in value if _is_tables(value) else [value]:
            head = ".".join(map(_key, where))
            told = list(_comments(notes, ".".join(where)))
            if _is_tables(value):
                told.append(f"[[{head}]]")
            elif not each or not all(_is_table(inner, (*where, key)) for key, inner in each.items()):
                told.append(f"[{head}]")
            yield from ["", *told] if told else []
            yield from _table(each, where, notes)


def _is_table(value: Any, where: tuple[str, ...]) -> bool:
    """A mapping with a head of its own; a flat one within a table is written inline."""
    if not isinstance(value, Mapping):
        return False
    return len(where) == 1 or any(isinstance(inner, Mapping | list) for inner in value.values())


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _comments(notes: Mapping[str, Sequence[str]], where: str) -> Iterator[str]:
    for line in notes.get(where, ()):
        yield "# " + "".join(c if c.isprintable() else "?" for c in line)


def _by_number(member: tuple[str, Any]) -> tuple[int, str]:
    """PCRs by their index, all else by name."""
    name = member[0]
    return (int(name) if name.isascii() and name.isdigit() and len(name) < 4 else 0), name


def _moment(value: Any) -> Any:
    return datetime.fromtimestamp(value, UTC) if type(value) is int and 0 <= value <= _LAST_TIME else value


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in sorted(value.items())) + " }" if value else "{}"
    if isinstance(value, list):
        told = [_value(each) for each in value]
        line = f"[{', '.join(told)}]"
        return line if len(line) <= _WIDTH else "[\n" + "".join(f"  {each},\n" for each in told) + "]"
    raise TypeError(f"no manifest has a {type(value).__name__}")


def _text(value: str) -> str:
    """A basic string. JSON escapes as TOML does, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
