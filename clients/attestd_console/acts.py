"""What an operator does: one act, confirmed by a touch where the service asks for one, and never done twice.

A page builds an `Act` from its form and gives it to `Console.carry_out`. The form carries `once`, made when it was
rendered, so that a second press does nothing. A form that needs a touch is first sent by the page's script with the
header `Touch: begin`: the same act is built from the same form, and instead of being done it is shown to the service,
which answers with a challenge for the authenticator. What was confirmed is what is done, to the octet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from flask import Request, Response, jsonify, redirect

from attestd.protocol.encoding import b64encode
from attestd_console import sessions
from attestd_console.api import Api, Refused, Unreachable, document, written
from attestd_console.returning import local
from attestd_console.sessions import Seed

TOUCH: Final = "Attestd-Touch"
ONCE: Final = "Idempotency-Key"
_MOST: Final = 16 * 1024  # characters of a touch


@dataclass(frozen=True, slots=True)
class Act:
    """One change: what is sent, where to go then, and the sentence that is shown there."""

    method: str  # POST, PUT or DELETE
    path: str  # of the admin API, with its query
    message: Mapping[str, Any] = field(default_factory=dict)
    then: str = "/"
    said: str = "Done."
    body: bytes | None = None  # instead of a message: what is no JSON
    content_type: str = "application/json"

    @property
    def octets(self) -> bytes:
        if self.body is not None:
            return self.body
        return b"" if self.method == "DELETE" else written(self.message)


@dataclass(frozen=True, slots=True)
class Failed:
    """An act that was not done: what failed, whether anything changed, what to do."""

    name: str
    heading: str
    detail: str
    remedy: str
    nothing_done: bool
    status: int

    @classmethod
    def of(cls, error: Refused | Unreachable) -> Failed:
        if isinstance(error, Unreachable):
            # It may have been carried out before the line broke. The form's `once` makes pressing again safe.
            remedy = "Send it again: nothing is done twice."
            return cls(error.slug(), "No answer came", error.detail, remedy, nothing_done=False, status=502)
        detail = error.detail
        if error.seen is not None and error.expected is not None:
            detail = f"{detail} It is {error.seen}; expected was {error.expected}."
        elif error.seen is not None:
            detail = f"{detail} Seen: {error.seen}."
        if error.name == "done-already":
            return cls(error.name, "Done already", detail, error.what_to_do, nothing_done=False, status=error.status)
        # A refusal is one before the act; only the service's own failure leaves it open.
        return cls(error.name, error.heading, detail, error.what_to_do, error.status < 500, error.status)


def carry_out(request: Request, api: Api, seed: Seed, act: Act) -> Response | Failed:
    """Does it, or begins the touch that it needs. A session that is over raises Refused, as for any page."""
    done = answered(request, api, act)
    return leave(seed, act.then, act.said) if isinstance(done, dict) else done


def leave(seed: Seed, then: str, said: str) -> Response:
    """After an act: to the page where this sentence is shown."""
    response = redirect(local(then), code=303)
    assert isinstance(response, Response)  # noqa: S101 - Flask's own kind, which Werkzeug's annotation does not know
    sessions.say(response, seed, said)
    return response


def answered(request: Request, api: Api, act: Act) -> dict[str, Any] | Response | Failed:
    """The same, for an act whose answer is shown: once, since the service says it once. A `Response` is the touch's."""
    if request.headers.get("Touch") == "begin":
        return _begin_touch(api, act)
    headers = {}
    if once := request.form.get("once"):
        headers[ONCE] = once[:64]
    if touch := request.form.get("touch"):
        headers[TOUCH] = touch[:_MOST]
    try:
        answer = api.call(act.method, act.path, act.octets, content_type=act.content_type, headers=headers)
        return document(answer)
    except (Refused, Unreachable) as error:
        if isinstance(error, Refused) and error.status == 401:
            raise
        return Failed.of(error)


def _begin_touch(api: Api, act: Act) -> Response:
    digest = b64encode(sha256(act.octets).digest())
    try:
        begun = api.post("/v1/admin/touch/begin", {"method": act.method, "path": act.path, "body_sha256": digest})
    except (Refused, Unreachable) as error:
        if isinstance(error, Refused) and error.status == 401:
            raise
        failed = Failed.of(error)
        answer = jsonify(heading=failed.heading, detail=failed.detail, remedy=failed.remedy)
        answer.status_code = failed.status
        return answer
    return jsonify(options=begun["options"], challenge=begun["challenge"])
