"""What belongs to no page: files, the event stream, sign-out, and how the console looks to this browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from flask import Blueprint, Response, abort, request

from attestd_console import sessions, statics
from attestd_console.api import Refused, Unreachable
from attestd_console.console import Console, open_to_all
from attestd_console.returning import local

_FOLLOWS = "attestd-follows"  # the application's word to the front that a stream goes on there
_YEAR = 365 * 86400


def routes(console: Console) -> Blueprint:
    always = Blueprint("always", __name__)

    @always.get("/static/<version>/<name>")
    @open_to_all
    def static(version: str, name: str) -> Response:
        return statics.answer(version, name) or abort(404)

    @always.get("/favicon.ico")
    @open_to_all
    def icon() -> Response:
        return statics.answer("", "mark.svg") or abort(404)

    @always.get("/robots.txt")
    @open_to_all
    def robots() -> Response:
        return Response("User-agent: *\nDisallow: /\n", content_type="text/plain; charset=utf-8")

    @always.get("/events")
    def events() -> Response:
        """The service's event stream, as this session may hear it."""
        opened = console.api().stream("/v1/admin/events")
        answer = opened.__enter__()
        if console.service.mounted and (follows := answer.headers.get(_FOLLOWS)):
            content = answer.read()
            opened.__exit__(None, None, None)
            return Response(content, content_type="text/event-stream", headers={_FOLLOWS: follows})

        def carried() -> Iterator[bytes]:
            try:
                yield from answer.iter_raw()
            finally:
                opened.__exit__(None, None, None)

        return Response(carried(), content_type="text/event-stream")

    @always.post("/sign-out")
    def sign_out() -> Response:
        # Over already, or not to be reached: this browser forgets its half all the same, and the other ends by itself.
        with suppress(Refused, Unreachable):
            console.api().delete("/v1/admin/session")
        response = _to("/sign-in")
        sessions.drop(response, sessions.SESSION, sessions.PENDING, sessions.SAID)
        response.headers["Clear-Site-Data"] = '"cache"'
        return response

    @always.post("/theme")
    def theme() -> Response:
        return _preference("__Host-attestd-theme", request.form.get("theme", ""), ("light", "dark"))

    @always.post("/keys")
    def keys() -> Response:
        return _preference("__Host-attestd-keys", request.form.get("keys", ""), ("off",))

    return always


def _preference(cookie: str, value: str, values: tuple[str, ...]) -> Response:
    response = _to(local(request.form.get("next")))
    if value in values:
        response.set_cookie(cookie, value, max_age=_YEAR, path="/", secure=True, httponly=True, samesite="Lax")
    else:
        sessions.drop(response, cookie)
    return response


def _to(path: str) -> Response:
    return Response("", status=303, headers={"Location": path})
