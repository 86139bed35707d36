"""What proves history, and what brings it back: heads and proofs of the audit trail, backups, and the header by which a
proxy says where a request came from. Nothing is believed that was not signed or sealed; nothing is read in two ways."""

from __future__ import annotations

import ipaddress
import tarfile
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from attestd.backups.archive import Part, read_parts, write_end, write_part
from attestd.backups.sealed import SealedReader, SealedWriter, is_sealed
from attestd.credentials.hashtree import leaf_hash, node_hash, verify_consistency
from attestd.credentials.transparency import InclusionProof, entry_octets, verify_head
from attestd.protocol.encoding import write_object
from attestd.web.sources import Proxies, source_of
from attestd_edge.history import KnownHead
from tests import authority as a
from tests.fuzz.harness import Target, once

_ENTRY = {
    "number": 7,
    "at": 1_700_000_000,
    "actor": "operator:ada",
    "act": "retire",
    "subject": "bike-1",
    "request_id": "r",
    "detail": {"reason": "lost"},
}
_PARTS = (Part("manifest.json", b'{"v":1}'), Part("keys/issuer.pem", b"k" * 700), Part("database/devices.0", b""))
_PASSPHRASE = b"correct horse battery staple"


@cache
def _proof() -> InclusionProof:
    """Of one leaf in a tree of two."""
    other = leaf_hash(b"another row")
    root = node_hash(leaf_hash(entry_octets(_ENTRY)), other)
    jws = a.signed_head(a.head(size=2, root=root))
    return InclusionProof(_ENTRY, 0, (other,), jws, bytes(32))


@once
def _proofs() -> list[bytes]:
    return [write_object(_proof().to_members())]


@once
def _heads() -> list[bytes]:
    return [a.signed_head().encode()]


@once
def _archives() -> list[bytes]:
    file = BytesIO()
    for part in _PARTS:
        write_part(file, part.name, part.data)
    write_end(file)
    return [file.getvalue()]


@cache
def _sealed_file() -> bytes:
    file = BytesIO()
    writer = SealedWriter(file, _PASSPHRASE, entropy=lambda count: b"s" * count)
    writer.write(_archives()[0])
    writer.close()
    return file.getvalue()


@cache
def _opened() -> SealedReader:
    """One reader for all inputs, since its key takes a second to derive on purpose."""
    return SealedReader(BytesIO(_sealed_file()), _PASSPHRASE)


@once
def _sealed_seeds() -> list[bytes]:
    return [_sealed_file()[len(_opened()._header) :]]


# ---- What the targets do -----------------------------------------------------------------------------------------


def _head(data: bytes) -> None:
    """Only what the audit's own key signed is a head."""
    verify_head(data.decode("latin-1"), roots=(a.ROOT.der,), trust_domain=a.TRUST_DOMAIN, now=a.NOW)
    assert data in _heads()


def _inclusion(data: bytes) -> None:
    """Only the row that was sealed is proven to be there, however the proof is written."""
    proof = InclusionProof.parse(data)
    head = proof.verify(a.ROOT.der, now=a.NOW)
    assert entry_octets(proof.entry) == entry_octets(_ENTRY)
    assert (proof.leaf, head.size) == (0, 2)


def _consistency(data: bytes) -> None:
    """Octets: two sizes, then a path. Between these two roots, only the true path holds."""
    first, second, path = int.from_bytes(data[:1]), int.from_bytes(data[1:2]), data[2:]
    steps = [path[at : at + 32] for at in range(0, len(path), 32)]
    verify_consistency(first=first, first_root=_LEAVES[0], second=second, second_root=_ROOT, path=steps)
    assert (first, steps) in ((1, [_LEAVES[1]]), (0, [])) or first == second


_LEAVES = (leaf_hash(b"one"), leaf_hash(b"two"))
_ROOT = node_hash(*_LEAVES)


def _known_head(data: bytes) -> None:
    with TemporaryDirectory(prefix="fuzz-head-") as folder:
        file = Path(folder) / "head.json"
        file.write_bytes(data)
        known = KnownHead.read(file, a.TRUST_DOMAIN)
        assert known is not None
        file.write_bytes(known.to_bytes())
        assert KnownHead.read(file, a.TRUST_DOMAIN) == known


def _archive(data: bytes) -> None:
    """What is read is written to the same octets, and Python's own reader lists the same files."""
    parts = list(read_parts(BytesIO(data)))
    again = BytesIO()
    for part in parts:
        write_part(again, part.name, part.data)
    write_end(again)
    assert again.getvalue() == data
    with tarfile.open(fileobj=BytesIO(data)) as theirs:
        assert [(info.name, info.size) for info in theirs] == [(part.name, len(part.data)) for part in parts]


def _sealed(data: bytes) -> None:
    """Of all octets that there are, only those that were sealed are a backup."""
    reader = _opened()
    reader._file = BytesIO(reader._header + data)
    assert is_sealed(reader._file)
    reader.rewind()
    list(read_parts(reader))
    assert data in _sealed_seeds()


def _forwarded(data: bytes) -> None:
    """Whatever a trusted proxy's header says, what comes out is an address; from others it is nothing."""
    name, _, value = data.partition(b": ")
    inside = (ipaddress.ip_network("10.0.0.0/8"),)
    for header in (b"x-forwarded-for", b"forwarded"):
        found = Proxies(inside, header).client("10.0.0.1", [(name.lower(), value)])
        ipaddress.ip_address(found)
        assert source_of(found)
        assert Proxies(inside, header).client("192.0.2.1", [(name.lower(), value)]) == "192.0.2.1"
    source_of(value.decode("latin-1"))


TARGETS = (
    Target("audit-head", _head, _heads),
    Target("audit-proof", _inclusion, _proofs, (b'"leaf":1', b'"path":[]', b'"entry":{}')),
    Target("audit-consistency", _consistency, lambda: [b"\x01\x02" + _LEAVES[1]], limit=512),
    Target("edge-known-head", _known_head, lambda: [KnownHead(a.head(), _heads()[0].decode(), 1).to_bytes()], (b"-1",)),
    Target("backup-archive", _archive, _archives, (b"ustar\x00", b"0000644", b"../", b"\x00" * 512, b"5", b"L")),
    Target("backup-sealed", _sealed, _sealed_seeds),
    Target(
        "forwarded",
        _forwarded,
        lambda: [
            b"X-Forwarded-For: 203.0.113.7, 10.1.2.3",
            b'Forwarded: for="[2001:db8::1]:4711";proto=https, for=10.0.0.2',
        ],
        (b"for=", b'"[', b"]:80", b"::ffff:", b"unknown", b"%eth0", b","),
        limit=1024,
        refuses=False,
    ),
)
