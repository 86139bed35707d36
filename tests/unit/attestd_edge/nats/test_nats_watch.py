"""What is written down of logins, and when a connection or a message falls with what it rested on."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

import pytest

pytest.importorskip("nacl", reason="PyNaCl is not installed")

from attestd.credentials.status import Status, StatusList
from attestd.credentials.x509 import device_identity, verify_chain
from attestd.ids import DeviceId, Serial
from attestd_edge.nats.carry import Fate, judge_message
from attestd_edge.nats.ledger import LEDGER_FILE, Connection, Ledger, LedgerUnusable
from attestd_edge.nats.login import ask_policy
from attestd_edge.nats.watch import ended, endings
from attestd_edge.settings import Guarded
from attestd_edge.views import View
from tests import authority as a

SUBJECT = "field.munich.bike-1.t"


@pytest.fixture
def enter(ledger, settings, view):
    """Lets a device in, as its certificate says."""

    def enter(number: int = 7, *, until=a.NOW + timedelta(minutes=5), **lies) -> Connection:
        chain = verify_chain([a.leaf(**lies), a.ISSUER.der], authorities=view.authorities, now=a.NOW)
        identity = device_identity(chain, status=view.bundle.status, revoked=view.bundle.revoked)
        _, permissions = ask_policy(view, settings.grants, identity, a.NOW)
        connection = Connection("N1", number, identity.device_id, permissions, until)
        ledger.enter(identity, connection)
        return connection

    return enter


@pytest.fixture
def falls(ledger, settings, view):
    """Why connections must end under another bundle than the one that they were let in by."""

    def falls(after: View, before: View | None = view) -> list[tuple[int, str]]:
        return [(one.connection.number, one.why) for one in endings(ledger, settings, after, before, a.NOW)]

    return falls


@pytest.fixture
def newer(bundle, view):
    return lambda **lies: View.of(bundle(version=6, **lies), pinned=[a.ROOT.der], before=view)


def test_nothing_changed(enter, falls, newer, view):
    enter()
    assert falls(view) == falls(newer()) == falls(view, None) == []


def test_the_device_was_quarantined(enter, falls, newer):
    enter(7)
    enter(8, uris=["spiffe://example.org/device/munich/bike-2"], facts=replace(a.FACTS, status_index=3))
    assert falls(newer(status=StatusList.of({7: Status.SUSPENDED}, 16))) == [(7, "device-suspended")]


def test_the_device_was_retired(enter, falls, newer):
    enter()
    assert falls(newer(status=StatusList.of({7: Status.INVALID}, 16))) == [(7, "device-revoked")]


def test_the_credential_was_revoked(enter, falls, newer):
    enter(serial=0xABC)
    assert falls(newer(revoked=frozenset((Serial(0xABC),)))) == [(7, "credential-revoked")]


def test_policy_takes_a_subject_away(enter, falls, newer, bundle):
    enter()
    text = bundle().policy + (
        '@id("mute") forbid (principal, action == Action::"cross", resource) when { context.method == "PUBLISH" };'
    )
    assert falls(newer(policy=text, policy_version=4)) == [(7, "permissions-changed")]


def test_another_policy_that_says_the_same(enter, falls, newer, bundle):
    enter()
    assert falls(newer(policy=bundle().policy + "\n", policy_version=4)) == []


def test_other_authorities_hold(enter, falls, newer):
    enter()
    assert falls(newer(token_keys={})) == [(7, "authorities-changed")]


def test_a_login_past_its_end(enter, ledger):
    enter(until=a.NOW + timedelta(seconds=10))
    assert list(ended(ledger, a.NOW + timedelta(seconds=9))) == []
    assert [one.why for one in ended(ledger, a.NOW + timedelta(seconds=10))] == ["login-expired"]


def test_a_restart_forgets_nobody(enter, ledger, tmp_path, settings, newer):
    connection = enter()
    ledger.close()
    again = Ledger.open(tmp_path)
    assert [found for found, _ in again.connections()] == [connection]
    after = newer(status=StatusList.of({7: Status.SUSPENDED}, 16))
    assert [one.why for one in endings(again, settings, after, None, a.NOW)] == ["device-suspended"]
    again.forget(connection)
    again.close()
    assert Ledger.open(tmp_path).connections() == []


def test_a_ledger_that_can_not_be_written(enter, ledger):
    enter(7)
    ledger._database.execute("PRAGMA query_only = ON")
    with pytest.raises(LedgerUnusable):
        enter(8)
    assert [found.number for found, _ in ledger.connections()] == [7]


def test_what_is_entered_together_counts_at_the_end(enter, ledger):
    with pytest.raises(RuntimeError), ledger.together():
        enter(7)
        raise RuntimeError
    assert ledger.connections() == []
    with ledger.together():
        enter(8)
    assert [found.number for found, _ in ledger.connections()] == [8]


def test_a_ledger_that_is_damaged(enter, ledger, tmp_path):
    enter()
    ledger.close()
    with sqlite3.connect(tmp_path / LEDGER_FILE) as database:
        database.execute("UPDATE device SET facts = x'00'")
    with pytest.raises(LedgerUnusable):
        Ledger.open(tmp_path)
    (tmp_path / LEDGER_FILE).write_bytes(b"x" * 4096)
    with pytest.raises(LedgerUnusable):
        Ledger.open(tmp_path)


def test_a_number_of_connections_that_no_server_has(ledger, enter):
    with pytest.raises(LedgerUnusable):
        enter(1 << 64)
    assert ledger.connections() == []


# ---- At the crossing -----------------------------------------------------------------------------------------------


@pytest.fixture
def judged(ledger, settings, view):
    def judged(subject: str = SUBJECT, *, under: View = view, now=a.NOW, carriage=settings.carriage):
        found = judge_message(ledger, carriage, under, subject, now)
        return found.fate, found.subject, found.why

    return judged


def test_a_message_of_a_device_that_stands(enter, judged):
    enter()
    assert judged() == (Fate.CARRIED, "cleared.munich.bike-1.t", "")


def test_a_message_of_a_device_that_has_fallen_since(enter, judged, newer):
    enter()
    under = newer(status=StatusList.of({7: Status.SUSPENDED}, 16))
    assert judged(under=under) == (Fate.WITHHELD, "withheld.munich.bike-1.t", "device-suspended")


def test_a_message_of_a_device_that_stands_again(enter, judged, newer):
    enter()
    assert judged(under=newer(status=StatusList.of({}, 16)))[0] is Fate.CARRIED


def test_a_credential_that_ended_meanwhile_is_no_fall(enter, judged):
    enter(not_after=a.NOW + timedelta(minutes=1))
    assert judged(now=a.NOW + timedelta(minutes=30))[0] is Fate.CARRIED


def test_a_message_of_nobody(judged):
    assert judged() == (Fate.WITHHELD, "withheld.munich.bike-1.t", "sender-unknown")


def test_a_message_under_another_sites_name(enter, judged):
    enter()
    assert judged("field.berlin.bike-1.t") == (Fate.WITHHELD, "withheld.berlin.bike-1.t", "sender-unknown")


def test_a_name_that_no_device_has(judged):
    assert judged("field.munich.BIKE!.t") == (Fate.WITHHELD, "withheld.munich.BIKE!.t", "malformed-name")


def test_what_policy_does_not_permit(enter, judged, newer, bundle):
    enter()
    text = bundle().policy + '@id("x") forbid (principal, action, resource == Boundary::"munich-to-cloud");'
    assert judged(under=newer(policy=text, policy_version=4))[::2] == (Fate.WITHHELD, "crossing-denied")


def test_labels_of_the_boundary_are_seen(enter, judged, newer, bundle, settings):
    enter()
    text = bundle().policy + (
        '@id("eu") forbid (principal, action == Action::"cross", resource) when '
        '{ context.labels.hasTag("residency") && context.labels.getTag("residency") == "eu" };'
    )
    labelled = replace(
        settings.carriage,
        guarded=Guarded(settings.carriage.guarded.boundary, MappingProxyType({"residency": "eu"})),
    )
    under = newer(policy=text, policy_version=4)
    assert judged(under=under)[0] is Fate.CARRIED
    assert judged(under=under, carriage=labelled)[::2] == (Fate.WITHHELD, "crossing-denied")


def test_a_stale_bundle_lets_messages_wait(enter, judged):
    enter()
    assert judged(now=a.NOW + timedelta(hours=1)) == (Fate.LATER, SUBJECT, "bundle-stale")


def test_a_device_that_the_bundle_does_not_know_yet_waits(enter, judged, newer):
    enter()
    assert judged(under=newer(status=StatusList.of({}, 4))) == (Fate.LATER, SUBJECT, "status-unknown")


def test_a_device_that_logs_in_again_is_known_by_its_last_credential(enter, ledger):
    enter(serial=0xABC)
    enter(serial=0xDEF)
    known = ledger.known(DeviceId("bike-1"))
    assert known is not None
    assert known.serial == Serial(0xDEF)
