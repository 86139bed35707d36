"""The fresh touch: what was confirmed is what is done, once, in this session, now."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.protocol.encoding import b64encode, write_object
from attestd.registry import audit, brake
from tests.authenticator import Authenticator, Person, touch_header
from tests.service import World, problem

ENGAGE, RELEASE = "/v1/admin/brake/engage", "/v1/admin/brake/release"
BODY = write_object({"v": 1, "reason": "drill"})
OTHER = write_object({"v": 1, "reason": "for good"})


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, problem(answer)


@pytest.fixture
def ada(world: World) -> Person:
    return Person(world, "ada", "operator")


def engaged(world: World) -> bool:
    with world.registry.reading() as c:
        return brake.state(c).engaged


def send(person: Any, headers: dict[str, str], body: bytes = BODY, path: str = ENGAGE) -> Any:
    return person.post(path, body, headers=headers)


def test_an_act_that_was_confirmed(world: World, ada: Person) -> None:
    assert refused(ada.post(ENGAGE, BODY)) == (403, "touch-missing")
    assert not engaged(world)
    assert send(ada, ada.touch(ada.passkey, "POST", ENGAGE, BODY)).status_code == 200
    assert engaged(world)
    with world.registry.reading() as c:
        row = next(row for row in audit.page(c) if row.act == "engage-brake")
    assert (row.actor, row.detail["session"]) == ("operator:ada", ada.session["id"])


def test_a_key_of_one_s_own_needs_none(world: World) -> None:
    assert world.operator.post(ENGAGE, BODY).status_code == 200


def test_a_touch_is_for_one_body(world: World, ada: Person) -> None:
    assert refused(send(ada, ada.touch(ada.passkey, "POST", ENGAGE, BODY), OTHER)) == (403, "touch-wrong")
    assert not engaged(world)


def test_a_touch_is_for_one_path(world: World, ada: Person) -> None:
    headers = ada.touch(ada.passkey, "POST", RELEASE, BODY)
    assert refused(send(ada, headers)) == (403, "touch-wrong")


def test_a_touch_is_for_one_query(world: World) -> None:
    root = Person(world, "root", "admin")
    path = "/v1/admin/references?overlap=1"
    headers = root.touch(root.passkey, "POST", path, b"{}")
    answer = root.post("/v1/admin/references?overlap=2", b"{}", headers=headers)
    assert refused(answer) == (403, "touch-wrong")
    headers = root.touch(root.passkey, "POST", path, b"{}")
    assert problem(root.post(path, b"{}", headers=headers)) != "touch-wrong"


def test_a_touch_is_for_one_method(world: World) -> None:
    root = Person(world, "root", "admin")
    path = f"/v1/admin/trust/{'00' * 32}"
    assert refused(root.delete(path, headers=root.touch(root.passkey, "POST", path))) == (403, "touch-wrong")
    answer = root.delete(path, headers=root.touch(root.passkey, "DELETE", path))
    assert answer.status_code == 404


def test_a_touch_is_for_one_session(world: World, ada: Person) -> None:
    other = ada.another_browser()
    headers = ada.touch(ada.passkey, "POST", ENGAGE, BODY)
    assert refused(send(other, headers)) == (403, "touch-wrong")
    assert send(ada, headers).status_code == 200


def test_a_touch_serves_once(world: World, ada: Person) -> None:
    headers = ada.touch(ada.passkey, "POST", ENGAGE, BODY, count=0)
    assert send(ada, headers).status_code == 200
    assert world.operator.post(RELEASE, {"v": 1, "held": "dismiss"}).status_code == 200
    assert refused(send(ada, headers)) == (403, "touch-wrong")
    assert not engaged(world)


def test_a_touch_is_used_up_by_an_act_that_is_refused(world: World, ada: Person) -> None:
    body = write_object({"v": 1})
    path = "/v1/admin/devices/none/retire"
    headers = ada.touch(ada.passkey, "POST", path, body, count=0)
    assert refused(ada.post(path, body, headers=headers)) == (404, "unknown-device")
    assert refused(ada.post(path, body, headers=headers)) == (403, "touch-wrong")


def test_a_touch_lasts_two_minutes(world: World, ada: Person) -> None:
    headers = ada.touch(ada.passkey, "POST", ENGAGE, BODY)
    world.clock.advance(minutes=2)
    assert refused(send(ada, headers)) == (403, "touch-wrong")


LIES: dict[str, dict[str, Any]] = {
    "another origin": {"origin": "https://evil.test"},
    "another relying party": {"rp_id": "evil.test"},
    "user not verified": {"flags": 0x01},
    "a frame": {"cross_origin": True},
    "another challenge": {"challenge": b64encode(b"c" * 93)},
    "another signature": {"sign": lambda message: Authenticator()._sign(message)},
    "another handle": {"handle": b"h" * 32},
    "a copied passkey": {"count": 0},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_forged_touch(world: World, ada: Person, lie: str) -> None:
    assert send(ada, ada.touch(ada.passkey, "POST", ENGAGE, BODY)).status_code == 200
    assert world.operator.post(RELEASE, {"v": 1, "held": "dismiss"}).status_code == 200
    assert refused(send(ada, ada.touch(ada.passkey, "POST", ENGAGE, BODY, **LIES[lie]))) == (403, "touch-wrong")
    assert not engaged(world)


def test_somebody_else_s_touch(world: World, ada: Person) -> None:
    eve = Person(world, "eve", "operator")
    assert refused(send(ada, ada.touch(eve.passkey, "POST", ENGAGE, BODY))) == (403, "touch-wrong")
    assert refused(send(ada, ada.touch(eve.passkey, "POST", ENGAGE, BODY, handle=None))) == (403, "touch-wrong")


def test_a_passkey_s_sign_in_is_no_touch(world: World, ada: Person) -> None:
    begun = ada.begin("passkey")
    proof = ada.passkey.get(begun["options"], ada.origin)
    headers = {"Attestd-Touch": touch_header(begun["challenge"], proof)}
    assert refused(send(ada, headers)) == (403, "touch-wrong")


@pytest.mark.parametrize("header", ["x", "e30", "W10", b64encode(b'{"challenge":"AA"}'), "A" * 20_000])
def test_what_is_no_touch_at_all(world: World, ada: Person, header: str) -> None:
    assert refused(send(ada, {"Attestd-Touch": header})) == (403, "touch-wrong")


def test_a_role_comes_before_a_touch(world: World) -> None:
    """Who may not do it at all is not asked to confirm it."""
    eve = Person(world, "eve", "viewer")
    headers = eve.touch(eve.passkey, "POST", ENGAGE, BODY)
    assert refused(send(eve, headers)) == (403, "role-too-low")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ENGAGE),
        ("PATCH", ENGAGE),
        ("POST", "/v1/attestations"),
        ("POST", "https://evil.test/v1/admin/"),
        ("POST", ""),
    ],
)
def test_what_is_no_act(world: World, ada: Person, method: str, path: str) -> None:
    message = {"v": 1, "method": method, "path": path, "body_sha256": b64encode(bytes(32))}
    assert refused(ada.post("/v1/admin/touch/begin", message)) == (400, "not-an-act")


def test_a_preview_of_a_cohort_needs_none(world: World, ada: Person) -> None:
    path = "/v1/admin/devices/release-cohort"
    preview = {"v": 1, "site": "shop-1", "dry_run": True}
    assert ada.post(path, preview).status_code == 200
    assert refused(ada.post(path, {"v": 1, "site": "shop-1", "expected": 0})) == (403, "touch-missing")
    answer = ada.confirmed("POST", path, {"v": 1, "site": "shop-1", "expected": 0})
    assert answer.status_code == 200


def test_a_preview_of_a_selection_needs_none(world: World, ada: Person) -> None:
    device = world.enrolled()
    path = "/v1/admin/devices/selection"
    listed = [{"id": device.id, "version": world.row(device).state_version}]
    message = {"v": 1, "act": "quarantine", "devices": listed, "reason": "odd"}
    assert ada.post(path, {**message, "dry_run": True}).status_code == 200
    assert refused(ada.post(path, message)) == (403, "touch-missing")
    assert ada.confirmed("POST", path, message).status_code == 200
    assert world.row(device).state == "quarantined"
