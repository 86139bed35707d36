"""The first look: what a request counts as, and what its source may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.protocol.encoding import b64encode, write_object
from attestd.protocol.messages import MAX_BEGIN, MAX_COMPLETE, MAX_SMALL
from attestd.protocol.signed import sign_detached, sign_flattened
from attestd.registry import inventory
from attestd.web.access import DOORS
from attestd.web.admission import Work
from attestd.web.vetting import LOOKED_AT, MAX_PAGE, Marks, Rates, TooManyRequests, Vetting, Visit

RENEW = "/v1/renewals"
SOURCE = "192.0.2.1"
ATTACKER = "203.0.113.9"


def vetting(**options: Any) -> Vetting:
    """Nonces of 16 octets that begin with `ours` are this service's."""
    rates = options.pop("rates", Rates(reads=(1, 3), enrollments=(1, 2), failures=(1, 4)))
    told = {
        "open_nonce": lambda sealed: sealed if sealed.startswith(b"ours") else None,
        "clock": lambda: 0.0,
        **options,
    }
    return Vetting(rates, **told)


def nonce(n: int = 0, *, ours: bool = True) -> bytes:
    return (b"ours" if ours else b"none") + n.to_bytes(12, "big")


def body(*, kid: str = "bike-1", n: int = 0, ours: bool = True) -> bytes:
    return sign_flattened(
        b"{}", sign=lambda _: b"\1" * 64, alg="ES256", kid=kid, url="https://a" + RENEW, nonce=nonce(n, ours=ours)
    )


def visit(looks: Vetting, content: bytes = b"", *, path: str = RENEW, source: str = SOURCE, call: str = "") -> Visit:
    found = looks.arrive(path, source)
    looks.admit(found)
    looks.look(found, call.encode(), content)
    return found


def known(looks: Vetting, *, kid: str = "bike-1", source: str = SOURCE) -> None:
    """This device has just been served from there."""
    looks.leave(visit(looks, body(kid=kid, n=999), source=source), 200)


# ---- Signed requests -----------------------------------------------------------------------------------------------


def test_a_device_that_proved_itself_from_there_is_known() -> None:
    looks = vetting()
    assert visit(looks, body()).work is Work.NEWCOMER
    known(looks)
    assert visit(looks, body()).work is Work.DEVICE


def test_naming_a_device_from_elsewhere_makes_a_newcomer() -> None:
    looks = vetting()
    known(looks)
    assert visit(looks, body(), source=ATTACKER).work is Work.NEWCOMER


def test_another_device_from_the_same_place_is_a_newcomer() -> None:
    looks = vetting()
    known(looks)
    assert visit(looks, body(kid="bike-2")).work is Work.NEWCOMER


def test_a_nonce_that_is_not_ours_makes_nobody() -> None:
    looks = vetting()
    known(looks)
    assert visit(looks, body(ours=False)).work is Work.UNKNOWN


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 5000,
        b"null",
        b'{"protected":1}',
        b'{"protected":"!"}',
        b'{"protected":"W10"}',
        b'{"protected":"\xc3\xa9"}',
        write_object({"protected": b64encode(b"[" * 5000)}),
        write_object({"protected": b64encode(write_object({"kid": 1, "nonce": 2}))}),
        write_object({"protected": b64encode(write_object({"kid": "bike-1", "nonce": "=" * 100}))}),
        write_object({"protected": b64encode(write_object({"kid": "bike-1"}))}),
        b'{"protected":' + b"9" * 6000 + b"}",
        b"\xff\xfe",
    ],
)
def test_garbage_is_nobody(content: bytes) -> None:
    assert visit(vetting(), content).work is Work.UNKNOWN


def test_a_refused_nonce_is_good_for_nothing_more() -> None:
    looks = vetting()
    known(looks)
    looks.leave(visit(looks, body(n=1), source=ATTACKER), 401)
    assert visit(looks, body(n=1), source=ATTACKER).work is Work.UNKNOWN
    assert visit(looks, body(n=2), source=ATTACKER).work is Work.NEWCOMER


def test_a_retry_with_the_same_nonce_keeps_its_place() -> None:
    looks = vetting()
    known(looks)
    for status in (503, 200, 200):
        tried = visit(looks, body(n=1))
        assert tried.work is Work.DEVICE
        looks.leave(tried, status)


def test_refused_signatures_use_up_the_sources_credit() -> None:
    looks = vetting()
    for n in range(4):
        looks.leave(visit(looks, body(n=n), source=ATTACKER), 401)
    assert visit(looks, body(n=10), source=ATTACKER).work is Work.UNKNOWN  # a nonce alone no longer helps
    with pytest.raises(TooManyRequests):
        visit(looks, body(ours=False), source=ATTACKER)
    assert visit(looks, body(n=11)).work is Work.NEWCOMER  # elsewhere nothing changed


def test_a_known_device_beside_an_attacker_gets_through() -> None:
    looks = vetting()
    known(looks)
    for n in range(50):
        looks.leave(visit(looks, body(kid="x", n=n)), 401)
    assert visit(looks, body(n=100)).work is Work.DEVICE


def test_a_device_that_an_attacker_beside_it_names_is_served_in_turn() -> None:
    looks = vetting()
    known(looks)
    for n in range(50):
        looks.leave(visit(looks, body(n=n)), 401)
    device = visit(looks, body(n=100))
    assert device.work is Work.UNKNOWN  # not refused
    looks.leave(device, 200)
    assert visit(looks, body(n=101)).work is Work.DEVICE


@pytest.mark.parametrize("status", [404, 405, 429, 500, 503])
def test_answers_that_prove_nothing_change_nothing(status: int) -> None:
    looks = vetting()
    for n in range(20):
        looks.leave(visit(looks, body(n=n)), status)
    assert visit(looks, body(n=50)).work is Work.NEWCOMER


@pytest.mark.parametrize("status", [202, 304, 403, 409])
def test_a_refusal_after_a_right_signature_is_a_proof(status: int) -> None:
    looks = vetting()
    looks.leave(visit(looks, body()), status)
    assert visit(looks, body(n=1)).work is Work.DEVICE


def test_a_large_body_is_not_read_here() -> None:
    looks = vetting()
    large = body()[:-1] + b" " * LOOKED_AT + b"}"
    assert visit(looks, large, path="/v1/attestations").work is Work.NEWCOMER


def test_operators_and_proxies_are_known_by_their_header() -> None:
    looks = vetting()

    def call(n: int, *, ours: bool = True) -> str:
        return sign_detached(
            b"",
            sign=lambda _: b"\1" * 64,
            alg="ES256",
            kid="k",
            method="GET",
            url="https://a",
            nonce=nonce(n, ours=ours),
        )

    for path in ("/v1/bundle", "/v1/admin/devices", "/v1/admin/devices/bike-1/approve"):
        assert visit(looks, path=path, call="").work is Work.UNKNOWN
        assert visit(looks, path=path, call="Bearer a.b.c").work is Work.UNKNOWN
        assert visit(looks, path=path, call=call(1, ours=False)).work is Work.UNKNOWN
    assert visit(looks, path="/v1/bundle", call=call(1)).work is Work.NEWCOMER
    looks.leave(visit(looks, path="/v1/bundle", call=call(1)), 304)
    assert visit(looks, path="/v1/admin/devices", call=call(2)).work is Work.OPERATOR


# ---- Pages ---------------------------------------------------------------------------------------------------------


def test_a_session_that_was_proven_from_there_is_known() -> None:
    looks = vetting(pages=True, rates=Rates())
    assert visit(looks, path="/fleet", call="a=1").work is Work.READ
    looks.leave(visit(looks, path="/fleet", call="a=1"), 200, proven=True)
    assert visit(looks, path="/fleet", call="a=1").work is Work.OPERATOR
    assert visit(looks, path="/fleet", call="a=2").work is Work.READ
    assert visit(looks, path="/fleet", call="a=1", source=ATTACKER).work is Work.READ


def test_a_session_that_is_over_is_known_no_more() -> None:
    looks = vetting(pages=True, rates=Rates())
    looks.leave(visit(looks, path="/", call="a=1"), 200, proven=True)
    looks.leave(visit(looks, path="/static/x/console.css", call="a=1"), 200)
    assert visit(looks, path="/", call="a=1").work is Work.OPERATOR
    looks.leave(visit(looks, path="/", call="a=1"), 303, proven=False)
    assert visit(looks, path="/", call="a=1").work is Work.READ


def test_a_page_that_proved_nobody_makes_nobody_known() -> None:
    looks = vetting(pages=True)
    looks.leave(visit(looks, path="/sign-in", call="a=1"), 200)
    looks.leave(visit(looks, path="/sign-in"), 200, proven=True)  # nothing that could be known again
    assert visit(looks, path="/sign-in", call="a=1").work is Work.READ
    assert looks.arrive("/sign-in", SOURCE).kid == ""


def test_pages_are_held_to_the_rate_of_reads() -> None:
    looks = vetting(pages=True)
    for _ in range(3):
        visit(looks, path="/fleet")
    with pytest.raises(TooManyRequests):
        visit(looks, path="/approvals")


@pytest.mark.parametrize(
    ("pages", "path", "limit"),
    [
        (True, "/policies/main/draft", MAX_PAGE),
        (False, "/policies/main/draft", MAX_SMALL),
        (True, "/v1/nothing", MAX_SMALL),
    ],
)
def test_a_form_may_be_larger_than_a_strangers_call(pages: bool, path: str, limit: int) -> None:
    assert vetting(pages=pages).arrive(path, SOURCE).kind.limit == limit


# ---- Public doors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "burst", "work"),
    [
        (["/v1/enrollments", "/v1/enrollments/complete"], 2, Work.ENROLLMENT),
        (["/v1/nonce", "/v1/time", "/v1/root", "/v1/jwks", "/.well-known/jwks.json", "/v1/crl"], 3, Work.READ),
        (["/", "/v1/nothing", "/v1/renewals/", "/favicon.ico"], 3, Work.UNKNOWN),
    ],
)
def test_each_source_has_its_rate_at_the_public_doors(paths: list[str], burst: int, work: Work) -> None:
    looks = vetting()
    for n in range(burst):
        assert visit(looks, path=paths[n % len(paths)]).work is work
    for path in paths:
        with pytest.raises(TooManyRequests) as caught:
            visit(looks, path=path)
        assert caught.value.retry_after >= 1
    assert visit(looks, path=paths[0], source=ATTACKER).work is work


def test_health_is_asked_for_at_any_rate() -> None:
    looks = vetting()
    assert {visit(looks, path=path).work for path in ("/healthz", "/readyz", "/metrics") * 50} == {Work.HEALTH}


def test_a_spent_rate_at_one_door_is_no_matter_at_another() -> None:
    looks = vetting()
    for _ in range(3):
        visit(looks, path="/v1/nonce")
    assert visit(looks, path="/v1/enrollments").work is Work.ENROLLMENT
    assert visit(looks, body()).work is Work.NEWCOMER


def test_unlimited_sources_have_no_rate_and_no_credit_to_lose() -> None:
    looks = vetting(unlimited=lambda source: source == SOURCE)
    for n in range(50):
        visit(looks, path="/v1/enrollments")
        looks.leave(visit(looks, body(n=n)), 401)
    assert visit(looks, body(n=100)).work is Work.NEWCOMER
    with pytest.raises(TooManyRequests):
        for _ in range(50):
            visit(looks, path="/v1/enrollments", source=ATTACKER)


# ---- Bodies' limits, and the marks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/enrollments", MAX_BEGIN),
        ("/v1/enrollments/complete", MAX_COMPLETE),
        (RENEW, 2 * MAX_SMALL),
        ("/v1/admin/devices/import", inventory.MAX_FILE),
        ("/v1/admin/devices/x/approve", MAX_SMALL),
        ("/v1/nonce", 0),
        ("/nothing", MAX_SMALL),
    ],
)
def test_a_path_has_the_limit_of_its_door(path: str, limit: int) -> None:
    assert vetting().arrive(path, SOURCE).kind.limit == limit


def test_every_door_has_a_class_and_room_for_its_body() -> None:
    looks = vetting()
    for route, door in DOORS.items():
        path = route.split(" ")[1].replace("<id>", "a").replace("<serial>", "1").replace("<name>", "n")
        found = looks.arrive(path, SOURCE)
        assert found.work is not Work.UNKNOWN, route
        assert found.kind.limit >= door.limit, route


def test_marks_forget_and_take_no_more_room() -> None:
    marks = Marks(1 << 10)
    for n in range(100_000):
        marks.add((SOURCE, str(n)))
    assert (SOURCE, "99999") in marks
    assert sum((SOURCE, str(n)) in marks for n in range(100_000)) <= 1 << 10
    marks.discard((SOURCE, "99999"))
    assert (SOURCE, "99999") not in marks
