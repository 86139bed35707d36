"""An edge keeps the last audit head before it uses a bundle, and takes no bundle whose head does not contain it."""

from __future__ import annotations

import json
import logging

import pytest

from attestd.credentials.hashtree import (
    HistoryRewritten,
    TreeProofMalformed,
    consistency_path,
    leaf_hash,
    root_of,
    tree_root,
)
from attestd.credentials.jws import SignatureWrong
from attestd.credentials.transparency import HeadFromElsewhere, LogChanged
from attestd.ids import TrustDomain
from attestd_edge import files, history
from attestd_edge.edge import Edge
from attestd_edge.history import HEAD_FILE, HeadMissing, HeadOfAnotherEpoch, HeadUnreadable, KnownHead, ProofUnavailable
from attestd_edge.store import BUNDLE_FILE, BundleStore
from tests import authority as a

LEAVES = [leaf_hash(bytes([n])) for n in range(20)]
REWRITTEN = [leaf_hash(b"forged"), *LEAVES[1:]]


def nodes_of(leaves):
    return lambda height, index: root_of(leaves[index << height : (index + 1) << height])


def head(size: int, *, log: int = 2, leaves=LEAVES, **lies) -> str:
    return a.signed_head(a.head(log=log, size=size, root=tree_root(nodes_of(leaves), size)), **lies)


class Service:
    """Gives honest proofs, unless its tree is another one."""

    def __init__(self, leaves=LEAVES) -> None:
        self.leaves = leaves
        self.asked: list[tuple[int, int, int]] = []

    def prove(self, log: int, first: int, second: int):
        self.asked.append((log, first, second))
        return consistency_path(nodes_of(self.leaves), first, second)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def adopt(store, bundle, service):
    """`adopt(5, version=6)`: a bundle with a head of that size."""

    def adopt(size: int | str | None, **members):
        made = head(size) if isinstance(size, int) else size
        return store.adopt(a.signed_bundle(bundle(audit_head=made, **members)), prove=service.prove)

    return adopt


def kept(store) -> tuple[int, int, int]:
    known = KnownHead.read(store.folder / HEAD_FILE, a.TRUST_DOMAIN)
    assert known is not None
    assert known == store.history.known
    return known.head.log, known.head.size, known.logs_begun


def test_the_first_head_is_taken_as_it_is(store, adopt, service):
    assert adopt(5)
    assert kept(store) == (2, 5, 0)
    assert service.asked == []


def test_a_longer_history_is_taken_with_its_proof(store, adopt, service):
    adopt(5)
    assert adopt(13, version=6)
    assert kept(store) == (2, 13, 0)
    assert service.asked == [(2, 5, 13)]


def test_the_same_head_in_a_new_bundle_needs_none(store, adopt, service):
    adopt(5)
    assert adopt(5, version=6)
    assert adopt(5, version=7)
    assert (kept(store), service.asked) == ((2, 5, 0), [])


def test_an_empty_history_grows_without_proof(store, adopt, service):
    adopt(0)
    adopt(3, version=6)
    assert (kept(store), service.asked) == ((2, 3, 0), [])


@pytest.mark.parametrize("honest_proof", [True, False])
def test_a_rewritten_history_is_refused(store, adopt, service, honest_proof):
    """Signed with the right key: the database's owner, or the service itself, changed what was sealed before."""
    adopt(5)
    if not honest_proof:
        service.leaves = REWRITTEN
    with pytest.raises(HistoryRewritten):
        adopt(head(13, leaves=REWRITTEN), version=6)
    assert kept(store) == (2, 5, 0)
    assert store.view().bundle.version == 5
    assert store.history.refusals == 1


def test_a_truncated_history_is_refused(store, adopt):
    adopt(13)
    with pytest.raises(HistoryRewritten, match="smaller"):
        adopt(5, version=6)
    assert kept(store) == (2, 13, 0)


def test_another_history_of_the_same_size_is_refused(store, adopt):
    adopt(5)
    with pytest.raises(HistoryRewritten):
        adopt(head(5, leaves=REWRITTEN), version=6)


@pytest.mark.parametrize("spoil", [lambda p: p[1:], lambda p: (*p, p[0]), lambda p: ()])
def test_a_proof_that_is_none(store, bundle, adopt, service, spoil):
    adopt(5)
    with pytest.raises(TreeProofMalformed):
        store.adopt(
            a.signed_bundle(bundle(version=6, audit_head=head(13))), prove=lambda *sizes: spoil(service.prove(*sizes))
        )
    assert store.view().bundle.version == 5


def test_nobody_to_ask(store, bundle, adopt):
    adopt(5)
    with pytest.raises(ProofUnavailable):
        store.adopt(a.signed_bundle(bundle(version=6, audit_head=head(13))))
    assert store.view().bundle.version == 5


def test_a_bundle_without_a_head(store, adopt):
    """From a service of before heads: fine, until there has been one."""
    assert adopt(None)
    assert store.history.known is None
    adopt(5, version=6)
    with pytest.raises(HeadMissing):
        adopt(None, version=7)


def test_a_head_that_is_not_the_service_s(store, adopt):
    with pytest.raises(SignatureWrong):
        adopt(head(5, key=a.STRANGER_KEY))
    with pytest.raises(HeadFromElsewhere):
        adopt(a.signed_head(a.head(trust_domain=TrustDomain("other.org"))))
    assert not (store.folder / HEAD_FILE).exists()


# ---- Restores ----------------------------------------------------------------------------------------------------


def test_a_new_log_in_a_new_epoch_is_accepted_logged_and_counted(store, adopt, caplog):
    caplog.set_level(logging.WARNING)
    adopt(13)
    last = store.history.known
    assert adopt(head(4, log=3, leaves=REWRITTEN), epoch=3, version=1)
    assert kept(store) == (3, 4, 1)
    assert "began a new audit log" in caplog.text
    before = KnownHead.read(store.folder / "audit-head-2.json", a.TRUST_DOMAIN)
    assert before is not None
    assert (before.head.size, before.jws) == (13, last.jws)
    status = Edge(store, tokens=None).status()
    assert (status["audit_log"], status["audit_size"], status["audit_logs_begun"]) == (3, 4, 1)


def test_a_new_log_without_a_new_epoch_is_refused(store, adopt):
    adopt(13)
    with pytest.raises(HeadOfAnotherEpoch):
        adopt(head(4, log=3), version=6)
    with pytest.raises(HeadOfAnotherEpoch):
        adopt(head(4, log=3), epoch=4, version=1)


def test_a_new_epoch_without_a_new_log_is_refused(store, adopt):
    adopt(5)
    with pytest.raises(HeadOfAnotherEpoch):
        adopt(head(13), epoch=3, version=1)


def test_an_old_log_never_comes_back(store, adopt):
    """The record of heads outlives that of bundles' versions."""
    adopt(head(4, log=3), epoch=3, version=1)
    (store.folder / "floor.json").unlink()
    (store.folder / BUNDLE_FILE).unlink()
    again = BundleStore(store.folder, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=store.clock)
    with pytest.raises(LogChanged):
        again.adopt(a.signed_bundle(a.bundle(policy=store.view().bundle.policy, audit_head=head(13))))


# ---- The disk ----------------------------------------------------------------------------------------------------


def test_it_survives_a_restart(store, adopt, service, bundle):
    adopt(13)
    again = BundleStore(store.folder, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=store.clock)
    again.load()
    with pytest.raises(HistoryRewritten):
        again.adopt(a.signed_bundle(bundle(version=6, audit_head=head(5))), prove=service.prove)


def test_another_process_may_have_followed_meanwhile(store, adopt, service, bundle):
    other = BundleStore(store.folder, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=store.clock)
    adopt(13)
    with pytest.raises(HistoryRewritten):
        other.adopt(a.signed_bundle(bundle(version=6, audit_head=head(5))), prove=service.prove)


@pytest.mark.parametrize("written", [1, 2, 3])
def test_the_head_is_on_disk_before_the_bundle(store, adopt, monkeypatch, written):
    """A power cut after each file of an adoption: no bundle is ever there without its head."""
    adopt(5)
    done = []
    replace_file = files.replace_file

    def cut(path, data, *, mode):
        if len(done) == written - 1:
            raise SystemExit
        done.append(path.name)
        replace_file(path, data, mode=mode)

    monkeypatch.setattr(history, "replace_file", cut)
    monkeypatch.setattr("attestd_edge.store.replace_file", cut)
    with pytest.raises(SystemExit):
        adopt(13, version=6)
    monkeypatch.undo()
    assert done == [HEAD_FILE, BUNDLE_FILE][: written - 1]
    again = BundleStore(store.folder, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=store.clock)
    assert again.load()
    assert again.view().bundle.version == (6 if written == 3 else 5)
    known = again.history.known
    assert known is not None
    assert known.head.size == (5 if written == 1 else 13)
    # And it goes on from there.
    assert again.adopt(a.signed_bundle(a.bundle(policy=again.view().bundle.policy, version=7, audit_head=head(13))),
                       prove=Service().prove)  # fmt: skip


@pytest.mark.parametrize(
    "damage",
    [b"", b"{}", b"[]", b"x" * 20_000, {"v": 2}, {"size": "5"}, {"root": "AAAA"}, {"more": 1}],
)
def test_a_damaged_record_is_not_an_absent_one(store, adopt, damage):
    adopt(5)
    path = store.folder / HEAD_FILE
    members = json.loads(path.read_bytes())
    path.write_bytes(damage if isinstance(damage, bytes) else json.dumps(members | damage).encode())
    with pytest.raises(HeadUnreadable):
        adopt(13, version=6)
    with pytest.raises(HeadUnreadable):
        BundleStore(store.folder, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=store.clock)
