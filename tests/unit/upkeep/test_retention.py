"""What the service forgets by itself: nothing too early, nothing too late, and never much at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from attestd.auditing.archives import FOLDER
from attestd.auditing.log import AuditLog
from attestd.config import EnrollmentSettings, RetentionSettings
from attestd.registry.engine import Connection, DatabaseBusy, Registry
from attestd.registry.tables import audit, console_sessions, devices, invitations, issued, passkeys, revocations, spends
from attestd.upkeep import retention
from attestd.upkeep.retention import Swept, sweep
from tests.authenticator import Person, invite
from tests.service import World, problem


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(
        tmp_path,
        retention=RetentionSettings(certificates=timedelta(days=2)),
        enrollment=EnrollmentSettings(pending_lifetime=timedelta(days=1)),
    )
    yield world
    world.close()


def swept(world: World, **later: float) -> Swept:
    """A round at this time."""
    world.clock.advance(**later)
    return sweep(world.registry, world.settings, now=world.clock(), pause=lambda _: None)


def count(world: World, table: object) -> int:
    with world.registry.reading() as c:
        return int(c.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def test_a_spent_nonce_goes_when_it_could_not_be_presented_any_more(world: World) -> None:
    device = world.enrolled()
    nonce = world.nonce()
    assert device.attest(nonce=nonce).status_code == 200
    assert swept(world, minutes=5).spends == 0  # only after the nonce itself and the clocks' tolerance
    assert swept(world, minutes=2).spends == 2  # this one, and the operator's who approved
    assert problem(device.attest(nonce=nonce)) == "nonce-expired"
    swept(world, hours=1)  # by then the enrollment's answers can't be asked for again, either
    assert count(world, spends) == 0


def test_certificates_and_revocations_go_some_time_after_their_end(world: World) -> None:
    device = world.enrolled()
    serial = world.operator.get(f"/v1/admin/devices/{device.id}").get_json()["credentials"][0]["serial"]
    assert world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1, "reason": "t"}).status_code == 200
    all_issued = count(world, issued)
    assert swept(world, hours=1, days=2).certificates == 0
    assert (count(world, issued), count(world, revocations)) == (all_issued, 1)
    gone = swept(world, minutes=2)
    assert (gone.certificates, gone.revocations) == (1, 1)  # the operators' live for months


def test_sessions_and_invitations_go_some_time_after_their_end(world: World) -> None:
    Person(world, "ada", "viewer")
    invite(world, "bob", "viewer")
    assert swept(world, days=30, hours=8).sessions == 0
    assert (count(world, console_sessions), count(world, invitations)) == (1, 2)
    assert swept(world, seconds=1).sessions == 1
    assert swept(world, hours=16).invitations == 2
    assert (count(world, console_sessions), count(world, invitations)) == (0, 0)
    assert count(world, passkeys) == 1


def test_requests_that_nobody_decided_on(world: World) -> None:
    device = world.device()
    assert device.enroll().status_code == 202
    assert swept(world, days=1).requests == 0
    assert swept(world, seconds=1).requests == 1
    assert count(world, devices) == 0


def test_rounds_take_everything_in_small_acts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No act takes more than a batch: whoever waits to write waits for one."""
    taken: list[int] = []
    acting = Registry.acting

    @contextmanager
    def counted(registry: Registry) -> Iterator[Connection]:
        before = count(world, spends)
        with acting(registry) as c:
            yield c
        taken.append(before - count(world, spends))

    rows = [
        {"id": number.to_bytes(16, "big"), "purpose": "nonce", "request_digest": b"", "at": 0, "expires_at": number}
        for number in range(1, 1001)
    ]
    with world.registry.acting() as c:
        c.execute(insert(spends), rows)
    monkeypatch.setattr(Registry, "acting", counted)
    paused: list[float] = []
    done = sweep(world.registry, world.settings, now=world.clock(), pause=paused.append)
    assert done.spends == 1000
    assert max(taken) <= retention.BATCH
    assert len(paused) >= 1000 // retention.BATCH


def test_what_fails_does_not_keep_the_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = world.device()
    assert device.enroll().status_code == 202
    world.clock.advance(days=2)

    def busy(*_: object, **__: object) -> int:
        raise DatabaseBusy

    monkeypatch.setattr(retention.spends, "purge", busy)
    done = swept(world)
    assert [error.slug() for error in done.errors] == ["database-busy"]
    assert done.requests == 1


def test_rounds_at_the_same_time(world: World) -> None:
    """Several services on one database: each row goes once, and nobody fails."""
    rows = [
        {"id": number.to_bytes(16, "big"), "purpose": "nonce", "request_digest": b"", "at": 0, "expires_at": number}
        for number in range(1, 2001)
    ]
    with world.registry.acting() as c:
        c.execute(insert(spends), rows)
    others = [Registry.open(world.url) for _ in range(3)]
    results: list[Swept] = []
    threads = [
        threading.Thread(
            target=lambda other=other: results.append(
                sweep(other, world.settings, now=world.clock(), pause=lambda _: None)
            )
        )
        for other in others
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    swept(world)  # what one left to another that gave up on it
    assert sum(result.spends for result in results) <= 2000
    assert [result.errors for result in results] == [()] * 3
    assert count(world, spends) == 0


def test_old_audit_rows_move_to_files(world: World) -> None:
    world.enrolled()
    before = count(world, audit)
    AuditLog(world.registry, world.hierarchy, world.settings.dir / FOLDER).seal(world.clock())
    done = swept(world, days=100)
    assert done.archived == before - 1  # the last one stays: its number is what the next one's follows
    assert len(list((world.settings.dir / "audit").iterdir())) == 1
