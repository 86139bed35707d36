"""What an edge has seen, it never unlearns: rollback, restarts while cut off, clocks set back, power cuts."""

from __future__ import annotations

import json
import os
from datetime import timedelta

import pytest

from attestd.credentials.bundle import (
    BundleFromElsewhere,
    BundleFromTheFuture,
    BundleIncomplete,
    BundleRolledBack,
    BundleStale,
)
from attestd.credentials.certificates import CertificateRefused
from attestd.credentials.copies import DeltaMisfit
from attestd.credentials.jws import SignatureWrong
from attestd.ids import TrustDomain
from attestd_edge import files
from attestd_edge import store as store_module
from attestd_edge.files import FileUnwritable
from attestd_edge.store import BUNDLE_FILE, FLOOR_FILE, BundleStore, Floor, FloorUnreadable, NoBundle
from attestd_edge.views import BundleUnusable, check_fresh
from tests import authority as a


def reopened(folder, watch) -> BundleStore:
    """The same folder after a restart."""
    again = BundleStore(folder, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=watch.clock())
    again.load()
    return again


def version(store: BundleStore) -> tuple[int, int]:
    return store.view().bundle.epoch, store.view().bundle.version


@pytest.fixture
def adopted(store, bundle):
    store.adopt(a.signed_bundle(bundle()))
    return store


class TestAdopting:
    def test_a_first_bundle(self, store, bundle):
        with pytest.raises(NoBundle):
            store.view()
        assert store.adopt(a.signed_bundle(bundle()))
        assert version(store) == (2, 5)

    def test_the_same_bundle_again_is_nothing_new(self, adopted, bundle):
        jws = a.signed_bundle(bundle(version=6))
        assert adopted.adopt(jws)
        assert not adopted.adopt(jws)

    @pytest.mark.parametrize("newer", [{"version": 6}, {"version": 500}, {"epoch": 3, "version": 1}])
    def test_a_newer_bundle(self, adopted, bundle, newer):
        assert adopted.adopt(a.signed_bundle(bundle(**newer)))

    @pytest.mark.parametrize("older", [{"version": 4}, {"epoch": 1, "version": 9}])
    def test_an_older_bundle_is_refused(self, adopted, bundle, older):
        with pytest.raises(BundleRolledBack):
            adopted.adopt(a.signed_bundle(bundle(**older)))
        assert version(adopted) == (2, 5)

    def test_the_same_version_signed_again(self, adopted, bundle):
        later = int(a.NOW.timestamp()) + 10
        assert adopted.adopt(a.signed_bundle(bundle(issued_at=later)))
        assert adopted.view().bundle.issued_at == later

    def test_the_same_version_signed_before(self, adopted, bundle):
        with pytest.raises(BundleRolledBack):
            adopted.adopt(a.signed_bundle(bundle(issued_at=int(a.NOW.timestamp()) - 10)))

    def test_another_trust_domains_bundle(self, store, bundle):
        with pytest.raises(BundleFromElsewhere):
            store.adopt(a.signed_bundle(bundle(trust_domain=TrustDomain("other.org"))))

    def test_a_bundle_signed_by_a_stranger(self, store, bundle):
        with pytest.raises(SignatureWrong):
            store.adopt(a.signed_bundle(bundle(), key=a.STRANGER_KEY))
        with pytest.raises(CertificateRefused):
            other = a.ca("root", key=a.STRANGER_KEY, path_length=2)
            store.adopt(a.signed_bundle(bundle(), certificates=[a.signer(issuer=other)]))

    def test_a_bundle_from_the_future(self, store, bundle):
        now = int(a.NOW.timestamp())
        with pytest.raises(BundleFromTheFuture):
            store.adopt(a.signed_bundle(bundle(issued_at=now + 61)))
        assert store.adopt(a.signed_bundle(bundle(issued_at=now + 60)))

    def test_a_bundle_that_is_genuine_and_not_understood_lets_nobody_cross(self, adopted, bundle):
        """Going on with the old one would let cross what the new one forbids."""
        with pytest.raises(BundleUnusable):
            adopted.adopt(a.signed_bundle(bundle(version=6, policy="permit (this is no policy);")))
        for _ in range(2):
            with pytest.raises(BundleUnusable):
                adopted.view()
        assert adopted.adopt(a.signed_bundle(bundle(version=7)))
        assert version(adopted) == (2, 7)


class TestDeltas:
    """What a delta leads to is a bundle like any other: verified, kept, and then used."""

    def delta(self, bundle, *, base="2.5", before=None, **after) -> bytes:
        made = a.copy_of(bundle(**{"version": 6, **after}))
        return made.since(a.copy_of(bundle(**(before or {}))), base)

    def test_a_delta(self, adopted, bundle, tmp_path, watch):
        status = a.StatusList.of({3: a.Status.SUSPENDED}, 16)
        assert adopted.adopt_delta(self.delta(bundle, status=status, revoked=frozenset()))
        for store in (adopted, reopened(tmp_path, watch)):
            assert version(store) == (2, 6)
            assert store.view().bundle.status == status
            assert store.view().bundle.revoked == frozenset()

    def test_one_is_nothing_to_begin_with(self, store, bundle):
        with pytest.raises(DeltaMisfit):
            store.adopt_delta(self.delta(bundle))

    @pytest.mark.parametrize("base", ["2.4", "2.6", "1.5"])
    def test_one_that_begins_elsewhere(self, adopted, bundle, base):
        with pytest.raises(DeltaMisfit):
            adopted.adopt_delta(self.delta(bundle, base=base))
        assert version(adopted) == (2, 5)

    def test_one_that_leads_elsewhere(self, adopted, bundle, tmp_path, watch):
        """It names the right beginning, and was made of another one."""
        lost = {"status": a.StatusList.of({3: a.Status.SUSPENDED}, 16)}
        with pytest.raises(BundleIncomplete, match="status"):
            adopted.adopt_delta(self.delta(bundle, before=lost, **lost))
        for store in (adopted, reopened(tmp_path, watch)):
            assert version(store) == (2, 5)

    def test_one_to_an_older_bundle(self, adopted, bundle):
        with pytest.raises(BundleRolledBack):
            adopted.adopt_delta(self.delta(bundle, version=4))

    def test_one_without_the_service_s_signature(self, adopted, bundle):
        forged = a.copy_of(bundle(version=6), key=a.STRANGER_KEY).since(a.copy_of(bundle()), "2.5")
        with pytest.raises((CertificateRefused, SignatureWrong)):
            adopted.adopt_delta(forged)

    def test_one_that_brings_another_signer(self, adopted, bundle):
        other = a.signer(subject="next", key=a.LOWER_KEY)
        made = a.copy_of(bundle(version=6), certificates=[other], key=a.LOWER_KEY)
        assert adopted.adopt_delta(made.since(a.copy_of(bundle()), "2.5"))


class TestOnDisk:
    def test_a_bundle_is_on_disk_before_it_is_used(self, store, bundle, monkeypatch):
        written = []
        real = store_module.replace_file

        def watched(path, data, *, mode):
            with pytest.raises(NoBundle):
                store.view()
            written.append(path.name)
            real(path, data, mode=mode)

        monkeypatch.setattr(store_module, "replace_file", watched)
        store.adopt(a.signed_bundle(bundle()))
        assert written == [BUNDLE_FILE, FLOOR_FILE]

    @pytest.mark.parametrize(("fails", "newer"), [(BUNDLE_FILE, {"version": 6}), (FLOOR_FILE, {"version": 6})])
    def test_what_could_not_be_kept_is_not_used(self, adopted, bundle, monkeypatch, fails, newer):
        real = store_module.replace_file

        def full(path, data, *, mode):
            if path.name == fails:
                raise FileUnwritable("no space")
            real(path, data, mode=mode)

        monkeypatch.setattr(store_module, "replace_file", full)
        with pytest.raises(FileUnwritable):
            adopted.adopt(a.signed_bundle(bundle(**newer)))
        assert version(adopted) == (2, 5)

    def test_a_restart_while_cut_off_goes_on(self, adopted, tmp_path, watch):
        watch.pass_(600)
        assert version(reopened(tmp_path, watch)) == (2, 5)

    def test_a_restart_refuses_what_is_older(self, adopted, bundle, tmp_path, watch):
        again = reopened(tmp_path, watch)
        with pytest.raises(BundleRolledBack):
            again.adopt(a.signed_bundle(bundle(version=4)))
        assert again.adopt(a.signed_bundle(bundle(version=6)))

    def test_an_older_bundle_put_back_on_disk_is_refused(self, adopted, bundle, tmp_path, watch):
        old = a.signed_bundle(bundle())
        adopted.adopt(a.signed_bundle(bundle(version=6)))
        (tmp_path / BUNDLE_FILE).write_bytes(old)
        with pytest.raises(BundleRolledBack):
            reopened(tmp_path, watch)

    def test_without_the_bundle_the_floor_still_holds(self, adopted, bundle, tmp_path, watch):
        (tmp_path / BUNDLE_FILE).unlink()
        again = reopened(tmp_path, watch)
        with pytest.raises(NoBundle):
            again.view()
        with pytest.raises(BundleRolledBack):
            again.adopt(a.signed_bundle(bundle(version=4)))

    def test_a_power_cut_between_bundle_and_floor(self, adopted, bundle, tmp_path, watch):
        """The bundle is newer than the floor: it is used, and the floor is the bundle's own."""
        (tmp_path / BUNDLE_FILE).write_bytes(a.signed_bundle(bundle(version=9)))
        again = reopened(tmp_path, watch)
        assert version(again) == (2, 9)
        with pytest.raises(BundleRolledBack):
            again.adopt(a.signed_bundle(bundle(version=8)))

    @pytest.mark.parametrize(
        "damage",
        [b"", b"{", b"[]", b'{"v":1,"epoch":2,"version":5}', b'{"v":2,"epoch":2,"version":5,"time":1}',
         b'{"v":1,"epoch":2,"version":5,"time":1e30}', b'{"v":1,"epoch":2,"version":5,"time":99999999999999999}',
         b'{"v":1,"epoch":2,"version":5,"time":1,"x":1}', b" " * 2000],
    )  # fmt: skip
    def test_a_damaged_floor_is_not_a_low_one(self, adopted, tmp_path, watch, damage):
        (tmp_path / FLOOR_FILE).write_bytes(damage)
        with pytest.raises(FloorUnreadable):
            reopened(tmp_path, watch)

    def test_a_folder_without_a_floor_starts_from_nothing(self, tmp_path):
        assert Floor.read(tmp_path / FLOOR_FILE).epoch == 0

    def test_a_write_that_fails_leaves_the_old_octets_and_no_litter(self, tmp_path, monkeypatch):
        path = tmp_path / "file"
        files.replace_file(path, b"old", mode=0o600)

        def broken(_handle):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(FileUnwritable):
            files.replace_file(path, b"new", mode=0o600)
        assert path.read_bytes() == b"old"
        assert [found.name for found in tmp_path.iterdir()] == ["file"]


class TestTime:
    def stale(self, store) -> bool:
        try:
            check_fresh(store.view().bundle, store.clock.now())
        except BundleStale:
            return True
        return False

    def test_a_bundle_goes_stale(self, adopted, watch):
        watch.pass_(3599)
        assert not self.stale(adopted)
        watch.pass_(1)
        assert self.stale(adopted)

    def test_a_clock_set_back_while_running_does_not_revive_it(self, adopted, watch):
        watch.pass_(3600)
        assert self.stale(adopted)
        watch.wall -= timedelta(days=1)
        assert self.stale(adopted)

    def test_a_clock_set_back_does_not_stop_time(self, adopted, watch):
        watch.wall -= timedelta(days=1)
        watch.pass_(3599)
        assert not self.stale(adopted)
        watch.pass_(1)
        assert self.stale(adopted)

    def test_a_clock_set_back_before_a_restart_does_not_revive_it(self, adopted, tmp_path, watch):
        watch.pass_(3600)
        adopted.keep_time(at_once=True)
        watch.wall -= timedelta(hours=2)
        assert self.stale(reopened(tmp_path, watch))

    def test_the_floor_counts_before_any_bundle_is_loaded(self, adopted, tmp_path, watch):
        watch.pass_(3600)
        adopted.keep_time(at_once=True)
        watch.wall -= timedelta(hours=2)
        again = BundleStore(tmp_path, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=watch.clock())
        assert again.clock.now() == a.NOW + timedelta(hours=1)

    def test_the_floor_is_kept_every_minute(self, adopted, tmp_path, watch):
        for _ in range(59):
            watch.pass_(1)
            adopted.keep_time()
        assert Floor.read(tmp_path / FLOOR_FILE).time == a.NOW
        watch.pass_(1)
        adopted.keep_time()
        assert Floor.read(tmp_path / FLOOR_FILE).time == a.NOW + timedelta(seconds=60)

    def test_the_floor_never_sinks(self, adopted, tmp_path, watch):
        watch.pass_(600)
        adopted.keep_time(at_once=True)
        watch.wall -= timedelta(days=1)
        adopted.keep_time(at_once=True)
        assert Floor.read(tmp_path / FLOOR_FILE).time == a.NOW + timedelta(seconds=600)

    def test_the_clock_says_by_how_much_it_is_behind(self, watch):
        clock = watch.clock(floor=a.NOW + timedelta(hours=1))
        assert clock.ahead() == timedelta(hours=1)
        watch.pass_(5400)
        assert clock.ahead() == timedelta(hours=1)  # both moved on
        watch.wall += timedelta(hours=2)
        assert clock.ahead() == timedelta(0)

    def test_a_fresh_bundle_ends_staleness(self, adopted, bundle, watch):
        watch.pass_(4000)
        assert self.stale(adopted)
        adopted.adopt(a.signed_bundle(bundle(version=6, issued_at=int(watch.wall.timestamp()))))
        assert not self.stale(adopted)


class TestTwoProcesses:
    def test_one_writes_and_the_other_reads_along(self, store, bundle, tmp_path, watch):
        beside = BundleStore(tmp_path, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=watch.clock())
        assert store.own()
        assert store.own()
        assert not beside.own()
        assert not beside.load()
        store.adopt(a.signed_bundle(bundle()))
        assert beside.load()
        assert not beside.load()
        store.adopt(a.signed_bundle(bundle(version=6)))
        assert beside.load()
        assert version(beside) == (2, 6)
        store.disown()
        assert beside.own()
        beside.disown()

    def test_the_reader_takes_no_older_one(self, store, bundle, tmp_path, watch):
        store.adopt(a.signed_bundle(bundle()))
        beside = reopened(tmp_path, watch)
        (tmp_path / BUNDLE_FILE).write_bytes(a.signed_bundle(bundle(version=4)))
        with pytest.raises(BundleRolledBack):
            beside.load()
        assert version(beside) == (2, 5)

    def test_the_reader_learns_the_time(self, store, bundle, tmp_path, watch):
        store.adopt(a.signed_bundle(bundle()))
        beside = reopened(tmp_path, watch)
        floor = {"v": 1, "epoch": 2, "version": 5, "time": int(a.NOW.timestamp()) + 9000}
        (tmp_path / FLOOR_FILE).write_text(json.dumps(floor))
        store.adopt(a.signed_bundle(bundle(version=6)))
        (tmp_path / FLOOR_FILE).write_text(json.dumps(floor))
        beside.load()
        assert beside.clock.now() == a.NOW + timedelta(seconds=9000)
