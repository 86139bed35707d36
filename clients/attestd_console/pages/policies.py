"""Policies: what is in force, its versions, and a draft that is checked and tried before anything crosses by it.

The service keeps versions, and no drafts: a draft lives in the page that it is written in. What is put in force is the
text that was tried, over the version that its author began at; if there is another one by then, nothing is lost and
nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flask import Blueprint, Response, jsonify, redirect, request

from attestd.errors import MalformedInput, NotFound
from attestd_console.acts import Act, Failed
from attestd_console.api import Api, Refused, at
from attestd_console.console import Console
from attestd_console.pages.boundaries import WINDOWS
from attestd_console.policy_text import Difference, difference, lines_of, plain

SET: Final = "fleet"  # the one set of policies that there is
MAX_TEXT: Final = 256 * 1024  # characters; the service says so, too
_VERSIONS: Final = 30
_ROWS: Final = (16, 44)  # of the editor
_WINDOW: Final = "24h"


class NoSuchPolicies(NotFound):
    """There is no such set of policies"""

    remedy = "The fleet has one; it is under Policies."


class FormUnclear(MalformedInput):
    """This form can't be read"""

    remedy = "Go back to the page and send it again."


@dataclass(slots=True)
class _Draft:
    """What is being written, and what is known of it."""

    text: str
    base: int  # the version that its author began at
    now: dict[str, Any]  # the version in force
    window: str = _WINDOW
    checked: dict[str, Any] | None = None
    tried: dict[str, Any] | None = None
    refused: Failed | None = None  # the trial
    began: dict[str, Any] = field(default_factory=dict)  # the version that its author began at, if it is another one

    @property
    def overtaken(self) -> bool:
        return bool(self.base != self.now["version"])


def routes(console: Console) -> Blueprint:
    page = Blueprint("policies", __name__)

    @page.get("/policies")
    def first() -> Any:
        return redirect(f"/policies/{SET}", code=303)

    @page.get("/policies/<name>")
    def in_force(name: str) -> Response:
        api = _of(console, name)
        found = api.get("/v1/admin/policy")
        checked = _check(api, found["text"])
        return console.page(
            "policy.html",
            topics=("policy",),
            found=found,
            checked=checked,
            lines=lines_of(found["text"], checked["flaws"], checked["warnings"]),
            versions=api.get("/v1/admin/policy/versions", limit=5)["versions"],
        )

    @page.get("/policies/<name>/versions")
    def versions(name: str) -> Response:
        api = _of(console, name)
        before = _number(request.args.get("after"))
        found = api.get("/v1/admin/policy/versions", before=before, limit=_VERSIONS)
        newest = api.get("/v1/admin/policy")
        return console.page(
            "policy_versions.html", topics=("policy",), found=found, newest=newest["version"], first=before is None
        )

    @page.get("/policies/<name>/versions/<number>")
    def version(name: str, number: str) -> Response:
        return _version(console, _of(console, name), number)

    @page.post("/policies/<name>/versions/<number>")
    def back(name: str, number: str) -> Response:
        """The dry run of a rollback, or the rollback itself."""
        api = _of(console, name)
        form = request.form
        if form.get("do") != "back":
            return _version(console, api, number, try_it=True)
        to = _required(_number(number))
        act = Act(
            "POST",
            "/v1/admin/policy/rollback",
            _with_reason({"to": to, "expected_version": _required(_number(form.get("version")))}),
            then=f"/policies/{SET}",
            said=f"The text of version {to} is in force again. Edges have it within a second or two.",
        )
        done = console.carry_out(act)
        return done if isinstance(done, Response) else _version(console, api, number, failed=done)

    @page.get("/policies/<name>/draft")
    def draft(name: str) -> Response:
        api = _of(console, name)
        now = api.get("/v1/admin/policy")
        text = now["text"]
        if (old := _number(request.args.get("from"))) is not None:
            text = api.get(at("v1", "admin", "policy", "versions", old))["text"]
        return _draft(console, api, _Draft(text, now["version"], now))

    @page.post("/policies/<name>/draft")
    def work(name: str) -> Response:
        """Checks, tries, or puts in force."""
        api = _of(console, name)
        form = request.form
        text = plain(form.get("text", ""))
        do = form.get("do", "check")
        if request.accept_mimetypes.best == "application/json" and request.headers.get("Touch") != "begin":
            return jsonify(_check(api, text))
        base = _required(_number(form.get("version")))
        found = _Draft(text, base, api.get("/v1/admin/policy"), _window(form.get("window")))
        if do == "put":
            act = Act(
                "PUT",
                "/v1/admin/policy",
                _with_reason({"text": text, "expected_version": base}),
                then=f"/policies/{SET}",
                said=f"Version {base + 1} is in force. Edges have it within a second or two.",
            )
            done = console.carry_out(act)
            if isinstance(done, Response):
                return done
            found.now = api.get("/v1/admin/policy")
            found.checked = _check(api, text)
            return _draft(console, api, found, failed=done)
        if do == "seen":
            found.base = found.now["version"]
        found.checked = _check(api, text)
        if do == "try" and found.checked["valid"]:
            found.tried, found.refused = _try(api, {"text": text}, found.window)
        return _draft(console, api, found)

    return page


def _of(console: Console, name: str) -> Api:
    if name != SET:
        raise NoSuchPolicies(seen=repr(name[:64]))
    return console.api()


def _draft(console: Console, api: Api, found: _Draft, *, failed: Failed | None = None) -> Response:
    if found.overtaken:
        found.began = api.get(at("v1", "admin", "policy", "versions", found.base))
    checked = found.checked or _check(api, found.text)
    changes = difference(found.now["text"], found.text)
    return console.page(
        "policy_draft.html",
        topics=("policy",),
        failed=failed,
        draft=found,
        checked=checked,
        marked=[line for line in lines_of(found.text, checked["flaws"], checked["warnings"]) if line.said],
        changes=changes,
        meanwhile=_meanwhile(found),
        rows=min(max(found.text.count("\n") + 3, _ROWS[0]), _ROWS[1]),
        windows=WINDOWS,
        schema=console.public().call("GET", "/v1/policy/schema").text,
        lines_of=lines_of,
    )


def _meanwhile(found: _Draft) -> Difference | None:
    """What somebody else changed since the author began."""
    return difference(found.began["text"], found.now["text"]) if found.overtaken else None


def _version(
    console: Console, api: Api, number: str, *, try_it: bool = False, failed: Failed | None = None
) -> Response:
    found = api.get(at("v1", "admin", "policy", "versions", _required(_number(number))))
    now = api.get("/v1/admin/policy")
    window = _window(request.form.get("window"))
    tried, refused = _try(api, {"version": found["version"]}, window) if try_it else (None, None)
    return console.page(
        "policy_version.html",
        topics=("policy",),
        failed=failed,
        found=found,
        now_in_force=now,
        changes=difference(now["text"], found["text"]),
        lines=lines_of(found["text"]),
        tried=tried,
        refused=refused,
        window=window,
        windows=WINDOWS,
    )


def _check(api: Api, text: str) -> dict[str, Any]:
    """What the service says of it; what is too large, or can't be sent at all, is a fault, too."""
    if len(text) > MAX_TEXT:
        return _faulty(f"This is too long: {len(text)} characters of at most {MAX_TEXT}.")
    if "\0" in text:
        return _faulty("This holds a NUL character, which no policy may.")
    try:
        return api.post("/v1/admin/policy/check", {"text": text})
    except Refused as error:
        if error.status in (401, 403):
            raise
        return _faulty(f"Not checked: {error.detail} {error.what_to_do}")


def _faulty(message: str) -> dict[str, Any]:
    return {
        "valid": False,
        "policies": [],
        "flaws": [{"line": 1, "column": 1, "message": message}],
        "warnings": [],
    }


def _try(api: Api, what: Mapping[str, Any], window: str) -> tuple[dict[str, Any] | None, Failed | None]:
    try:
        return api.post("/v1/admin/policy/dry-run", {**what, "window": WINDOWS[window][0]}), None
    except Refused as error:
        if error.status in (401, 403):
            raise
        return None, Failed.of(error)


def _with_reason(message: dict[str, Any]) -> dict[str, Any]:
    reason = request.form.get("reason", "").strip()
    return message | ({"reason": reason[:500]} if reason else {})


def _window(text: str | None) -> str:
    return text if text in WINDOWS else _WINDOW


def _number(text: str | None) -> int | None:
    """A version's number; None without one. Raises FormUnclear."""
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise FormUnclear("This is no version's number.", seen=repr(text[:40]))
    return int(text)


def _required(number: int | None) -> int:
    if number is None:
        raise FormUnclear("It does not say which version was seen.")
    return number
