"""Chains of receipts with one thing wrong: the very receipt is named, and the rest is looked at all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestd.auditing.receipts import (
    Examined,
    Given,
    NotReceipts,
    Pinned,
    examine,
    header,
    link,
    read_file,
    write_chain,
)
from attestd.auditing.spools import NoSpool, read_spool
from attestd.credentials.hashtree import leaf_hash
from attestd.credentials.receipts import digest_of, sign_receipt
from attestd.credentials.transparency import Head, InclusionProof, entry_octets
from attestd.errors import AttestdError
from tests import authority as a
from tests.edge_receipts import EDGE, EDGE_KEY, EdgeDisk, crossed, identity, refused

PINNED = Pinned([a.ROOT.der], a.TRUST_DOMAIN)


@pytest.fixture
def disk(tmp_path: Path) -> EdgeDisk:
    return EdgeDisk(tmp_path)


@pytest.fixture
def lines(disk) -> list[str]:
    """A beginning and five receipts, two of them of refusals."""
    keeper = disk.keeper()
    for number in range(5):
        disk.times.pass_(1)
        if number % 2:
            keeper.note(refused(number))
        else:
            keeper.keep(crossed(number))
    keeper.close()
    return disk.lines()


def given(lines: list[str], **lies: Any) -> Given:
    end = len(lines) - 1, digest_of(lines[-1])
    return Given(**{"chain": f"{1:032x}", "beginning": lines[0], "end": end, **lies})


def found(seen: Examined) -> list[tuple[str, int | None]]:
    return [(finding.kind, finding.seq) for finding in seen.findings]


def resigned(disk: EdgeDisk, number: int, *, key=EDGE_KEY, **lies: Any) -> str:
    receipt = replace(disk.receipts()[number], **lies)
    return sign_receipt(receipt, kid=disk.who.kid, sign=a.es256(key))


def test_a_whole_chain(lines):
    seen = examine(given(lines), lines, PINNED)
    assert seen.findings == []
    assert (seen.edge, seen.why, seen.first, seen.last, seen.count, seen.refusals) == (EDGE, "start", 0, 5, 6, 2)
    # With its beginning told apart, or within.
    assert examine(given(lines), lines[1:], PINNED).findings == []
    assert examine(given(lines, beginning=None), lines, PINNED).findings == []


@pytest.mark.parametrize(
    ("wrong", "kinds"),
    [
        (lambda lines, disk: [*lines[:2], *lines[3:]], [("missing", 2)]),
        (lambda lines, disk: [*lines[:2], *lines[4:]], [("missing", 2)]),
        (lambda lines, disk: lines[:-1], [("cut", 5)]),
        (lambda lines, disk: lines[:1], [("cut", 1)]),
        (lambda lines, disk: [], [("cut", 1)]),
        (lambda lines, disk: [*lines[:2], lines[3], lines[2], *lines[4:]], [("missing", 2), ("repeated", None)]),
        (lambda lines, disk: [*lines[:3], lines[2], *lines[3:]], [("repeated", None)]),
        (lambda lines, disk: [*lines, lines[0]], [("repeated", None)]),
        (lambda lines, disk: [*lines[:3], "x.y.z", *lines[4:]], [("forged", 3)]),
        (lambda lines, disk: [*lines[:3], "x", "y", *lines[5:]], [("forged", 3), ("forged", 4)]),
        (lambda lines, disk: [*lines[:3], resigned(disk, 3, key=a.STRANGER_KEY), *lines[4:]], [("forged", 3)]),
        (lambda lines, disk: [*lines[:3], resigned(disk, 3, said=crossed(9)), *lines[4:]], [("broken", 4)]),
        (lambda lines, disk: [*lines[:5], resigned(disk, 5, said=crossed(9))], [("forked", 5)]),
        (lambda lines, disk: [*lines[:5], resigned(disk, 5, time=9)], [("time", 5), ("forked", 5)]),
    ],
)
def test_what_is_wrong_is_named(lines, disk, wrong, kinds):
    assert found(examine(given(lines), wrong(lines, disk), PINNED)) == kinds


def test_what_the_edge_lost_is_told_apart(lines):
    known = given(lines, lost=((2, 3),))
    assert found(examine(known, [*lines[:2], *lines[4:]], PINNED)) == [("lost", 2)]
    assert found(examine(known, [*lines[:2], *lines[5:]], PINNED)) == [("missing", 2)]


def test_what_was_forgotten_is_not_missing(lines):
    assert examine(given(lines, first=3), lines[3:], PINNED).findings == []
    assert found(examine(given(lines, first=3), lines[4:], PINNED)) == [("missing", 3)]


def test_a_chain_that_no_edge_began(lines):
    strange = Pinned([a.ca("root", key=a.STRANGER_KEY).der], a.TRUST_DOMAIN)
    assert found(examine(given(lines), lines, strange)) == [("beginning", 0)]
    assert found(examine(given(lines, chain="f" * 32), lines, PINNED)) == [("beginning", 0)]
    assert found(examine(given(lines, beginning=None), [], PINNED)) == [("empty", None)]


# ---- The audit trail's word -------------------------------------------------------------------------------------


def anchor(lines: list[str], **lies: Any) -> InclusionProof:
    """A tree of one leaf, whose head the service's key signed."""
    detail = {"last": len(lines) - 1, "digest": a.b64(digest_of(lines[-1])), **lies.pop("detail", {})}
    entry = {"act": "receive-receipts", "subject": f"{1:032x}", "detail": detail, **lies}
    root = leaf_hash(entry_octets(entry))
    jws = a.signed_head(Head(a.TRUST_DOMAIN, 1, 1, root, int(a.NOW.timestamp())))
    return InclusionProof(entry, 0, (), jws, b"r" * 32)


def test_the_audit_trail_proves_the_end(lines):
    seen = examine(given(lines, end=None, anchor=anchor(lines)), lines, PINNED)
    assert (seen.findings, seen.anchored) == ([], True)
    # Who leaves out the end can't leave out what the trail says.
    short = given(lines[:4], anchor=anchor(lines))
    assert found(examine(short, lines[:4], PINNED)) == [("cut", 4)]
    other = given(lines, end=None, anchor=anchor(lines, detail={"digest": a.b64(b"x" * 32)}))
    assert found(examine(other, lines, PINNED)) == [("forked", 5)]


@pytest.mark.parametrize("lie", [{"act": "approve"}, {"subject": "f" * 32}, {"detail": {"last": "5"}}])
def test_a_proof_of_something_else_proves_nothing(lines, lie):
    seen = examine(given(lines, anchor=anchor(lines, **lie)), lines, PINNED)
    assert (found(seen), seen.anchored) == ([("anchor", None)], False)


def test_a_head_of_another_key_proves_nothing(lines):
    proof = anchor(lines)
    forged = replace(proof, jws=proof.jws[:-4] + ("AAAA" if proof.jws[-4:] != "AAAA" else "BBBB"))
    assert found(examine(given(lines, anchor=forged), lines, PINNED)) == [("anchor", None)]


# ---- Several chains ---------------------------------------------------------------------------------------------


def test_chains_that_go_on_from_each_other(disk, lines):
    disk.who = identity(key=a.p256(51))
    disk.keeper().keep(crossed(9))
    old, new = disk.chains()

    def both(old_lines):
        one = examine(Given(old.chain, lines[0]), old_lines, PINNED)
        two = examine(Given(new.chain, None), disk.lines(new), PINNED)
        assert (one.findings, two.findings, two.why) == ([], [], "new-key")
        return [one, two]

    assert link(both(lines)) == []
    assert [(finding.kind, finding.seq) for finding in link(both(lines[:4]))] == [("cut", 4)]
    assert [finding.kind for finding in link(both(lines)[1:])] == ["unlinked"]
    forked = both([*lines[:5], resigned_old(disk, lines)])
    assert [finding.kind for finding in link(forked)] == ["forked"]


def resigned_old(disk: EdgeDisk, lines: list[str]) -> str:
    receipt = replace(disk.receipts()[5], said=crossed(7))
    return sign_receipt(receipt, kid=identity().kid, sign=a.es256(EDGE_KEY))


# ---- Files and folders ------------------------------------------------------------------------------------------


def test_a_file_is_what_was_written(lines):
    known = given(lines, lost=((2, 3),), anchor=anchor(lines))
    written = [header(a.TRUST_DOMAIN), *write_chain(known, lines), *write_chain(given(lines, chain="f" * 32), [])]
    trust_domain, chains = read_file(written)
    assert trust_domain == a.TRUST_DOMAIN
    assert list(chains) == [(known, lines), (given(lines, chain="f" * 32), [])]


@pytest.mark.parametrize(
    "data",
    [
        [], [b"x\n"], [b'{"v":1}\n'], [b'{"v":1,"kind":"other","trust_domain":"example.org"}\n'],
        [header(a.TRUST_DOMAIN), b"a.b.c\n"], [header(a.TRUST_DOMAIN), b'{"v":1,"begin":{}}\n'],
        [header(a.TRUST_DOMAIN), b'{"v":1,"begin":{"chain":"..","beginning":"","first":0,"lost":[]}}\n'],
        [
            header(a.TRUST_DOMAIN),
            b'{"v":1,"begin":{"chain":"%s","beginning":"","first":0,"lost":["1"]}}\n' % (b"f" * 32),
        ],
    ],
)  # fmt: skip
def test_what_is_no_such_file(data):
    with pytest.raises(AttestdError):
        list(read_file(data)[1])


def test_an_edges_folder(disk, lines):
    (one,) = read_spool(disk.folder)
    assert (one.lines, one.torn) == (lines, 0)
    assert examine(one.given, one.lines, PINNED).findings == []
    (stretch,) = disk.chains()[0].stretches()
    with stretch.path.open("ab") as file:
        file.write(b"eyJ")
    (one,) = read_spool(disk.folder / "receipts")
    assert (examine(one.given, one.lines, PINNED).findings, one.torn) == ([], 3)
    stretch.path.write_text("\n".join([*lines[:2], *lines[3:], ""]))
    (one,) = read_spool(disk.folder)
    assert found(examine(one.given, one.lines, PINNED)) == [("missing", 2)]


def test_files_that_somebody_took_from_an_edges_folder(disk, monkeypatch):
    from attestd_edge.receipts import spool as spool_module

    monkeypatch.setattr(spool_module, "STRETCH", 100)
    keeper = disk.keeper()
    for number in range(4):
        keeper.keep(crossed(number))
    (chain,) = disk.chains()
    stretches = chain.stretches()
    chain.delivered(3)
    (one,) = read_spool(disk.folder)
    assert one.given.first == 2
    assert examine(one.given, one.lines, PINNED).findings == []
    for stretch in stretches[1:-1]:
        stretch.path.unlink(missing_ok=True)
    (one,) = read_spool(disk.folder)
    assert found(examine(one.given, one.lines, PINNED)) == [("missing", 3)]


def test_a_folder_without_receipts(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(NoSpool):
            list(read_spool(folder))
    assert NotReceipts.remedy
