"""People and sessions in the console: who is shown what, and each act with its touch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from attestd_console.pages.people import browser_name
from tests.authenticator import Authenticator, invite, touch_header
from tests.console import ORIGIN, ConsoleClient, Markup, accept, sign_in, signed_in, stranger, touch
from tests.service import World


@pytest.fixture
def passkey() -> Authenticator:
    return Authenticator()


@pytest.fixture
def root(world: World, app: Flask, passkey: Authenticator) -> ConsoleClient:
    return signed_in(world, "admin", "root", passkey=passkey, app=app)


def link_in(page: Any) -> str:
    copied = [str(tag.get("data-copy")) for tag in Markup(page.text).all("button")]
    return next(text for text in copied if "/first/" in text)


def names(world: World) -> dict[str, Any]:
    return {each["name"]: each for each in world.admin.get("/v1/admin/operators").get_json()["operators"]}


def test_people_with_their_ways_in(world: World, app: Flask, root: ConsoleClient) -> None:
    signed_in(world, "viewer", "eve", app=app)
    page = root.get("/people")
    assert page.status_code == 200
    words = " ".join(Markup(page.text).words.split())
    assert "3 people and programs may come in, 2 as admin" in words
    assert "1 passkey" in words
    assert "a key" in words
    assert 'aria-current="page"' in page.text


def test_inviting_shows_the_link_once(world: World, app: Flask, root: ConsoleClient, passkey: Authenticator) -> None:
    form = {"do": "invite", "name": "Bob", "role": "operator"}
    assert root.post("/people", form).status_code == 403  # without the touch
    page = touch(root, passkey, "/people", form)
    assert page.status_code == 200
    assert page.headers["Cache-Control"] == "no-store"
    link = link_in(page)
    assert link.startswith(f"{ORIGIN}/first/")
    again = root.get("/people")
    assert "bob" in again.text
    assert link not in again.text
    assert link.rpartition("/")[2] not in again.text
    bob = stranger(world, app=app)
    assert accept(bob, link.rpartition("/")[2], Authenticator()).status_code == 303
    assert bob.get("/sessions").status_code == 200


def test_what_was_confirmed_is_who_is_invited(world: World, root: ConsoleClient, passkey: Authenticator) -> None:
    form = {"do": "invite", "name": "bob", "role": "viewer"}
    begun = root.post("/people", form, headers={"Touch": "begin"}).get_json()
    proof = touch_header(begun["challenge"], passkey.get(begun["options"], ORIGIN))
    answer = root.post("/people", {**form, "role": "admin", "touch": proof})
    assert answer.status_code == 403
    assert "Nothing was done" in answer.text
    assert 'value="bob"' in answer.text  # what was filled in stays
    assert "bob" not in names(world)


def test_an_invitation_is_withdrawn(world: World, root: ConsoleClient) -> None:
    made = invite(world, "bob", "viewer")
    assert root.post("/people", {"do": "withdraw", "id": made["id"]}).status_code == 303
    assert "The link opens nothing any more." in root.get("/people").text
    assert root.post("/people", {"do": "withdraw", "id": made["id"]}).status_code == 404


def test_disabling_shows_what_will_happen_and_does_it(
    world: World, app: Flask, root: ConsoleClient, passkey: Authenticator
) -> None:
    eve = signed_in(world, "viewer", "eve", app=app)
    page = root.get("/people/eve")
    assert "1 live session ends at once" in " ".join(Markup(page.text).words.split())
    form = {"do": "disable", "reason": "left\nthe firm"}
    assert root.post("/people/eve", form).status_code == 403
    assert eve.get("/people").status_code == 200
    assert touch(root, passkey, "/people/eve", form).status_code == 303
    assert "eve is out." in root.get("/people/eve").text
    assert eve.get("/people").status_code == 303  # to the sign-in
    assert names(world)["eve"]["disabled_at"] is not None


def test_adding_a_passkey_and_removing_it(
    world: World, app: Flask, root: ConsoleClient, passkey: Authenticator
) -> None:
    here = "/people/root"
    assert root.post(here, {"do": "begin"}).status_code == 403
    page = touch(root, passkey, here, {"do": "begin"})
    assert page.status_code == 200
    held = next(str(tag["value"]) for tag in Markup(page.text).all("input") if tag.get("name") == "begun")
    begun = root.post(f"{here}/begun", {"begun": held}).get_json()
    phone = Authenticator()
    made = phone.create(begun["options"], ORIGIN)
    form = {"do": "add", "challenge": begun["challenge"], "credential": json.dumps(made), "label": "<b>phone"}
    assert root.post(here, form).status_code == 303
    shown = root.get(here)
    assert "&lt;b&gt;phone" in shown.text
    assert "<b>phone" not in shown.text
    assert root.post(here, form).status_code == 403  # once; and nobody is signed out by it
    other = stranger(world, app=app)
    assert sign_in(other, phone).status_code == 303
    listed = world.admin.get("/v1/admin/passkeys?operator=root").get_json()["passkeys"]
    (of_phone,) = (each["id"] for each in listed if "phone" in each["label"])
    assert touch(root, passkey, here, {"do": "remove", "id": of_phone}).status_code == 303
    assert other.get("/people").status_code == 303  # what it opened is closed
    assert root.get("/people").status_code == 200


@pytest.mark.parametrize("said", ["", "[]", "{", "x" * 40_000])
def test_what_no_page_held(root: ConsoleClient, said: str) -> None:
    assert root.post("/people/root/begun", {"begun": said}).status_code == 400
    assert root.post("/people/root", {"do": "add", "challenge": "", "credential": said}).status_code == 400
    assert root.post("/people/root", {"do": "promote"}).status_code == 400


def test_sessions_are_listed_and_ended(world: World, app: Flask, root: ConsoleClient) -> None:
    eve = signed_in(world, "viewer", "eve", app=app)
    assert "2 browsers are signed in" in " ".join(Markup(root.get("/sessions").text).words.split())
    mine = eve.get("/sessions")
    assert "1 browser is signed in" in " ".join(Markup(mine.text).words.split())
    assert "root" not in mine.text
    (of_eve,) = (str(tag["value"]) for tag in Markup(mine.text).all("input") if tag.get("name") == "id")
    assert root.post("/sessions", {"id": of_eve}).status_code == 303
    assert "That session is over." in root.get("/sessions").text
    assert eve.get("/sessions").status_code == 303
    assert root.post("/sessions", {"id": of_eve}).status_code == 404


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_who_is_no_admin_sees_people_and_their_own(world: World, app: Flask, role: str) -> None:
    key = Authenticator()
    eve = signed_in(world, role, "eve", passkey=key, app=app)
    signed_in(world, "admin", "root", app=app)
    page = eve.get("/people")
    assert "Make the link" not in page.text
    assert "Disable" not in eve.get("/people/root").text
    assert "Add a passkey" not in eve.get("/people/root").text
    assert "Add a passkey" in eve.get("/people/eve").text
    refused = touch(eve, key, "/people", {"do": "invite", "name": "mallory", "role": "admin"})
    assert refused.status_code == 403
    assert touch(eve, key, "/people/root", {"do": "disable"}).status_code == 403
    assert set(names(world)) == {"admin-1", "eve", "root"}


def test_nobody_by_that_name(root: ConsoleClient) -> None:
    assert root.get("/people/mallory").status_code == 404


def test_a_form_of_another_site_invites_nobody(world: World, root: ConsoleClient) -> None:
    form = {"do": "invite", "name": "mallory", "role": "admin"}
    for lies in ({"csrf": None}, {"csrf": "x"}):
        assert root.post("/people", form, **lies).status_code == 403
    assert root.post("/people", form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert world.admin.get("/v1/admin/invitations").get_json()["invitations"] == []


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36 Edg/141.0",
            "Edge on Windows",
        ),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/141.0 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1", "Safari on iPhone"),
        ("curl/8", "curl/8"),
        ("", "An unknown browser"),
    ],
)
def test_a_browser_as_people_call_it(agent: str, name: str) -> None:
    assert browser_name(agent) == name
