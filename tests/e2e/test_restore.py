"""A service comes back from a backup, and nothing that was taken from anybody after the backup comes back with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd.ca.hierarchy import create_hierarchy
from attestd.cli.backup import release_restored
from attestd.credentials.bundle import BundleRolledBack
from attestd.credentials.certificates import CertificateRefused
from attestd.ids import DeviceId
from attestd.publication import Publication
from attestd.registry import audit, issued, operators, proxies, snapshot
from attestd.registry.states import State
from tests import postgres
from tests.restored import RestoredWorld, back_up, newest_bundle, restored
from tests.service import START, TRUST_DOMAIN, World, problem
from tests.soft_device import SoftDevice
from tests.world_edge import SiteEdge

Restore = Callable[..., RestoredWorld]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "before")
    yield world
    world.close()


@pytest.fixture
def edge(world: World, tmp_path: Path) -> SiteEdge:
    (tmp_path / "edge").mkdir()
    edge = SiteEdge(world, tmp_path / "edge")
    edge.refresher.tick()
    return edge


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"


@pytest.fixture
def come_back(world: World, file: Path, tmp_path: Path) -> Iterator[Restore]:
    """Restores the backup into a database of the same kind; who `moved` finds it at the same address."""
    made: list[RestoredWorld] = []

    def come_back(*moved: SoftDevice | SiteEdge, **options: Any) -> RestoredWorld:
        world.clock.advance(minutes=1)
        url = postgres.shared().fresh_database() if world.url.startswith("postgresql") else None
        after = restored(world, file, tmp_path / f"after-{len(made)}", **{"database": url, **options})
        made.append(after)
        for one in moved:
            one.world = after
            if isinstance(one, SiteEdge):
                one.refresher.tick()
        return after

    yield come_back
    for after in made:
        after.close()


def act(world: World, device: SoftDevice, verb: str, **more: Any) -> None:
    answer = world.operator.post(f"/v1/admin/devices/{device.id}/{verb}", {"v": 1, "reason": "why not", **more})
    assert answer.status_code == 200, answer.text


class Api:
    """The admin API as commands see it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def get(self, path: str, **query: Any) -> Any:
        wanted = "&".join(f"{name}={value}" for name, value in query.items() if value is not None)
        return self._world.operator.get(f"/v1/admin{path}?{wanted}").get_json()

    def post(self, path: str, message: dict[str, Any]) -> None:
        assert self._world.operator.post(f"/v1/admin{path}", {"v": 1, **message}).status_code == 200


# ---- Everybody attests again ------------------------------------------------------------------------------------


def test_a_device_counts_again_once_it_has_attested(
    world: World, edge: SiteEdge, file: Path, come_back: Restore
) -> None:
    device = world.enrolled()
    edge.refresher.tick()
    old = edge.certificate_of(device)
    assert edge.ask(chain=old) == "allowed"
    back_up(world, file)
    seen = edge.store.floor

    after = come_back(device, edge, bundle=newest_bundle(world))
    assert edge.refresher.connection == "connected"
    assert edge.store.floor.epoch == after.done.recovered.epoch > seen.epoch
    assert after.row(device).state is State.ACTIVE
    assert edge.ask(chain=old) == "device-revoked"
    assert problem(device.renew()) == "attestation-overdue"
    assert problem(device.token()) == "attestation-overdue"

    assert device.attest().status_code == 200
    edge.refresher.tick()
    assert edge.ask(chain=edge.certificate_of(device)) == "allowed"
    assert edge.ask(chain=old) == "device-revoked"  # whatever it was given before, and whoever has it now
    assert device.renew().status_code == 200


def test_nothing_opens_that_was_sealed_before(world: World, file: Path, come_back: Restore) -> None:
    """What was spent after the backup is forgotten: it must not be spent a second time."""
    device, newcomer = world.enrolled(), world.device()
    challenge, nonce = newcomer.begin(), world.nonce()
    back_up(world, file)
    assert device.renew(nonce=nonce).status_code == 200
    come_back(device, newcomer, bundle=newest_bundle(world))
    assert problem(device.attest(nonce=nonce)) == "nonce-invalid"
    assert problem(newcomer.complete(challenge)) == "seal-key-unknown"
    assert device.attest().status_code == 200
    assert newcomer.enroll().status_code == 202


def test_a_new_epoch_for_each_restore_of_one_backup(
    world: World, edge: SiteEdge, file: Path, come_back: Restore
) -> None:
    back_up(world, file)
    first = come_back(edge)
    second = come_back(edge)
    assert second.done.recovered.epoch > first.done.recovered.epoch
    assert edge.store.floor.epoch == second.done.recovered.epoch
    edge.world = first
    edge.refresher.tick()
    assert edge.refresher.connection == "cut off"  # the one that is not in use any more


# ---- What happened after the backup -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["quarantine", "retire"])
def test_taken_out_after_the_backup(world: World, edge: SiteEdge, file: Path, come_back: Restore, verb: str) -> None:
    lost, kept = world.enrolled(), world.enrolled()
    back_up(world, file)
    act(world, lost, verb)
    after = come_back(lost, kept, edge, bundle=newest_bundle(world))
    assert after.done.recovered.quarantined == 1
    assert lost.attest().status_code == 202
    assert kept.attest().status_code == 200
    edge.refresher.tick()
    assert edge.ask(chain=edge.certificate_of(lost)) in ("device-revoked", "credential-revoked")
    assert problem(lost.enroll()) == "device-quarantined"
    assert release_restored(Api(after), attested=True, reason="") == []


def test_quarantined_before_the_backup(world: World, file: Path, come_back: Restore) -> None:
    device = world.enrolled()
    act(world, device, "quarantine")
    back_up(world, file)
    after = come_back(device, bundle=newest_bundle(world))
    assert device.attest().status_code == 202
    assert (after.row(device).state, after.row(device).state_reason) == (State.QUARANTINED, "why not")


@pytest.mark.parametrize("enrolled", [False, True])
def test_a_tpm_that_was_replaced_after_the_backup(world: World, file: Path, come_back: Restore, enrolled: bool) -> None:
    """Also when the new one has enrolled, and the device is valid in the bundle: by an index that the backup does not
    know."""
    old = world.enrolled()
    back_up(world, file)
    new = world.device()
    act(world, old, "replace", ek_hash=new.ek_hash.hex())
    if enrolled:
        assert new.enroll().status_code == 200
    after = come_back(old, new, bundle=newest_bundle(world))
    assert old.attest().status_code == 202
    assert problem(old.enroll()) == "device-quarantined"
    act(after, old, "replace", ek_hash=new.ek_hash.hex())
    assert new.enroll().status_code == 200
    assert new.id == old.id


def test_a_credential_that_was_revoked_after_the_backup(world: World, file: Path, come_back: Restore) -> None:
    device = world.enrolled()
    back_up(world, file)
    assert device.renew().status_code == 200  # a certificate that the backup does not know
    with world.registry.reading() as c:
        serial = issued.page(c, device_id=DeviceId(device.id), limit=1)[0].serial
    assert world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1, "reason": "t"}).status_code == 200
    after = come_back(bundle=newest_bundle(world))
    with after.registry.reading() as c:
        assert issued.is_revoked(c, serial)
        assert serial in {entry.serial for entry in issued.revoked_unexpired(c, now=int(world.clock().timestamp()))}


def test_enrolled_after_the_backup(world: World, edge: SiteEdge, file: Path, come_back: Restore) -> None:
    """Its index is never given to another, or its certificate would ride on the other's state."""
    back_up(world, file)
    unknown = world.enrolled()
    after = come_back(unknown, edge)
    other = after.enrolled()
    edge.refresher.tick()
    assert edge.ask(chain=edge.certificate_of(other)) == "allowed"
    assert edge.ask(chain=edge.certificate_of(unknown)) == "device-revoked"
    assert problem(unknown.attest()) == "device-unknown"
    assert unknown.enroll().status_code == 202


def test_a_policy_that_was_set_after_the_backup(world: World, file: Path, come_back: Restore) -> None:
    back_up(world, file)
    text = world.admin.get("/v1/admin/policy").get_json()["text"]
    text += '@id("closed") forbid (principal, action == Action::"cross", resource);'
    assert world.admin.put("/v1/admin/policy", {"v": 1, "text": text}).status_code == 200
    after = come_back(bundle=newest_bundle(world))
    found = after.admin.get("/v1/admin/policy").get_json()
    assert (found["version"], found["text"]) == (2, text)


# ---- Without a bundle -------------------------------------------------------------------------------------------


def test_without_a_bundle_everybody_waits_for_a_word(world: World, file: Path, come_back: Restore) -> None:
    good, silent = world.enrolled(), world.enrolled()
    back_up(world, file)
    after = come_back(good, silent)
    assert after.done.recovered.quarantined == 2
    assert good.attest().status_code == 202
    assert release_restored(Api(after), attested=True, reason="") == [good.id]
    assert good.attest().status_code == 200
    assert silent.attest().status_code == 202


@pytest.mark.parametrize("known", [False, True])
def test_approved_and_not_enrolled(world: World, file: Path, come_back: Restore, known: bool) -> None:
    """No bundle tells them from retired ones: they wait, too, and enroll once they are released."""
    device = world.device()
    assert device.enroll().status_code == 202
    world.approve(device)
    back_up(world, file)
    after = come_back(device, bundle=newest_bundle(world) if known else None)
    assert problem(device.enroll()) == "device-quarantined"
    assert release_restored(Api(after), attested=True, reason="") == []
    assert len(release_restored(Api(after), attested=False, reason="")) == 1
    assert device.enroll().status_code == 200


# ---- Callers ----------------------------------------------------------------------------------------------------


def test_operators_come_back_disabled(world: World, file: Path, come_back: Restore) -> None:
    """One of them may have been disabled after the backup, and nothing says so."""
    admin = world.new_caller("admin", "admin")
    old = world.operator
    back_up(world, file)
    after = come_back()
    old.world = admin.world = after
    assert problem(old.get("/v1/admin/devices")) == "caller-disabled"
    assert admin.get("/v1/admin/devices").status_code == 200
    assert after.done.recovered.operators_disabled == ("operator-1",)
    with after.registry.reading() as c:
        assert [o.name for o in operators.every(c) if o.disabled_at is None] == ["admin"]


def test_edges_follow_days_after_the_backup(world: World, edge: SiteEdge, file: Path, come_back: Restore) -> None:
    """The certificate that the backup knows them by has ended long since."""
    back_up(world, file)
    for _ in range(6):
        world.clock.advance(hours=13)
        edge.refresher.tick()
    come_back(edge)
    assert edge.refresher.connection == "connected"


def test_a_proxy_that_was_disabled_before_the_backup(
    world: World, edge: SiteEdge, file: Path, come_back: Restore
) -> None:
    assert world.admin.post("/v1/admin/proxies/edge-1/disable", {"v": 1}).status_code == 200
    back_up(world, file)
    after = come_back(edge)
    assert edge.refresher.connection == "cut off"
    with after.registry.reading() as c:
        assert proxies.by_name(c, "edge-1").disabled_at is not None


# ---- What is refused --------------------------------------------------------------------------------------------


def test_a_bundle_that_is_older_than_the_backup(world: World, file: Path, tmp_path: Path, come_back: Restore) -> None:
    device = world.enrolled()
    old = newest_bundle(world)
    act(world, device, "quarantine")
    newest_bundle(world)
    back_up(world, file)
    with pytest.raises(BundleRolledBack):
        come_back(bundle=old)
    assert [path.name for path in tmp_path.iterdir() if "after" in path.name] == []


def test_the_bundle_of_another_authority(world: World, file: Path, tmp_path: Path, come_back: Restore) -> None:
    """Of the same name, and about the same registry."""
    back_up(world, file)
    other = create_hierarchy(tmp_path / "other", TRUST_DOMAIN, now=START, entropy=os.urandom)
    forged = Publication(world.settings, world.registry, other).bundle(world.clock()).content
    with pytest.raises(CertificateRefused):
        come_back(bundle=forged)
    assert [path.name for path in tmp_path.iterdir() if "after" in path.name] == []


# ---- From one database into the other ---------------------------------------------------------------------------


def everything(world: World) -> dict[str, list[dict[str, Any]]]:
    with world.registry.reading() as c:
        return {name: list(snapshot.rows(c, table)) for name, table in snapshot.tables_of(c).items()}


@pytest.mark.parametrize("source", ["sqlite", "postgresql"])
@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_from_one_database_into_the_other(tmp_path: Path, source: str, target: str) -> None:
    """Row for row the same, whichever way it went; and what is written next gets a number of its own."""
    postgres.require_postgres()
    world = World(tmp_path / "before", database=source)
    device = world.enrolled()
    world.device().enroll()
    back_up(world, tmp_path / "1.tar")
    url = postgres.shared().fresh_database() if target == "postgresql" else None
    after = restored(world, tmp_path / "1.tar", tmp_path / "after", database=url, bundle=newest_bundle(world))
    moved, kept = everything(after), everything(world)
    for name in ("tpm_makers", "policies", "proxies", "issued", "revocations", "blocked_eks"):
        assert moved[name] == kept[name]
    differing = {"status_index", "attested_at", "attestation_good_until", "result_status"}
    for now, then in zip(moved["devices"], kept["devices"], strict=True):
        assert {name for name in now if now[name] != then[name]} <= differing
    device.world = after
    assert device.attest().status_code == 200
    assert after.enrolled().attest().status_code == 200
    with after.registry.reading() as c:
        numbers = [row.number for row in audit.page(c, limit=1000)]
    assert len(set(numbers)) == len(numbers) > len(kept["audit"])
    assert not list((tmp_path / "after").glob("registry.db*")) or target == "sqlite"
    after.close()
    world.close()


def test_a_database_that_is_not_empty(world: World, file: Path, tmp_path: Path) -> None:
    postgres.require_postgres()
    url = postgres.shared().fresh_database()
    back_up(world, file)
    restored(world, file, tmp_path / "first", database=url).close()
    with pytest.raises(snapshot.DatabaseNotEmpty):
        restored(world, file, tmp_path / "second", database=url)
    assert not (tmp_path / "second").exists()


# ---- The trail --------------------------------------------------------------------------------------------------


def test_a_restore_is_in_the_trail_and_the_history_stays(world: World, file: Path, come_back: Restore) -> None:
    world.enrolled()
    back_up(world, file)
    with world.registry.reading() as c:
        before = audit.page(c, limit=1000)
    after = come_back(bundle=newest_bundle(world))
    with after.registry.reading() as c:
        rows = audit.page(c, limit=1000)
    assert [row.entry for row in rows[-len(before) :]] == [row.entry for row in before]
    (row,) = [row for row in rows if row.act == "restore"]
    assert (row.actor, row.detail["epoch"]) == ("attestd restore", after.done.recovered.epoch)
