"""Authority: what signs and until when, in one sentence first; whose chips are trusted, and what depends on each."""

from __future__ import annotations

import io
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import FileStorage

from attestd_console.pages.authority import common_name, lead
from tests import ek_ca
from tests.console import Markup, console_client
from tests.service import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "instance")
    yield world
    world.close()


def test_every_key_with_its_place_and_what_comes_next(world: World) -> None:
    page = console_client(world, "viewer").get("/authority")
    words = Markup(page.text).words
    assert page.status_code == 200
    for name in ("Root", "Issuing CA", "Bundles", "Audit heads", "Tokens", "Sealing"):
        assert name in words
    assert "attestd ca rotate issuer" in words
    assert "bundle-1" in words


def test_a_maker_says_how_many_depend_on_it(world: World) -> None:
    world.enrolled()
    (maker,) = world.viewer.get("/v1/admin/trust").json["makers"]
    console = console_client(world, "admin")
    page = console.get(f"/authority/makers/{maker['sha256']}")
    assert "1 device enrolled under this certificate" in Markup(page.text).words
    assert console.get(f"/authority/makers/{'0' * 64}").status_code == 404
    assert console.post(f"/authority/makers/{maker['sha256']}").status_code == 303
    assert world.viewer.get("/v1/admin/trust").json["makers"] == []


@pytest.mark.parametrize("how", ["pasted", "pem", "der"])
def test_trusting_a_maker(world: World, how: str) -> None:
    der = ek_ca.maker("Second").root.certificate
    pem = ssl.DER_cert_to_PEM_cert(der)
    form: dict[str, Any] = {"pem": pem if how == "pasted" else ""}
    if how != "pasted":
        form["file"] = FileStorage(io.BytesIO(pem.encode() if how == "pem" else der), filename="maker.crt")
    answer = console_client(world, "admin").post("/authority/makers", form)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/authority")
    assert len(world.viewer.get("/v1/admin/trust").json["makers"]) == 2


def test_what_is_no_certificate_is_refused_in_words(world: World) -> None:
    answer = console_client(world, "admin").post("/authority/makers", {"pem": "hello"})
    assert answer.status_code == 400
    assert "Nothing was done" in answer.text


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_others_look_and_change_nothing(world: World, role: str) -> None:
    console = console_client(world, role)
    (maker,) = world.viewer.get("/v1/admin/trust").json["makers"]
    page = Markup(console.get("/authority").text)
    assert not [form for form in page.all("form") if form.get("action") == "/authority/makers"]
    assert console.post(f"/authority/makers/{maker['sha256']}").status_code == 403
    assert console.post("/authority/makers", {"pem": "x"}).status_code == 403
    assert len(world.viewer.get("/v1/admin/trust").json["makers"]) == 1


def standing(**ends: timedelta) -> dict[str, Any]:
    now = 1_800_000_000
    keys = [
        {"kind": kind.split("_")[0], "name": f"{kind}-1", "state": "next" if kind.endswith("_next") else "current"}
        | {"ends": now + int(left.total_seconds())}
        for kind, left in ends.items()
    ]
    return {"time": now, "keys": keys}


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({"root": timedelta(days=900), "issuer": timedelta(days=90)}, "Nothing has to be done"),
        ({"issuer": timedelta(days=9)}, "no successor is ready"),
        ({"issuer": timedelta(days=9), "issuer_next": timedelta(days=300)}, "successor is ready"),
        ({"issuer": timedelta(days=-1)}, "has ended"),
    ],
)
def test_the_first_sentence_says_what_ends_first(ends: dict[str, timedelta], said: str) -> None:
    assert said in lead(standing(**ends))


@pytest.mark.parametrize(
    ("subject", "name"),
    [("CN=Root 1,O=Norvik", "Root 1"), ("O=Norvik\\, Inc.,CN=A\\,B", "A\\,B"), ("O=Norvik", "O=Norvik"), ("", "")],
)
def test_what_people_call_a_certificate(subject: str, name: str) -> None:
    assert common_name(subject).replace(",", "\\,") == name or common_name(subject) == name
