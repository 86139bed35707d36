"""A backup under a passphrase: whatever is done to its octets, nothing of it is believed."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator

import pytest

from attestd.backups import sealed
from attestd.backups.archive import BackupMalformed, BackupTruncated
from attestd.backups.sealed import CHUNK, MAGIC, PassphraseTooShort, PassphraseWrong, SealedReader, SealedWriter

PASSPHRASE = b"correct horse battery"
HEADER = len(MAGIC) + 16
SEALED = CHUNK + 16


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """scrypt's cost is not what these tests are about, but for the one that looks at it."""
    monkeypatch.setattr(sealed, "_N", 2)
    yield


def written(data: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    sink = io.BytesIO()
    writer = SealedWriter(sink, passphrase, entropy=os.urandom)
    for start in range(0, len(data), 1000):
        writer.write(data[start : start + 1000])
    writer.close()
    return sink.getvalue()


def read(data: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    reader = SealedReader(io.BytesIO(data), passphrase)
    found = b""
    while piece := reader.read(5000):
        found += piece
    return found


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
def test_what_was_written_is_read(size: int) -> None:
    data = os.urandom(size)
    assert read(written(data)) == data


def test_reading_again_from_the_beginning() -> None:
    reader = SealedReader(io.BytesIO(written(b"abc" * CHUNK)), PASSPHRASE)
    first = reader.read(CHUNK + 5)
    reader.rewind()
    assert reader.read(CHUNK + 5) == first


def test_nothing_shows_and_no_two_are_alike() -> None:
    data = bytes(1000)
    one, two = written(data), written(data)
    assert data not in one
    assert one[HEADER:] != two[HEADER:]


def test_another_passphrase() -> None:
    with pytest.raises(PassphraseWrong):
        read(written(b"data"), PASSPHRASE + b".")


def test_a_short_passphrase_seals_and_opens_nothing() -> None:
    with pytest.raises(PassphraseTooShort):
        written(b"data", b"elevenchars")
    with pytest.raises(PassphraseTooShort):
        read(written(b"data"), b"elevenchars")


def test_a_cut_at_a_chunks_border() -> None:
    """Each chunk that is left is genuine: only the missing mark of the last one tells."""
    whole = written(bytes(3 * CHUNK))
    for chunks in (1, 2):
        with pytest.raises(BackupTruncated):
            read(whole[: HEADER + chunks * SEALED])


@pytest.mark.parametrize("length", [0, 1, 15, 16, 20, HEADER, HEADER + 5, HEADER + SEALED + 3, HEADER + SEALED + 100])
def test_a_cut_anywhere(length: int) -> None:
    with pytest.raises((BackupTruncated, BackupMalformed)):
        read(written(bytes(2 * CHUNK))[:length])


@pytest.mark.parametrize("at", [len(MAGIC), HEADER, HEADER + CHUNK, HEADER + SEALED + 1, -1])
def test_one_bit(at: int) -> None:
    data = bytearray(written(bytes(CHUNK + 100)))
    data[at] ^= 1
    with pytest.raises(BackupMalformed):
        read(bytes(data))


def test_chunks_in_another_order() -> None:
    data = written(os.urandom(3 * CHUNK))
    header, one, two, rest = data[:HEADER], *(data[HEADER + n * SEALED :][:SEALED] for n in (0, 1, 2))
    for forged in (
        header + two + one + rest,
        header + one + one + two + rest,
        header + two + rest,
        header + one + rest,
    ):
        with pytest.raises(BackupMalformed):
            read(header + forged)


def test_a_chunk_of_another_backup() -> None:
    """Under the same passphrase: another salt, another key."""
    one, two = written(bytes(2 * CHUNK)), written(bytes(2 * CHUNK))
    with pytest.raises(BackupMalformed):
        read(one[: HEADER + SEALED] + two[HEADER + SEALED :])


def test_something_appended() -> None:
    with pytest.raises(BackupMalformed):
        read(written(b"data") + b"more")


def test_the_key_is_scrypts(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB a guess, and nothing in the file that would make it less."""
    monkeypatch.undo()
    asked: list[dict[str, object]] = []
    scrypt = hashlib.scrypt

    def watched(passphrase: bytes, **parameters: object) -> bytes:
        asked.append(parameters)
        return scrypt(passphrase, **parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "scrypt", watched)
    assert read(written(b"data")) == b"data"
    assert [(found["n"], found["r"], found["p"]) for found in asked] == [(1 << 16, 8, 1)] * 2
    assert asked[0]["salt"] == asked[1]["salt"]
