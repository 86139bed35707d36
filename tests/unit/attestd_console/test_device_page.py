"""A device's page: what it says first, what it shows of the evidence, and that nothing of a device's is markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from attestd.config import AttestationSettings
from attestd.protocol.encoding import b64encode
from attestd.registry import devices
from attestd_console import opened
from tests import logwriter as w
from tests.authenticator import Authenticator
from tests.booted import BOOT, GOOD_FILES, GRUB_COMMANDS, Machine, enrolled, loaders, refer, runtime
from tests.console import ConsoleClient, Markup, console_client, signed_in, touch
from tests.edge_reports import AT, edge_report
from tests.logwriter import Boot
from tests.service import SoftDevice, World

pytestmark = pytest.mark.once

SELECTION = AttestationSettings(pcrs={"sha256": tuple(range(10))})
XSS = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'\u202e\x1b[31m"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance", attestation=SELECTION)


@pytest.fixture
def console(world: World) -> ConsoleClient:
    return console_client(world, "operator")


def page(console: ConsoleClient, world: World, device: SoftDevice, rest: str = "") -> str:
    answer = console.get(f"/fleet/{world.row(device).id}{rest}")
    assert answer.status_code == 200, answer.text
    return answer.text


def words(text: str) -> str:
    """What is shown, without what a style sheet hides."""
    return re.sub(r"\s+", " ", Markup(text).words)


def tampered(world: World, machine: Machine, *, ima: bool = False) -> SoftDevice:
    device = enrolled(world, Machine(), ima=ima)
    machine.present(device, ima=ima)
    assert device.attest().status_code == 202
    return device


def off(kernel: bytes = b"tampered") -> Machine:
    """Secure Boot is off, and another kernel ran."""
    boot = w.grub(w.shim(w.firmware(Boot(), secure_boot=b"\0")), kernel=kernel)
    return Machine(boot=w.exit_boot_services(boot))


# ---- What it says -----------------------------------------------------------------------------------------------


def test_a_tampered_device_says_why_first(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = tampered(world, off())
    text = page(console, world, device)
    shown = words(text)
    assert "Secure Boot is off, and a boot program ran that no reference value knows" in shown
    assert shown.index("Secure Boot is off") < shown.index("Device id")
    assert "Its certificate is suspended." in shown
    assert "SecureBoot = 00" in shown
    assert "secure boot: off" in shown
    assert "not relied on" in shown
    assert set(re.findall(r'<li class="(\w+)"><svg[^>]*><use href="#i-\w+"/></svg><b>([\w ]+)</b>', text)) == {
        ("none", "Firmware"),
        ("none", "Settings"),
        ("bad", "Secure Boot"),
        ("bad", "Boot programs"),
        ("none", "Kernel"),
        ("none", "Running files"),
    }
    assert len(text) < 100_000


def test_a_good_device_has_nothing_to_explain(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    text = page(console, world, enrolled(world, Machine(), ima=False))
    assert "Everything that reference values speak of is as they say" in words(text)
    assert 'class="diff"' not in text
    assert "Nobody was meant to touch it" not in text


def test_a_device_that_waits_has_a_page(world: World, console: ConsoleClient) -> None:
    device = world.device()
    Machine().present(device, ima=False)
    assert device.enroll().status_code == 202
    text = page(console, world, device)
    assert "Not approved yet" in words(text)
    assert "/release" not in text


def test_what_an_operator_decided_is_said_with_the_reason(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    world.operator.post(f"/v1/admin/devices/{world.row(device).id}/quarantine", {"reason": "seen on the street"})
    shown = words(page(console, world, device))
    assert re.search(r"Quarantined by \S+: “seen on the street”", shown)


def test_it_looks_again_for_what_happens_to_this_device_alone(world: World, console: ConsoleClient) -> None:
    device = enrolled(world, Machine(), ima=False)
    (main,) = Markup(page(console, world, device)).all("main")
    assert main["data-device"] == device.id
    assert "data-device" not in Markup(console.get("/fleet").text).all("main")[0]


def test_a_quarantined_device_says_which_edges_refuse_it(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device, name = enrolled(world, Machine(), ima=False), "proxy-1"
    assert world.proxy
    assert name not in words(page(console, world, device))
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"reason": "seen on the street"})
    text = page(console, world, device)
    assert f"0 of 1 edges refuse the device, by what they reported. Not known yet of {name}" in words(text)
    assert "edges" in str(Markup(text).all("main")[0]["data-topics"]).split()
    epoch, version = world.service.publication.bundle(world.clock()).name.split(".")
    bundle = {"epoch": int(epoch), "version": int(version), "issued_at": AT}
    assert world.proxy.post("/v1/proxies/reports", edge_report(1, bundle=bundle)).status_code == 200
    said = words(page(console, world, device))
    assert "The one edge that there is refuses the device, by what it reported." in said


@pytest.mark.parametrize(
    ("found", "tone", "expected"),
    [
        ({"edges": 0, "refuse": 0, "others": []}, "none", ""),
        ({"edges": 742, "refuse": 742, "others": []}, "affirming", "All 742 edges refuse the device"),
        (
            {"edges": 742, "refuse": 740, "others": [{"name": "e-1", "state": "silent", "heard_at": 60}]},
            "warning",
            "740 of 742 edges refuse the device, by what they reported. Not known yet of e-1, which last reported "
            "1 min ago, and 1 more.",
        ),
        (
            {"edges": 2, "refuse": 1, "others": [{"name": "e-1", "state": "never", "heard_at": None}]},
            "warning",
            "1 of 2 edges refuses the device, by what they reported. Not known yet of e-1, which has never reported.",
        ),
    ],
)
def test_edges_in_words(found: dict[str, Any], tone: str, expected: str) -> None:
    look, said = opened.edges(found, now=120)
    assert (look, said.startswith(expected)) == (tone, True), said


def test_files_that_are_not_as_expected_are_named(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    machine.run("/usr/bin/rogue")
    device = tampered(world, machine, ima=True)
    shown = words(page(console, world, device))
    assert "/usr/bin/rogue ran, and is not as reference values say" in shown
    files = words(page(console, world, device, "/attestations/3/files?only=differing"))
    assert "/usr/bin/rogue" in files
    assert "/usr/bin/init" not in files
    assert "/usr/bin/init" in words(page(console, world, device, "/attestations/3/files"))


def test_all_events_page_by_page(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = tampered(world, off())
    shown = words(page(console, world, device, "/attestations/3/events"))
    assert "SecureBoot = 00" in shown
    assert "no reference value speaks of it" in shown


def test_an_earlier_attestation_is_opened_by_its_number(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = tampered(world, off())
    shown = words(page(console, world, device, "?att=1"))
    assert "Shown here is an earlier attestation" in shown
    assert 'class="diff"' not in page(console, world, device, "?att=1")
    assert console.get(f"/fleet/{world.row(device).id}?att=99").status_code == 404


def test_only_those_who_may_see_an_ek_hash_see_it(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    ek_hash = world.row(device).ek_hash.hex()
    assert ek_hash in page(console_client(world, "operator"), world, device)
    seen = page(console_client(world, "viewer"), world, device)
    assert ek_hash not in seen
    assert "/quarantine" not in seen


def test_the_evidence_is_a_file(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = tampered(world, off())
    answer = console.post(f"/fleet/{world.row(device).id}/evidence")
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert answer.get_json()["kind"] == "attestd-evidence"


def test_the_timeline_tells_refusals_with_words(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    for _ in range(2):
        Machine().present(device, ima=False, eventlog=b"no log")
        assert device.attest().status_code == 400
    shown = words(page(console, world, device))
    assert "Attestation refused, 2 times in a row" in shown
    assert "The event log can't be read." in shown


# ---- Whatever a device says is text -----------------------------------------------------------------------------


def harmless(text: str) -> None:
    tags = Markup(text)
    assert all("alert" not in str(attributes) for _, attributes in tags.tags if "src" in attributes)
    assert not any(name in attributes for _, attributes in tags.tags for name in ("onerror", "onload"))
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_names_in_an_event_log_are_text(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    boot = w.firmware(Boot(), options=(w.load_option(XSS, w.hard_drive(), w.file_path(XSS)),))
    boot.measure(4, w.EV.BS_APP, w.image_load(w.hard_drive(), w.file_path(XSS)), w.image(b"evil"))
    w.grub_command(boot, XSS)
    device = tampered(world, Machine(boot=w.exit_boot_services(w.grub(w.shim(boot)))))
    for rest in ("", "/attestations/3/events"):
        text = page(console, world, device, rest)
        harmless(text)
        assert "alert(1)" in words(text)


def test_paths_of_files_are_text(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    machine.run("/tmp/" + XSS)
    device = tampered(world, machine, ima=True)
    for rest in ("", "/attestations/3/files"):
        text = page(console, world, device, rest)
        harmless(text)
        assert "alert(1)" in words(text)


def test_what_the_registry_knows_is_text(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    with world.registry.acting() as c:
        table = devices.devices
        c.execute(
            table.update()
            .where(table.c.id == world.row(device).id)
            .values(serial_number=XSS, manufacturer=XSS, model=XSS, firmware_version=XSS, labels={"ring": XSS})
        )
    text = page(console, world, device)
    harmless(text)
    assert words(text).count("alert(1)") >= 5


def test_a_huge_log_stays_bounded(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT | {"grub_commands": GRUB_COMMANDS})
    boot = w.shim(w.firmware(Boot()))
    for number in range(300):
        w.grub_command(boot, f"set variable_{number}=" + "x" * 200)
        boot.measure(5, w.EV.EFI_ACTION, b"something")
    device = tampered(world, Machine(boot=w.exit_boot_services(w.grub(boot))))
    text = page(console, world, device)
    assert len(text) < 100_000
    assert "more differences are not shown" in words(text)


# ---- Acts -------------------------------------------------------------------------------------------------------


def form(text: str) -> dict[str, Any]:
    return {str(found["name"]): found.get("value") or "" for found in Markup(text).all("input") if found.get("name")}


def act(world: World, console: ConsoleClient, device: SoftDevice, name: str, **said: str) -> Any:
    """Opens the confirm page and sends its form."""
    shown = form(page(console, world, device, f"/{name}"))
    return console.post(f"/fleet/{world.row(device).id}/{name}", {**shown, "reason": "because", **said})


def test_a_quarantine_is_confirmed_and_done(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    shown = words(page(console, world, device, "/quarantine"))
    assert "Its certificate is suspended" in shown
    assert world.row(device).state == "active"
    answer = act(world, console, device, "quarantine", reason="seen on the street")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/fleet/{world.row(device).id}")
    row = world.row(device)
    assert (row.state, row.state_reason) == ("quarantined", "seen on the street")


def test_a_release_says_that_it_will_not_last(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = tampered(world, off())
    text = page(console, world, device, "/release")
    assert "its next attestation will quarantine it again" in words(text)
    assert "data-touch" in text
    assert "Keep quarantined" in words(text)


@pytest.mark.parametrize(
    ("name", "touch"), [("demand", False), ("quarantine", False), ("retire", True), ("replace", True)]
)
def test_dangerous_acts_ask_for_a_touch(world: World, console: ConsoleClient, name: str, touch: bool) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    assert ("data-touch" in page(console, world, device, f"/{name}")) is touch


def test_an_act_on_what_changed_meanwhile_is_not_done(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = tampered(world, off())
    shown = form(page(console, world, device, "/release"))
    path = f"/v1/admin/devices/{world.row(device).id}"
    world.operator.post(f"{path}/release", {"reason": "first"})
    world.operator.post(f"{path}/quarantine", {"reason": "second"})
    answer = console.post(f"/fleet/{world.row(device).id}/release", {**shown, "reason": "because"})
    assert answer.status_code == 409
    assert "Nothing was done." in words(answer.text)
    assert world.row(device).state == "quarantined"


@pytest.mark.parametrize("version", ["", "x", "9" * 30, "-1"])
def test_a_form_without_a_version_does_nothing(world: World, console: ConsoleClient, version: str) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    answer = act(world, console, device, "quarantine", version=version)
    assert answer.status_code == 409
    assert world.row(device).state == "active"


def test_a_release_takes_a_touch_for_this_very_act(world: World) -> None:
    refer(world, boot=BOOT)
    device = tampered(world, off())
    passkey = Authenticator()
    ada = signed_in(world, "operator", passkey=passkey)
    path = f"/fleet/{world.row(device).id}/release"
    shown = form(page(ada, world, device, "/release")) | {"reason": "looked at"}
    without = ada.post(path, shown)
    assert without.status_code == 403
    assert world.row(device).state == "quarantined"
    assert touch(ada, passkey, path, shown | {"once": b64encode(bytes(18))}).status_code == 303
    assert world.row(device).state == "active"


def test_an_act_that_does_not_fit_is_not_offered(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    assert "That can't be done now" in words(page(console, world, device, "/release"))
    assert console.get(f"/fleet/{world.row(device).id}/explode").status_code == 404


def test_a_viewer_can_do_nothing(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    viewer = console_client(world, "viewer")
    answer = act(world, viewer, device, "quarantine")
    assert answer.status_code == 403
    assert world.row(device).state == "active"


def test_the_reason_comes_back_after_a_refusal(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    answer = act(world, console, device, "replace", ek_hash="no hash", reason="broken board")
    assert answer.status_code == 400
    assert form(answer.text)["reason"] == "broken board"


def test_expected_digests_are_those_of_the_manifest(world: World, console: ConsoleClient) -> None:
    refer(world, boot=BOOT)
    text = page(console, world, tampered(world, Machine(kernel=b"tampered")))
    assert all(f'title="{digest}"' in text for digest in loaders(b"kernel"))
