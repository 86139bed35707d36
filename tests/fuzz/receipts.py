"""Receipts: one of them, a file that an auditor is handed, and what lies on an edge's disk when it starts."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from attestd.auditing.receipts import Given, Pinned, examine, header, read_file, write_chain
from attestd.credentials.receipt_chains import begin_chain, follow_chain
from attestd.credentials.receipts import SPOOL_FOLDER, Receipt, digest_of, read_unverified
from attestd_edge.receipts.folders import ChainFolder
from attestd_edge.receipts.spool import ReceiptNotKept
from tests import authority as a
from tests.edge_receipts import AUTHORITIES, EdgeDisk, crossed, refused
from tests.fuzz.harness import Target, once

_PINNED = Pinned([a.ROOT.der], a.TRUST_DOMAIN)
_WORDS = (
    b'"seq":',
    b'"prev":',
    b'"begin":',
    b'"crossing":',
    b'"who":',
    b'"omitted":',
    b".",
    b"\n",
    b'{"v":1,',
    b'"lost":["1-2"]',
)


@once
def _lines() -> list[bytes]:
    """A beginning, three crossings and a refusal."""
    with TemporaryDirectory(prefix="fuzz-receipts-") as folder:
        disk = EdgeDisk(Path(folder))
        keeper = disk.keeper()
        for number in range(3):
            keeper.keep(crossed(number))
        keeper.note(refused())
        keeper.close()
        return [line.encode() for line in disk.lines()]


@once
def _payloads() -> list[bytes]:
    return [read_unverified(line.decode()).to_bytes() for line in _lines()]


@once
def _files() -> list[bytes]:
    lines = [line.decode() for line in _lines()]
    given = Given(f"{1:032x}", lines[0], (4, digest_of(lines[4])), ((1, 2),))
    return [header(a.TRUST_DOMAIN) + b"".join(write_chain(given, lines))]


def _payload(data: bytes) -> None:
    """What is read is written again alike."""
    receipt = Receipt.parse(data)
    assert Receipt.parse(receipt.to_bytes()) == receipt


def _receipt(data: bytes) -> None:
    """Of all octets that there are, only the receipts that the edge signed go on with its chain."""
    first, *others = (line.decode() for line in _lines())
    jws = data.decode("ascii", "replace")
    if jws == first:
        begin_chain(jws, authorities=AUTHORITIES)
        return
    known, _, at = begin_chain(first, authorities=AUTHORITIES)
    for place, honest in enumerate(others):
        if jws == honest:
            for before in others[:place]:
                _, at = follow_chain(known, at, before)
    follow_chain(known, at, jws)
    assert jws in others


def _file(data: bytes) -> None:
    """Whatever an auditor is handed, the examination ends with findings, or all of it is what the edge signed."""
    _, chains = read_file(data.splitlines(keepends=True))
    signed = [line.decode() for line in _lines()]
    for given, lines in chains:
        seen = examine(given, lines, _PINNED)
        if not seen.findings:
            assert given.beginning in (None, signed[0])
            assert [line for line in lines if line != signed[0]] == signed[max(1, given.first) : (seen.last or 0) + 1]


def _spool(data: bytes) -> None:
    """An edge that starts on this goes on with a chain that verifies, or begins another one; what it had it keeps."""
    with TemporaryDirectory(prefix="fuzz-receipts-") as folder:
        disk = EdgeDisk(Path(folder))
        path = disk.folder / SPOOL_FOLDER / f"{1:032x}"
        path.mkdir(parents=True)
        path.joinpath("beginning.jws").write_bytes(_lines()[0] + b"\n")
        path.joinpath("0000000000000000.jws").write_bytes(data)
        next(disk.names)
        try:
            disk.keeper().keep(crossed(9))
        except ReceiptNotKept as error:
            raise AssertionError(error) from error  # no state of the disk keeps an edge from going on
        chain = next(found for found in ChainFolder.all_in(disk.folder) if found.ended() is None)
        first, *others = chain.lines(0)
        known, _, at = begin_chain(first, authorities=AUTHORITIES)
        for jws in others:
            receipt, at = follow_chain(known, at, jws)
        assert receipt.said == crossed(9)


TARGETS = (
    Target("receipt-payload", _payload, _payloads, _WORDS),
    Target("receipt", _receipt, _lines, _WORDS),
    Target("receipt-file", _file, _files, _WORDS, limit=16 * 1024),
    Target("receipt-spool", _spool, lambda: [b"".join(line + b"\n" for line in _lines())], _WORDS, refuses=False),
)
