"""A device's past through the admin API: its timeline, its attestations opened, its endorsement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attestd.config import AttestationSettings
from attestd.registry import attestations, tables
from tests import logwriter as w
from tests.booted import BOOT, GOOD_FILES, Machine, enrolled, kernel_digest, loaders, refer, runtime
from tests.logwriter import Boot
from tests.service import SoftDevice, World, problem

pytestmark = pytest.mark.database

SELECTION = AttestationSettings(pcrs={"sha256": tuple(range(10))})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance", attestation=SELECTION)


def path(world: World, device: SoftDevice, rest: str = "") -> str:
    return f"/v1/admin/devices/{world.row(device).id}{rest}"


def history(world: World, device: SoftDevice, query: str = "") -> dict[str, Any]:
    answer = world.viewer.get(path(world, device, f"/history{query}"))
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def opened(world: World, device: SoftDevice, number: int, rest: str = "") -> dict[str, Any]:
    answer = world.viewer.get(path(world, device, f"/attestations/{number}{rest}"))
    assert answer.status_code == 200, answer.text
    return answer.get_json()


def told(world: World, device: SoftDevice) -> list[tuple[str, int]]:
    """Attestations of the history: status and how many."""
    return [
        (entry["status"], entry["count"])
        for entry in history(world, device)["entries"]
        if entry["kind"] == "attestation"
    ]


# ---- The history ------------------------------------------------------------------------------------------------


def test_equal_attestations_are_one_entry(world: World) -> None:
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    for _ in range(3):
        world.clock.advance(minutes=10)
        machine.present(device, ima=False)
        assert device.attest().status_code == 200
    # The first was appraised before anybody had said which tier it is of, by the same manifest.
    assert told(world, device) == [("affirming", 5)]
    (entry,) = [entry for entry in history(world, device)["entries"] if entry["kind"] == "attestation"]
    assert (entry["first"], entry["last"], entry["ended_at"], entry["kept"]) == (1, 5, None, True)
    assert entry["at"] - entry["first_at"] >= 1800


def test_another_result_begins_another_entry_and_so_does_the_way_back(world: World) -> None:
    refer(world, boot=BOOT)
    good, bad = Machine(), Machine(kernel=b"tampered")
    device = enrolled(world, good, ima=False)
    before = told(world, device)
    for machine, status in ((bad, 202), (good, 202), (bad, 202), (bad, 202)):
        machine.present(device, ima=False)
        assert device.attest().status_code == status
    assert told(world, device) == [("contraindicated", 2), ("affirming", 1), ("contraindicated", 1), *before]


def test_a_restart_begins_another_entry(world: World) -> None:
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    device.tpm.clock = {"clock": 1 << 40, "reset_count": 8, "restart_count": 0}
    machine.present(device, ima=False)
    assert device.attest().status_code == 200
    boots = [entry["boot"] for entry in history(world, device)["entries"] if entry["kind"] == "attestation"]
    assert boots[0] == "8.0"
    assert len(boots) == 2


def test_the_history_has_acts_certificates_and_refusals_in_one_order(world: World) -> None:
    refer(world, boot=BOOT)
    machine = Machine()
    device = enrolled(world, machine, ima=False)
    world.clock.advance(minutes=1)
    for _ in range(3):
        machine.present(device, ima=False, eventlog=b"no log")
        assert device.attest().status_code == 400
    world.clock.advance(minutes=1)
    answer = world.operator.post(path(world, device, "/quarantine"), {"reason": "seen on the street"})
    assert answer.status_code == 200
    entries = history(world, device)["entries"]
    assert [entry["at"] for entry in entries] == sorted((entry["at"] for entry in entries), reverse=True)
    acts = [(entry["act"], entry["count"]) for entry in entries if entry["kind"] == "act"]
    assert acts[:2] == [("quarantine", 1), ("refuse-attestation", 3)]
    assert entries[0]["detail"]["reason"] == "seen on the street"
    assert entries[1]["detail"]["why"] == "malformed-event-log"
    assert any(entry["kind"] == "credential" for entry in entries)


def test_pages_leave_nothing_out_and_repeat_nothing(world: World) -> None:
    refer(world, boot=BOOT)
    good, bad = Machine(), Machine(kernel=b"tampered")
    device = enrolled(world, good, ima=False)
    for machine in (bad, good) * 3:
        world.clock.advance(seconds=30)
        machine.present(device, ima=False)
        device.attest()
    whole = history(world, device)["entries"]
    assert history(world, device)["before"] is None
    found: list[Any] = []
    place = ""
    while True:
        page = history(world, device, f"?limit=2{place}")
        assert len(page["entries"]) <= 2
        found += page["entries"]
        if page["before"] is None:
            break
        place = f"&before={page['before']}"
    assert found == whole


@pytest.mark.parametrize("place", ["1", "1.2.3", "1.2.3.x", "1.2.3.4.5", "-1.2.3.4", "9" * 19 + ".1.1.1"])
def test_a_place_that_is_none(world: World, place: str) -> None:
    device = enrolled(world, Machine(), ima=False)
    assert problem(world.viewer.get(path(world, device, f"/history?before={place}"))) == "place-unknown"


@pytest.mark.parametrize("rest", ["/history", "/attestations/1", "/endorsement", "/attestations/1/files"])
def test_an_unknown_device(world: World, rest: str) -> None:
    answer = world.viewer.get(f"/v1/admin/devices/{'a' * 26}{rest}")
    assert (answer.status_code, problem(answer)) == (404, "unknown-device")


def test_runs_and_their_evidence_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    boot = Machine().boot
    for number in range(attestations.MAX_OPENED + 2):
        Machine(boot=boot.measure(5, w.EV.EFI_ACTION, f"boot {number}".encode())).present(device, ima=False)
        assert device.attest().status_code == 200
    with world.registry.reading() as c:
        runs = attestations.page(c, world.row(device).id)
    assert [run.inputs is not None for run in runs[:-1]] == [True] * attestations.MAX_OPENED + [False] * (
        len(runs) - 1 - attestations.MAX_OPENED
    )
    first = opened(world, device, 1)
    assert first["explanation"] is None
    assert first["result"]["status"] == "affirming"


# ---- An attestation, opened -------------------------------------------------------------------------------------


def tampered(world: World, machine: Machine, *, ima: bool = False) -> tuple[SoftDevice, dict[str, Any]]:
    """A device that was good once, and what its page says after it booted this machine."""
    device = enrolled(world, Machine(), ima=ima)
    machine.present(device, ima=ima)
    assert device.attest().status_code == 202
    number = history(world, device)["entries"]
    last = next(entry["last"] for entry in number if entry["kind"] == "attestation")
    return device, opened(world, device, last)


def standings(page: dict[str, Any]) -> dict[str, str]:
    return {link["stage"]: link["standing"] for link in page["explanation"]["chain"]}


def test_a_good_one_has_no_differences(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    page = opened(world, device, 1)
    assert page["explanation"]["differences"] == []
    assert standings(page)["boot-loader"] == standings(page)["secure-boot"] == "expected"
    assert standings(page)["files"] == standings(page)["settings"] == "unjudged"
    assert "differs" not in {pcr["standing"] for pcr in page["explanation"]["pcrs"]}


def test_a_tampered_kernel_is_named_by_its_event(world: World) -> None:
    digest = refer(world, boot=BOOT)
    machine = Machine(kernel=b"tampered")
    _, page = tampered(world, machine)
    (found,) = page["explanation"]["differences"]
    assert (found["fact"], found["pcr"], found["stage"], found["relied"]) == ("loaders", 4, "boot-loader", True)
    assert found["digest"] == found["value"] == kernel_digest(b"tampered")
    assert found["type"] == "EV_EFI_BOOT_SERVICES_APPLICATION"
    (expected,) = found["expected"]
    assert (expected["manifest"], expected["digest"], expected["ends"]) == ("model", digest, None)
    assert set(expected["values"]) == set(loaders(b"kernel"))
    assert page["result"]["reasons"] == [found["reason"]]
    log = page["explanation"]["log"]
    told = [entry for entry in log["folded"] if "number" in entry]
    assert [entry["number"] for entry in told] == [found["event"]]
    last = log["folded"][-1]
    assert (last["standing"], last["last"]) == ("unrelied", log["events"])
    assert standings(page) == {
        "firmware": "unjudged",
        "settings": "unjudged",
        "secure-boot": "expected",
        "boot-loader": "differs",
        "kernel": "unrelied",
        "files": "unrelied",
    }
    of_pcr = {pcr["pcr"]: pcr["standing"] for pcr in page["explanation"]["pcrs"]}
    assert (of_pcr[4], of_pcr[7], of_pcr[8]) == ("differs", "expected", "unjudged")


def test_secure_boot_that_is_off_comes_first_and_ends_no_reliance(world: World) -> None:
    refer(world, boot=BOOT)
    boot = w.exit_boot_services(w.grub(w.shim(w.firmware(Boot(), secure_boot=b"\0")), kernel=b"tampered"))
    _, page = tampered(world, Machine(boot=boot))
    first, second = page["explanation"]["differences"]
    assert (first["fact"], first["value"], first["name"]) == ("secure_boot", False, "SecureBoot = 00")
    assert first["expected"][0]["values"] == [True]
    assert second["fact"] == "loaders"
    assert first["event"] < second["event"]
    assert (standings(page)["secure-boot"], standings(page)["boot-loader"]) == ("differs", "differs")
    between = [entry for entry in page["explanation"]["log"]["folded"] if entry.get("first", 0) > first["event"]]
    assert between[0]["standing"] != "unrelied"


def test_a_pcr_that_differs_by_value_names_no_event(world: World) -> None:
    machine = Machine()
    good = machine.pcrs()["sha256"][4].hex()
    refer(world, pcrs={"sha256": {"4": [good]}})
    _, page = tampered(world, Machine(kernel=b"tampered"))
    (found,) = page["explanation"]["differences"]
    assert (found["event"], found["pcr"], found["bank"]) == (None, 4, "sha256")
    assert found["expected"][0]["values"] == [good]
    assert page["explanation"]["log"]["standings"]["differs"] == 0
    assert page["explanation"]["log"]["standings"]["suspect"] > 0


def test_an_end_of_a_manifest_is_told(world: World) -> None:
    refer(world, boot=BOOT)
    old = refer(world, boot=BOOT | {"loaders": loaders(b"former")}, name="old")
    with world.registry.acting() as c:
        c.execute(
            tables.reference_manifests.update()
            .where(tables.reference_manifests.c.digest == old)
            .values(until=int(world.clock().timestamp()) + 900)
        )
    world.clock.advance(seconds=2)
    _, page = tampered(world, Machine(kernel=b"tampered"))
    ends = {one["manifest"]: one["ends"] for one in page["explanation"]["differences"][0]["expected"]}
    assert ends["model"] is None
    assert ends["old"] > world.clock().timestamp()


def test_a_digest_is_known_from_other_devices_and_from_manifests_that_do_not_decide(world: World) -> None:
    refer(world, boot=BOOT)
    _, page = tampered(world, Machine(kernel=b"tampered"))
    assert page["explanation"]["differences"][0]["known"] == {"devices": 0, "some": [], "manifests": [], "looked": 1}
    refer(world, "monitor", name="next", boot=BOOT | {"loaders": loaders(b"tampered")})
    other, page = tampered(world, Machine(kernel=b"tampered"))
    known = page["explanation"]["differences"][0]["known"]
    assert (known["devices"], len(known["some"])) == (1, 1)
    assert str(world.row(other).id) not in known["some"]
    assert [manifest["name"] for manifest in known["manifests"]] == ["next"]


def test_files_that_ran_are_told_page_by_page(world: World) -> None:
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    machine = Machine()
    device = enrolled(world, machine)
    for number in range(5):
        machine.run(f"/usr/bin/rogue-{number}")
    machine.present(device)
    assert device.attest().status_code == 202
    last = next(e["last"] for e in history(world, device)["entries"] if e["kind"] == "attestation")
    page = opened(world, device, last)
    assert standings(page)["files"] == "differs"
    assert page["explanation"]["differences"] == []
    assert (page["explanation"]["files"]["refused"], page["explanation"]["files"]["entries"]) == (5, 8)
    assert [one["path"] for one in page["explanation"]["files"]["refusals"]] == [
        f"/usr/bin/rogue-{n}" for n in range(5)
    ]
    files = opened(world, device, last, "/files?limit=3")
    assert [entry["number"] for entry in files["entries"]] == [1, 2, 3]
    assert (files["total"], files["after"]) == (8, 3)
    rest = opened(world, device, last, "/files?after=3")
    assert [bool(entry["why"]) for entry in rest["entries"]] == [True] * 5
    some = opened(world, device, last, "/files?only=differing&limit=2")
    assert [entry["number"] for entry in some["entries"]] == [4, 5]
    assert some["after"] == 5
    assert problem(world.viewer.get(path(world, device, f"/attestations/{last}/files?only=x"))) == "query-malformed"


def test_all_events_page_by_page(world: World) -> None:
    refer(world, boot=BOOT)
    device = enrolled(world, Machine(), ima=False)
    whole = opened(world, device, 1, "/events")["events"]
    assert len(whole) == opened(world, device, 1)["explanation"]["log"]["events"]
    found: list[Any] = []
    after = 0
    while after is not None:
        page = opened(world, device, 1, f"/events?limit=7&after={after}")
        found += page["events"]
        after = page["after"]
    assert found == whole


def test_one_that_is_not_kept(world: World) -> None:
    device = enrolled(world, Machine(), ima=False)
    for number in ("0", "99", "x", "9" * 19):
        answer = world.viewer.get(path(world, device, f"/attestations/{number}"))
        assert (answer.status_code, problem(answer)) == (404, "attestation-unknown")


# ---- The endorsement --------------------------------------------------------------------------------------------


def test_the_chain_of_a_tpm(world: World) -> None:
    device = enrolled(world, Machine(), ima=False)
    seen = world.operator.get(path(world, device, "/endorsement")).get_json()
    assert seen["kind"] == "certificate"
    own, *above = seen["certificates"]
    assert own["own"]
    assert own["kept"]
    assert above[-1]["root"]
    assert above[-1]["trusted"]
    assert all("sha256" in link for link in seen["certificates"])


def test_a_viewer_sees_no_certificate_of_the_tpm_itself(world: World) -> None:
    device = enrolled(world, Machine(), ima=False)
    own, *above = world.viewer.get(path(world, device, "/endorsement")).get_json()["certificates"]
    assert "sha256" not in own
    assert own["subject"] == ""
    assert all("sha256" in link for link in above)
