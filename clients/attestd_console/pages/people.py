"""People and sessions: who may come in, by what, and who is in; inviting, disabling, and one's own passkeys.

A one-time link is shown once, on the page that answers the invitation: nothing keeps it. A new passkey takes two steps,
the touch with one that is there, and the making of the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, Response, abort, jsonify, request

from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.encoding import read_object
from attestd_console import acts
from attestd_console.acts import Act, Failed
from attestd_console.api import at
from attestd_console.console import Console

ROLES: Final = ("viewer", "operator", "admin")
_NAME: Final = 64  # characters
_REASON: Final = 500
_LABEL: Final = 60
_CREDENTIAL: Final = 32 * 1024  # octets
# In this order: Edge says that it is Chrome, and Chrome that it is Safari.
_BROWSERS: Final = (
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Chrome/", "Chrome"),
    ("CriOS/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS: Final = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Macintosh", "Mac"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)
_OPERATORS: Final = "/v1/admin/operators"


def routes(console: Console) -> Blueprint:
    page = Blueprint("people", __name__)

    def people(failed: Failed | None = None) -> Response:
        api, admin = console.api(), console.who().may("admin")
        listed = api.get(_OPERATORS)["operators"]
        invited = api.get("/v1/admin/invitations")["invitations"] if admin else []
        return console.page(
            "people.html",
            topics=("people",),
            failed=failed,
            people=sorted(listed, key=lambda each: (each["disabled_at"] is not None, each["name"])),
            invited=invited,
            roles=ROLES,
            asked=request.form if failed is not None else {},
        )

    @page.get("/people")
    def every() -> Response:
        return people()

    @page.post("/people")
    def invite() -> Response:
        """Invites, or withdraws an invitation."""
        if request.form.get("do") == "withdraw":
            path = at("v1", "admin", "invitations", request.form.get("id", "")[:_NAME], "withdraw")
            done = console.carry_out(Act("POST", path, {}, then="/people", said="The link opens nothing any more."))
            return people(done) if isinstance(done, Failed) else done
        message = {"name": _text("name", _NAME).lower(), "role": _text("role", 16)}
        made = acts.answered(request, console.api(), Act("POST", "/v1/admin/invitations", message))
        if isinstance(made, Failed):
            return people(made)
        return made if isinstance(made, Response) else console.page("invited.html", made=made)

    def person(name: str, failed: Failed | None = None) -> Response:
        who, api = console.who(), console.api()
        found = next((each for each in api.get(_OPERATORS)["operators"] if each["name"] == name), None)
        if found is None:
            abort(404)
        seen = who.name == name or who.may("admin")
        return console.page(
            "person.html",
            topics=("people",),
            failed=failed,
            person=found,
            mine=who.name == name,
            passkeys=api.get("/v1/admin/passkeys", operator=name)["passkeys"] if seen else [],
            sessions=[each for each in _sessions(console) if each["operator"] == name] if seen else [],
            seen=seen,
            browser=browser_name,
        )

    @page.get("/people/<name>")
    def one(name: str) -> Response:
        return person(name)

    @page.post("/people/<name>")
    def change(name: str) -> Response:
        """Disables, removes a passkey, ends a session; or one's own: a new passkey, in its two steps."""
        do, here = request.form.get("do", ""), f"/people/{name}"
        if do == "begin" and name == console.who().name:
            return _new_passkey(console, person, name)
        act = _act(do, name, here)
        if act is None:
            return person(name, _UNCLEAR)
        done = console.carry_out(act)
        return person(name, done) if isinstance(done, Failed) else done

    @page.post("/people/<name>/begun")
    def begun(name: str) -> Response:
        """What the service said when the passkey was begun, for the script: the page holds it."""
        del name
        said = _said("begun")
        if said is None:
            abort(400)
        return jsonify(challenge=said.get("challenge"), options=said.get("options"))

    def sessions(failed: Failed | None = None) -> Response:
        return console.page(
            "sessions.html", topics=("people",), failed=failed, sessions=_sessions(console), browser=browser_name
        )

    @page.get("/sessions")
    def live() -> Response:
        return sessions()

    @page.post("/sessions")
    def end() -> Response:
        done = console.carry_out(_ending(then="/sessions"))
        return sessions(done) if isinstance(done, Failed) else done

    return page


_UNCLEAR: Final = Failed(
    "form-unclear",
    "This form asks for nothing that is known",
    "It may be from another version of the console.",
    "Reload the page, and try again.",
    nothing_done=True,
    status=400,
)


def _sessions(console: Console) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = console.api().get("/v1/admin/sessions")["sessions"]
    return found


def _act(do: str, name: str, here: str) -> Act | None:
    """What the form on a person's page asks for."""
    reason = _text("reason", _REASON)
    said = {"reason": reason} if reason else {}
    if do == "disable":
        return Act("POST", at("v1", "admin", "operators", name, "disable"), said, here, f"{name} is out.")
    if do == "remove":
        path = at("v1", "admin", "passkeys", request.form.get("id", "")[:_NAME], "remove")
        return Act("POST", path, said, here, "The passkey is removed, and what it opened is closed.")
    if do == "end":
        return _ending(then=here)
    if do == "add":
        message = {
            "challenge": request.form.get("challenge", ""),
            "credential": _said("credential") or {},
            "label": _text("label", _LABEL),
        }
        return Act("POST", "/v1/admin/passkeys", message, here, "The passkey is yours. Try it at your next sign-in.")
    return None


def _ending(*, then: str) -> Act:
    path = at("v1", "admin", "sessions", request.form.get("id", "")[:_NAME], "revoke")
    return Act("POST", path, {}, then, "That session is over.")


def _new_passkey(console: Console, person: Any, name: str) -> Response:
    """The first step: the touch, and the page on which the other passkey is made."""
    begun = acts.answered(request, console.api(), Act("POST", "/v1/admin/passkeys/begin"))
    if isinstance(begun, Failed):
        failed: Response = person(name, begun)
        return failed
    if isinstance(begun, Response):
        return begun
    said = {"challenge": begun.get("challenge"), "options": begun.get("options")}
    return console.page("passkey.html", name=name, begun=json.dumps(said, separators=(",", ":")))


def browser_name(agent: str) -> str:
    """A browser as people call it, by what it says of itself: most say the names of others, too."""
    browser = next((name for mark, name in _BROWSERS if mark in agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in agent), "")
    if not browser:
        return agent[:_NAME] or "An unknown browser"
    return f"{browser} on {system}" if system else browser


def _text(name: str, limit: int) -> str:
    """One line that somebody wrote."""
    return "".join(c for c in request.form.get(name, "") if c.isprintable()).strip()[:limit]


def _said(name: str) -> dict[str, Any] | None:
    """JSON that a script or a page put into the form."""
    try:
        return read_object(request.form.get(name, "").encode(), limit=_CREDENTIAL, name=name)
    except (MalformedInput, InputTooLarge):
        return None
