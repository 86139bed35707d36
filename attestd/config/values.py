"""Single settings, from TOML's values or the environment's texts. Each reader names the setting that it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, cast

from attestd.errors import Misconfigured

_DURATION = re.compile(r"([1-9][0-9]{0,6})(s|m|h|d)", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
BANKS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


class SettingInvalid(Misconfigured):
    """A setting can't be read"""


def parse_duration(text: object, name: str) -> timedelta:
    """`"10m"` -> ten minutes. Raises SettingInvalid."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SettingInvalid(f"{name} is not a duration.", seen=repr(text), expected='like "90s", "10m", "1h" or "7d"')
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _whole(value: object, name: str) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 1_000_000:
        raise SettingInvalid(f"{name} is not a number in range.", seen=repr(value), expected="1 to 1000000")
    return number


def _share(value: object, name: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.0
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:  # also what is no number at all
        raise SettingInvalid(f"{name} is not a share.", seen=repr(value)[:80], expected="more than 0, at most 1")
    return number


def read_text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > 2048:
        raise SettingInvalid(f"{name} is not a string.", seen=repr(value)[:80])
    return value


def read_texts(value: object, name: str) -> tuple[str, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise SettingInvalid(f"{name} is not a list of strings.", seen=repr(value)[:80])
    return tuple(entry.strip() for entry in listed)


def _flag(value: object, name: str) -> bool:
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise SettingInvalid(f"{name} is neither true nor false.", seen=repr(value)[:80])
    return value


def _selection(value: object, name: str) -> Mapping[str, tuple[int, ...]]:
    if not isinstance(value, dict) or not value:
        raise SettingInvalid(f"{name} names no PCR bank.", expected="{ sha256 = [0, 1, 2, 3, 4, 5, 6, 7] }")
    found: dict[str, tuple[int, ...]] = {}
    for bank, indices in value.items():
        if bank not in BANKS:
            raise SettingInvalid(f"{name} names an unknown bank.", seen=bank, expected=", ".join(BANKS))
        if not isinstance(indices, list) or not indices or not all(type(i) is int and 0 <= i < 24 for i in indices):
            raise SettingInvalid(
                f"{name}.{bank} is not a list of PCR indices.", seen=repr(indices)[:80], expected="0 to 23"
            )
        found[bank] = tuple(sorted(set(indices)))
    return found


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "timedelta": parse_duration,
    "int": _whole,
    "float": _share,
    "str": read_text,
    "bool": _flag,
    "tuple[str, ...]": read_texts,
    "Mapping[str, tuple[int, ...]]": _selection,
}


def read_section(section: str, default: Any, values: object, environ: Mapping[str, str]) -> Any:
    if not isinstance(values, dict):
        raise SettingInvalid(f"[{section}] is not a table.", seen=repr(values)[:80])
    known = {f.name: cast("str", f.type) for f in fields(default)}
    if unknown := sorted(set(values) - set(known)):
        raise SettingInvalid(f"[{section}] has unknown settings.", seen=unknown, expected=sorted(known))
    found: dict[str, Any] = {}
    for name, kind in known.items():
        variable = f"ATTESTD_{section}_{name}".upper()
        if variable in environ:
            found[name] = _READERS[kind](environ[variable], variable)
        elif name in values:
            found[name] = _READERS[kind](values[name], f"{section}.{name}")
    return replace(default, **found)
