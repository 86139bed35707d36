"""What a page costs on a slow line: with a hundred rows, HTML, style sheet and scripts are under 100 kB together."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from attestd.config import AttestationSettings
from attestd.ids import EkHash
from attestd.registry.tables import devices
from tests.booted import BOOT, Machine, enrolled, refer
from tests.console import ConsoleClient, Markup, console_client
from tests.edge_reports import edge_report
from tests.logwriter import Boot, exit_boot_services, firmware, grub, grub_command, shim
from tests.service import World

MOST = 100_000  # octets
REASON = "The kernel's digest is not among the reference values for ring stable"
PACKED = {"Accept-Encoding": "gzip"}


def rows(world: World, **values: Any) -> None:
    """A hundred devices, each with a name, a maker and a reason of a usual length."""
    now = int(world.clock().timestamp())
    made = [
        {
            **{name: None for name, column in devices.c.items() if column.nullable},
            "id": hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()[:26],
            "state_version": 3, "tier": "device", "site": "ber-plant-02", "serial_number": f"gw-ber02-{number:03}",
            "labels": {"ring": "stable"}, "ek_hash": EkHash.of(b"%d" % number), "manufacturer": "Norvik",
            "model": "NV20", "firmware_version": "1.16", "endorsement": "certificate", "created_at": now - 9_000,
            "updated_at": now, "attested_at": now - 60, "attestation_good_until": now + 900, "source": "request",
            **values,
        }
        for number in range(100)
    ]  # fmt: skip
    with world.registry.acting() as c:
        c.execute(insert(devices), made)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    selection = AttestationSettings(pcrs={"sha256": tuple(range(10))})
    world = World(tmp_path / "instance", attestation=selection)
    yield world
    world.close()


def fleet(world: World) -> str:
    rows(world, state="quarantined", state_reason=REASON)
    return "/fleet"


def approvals(world: World) -> str:
    rows(world, state="pending", tier=None, site=None)
    return "/approvals"


def boundaries(world: World) -> str:
    names = [f"line-{number}-in" for number in range(100)]
    ends = {"from": {"tier": "device", "site": "ber-plant-02"}, "to": {"tier": "edge", "site": "ber-plant-02"}}
    for first in (0, 50):
        counts = {name: {"allowed": 9_000, "refused": {"device-suspended": 9, "no-credential": 3}} for name in names}
        some = dict(list(counts.items())[first : first + 50])
        told = dict.fromkeys(names, ends | {"receipts": "allowed", "max_staleness": 900, "when_stale": "telemetry"})
        report = edge_report(1 + first, counts=some, boundaries=told, stale_for={})
        assert world.proxy.post("/v1/proxies/reports", report).status_code == 200
    return "/boundaries?all=1"


def audit(world: World) -> str:
    rows(world, state="active")
    for row in range(30):
        where = f"/v1/admin/devices/{hashlib.md5(b'%d' % row, usedforsecurity=False).hexdigest()[:26]}"
        assert world.operator.post(f"{where}/quarantine", {"v": 1, "reason": REASON}).status_code == 200
    return "/audit"


def events(world: World) -> str:
    refer(world, boot=BOOT)
    boot = shim(firmware(Boot()))
    for number in range(120):
        grub_command(boot, f"set variable_{number}=something of a usual length")
    machine = Machine(boot=exit_boot_services(grub(boot)))
    device = enrolled(world, Machine(), ima=False)
    machine.present(device, ima=False)
    device.attest()
    return f"/fleet/{world.row(device).id}/attestations/2/events"


def weight(console: ConsoleClient, path: str) -> int:
    page = console.get(path)
    assert page.status_code == 200, page.text
    markup = Markup(page.text)
    linked = [str(tag["href"]) for tag in markup.all("link")] + [str(tag["src"]) for tag in markup.all("script")]
    return len(page.data) + sum(len(console.get(name, headers=PACKED).data) for name in linked)


@pytest.mark.parametrize("made", [fleet, approvals, boundaries, audit, events], ids=lambda made: made.__name__)
def test_a_hundred_rows_are_no_burden(made: Callable[[World], str], world: World) -> None:
    assert weight(console_client(world), made(world)) < MOST


def test_files_come_compressed_to_who_can_take_them_so(nobody: ConsoleClient) -> None:
    sheet = str(Markup(nobody.get("/sign-in").text).all("link")[0]["href"])
    plain, packed = nobody.get(sheet), nobody.get(sheet, headers=PACKED)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) < len(plain.data) / 2
