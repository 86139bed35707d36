"""What a page says when it can't be shown: what failed, whether anything changed, what to do."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, jsonify, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from attestd.errors import AttestdError, Forbidden, InputTooLarge, MalformedInput, NotFound
from attestd_console import sessions
from attestd_console.api import Refused, Unreachable
from attestd_console.console import PROVEN, Console, SignedOut
from attestd_console.returning import local

_log = logging.getLogger("attestd_console")


@dataclass(frozen=True, slots=True)
class _Said:
    status: int
    heading: str
    detail: str
    remedy: str
    nothing_done: bool = True


def register(app: Flask, console: Console) -> None:
    def handle(error: Exception) -> Response:
        if isinstance(error, SignedOut):
            return _to_sign_in("")
        if isinstance(error, Refused) and error.status == 401:
            return _to_sign_in(error.name)
        said = _of(error)
        if said.status >= 500 and not isinstance(error, Unreachable):
            _log.error("a page failed", exc_info=error, extra={"members": {"path": request.path[:200]}})
        if request.headers.get("Touch") == "begin" or request.accept_mimetypes.best == "application/json":
            answer = jsonify(heading=said.heading, detail=said.detail, remedy=said.remedy)
            answer.status_code = said.status
            return answer
        return make_response(render_template("failure.html", said=said, **_shell(console)), said.status)

    app.register_error_handler(Exception, handle)


def _shell(console: Console) -> dict[str, Any]:
    """Who looks, if that can be known now: a failure has no failure of its own."""
    try:
        return {"who": console.who(), "counts": console.counts()}
    except AttestdError:
        return {"who": None}


def _to_sign_in(name: str) -> Response:
    """A session that is over: the browser forgets it, and comes back to this page after signing in."""
    request.environ[PROVEN] = False
    if request.headers.get("Touch") == "begin" or request.path == "/events":
        answer = jsonify(heading="You were signed out", detail="The session is over.", remedy="Sign in again.")
        answer.status_code = 401
        return answer
    wanted = request.full_path.rstrip("?") if request.method in ("GET", "HEAD") else "/"
    query = {"next": local(wanted)} | ({"why": name} if name else {})
    if query["next"] == "/":
        del query["next"]
    where = "/sign-in" + (f"?{urlencode(query)}" if query else "")
    response = Response("", status=303, headers={"Location": where})
    if name:
        sessions.drop(response, sessions.SESSION)
    return response


def _of(error: Exception) -> _Said:
    if isinstance(error, Unreachable):
        return _Said(503, "The service does not answer", error.detail, error.what_to_do)
    if isinstance(error, Refused):
        return _refused(error)
    if isinstance(error, Forbidden):
        return _Said(403, error.title(), error.detail, error.what_to_do)
    if isinstance(error, InputTooLarge):
        return _Said(413, error.title(), error.detail, error.what_to_do)
    if isinstance(error, MalformedInput):
        return _Said(400, error.title(), error.detail, error.what_to_do)
    if isinstance(error, NotFound):
        return _Said(404, error.title(), error.detail, error.what_to_do)
    if isinstance(error, HTTPException):
        return _http(error.code or 500)
    return _Said(
        500,
        "This page failed",
        "The console met something that it does not know.",
        "Its log says what. Whether anything was changed, the audit trail says.",
        nothing_done=False,
    )


def _refused(error: Refused) -> _Said:
    if error.name == "role-too-low":
        needed = f" It takes the role {error.expected}." if error.expected else ""
        return _Said(
            403, "Your role does not allow this", f"You are {error.seen or 'signed in'}.{needed}", error.what_to_do
        )
    if error.status == 404:
        return _Said(404, "There is no such thing", error.detail, error.what_to_do)
    return _Said(error.status, error.heading, error.detail, error.what_to_do, error.status < 500)


def _http(code: int) -> _Said:
    if code == 404:
        return _Said(404, "There is no such page", "Nothing is at this address.", "Go on from the overview.")
    if code == 405:
        return _Said(405, "This address does not take that", "It answers other methods.", "Go on from the overview.")
    if code == 413:
        return _Said(413, "That is too much at once", "The form is larger than a page takes.", "Send less.")
    if code < 500:
        return _Said(
            code, "That could not be read", "The request is not one of a page here.", "Go on from the overview."
        )
    return _Said(
        500,
        "This page failed",
        "The console met something that it does not know.",
        "Its log says what.",
        nothing_done=False,
    )
