"""The console's application: hooks in their order, then the pages, each by one line of the table."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from os import urandom
from typing import Final
from urllib.parse import urlencode

from flask import Flask, g, request

from attestd.errors import InputTooLarge
from attestd.protocol.encoding import b64encode
from attestd_console import figures, sessions, statics, words
from attestd_console.console import Console
from attestd_console.pages import always, failures
from attestd_console.security import secure
from attestd_console.sessions import FormNotOurs, Seed
from attestd_console.visible import unsteered

MAX_BODY: Final = 640 * 1024  # octets: a policy with its form around it
MAX_STRANGERS_BODY: Final = 64 * 1024
MAX_QUERY: Final = 4 * 1024  # of an address, the path with it


@dataclass(frozen=True, slots=True)
class Page:
    """`module` in `pages`; `label` in the navigation, under `part`; `path` is its first page, `key` its g-key."""

    module: str
    label: str = ""
    path: str = ""
    part: str = ""
    key: str = ""


# In the navigation's order, part by part.
PAGES: Final = (
    Page("overview", "Overview", "/", key="o"),
    Page("fleet", "Fleet", "/fleet", key="f"),
    Page("device"),
    Page("selecting"),
    Page("approvals", "Approvals", "/approvals", key="a"),
    Page("boundaries", "Boundaries", "/boundaries", key="b"),
    Page("policies", "Policies", "/policies", "Trust", key="p"),
    Page("reference", "Reference values", "/reference", "Trust"),
    Page("authority", "Authority", "/authority", "Trust"),
    Page("brake"),
    Page("audit", "Audit", "/audit", "Record", key="u"),
    Page("people", "People and sessions", "/people", "Record"),
    Page("signing_in"),
    Page("helping"),
)


class QueryTooLong(InputTooLarge):
    """This address is too long"""

    remedy = "Leave some of the filters out."


class _Application(Flask):
    """Without what pages don't use: OPTIONS, files of its own, addresses that are corrected by a redirect."""


def create_app(console: Console) -> Flask:
    """The application around one service."""
    app = _Application("attestd_console", static_folder=None, template_folder="templates")
    app.config.update(
        PROVIDE_AUTOMATIC_OPTIONS=False,
        MAX_CONTENT_LENGTH=MAX_BODY,
        MAX_FORM_MEMORY_SIZE=MAX_BODY,
        MAX_FORM_PARTS=2000,
    )
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True, "finalize": unsteered}

    def guard() -> None:
        """1. The address is of a sane length. 2. Who may look is signed in. 3. A change comes from a form of ours."""
        if len(request.full_path) > MAX_QUERY:
            raise QueryTooLong(seen=f"{len(request.full_path)} characters", expected=f"at most {MAX_QUERY}")
        if request.url_rule is None:
            return  # nothing is here: Flask says so next
        public = getattr(app.view_functions[request.endpoint or ""], "open_to_all", False)
        if public and (request.content_length or 0) > MAX_STRANGERS_BODY:
            raise InputTooLarge
        seed = None if public else console.seed()
        if request.method not in ("GET", "HEAD"):
            sessions.require_same_origin(request)
            if seed is not None:
                sessions.require_form_token(request, seed)

    app.before_request(guard)
    app.after_request(secure)
    _furnish(app, console)
    for page in PAGES:
        app.register_blueprint(import_module(f"attestd_console.pages.{page.module}").routes(console))
    app.register_blueprint(always.routes(console))
    failures.register(app, console)
    return app


def _navigation() -> list[tuple[str, list[Page]]]:
    """By part, in the table's order."""
    return [(part, list(pages)) for part, pages in groupby((p for p in PAGES if p.label), lambda p: p.part)]


def _furnish(app: Flask, console: Console) -> None:
    """What templates may call by name."""

    def form_token() -> str:
        seed: Seed | None = sessions.seed_of(request)
        if seed is None:
            raise FormNotOurs
        return seed.form_token

    def query(**changed: object) -> str:
        """This page's address with some of its filters changed; None takes one out."""
        kept: dict[str, list[str]] = request.args.to_dict(flat=False)
        for name, value in changed.items():
            kept.pop(name, None)
            if value is not None and value != "":
                kept[name] = [str(value)]
        text = urlencode([(name, value) for name, values in kept.items() for value in values])
        return f"{request.path}?{text}" if text else request.path

    def new_id() -> str:
        """An element's id, another one each time: as many as one page needs, and the same when it is rendered again."""
        g.ids = g.get("ids", 0) + 1
        return f"f{g.ids}"

    app.jinja_env.filters.update(
        count=figures.count,
        share=figures.share,
        short=figures.short,
        firmware=figures.firmware,
        span=figures.span,
        exact=figures.exact,
    )
    app.jinja_env.globals.update(
        asset=statics.address,
        look=words.look,
        figures=figures,
        now=lambda: console.now,
        form_token=form_token,
        once=lambda: b64encode(urandom(18)),
        new_id=new_id,
        changed_query=query,
        navigation=_navigation(),
        theme=lambda: _one_of("__Host-attestd-theme", ("light", "dark")),
        keys_off=lambda: request.cookies.get("__Host-attestd-keys") == "off",
    )


def _one_of(cookie: str, values: tuple[str, ...]) -> str:
    value = request.cookies.get(cookie, "")
    return value if value in values else ""
