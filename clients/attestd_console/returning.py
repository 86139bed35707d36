"""Where to go afterwards: only ever a path of this console.

Browsers read more as another host's address than one would think: `//evil`, `/\\evil`, tabs and line breaks in between.
So a path is taken only if it is spelled plainly; everything else becomes the first page.
"""

from __future__ import annotations

import re
from typing import Final

MAX: Final = 512
# One slash, then what a path and a query of this console are made of; no second slash, no backslash, no control.
_PLAIN: Final = re.compile(
    r"/(?:[A-Za-z0-9_.~%@:+,;=!*'()$-][A-Za-z0-9_.~%@:+,;=!*'()$&/-]*)?(?:\?[A-Za-z0-9_.~%@:+,;=!*'()$&/?-]*)?"
)


def local(wanted: str | None, otherwise: str = "/") -> str:
    """`wanted` if it is a path of this console, else the first page."""
    if wanted is None or len(wanted) > MAX or not _PLAIN.fullmatch(wanted):
        return otherwise
    return wanted
