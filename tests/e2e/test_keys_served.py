"""The real service with encrypted key files, and with its keys in a token that goes away and comes back."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_serving import BIN, Served, attestd, serve
from tests.softhsm import MODULE, SoftHsm, softhsm

pytestmark = pytest.mark.timeout(240)
PHRASE = "correct horse battery staple"
TIME = "/v1/time?nonce=" + "A" * 43


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(PHRASE + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def token(tmp_path: Path) -> Iterator[SoftHsm]:
    if not Path(MODULE).exists():
        pytest.skip("softhsm2 is not installed")
    with softhsm(tmp_path / "hsm") as found:
        yield found


def until_answered(served: Served, path: str, status: int) -> httpx.Response:
    deadline = time.monotonic() + 30
    while (answer := served.get(path)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
    return answer


def test_encrypted_from_the_first_day(tmp_path: Path, passphrase: Path) -> None:
    folder = tmp_path / "instance"
    attestd(folder, "init", "--trust-domain", "example.org", "--encrypt-keys", "--passphrase-file", str(passphrase))
    assert all(b"ENCRYPTED" in path.read_bytes()[:40] for path in (folder / "keys").glob("*.pem"))
    served = serve(folder)
    try:
        assert until_answered(served, "/readyz", 200)
        assert served.get(TIME).status_code == 200
    finally:
        served.stop()
    assert PHRASE not in (folder / "log").read_text()
    passphrase.rename(tmp_path / "away")
    said = attestd(folder, "serve", code=3)
    assert "passphrase" in said
    assert "keys/" not in said or PHRASE not in said


def test_encrypted_afterwards_while_it_runs(tmp_path: Path, passphrase: Path) -> None:
    """The service took its keys from plain files; it takes up the next change with the passphrase."""
    folder = tmp_path / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    attestd(folder, "ca", "encrypt", "--passphrase-file", str(passphrase))
    assert "nothing was plain" in attestd(folder, "ca", "encrypt")
    served = serve(folder)
    try:
        kids = {key["kid"] for key in served.get("/v1/jwks").json()["keys"]}
        attestd(folder, "ca", "rotate", "token", "--now")
        attestd(folder, "ca", "rotate", "token", "--now")
        attestd(folder, "ca", "rotate", "token", "--now")
        deadline = time.monotonic() + 20
        while {key["kid"] for key in served.get("/v1/jwks").json()["keys"]} == kids:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
    finally:
        served.stop()
    assert all(b"ENCRYPTED" in path.read_bytes()[:40] for path in (folder / "keys").glob("*.pem"))
    rows = json.loads(attestd(folder, "ca", "list", "--json"))["keys"]
    assert {row["place"] for row in rows if row["kind"] != "sealing"} == {"encrypted file"}


def typed(command: list[str], *lines: str) -> tuple[int, str]:
    """Runs a command on a terminal, and types a line at each question."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdin=follower, stdout=subprocess.PIPE, stderr=follower, start_new_session=True)
    os.close(follower)
    waiting = list(lines)
    said = b""
    while waiting:
        said += os.read(leader, 1024)
        if said.rstrip().endswith(b":"):
            time.sleep(0.3)  # getpass throws away what was typed before it asked
            os.write(leader, waiting.pop(0).encode() + b"\n")
            said += b"|"
    output = process.communicate(timeout=60)[0]
    os.close(leader)
    return process.returncode, (said + output).decode()


def test_a_person_is_asked_twice(tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    command = [str(BIN / "attestd"), "init", "--trust-domain", "example.org", "--encrypt-keys", "--dir", str(folder)]
    code, said = typed(command, PHRASE, PHRASE + "!")
    assert code == 3
    assert not folder.exists()
    code, said = typed(command, PHRASE, PHRASE)
    assert code == 0, said
    assert PHRASE not in said
    assert 'passphrase_file = "$CREDENTIALS_DIRECTORY/attestd-passphrase"' in (folder / "attestd.toml").read_text()
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "attestd-passphrase").write_text(PHRASE)
    (credentials / "attestd-passphrase").chmod(0o440)
    environ = os.environ | {"CREDENTIALS_DIRECTORY": str(credentials)}
    doctor = [str(BIN / "attestd"), "doctor", "--dir", str(folder)]
    assert subprocess.run(doctor, env=environ, capture_output=True, check=False).returncode == 0
    assert subprocess.run(doctor, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 1


def test_keys_in_a_token(tmp_path: Path, token: SoftHsm) -> None:
    folder = tmp_path / "instance"
    place = ["--pkcs11-module", MODULE, "--token-label", token.place.token, "--pin-file", str(token.pin_file)]
    attestd(folder, "init", "--trust-domain", "example.org", *place)
    assert [path.name for path in (folder / "keys").iterdir()] == ["sealing.json"]
    served = serve(folder)
    try:
        assert until_answered(served, "/readyz", 200)
        assert served.get(TIME).status_code == 200
        token.pull()
        problem = until_answered(served, TIME, 503).json()
        assert problem["type"] == "urn:attestd:problem:key-token-unavailable"
        token.insert()
        assert until_answered(served, TIME, 200)
        attestd(folder, "ca", "rotate", "bundle", "--now")
        assert until_answered(served, TIME, 200)
    finally:
        served.stop()
    assert attestd(folder, "ca", "list").count("token: attestd-") == 8
    assert "0 problems" in attestd(folder, "doctor")


def test_init_names_options_that_belong_together(tmp_path: Path, passphrase: Path) -> None:
    for words in (("--pkcs11-module", MODULE), ("--passphrase-file", str(passphrase)), ("--token-label", "x")):
        assert "belong" in attestd(tmp_path / "i", "init", "--trust-domain", "example.org", *words, code=2)
