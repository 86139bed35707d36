"""From an error to the wire: RFC 9457 problem documents.

`STATUS` is the one table from what failed to an HTTP status. An error gets the row of the nearest of its classes; what
has no row fails closed to 500. Of a 5xx the caller learns its name and what to do; detail, what was seen and the cause
are for the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from attestd import errors
from attestd.errors import AttestdError, InputTooLarge, Limited, MalformedInput, NotFound, Unavailable
from attestd.protocol.encoding import write_object
from attestd.protocol.signed import SCHEME
from attestd.registry.admission import InventoryConflicts
from attestd.registry.inventory import InventoryInvalid
from attestd.web.context import Exchange

TYPE = "urn:attestd:problem:"
MEDIA_TYPE = "application/problem+json"
MAX_SHOWN = 2000  # characters of one member


class NoSuchRoute(NotFound):
    """There is nothing at this address"""

    remedy = "Check the path; docs/protocol.md names every address of this service."


class MethodNotTaken(MalformedInput):
    """This address does not take this method"""

    remedy = "Use one of the methods that the Allow header names."


class ContentTypeWrong(MalformedInput):
    """The body's media type is not the one that this address takes"""

    remedy = "Set the Content-Type header to one that is expected."


class RequestUnreadable(MalformedInput):
    """The request is not well formed"""

    remedy = "Send a request as HTTP and docs/protocol.md describe it."


class RequestTooSlow(AttestdError):
    """The request took too long to arrive"""

    remedy = "Send it faster, or less at a time; nothing was changed."


class InternalError(AttestdError):
    """The service failed in a way that it does not know"""


STATUS: Mapping[type[AttestdError], HTTPStatus] = {
    errors.MalformedInput: HTTPStatus.BAD_REQUEST,
    errors.InputTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.EvidenceRefused: HTTPStatus.FORBIDDEN,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.Limited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Misconfigured: HTTPStatus.INTERNAL_SERVER_ERROR,
    # HTTP's own, more exact than their categories.
    MethodNotTaken: HTTPStatus.METHOD_NOT_ALLOWED,
    ContentTypeWrong: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    RequestTooSlow: HTTPStatus.REQUEST_TIMEOUT,
}

# What Werkzeug and Flask refuse by themselves, before any view runs.
_HTTP: Mapping[int, type[AttestdError]] = {
    400: RequestUnreadable,
    404: NoSuchRoute,
    405: MethodNotTaken,
    413: InputTooLarge,
    415: ContentTypeWrong,
}


def status_of(error: type[AttestdError]) -> HTTPStatus:
    """The HTTP status of an error's nearest class that has a row; 500 for the rest."""
    return next((STATUS[kind] for kind in error.__mro__ if kind in STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)


def named(unverified_error: Exception) -> AttestdError:
    """The error by one of our names."""
    if isinstance(unverified_error, AttestdError):
        return unverified_error
    if isinstance(unverified_error, HTTPException) and (kind := _HTTP.get(unverified_error.code or 0)) is not None:
        return kind()
    return InternalError()


def document(error: AttestdError, *, request_id: str) -> dict[str, Any]:
    """The members of the problem (RFC 9457, section 3)."""
    status = status_of(type(error))
    found: dict[str, Any] = {
        "type": TYPE + error.slug(),
        "title": error.title(),
        "status": status.value,
        "detail": f"{error.title()}." if status >= HTTPStatus.INTERNAL_SERVER_ERROR else error.detail[:MAX_SHOWN],
        "remedy": error.what_to_do,
        "request_id": request_id,
    }
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return found
    if error.seen is not None:
        found["seen"] = error.seen[:MAX_SHOWN]
    if error.expected is not None:
        found["expected"] = error.expected[:MAX_SHOWN]
    if isinstance(error, InventoryInvalid | InventoryConflicts):  # extension members (RFC 9457, section 3.2)
        found["errors"] = [{"line": line, "what": what} for line, what in error.errors]
        found["more"] = error.more
    return found


def _answer(error: AttestdError, *, request_id: str) -> Response:
    status = status_of(type(error))
    members = document(error, request_id=request_id)
    response = Response(write_object(members), status=status.value, content_type=MEDIA_TYPE)
    if isinstance(error, Limited | Unavailable):
        response.headers["Retry-After"] = str(max(1, error.retry_after))
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = SCHEME  # RFC 9110, section 11.6.1
    return response


def register(app: Flask) -> None:
    """Answers every exception that leaves a hook or a view, Werkzeug's own among them, by a problem document."""

    def handle(unverified_error: Exception) -> Response:
        error = named(unverified_error)
        exchange: Exchange | None = g.get("exchange")
        if exchange is not None:
            exchange.problem = error
            exchange.cause = unverified_error
        response = _answer(error, request_id="" if exchange is None else exchange.request_id)
        if isinstance(unverified_error, MethodNotAllowed) and unverified_error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(unverified_error.valid_methods))
        return response

    app.register_error_handler(Exception, handle)
