"""The archive's form: what this writer makes, any tar reads; what this reader takes, only this writer makes."""

from __future__ import annotations

import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.backups import archive
from attestd.backups.archive import (
    MAX_PART,
    BackupMalformed,
    BackupTruncated,
    is_part_name,
    read_parts,
    write_end,
    write_part,
)

PARTS = {"files/attestd.toml": b"x" * 700, "tables/devices/00000001.jsonl.gz": b"", "manifest.json": b"{}"}


def written(parts: dict[str, bytes] = PARTS) -> bytes:
    sink = io.BytesIO()
    for name, data in parts.items():
        write_part(sink, name, data)
    write_end(sink)
    return sink.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    return {part.name: part.data for part in read_parts(io.BytesIO(data))}


def with_member(info: tarfile.TarInfo, data: bytes = b"", form: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive that Python's own writer made, with one member."""
    sink = io.BytesIO()
    info.size = len(data)
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()[: 512 + -(-len(data) // 512) * 512] + bytes(1024)


def member(name: str = "files/a", **changes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o600
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def test_what_was_written_is_read() -> None:
    assert read(written()) == PARTS


def test_any_tar_reads_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(written())) as tar:
        assert [(info.name, info.size, info.mode, info.isreg()) for info in tar] == [
            (name, len(data), 0o600, True) for name, data in PARTS.items()
        ]


def test_the_accepted_twin() -> None:
    """What the forgeries below change one thing of."""
    assert read(with_member(member(), b"data")) == {"files/a": b"data"}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "files/../../a", "files/./a", "files//a", ".files/a", "files/", "files/.a", "a\\b"]
)
def test_a_name_that_leads_elsewhere(name: str) -> None:
    assert not is_part_name(name)
    with pytest.raises(ValueError, match="no part"):
        write_part(io.BytesIO(), name, b"")
    header = bytearray(archive._header("x" * len(name), 0))
    header[: len(name)] = name.encode()
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(BackupMalformed):
        read(bytes(header) + bytes(1024))


@pytest.mark.parametrize(
    "change",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/shadow"},
        {"type": tarfile.LNKTYPE, "linkname": "files/b"},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"mode": 0o4755},
        {"uid": 1000},
        {"uname": "root"},
        {"mtime": 1},
    ],
    ids=repr,
)
def test_a_member_that_is_no_plain_file(change: dict[str, object]) -> None:
    with pytest.raises(BackupMalformed):
        read(with_member(member(**change)))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_extended_headers(form: int) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        tar.addfile(member("files/" + "a" * 120))
    with pytest.raises(BackupMalformed):
        read(sink.getvalue())


def test_a_member_that_claims_to_be_huge() -> None:
    """Refused by its header: nobody allocates what it claims."""
    header = archive._header("files/a", MAX_PART)
    grown = bytearray(header)
    grown[124:136] = b"77777777777\0"
    grown[148:156] = b" " * 8
    grown[148:156] = b"%06o\0 " % sum(grown)
    with pytest.raises(BackupMalformed, match="not one"):
        read(bytes(grown))
    with pytest.raises(ValueError, match="no part"):
        write_part(io.BytesIO(), "files/a", bytes(MAX_PART + 1))


@pytest.mark.parametrize("size", [b"-0000000001\0", b"0x000000001\0", b"           \0", b"\x80" + bytes(11)])
def test_a_size_that_is_none(size: bytes) -> None:
    header = bytearray(archive._header("files/a", 0))
    header[124:136] = size
    with pytest.raises(BackupMalformed):
        read(bytes(header) + bytes(1024))


def test_wherever_it_is_cut_off() -> None:
    whole = written()
    for length in range(0, len(whole), 97):
        with pytest.raises(BackupTruncated):
            read(whole[:length])


@pytest.mark.parametrize("more", [b"x", bytes(512), bytes(9216)])
def test_something_behind_its_end(more: bytes) -> None:
    with pytest.raises(BackupMalformed, match="follows"):
        read(written() + more)


def test_something_in_the_padding() -> None:
    data = bytearray(written())
    data[512 + 700] = 1
    with pytest.raises(BackupMalformed, match="padded"):
        read(bytes(data))


@given(st.binary(max_size=2048))
def test_any_octets_are_refused_by_name_or_read(data: bytes) -> None:
    with suppress(BackupMalformed, BackupTruncated):
        read(data)
