"""Every rule of `check_registry` notices the lie that it is there for, and a registry full of life breaks none."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from attestd.registry.engine import Registry
from tests.chaos.invariants import RegistryBroken, check_registry
from tests.chaos.load import ek_hash
from tests.forger import Forger
from tests.service import START, World

NOW = int(START.timestamp())

LIES = {
    "a certificate's row lies": ("UPDATE issued SET thumbprint = zeroblob(32)", "something else than the certificate"),
    "an audit row is gone": (
        "DELETE FROM audit WHERE number = (SELECT max(number) FROM audit WHERE act = 'renew')",
        "has 0 audit rows",
    ),
    "a certificate is gone": (
        "DELETE FROM issued WHERE number = (SELECT max(number) FROM issued)",
        "not in the registry",
    ),
    "nothing was spent": ("DELETE FROM spends WHERE purpose = 'challenge'", "was the answer to 0 requests"),
    "one answer, twice": (
        "INSERT INTO spends SELECT randomblob(16), purpose, request_digest, proof_digest, answer, device_id, serial, "
        "at, expires_at FROM spends WHERE answer IS NOT NULL AND purpose = 'challenge'",
        "was the answer to 2 requests",
    ),
    "an answer about nothing": (
        f"UPDATE spends SET serial = '{'7' * 40}' WHERE answer IS NOT NULL",
        "which does not exist",
    ),
    "a revocation of nothing": ("UPDATE revocations SET not_after = not_after + 1", "fits no certificate"),
    "a retired device with a certificate": ("DELETE FROM revocations", "is not revoked"),
    "an active device without keys": (
        "UPDATE devices SET ck_public = NULL, ck_name = NULL, ak_public = NULL WHERE state = 'active'",
        "without all of its keys",
    ),
    "an active device without a certificate": ("DELETE FROM issued WHERE device_id IS NOT NULL", "was never issued"),
    "another key's certificate": (
        "UPDATE devices SET (ck_public, ck_name) = (SELECT ck_public, ck_name FROM devices WHERE state = 'quarantined')"
        " WHERE state = 'active'",
        "for another key than its credential key",
    ),
    "another key's Name": ("UPDATE devices SET ck_name = zeroblob(34) WHERE ck_name IS NOT NULL", "another key's Name"),
    "another EK's hash": (
        "UPDATE devices SET ek_hash = zeroblob(32) WHERE state = 'quarantined'",
        "another EK's hash",
    ),
    "no place": ("UPDATE devices SET status_index = NULL", "without tier, site and status index"),
    "an index that is given out again": (
        "UPDATE counters SET value = 0 WHERE name = 'next_status_index'",
        "will be given out again",
    ),
    "a blocked EK": (
        "INSERT INTO blocked_eks SELECT ek_hash, id, '', 1 FROM devices WHERE state = 'active'",
        "that was replaced",
    ),
    "a state of its own": (
        "UPDATE devices SET state = 'active' WHERE state = 'quarantined'",
        "the audit trail left it",
    ),
    "a change that nobody made": ("UPDATE devices SET state_version = state_version + 1", "by the audit trail"),
    "a bundle of yesterday": (
        "UPDATE bundles SET revision = (SELECT value FROM counters WHERE name = 'revision')",
        "in the bundle",
    ),
    "a bundle of tomorrow": ("UPDATE bundles SET revision = 1000000", "has not been yet"),
}


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry in which everything has happened once."""
    world = World(tmp_path_factory.mktemp("lively") / "instance")
    active, quarantined, retired, replaced, waiting = (world.device() for _ in range(5))
    for device in (active, quarantined, retired, replaced):
        assert device.enroll().status_code == 202
        assert world.approve(device).status_code == 200
        assert device.enroll().status_code == 200
    assert waiting.enroll().status_code == 202
    for verb in (active.renew, active.rekey, active.attest, active.token, active.renew):
        assert verb().status_code == 200
    assert world.proxy.get("/v1/bundle").status_code == 200
    reason = {"v": 1, "reason": "test"}
    assert world.operator.post(f"/v1/admin/devices/{quarantined.id}/quarantine", reason).status_code == 200
    assert world.operator.post(f"/v1/admin/devices/{retired.id}/retire", reason).status_code == 200
    another = {**reason, "ek_hash": ek_hash(Forger())}
    assert world.operator.post(f"/v1/admin/devices/{replaced.id}/replace", another).status_code == 200
    check_registry(world.registry, now=NOW)
    world.close()
    return world.settings.dir / "registry.db"


@pytest.mark.once  # the lies are told to a file
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_noticed(lively: Path, tmp_path: Path, lie: str) -> None:
    statement, complaint = LIES[lie]
    path = tmp_path / "registry.db"
    shutil.copy(lively, path)
    with sqlite3.connect(path) as connection:  # behind the service's back: no rule of the database's own holds it up
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        assert connection.execute(statement).rowcount > 0
    connection.close()
    registry = Registry.open(f"sqlite:///{path}")
    try:
        with pytest.raises(RegistryBroken, match=complaint):
            check_registry(registry, now=NOW)
    finally:
        registry.close()
