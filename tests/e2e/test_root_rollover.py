"""A root is replaced: real edges and agents follow it by the old root's word, in order, and never back."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.authorities import Ceremony, Lifetimes
from attestd.ca.rollover import Rollover, RootTooYoung
from attestd.ca.rotation import Pace, Rotating, Rotation, StageImpossible, StillNeeded
from attestd.ca.signer import FileKey
from attestd.ca.unlocking import NOTHING
from attestd.credentials.bundle import verify_copy
from attestd.credentials.certificates import CertificateRefused
from attestd.credentials.copies import Copy
from attestd.credentials.succession import succeed
from attestd.credentials.times import verify_time
from attestd.registry import revision
from attestd_edge.clock import EdgeClock
from attestd_edge.store import BundleStore
from tests.service import START, TRUST_DOMAIN, World
from tests.soft_device import SoftDevice
from tests.world_edge import SiteEdge

HOUR = 3600


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


class House:
    """A service whose operator replaces its root, one stage an hour."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.first = self.world.hierarchy.root

    def _tell(self) -> None:
        assert self.world.hierarchy.refresh()
        with self.world.registry.acting() as c:
            revision.bump(c)

    def roll(self, stage: str | None = None) -> str:
        self.world.clock.advance(seconds=HOUR)
        now = self.world.clock()
        rollover = Rollover(self.world.settings.dir, NOTHING, Lifetimes(), Pace(300, 300), now, os.urandom)
        planned = rollover.plan(stage, at_once=False)  # type: ignore[arg-type]
        rollover.do(*planned)
        self._tell()
        return planned[0]

    def rotate(self, kind: Rotating, times: int = 1) -> None:
        """Also devices, so that nobody holds a certificate of a retired issuer: an hour is all that those live."""
        for _ in range(times):
            self.world.clock.advance(seconds=HOUR)
            rotation = Rotation(
                self.world.settings.dir,
                NOTHING,
                Lifetimes(),
                lambda kind: Pace(300, 300),
                lambda entry: None,
                self.world.clock(),
                os.urandom,
            )
            rotation.do(kind, *rotation.plan(kind, None, at_once=False))
            self._tell()

    def hang_all_under_the_new_root(self) -> None:
        self.rotate("issuers", 3)  # prepare, activate, retire
        for kind in ("bundle_signers", "audit_signers"):
            self.rotate(kind, 5)  # those that were next already hang under the old root

    def replace_the_root(self) -> None:
        assert self.roll() == "prepare"
        assert self.roll() == "activate"
        self.hang_all_under_the_new_root()
        assert self.roll() == "retire"


@pytest.fixture
def house(tmp_path: Path):
    house = House(tmp_path / "service")
    yield house
    house.world.close()


def sites(house: House, folder: Path) -> SiteEdge:
    folder.mkdir()
    site = SiteEdge(house.world, folder)
    site.refresher.tick()
    assert site.refresher.connection == "connected"
    return site


def crosses(site: SiteEdge, device: SoftDevice) -> bool:
    assert device.attest().status_code == 200
    site.refresher.tick()
    return site.ask(chain=site.certificate_of(device)) == "allowed"


def reopened(house: House, folder: Path) -> BundleStore:
    """The same edge after a restart, with the same configuration: the first root."""
    clock = EdgeClock(house.world.clock, lambda: (house.world.clock() - START) / timedelta(seconds=1), START)
    store = BundleStore(folder, roots=[der(house.first)], trust_domain=TRUST_DOMAIN, clock=clock)
    store.load()
    return store


# ---- Edges ------------------------------------------------------------------------------------------------------


def test_an_edge_follows_each_stage_and_devices_cross_all_the_time(house: House, tmp_path: Path) -> None:
    site, device = sites(house, tmp_path / "edge"), house.world.enrolled()
    assert crosses(site, device)
    house.roll()
    assert crosses(site, device)
    assert set(site.store.roots) == {der(root) for root in house.world.hierarchy.roots}
    house.roll()
    assert crosses(site, device)
    for kind, times in (("issuers", 3), ("bundle_signers", 5), ("audit_signers", 5)):
        for _ in range(times):
            house.rotate(kind)  # type: ignore[arg-type]
            assert crosses(site, device)
    house.roll()
    assert crosses(site, device)
    assert site.store.roots == (der(house.world.hierarchy.root),)


def test_an_edge_that_slept_through_all_of_it_follows(house: House, tmp_path: Path) -> None:
    site = sites(house, tmp_path / "edge")
    house.replace_the_root()
    device = house.world.enrolled()
    assert crosses(site, device)
    assert site.store.roots == (der(house.world.hierarchy.root),)


def test_an_edge_that_slept_through_two_rollovers_follows(house: House, tmp_path: Path) -> None:
    """It never heard anything, and was given the first root's file."""
    house.replace_the_root()
    house.replace_the_root()
    (tmp_path / "edge").mkdir()
    store = reopened(house, tmp_path / "edge")
    assert store.adopt(house.world.service.publication.bundle(house.world.clock()).content)
    assert store.roots == (der(house.world.hierarchy.root),)


def test_a_retired_root_is_not_believed_after_a_restart(house: House, tmp_path: Path) -> None:
    site = sites(house, tmp_path / "edge")
    before = site.store.roots
    old_bundle = house.world.service.publication.bundle(house.world.clock()).content
    house.replace_the_root()
    site.refresher.tick()
    store = reopened(house, tmp_path / "edge")
    assert store.roots == (der(house.world.hierarchy.root),) != before
    with pytest.raises(CertificateRefused):
        store.adopt(old_bundle)


def test_another_configuration_begins_anew(house: House, tmp_path: Path) -> None:
    site = sites(house, tmp_path / "edge")
    house.roll()
    site.refresher.tick()
    house.first = next(root for root in house.world.hierarchy.roots if root != house.first)
    assert reopened(house, tmp_path / "edge").roots == (der(house.first),)


# ---- What else verifies -----------------------------------------------------------------------------------------


def test_signed_times_hold_for_who_knows_either_root(house: House) -> None:
    house.roll()
    second = der(house.world.hierarchy.roots[1])
    for step in (lambda: None, house.roll, lambda: house.rotate("bundle_signers", 2)):
        step()
        now = house.world.clock()
        jws = house.world.service.publication.signed_time(b"n" * 32, now)
        for root in (der(house.first), second):
            assert verify_time(jws, roots=[root], nonce=b"n" * 32, floor=START) == now.replace(microsecond=0)


def test_after_the_retirement_the_new_root_speaks_for_the_old_one_no_more(house: House) -> None:
    house.replace_the_root()
    withdrawn = house.world.hierarchy.keys.withdrawn
    assert [one.public_key() for one in withdrawn] == [house.first.public_key()]
    bundle = verify_copy(
        Copy.read(house.world.service.publication.bundle(house.world.clock()).content),
        roots=[der(house.world.hierarchy.root)],
        trust_domain=TRUST_DOMAIN,
        floor=(0, 0),
        now=house.world.clock(),
    )
    assert {serial.number for serial in bundle.revoked} >= {one.serial_number for one in withdrawn}
    assert der(house.first) not in bundle.roots


def test_a_root_in_use_is_not_retired(house: House) -> None:
    house.roll()
    with pytest.raises(StageImpossible):
        house.roll("prepare")
    house.roll()
    with pytest.raises(StillNeeded, match="in use"):
        house.roll()
    house.rotate("issuers", 3)
    with pytest.raises(StillNeeded, match="bundle"):
        house.roll()


def test_a_root_that_would_not_begin_later_is_not_made(house: House) -> None:
    rollover = Rollover(
        house.world.settings.dir,
        NOTHING,
        Lifetimes(),
        Pace(0, 0),
        house.first.not_valid_before_utc,
        os.urandom,
    )
    with pytest.raises(RootTooYoung):
        rollover.do(*rollover.plan(None, at_once=True))


# ---- Forgeries --------------------------------------------------------------------------------------------------


NOW = START + timedelta(days=1)


class Roots:
    """A first root, a second one and what they say for each other; then somebody lies."""

    def __init__(self) -> None:
        self.old = self._ceremony(0).root(FileKey(ec.generate_private_key(ec.SECP256R1())))
        name = self.old.certificate.subject
        self.new = self._ceremony(60).root(FileKey(ec.generate_private_key(ec.SECP256R1())), name=name)
        self.forward = self._ceremony(60).cross(self.new.certificate, self.old, not_after=NOW + timedelta(days=9))
        self.backward = self._ceremony(60).cross(self.old.certificate, self.new, not_after=NOW + timedelta(days=9))

    def _ceremony(self, seconds: int) -> Ceremony:
        return Ceremony(TRUST_DOMAIN, START + timedelta(seconds=seconds), Lifetimes(), os.urandom)

    def follow(self, *, pinned: x509.Certificate | None = None, **lies: object) -> set[bytes]:
        said = {"roots": [self.new.certificate], "crosses": [self.forward], "now": NOW, **lies}
        return set(
            succeed(
                [der(pinned or self.old.certificate)],
                [der(one) for one in said["roots"]],  # type: ignore[attr-defined]
                [der(one) for one in said["crosses"]],  # type: ignore[attr-defined]
                now=said["now"],  # type: ignore[arg-type]
            )
        )


@pytest.fixture(scope="module")
def roots() -> Roots:
    return Roots()


def test_the_honest_one_is_followed(roots: Roots) -> None:
    assert roots.follow() == {der(roots.new.certificate)}
    both = roots.follow(roots=[roots.old.certificate, roots.new.certificate])
    assert both == {der(roots.old.certificate), der(roots.new.certificate)}


def test_nobody_is_followed_without_the_pinned_roots_word(roots: Roots) -> None:
    stays = {der(roots.old.certificate)}
    name = roots.old.certificate.subject
    stranger = roots._ceremony(60).root(FileKey(ec.generate_private_key(ec.SECP256R1())), name=name)
    forged = roots._ceremony(60).cross(roots.new.certificate, stranger, not_after=NOW + timedelta(days=9))
    assert roots.follow(crosses=[]) == stays
    assert roots.follow(crosses=[forged]) == stays
    assert roots.follow(crosses=[roots.backward]) == stays
    assert roots.follow(roots=[stranger.certificate]) == stays
    assert roots.follow(roots=[]) == stays


def test_there_is_no_way_back(roots: Roots) -> None:
    """The new root did certify the old one's key, for who knows the new one alone; that makes it no successor."""
    back = roots.follow(pinned=roots.new.certificate, roots=[roots.old.certificate], crosses=[roots.backward])
    assert back == {der(roots.new.certificate)}


def test_a_word_out_of_its_time_counts_for_nothing(roots: Roots) -> None:
    assert roots.follow(now=NOW + timedelta(days=10)) == {der(roots.old.certificate)}
    assert roots.follow(now=START - timedelta(days=1)) == {der(roots.old.certificate)}


@pytest.mark.parametrize("lie", ["no CA", "another domain", "another key", "another name"])
def test_a_word_that_is_wrong_in_one_point_counts_for_nothing(roots: Roots, lie: str) -> None:
    model = roots.forward
    values = {type(one.value): one.value for one in model.extensions}
    if lie == "no CA":
        values[x509.BasicConstraints] = x509.BasicConstraints(ca=False, path_length=None)
    if lie == "another domain":
        other = x509.UniformResourceIdentifier("spiffe://example.net")
        values[x509.SubjectAlternativeName] = x509.SubjectAlternativeName([other])
    key = ec.generate_private_key(ec.SECP256R1()).public_key() if lie == "another key" else roots.new.public_key
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "else")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name if lie == "another name" else model.subject)
        .issuer_name(model.issuer)
        .public_key(key)
        .serial_number(7)
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
    )
    for value in values.values():
        builder = builder.add_extension(value, critical=isinstance(value, x509.BasicConstraints | x509.KeyUsage))
    forged = x509.load_der_x509_certificate(roots.old.sign_certificate(builder))
    assert roots.follow(crosses=[forged]) == {der(roots.old.certificate)}
    assert roots.follow() == {der(roots.new.certificate)}
