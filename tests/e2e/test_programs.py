"""A program on a device, all parts real: httpx and requests, `attestd-agent serve`, a software TPM, `attestd serve`
with TLS, and an application behind the edge's middleware."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import requests

from attestd_agent.programs import httpx_auth, requests_auth
from attestd_agent.programs.presenting import Presenter
from attestd_agent.programs.voice import PresentationRefused
from attestd_demo.play import Play
from attestd_demo.story import Story
from attestd_demo.world import World
from tests.software_tpm import missing_programs

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, loggers_as_before: None) -> Iterator[Play]:
    """An instance, its service, an edge, and a device that has enrolled."""
    world = World(tmp_path_factory.mktemp("programs") / "instance")
    play = Play(Story(), world)
    try:
        play.make_instance()
        world.start_service()
        world.permit_tokens()
        world.open_edge()
        play.berlin, play.munich, play.outsider = play.power_on()
        play.trust_maker()
        play.ask_and_join(play.berlin, "berlin")
        play.wait_for_bundle()
        yield play
    finally:
        world.close()


@contextmanager
def served(play: Play, socket: Path, *options: str) -> Iterator[None]:
    """`attestd-agent serve` for the device in Berlin; ends without leaving its socket behind."""
    command = [sys.executable, "-m", "attestd_agent", "serve", "--json", "--socket", str(socket), *options]
    command += ["--state-dir", str(play.berlin.state), "--tcti", play.berlin.tpm.tcti]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["listening"] == f"unix:{socket}"
            yield
        finally:
            process.terminate()
            process.wait(20)
    assert process.returncode == 0
    assert not socket.exists()


@pytest.fixture(scope="module")
def presenter(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Presenter]:
    socket = tmp_path_factory.mktemp("door") / "programs.sock"
    with served(play, socket, "--audience", "edge", "--origin", play.world.origin):
        yield Presenter.over(socket, audience="edge", origins=[play.world.origin])


def test_httpx(play: Play, presenter: Presenter) -> None:
    with httpx.Client(auth=httpx_auth.DeviceAuth(presenter)) as client:
        for _ in range(3):
            answer = client.get(f"{play.world.origin}/readings?since=today")
            assert answer.status_code == 200
            assert answer.json()["hello"] == play.berlin.session.enrolled.record.spiffe_id


def test_requests(play: Play, presenter: Presenter) -> None:
    with requests.Session() as session:
        session.auth = requests_auth.DeviceAuth(presenter)
        for _ in range(3):
            answer = session.post(f"{play.world.origin}/readings", data=b"21 degrees", timeout=60)
            assert answer.status_code == 200
            assert answer.json()["hello"] == play.berlin.session.enrolled.record.spiffe_id


def test_without_it_nobody_gets_through(play: Play) -> None:
    assert httpx.get(f"{play.world.origin}/readings").status_code == 401


def test_the_door_is_for_its_origins_whatever_a_program_wants(play: Play, tmp_path: Path) -> None:
    socket = tmp_path / "programs.sock"
    with served(play, socket, "--audience", "edge", "--origin", "https://elsewhere.example.org"):
        presenter = Presenter.over(socket, audience="edge", origins=[play.world.origin])
        with pytest.raises(PresentationRefused):
            httpx.get(f"{play.world.origin}/readings", auth=httpx_auth.DeviceAuth(presenter))


def test_an_audience_that_issuance_policy_does_not_name(play: Play, tmp_path: Path) -> None:
    socket = tmp_path / "programs.sock"
    with served(play, socket, "--audience", "treasury", "--origin", play.world.origin):
        presenter = Presenter.over(socket, audience="treasury", origins=[play.world.origin])
        with (
            pytest.raises(PresentationRefused, match="403"),
            httpx.Client(auth=httpx_auth.DeviceAuth(presenter)) as client,
        ):
            client.get(f"{play.world.origin}/readings")


def test_once_quarantined_it_does_not_help(play: Play, presenter: Presenter) -> None:
    """The last one: the device stays so."""
    play.world.attestd("devices", "quarantine", play.berlin.id, "--reason", "test")
    give_up = time.monotonic() + 15
    with httpx.Client(auth=httpx_auth.DeviceAuth(presenter)) as client:
        while (answer := client.get(f"{play.world.origin}/readings")).status_code == 200:
            assert time.monotonic() < give_up
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:attestd:problem:device-suspended"


@pytest.mark.parametrize("options", [["--mode", "0666"], ["--mode", "rw"]])
def test_a_socket_for_everybody_is_not_opened(tmp_path: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "attestd_agent", "serve", "--json", "--socket", str(tmp_path / "s"), *options]
    command += ["--audience", "edge", "--origin", "https://a.example.org", "--state-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["error"]["name"]) == (2, "mode-too-open")
    assert not (tmp_path / "s").exists()
