"""What is mounted beside the API: who gets which address, and what is loaded when."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

import pytest
from werkzeug.test import Client

from attestd.web import mounts
from attestd.web.mounts import Mounts, installed, is_api


def says(word: str) -> WSGIApplication:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [word.encode()]

    return application


class Entry:
    """An entry point as importlib.metadata has it."""

    name = "console"

    def __init__(self, result: Any) -> None:
        self.result = result
        self.loaded = 0

    def load(self) -> Any:
        self.loaded += 1
        if isinstance(self.result, Exception):
            raise self.result
        return lambda api, url: says(f"console of {url}")


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/nonce", True),
        ("/v1/nothing", True),
        ("/v1", True),
        ("/healthz", True),
        ("/readyz", True),
        ("/metrics", True),
        ("/.well-known/jwks.json", True),
        ("/", False),
        ("/fleet", False),
        ("/v1x", False),
        ("/healthz/", False),
        ("/sign-in", False),
        ("//v1/nonce", False),
    ],
)
def test_the_api_keeps_its_addresses(path: str, api: bool) -> None:
    assert is_api(path) is api


def test_everything_else_goes_to_what_is_mounted_and_it_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(None)
    monkeypatch.setattr(mounts, "entry_points", lambda group: [entry])
    client = Client(Mounts(says("api"), installed(says("api"), "https://a.example")))
    assert client.get("/v1/nonce").text == "api"
    assert entry.loaded == 0  # nobody looked yet
    assert [client.get("/").text, client.get("/fleet").text] == ["console of https://a.example"] * 2
    assert entry.loaded == 1


def test_without_anything_to_mount_the_api_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "entry_points", lambda group: [])
    assert Client(Mounts(says("api"), installed(says("api"), "https://a.example"))).get("/").text == "api"


def test_what_can_not_be_loaded_is_logged_and_the_api_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry = Entry(ImportError("broken"))
    monkeypatch.setattr(mounts, "entry_points", lambda group: [entry])
    client = Client(Mounts(says("api"), installed(says("api"), "https://a.example")))
    with caplog.at_level(logging.ERROR):
        assert [client.get("/").text, client.get("/").text] == ["api", "api"]
    assert entry.loaded == 1
    assert "console can't be mounted" in caplog.text


def test_the_console_makes_itself_known() -> None:
    assert [entry.value for entry in mounts.entry_points(group=mounts.GROUP)] == ["attestd_console.mounting:mount"]
