"""One table from errors to HTTP, and documents that tell callers enough and strangers nothing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from flask import Flask
from werkzeug.exceptions import ImATeapot

import attestd
from attestd import errors
from attestd.errors import AttestdError
from attestd.registry.inventory import InventoryInvalid
from attestd.web import problems
from attestd.web.problems import InternalError, document, named, status_of
from tests.service import World, problem

CATEGORIES = {
    errors.MalformedInput: 400,
    errors.InputTooLarge: 413,
    errors.Unauthenticated: 401,
    errors.EvidenceRefused: 403,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Limited: 429,
    errors.Unavailable: 503,
    errors.Misconfigured: 500,
}
EXACT = {problems.MethodNotTaken: 405, problems.ContentTypeWrong: 415, problems.RequestTooSlow: 408}


def every_error() -> Iterator[type[AttestdError]]:
    """All error classes of the service, from all of its modules but those that make a program of the process."""
    for module in pkgutil.walk_packages(attestd.__path__, "attestd."):
        if not module.name.endswith(("__main__", ".cli.preloaded")) and ".migrations." not in module.name:
            importlib.import_module(module.name)
    waiting: list[type[AttestdError]] = [AttestdError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.startswith("attestd."):
            yield kind
            waiting.extend(kind.__subclasses__())


def test_every_category_has_its_status() -> None:
    assert {kind: status_of(kind).value for kind in CATEGORIES} == CATEGORIES


def test_every_error_of_the_service_has_the_status_of_its_category() -> None:
    for kind in every_error():
        category = next((c for c in CATEGORIES if issubclass(kind, c)), None)
        expected = EXACT.get(kind) or (500 if category is None else CATEGORIES[category])
        assert status_of(kind).value == expected, kind


def test_every_name_on_the_wire_is_one_error_only() -> None:
    found: dict[str, type[AttestdError]] = {}
    for kind in every_error():
        if status_of(kind) >= 500:
            continue
        assert found.setdefault(kind.slug(), kind) is kind, (kind, found[kind.slug()])


def test_an_error_without_a_row_fails_closed() -> None:
    class Unheard(AttestdError):
        """Nobody thought of this"""

    assert status_of(Unheard) is HTTPStatus.INTERNAL_SERVER_ERROR


def test_a_problem_says_what_was_seen_what_was_expected_and_what_to_do() -> None:
    class PcrMissing(errors.EvidenceRefused):
        """A PCR is missing.

        More for programmers.
        """

        remedy = "Quote it."

    found = document(PcrMissing("PCR 7 is missing.", seen="0 to 6", expected="0 to 7"), request_id="r-12345678")
    assert found == {
        "type": "urn:attestd:problem:pcr-missing",
        "title": "A PCR is missing",
        "status": 403,
        "detail": "PCR 7 is missing.",
        "seen": "0 to 6",
        "expected": "0 to 7",
        "remedy": "Quote it.",
        "request_id": "r-12345678",
    }


@pytest.mark.parametrize("kind", [errors.Misconfigured, errors.Unavailable, InternalError])
def test_a_server_error_keeps_its_detail_to_itself(kind: type[AttestdError]) -> None:
    error = kind("/etc/attestd/keys is not readable")
    error.seen, error.expected = "0644", "0600"
    found = document(error, request_id="r-12345678")
    assert found["detail"] == f"{kind.title()}."
    assert not {"seen", "expected"} & set(found)
    assert "attestd/keys" not in str(found)


def test_an_inventory_s_errors_come_by_line() -> None:
    found = document(InventoryInvalid([(2, "tier is missing"), (9, "no")], more=True), request_id="r")
    assert found["errors"] == [{"line": 2, "what": "tier is missing"}, {"line": 9, "what": "no"}]
    assert found["more"] is True


def test_what_was_seen_is_bounded() -> None:
    assert len(document(errors.MalformedInput("x" * 9000, seen="y" * 9000), request_id="r")["seen"]) == 2000


def test_an_exception_of_somebody_else_is_not_shown() -> None:
    assert type(named(ValueError("secret"))) is InternalError
    assert type(named(ImATeapot())) is InternalError


# ---- On the wire ------------------------------------------------------------------------------------------------


def with_failing_view(world: World, error: Exception) -> Flask:
    """The application with /healthz raising something."""

    def fail() -> None:
        raise error

    world.app.view_functions["health.alive"] = fail  # type: ignore[assignment]
    return world.app


def test_limited_says_when_to_come_back(world: World) -> None:
    with_failing_view(world, errors.Limited("slow down", retry_after=17))
    answer = world.get("/healthz")
    assert (answer.status_code, answer.headers["Retry-After"], problem(answer)) == (429, "17", "limited")


def test_unavailable_says_when_to_come_back(world: World) -> None:
    with_failing_view(world, errors.Unavailable("disk full on /dev/sda1", retry_after=0))
    answer = world.get("/healthz")
    assert (answer.status_code, answer.headers["Retry-After"], problem(answer)) == (503, "1", "unavailable")
    assert "sda1" not in answer.text


def test_unauthenticated_names_the_scheme(world: World) -> None:
    with_failing_view(world, errors.Unauthenticated("who?"))
    answer = world.app.test_client().get("/healthz")  # which promises no such answer
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Attestd")


def test_an_unexpected_exception_is_a_500_that_tells_nothing(world: World) -> None:
    with_failing_view(world, RuntimeError("the key is hunter2"))
    answer = world.get("/healthz")
    assert (answer.status_code, problem(answer)) == (500, "internal-error")
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text


def test_an_unknown_address(world: World) -> None:
    answer = world.get("/v1/nothing")
    assert (answer.status_code, problem(answer)) == (404, "no-such-route")


@pytest.mark.parametrize("path", ["/v1/nonce/", "//v1//nonce", "/V1/nonce", "/v1/nonce%00", "/v1/%ff"])
def test_an_almost_known_address_is_not_redirected(world: World, path: str) -> None:
    answer = world.get(path)
    assert (answer.status_code, problem(answer)) == (404, "no-such-route")


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_a_method_that_an_address_does_not_take(world: World, method: str) -> None:
    answer = world.request(method, "/v1/nonce")
    assert (answer.status_code, problem(answer)) == (405, "method-not-taken")
    assert answer.headers["Allow"] == "GET, HEAD"


def test_security_headers_on_answers_and_problems(world: World) -> None:
    for answer in (world.get("/healthz"), world.get("/v1/nothing")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in answer.headers
