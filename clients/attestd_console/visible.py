"""Texts that devices give, for people: what can't be seen is shown as what it is.

Templates escape; that keeps a text from being markup. This keeps it from posing as another text: a character that
turns the direction of writing, hides or moves what stands beside it, or is no character at all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

MOST: Final = 300  # characters
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


# What steers the text around it: directions of writing, terminals, lines of its own. Line ends of forms are left.
_STEERING: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def unsteered(value: Any) -> Any:
    """What every value goes through that a template writes: whoever forgets `visible` shows no reordered text.

    What a template or a filter made markup of has been through it.
    """
    if type(value) is not str or value.isprintable():
        return value
    return _STEERING.sub(lambda found: _named(found[0]), value)


def visible(value: Any, most: int = MOST) -> str:
    """The text, bounded, with `⟨U+202E⟩` in the place of such a character."""
    text = str(value)
    shown = text if len(text) <= most else text[: most - 1] + "…"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(_named(c) if unicodedata.category(c) in _HIDDEN else _marked(c) for c in shown)


def _named(c: str) -> str:
    return f"⟨U+{ord(c):04X}⟩"


def _marked(c: str) -> str:
    """Marks that pile up on a letter stand on a circle of their own."""
    return "\N{DOTTED CIRCLE}" + c if unicodedata.category(c) in ("Mn", "Me") else c


def called(device: Mapping[str, Any]) -> str:
    """What people call a device: its serial number, or else its id."""
    return visible(device.get("serial_number") or device["id"], 64)
