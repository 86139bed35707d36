"""One line a request, and nothing in it that must not be kept."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from attestd.protocol.encoding import b64encode
from attestd.registry.engine import DatabaseBusy
from attestd.web import logs
from tests.service import World


class Lines:
    """What was logged."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.all[-1]


@pytest.fixture
def lines() -> Iterator[Lines]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield Lines(stream)
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_line_for_a_request(world: World, lines: Lines) -> None:
    answer = world.get("/v1/nonce", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    line = lines.last
    assert line.pop("time").endswith("+00:00")
    assert 0 <= line.pop("duration_ms") < 5000
    assert line == {
        "level": "info",
        "logger": "attestd.web",
        "message": "request",
        "request_id": answer.headers["X-Request-Id"],
        "method": "GET",
        "route": "/v1/nonce",
        "status": 204,
        "source": "192.0.2.7",
    }


def test_a_line_names_the_route_and_who_called(world: World, lines: Lines) -> None:
    world.viewer.get("/v1/admin/devices/no-such-device")
    line = lines.last
    assert (line["route"], line["status"], line["problem"]) == ("/v1/admin/devices/<id>", 404, "unknown-device")
    assert line["caller"] == "operator:viewer-1"
    assert "no-such-device" not in lines.text
    world.viewer.put("/v1/admin/policy", {})
    assert (lines.last["caller"], lines.last["problem"]) == ("operator:viewer-1", "role-too-low")


def test_a_line_names_the_device(world: World, lines: Lines) -> None:
    device = world.enrolled()
    device.renew()
    assert lines.last["device"] == device.id
    device.renew(kid="x" * 64)
    assert (lines.last["device"], lines.last["problem"]) == ("…", "device-unknown")


def test_an_address_that_is_none_is_not_repeated(world: World, lines: Lines) -> None:
    world.get("/v1/secret-path?token=hunter2")
    assert (lines.last["route"], lines.last["problem"]) == (None, "no-such-route")
    assert "hunter2" not in lines.text
    assert "secret-path" not in lines.text


def test_one_line_a_request(world: World, lines: Lines) -> None:
    for path in ("/healthz", "/nothing", "/v1/admin/overview"):
        world.get(path)
    assert [line["message"] for line in lines.all] == ["request"] * 3


# ---- The request's id -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", ["12345678", "a" * 64, "0f8fad5b-d9cb-469f-a165-70867728950e"])
def test_an_id_that_came_along_is_kept(world: World, lines: Lines, offered: str) -> None:
    answer = world.get("/nothing", headers={"X-Request-Id": offered})
    assert answer.headers["X-Request-Id"] == offered
    assert (answer.json["request_id"], lines.last["request_id"]) == (offered, offered)


@pytest.mark.parametrize(
    "offered", ["1234567", "a" * 65, "12345678\u00e9", "1234 5678", '12345678"', "12345678,87654321"]
)
def test_another_id_is_replaced(world: World, offered: str) -> None:
    first, second = (world.get("/healthz", headers={"X-Request-Id": offered}) for _ in range(2))
    assert offered not in (first.headers["X-Request-Id"], second.headers["X-Request-Id"])
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert len(first.headers["X-Request-Id"]) == 24


# ---- Causes -----------------------------------------------------------------------------------------------------


def fail_with(world: World, error: Exception, cause: Exception | None = None) -> None:
    def fail() -> None:
        raise error from cause

    world.app.view_functions["health.alive"] = fail  # type: ignore[assignment]
    world.get("/healthz")


def test_the_causes_of_a_500_are_logged(world: World, lines: Lines) -> None:
    fail_with(world, RuntimeError("no more room"), OSError("disk /dev/sda1"))
    line = lines.last
    assert (line["level"], line["status"], line["problem"]) == ("error", 500, "internal-error")
    assert [(cause["error"], cause["message"]) for cause in line["cause"]] == [
        ("RuntimeError", "no more room"),
        ("OSError", "disk /dev/sda1"),
    ]
    assert any("test_logs.py" in place and "fail" in place for place in line["cause"][0]["at"])


def test_the_causes_of_a_503_are_logged(world: World, lines: Lines) -> None:
    fail_with(world, DatabaseBusy("locked by process 7"))
    assert (lines.last["problem"], lines.last["cause"][0]["message"]) == ("database-busy", "locked by process 7")


def test_what_looks_like_a_secret_is_cut_out_of_causes(world: World, lines: Lines) -> None:
    secret = bytes(range(32))
    fail_with(world, ValueError(f"bad key {secret.hex()} or {b64encode(secret)}, twice " + "é" * 900))
    message = lines.last["cause"][0]["message"]
    assert message.startswith("bad key … or …, twice")
    assert len(message) == 500
    assert secret.hex() not in lines.text
    assert b64encode(secret) not in lines.text


def test_a_refusal_has_no_cause(world: World, lines: Lines) -> None:
    world.post("/v1/enrollments", b"{")
    assert "cause" not in lines.last


def test_a_chain_of_causes_ends() -> None:
    first = error = ValueError("0")
    for number in range(1, 30):
        error.__cause__ = ValueError(str(number))
        error = error.__cause__
    assert len(logs.cause_chain(first)) == 8
    error.__cause__ = first
    assert len(logs.cause_chain(first)) == 8


# ---- What is never there ----------------------------------------------------------------------------------------


def test_no_secret_of_a_device_s_whole_life_is_logged(world: World, lines: Lines) -> None:
    device = world.device()
    challenge = device.begin()
    device.complete(challenge, proof=bytes(32))
    device.complete(challenge)
    world.approve(device)
    device.enroll()
    nonce = world.nonce()
    device.attest(nonce=nonce)
    token = device.token().json["token"]
    device.rekey()
    device.renew(nonce=nonce)  # refused: spent
    authorization = world.admin.authorize("GET", "/v1/admin/overview")
    world.get("/v1/admin/overview", headers={"Authorization": authorization})
    replacement = world.device()
    world.operator.post(f"/v1/admin/devices/{device.id}/replace", {"v": 1, "ek_hash": replacement.ek_hash.hex()})
    world.operator.post(f"/v1/admin/devices/{device.id}/replace", {"v": 1, "ek_hash": replacement.ek_hash.hex() + "0"})
    world.operator.get(f"/v1/admin/devices/{device.id}")
    world.operator.post(
        "/v1/admin/devices/import",
        f"ek_hash,tier,site\n{device.ek_hash.hex()}0,moon,x\n".encode(),
        content_type="text/csv",
    )
    world.get(f"/v1/time?nonce={b64encode(nonce[:32])}")

    assert len(lines.all) > 15
    for name, value in {
        "EK hash": device.ek_hash.hex(),
        "the new TPM's EK hash": replacement.ek_hash.hex(),
        "EK": b64encode(device.tpm.ek.public),
        "challenge": b64encode(challenge.challenge),
        "nonce": b64encode(nonce),
        "time's nonce": b64encode(nonce[:32]),
        "token": token,
        "signature": authorization.rpartition("..")[2],
        "certificate": device.answer.chain.splitlines()[1],  # type: ignore[union-attr]
        "Authorization": "Authorization",
        "scheme": "Attestd ",
    }.items():
        assert value not in lines.text, name


def test_the_line_s_members_are_a_closed_list(world: World, lines: Lines) -> None:
    device = world.enrolled()
    device.renew()
    world.admin.get("/v1/admin/overview")
    fail_with(world, RuntimeError("x"))
    assert {name for line in lines.all for name in line} == {
        "time",
        "level",
        "logger",
        "message",
        "request_id",
        "method",
        "route",
        "status",
        "duration_ms",
        "source",
        "caller",
        "device",
        "problem",
        "cause",
    }


def test_configuring_sends_every_logger_s_lines_as_json() -> None:
    program = (
        "import logging, sys; from attestd.web import logs; logs.configure(sys.stdout);"
        "logging.getLogger('other').warning('hello %s', 'you')\n"
        "try: 1/0\n"
        "except ZeroDivisionError: logging.getLogger('other').exception('oops')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "other", "hello you")
    assert second["cause"][0]["error"] == "ZeroDivisionError"


def test_what_the_console_asks_of_the_api_is_not_told_twice() -> None:
    """httpx would tell whole addresses, with what somebody searched for."""
    program = (
        "import logging, sys; from attestd.web import logs; logs.configure(sys.stdout);"
        "logging.getLogger('httpx').info('GET /v1/admin/devices?q=secret'); logging.getLogger('httpx').warning('odd')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["odd"]
