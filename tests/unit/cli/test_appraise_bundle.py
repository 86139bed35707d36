"""`attestd evidence export` and `attestd appraise bundle`: anybody draws the result again, octet by octet, or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attestd.config import AttestationSettings
from attestd.protocol.encoding import b64decode, b64encode, read_object, write_object
from tests import ek_ca
from tests.booted import BOOT, GOOD_FILES, Machine, enrolled, kernel_digest, refer, runtime
from tests.commands import Ran, Run
from tests.service import SoftDevice, World, problem

SELECTION = AttestationSettings(pcrs={"sha256": tuple(range(10))})
LIMIT = 1 << 24


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance", attestation=SELECTION)


@pytest.fixture
def device(world: World) -> SoftDevice:
    """Attested twice under references, its IMA list in two parts."""
    refer(world, boot=BOOT, runtime=runtime(*GOOD_FILES))
    refer(world, "monitor", name="next", boot=BOOT, runtime=runtime("/usr/bin/init"))
    machine = Machine()
    found = enrolled(world, machine)
    machine.run("/usr/bin/vim")
    machine.present(found, ima_from=3)
    assert found.attest().status_code == 200
    return found


def exported(world: World, device: SoftDevice, query: str = "") -> bytes:
    answer = world.operator.get(f"/v1/admin/devices/{device.id}/evidence{query}")
    assert answer.status_code == 200, answer.text
    return answer.data


class Auditor:
    """Somebody elsewhere, with the file alone."""

    def __init__(self, folder: Path, run: Run) -> None:
        self._folder, self._run = folder, run

    def appraise(self, bundle: bytes, *options: object) -> Ran:
        (self._folder / "bundle.json").write_bytes(bundle)
        return self._run("appraise", "bundle", self._folder / "bundle.json", *options, "--json")


@pytest.fixture
def auditor(tmp_path: Path, run: Run) -> Auditor:
    return Auditor(tmp_path, run)


def changed(bundle: bytes, part: str, change: Mapping[str, Any]) -> bytes:
    """With other members in its record or result."""
    members = read_object(bundle, limit=LIMIT)
    inner = read_object(b64decode(members[part]), limit=LIMIT)
    return write_object(members | {part: b64encode(write_object(inner | change))})


def test_the_result_is_drawn_again(world: World, device: SoftDevice, auditor: Auditor, tmp_path: Path) -> None:
    bundle = exported(world, device)
    out = tmp_path / "result.json"
    ran = auditor.appraise(bundle, "--out", out)
    assert (ran.code, ran.err) == (0, "")
    said = ran.document
    assert (said["verdict"], said["reproduced"], said["device"]) == ("good", True, device.id)
    assert said["result"] == device.answer.result  # type: ignore[union-attr]
    assert out.read_bytes() == write_object(device.answer.result)  # type: ignore[union-attr]
    assert said["result"]["monitored"][0]["would"] == "refuse"
    assert (said["endorsement"]["kind"], len(said["endorsement"]["chain"])) == ("certificate", 3)


def test_the_same_state_gives_the_same_file(world: World, device: SoftDevice) -> None:
    assert exported(world, device) == exported(world, device)


def test_the_readers_own_roots_decide(world: World, device: SoftDevice, auditor: Auditor, tmp_path: Path) -> None:
    bundle = exported(world, device)
    for name, maker, code in (("ours", world.maker, 0), ("others", ek_ca.maker("Another"), 1)):
        roots = tmp_path / name
        roots.mkdir()
        (roots / "root.der").write_bytes(maker.root.certificate)
        ran = auditor.appraise(bundle, "--roots", roots)
        assert ran.code == code, ran.err


def test_a_contraindicated_result_is_a_bad_verdict(world: World, device: SoftDevice, auditor: Auditor) -> None:
    Machine(kernel=b"tampered").present(device)
    device.tpm.clock = {"reset_count": 8, "restart_count": 0}
    assert device.attest().status_code == 202
    ran = auditor.appraise(exported(world, device))
    assert (ran.code, ran.document["reproduced"], ran.document["verdict"]) == (1, True, "bad")
    assert "loaders" in ran.err
    (found,) = ran.document["differences"]
    assert (found["fact"], found["pcr"], found["digest"]) == ("loaders", 4, kernel_digest(b"tampered"))
    assert auditor.appraise(exported(world, device, "?verdict=good")).code == 0
    assert auditor.appraise(exported(world, device, "?verdict=bad")).code == 1


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("result", {"status": "warning"}),
        ("result", {"reasons": ["none"]}),
        ("record", {"at": 1_780_000_000}),
        ("record", {"pcrs": {"sha256": {"0": "00" * 32}}}),
        ("record", {"manifests": []}),
        ("record", {"ima_entries": 3}),
        ("record", {"eventlog": "00" * 32}),
        ("record", {"quote": {"attest": "AAAA", "signature": "AAAA", "qualifying_data": "A" * 43}}),
    ],
)
def test_one_lie_is_found(
    world: World, device: SoftDevice, auditor: Auditor, part: str, change: Mapping[str, Any]
) -> None:
    assert auditor.appraise(changed(exported(world, device), part, change)).code in (1, 2)


@pytest.mark.parametrize("change", [{"labels": {"ring": "another"}}, {"tier": "cloud"}, {"accepted": ["CVE-0"]}])
def test_what_no_reference_speaks_of_changes_nothing(
    world: World, device: SoftDevice, auditor: Auditor, change: Mapping[str, Any]
) -> None:
    """Words of the registry that a bundle can't prove: they count where a manifest asks for them."""
    assert auditor.appraise(changed(exported(world, device), "record", change)).code == 0


def test_an_endorsement_of_another_chip_is_found(world: World, device: SoftDevice, auditor: Auditor) -> None:
    bundle = exported(world, device)
    said = read_object(b64decode(read_object(bundle, limit=LIMIT)["record"]), limit=LIMIT)["endorsement"]
    ran = auditor.appraise(changed(bundle, "record", {"endorsement": said | {"firmware_version": "id:00090009"}}))
    assert ran.code == 1
    members = read_object(bundle, limit=LIMIT)
    ran = auditor.appraise(write_object(members | {"certificates": []}))
    assert ran.code == 1
    assert "holds" in ran.err or "certificate" in ran.err
    another = world.maker.intermediate.ek_certificate(ek_ca.ec_key("another").public_key())
    ran = auditor.appraise(write_object(members | {"certificates": [b64encode(another), *members["certificates"][1:]]}))
    assert ran.code == 1


@pytest.mark.parametrize("data", [b"", b"{}", b'{"v":1,"kind":"another"}', b"\0" * 100])
def test_another_file_is_unusable(auditor: Auditor, data: bytes) -> None:
    assert auditor.appraise(data).code == 2


def test_a_device_by_the_inventory_alone_has_no_endorsement(world: World, auditor: Auditor) -> None:
    device = world.device(certificates=[])
    line = f"ek_hash,tier,site\n{device.ek_hash.hex()},device,shop-1\n"
    assert world.operator.post("/v1/admin/devices/import", line.encode(), content_type="text/csv").status_code == 200
    Machine().present(device, ima=False, eventlog=None)
    assert device.enroll().status_code == 200
    ran = auditor.appraise(exported(world, device))
    assert (ran.code, ran.document["endorsement"]["chain"]) == (0, [])


# ---- The door ---------------------------------------------------------------------------------------------------


def test_evidence_is_for_those_who_may_see_an_ek(world: World, device: SoftDevice) -> None:
    path = f"/v1/admin/devices/{device.id}/evidence"
    assert world.viewer.get(path).status_code == 403
    assert world.operator.get(path).status_code == 200
    rows = json.loads(world.viewer.get(f"/v1/admin/audit?subject={device.id}").data)["audit"]
    assert (rows[0]["act"], rows[0]["actor"]) == ("export-evidence", "operator:operator-1")


def test_nothing_is_kept_of_a_device_that_never_attested(world: World, device: SoftDevice) -> None:
    answer = world.operator.get(f"/v1/admin/devices/{device.id}/evidence?verdict=bad")
    assert (answer.status_code, problem(answer)) == (404, "no-evidence")
    assert world.operator.get(f"/v1/admin/devices/{device.id}/evidence?verdict=odd").status_code == 400
    assert world.operator.get("/v1/admin/devices/nobody/evidence").status_code == 404
