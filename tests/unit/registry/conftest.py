"""A registry of one's own for each test, and devices in any state, made by the same functions that the service uses."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd.ids import DeviceId, EkHash, Serial, Site, Tier
from attestd.registry import admission, devices, issued, revision, transitions
from attestd.registry.acts import perform
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.inventory import InventoryEntry
from attestd.registry.states import Event, State
from attestd.registry.tables import METADATA
from tests.database import drop, fresh

NOW = 1_800_000_000
RESULT = {"vector": {"instance-identity": 2}, "reasons": ["because"], "attested_at": NOW}
CLOCK = {"clock": 5, "reset_count": 1, "restart_count": 2, "safe": True}


class Fleet:
    """Makes devices and certificates that differ from all others of this test."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._numbers = itertools.count(1)

    def entropy(self, size: int) -> bytes:
        return next(self._numbers).to_bytes(size, "big")

    def ek_public(self) -> bytes:
        return b"EK public area %d" % next(self._numbers)

    def entry(self, **members: Any) -> InventoryEntry:
        number = next(self._numbers)
        found = {
            "line": number,
            "ek_hash": EkHash.of(b"inventory %d" % number),
            "tier": Tier.DEVICE,
            "site": Site("site-1"),
        }
        return InventoryEntry(**found | members)

    def ask(self, c: Connection, ek_public: bytes, **members: Any) -> Device:
        found: dict[str, Any] = {
            "new_id": DeviceId.random(self.entropy(16)),
            "ek_public": ek_public,
            "endorsement": "certificate",
            "manufacturer": "IFX",
            "model": "SLB9670",
            "firmware_version": "7.85",
            "result": RESULT,
            "clock": CLOCK,
            "now": NOW,
        }
        return admission.record_pending(c, **found | members)

    def approve(self, c: Connection, device: Device, **members: Any) -> Device:
        found: dict[str, Any] = {"tier": Tier.DEVICE, "site": Site("site-1"), "now": NOW}
        return admission.approve(c, device.id, **found | members)

    def activate(self, c: Connection, device: Device, **members: Any) -> Device:
        number = next(self._numbers)
        found: dict[str, Any] = {
            "was": device.state,
            "expected_version": device.state_version,
            "ek_public": device.ek_public,
            "ak_public": b"AK %d" % number,
            "ck_public": b"CK %d" % number,
            "ck_name": b"CK name %d" % number,
            "endorsement": "certificate",
            "manufacturer": "IFX",
            "model": "SLB9670",
            "firmware_version": "7.85",
            "result": RESULT,
            "clock": CLOCK,
            "good_until": NOW + 3600,
            "now": NOW,
        }
        perform(c, *transitions.activation(device.id, **found | members))
        return devices.by_id(c, device.id)

    def certificate(self, c: Connection, device: Device, *, not_after: int = NOW + 600, **members: Any) -> Serial:
        serial = Serial(next(self._numbers))
        found: dict[str, Any] = {
            "device_id": device.id,
            "expected_version": device.state_version,
            "serial": serial,
            "subject": f"spiffe://example.org/device/site-1/{device.id}",
            "profile": "device",
            "not_before": NOW - 60,
            "not_after": not_after,
            "der": b"certificate",
            "thumbprint": b"t" * 32,
        }
        perform(c, issued.recording(**found | members))
        return serial

    def device(self, state: State) -> Device:
        """A device that came into this state by the shortest way; active ones and later ones have a certificate."""
        with self.registry.acting() as c:
            device = self.ask(c, self.ek_public())
            if state is State.PENDING:
                return device
            if state is State.REJECTED:
                return transitions.change_state(c, device.id, Event.REJECT, reason="unknown", now=NOW)
            device = self.approve(c, device)
            if state is State.APPROVED:
                return device
            device = self.activate(c, device)
            self.certificate(c, device)
            if state is State.QUARANTINED:
                device = transitions.change_state(c, device.id, Event.QUARANTINE, reason="odd", now=NOW)
            if state is State.RETIRED:
                device = transitions.change_state(c, device.id, Event.RETIRE, reason="scrapped", now=NOW)
        return device

    def returning(self) -> Device:
        """A retired device that asks again: pending, with the status index of its first life."""
        retired = self.device(State.RETIRED)
        assert retired.ek_public is not None
        with self.registry.acting() as c:
            return self.ask(c, retired.ek_public)

    def read(self, device: Device) -> Device:
        with self.registry.reading() as c:
            return devices.by_id(c, device.id)

    def revision(self) -> int:
        with self.registry.reading() as c:
            return revision.current(c)

    def status(self, device: Device) -> int | None:
        with self.registry.reading() as c:
            return dict(devices.status_entries(c)).get(-1 if device.status_index is None else device.status_index)

    def revoked(self) -> set[Serial]:
        with self.registry.reading() as c:
            return {entry.serial for entry in issued.revoked_unexpired(c, now=NOW)}

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all tables, to show that nothing changed."""
        with self.registry.reading() as c:
            return {name: sorted(map(tuple, c.execute(t.select())), key=repr) for name, t in METADATA.tables.items()}


def _migrated(url: str) -> None:
    """Migrating once is enough for all tests but the ones about migrating."""
    Registry.open(url, create=True).close()


def race(url: str, contenders: int, act: object) -> list[object]:
    """Each contender opens the database for itself, as processes do, and acts at the same moment."""
    start = threading.Barrier(contenders)
    outcomes: list[object] = []

    def run(number: int) -> None:
        registry = Registry.open(url)
        start.wait(10)
        try:
            with registry.acting() as c:
                outcomes.append(act(c, number))  # type: ignore[operator]
        except Exception as error:  # noqa: BLE001 - the outcome is what the test looks at
            outcomes.append(type(error))
        registry.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A migrated, empty database of the kind that ATTESTD_TEST_DATABASE names."""
    url = fresh("registry", _migrated, tmp_path / "attestd.db")
    yield url
    drop(url)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The same as a file, for tests of what SQLite alone does."""
    fresh("registry", _migrated, tmp_path / "attestd.db", kind="sqlite")
    return tmp_path / "attestd.db"


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    """A test that asks for SQLite's file has its registry there."""
    on_file = "database" in request.fixturenames
    registry = Registry.open(
        f"sqlite:///{request.getfixturevalue('database')}" if on_file else request.getfixturevalue("url")
    )
    yield registry
    registry.close()


@pytest.fixture
def fleet(registry: Registry) -> Fleet:
    return Fleet(registry)
