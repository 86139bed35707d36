"""Sessions: what ends them, who sees them, and that they may do what their operator may do now."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.config import ConsoleSettings
from attestd.registry import audit, operators, sessions
from attestd.registry.operators import Role
from attestd.web.access import DOORS, UNATTENDED, Who
from tests.authenticator import Authenticator, Browser, Person, invite
from tests.service import World, problem

SESSION, SESSIONS = "/v1/admin/session", "/v1/admin/sessions"
OVERVIEW = "/v1/admin/overview"


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, problem(answer)


@pytest.fixture
def ada(world: World) -> Person:
    return Person(world, "ada", "operator")


# ---- The end ----------------------------------------------------------------------------------------------------


def test_a_session_that_nobody_uses_ends(world: World, ada: Person) -> None:
    for _ in range(3):
        world.clock.advance(minutes=29)
        assert ada.get(OVERVIEW).status_code == 200
    world.clock.advance(minutes=30)
    assert refused(ada.get(OVERVIEW)) == (401, "session-over")


def test_a_session_ends_after_a_day_s_work(world: World, ada: Person) -> None:
    for _ in range(23):
        world.clock.advance(minutes=20)
        assert ada.get(OVERVIEW).status_code == 200
    world.clock.advance(minutes=20)
    assert refused(ada.get(OVERVIEW)) == (401, "session-over")
    assert refused(ada.post("/v1/admin/brake/engage", {"v": 1})) == (401, "session-over")


def test_the_settings_say_when(world: World) -> None:
    from datetime import timedelta

    world.configure(console=ConsoleSettings(session_lifetime=timedelta(hours=1), idle_timeout=timedelta(minutes=5)))
    ada = Person(world, "ada", "viewer")
    now = int(world.clock().timestamp())
    assert (ada.session["ends_at"], ada.session["idle_until"]) == (now + 3600, now + 300)
    world.clock.advance(minutes=5)
    assert refused(ada.get(OVERVIEW)) == (401, "session-over")


def test_when_it_was_seen_is_noted_once_a_minute(world: World, ada: Person) -> None:
    def seen() -> int:
        with world.registry.reading() as c:
            return sessions.by_id(c, ada.session["id"]).seen_at

    began = seen()
    world.clock.advance(seconds=59)
    ada.get(OVERVIEW)
    assert seen() == began
    world.clock.advance(seconds=1)
    ada.get(OVERVIEW)
    assert seen() == began + 60


def test_a_look_that_nobody_asked_for_is_no_use_of_a_session(world: World, ada: Person) -> None:
    """A page that is left open refreshes itself. It lets the session become idle, and is told so."""
    world.clock.advance(minutes=20)
    assert ada.get(OVERVIEW, headers={UNATTENDED: "1"}).status_code == 200
    world.clock.advance(minutes=10)
    assert refused(ada.get(OVERVIEW, headers={UNATTENDED: "1"})) == (401, "session-over")
    assert refused(ada.get(OVERVIEW)) == (401, "session-over")


@pytest.mark.parametrize("said", ["1", "0", "", "no", "1, 1"])
def test_whatever_that_header_says_it_never_makes_a_session_longer(world: World, ada: Person, said: str) -> None:
    """Its twin, the same looks without it, lives on."""
    other = ada.another_browser()
    for _ in range(2):
        world.clock.advance(minutes=20)
        ada.get(OVERVIEW, headers={UNATTENDED: said})
        assert other.get(OVERVIEW).status_code == 200
    assert refused(ada.get(OVERVIEW)) == (401, "session-over")


def test_a_person_s_look_counts_beside_those_of_the_page(world: World, ada: Person) -> None:
    for _ in range(3):
        world.clock.advance(minutes=20)
        assert ada.get(OVERVIEW, headers={UNATTENDED: "1"}).status_code == 200
        assert ada.get(OVERVIEW).status_code == 200


def test_signing_out(world: World, ada: Person) -> None:
    other = ada.another_browser()
    assert ada.delete(SESSION).get_json()["id"] == ada.session["id"]
    assert refused(ada.get(SESSION)) == (401, "session-over")
    assert other.get(SESSION).status_code == 200
    with world.registry.reading() as c:
        newest = audit.page(c, subject="ada")[0]
    assert (newest.act, newest.actor, newest.detail["session"]) == ("sign-out", "operator:ada", ada.session["id"])


def test_who_signs_with_a_key_of_their_own_has_no_session(world: World) -> None:
    shown = world.operator.get(SESSION).get_json()
    assert (shown["session"], shown["operator"]["name"], shown["passkeys"]) == (None, "operator-1", 0)
    assert refused(world.operator.delete(SESSION)) == (409, "no-session")
    act = {"v": 1, "method": "POST", "path": "/v1/admin/brake/engage", "body_sha256": "A" * 43}
    assert refused(world.operator.post("/v1/admin/touch/begin", act)) == (409, "no-session")


def test_disabling_ends_all_sessions_at_once(world: World, ada: Person) -> None:
    other = ada.another_browser()
    assert world.admin.post("/v1/admin/operators/ada/disable", {"v": 1}).status_code == 200
    for browser in (ada, other):
        assert refused(browser.get(OVERVIEW)) == (401, "session-over")
    assert world.admin.get(SESSIONS).get_json()["sessions"] == []


def test_a_disabled_operator_s_session_is_over_whatever_it_says(world: World, ada: Person) -> None:
    """Also if it began at the very moment."""
    with world.registry.acting() as c:
        operators.disable(c, "ada", now=1)
    assert refused(ada.get(OVERVIEW)) == (401, "session-over")


def test_twenty_sessions_and_the_one_that_slept_for_longest_makes_room(world: World, ada: Person) -> None:
    browsers: list[Browser] = [ada]
    for _ in range(19):
        world.clock.advance(seconds=61)
        browsers.append(ada.another_browser())
    assert ada.get(OVERVIEW).status_code == 200  # seen last now; the second one slept for longest
    browsers.append(ada.another_browser())
    assert refused(browsers[1].get(OVERVIEW)) == (401, "session-over")
    assert [each.get(OVERVIEW).status_code for each in browsers[2:] + browsers[:1]] == [200] * 20
    assert len(ada.get(SESSIONS).get_json()["sessions"]) == 20


# ---- Whose ------------------------------------------------------------------------------------------------------


def test_who_sees_which_sessions(world: World, ada: Person) -> None:
    eve, root = Person(world, "eve", "viewer"), Person(world, "root", "admin")
    assert [(each["operator"], each["current"]) for each in eve.get(SESSIONS).get_json()["sessions"]] == [("eve", True)]
    seen = root.get(SESSIONS).get_json()["sessions"]
    assert {each["operator"] for each in seen} == {"ada", "eve", "root"}
    assert [each["operator"] for each in seen if each["current"]] == ["root"]
    assert world.operator.get(SESSIONS).get_json()["sessions"] == []


def test_ending_a_session(world: World, ada: Person) -> None:
    eve, root = Person(world, "eve", "viewer"), Person(world, "root", "admin")
    other = ada.another_browser()
    of_other = other.get(SESSION).get_json()["session"]["id"]
    end = f"{SESSIONS}/{ada.session['id']}/revoke"
    assert refused(eve.post(end, {"v": 1})) == (403, "not-yours")
    assert ada.get(SESSION).status_code == 200
    assert ada.post(f"{SESSIONS}/{of_other}/revoke", {"v": 1, "reason": "lost phone"}).status_code == 200
    assert refused(other.get(SESSION)) == (401, "session-over")
    assert root.post(end, {"v": 1}).status_code == 200
    assert refused(ada.get(SESSION)) == (401, "session-over")
    assert refused(root.post(end, {"v": 1})) == (404, "unknown-session")
    assert refused(root.post(f"{SESSIONS}/none/revoke", {"v": 1})) == (404, "unknown-session")
    with world.registry.reading() as c:
        rows = [row for row in audit.page(c, subject="ada") if row.act == "end-session"]
    assert [(row.actor, row.detail["ended"]) for row in rows] == [
        ("operator:root", ada.session["id"]),
        ("operator:ada", of_other),
    ]
    assert rows[1].detail["reason"] == "lost phone"


def test_each_row_says_which_session(world: World, ada: Person) -> None:
    device = world.enrolled()
    assert ada.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "odd"}).status_code == 200
    with world.registry.reading() as c:
        newest = audit.page(c, subject=device.id)[0]
    assert (newest.actor, newest.act) == ("operator:ada", "quarantine")
    assert newest.detail["session"] == ada.session["id"]


def test_what_is_kept_of_a_session_opens_none(world: World, ada: Person) -> None:
    """Who knows all that the registry has signs nothing in its name."""
    thief = Browser(world)
    assert refused(thief.get(SESSION, kid=ada.key.thumbprint)) == (401, "signature-wrong")


# ---- Roles ------------------------------------------------------------------------------------------------------


def test_a_role_counts_as_it_is_now(world: World, ada: Person) -> None:
    device = world.enrolled()
    quarantine = f"/v1/admin/devices/{device.id}/quarantine"
    with world.registry.acting() as c:
        operators.set_role(c, "ada", Role.VIEWER)
    assert refused(ada.post(quarantine, {"v": 1})) == (403, "role-too-low")
    assert ada.get(SESSION).get_json()["session"]["role"] == "viewer"
    with world.registry.acting() as c:
        operators.set_role(c, "ada", Role.OPERATOR)
    assert ada.post(quarantine, {"v": 1}).status_code == 200


_RANK = {"viewer": 1, "operator": 2, "admin": 3}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One service and a session of each role."""
    world = World(tmp_path_factory.mktemp("people") / "instance")
    yield {role: Person(world, f"{role}-here", role) for role in _RANK}
    world.close()


@pytest.mark.parametrize("route", sorted(name for name, door in DOORS.items() if door.who.value in (*_RANK, "proxy")))
def test_no_session_reaches_further_than_its_role(people: dict[str, Person], route: str) -> None:
    """Every signed route, called directly by a session of each role: an admin's act takes an admin."""
    door = DOORS[route]
    method, _, path = route.partition(" ")
    for name, value in (("<id>", "none"), ("<serial>", "1234"), ("<name>", "none"), ("<number>", "1")):
        path = path.replace(name, value)
    path = path.replace("<sha256>", "00" * 32)
    body, kind = (b"{}", sorted(door.accepts)[0]) if door.accepts else (b"", None)
    if route == "DELETE /v1/admin/session":
        return  # it would be the last call
    for role, person in people.items():
        answer = person.open(method, path, body, content_type=kind)
        if door.who is Who.PROXY or _RANK[role] < _RANK[door.who.value]:
            assert refused(answer) == (403, "role-too-low"), role
        elif door.touch or route == "POST /v1/admin/passkeys/begin":
            assert refused(answer) == (403, "touch-missing"), role
        else:
            assert answer.status_code not in (401, 403), (role, answer.text)


# ---- People -----------------------------------------------------------------------------------------------------


def test_operators_are_shown_with_their_ways_in(world: World, ada: Person) -> None:
    world.caller("admin")
    shown = {each["name"]: each for each in world.admin.get("/v1/admin/operators").get_json()["operators"]}
    assert (shown["ada"]["key"], shown["ada"]["passkeys"], shown["ada"]["identities"]) == (False, 1, [])
    assert shown["ada"]["seen_at"] == int(world.clock().timestamp())
    assert (shown["admin-1"]["key"], shown["admin-1"]["passkeys"], shown["admin-1"]["seen_at"]) == (True, 0, None)


def test_a_person_gets_a_key_for_the_command_line_too(world: World, ada: Person) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from attestd.credentials.requests import SoftwareKey
    from tests.service import Caller

    key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    message = {"v": 1, "name": "ada", "public_key": pem}
    assert refused(world.admin.post("/v1/admin/operators", {**message, "role": "admin"})) == (409, "operator-taken")
    assert world.admin.post("/v1/admin/operators", {**message, "role": "operator"}).status_code == 201
    assert Caller(world, key).get(SESSION).get_json()["operator"] == {"name": "ada", "role": "operator"}
    assert ada.get(SESSION).status_code == 200
    assert ada.another_browser().get(SESSION).get_json()["passkeys"] == 1


def test_the_last_admin_may_be_a_person(world: World) -> None:
    root = Person(world, "root", "admin")
    world.admin.post("/v1/admin/operators/admin-1/disable", {"v": 1})
    disable = "/v1/admin/operators/root/disable"
    assert refused(root.confirmed("POST", disable, {"v": 1})) == (409, "last-admin")


# ---- Passkeys ---------------------------------------------------------------------------------------------------


def add(person: Person, browser: Browser, passkey: Authenticator) -> Any:
    """Another passkey, after confirming with the one there is."""
    person.world.clock.advance(seconds=1)  # they are listed by their age
    body = b'{"v":1}'
    headers = browser.touch(person.passkey, "POST", "/v1/admin/passkeys/begin", body)
    answer = browser.post("/v1/admin/passkeys/begin", body, headers=headers)
    assert answer.status_code == 200, answer.text
    begun = answer.get_json()
    made = passkey.create(begun["options"], browser.origin)
    message = {"v": 1, "challenge": begun["challenge"], "credential": made, "label": "\x1b phone\n"}
    return browser.post("/v1/admin/passkeys", message), message, begun


def test_a_second_passkey(world: World, ada: Person) -> None:
    phone = Authenticator()
    answer, message, begun = add(ada, ada, phone)
    assert answer.status_code == 201
    assert answer.get_json()["passkey"]["label"] == "phone"
    assert [each["type"] for each in begun["options"]["excludeCredentials"]] == ["public-key"]
    assert refused(ada.post("/v1/admin/passkeys", message)) == (403, "passkey-not-added")
    assert Browser(world).sign_in(phone).status_code == 201
    shown = ada.get("/v1/admin/passkeys").get_json()["passkeys"]
    assert [(each["label"], each["operator"]) for each in shown] == [("laptop", "ada"), ("phone", "ada")]


def test_a_passkey_is_added_by_the_session_that_began(world: World, ada: Person) -> None:
    eve, other = Person(world, "eve", "viewer"), ada.another_browser()
    _, message, _ = add(ada, ada, Authenticator())
    fresh = Authenticator()
    body = b'{"v":1}'
    headers = ada.touch(ada.passkey, "POST", "/v1/admin/passkeys/begin", body)
    begun = ada.post("/v1/admin/passkeys/begin", body, headers=headers).get_json()
    made = fresh.create(begun["options"], ada.origin)
    message = {"v": 1, "challenge": begun["challenge"], "credential": made}
    assert refused(eve.post("/v1/admin/passkeys", message)) == (403, "passkey-not-added")
    assert refused(other.post("/v1/admin/passkeys", message)) == (403, "passkey-not-added")
    assert ada.post("/v1/admin/passkeys", message).status_code == 201


def test_adding_takes_a_touch_from_who_has_a_passkey(world: World, ada: Person) -> None:
    """A stolen cookie becomes no passkey."""
    assert refused(ada.post("/v1/admin/passkeys/begin", {"v": 1})) == (403, "touch-missing")


def test_removing_passkeys(world: World, ada: Person) -> None:
    eve, root = Person(world, "eve", "viewer"), Person(world, "root", "admin")
    phone = Authenticator()
    assert add(ada, ada, phone)[0].status_code == 201
    first, second = (each["id"] for each in ada.get("/v1/admin/passkeys").get_json()["passkeys"])
    remove = f"/v1/admin/passkeys/{second}/remove"
    assert refused(ada.post(remove, {"v": 1})) == (403, "touch-missing")
    assert refused(eve.confirmed("POST", remove, {"v": 1})) == (403, "not-yours")
    assert refused(eve.get("/v1/admin/passkeys?operator=ada")) == (403, "not-yours")
    assert ada.confirmed("POST", remove, {"v": 1}).status_code == 200
    assert refused(Browser(world).sign_in(phone)) == (401, "passkey-unknown")
    assert refused(ada.confirmed("POST", f"/v1/admin/passkeys/{first}/remove", {"v": 1})) == (409, "last-way-in")
    assert len(root.get("/v1/admin/passkeys?operator=ada").get_json()["passkeys"]) == 1
    assert root.confirmed("POST", f"/v1/admin/passkeys/{first}/remove", {"v": 1}).status_code == 200
    assert refused(root.confirmed("POST", f"/v1/admin/passkeys/{first}/remove", {"v": 1})) == (404, "unknown-passkey")


def test_the_sessions_of_a_passkey_end_with_it(world: World, ada: Person) -> None:
    """A phone was stolen; what it opened is closed, the rest stays."""
    phone = Authenticator()
    assert add(ada, ada, phone)[0].status_code == 201
    stolen = Browser(world)
    assert stolen.sign_in(phone).status_code == 201
    second = ada.get("/v1/admin/passkeys").get_json()["passkeys"][1]["id"]
    assert ada.confirmed("POST", f"/v1/admin/passkeys/{second}/remove", {"v": 1}).status_code == 200
    assert refused(stolen.get(OVERVIEW)) == (401, "session-over")
    assert ada.get(OVERVIEW).status_code == 200


def test_nobody_has_passkeys_without_end(world: World, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestd.registry.passkeys.MAX_PASSKEYS", 2)
    assert add(ada, ada, Authenticator())[0].status_code == 201
    assert refused(add(ada, ada, Authenticator())[0]) == (409, "too-many-passkeys")


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_admins_alone_invite(world: World, role: str) -> None:
    eve = Person(world, "eve", role)
    message = {"v": 1, "name": "mallory", "role": "admin"}
    assert refused(eve.post("/v1/admin/invitations", message)) == (403, "role-too-low")
    assert refused(eve.get("/v1/admin/invitations")) == (403, "role-too-low")
    link = invite(world, "bob", "viewer")
    assert refused(eve.post(f"/v1/admin/invitations/{link['id']}/withdraw", {"v": 1})) == (403, "role-too-low")


@pytest.mark.parametrize(("name", "problem_name"), [("Ada", "malformed-name"), ("a/b", "malformed-name")])
def test_an_invitation_for_what_is_no_name(world: World, name: str, problem_name: str) -> None:
    answer = world.admin.post("/v1/admin/invitations", {"v": 1, "name": name, "role": "viewer"})
    assert refused(answer) == (400, problem_name)
