"""The service's own OpenAPI description, taken at its word: schemathesis invents calls by it, each one is signed as the
caller that the door wants, and every answer must be as described. Nothing secret may be in any answer or log line.

The short form makes the same calls every time. FUZZ_EXAMPLES makes it a longer one, with other calls each time.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from attestd.protocol.encoding import b64decode, b64encode
from attestd.registry import audit, devices, issued
from tests.described import document, operation
from tests.fuzz.signing import HEADER, Signing
from tests.service import SoftDevice, World

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SHORT = settings(max_examples=6, derandomize=True, database=None)
LONG = settings(max_examples=max(EXAMPLES, 1), derandomize=False, database=None)
MANY = settings(
    LONG if EXAMPLES else SHORT,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def described() -> dict[str, Any]:
    """The description as a signing client sees it: a device's door takes the payload, which is then signed. Refusals of
    bodies over the limit are for other tests: nobody makes them up by chance."""
    found = copy.deepcopy(document())
    for path in found["paths"].values():
        for entry in path.values():
            payload = entry.get("requestBody", {}).get("x-signed-payload")
            if payload:
                for content in entry["requestBody"]["content"].values():
                    content["schema"] = payload
            entry.pop("security", None)  # it is the signing client's business
    return found


@schemathesis.serializer("application/jsonl", "text/csv", "application/pem-certificate-chain", "application/pkix-cert")
def as_it_is(_context: Any, value: Any) -> bytes:
    """Files are sent as they are made up."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


API = schemathesis.openapi.from_dict(described())


@dataclass
class Stage:
    """One service, and what nobody may be told."""

    world: World
    device: SoftDevice
    app: Signing
    secrets: dict[str, str]
    ek_hashes: tuple[str, ...]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    world = World(tmp_path_factory.mktemp("described") / "instance")
    device = world.enrolled()
    for role in ("viewer", "operator", "admin", "proxy"):
        world.caller(role)
    world.new_caller("viewer", "leaver")
    world.new_caller("proxy", "proxy-2")
    waiting = world.device()
    assert waiting.enroll().status_code == 202
    eks = (device.ek_hash, waiting.ek_hash)
    hexes = tuple(ek.hex() for ek in eks)
    yield Stage(world, device, Signing(world, device), dict(_secrets(world)), (*hexes, *map(b64encode, eks)))
    world.close()


def _secrets(world: World) -> Iterator[tuple[str, str]]:
    """Private keys and sealing keys, in the spellings in which they might leak."""
    numbers: dict[str, bytes] = {}
    for file in sorted((world.settings.dir / "keys").iterdir()):
        if file.suffix == ".json":
            for number, secret in enumerate(re.findall(r'"([A-Za-z0-9_-]{43})"', file.read_text())):
                numbers[f"{file.name} {number}"] = b64decode(secret)
        else:
            key = load_pem_private_key(file.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            numbers[file.name] = key.private_numbers().private_value.to_bytes(32, "big")
    for role in ("viewer", "operator", "admin", "proxy"):
        own = world.caller(role).key._private_key
        numbers[role] = own.private_numbers().private_value.to_bytes(32, "big")
    assert len(numbers) > 8
    for name, secret in numbers.items():
        yield f"{name}, hexadecimal", secret.hex()
        yield f"{name}, base64url", b64encode(secret)
        yield f"{name}, decimal", str(int.from_bytes(secret, "big"))
        yield f"{name}, repr", repr(secret)[2:-1]


@pytest.fixture
def lines(stage: Stage) -> Iterator[list[str]]:
    """What is logged, whole."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"{record.getMessage()} {record.__dict__}")

    handler = Keep()
    logging.getLogger().addHandler(handler)
    level = logging.getLogger("attestd").level
    logging.getLogger("attestd").setLevel(logging.INFO)
    yield found
    logging.getLogger().removeHandler(handler)
    logging.getLogger("attestd").setLevel(level)


def existing(stage: Stage, name: str, value: str) -> str:
    """What was made up, or half of the time something that exists, so that an act finds its object."""
    if sum(map(ord, str(value))) % 2:
        return value
    number = len(str(value))
    with stage.world.registry.reading() as c:
        if name == "id":
            found = devices.page(c, limit=20)
            return str(found[number % len(found)].id)
        if name == "serial":
            known = issued.page(c, limit=20)
            return str(known[number % len(known)].serial)
        if name == "number":
            return str(audit.page(c, limit=1)[0].number)
    return {"name": ("leaver", "proxy-2")[number % 2], "sha256": "0" * 64}[name]


def check(stage: Stage, lines: list[str], case: schemathesis.Case, who: str) -> None:
    for name, value in (case.path_parameters or {}).items():
        case.path_parameters[name] = existing(stage, name, value)
    response = case.call(app=stage.app, headers={HEADER: who})
    case.validate_response(
        response,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_headers_conformance,
            response_schema_conformance,
        ],
    )
    asked = f"{case.body!r} {case.query!r}"
    shows_eks = case.operation.label == "GET /v1/admin/devices/{id}"
    for text in (response.content.decode("latin-1"), *lines):
        for name, secret in stage.secrets.items():
            assert secret not in text, name
        for ek in stage.ek_hashes:
            assert shows_eks or ek not in text or ek in asked, "an EK hash"
    assert not any(ek in line for line in lines for ek in stage.ek_hashes), "an EK hash in the log"
    lines.clear()


@API.parametrize()
@MANY
def test_as_whom_the_door_wants(case: schemathesis.Case, stage: Stage, lines: list[str]) -> None:
    who = case.operation.definition.raw["x-caller"]
    check(stage, lines, case, "nobody" if who == "public" else who)


if EXAMPLES:  # test_access.py has each door by each caller in the short form

    @API.parametrize()
    @settings(MANY, max_examples=max(1, EXAMPLES // 4))
    def test_as_anybody(case: schemathesis.Case, stage: Stage, lines: list[str]) -> None:
        """Each door by each kind of caller in turn: the wrong one gets the refusal that is described."""
        for who in ("nobody", "device", "proxy", "viewer", "operator", "admin"):
            check(stage, lines, case, who)


@pytest.mark.parametrize("path", sorted(document()["paths"]))
def test_methods_that_are_not_described(stage: Stage, path: str) -> None:
    """405, with those that are in Allow."""
    described = {method.upper() for method in document()["paths"][path]}
    plain = re.sub(r"\{\w+\}", "x", path)
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        if operation(method, plain) is not None:
            continue
        answer = stage.world.app.test_client().open(plain, method=method)
        shared = {taken for taken in described if taken != "HEAD"}
        assert (answer.status_code, method) == (405, method)
        assert shared <= {taken.strip() for taken in answer.headers["Allow"].split(",")}
