"""The agent's door on a real Unix socket: what a program gets there, and what it does not."""

from __future__ import annotations

import grp
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attestd.errors import AttestdError
from attestd_agent.agent import NotEnrolled
from attestd_agent.failures import TpmFull
from attestd_agent.programs import door as door_module
from attestd_agent.programs.door import Door, DoorBlocked, Presentations
from attestd_agent.programs.origins import OriginInvalid
from attestd_agent.programs.voice import DoorUnreachable, PresentationFailed, PresentationRefused, Voice
from attestd_agent.server import ServerRefused

from .guarded import AUDIENCE, SoftwareSpeaker

ORIGIN = "https://shop-17.example.org"
URL = f"{ORIGIN}/orders"


@pytest.fixture
def speaker() -> SoftwareSpeaker:
    return SoftwareSpeaker()


@contextmanager
def open_door(path: Path, speaker: Any, *, mode: int = 0o600, group: str | None = None) -> Iterator[Voice]:
    presentations = Presentations(speaker, audiences=[AUDIENCE], origins=[ORIGIN])
    end = Door(path, presentations, mode=mode, group=group).serving()
    try:
        yield Voice(path, patience=20)
    finally:
        end()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "programs.sock"


@pytest.fixture
def voice(path: Path, speaker: SoftwareSpeaker) -> Iterator[Voice]:
    with open_door(path, speaker) as found:
        yield found


def raw(path: Path, octets: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(octets)
        found = b""
        while more := connection.recv(65536):
            found += more
        return found


def question(**changes: Any) -> bytes:
    asked = {"v": 1, "method": "GET", "url": URL, "audience": AUDIENCE, "nonce": "", **changes}
    return json.dumps({name: value for name, value in asked.items() if value is not ...}).encode()


def post(path: Path, body: bytes, *, where: str = "/v1/presentations") -> tuple[int, dict[str, Any]]:
    head = f"POST {where} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    first, _, rest = raw(path, head.encode() + body).partition(b"\r\n")
    return int(first.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])


def test_a_program_gets_a_token_and_a_proof(voice: Voice, speaker: SoftwareSpeaker) -> None:
    headers = voice.dpop_headers("GET", URL, audience=AUDIENCE, edge_nonce="nonce-1")
    assert headers["Authorization"] == f"DPoP token-for-{AUDIENCE}"
    assert set(headers) == {"Authorization", "DPoP"}
    assert speaker.asked == [("GET", URL, AUDIENCE)]


def test_in_any_language(voice: Voice, path: Path) -> None:
    status, told = post(path, question())
    assert (status, set(told)) == (200, {"v", "authorization", "dpop"})


@pytest.mark.parametrize(
    "lie",
    [
        {"audience": "another"},
        {"url": "https://evil.example/orders"},
        {"url": "http://shop-17.example.org/orders"},
        {"url": "https://shop-17.example.org:8443/orders"},
    ],
)
def test_for_nothing_else(voice: Voice, path: Path, speaker: SoftwareSpeaker, lie: dict[str, str]) -> None:
    status, told = post(path, question(**lie))
    assert (status, told["type"]) == (403, "urn:attestd:problem:not-for-this")
    assert speaker.asked == []


def test_a_refusal_says_what_to_do(voice: Voice) -> None:
    with pytest.raises(PresentationRefused, match=r"evil\.example") as refused:
        voice.dpop_headers("GET", "https://evil.example/", audience=AUDIENCE)
    assert "--origin" in refused.value.what_to_do


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"nonsense", question(v=2), question(url=...), question(method=7), question(more="x"),
        question(url="ftp://a"), question(url="/orders"), question(method="G" * 33), question(nonce="x" * 129),
        b'{"v":1,"v":1}',
    ],
)  # fmt: skip
def test_a_question_that_is_none(voice: Voice, path: Path, speaker: SoftwareSpeaker, body: bytes) -> None:
    status, told = post(path, body)
    assert status == 400
    assert told["remedy"]
    assert speaker.asked == []


@pytest.mark.parametrize(
    "octets",
    [
        b"POST /v1/presentations HTTP/1.1\r\n\r\n",
        b"POST /v1/presentations HTTP/1.1\r\nContent-Length: 8193\r\n\r\n",
        b"POST /v1/presentations HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/presentations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/presentations HTTP/1.1\r\n\r\n",
        b"POST /elsewhere HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_request_that_is_none(voice: Voice, path: Path, speaker: SoftwareSpeaker, octets: bytes) -> None:
    answer = raw(path, octets)
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    assert speaker.asked == []
    assert post(path, question())[0] == 200  # and the next one is served


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def dpop_headers(self, *_: object, **__: object) -> dict[str, str]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (NotEnrolled(), PresentationFailed),
        (TpmFull(), PresentationFailed),
        (ServerRefused("", status=403, title="No token for this audience"), PresentationRefused),
        (ServerRefused("", status=503, title="Overloaded"), PresentationFailed),
        (ZeroDivisionError("a fault of ours"), PresentationFailed),
    ],
)
def test_what_fails_is_told(path: Path, error: Exception, raised: type[AttestdError]) -> None:
    with open_door(path, Failing(error)) as voice, pytest.raises(raised) as refused:
        voice.dpop_headers("GET", URL, audience=AUDIENCE)
    if isinstance(error, AttestdError):
        assert refused.value.what_to_do == error.what_to_do
    assert "a fault of ours" not in str(refused.value)


def test_neither_token_nor_proof_nor_query_is_logged(voice: Voice, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        headers = voice.dpop_headers("GET", URL, audience=AUDIENCE)
        with pytest.raises(PresentationRefused):
            voice.dpop_headers("GET", "https://evil.example/?secret=1", audience=AUDIENCE)
    assert not [value for value in (*headers.values(), "secret") if value in caplog.text]


class TestSlowPrograms:
    def test_one_that_never_asks_is_let_go(self, path: Path, speaker: SoftwareSpeaker, monkeypatch: Any) -> None:
        monkeypatch.setattr(door_module, "_PATIENCE", 0.3)
        with open_door(path, speaker), socket.socket(socket.AF_UNIX) as idle:
            idle.settimeout(20)
            idle.connect(str(path))
            assert idle.recv(1) == b""

    def test_one_that_asks_octet_by_octet_is_let_go(
        self, path: Path, speaker: SoftwareSpeaker, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(door_module, "_PATIENCE", 0.5)
        over = threading.Event()
        with open_door(path, speaker), socket.socket(socket.AF_UNIX) as slow:
            slow.settimeout(20)
            slow.connect(str(path))
            slow.sendall(b"POST /v1/presentations HTTP/1.1\r\nContent-Length: 8000\r\n\r\n")

            def drip() -> None:
                while not over.wait(0.05):
                    try:
                        slow.sendall(b" ")
                    except OSError:
                        return

            thread = threading.Thread(target=drip, daemon=True)
            thread.start()
            try:
                assert b" 400 " in slow.recv(65536)
            finally:
                over.set()
                thread.join(20)
        assert speaker.asked == []

    def test_many_idle_ones_do_not_shut_out_the_others(
        self, path: Path, speaker: SoftwareSpeaker, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(door_module, "_PATIENCE", 0.3)
        with open_door(path, speaker) as voice:
            idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
            try:
                for one in idle:
                    one.connect(str(path))
                assert voice.dpop_headers("GET", URL, audience=AUDIENCE)
            finally:
                for one in idle:
                    one.close()


class TestTheSocket:
    @pytest.mark.parametrize("mode", [0o600, 0o660])
    def test_its_mode(self, path: Path, speaker: SoftwareSpeaker, mode: int) -> None:
        with open_door(path, speaker, mode=mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert not path.exists()

    def test_nobody_could_connect_before_its_mode_was_right(
        self, path: Path, speaker: SoftwareSpeaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before: list[int] = []
        change = Path.chmod

        def look(changed: Path, mode: int) -> None:
            before.append(stat.S_IMODE(changed.stat().st_mode))
            change(changed, mode)

        monkeypatch.setattr(Path, "chmod", look)
        with open_door(path, speaker):
            assert before == [0]

    def test_its_group(self, path: Path, speaker: SoftwareSpeaker) -> None:
        mine = grp.getgrgid(os.getgid()).gr_name
        with open_door(path, speaker, group=mine):
            assert path.stat().st_gid == os.getgid()

    def test_a_group_that_is_none(self, path: Path, speaker: SoftwareSpeaker) -> None:
        with pytest.raises(DoorBlocked), open_door(path, speaker, group="no-such-group-here"):
            pass

    def test_one_that_a_dead_process_left(self, path: Path, speaker: SoftwareSpeaker) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with open_door(path, speaker) as voice:
            assert voice.dpop_headers("GET", URL, audience=AUDIENCE)

    def test_one_that_is_in_use(self, voice: Voice, path: Path, speaker: SoftwareSpeaker) -> None:
        with pytest.raises(DoorBlocked), open_door(path, speaker):
            pass
        assert voice.dpop_headers("GET", URL, audience=AUDIENCE)

    def test_a_file_is_not_removed(self, path: Path, speaker: SoftwareSpeaker) -> None:
        path.write_text("somebody's")
        with pytest.raises(DoorBlocked), open_door(path, speaker):
            pass
        assert path.read_text() == "somebody's"


@pytest.mark.parametrize("origin", ["http://shop-17.example.org", "shop-17"])
def test_it_opens_for_tls_or_this_machine_only(speaker: SoftwareSpeaker, origin: str) -> None:
    with pytest.raises(OriginInvalid):
        Presentations(speaker, audiences=[AUDIENCE], origins=[origin])


class TestAProgramsSide:
    def test_nobody_at_the_door(self, path: Path) -> None:
        with pytest.raises(DoorUnreachable) as failure:
            Voice(path).dpop_headers("GET", URL, audience=AUDIENCE)
        assert "attestd-agent serve" in failure.value.what_to_do

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"nonsense",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nwelcome",
            b'HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n{"v":1,"authorization":"DPoP x","dpop":[""]}',
            b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000,
        ],
    )
    def test_somebody_else_at_the_door(self, path: Path, answer: bytes) -> None:
        def behave(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        self.with_listener(path, behave, Voice(path, patience=20))

    def test_nobody_who_answers(self, path: Path) -> None:
        self.with_listener(path, lambda listener: None, Voice(path, patience=0.2))

    def with_listener(self, path: Path, behave: Callable[[socket.socket], None], voice: Voice) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            thread = threading.Thread(target=behave, args=(listener,), daemon=True)
            thread.start()
            with pytest.raises(DoorUnreachable):
                voice.dpop_headers("GET", URL, audience=AUDIENCE)
            thread.join(20)
