"""Key files, and how a TPM's return codes are named."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from attestd.errors import AttestdError, MalformedInput
from attestd_agent.failures import (
    HierarchyLocked,
    TpmFailed,
    TpmFull,
    TpmUnavailable,
    named,
    says_foreign_key,
    says_unreadable,
    says_unsupported,
)
from attestd_agent.keys import MalformedKeyFile, TpmKey
from tests.forger import forge_ck, forge_key
from tests.unit.attestd_agent.keysmith import tpm_key


@pytest.mark.parametrize("parent", [0x40000001, 0x81000001])
def test_a_key_file_is_read_back(parent: int) -> None:
    key = tpm_key(forge_ck(), parent)
    assert TpmKey.from_pem(key.to_pem()) == key
    assert max(map(len, key.to_pem().splitlines())) <= 64


@pytest.mark.parametrize("parent", [0x40000001, 0x81000001])
def test_tpm2_pytss_reads_the_same(parent: int) -> None:
    tsskey = pytest.importorskip("tpm2_pytss.tsskey")
    key = tpm_key(forge_ck(), parent)
    theirs = tsskey.TSSPrivKey.from_pem(key.to_pem())
    assert (theirs.parent, theirs.empty_auth) == (parent, True)
    assert (bytes(theirs.public.marshal()), bytes(theirs.private.marshal())) == (key.public, key.private)
    assert tsskey.TSSPrivKey(theirs.private, theirs.public, True, parent).to_pem() == key.to_pem()


GOOD = tpm_key(forge_ck()).to_pem()


def _of_another_type() -> bytes:
    octets = base64.b64decode(b"".join(GOOD.splitlines()[1:-1]))
    other = octets.replace(bytes.fromhex("6781050a0103"), bytes.fromhex("6781050a0104"))  # id-importablekey
    text = base64.b64encode(other).decode()
    return f"-----BEGIN TSS2 PRIVATE KEY-----\n{text}\n-----END TSS2 PRIVATE KEY-----\n".encode()


_LIES = {
    "empty": b"",
    "cut": GOOD[:-30],
    "another kind of PEM": GOOD.replace(b"TSS2 PRIVATE", b"PRIVATE"),
    "trailing": GOOD + b"x",
    "not base64": GOOD[:40] + b"====" + GOOD[44:],
    "not ASN.1": b"-----BEGIN TSS2 PRIVATE KEY-----\nAAAA\n-----END TSS2 PRIVATE KEY-----\n",
    "another type": _of_another_type(),
    "huge": GOOD[:33] + b"A" * 20_000 + b"\n-----END TSS2 PRIVATE KEY-----\n",
}


@pytest.mark.parametrize("lie", _LIES)
def test_other_files_are_no_keys(lie: str) -> None:
    assert _LIES[lie] != GOOD
    with pytest.raises(MalformedKeyFile):
        TpmKey.from_pem(_LIES[lie])


def test_a_public_area_of_the_wrong_size_is_refused() -> None:
    key = tpm_key(forge_ck())
    with pytest.raises(MalformedKeyFile):
        TpmKey.from_pem(TpmKey(b"\0\x05" + key.area, key.private, key.parent).to_pem())
    with pytest.raises(MalformedInput):
        TpmKey.from_pem(TpmKey(b"\0\x05hello", key.private, key.parent).to_pem())


def test_a_key_of_another_kind_has_no_ecc_half() -> None:
    assert tpm_key(forge_ck()).key
    with pytest.raises(MalformedKeyFile):
        _ = tpm_key(forge_key("rsa2048")).key


# ---- Return codes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rc", "kind"),
    [
        (0x000A000A, TpmUnavailable),  # TCTI: I/O error
        (0x00000100, TpmUnavailable),  # TPM_RC_INITIALIZE: nobody started it
        (0x00000902, TpmFull),  # OBJECT_MEMORY
        (0x00000903, TpmFull),  # SESSION_MEMORY
        (0x000009A2, HierarchyLocked),  # BAD_AUTH, session 1
        (0x0000098E, HierarchyLocked),  # AUTH_FAIL, session 1
        (0x000001DF, TpmFailed),  # INTEGRITY, parameter 1
        (0x00070001, TpmFailed),  # ESYS: general failure
        (0x00000921, TpmFailed),  # LOCKOUT
    ],
)
def test_return_codes_have_names(rc: int, kind: type[AttestdError]) -> None:
    found = named(rc, "tpm:text", what="do it", tcti="swtpm:path=/nowhere")
    assert type(found) is kind
    assert f"0x{rc:08x}" in str(found)
    assert "do it" in str(found)


@pytest.mark.parametrize("rc", [0x1DF, 0x18B, 0x1A5, 0x2DF])
def test_foreign_keys_are_told_by_their_codes(rc: int) -> None:
    assert says_foreign_key(rc)
    assert not says_foreign_key(rc | 0x000A0000)


@pytest.mark.parametrize("rc", [0x902, 0x9A2, 0x921, 0x100])
def test_other_codes_tell_of_no_foreign_key(rc: int) -> None:
    assert not says_foreign_key(rc)


def test_unsupported_and_unreadable() -> None:
    assert says_unsupported(0x2C4)  # VALUE, parameter 2
    assert not says_unsupported(0x9A2)
    assert not says_unsupported(0x902)
    assert not says_unsupported(0x000A000A)
    assert says_unreadable(0x14A)
    assert says_unreadable(0x149)
    assert says_unreadable(0x98E)
    assert not says_unreadable(0x902)
    assert not says_unreadable(0x000A000A)


def test_a_device_file_s_trouble_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = named(0xA000A, "", what="sign", tcti=f"device:{tmp_path}/tpmrm0")
    assert "does not exist" in missing.detail
    (tmp_path / "tpmrm0").touch()
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "may not read and write" in named(0xA000A, "", what="sign", tcti=f"device:{tmp_path}/tpmrm0").detail
    monkeypatch.setattr("os.access", lambda *_: True)
    assert "does not answer" in named(0xA000A, "", what="sign", tcti=f"device:{tmp_path}/tpmrm0").detail
