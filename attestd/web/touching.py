"""The fresh touch at the door: `access` asks for it where the table says so; a view does where it depends on more."""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote

from flask import Request, request

from attestd.operations.touch import HEADER, Asked, Confirmation, TouchMissing
from attestd.web.context import Exchange, Service

METHODS: Final = ("POST", "PUT", "DELETE")


def path_of(asked: Request) -> str:
    """The path with its query, as the caller signed it."""
    query = asked.query_string.decode("latin-1")
    return f"{quote(asked.path)}?{query}" if query else quote(asked.path)


def require_touch(service: Service, current: Exchange) -> None:
    """A session's call was confirmed with a passkey. Who signs with a key of their own needs none.

    Raises TouchMissing, TouchWrong.
    """
    caller = current.caller
    if not caller.session:
        return
    header = request.headers.get(HEADER, "")
    if not header:
        raise TouchMissing
    asked = Asked(
        operator=caller.name,
        session=caller.session,
        method=request.method,
        path=path_of(request),
        body_sha256=hashlib.sha256(current.body).digest(),
    )
    service.touch.require(Confirmation.parse(header), asked, current.act())
