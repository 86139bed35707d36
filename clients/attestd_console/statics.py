"""Style sheet, scripts and icon: read once, under an address that names their content.

An address holds the digest of all of them, so that browsers keep them for good and never mix two versions; scripts
that load each other do so beside themselves. The style sheets are parts of one file, in this order. Who can take them
compressed gets them so: they hold nothing secret, as pages do, whose length must not tell of it.
"""

from __future__ import annotations

import gzip
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

from flask import Response, request

from attestd.protocol.encoding import b64encode

STYLES: Final = (
    "tokens",
    "base",
    "shell",
    "controls",
    "tables",
    "charts",
    "parts",
    "device",
    "boundaries",
    "audit",
    "narrow",
)
SHEET: Final = "console.css"
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@cache
def _all() -> dict[str, bytes]:
    folder = files("attestd_console") / "static"
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    served = {name: content for name, content in found.items() if not name.endswith(".css")}
    served[SHEET] = b"\n".join(found[f"{part}.css"] for part in STYLES if f"{part}.css" in found)
    return served


@cache
def _packed() -> dict[str, bytes]:
    return {name: gzip.compress(content, 9, mtime=0) for name, content in _all().items()}


@cache
def version() -> str:
    digest = sha256()
    for name, content in sorted(_all().items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return b64encode(digest.digest()[:9])


def address(name: str) -> str:
    return f"/static/{version()}/{name}"


def answer(asked: str, name: str) -> Response | None:
    """A file; None if there is no such one. A page of another version gets it, too, but keeps nothing."""
    content = _all().get(name)
    kind = _TYPES.get(name.rpartition(".")[2])
    if content is None or kind is None:
        return None
    packed = request.accept_encodings["gzip"] > 0
    response = Response(_packed()[name] if packed else content, content_type=f"{kind}; charset=utf-8")
    response.headers["Vary"] = "Accept-Encoding"
    if packed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if asked == version() else "no-store"
    return response
