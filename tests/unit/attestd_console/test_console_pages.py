"""What holds for every page: who gets in, what browsers are told, and that nothing comes back as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit
from wsgiref.types import StartResponse, WSGIApplication

import pytest
from flask import Flask

from attestd_console import security
from attestd_console.app import PAGES
from attestd_console.returning import local
from attestd_console.sessions import SESSION, Seed
from tests.console import ORIGIN, ConsoleClient, Markup, console_app, console_client, stranger
from tests.service import World

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{99991*99989}}"
EVENT_HANDLER = re.compile(r"^on[a-z]+$")
OPEN = {"/sign-in", "/favicon.ico", "/robots.txt"}


def addresses(app: Flask, method: str = "GET") -> list[str]:
    """Every address of the console, with something in its variable parts."""
    rules = [rule for rule in app.url_map.iter_rules() if method in (rule.methods or ())]
    return sorted(re.sub(r"<[^>]+>", "x", rule.rule) for rule in rules)


def templates() -> Iterable[tuple[str, str]]:
    folder = files("attestd_console") / "templates"
    return [(entry.name, entry.read_text()) for entry in folder.iterdir() if entry.name.endswith(".html")]


# ---- What browsers are told ----------------------------------------------------------------------------------------


def test_the_policy_allows_files_of_ours_and_nothing_else() -> None:
    said = dict(part.strip().split(" ", 1) for part in security.POLICY.split(";"))
    assert said["default-src"] == said["base-uri"] == said["frame-ancestors"] == "'none'"
    assert said["script-src"] == said["style-src"] == said["connect-src"] == said["form-action"] == "'self'"
    assert said["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in security.POLICY
    assert "http" not in security.POLICY


def test_every_answer_has_the_headers(admin: ConsoleClient, nobody: ConsoleClient, app: Flask) -> None:
    for client in (admin, nobody):
        for path in [*addresses(app), "/nothing", "/fleet/../../x", "/v9"]:
            answer = client.get(path)
            assert answer.headers["Content-Security-Policy"] == security.POLICY, path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cache-Control"] == "no-store", path
            assert "Server" not in answer.headers


def test_files_are_kept_for_good_under_the_address_that_names_them(nobody: ConsoleClient) -> None:
    page = Markup(nobody.get("/sign-in").text)
    linked = [str(tag["href"]) for tag in page.all("link")] + [str(tag["src"]) for tag in page.all("script")]
    assert len(linked) == 3
    for path in linked:
        answer = nobody.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        old = nobody.get(re.sub("/static/[^/]+/", "/static/old/", path))
        assert (old.status_code, old.headers["Cache-Control"]) == (200, "no-store")


@pytest.mark.parametrize(
    "name", ["nothing.css", "tokens.css", "..%2fapp.py", "../app.py", "__init__.py", "console.css%00"]
)
def test_there_are_no_other_files(name: str, nobody: ConsoleClient) -> None:
    assert nobody.get(f"/static/x/{name}").status_code == 404


# ---- Templates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text"), templates(), ids=[name for name, _ in templates()])
def test_no_template_holds_a_script_a_style_or_a_handler(name: str, text: str) -> None:
    plain = re.sub(r"\{\{ asset\(.*?\}\}", "FILE", re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL))
    found = Markup(re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", plain, flags=re.DOTALL))
    for tag, attributes in found.tags:
        assert tag not in ("style", "iframe", "object", "embed", "base"), name
        assert not any(EVENT_HANDLER.match(attribute) for attribute in attributes), (name, tag)
        assert "style" not in attributes, (name, tag)
        for attribute in ("href", "src", "action"):
            value = attributes.get(attribute) or ""
            assert not value.lower().startswith(("http", "//", "javascript:", "data:")), (name, value)
    for script in found.all("script"):
        assert script.get("src") == "FILE", name
    assert "| safe" not in text and "|safe" not in text and "autoescape" not in text, name


def test_no_script_makes_markup_or_code_from_text() -> None:
    folder = files("attestd_console") / "static"
    for entry in folder.iterdir():
        if entry.name.endswith(".js"):
            text = entry.read_text()
            for forbidden in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                "http:",
                "https:",
            ):
                assert forbidden not in text.replace(_SVG, ""), (entry.name, forbidden)


_SVG = '"http://www.w3.org/2000/svg"'  # a name; nothing is fetched from there


# ---- Who gets in ---------------------------------------------------------------------------------------------------


def test_nobody_sees_a_page_without_signing_in(nobody: ConsoleClient, app: Flask) -> None:
    for path in addresses(app):
        answer = nobody.get(path)
        if path in OPEN or path.startswith(("/static/", "/first/", "/sign-in/")):
            assert answer.headers.get("Location") != "/sign-in", path
        elif path == "/events":
            assert answer.status_code == 401
        else:
            assert answer.status_code == 303, path
            assert answer.headers["Location"].startswith("/sign-in"), path


def test_nobody_changes_anything_without_signing_in(nobody: ConsoleClient, app: Flask) -> None:
    for path in addresses(app, "POST"):
        if not path.startswith(("/sign-in/", "/first/")):
            answer = nobody.post(path)
            assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in"), path


def test_no_form_is_taken_from_elsewhere(admin: ConsoleClient, nobody: ConsoleClient, app: Flask) -> None:
    for client in (admin, nobody):
        for path in addresses(app, "POST"):
            if client is nobody and not path.startswith(("/sign-in/", "/first/")):
                continue
            answer = client.post(path, headers={"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"})
            assert answer.status_code == 403, path
            assert "Set-Cookie" not in answer.headers


def test_every_form_of_a_session_needs_its_token(admin: ConsoleClient, app: Flask) -> None:
    for path in addresses(app, "POST"):
        if not path.startswith(("/sign-in/", "/first/")):
            assert admin.post(path, csrf="wrong").status_code == 403, path


@pytest.mark.parametrize("value", ["", "x", "A" * 42, "A" * 44, "A" * 3900, "ü", "A" * 42 + "!", "AAAA; x=y"])
def test_a_cookie_of_the_wrong_form_is_nobody(value: str, nobody: ConsoleClient) -> None:
    nobody.set_cookie(SESSION, value)
    assert nobody.get("/help").headers["Location"] == "/sign-in?next=%2Fhelp"


def test_a_planted_seed_is_nobody_and_is_forgotten(nobody: ConsoleClient) -> None:
    nobody.set_cookie(SESSION, Seed.fresh().text)
    answer = nobody.get("/help")
    assert answer.headers["Location"] == "/sign-in?next=%2Fhelp&why=caller-unknown"
    assert nobody.cookie(SESSION) is None
    assert "You were signed out" in nobody.get(answer.headers["Location"]).text


def test_other_methods_are_told_so(admin: ConsoleClient) -> None:
    assert admin.http.open("/help", method="OPTIONS", base_url=ORIGIN).status_code == 405
    assert admin.http.open("/help", method="DELETE", base_url=ORIGIN).status_code == 405
    head = admin.http.head("/help", base_url=ORIGIN)
    assert (head.status_code, head.data) == (200, b"")


# ---- Nothing comes back as markup ----------------------------------------------------------------------------------


def harmless(text: str) -> None:
    """Nothing of EVIL is markup in this page."""
    page = Markup(text)
    assert all(str(script.get("src", "")).startswith("/static/") for script in page.all("script"))
    assert not page.all("img")
    assert not any(EVENT_HANDLER.match(name) for _, attributes in page.tags for name in attributes)
    assert "9998000099" not in page.words or "{{99991*99989}}" in page.words


def test_no_query_and_no_path_comes_back_as_markup(admin: ConsoleClient, nobody: ConsoleClient, app: Flask) -> None:
    names = {"q", "next", "why", "state", "tier", "site", "after", "error", "code", "group", "token", "who", "act"}
    query = "&".join(f"{name}={quote(EVIL)}" for name in sorted(names))
    for client in (admin, nobody):
        for path in [*addresses(app), "/nothing"]:
            if path.startswith("/static"):
                continue
            answer = client.get(f"{path}?{query}", follow_redirects=True)
            harmless(answer.text)
        for path in (f"/{quote(EVIL)}", f"/first/{quote(EVIL)}", f"/fleet/{quote(EVIL)}", f"/static/x/{quote(EVIL)}"):
            harmless(client.get(path, follow_redirects=True).text)


def test_a_query_has_a_size_at_most(admin: ConsoleClient) -> None:
    assert admin.get("/help?q=" + "a" * 4000).status_code == 200
    answer = admin.get("/help?q=" + "a" * 5000)
    assert answer.status_code == 413
    assert "too long" in answer.text


def test_a_strangers_form_has_a_size_at_most(nobody: ConsoleClient, admin: ConsoleClient) -> None:
    assert nobody.post("/sign-in/passkey", {"credential": "a" * 70_000}).status_code == 413
    assert admin.post("/theme", {"theme": "dark", "x": "a" * 70_000}).status_code == 303
    assert admin.post("/theme", {"theme": "dark", "x": "a" * 700_000}).status_code == 413


# ---- Where to go then ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/fleet", "/fleet/abc?x=1&y=%20", "/audit/12/proof", "/-x", "/@a", "/sign-in"])
def test_a_path_of_the_console_is_gone_to(path: str) -> None:
    assert local(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "///evil.example",
        "https://evil.example",
        "https:evil.example",
        "http:/evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "\t//evil.example",
        "/\n/evil.example",
        " //evil.example",
        "/%0d%0aSet-Cookie:x\r\n",
        "/a\r\nSet-Cookie: a=b",
        "evil.example",
        "",
        None,
        "/" + "a" * 600,
        "/\u2044/evil.example",
        "/a#b",
        "/<script>",
    ],
)
def test_nowhere_else_is_gone_to(path: str | None) -> None:
    assert local(path) == "/"


@pytest.mark.parametrize(
    "wanted", ["//evil.example", "/%5Cevil.example", "https://evil.example", "/%09/evil.example", "%2F%2Fevil.example"]
)
def test_no_redirect_leaves_the_console(wanted: str, admin: ConsoleClient, nobody: ConsoleClient) -> None:
    answer = admin.post("/theme", {"theme": "dark", "next": wanted})
    where = urlsplit(answer.headers["Location"])
    assert (where.scheme, where.netloc) == ("", "")
    assert not answer.headers["Location"].startswith(("//", "/\\"))
    page = Markup(nobody.get(f"/sign-in?next={wanted}").text)
    kept = [tag["value"] for tag in page.all("input") if tag.get("name") == "next"]
    assert kept
    assert all(
        (value is not None and local(value) == value and "evil" not in value) or value == "/%5Cevil.example"
        for value in kept
    )


# ---- When the service is away --------------------------------------------------------------------------------------


def going_away(inner: WSGIApplication, gone: dict[str, bool]) -> WSGIApplication:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if gone.get(environ["PATH_INFO"]) or gone.get("*"):
            raise ConnectionError
        return inner(environ, start_response)

    return application


def test_a_service_that_is_away_shows_as_that(world: World) -> None:
    gone: dict[str, bool] = {}
    app = console_app(world, going_away(world.app.wsgi_app, gone))
    client = console_client(world, app=app)
    assert client.get("/").status_code == 200
    gone["*"] = True
    for path in ("/", "/help", "/sign-in"):
        answer = (stranger(world, app=app) if path == "/sign-in" else client).get(path)
        assert answer.status_code == 503, path
        assert "The service does not answer" in answer.text
    assert client.cookie(SESSION) is not None  # it may come back
    gone.clear()
    assert client.get("/").status_code == 200


def test_navigation_names_every_page_once(admin: ConsoleClient) -> None:
    page = Markup(admin.get("/help").text)
    linked = [tag["href"] for tag in page.all("a") if tag.get("data-go") or tag.get("href") == "/people"]
    assert len(linked) == len(set(linked))
    assert len({page.path for page in PAGES if page.path}) == len([page for page in PAGES if page.path])


@pytest.mark.parametrize("path", ["/approvals", "/reference", "/authority", "/people", "/fleet", "/audit"])
def test_every_field_has_a_name_of_its_own_and_its_hint_is_no_part_of_it(
    path: str, world: World, admin: ConsoleClient
) -> None:
    """A screen reader says a field's name first, and each time; a hint describes it."""
    world.device().enroll()
    fields = Fields(admin.get(path).text)
    assert not fields.hints_in_labels
    shown = {name: fields.described.get(name) for name in fields.labelled}
    assert len(fields.ids) == len(set(fields.ids))
    assert all(name in fields.ids for name in shown)
    assert sorted(hint for hint in shown.values() if hint) == sorted(fields.hints)


class Fields(HTMLParser):
    """Labels by what they are for, hints by their ids, and what each element says that it is described by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.labelled: list[str] = []
        self.described: dict[str, str] = {}
        self.ids: list[str] = []
        self.hints: list[str] = []
        self.hints_in_labels = 0
        self._in_label = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if "id" in said:
            self.ids.append(said["id"])
            if "aria-describedby" in said:
                self.described[said["id"]] = said["aria-describedby"]
        if said.get("class") == "hint":
            self.hints.append(said.get("id", "no id"))
            self.hints_in_labels += self._in_label
        if tag == "label":
            self._in_label = True
            if "for" in said:
                self.labelled.append(said["for"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self._in_label = False
