"""Sign-in: with a passkey, with an identity provider, or for the first time by a one-time link.

Each ceremony begins with a fresh seed in a cookie of its own, and the challenge that the service seals binds that
seed's key. Only the service's yes makes the seed the session's. Passkeys need the browser's script; its two steps are
a fetch that begins and a form that ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from flask import Blueprint, Response, jsonify, request

from attestd.errors import MalformedInput
from attestd.protocol.encoding import read_object
from attestd_console import sessions, words
from attestd_console.api import Refused, Unreachable
from attestd_console.console import Console, open_to_all
from attestd_console.returning import local
from attestd_console.sessions import Seed

_CREDENTIAL: Final = 32 * 1024  # octets
_TOKEN: Final = 200  # characters
_LABEL: Final = 80


def routes(console: Console) -> Blueprint:
    page = Blueprint("signing_in", __name__)

    def show(failed: tuple[str, str] | None = None, status: int = 200) -> Response:
        """The page for somebody who is not signed in."""
        told = _told(request.args.get("why", ""))
        offered = console.public().get("/v1/admin/sign-in")
        wanted = local(request.values.get("next"))
        return console.gate(
            "sign_in.html",
            status=status,
            offered=offered,
            wanted=wanted,
            failed=failed or told,
            host=request.host,
            elsewhere=_elsewhere(offered),
        )

    @page.get("/sign-in")
    @open_to_all
    def sign_in() -> Response:
        return show()

    @page.post("/sign-in/passkey/begin")
    @open_to_all
    def begin() -> Response:
        seed = Seed.fresh()
        return _begun(console, "/v1/admin/sign-in/passkey/begin", {}, seed, request.form.get("next"))

    @page.post("/sign-in/passkey")
    @open_to_all
    def finish() -> Response:
        message = {"challenge": request.form.get("challenge", "")}
        return _finished(console, "/v1/admin/sign-in/passkey", message, show)

    @page.post("/sign-in/provider")
    @open_to_all
    def provider() -> Response:
        """To an identity provider. A page of ours leads there: a form may not be answered by another origin's."""
        seed = Seed.fresh()
        message = {
            "key": seed.public,
            "provider": request.form.get("provider", "")[:_TOKEN],
            "redirect_uri": f"https://{request.host}/sign-in/return",
        }
        if token := request.form.get("token", "")[:_TOKEN]:
            message["token"] = token
        try:
            begun = console.public().post("/v1/admin/sign-in/oidc/begin", message)
        except Refused as error:
            return show(_said(error), error.status)
        url = str(begun.get("url", ""))
        if urlsplit(url).scheme not in ("https", "http"):
            raise Unreachable("The service named an address that no browser goes to.")
        response = console.gate("leaving.html", url=url, host=urlsplit(url).netloc)
        sessions.begin(response, seed, request.form.get("next") or "/")
        return response

    @page.get("/sign-in/return")
    @open_to_all
    def come_back() -> Response:
        """From an identity provider, with its code or its refusal."""
        if request.args.get("error"):
            return show(("The identity provider did not sign you in.", "Try again, or use a passkey."), 403)
        message = {"state": request.args.get("state", "")[:2048], "code": request.args.get("code", "")[:2048]}
        if issuer := request.args.get("iss", "")[:1024]:  # RFC 9207
            message["iss"] = issuer
        return _finished(console, "/v1/admin/sign-in/oidc", message, show, credential=False)

    @page.get("/first/<token>")
    @open_to_all
    def first(token: str) -> Response:
        return _first(console, token)

    @page.post("/first/<token>/begin")
    @open_to_all
    def first_begin(token: str) -> Response:
        seed = Seed.fresh()
        return _begun(console, "/v1/admin/sign-in/invitation/begin", {"token": token[:_TOKEN]}, seed, "/")

    @page.post("/first/<token>")
    @open_to_all
    def first_finish(token: str) -> Response:
        message = {
            "token": token[:_TOKEN],
            "challenge": request.form.get("challenge", ""),
            "label": request.form.get("label", "").strip()[:_LABEL] or "First passkey",
        }

        def again(failed: tuple[str, str] | None, status: int) -> Response:
            return _first(console, token, failed, status)

        return _finished(console, "/v1/admin/sign-in/invitation", message, again)

    return page


def _first(console: Console, token: str, failed: tuple[str, str] | None = None, status: int = 200) -> Response:
    """Who the link is for. Asking spends nothing."""
    try:
        invited = console.public().post(
            "/v1/admin/sign-in/invitation/begin", {"key": Seed.fresh().public, "token": token[:_TOKEN]}
        )
    except Refused as error:
        return console.gate("first.html", invited=None, failed=failed or _said(error), status=error.status)
    offered = console.public().get("/v1/admin/sign-in")
    return console.gate(
        "first.html",
        invited=invited,
        offered=offered,
        token=token,
        path=f"/first/{quote(token, safe='')}",
        failed=failed,
        status=status,
    )


def _begun(console: Console, path: str, message: Mapping[str, Any], seed: Seed, wanted: str | None) -> Response:
    """What the browser's authenticator is asked, and the seed that the answer will belong to."""
    try:
        begun = console.public().post(path, {**message, "key": seed.public})
    except Refused as error:
        heading, detail = _said(error)
        answer = jsonify(heading=heading, detail=detail)
        answer.status_code = error.status
        return answer
    response = jsonify(challenge=begun["challenge"], options=begun["options"])
    sessions.begin(response, seed, wanted or "/")
    return response


def _finished(
    console: Console, path: str, message: Mapping[str, Any], again: Any, *, credential: bool = True
) -> Response:
    """The service's yes makes a session of the seed that waited; its no says what to try."""
    pending = sessions.pending_of(request)
    if pending is None:
        response: Response = again(words.SIGN_IN["ceremony-over"], 400)
        return response
    seed, wanted = pending
    told: dict[str, Any] = {**message, "key": seed.public, "browser": console.browser()}
    if credential:
        try:
            told["credential"] = read_object(
                request.form.get("credential", "").encode(), limit=_CREDENTIAL, name="credential"
            )
        except MalformedInput:
            refused: Response = again(words.SIGN_IN["cancelled"], 400)
            return refused
    try:
        console.api(seed).post(path, told)
    except Refused as error:
        failed: Response = again(_said(error), error.status)
        sessions.drop(failed, sessions.PENDING)
        return failed
    response = Response("", status=303, headers={"Location": local(wanted)})
    sessions.promote(response, seed)
    return response


def _elsewhere(offered: Mapping[str, Any]) -> str:
    """The origin that passkeys belong to, if this is another one."""
    origins = [str(origin) for origin in offered.get("origins") or () if str(origin).startswith("https://")]
    here = f"https://{request.host}"
    return "" if not origins or here in origins else origins[0]


def _told(why: str) -> tuple[str, str] | None:
    """Why somebody came to this page; names that are not in the table say nothing."""
    return words.SIGN_IN.get(why)


def _said(error: Refused) -> tuple[str, str]:
    found = words.SIGN_IN.get(error.name)
    return found or (f"{error.heading}.", error.what_to_do)
