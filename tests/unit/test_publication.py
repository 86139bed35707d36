"""Bundles: signed anew when something changed or silence would be taken for it, and never twice under one version."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.credentials.bundle import Bundle, verify_copy
from attestd.credentials.copies import Copy
from attestd.credentials.status import Status
from attestd.publication import Publication
from attestd.registry import transitions
from attestd.registry.states import Event
from tests.service import TRUST_DOMAIN, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "instance")


def fetch(world: World, floor: tuple[int, int] = (0, 0)) -> Bundle:
    roots = [world.hierarchy.root.public_bytes(Encoding.DER)]
    published = world.service.publication.bundle(world.clock())
    return verify_copy(
        Copy.read(published.content), roots=roots, trust_domain=TRUST_DOMAIN, floor=floor, now=world.clock()
    )


def test_an_unchanged_bundle_stays_the_same_octets_for_a_while(world: World) -> None:
    first = world.service.publication.bundle(world.clock())
    world.clock.advance(seconds=30)
    assert world.service.publication.bundle(world.clock()) == first


def test_silence_is_broken_before_edges_go_stale(world: World) -> None:
    first = fetch(world)
    world.clock.advance(seconds=first.stale_after / 6)
    second = fetch(world, (first.epoch, first.version))
    assert second.version == first.version + 1
    assert second.issued_at == int(world.clock().timestamp())


def test_a_quarantine_is_in_the_next_bundle(world: World) -> None:
    device = world.enrolled()
    index = world.row(device).status_index
    assert index is not None
    assert fetch(world).status[index] is Status.VALID
    with world.registry.acting() as c:
        transitions.change_state(c, world.row(device).id, Event.QUARANTINE, reason="x", now=1)
    assert fetch(world).status[index] is Status.SUSPENDED


def test_a_revoked_certificate_is_listed_until_it_ends(world: World) -> None:
    device = world.enrolled()
    device.enroll()  # again: what was issued before is revoked
    assert len(fetch(world).revoked) == 1
    world.clock.advance(hours=1, minutes=1)
    assert fetch(world).revoked == frozenset()


def test_another_process_publishes_the_same_version(world: World) -> None:
    world.enrolled()
    mine = world.service.publication.bundle(world.clock())
    other = Publication(world.settings, world.registry, world.hierarchy)
    assert other.bundle(world.clock()) == mine


def test_a_crowd_at_a_change_agrees_on_one_bundle(world: World) -> None:
    world.enrolled()
    publications = [Publication(world.settings, world.registry, world.hierarchy) for _ in range(6)]
    seen: list[bytes] = []
    threads = [threading.Thread(target=lambda p=p: seen.append(p.bundle(world.clock()).content)) for p in publications]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 6
    assert len(set(seen)) == 1


def test_the_crl_is_current_for_an_hour(world: World) -> None:
    crl = x509.load_der_x509_crl(world.service.publication.crl(world.clock()))
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - world.clock() == timedelta(hours=1)
    assert crl.is_signature_valid(world.hierarchy.issuer.certificate.public_key())
