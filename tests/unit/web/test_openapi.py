"""The description: one entry a door, made of what the table says, and true of the answers that are seen."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from attestd.web import description, openapi
from attestd.web.access import DOORS, Who
from attestd.web.description import DESCRIBED, SCHEMAS
from attestd.web.openapi import describe
from tests.described import document, operation, require_described
from tests.service import World


def operations() -> list[dict[str, Any]]:
    return [entry for path in document()["paths"].values() for entry in path.values()]


def test_every_door_is_described_and_nothing_else() -> None:
    assert set(DESCRIBED) == set(DOORS)


@pytest.mark.parametrize("what", ["DESCRIBED", "SCHEMAS"])
def test_each_part_is_in_the_whole_and_none_hides_another_s(what: str) -> None:
    parts = [
        import_module(f"{description.__name__}.{each.name}") for each in pkgutil.iter_modules(description.__path__)
    ]
    named = Counter(name for part in parts for name in getattr(part, what, ()))
    assert named == Counter(list(getattr(description, what)))


def test_a_door_without_a_description_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(openapi.DOORS, "GET /v1/new", DOORS["GET /v1/root"])  # type: ignore[misc]
    with pytest.raises(KeyError):
        describe.__wrapped__()


def test_it_is_served_to_everybody_and_printed(world: World) -> None:
    answer = world.get("/v1/openapi.json")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    printed = subprocess.run(
        [str(Path(sys.executable).parent / "attestd"), "openapi"], capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout) == answer.json == document()


def test_every_schema_is_one_and_is_used() -> None:
    text = describe().decode()
    for name in SCHEMAS:
        jsonschema_rs.meta.validate({**SCHEMAS[name], "$schema": "https://json-schema.org/draft/2020-12/schema"})
        if name != "EnrollmentEvidence":  # travels as octets
            assert f'"#/components/schemas/{name}"' in text, name


def test_callers_nonces_and_limits_are_the_table_s() -> None:
    for route, door in DOORS.items():
        method, _, path = route.partition(" ")
        described = operation(method, path.replace("<", "").replace(">", ""))
        assert described is not None, route
        assert described["x-caller"] == door.who.value
        assert bool(described.get("security")) is (door.who is not Who.PUBLIC)
        assert ("requestBody" in described) is bool(door.accepts)
        if door.accepts:
            assert set(described["requestBody"]["content"]) == door.accepts
            assert described["requestBody"]["x-limit"] == door.limit
        for answer in described["responses"].values():
            assert ("Replay-Nonce" in answer.get("headers", {})) is door.nonce


def test_operation_ids_are_unique() -> None:
    ids = [entry["operationId"] for entry in operations()]
    assert len(set(ids)) == len(ids)


def test_no_answer_for_others_holds_an_ek_hash() -> None:
    """Only one device's own page has it, and only operators' and admins' (docs/protocol.md, section 3)."""
    holding = [name for name, schema in SCHEMAS.items() if "ek_hash" in json.dumps(schema)]
    assert sorted(holding) == ["DevicePage", "FindDevice", "Replacement"]  # two are questions


# ---- The check that all tests' answers go through -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"status_code": 418}, "not described"),
        ({"content_type": "text/html"}, "not described"),
        ({"data": b'{"v":1,"added":1,"unchanged":0,"more":2}'}, "more"),
        ({"data": b'{"v":1,"added":1}'}, "unchanged"),
        ({"data": b'{"v":1,"added":"1","unchanged":0}'}, "integer"),
    ],
)
def test_an_answer_that_does_not_fit(world: World, change: dict[str, Any], what: str) -> None:
    path = "/v1/admin/devices/import"
    answer = world.operator.post(path, b"ek_hash,tier,site\n" + b"ab" * 32 + b",device,x\n", content_type="text/csv")
    require_described("POST", path, answer)
    for name, value in change.items():
        setattr(answer, name, value)
    with pytest.raises((AssertionError, jsonschema_rs.ValidationError), match=what):
        require_described("POST", path, answer)


def test_an_answer_without_its_nonce(world: World) -> None:
    answer = world.viewer.get("/v1/admin/overview")
    del answer.headers["Replay-Nonce"]
    with pytest.raises(AssertionError, match="lacks Replay-Nonce"):
        require_described("GET", "/v1/admin/overview", answer)
