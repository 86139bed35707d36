"""The audit trail end to end: sealed by a running service, proven by files, and guarded by edges against its owner."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from attestd.publication import Publication
from attestd.registry import revision
from tests.e2e.test_serving import Served, attestd, serve
from tests.service import World, wire
from tests.world_edge import SiteEdge

# ---- Edges against whoever owns the database ---------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "service")
    yield world
    world.close()


@pytest.fixture
def site(world: World, tmp_path: Path) -> SiteEdge:
    (tmp_path / "edge").mkdir()
    site = SiteEdge(world, tmp_path / "edge")
    world.enrolled()
    site.refresher.tick()
    assert site.refresher.connection == "connected"
    return site


def restarted(world: World) -> None:
    """A new process of the service, which remembers nothing of the trail."""
    service = wire(world.settings, world.hierarchy, world.registry, world.clock)
    assert isinstance(service.publication, Publication)
    world.service.publication.audit = service.publication.audit


def tamper(world: World, *statements: str) -> None:
    with world.registry.acting() as c:
        for statement in statements:
            c.execute(text(statement))


START_OVER = (
    "UPDATE audit SET leaf = NULL",
    "DELETE FROM audit_tiles",
    "DELETE FROM audit_heads",
    "UPDATE counters SET value = 0 WHERE name = 'audit_size'",
)


def kept(site: SiteEdge) -> tuple[int, int]:
    known = site.store.history.known
    assert known is not None
    return known.head.log, known.head.size


def test_an_edge_follows_a_growing_trail(world: World, site: SiteEdge) -> None:
    sizes = [kept(site)]
    for _ in range(3):
        world.enrolled()
        site.refresher.tick()  # what is urgent
        world.clock.advance(minutes=1)
        site.refresher.tick()  # and the head that followed
        assert site.refresher.connection == "connected"
        sizes.append(kept(site))
    assert sizes == sorted(set(sizes))
    assert site.store.view().bundle.version > 3


@pytest.mark.parametrize(
    "crime",
    [
        ("UPDATE audit SET actor = 'eve' WHERE number = 2",),  # one row, and the tree made anew, signed by the service
        ("DELETE FROM audit WHERE number = 2",),
        ("DELETE FROM audit",),
    ],
)
def test_a_rewritten_trail_is_refused_by_edges_that_saw_the_old_one(
    world: World, site: SiteEdge, crime: tuple[str, ...]
) -> None:
    tamper(world, *crime, *START_OVER)
    restarted(world)
    world.enrolled()
    site.refresher.tick()  # with the head of before: what is urgent waits for no proof
    before = kept(site), site.store.view().bundle.version
    device = world.enrolled()
    world.clock.advance(minutes=1)
    for _ in range(2):
        site.refresher.tick()
        assert site.refresher.connection == "cut off"
    assert (kept(site), site.store.view().bundle.version) == before
    assert site.edge.status()["audit_refusals"] > 0
    assert site.ask(chain=site.certificate_of(device)) != "allowed"  # the bundle of before does not know it
    world.clock.advance(minutes=6)
    site.refresher.tick()
    assert site.ask(chain=site.certificate_of(device)) == "bundle-stale"


def test_a_service_that_still_remembers_does_not_even_sign_it(world: World, site: SiteEdge) -> None:
    before = kept(site)
    tamper(world, "UPDATE audit SET actor = 'eve' WHERE number = 2", *START_OVER)
    world.enrolled()
    assert world.viewer.get("/v1/admin/audit/1/proof").status_code == 503
    site.refresher.tick()
    assert kept(site) == before


def test_a_damaged_trail_does_not_keep_a_quarantine_from_the_edges(world: World, site: SiteEdge) -> None:
    device = world.enrolled()
    site.refresher.tick()
    assert site.ask(chain=site.certificate_of(device)) == "allowed"
    tamper(world, "UPDATE audit_heads SET size = size + 1 WHERE size < 3", "DELETE FROM audit_tiles")
    assert world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1, "reason": "t"}).status_code == 200
    site.refresher.tick()
    assert site.refresher.connection == "connected"
    assert site.ask(chain=site.certificate_of(device)) == "device-suspended"


def test_after_a_restore_edges_follow_the_new_log(
    world: World, site: SiteEdge, caplog: pytest.LogCaptureFixture
) -> None:
    _, size = kept(site)
    tamper(world, "DELETE FROM audit WHERE number > 2", *START_OVER)  # what a backup of before would have
    with world.registry.acting() as c:
        revision.raise_epoch(c)
    restarted(world)
    site.refresher.tick()
    assert site.refresher.connection == "connected"
    log, now = kept(site)
    assert (log, now < size) == (2, True)
    assert site.edge.status()["audit_logs_begun"] == 1
    assert "new audit log" in caplog.text
    world.enrolled()
    site.refresher.tick()
    assert site.refresher.connection == "connected"


# ---- A running service -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audited") / "instance"
    attestd(path, "init", "--trust-domain", "example.org")
    return path


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    running = serve(folder)
    yield running
    if running.process.poll() is None:
        running.stop()


def unsealed(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "registry.db")) as database:
        return int(database.execute("SELECT count(*) FROM audit WHERE leaf IS NULL").fetchone()[0])


def all_sealed(folder: Path) -> None:
    until = time.monotonic() + 60
    while unsealed(folder):
        assert time.monotonic() < until, (folder / "log").read_text()
        time.sleep(0.2)


def test_a_running_service_seals_by_itself(folder: Path, served: Served) -> None:
    all_sealed(folder)
    verified = json.loads(attestd(folder, "audit", "verify", "--json"))
    assert verified["findings"] == []
    listed = json.loads(attestd(folder, "audit", "list", "--json"))
    assert verified["size"] == len(listed)
    assert [row["leaf"] for row in listed] == list(range(len(listed)))[::-1]
    assert "attestd_audit_unsealed 0.0" in served.get("/metrics").text


def test_a_proof_in_a_file_needs_no_service(folder: Path, served: Served, tmp_path: Path) -> None:
    proof, root = tmp_path / "proof.json", folder / "ca" / "root.pem"
    assert served.process.poll() is None
    attestd(folder, "audit", "proof", "1", "--out", str(proof))
    nowhere = tmp_path / "nowhere"
    said = json.loads(attestd(nowhere, "audit", "verify", "--proof", str(proof), "--root", str(root), "--json"))
    assert (said["entry"]["number"], said["leaf"], said["trust_domain"]) == (1, 0, "example.org")
    document = json.loads(proof.read_text())
    proof.write_text(json.dumps(document | {"entry": document["entry"] | {"actor": "eve"}}))
    refused = attestd(nowhere, "audit", "verify", "--proof", str(proof), "--root", str(root), code=1)
    assert "does not lead" in refused


def test_half_of_a_question(folder: Path) -> None:
    assert "belong together" in attestd(folder, "audit", "verify", "--proof", "x", code=2)


def test_a_killed_service_leaves_nothing_half_sealed(folder: Path, served: Served) -> None:
    """And what was changed while it was down is named, by its number."""
    served.stop(signal.SIGKILL)
    attestd(folder, "admin", "renew")
    assert unsealed(folder) > 0
    again = serve(folder)
    try:
        all_sealed(folder)
        attestd(folder, "audit", "verify")
    finally:
        again.stop()
    with closing(sqlite3.connect(folder / "registry.db")) as database:
        database.execute("UPDATE audit SET actor = 'eve' WHERE number = 1")
        database.commit()
    assert "Row 1 (leaf 0) was changed" in attestd(folder, "audit", "verify", code=1)
