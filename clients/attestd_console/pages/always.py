"""What belongs to no page: files, the event stream, sign-out, and how the console looks to this browser."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from threading import BoundedSemaphore

from flask import Blueprint, Response, abort, request

from attestd_console import sessions, statics
from attestd_console.api import Refused, Unreachable
from attestd_console.console import Console, open_to_all
from attestd_console.returning import local

_FOLLOWS = "attestd-follows"  # the application's word to the front that a stream goes on there
_STREAM = "text/event-stream"
_YEAR = 365 * 86400
LISTENERS = 32  # at once, where each holds a thread: half of those that there are


def routes(console: Console) -> Blueprint:
    always = Blueprint("always", __name__)
    listeners = BoundedSemaphore(LISTENERS)

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
        """The service's event stream, as this session may hear it.

        Inside the service its front goes on with the answer, and no thread waits. Apart, each listener holds one: so
        there are only so many, and who comes then tries again later.
        """
        since = request.args.get("since", "")
        query = {"since": since if since.isascii() and since.isdecimal() and len(since) <= 18 else None}
        opened = console.api().stream("/v1/admin/events", query)
        if console.service.mounted:
            with opened as answer:
                told = {_FOLLOWS: answer.headers[_FOLLOWS]} if _FOLLOWS in answer.headers else {}
                return Response(answer.read(), content_type=_STREAM, headers=told)
        if not listeners.acquire(blocking=False):
            return Response(status=503, headers={"Retry-After": "30"})
        with ExitStack() as held:
            held.callback(listeners.release)
            answer = held.enter_context(opened)  # a refusal is answered as one, before anything is sent
            response = Response(answer.iter_raw(), content_type=_STREAM, headers={"X-Accel-Buffering": "no"})
            response.call_on_close(held.pop_all().close)
            return response

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
