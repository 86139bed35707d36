"""Drafts from golden devices: a draft finds good what its devices ran, and nothing else."""

from __future__ import annotations

import pytest

from attestd.appraisal.runtime import Pcr10NotQuoted, appraise_runtime
from attestd.appraisal.runtimelearning import RuntimeDraft
from attestd.appraisal.runtimepolicy import RuntimePolicy
from attestd.appraisal.runtimesection import parse_runtime
from attestd.errors import InputTooLarge
from attestd.protocol.encoding import Members
from attestd.tpm.ima import ImaListMismatch
from attestd.tpm.imastate import BootAggregateMismatch
from tests import ima_lists as w
from tests.ek_ca import ec_key

KEY = ec_key("vendor")
GOLDEN = [
    w.boot_aggregate(),
    w.ng("/bin/sh", b"sh"),
    w.ng("/opt/two words", b"x"),
    w.ngv2("/bin/verity", b"v", "verity"),
    w.sig("/opt/signed", b"signed", w.sign(KEY, w.digest_of(b"signed"))),
    w.buf("kexec-cmdline", b"quiet"),
    w.buf(".ima", w.certificate(KEY)),
    w.violation("/var/log/x"),
]
OTHER = [w.boot_aggregate(), w.ng("/bin/sh", b"sh 2"), w.ng("/bin/ls", b"ls"), w.violation("/a"), w.violation("/b")]


def draft(items: list[w.Item] = GOLDEN) -> RuntimeDraft:
    return RuntimeDraft.of(w.binary(items), quote=w.quote(items))


def policy(of: RuntimeDraft) -> RuntimePolicy:
    return parse_runtime(Members(of.to_members(), "runtime"))


def is_good(items: list[w.Item], by: RuntimePolicy) -> bool:
    return appraise_runtime([by], w.text(items), quote=w.quote(items)).acceptable


def test_a_draft_finds_good_what_its_device_ran_and_nothing_else() -> None:
    learned = policy(draft())
    assert is_good(GOLDEN, learned)
    assert not is_good(OTHER, learned)
    for evil in (
        w.ng("/bin/sh", b"evil"),
        w.ng("/bin/evil", b"sh"),
        w.buf("kexec-cmdline", b"evil"),
        w.violation("/x"),
    ):
        assert not is_good([*GOLDEN, evil], learned)
    # A key that signed, or was measured, is not trusted for having been seen.
    by_key = w.sig("/opt/new", b"new", w.sign(KEY, w.digest_of(b"new")))
    assert not is_good([*GOLDEN, by_key], learned)


def test_what_is_told_beside() -> None:
    told = draft()
    assert told.signers == {w.key_id(KEY)[-4:].hex(): 1}
    assert (told.violations, told.weak, told.unreadable) == (1, 0, 0)
    assert "boot_aggregate" not in told.files
    odd = [
        GOLDEN[0],
        w.ng("/bin/a", algorithm="sha1"),
        w.Item("ima-next", GOLDEN[1].fields),
        w.ng(b"/\xff"),
        w.buf("*", b"x"),
        w.buf("/", b"x"),
    ]
    told = draft(odd)
    assert (told.weak, told.unreadable, dict(told.files), dict(told.buffers)) == (1, 4, {}, {})


def test_several_devices_add_up() -> None:
    for both in (draft().plus(draft(OTHER)), draft(OTHER).plus(draft())):
        assert is_good(GOLDEN, policy(both))
        assert is_good(OTHER, policy(both))
        assert len(both.files["/bin/sh"]) == 2
        assert both.violations == 2
        assert both.signers == draft().signers
    assert draft().plus(RuntimeDraft()) == draft()


def test_only_what_a_quote_proves_is_learned() -> None:
    tail = [*GOLDEN, w.ng("/bin/evil")]
    assert RuntimeDraft.of(w.binary(tail), quote=w.quote(GOLDEN)) == draft()
    with pytest.raises(ImaListMismatch):
        RuntimeDraft.of(w.binary(GOLDEN[:-1]), quote=w.quote(GOLDEN))
    with pytest.raises(Pcr10NotQuoted):
        RuntimeDraft.of(w.binary(GOLDEN), quote=w.quote(GOLDEN, pcrs={"sha256": {0: bytes(32)}}))
    elsewhere = [w.boot_aggregate([b"\xee" * 32] * 10), *GOLDEN[1:]]
    with pytest.raises(BootAggregateMismatch):
        RuntimeDraft.of(w.binary(elsewhere), quote=w.quote(elsewhere))


def test_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attestd.appraisal.runtimelearning.MAX_FILES", 3)
    with pytest.raises(InputTooLarge):
        draft()
