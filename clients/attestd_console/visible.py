"""Texts that devices give, for people: what can't be seen is shown as what it is.

Templates escape; that keeps a text from being markup. This keeps it from posing as another text: a character that
turns the direction of writing, hides or moves what stands beside it, or is no character at all.
"""

from __future__ import annotations

import unicodedata
from typing import Any, Final

MOST: Final = 300  # characters
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(value: Any, most: int = MOST) -> str:
    """The text, bounded, with `⟨U+202E⟩` in the place of such a character."""
    text = str(value)
    shown = text if len(text) <= most else text[: most - 1] + "…"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in _HIDDEN else _marked(c) for c in shown)


def _marked(c: str) -> str:
    """Marks that pile up on a letter stand on a circle of their own."""
    return "\N{DOTTED CIRCLE}" + c if unicodedata.category(c) in ("Mn", "Me") else c
