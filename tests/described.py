"""Does an answer fit the service's own description of it (attestd/web/openapi.py)? Every answer that a World's tests
see is held against it."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import jsonschema_rs
from werkzeug.test import TestResponse

from attestd.web.access import DOORS
from attestd.web.openapi import describe

_FAULTS = (500,)  # what tests bring about by force; nothing promises it


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(describe())
    return found


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """Method, path and operation's path of each door, those without variables first."""
    found = []
    for route in sorted(DOORS, key=lambda route: route.count("<")):
        method, _, path = route.partition(" ")
        plain = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)
        found.append((method, re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(plain))), plain))
    return tuple(found)


@cache
def _validator(schema: str) -> Any:
    whole = {**json.loads(schema), "components": document()["components"]}
    return jsonschema_rs.Draft202012Validator(whole)


def operation(method: str, path: str) -> dict[str, Any] | None:
    """The description of what this request reaches, None where nothing is."""
    method = "GET" if method == "HEAD" else method
    for taken, pattern, plain in _patterns():
        if method == taken and pattern.fullmatch(path):
            found: dict[str, Any] = document()["paths"][plain][method.lower()]
            return found
    return None


def require_described(method: str, path: str, answer: TestResponse) -> None:
    """Fails unless status, media type, headers and body are as described."""
    described = operation(method, path)
    if described is None or answer.status_code in _FAULTS or b"route-not-listed" in answer.data:
        return
    where = f"{method} {path} -> {answer.status_code}"
    responses = described["responses"]
    assert str(answer.status_code) in responses, f"{where} is not described: {answer.text[:300]}"
    said = responses[str(answer.status_code)]
    for name, header in said.get("headers", {}).items():
        assert not header.get("required") or name in answer.headers, f"{where} lacks {name}"
    if method == "HEAD":
        return
    kind = (answer.content_type or "").partition(";")[0]
    content = said.get("content", {})
    assert (kind in content) if content else not answer.data, f"{where}: {kind!r} is not described"
    if kind.endswith("json"):
        _validator(json.dumps(content[kind]["schema"])).validate(json.loads(answer.data))
