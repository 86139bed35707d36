"""The commands: what they print, for people and for machines, and the exit codes that mean something."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner, Result

from attestd_agent import cli
from attestd_agent.assemble import Options, assemble
from attestd_agent.records import Waiting
from attestd_agent.state import StateDir
from attestd_agent.transport import RootDiffers
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.fake_service import Authority, FakeService, on, problem, utc_now, write_root
from tests.unit.attestd_agent.keysmith import enrolled, record


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    told = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for name in ("SERVER", "CA", "TCTI", "STATE_DIR", "EK", "EK_CERT", "EVENTLOG", "IMA", "CHECK_IN"):
        monkeypatch.delenv(f"ATTESTD_AGENT_{name}", raising=False)
    yield
    root.handlers[:], root.level = kept
    for number, handler in told.items():  # `enroll --wait` takes them over for as long as its process lives
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def call(command: str, *options: str, state: bool = True, env: dict[str, str] | None = None) -> Result:
        where = ["--state-dir", str(tmp_path / "state")] if state else []
        return CliRunner().invoke(cli.app, [command, *where, *options], env=env)

    return call


@pytest.fixture
def there(tpm: SoftwareTpm, service: FakeService, tmp_path: Path) -> list[str]:
    """Where TPM and service are."""
    root = write_root(service.authority.root.public_bytes(Encoding.DER), tmp_path)
    return ["--tcti", tpm.tcti, "--server", service.url, "--ca", str(root)]


def fingerprint(service: FakeService) -> str:
    return "sha256:" + hashlib.sha256(service.authority.root.public_bytes(Encoding.DER)).hexdigest()


# ---- A device's life ------------------------------------------------------------------------------------------------


def test_a_device_s_life(run: Run, there: list[str], tpm: SoftwareTpm, service: FakeService) -> None:
    found = run("status", "--json")
    assert (found.exit_code, json.loads(found.stdout)["state"]) == (3, "not enrolled")
    found = run("enroll", *there, "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["state"], told["device_id"], told["server"]) == ("enrolled", service.device_id, service.url)
    assert told["serial"] == f"{service.issued[0].serial_number:040x}"
    # From here on the state folder knows the service and its root.
    tcti = ["--tcti", tpm.tcti]
    assert json.loads(run("run", "--once", *tcti, "--json").stdout)["state"] == "attested"
    assert json.loads(run("renew", *tcti, "--json").stdout)["state"] == "renewed"
    assert json.loads(run("renew", "--new-key", *tcti, "--json").stdout)["state"] == "renewed"
    assert run("token", "--audience", "readings", *tcti).stdout.startswith("token.readings.dpop.")
    assert json.loads(run("token", "--audience", "r", "--tls", *tcti, "--json").stdout)["expires_in"] == 600
    found = run("status", "--json")
    assert (found.exit_code, json.loads(found.stdout)["state"]) == (0, "healthy")
    assert json.loads(found.stdout)["serial"] == f"{service.issued[-1].serial_number:040x}"
    assert len(service.issued) == 4


@pytest.mark.parametrize("by", ["option", "environment"])
def test_named_logs_go_with_whatever_attests(
    run: Run, there: list[str], service: FakeService, tmp_path: Path, by: str
) -> None:
    (tmp_path / "events").write_bytes(b"events")
    (tmp_path / "list").write_bytes(b"measurements")
    named = ["--eventlog", str(tmp_path / "events"), "--ima", str(tmp_path / "list")]
    environ = {"ATTESTD_AGENT_EVENTLOG": named[1], "ATTESTD_AGENT_IMA": named[3]} if by == "environment" else {}
    named, tcti = [] if environ else named, there[:2]
    service.wants, service.demanded = ("eventlog", "ima"), "sha256:0,1,2,3,4,5,6,7 eventlog ima"
    assert run("enroll", *there, *named, env=environ).exit_code == 0
    assert run("run", "--once", *tcti, *named, env=environ).exit_code == 0
    service.hooks.append(on("/v1/renewals", problem("attestation-overdue", 403)))
    assert run("renew", *tcti, *named, env=environ).exit_code == 0
    service.hooks.append(on("/v1/tokens", problem("attestation-overdue", 403)))
    assert run("token", "--audience", "readings", *tcti, *named, env=environ).exit_code == 0
    assert [(one.eventlog, one.ima) for one in service.evidence] == 4 * [(b"events", b"measurements")]


def test_this_machine_s_logs_are_not_a_software_tpm_s(run: Run, there: list[str], service: FakeService) -> None:
    service.wants = ("eventlog", "ima")
    assert run("enroll", *there).exit_code == 0
    (sent,) = service.evidence
    assert (sent.eventlog, sent.ima) == (None, None)


@pytest.mark.parametrize("seconds", ["-1", "86401", "often"])
def test_a_check_in_that_can_t_be(run: Run, there: list[str], seconds: str) -> None:
    assert run("run", *there, "--check-in", seconds).exit_code == 2


def test_for_people_it_reads_well(run: Run, there: list[str], service: FakeService) -> None:
    assert "what to do:" in run("status").stdout
    for command in (["enroll", *there], ["status"]):
        text = run(*command).stdout
        assert f"spiffe://example.org/device/yard/{service.device_id}" in text
        assert "expires:" in text
        assert "renews:" in text


def test_enrolling_twice_is_no_work_but_by_request(run: Run, there: list[str], service: FakeService) -> None:
    run("enroll", *there)
    found = run("enroll", *there)
    assert (found.exit_code, "already enrolled" in found.stdout, len(service.issued)) == (0, True, 1)
    assert run("enroll", *there, "--again").exit_code == 0
    assert len(service.issued) == 2


def test_a_device_that_waits(run: Run, there: list[str], tpm: SoftwareTpm, service: FakeService) -> None:
    service.state, service.retry_after = "pending", 1
    found = run("enroll", *there, "--json")
    assert (found.exit_code, json.loads(found.stdout)["state"]) == (4, "pending")
    found = run("status", "--json")
    assert (found.exit_code, json.loads(found.stdout)["state"]) == (4, "pending")
    assert run("run", "--once", "--tcti", tpm.tcti).exit_code == 4

    def approve(_: Any) -> None:
        service.state = "approved"

    service.hooks.append(on("/v1/enrollments/complete", approve))
    found = run("enroll", *there, "--wait")
    assert found.exit_code == 0, found.output
    assert run("status").exit_code == 0


def test_wait_polls_until_it_is_approved(run: Run, there: list[str], service: FakeService) -> None:
    service.state, service.retry_after = "pending", 1

    def approve(handler: Any) -> None:
        if service.asked("/v1/enrollments/complete") == 2:
            service.state = "approved"

    service.hooks.append(on("/v1/enrollments/complete", approve))
    found = run("enroll", *there, "--wait", "--json")
    assert found.exit_code == 0, found.output
    assert service.asked("/v1/enrollments/complete") == 2


# ---- Status ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "waits", "said"),
    [
        (0, None, (0, "healthy")),
        (3590, None, (0, "healthy")),
        (3601, None, (5, "expired")),
        (0, "quarantined", (4, "quarantined")),
        (3601, "pending", (4, "pending")),
    ],
)
def test_status_says_how_the_device_is(
    run: Run, tmp_path: Path, age: int, waits: str | None, said: tuple[int, str]
) -> None:
    code, word = said
    now = int(utc_now().timestamp())
    state = StateDir(tmp_path / "state")
    with state.exclusive():
        state.save(enrolled(record(obtained_at=now - age), begin=utc_now()))
        if waits:
            state.save_waiting(Waiting(waits, "https://attestd.test", now, now + 30))
    found = run("status", "--json")
    assert (found.exit_code, json.loads(found.stdout)["state"]) == (code, word)
    assert run("status").exit_code == code
    assert word in run("status").stdout


def test_status_needs_neither_tpm_library_nor_service(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "attestd_agent.device", None)
    assert run("status").exit_code == 3
    found = run("enroll", "--server", "https://attestd.test", "--ca", "sha256:" + "0" * 64, "--json")
    assert (found.exit_code, json.loads(found.stdout)["error"]["name"]) == (2, "tpm-library-missing")


# ---- Evidence -------------------------------------------------------------------------------------------------------


def test_evidence_is_what_the_inventory_wants(run: Run, tpm: SoftwareTpm) -> None:
    from attestd_agent.device import Device

    found = run("evidence", "--tcti", tpm.tcti, "--json", state=False)
    assert found.exit_code == 0
    told = json.loads(found.stdout)
    ek = Device(tpm.tcti).endorsement()
    assert told["ek_hash"] == hashlib.sha256(ek.public).hexdigest()
    assert told["certificates"][0]["sha256"] == hashlib.sha256(ek.certificates[0]).hexdigest()
    assert set(told["pcrs"]["sha256"]) == {str(index) for index in range(24)}
    text = run("evidence", "--tcti", tpm.tcti, state=False).stdout
    assert told["ek_hash"] in text
    assert "sha256:7" in text


def test_evidence_of_a_tpm_without_certificates(run: Run, blank_tpm: SoftwareTpm) -> None:
    found = run("evidence", "--tcti", blank_tpm.tcti, "--ek", "ecc-p256", state=False)
    assert found.exit_code == 0
    assert "inventory" in found.stdout


def test_a_certificate_from_a_file(run: Run, tpm: SoftwareTpm, tmp_path: Path) -> None:
    from attestd_agent.device import Device

    path = tmp_path / "ek.der"
    path.write_bytes(Device(tpm.tcti).endorsement(kind="ecc-p384-high").certificates[0])
    found = run("evidence", "--tcti", tpm.tcti, "--ek-cert", str(path), "--json", state=False)
    assert json.loads(found.stdout)["ek"] == "ecc-p384-high"
    path.write_bytes(b"nonsense")
    found = run("evidence", "--tcti", tpm.tcti, "--ek-cert", str(path), "--json", state=False)
    assert json.loads(found.stdout)["error"]["name"] == "not-a-certificate"
    found = run("evidence", "--tcti", tpm.tcti, "--ek-cert", str(tmp_path / "none"), state=False)
    assert found.exit_code == 2


# ---- Errors ---------------------------------------------------------------------------------------------------------


def _name(found: Result) -> str:
    name: str = json.loads(found.stdout)["error"]["name"]
    return name


def test_each_kind_of_failure_has_its_code(
    run: Run, there: list[str], tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    tcti, server, ca = there[:2], there[2:4], there[4:]
    cases: list[tuple[int, str, list[str]]] = [
        (2, "server-not-named", ["enroll", *tcti]),
        (2, "root-not-named", ["enroll", *tcti, *server]),
        (2, "server-url-invalid", ["enroll", *tcti, *ca, "--server", "http://attestd.test"]),
        (2, "file-unreadable", ["enroll", *tcti, *server, "--ca", str(tmp_path / "none")]),
        (2, "no-endorsement-key", ["enroll", *there, "--ek", "rsa-1024"]),
        (1, "root-differs", ["enroll", *tcti, *server, "--ca", "sha256:" + "0" * 64]),
        (3, "not-enrolled", ["renew", *tcti]),
        (3, "not-enrolled", ["token", "--audience", "a", *tcti]),
        (8, "tpm-unavailable", ["enroll", *server, *ca, "--tcti", "swtpm:path=/nonexistent/socket"]),
        (7, "server-unreachable", ["enroll", *tcti, *ca, "--server", "https://127.0.0.1:1"]),
    ]
    for code, name, command in cases:
        found = run(*command, "--json")
        assert (found.exit_code, _name(found)) == (code, name), command


def test_a_refusal_is_told_whole(run: Run, there: list[str], service: FakeService) -> None:
    refusal = problem(
        "ek-template-unknown", 403, detail="No.", seen="x", expected="y", remedy="Do z.", request_id="r-9"
    )
    service.hooks += [on("/v1/enrollments", replace(refusal)), on("/v1/enrollments", replace(refusal))]
    found = run("enroll", *there, "--json")
    assert found.exit_code == 6
    told = json.loads(found.stdout)["error"]
    assert told["problem"] == "ek-template-unknown"
    assert (told["seen"], told["expected"], told["remedy"], told["request_id"]) == ("x", "y", "Do z.", "r-9")
    text = run("enroll", *there).output
    for word in ("ek-template-unknown", "No.", "seen: x", "expected: y", "Do z.", "r-9"):
        assert word in text


def test_a_broken_state_is_named(run: Run, tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    with state.exclusive():
        state.save(enrolled())
    state.chain_path.write_text("")
    found = run("status", "--json")
    assert (found.exit_code, _name(found)) == (1, "state-broken")


@pytest.mark.parametrize("command", ["enroll", "run", "status", "evidence", "token", "renew"])
def test_help_teaches_the_exit_codes(command: str) -> None:
    text = " ".join(CliRunner().invoke(cli.app, [command, "--help"]).stdout.split())
    for said in ("0 done", "3 not enrolled", "4 waiting", "5 the certificate has expired", "8 the TPM"):
        assert said in text


# ---- Roots ----------------------------------------------------------------------------------------------------------


def test_the_root_is_pinned_by_its_fingerprint_and_kept(
    run: Run, tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    options = ["--tcti", tpm.tcti, "--server", service.url]
    assert run("enroll", *options, "--ca", fingerprint(service)).exit_code == 0
    assert StateDir(tmp_path / "state").roots() == service.root_pem
    assert run("enroll", *options, "--again", "--ca", fingerprint(service).upper().replace("SHA", "sha")).exit_code == 0
    assert service.asked("/v1/root") == 1
    found = run("enroll", *options, "--again", "--ca", "sha256:" + "1" * 64, "--json")
    assert _name(found) == "root-differs"
    assert StateDir(tmp_path / "state").roots() == service.root_pem


def test_a_server_with_another_root_learns_nothing(tpm: SoftwareTpm, service: FakeService, tmp_path: Path) -> None:
    wanted = fingerprint(service)
    with FakeService(Authority(utc_now())).running() as impostor:
        with pytest.raises(RootDiffers):
            assemble(Options(tmp_path / "state", tcti=tpm.tcti, server=impostor.url, ca=wanted))
        assert [path for _, path, _ in impostor.requests] == ["/v1/root"]


def test_a_new_root_file_replaces_the_kept_one(
    run: Run, there: list[str], tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    run("enroll", *there)
    other = Authority(utc_now())
    path = write_root(other.root.public_bytes(Encoding.DER), tmp_path)
    found = run("run", "--once", "--tcti", tpm.tcti, "--ca", str(path), "--json")
    assert _name(found) == "server-not-trusted"
    assert StateDir(tmp_path / "state").roots() == path.read_bytes()


def test_the_floor_is_taken_up_from_the_state(tpm: SoftwareTpm, service: FakeService, tmp_path: Path) -> None:
    far = int(utc_now().timestamp()) + 10**8
    state = StateDir(tmp_path / "state")
    with state.exclusive():
        state.raise_floor(far)
    options = Options(tmp_path / "state", tcti=tpm.tcti, server=service.url, ca=fingerprint(service))
    assert int(assemble(options).clock.floor.timestamp()) == far
    with state.exclusive():
        state.save(enrolled(begin=utc_now().replace(year=2035)))
    assert assemble(options).clock.floor.year == 2035


def test_the_state_folder_of_systemd_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "attestd_agent", "status", "--json"],
        env={"STATE_DIRECTORY": str(tmp_path / "state"), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, json.loads(done.stdout)) == (3, {"state": "not enrolled"})
