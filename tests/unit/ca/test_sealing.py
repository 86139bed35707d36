"""Sealing: everything that was changed, cut, or meant for something else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import given
from hypothesis import strategies as st

from attestd.ca import sealing
from attestd.ca.keyfiles import KeyFileExposed, KeyFileMissing, write_secret
from attestd.ca.sealing import (
    EXPANSION,
    SealBroken,
    SealingKey,
    SealingKeys,
    SealingKeysMalformed,
    SealKeyUnknown,
    sealing_file,
)
from attestd.errors import MalformedInput
from attestd.protocol.encoding import b64encode, write_object

from .conftest import Entropy, counted

PURPOSE = "attestd/challenge/1"
PLAINTEXT = b"what the service must recognise later"

OLD = SealingKey(b"old-id-1", "old", b"\x01" * 32)
CURRENT = SealingKey(b"current1", "current", b"\x02" * 32)
NEXT = SealingKey(b"next-id1", "next", b"\x03" * 32)
KEYS = SealingKeys([OLD, CURRENT, NEXT])


def seal(keys: SealingKeys = KEYS, plaintext: bytes = PLAINTEXT) -> bytes:
    return keys.seal(plaintext, purpose=PURPOSE, entropy=counted())


def test_what_was_sealed_opens() -> None:
    sealed = seal()
    assert KEYS.open(sealed, purpose=PURPOSE) == PLAINTEXT
    assert len(sealed) == len(PLAINTEXT) + EXPANSION
    assert PLAINTEXT not in sealed


def test_the_form_is_the_documented_one() -> None:
    """version ‖ key id ‖ nonce ‖ AES-256-GCM-SIV, bound to version ‖ key id ‖ purpose."""
    nonce = counted()(12)
    expected = AESGCMSIV(CURRENT.secret).encrypt(nonce, PLAINTEXT, b"\x01current1" + PURPOSE.encode())
    assert seal() == b"\x01current1" + nonce + expected


@given(st.binary(max_size=300), st.integers(min_value=0))
def test_any_size_opens_again_and_grows_by_the_same(plaintext: bytes, seed: int) -> None:
    sealed = KEYS.seal(plaintext, purpose=PURPOSE, entropy=counted(str(seed)))
    assert len(sealed) == len(plaintext) + EXPANSION
    assert KEYS.open(sealed, purpose=PURPOSE) == plaintext


def test_every_single_bit_flip_is_refused() -> None:
    sealed = seal()
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken) as caught:
            KEYS.open(bytes(flipped), purpose=PURPOSE)
        assert isinstance(caught.value, SealKeyUnknown) == (8 <= bit < 72)


def test_every_truncation_and_extension_is_refused() -> None:
    sealed = seal()
    for size in range(len(sealed)):
        with pytest.raises(SealBroken):
            KEYS.open(sealed[:size], purpose=PURPOSE)
    with pytest.raises(SealBroken):
        KEYS.open(sealed + b"\x00", purpose=PURPOSE)
    with pytest.raises(SealBroken, match="too short"):
        KEYS.open(sealed[: EXPANSION - 1], purpose=PURPOSE)


@given(st.binary(max_size=200))
def test_random_octets_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        KEYS.open(data, purpose=PURPOSE)


def test_another_purpose_is_refused() -> None:
    with pytest.raises(SealBroken, match="something else"):
        KEYS.open(seal(), purpose="attestd/nonce/1")


def test_another_held_keys_id_is_refused() -> None:
    with pytest.raises(SealBroken, match="changed"):
        KEYS.open(b"\x01" + OLD.id + seal()[9:], purpose=PURPOSE)


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(SealBroken, match="version 2"):
        KEYS.open(b"\x02" + seal()[1:], purpose=PURPOSE)


def test_an_unknown_key_is_named() -> None:
    sealed = seal(SealingKeys([SealingKey(b"stranger", "current", b"\x09" * 32)]))
    with pytest.raises(SealKeyUnknown) as caught:
        KEYS.open(sealed, purpose=PURPOSE)
    assert caught.value.seen == b"stranger".hex()


@pytest.mark.parametrize("key", [OLD, NEXT])
def test_old_and_next_keys_open_and_never_seal(key: SealingKey) -> None:
    theirs = SealingKeys([SealingKey(key.id, "current", key.secret)])
    assert KEYS.open(seal(theirs), purpose=PURPOSE) == PLAINTEXT
    assert seal()[1:9] == CURRENT.id


def test_nonces_come_from_the_given_entropy() -> None:
    entropy = counted()
    first, second = (KEYS.seal(PLAINTEXT, purpose=PURPOSE, entropy=entropy) for _ in range(2))
    assert first != second
    assert first == seal()


@pytest.mark.parametrize("purpose", ["", "a b", "é", "x" * 65, "line\n"])
def test_a_purpose_is_a_short_printable_label(purpose: str) -> None:
    with pytest.raises(ValueError, match="purpose"):
        KEYS.seal(PLAINTEXT, purpose=purpose, entropy=counted())


# ---- The keys ---------------------------------------------------------------------------------------------------


def test_no_secret_is_shown(tmp_path: Path, entropy: Entropy) -> None:
    shown = f"{CURRENT!r} {CURRENT} {KEYS!r} {KEYS} {[KEYS, CURRENT]}"
    assert CURRENT.id.hex() in shown
    for secret in (CURRENT.secret.hex(), repr(CURRENT.secret), b64encode(CURRENT.secret)):
        assert secret not in shown
    spoilt = b'{"v":1,"keys":[{"id":"%s","key":"%s!","state":"current"}]}' % (
        b"ab" * 8,
        b64encode(b"\x02" * 32).encode(),
    )
    write_secret(tmp_path / "sealing.json", spoilt, entropy=entropy)
    with pytest.raises(SealingKeysMalformed) as caught:
        SealingKeys.load(tmp_path / "sealing.json")
    assert b64encode(b"\x02" * 32)[:8] not in f"{caught.value} {caught.value.what_to_do}"


def test_fresh_keys_are_entropys(entropy: Entropy) -> None:
    key = SealingKey.fresh("next", entropy)
    again = counted()
    assert (key.id, key.secret, key.state) == (again(8), again(32), "next")


def test_the_file_is_read_as_it_is_written(tmp_path: Path, entropy: Entropy) -> None:
    write_secret(tmp_path / "sealing.json", sealing_file([OLD, CURRENT, NEXT]), entropy=entropy)
    loaded = SealingKeys.load(tmp_path / "sealing.json")
    assert loaded.open(seal(), purpose=PURPOSE) == PLAINTEXT
    assert seal(loaded) == seal()
    (tmp_path / "sealing.json").chmod(0o640)
    with pytest.raises(KeyFileExposed):
        SealingKeys.load(tmp_path / "sealing.json")
    with pytest.raises(KeyFileMissing):
        SealingKeys.load(tmp_path / "other.json")


def entry(**changes: Any) -> dict[str, Any]:
    return {"id": "ab" * 8, "key": b64encode(b"\x05" * 32), "state": "current"} | changes


WRONG_FILES: dict[str, Any] = {
    "not an object": [],
    "version": {"v": 2, "keys": [entry()]},
    "no keys": {"v": 1},
    "no key": {"v": 1, "keys": []},
    "member added": {"v": 1, "keys": [entry()], "more": 1},
    "member added to a key": {"v": 1, "keys": [entry(more=1)]},
    "id too short": {"v": 1, "keys": [entry(id="ab" * 7)]},
    "id not hexadecimal": {"v": 1, "keys": [entry(id="xy" * 8)]},
    "key too short": {"v": 1, "keys": [entry(key=b64encode(b"\x05" * 31))]},
    "key too long": {"v": 1, "keys": [entry(key=b64encode(b"\x05" * 33))]},
    "state unknown": {"v": 1, "keys": [entry(), entry(id="cd" * 8, key=b64encode(b"\x06" * 32), state="new")]},
    "too many keys": {
        "v": 1,
        "keys": [entry(), *(entry(id=f"{n:016x}", key=b64encode(bytes([n]) * 32), state="old") for n in range(40))],
    },
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_file_that_is_wrong_in_one_point_is_refused(tmp_path: Path, entropy: Entropy, wrong: str) -> None:
    path = tmp_path / "sealing.json"
    write_secret(path, write_object({"v": 1, "keys": [entry()]}), entropy=entropy)
    SealingKeys.load(path)
    path.write_bytes(write_object(WRONG_FILES[wrong]))
    with pytest.raises(SealingKeysMalformed):
        SealingKeys.load(path)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [OLD, NEXT],
        [CURRENT, SealingKey(b"current2", "current", b"\x07" * 32)],
        [CURRENT, SealingKey(CURRENT.id, "old", b"\x07" * 32)],
        [CURRENT, SealingKey(b"another1", "old", CURRENT.secret)],
        [SealingKey(b"short", "current", b"\x07" * 32)],
        [SealingKey(b"current2", "current", b"\x07" * 16)],
    ],
    ids=["none", "none current", "two current", "one id twice", "one secret twice", "short id", "AES-128"],
)
def test_a_set_of_keys_that_is_wrong_is_refused(keys: list[SealingKey]) -> None:
    with pytest.raises(SealingKeysMalformed):
        SealingKeys(keys)


def test_a_library_without_the_cipher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(_: bytes) -> None:
        raise sealing.UnsupportedAlgorithm("no AES-GCM-SIV")

    monkeypatch.setattr(sealing, "AESGCMSIV", unsupported)
    with pytest.raises(SealingKeysMalformed) as caught:
        SealingKeys([CURRENT])
    assert "OpenSSL 3.2" in caught.value.what_to_do
