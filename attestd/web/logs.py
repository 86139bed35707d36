"""Structured logs: one JSON object a line, one line a request, on the standard library's logging.

A line names the route's template, never the URL: ids in paths are fine to log, but queries and whatever a client makes
up are not. No bodies, no Authorization, no nonces, no EK hashes. The causes of a 5xx are written with everything that
looks like one of those (long runs of hexadecimal or base64url) cut out.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, TextIO

from flask import Flask, Response, g, request

from attestd.web.context import Exchange, Service, exchange

LOGGER: Final = "attestd.web"

_log = logging.getLogger(LOGGER)
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{8,64}", re.ASCII)
# 32 octets are 64 hexadecimal or 43 base64url characters; a random device id is 26 characters.
_SECRET_LOOKING: Final = re.compile(r"[A-Za-z0-9_-]{40,}", re.ASCII)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=str)
_MAX_MESSAGE: Final = 500
_MAX_CHAIN: Final = 8


def redact(text: str) -> str:
    """The text with everything cut out that could be a key, a digest, a nonce or a token; bounded."""
    return _SECRET_LOOKING.sub("…", text)[:_MAX_MESSAGE]


class JsonLines(logging.Formatter):
    """One JSON object a record. What is passed as `extra={"members": {…}}` becomes members of it."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found.update(getattr(record, "members", {}))
        if record.exc_info and record.exc_info[1] is not None:
            found["cause"] = cause_chain(record.exc_info[1])
        return _ENCODER.encode(found)


def configure(stream: TextIO, level: int = logging.INFO) -> None:
    """Sends everything that the process logs to `stream`, as JSON lines. For entry points."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It tells each request that the console makes of the API once more, with what somebody searched for.
    logging.getLogger("httpx").setLevel(max(level, logging.WARNING))


def cause_chain(error: BaseException) -> list[dict[str, Any]]:
    """The error, what caused it, and so on: class, redacted message, and the lines of code, without their values."""
    chain: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < _MAX_CHAIN:
        frames = traceback.extract_tb(current.__traceback__)[-12:]
        chain.append(
            {
                "error": type(current).__name__,
                "message": redact(str(current)),
                "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
            }
        )
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def _request_id(entropy: Callable[[int], bytes]) -> str:
    offered = request.headers.get("X-Request-Id", "")
    return offered if _REQUEST_ID.fullmatch(offered) else entropy(12).hex()


def register(app: Flask, service: Service) -> None:
    """The first hook, which begins each exchange, and the last one, which writes its line."""

    def begin() -> None:
        g.exchange = Exchange(
            request_id=_request_id(service.entropy),
            now=service.clock(),
            source=request.remote_addr or "local",
            started=perf_counter(),
        )

    def finish(response: Response) -> Response:
        current = exchange()
        response.headers["X-Request-Id"] = current.request_id
        level = logging.ERROR if response.status_code >= 500 else logging.INFO
        if _log.isEnabledFor(level):
            _log.log(level, "request", extra={"members": _members(current, response)})
        return response

    app.before_request(begin)
    app.after_request(finish)


def _members(current: Exchange, response: Response) -> dict[str, Any]:
    found: dict[str, Any] = {
        "request_id": current.request_id,
        "method": request.method,
        "route": None if request.url_rule is None else request.url_rule.rule,
        "status": response.status_code,
        "duration_ms": round(current.milliseconds, 2),
        "source": current.source,
    }
    if current.signed_by is not None:
        found["caller"] = current.signed_by.actor
    if current.device is not None:
        found["device"] = redact(current.device)
    if current.problem is not None:
        found["problem"] = current.problem.slug()
    if current.cause is not None and response.status_code >= 500:
        found["cause"] = cause_chain(current.cause)
    return found
