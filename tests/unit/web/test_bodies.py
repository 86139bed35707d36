"""Bodies: bounded whatever the headers say, of the right type, few large ones at once."""

from __future__ import annotations

import io
from typing import Any

import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from attestd.errors import InputTooLarge
from attestd.web.bodies import (
    LARGE,
    BodyCutShort,
    Permits,
    TooManyLargeBodies,
    read_body,
    require_media_type,
)
from attestd.web.problems import ContentTypeWrong
from tests.service import World, problem


class Counting(io.BytesIO):
    """Remembers how much was read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.taken += len(found)
        return found


def request(body: io.BytesIO, *, announced: int | None = None, chunked: bool = False, **headers: str) -> Request:
    environ: dict[str, Any] = EnvironBuilder(method="POST", headers=headers).get_environ()
    environ["wsgi.input"] = body
    environ["CONTENT_LENGTH"] = "" if announced is None else str(announced)
    if chunked:
        environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    return Request(environ)


class Called:
    """How often the permit for a large body was asked for."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@pytest.mark.parametrize("size", [0, 1, 99, 100])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_within_its_limit(size: int, chunked: bool) -> None:
    body = b"x" * size
    asked = request(io.BytesIO(body), announced=None if chunked else size, chunked=chunked)
    assert read_body(asked, limit=100, large=Called()) == body


def test_an_announced_body_over_its_limit_is_not_read() -> None:
    stream = Counting(b"x" * 101)
    with pytest.raises(InputTooLarge):
        read_body(request(stream, announced=101), limit=100, large=Called())
    assert stream.taken == 0


def test_a_chunked_body_over_its_limit_is_read_one_octet_too_far() -> None:
    stream = Counting(b"x" * 10_000)
    with pytest.raises(InputTooLarge):
        read_body(request(stream, chunked=True), limit=100, large=Called())
    assert stream.taken == 101


def test_a_large_chunked_body_over_its_limit() -> None:
    stream = Counting(b"x" * (3 * LARGE))
    large = Called()
    with pytest.raises(InputTooLarge):
        read_body(request(stream, chunked=True), limit=2 * LARGE, large=large)
    assert (stream.taken, large.times) == (2 * LARGE + 1, 1)


def test_octets_after_the_announced_length_are_not_read() -> None:
    stream = Counting(b"x" * 100)
    assert read_body(request(stream, announced=10), limit=100, large=Called()) == b"x" * 10
    assert stream.taken == 10


def test_a_body_that_is_cut_short() -> None:
    with pytest.raises(BodyCutShort) as refusal:
        read_body(request(io.BytesIO(b"x" * 9), announced=10), limit=100, large=Called())
    assert refusal.value.seen == "9 octets"


def test_no_length_and_no_chunks_is_no_body() -> None:
    stream = Counting(b"never read")
    assert read_body(request(stream), limit=100, large=Called()) == b""
    assert stream.taken == 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "times"), [(LARGE, 0), (LARGE + 1, 1), (3 * LARGE, 1)])
def test_a_large_body_needs_one_permit(size: int, times: int, chunked: bool) -> None:
    large = Called()
    asked = request(io.BytesIO(b"x" * size), announced=None if chunked else size, chunked=chunked)
    assert len(read_body(asked, limit=4 * LARGE, large=large)) == size
    assert large.times == times


def test_permits_run_out_and_come_back() -> None:
    permits = Permits(2)
    first = permits.take()
    permits.take()
    with pytest.raises(TooManyLargeBodies):
        permits.take()
    first()
    permits.take()


@pytest.mark.parametrize("given", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_the_right_media_type(given: str) -> None:
    require_media_type(request(io.BytesIO(), **{"Content-Type": given}), frozenset({"application/json"}))


@pytest.mark.parametrize("given", ["", "text/plain", "application/jsonx", "application/x-www-form-urlencoded"])
def test_another_media_type(given: str) -> None:
    with pytest.raises(ContentTypeWrong):
        require_media_type(request(io.BytesIO(), **{"Content-Type": given}), frozenset({"application/json"}))


# ---- At the door ------------------------------------------------------------------------------------------------


def test_large_bodies_are_taken_one_after_another_but_not_too_many_at_once(world: World) -> None:
    body = b"{" + b" " * LARGE + b"}"
    for _ in range(6):  # each gives its permit back, though it is refused
        answer = world.post("/v1/enrollments/complete", body)
        assert (answer.status_code, problem(answer)) == (400, "malformed-json")


def test_too_many_large_bodies_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from attestd.web import access
    from attestd.web.app import create_app

    monkeypatch.setattr(access, "Permits", lambda: Permits(0))
    world.app = create_app(world.service)
    answer = world.post("/v1/enrollments/complete", b" " * (LARGE + 1))
    assert (answer.status_code, problem(answer)) == (503, "too-many-large-bodies")
    assert world.post("/v1/enrollments/complete", b" " * LARGE).status_code == 400


def test_a_body_that_no_route_takes(world: World) -> None:
    answer = world.request("GET", "/v1/nonce", b"x")
    assert (answer.status_code, problem(answer)) == (413, "input-too-large")


def test_a_body_of_another_type(world: World) -> None:
    answer = world.post("/v1/enrollments", b"{}", content_type="text/json")
    assert (answer.status_code, problem(answer)) == (415, "content-type-wrong")


def test_a_body_over_the_route_s_limit(world: World) -> None:
    answer = world.post("/v1/enrollments", b" " * (64 * 1024 + 1))
    assert (answer.status_code, problem(answer)) == (413, "input-too-large")
    assert world.post("/v1/enrollments", b" " * (64 * 1024)).status_code == 400
