"""The applications of docs/proxies.md and the programs of docs/programs.md, as they are written there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from attestd.credentials.dpop import make_dpop
from attestd.credentials.jwk import jwk_thumbprint, public_jwk
from attestd.credentials.requests import SoftwareKey
from attestd_agent.programs.door import Door, Presentations
from attestd_agent.programs.httpx_auth import DeviceAuth
from attestd_agent.programs.presenting import Presenter
from tests import authority as a
from tests.edge_site import BOUNDARY, EdgeSite, environment
from tests.gates import free_port

DOCS = Path(__file__).resolve().parents[2] / "docs"
BIN = Path(sys.executable).parent


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


class Holder:
    """Holds a.LEAF_KEY and tokens for it, as a device's session does."""

    def dpop_headers(self, method: str, url: str, *, audience: str, edge_nonce: str = "") -> dict[str, str]:
        now, key = int(time.time()), SoftwareKey(a.LEAF_KEY)
        jkt = jwk_thumbprint(a.LEAF_KEY.public_key())
        token = a.token(aud=audience, iat=now, nbf=now, exp=now + 300, cnf={"jkt": jkt})
        proof = make_dpop(
            sign=key.sign, jwk=public_jwk(key.public_key), method=method, uri=url, token=token, nonce=edge_nonce,
            now=a.NOW, entropy=os.urandom,
        )  # fmt: skip
        return {"Authorization": f"DPoP {token}", "DPoP": proof}


SERVERS = {
    "flask": [str(BIN / "granian"), "--interface", "wsgi"],
    "starlette": [str(BIN / "uvicorn")],
}


@pytest.mark.parametrize("name", SERVERS)
def test_an_application_as_it_is_written(tmp_path: Path, name: str) -> None:
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    site = EdgeSite(tmp_path)
    site.configure(more=f'[tokens]\naudience = "edge"\norigins = ["{origin}"]\n')
    (code,) = [block for block in python_blocks("proxies.md") if name in block.lower()]
    for written, here in {"/var/lib/attestd-edge/edge.toml": str(site.config), "field-to-berlin": BOUNDARY}.items():
        assert code.count(written) == 1
        code = code.replace(written, here)
    module = f"guarded_{name}"
    (tmp_path / f"{module}.py").write_text(code)
    assert f"{module}:app" in (DOCS / "proxies.md").read_text()
    command = [*SERVERS[name], "--host", "127.0.0.1", "--port", str(port), f"{module}:app"]
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen(
            command, cwd=tmp_path, env=environment() | {"PYTHONSAFEPATH": ""}, stdout=log, stderr=log
        )
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                refused = httpx.get(f"{origin}/orders")
                break
            except httpx.TransportError:
                assert program.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < give_up
                time.sleep(0.05)
        assert refused.status_code == 401
        assert refused.json()["type"] == "urn:attestd:problem:no-credential"
        auth = DeviceAuth(Presenter(Holder(), audience="edge", origins=[origin]))
        answer = httpx.get(f"{origin}/orders", auth=auth)
        expected = {"hello": "spiffe://example.org/device/munich/bike-1", "tier": "device", "site": "munich"}
        assert (answer.status_code, answer.json()) == (200, expected)
    finally:
        program.terminate()
        program.wait(20)


@pytest.mark.parametrize("library", ["httpx", "requests"])
def test_a_program_as_it_is_written(tmp_path: Path, library: str) -> None:
    """Up to the network: its request is signed, and then there is nobody."""
    socket, origin = tmp_path / "programs.sock", f"http://127.0.0.1:{free_port()}"
    (code,) = [block for block in python_blocks("programs.md") if f"import {library}\n" in block]
    code = code.replace("/run/attestd-agent/programs.sock", str(socket)).replace("https://api.example.org", origin)
    holder = Holder()
    asked: list[str] = []

    class Counting:
        def dpop_headers(self, method: str, url: str, *, audience: str, edge_nonce: str = "") -> dict[str, str]:
            asked.append(url)
            return holder.dpop_headers(method, url, audience=audience, edge_nonce=edge_nonce)

    end = Door(
        socket, Presentations(Counting(), audiences=["edge"], origins=[origin]), mode=0o600, group=None
    ).serving()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment(), timeout=60
        )
    finally:
        end()
    assert "ConnectError" in done.stderr or "ConnectionError" in done.stderr
    assert asked == [f"{origin}/orders"]


def test_the_door_in_any_language_as_it_is_written() -> None:
    (shown,) = re.findall(r"--data '(.*)'", (DOCS / "programs.md").read_text())
    status, told = Presentations(Holder(), audiences=["edge"], origins=["https://api.example.org"]).answer(
        shown.encode()
    )
    assert status == 200
    (answer,) = re.findall(r"^    (\{.*\})$", (DOCS / "programs.md").read_text(), re.MULTILINE)
    assert set(told) == set(json.loads(answer))
