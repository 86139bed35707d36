"""`attestd appraise quote`: verdicts, exit codes and reasons, for quotes of an imitated TPM."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.tpm.objects import parse_signature
from tests import forger as f
from tests import logwriter
from tests.commands import Ran, Run
from tests.forger import Forger, forge_key

NONCE = bytes.fromhex("11223344")
PCRS = {"sha256": {0: b"\x01" * 32, 7: b"\x07" * 32}, "sha384": {2: b"\x02" * 48}}
TPM = Forger()
ATTEST, SIGNATURE = TPM.quote(NONCE, PCRS)


class Files:
    """The files of one quote; `run` puts others in their place."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self._run = folder, run

    def write(self, name: str, data: bytes) -> Path:
        (self.folder / name).write_bytes(data)
        return self.folder / name

    def run(self, *more: object, **lies: bytes) -> Ran:
        said = {"ak": TPM.ak.public, "quote": ATTEST, "signature": SIGNATURE, **lies}
        options: list[object] = []
        for name, data in said.items():
            options += [f"--{name}", self.write(name, data)]
        return self._run("appraise", "quote", *options, *more, "--json")


@pytest.fixture
def files(tmp_path: Path, run: Run) -> Files:
    return Files(tmp_path, run)


def as_json(pcrs: Mapping[str, Mapping[int, bytes]] = PCRS) -> bytes:
    return json.dumps({bank: {str(i): v.hex() for i, v in values.items()} for bank, values in pcrs.items()}).encode()


def test_a_good_quote(files: Files) -> None:
    ran = files.run("--nonce", NONCE.hex(), pcrs=as_json())
    assert (ran.code, ran.err) == (0, "")
    said = ran.document
    assert (said["verdict"], said["nonce"], said["nonce_checked"]) == ("good", "11223344", True)
    assert said["pcrs"] == json.loads(as_json())
    assert said["selection"] == {"sha256": [0, 7], "sha384": [2]}
    assert set(said["clock"]) == {"clock", "reset_count", "restart_count", "safe"}


def test_what_was_not_given_was_not_compared(files: Files) -> None:
    said = files.run().document
    assert (said["verdict"], said["nonce_checked"], said["pcrs"]) == ("good", False, None)


def test_what_a_person_is_told(tmp_path: Path, run: Run, files: Files) -> None:
    files.run()
    options = [part for name in ("ak", "quote", "signature") for part in (f"--{name}", tmp_path / name)]
    ran = run("appraise", "quote", *options)
    assert ran.code == 0
    assert "may be an old quote" in ran.out
    assert "not given, so not compared" in ran.out
    assert "bare public key" not in ran.out


# ---- Keys and signatures, as tpm2-tools write them ---------------------------------------------------------------


def bare(encoding: Encoding) -> bytes:
    return TPM.ak.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "ak",
    [
        pytest.param(f.tpm2b(TPM.ak.public), id="TPM2B_PUBLIC"),
        pytest.param(bare(Encoding.PEM), id="PEM"),
        pytest.param(bare(Encoding.DER), id="DER"),
    ],
)
def test_forms_of_the_key(files: Files, ak: bytes) -> None:
    assert files.run("--nonce", NONCE.hex(), ak=ak, pcrs=as_json()).code == 0
    other = TPM.quote(NONCE, PCRS, signer=forge_key()).signature
    ran = files.run(ak=ak, signature=other)
    assert (ran.code, ran.problem) == (1, "attestation-signature-wrong")


def test_a_quote_in_its_sized_buffer(files: Files) -> None:
    assert files.run(quote=f.tpm2b(ATTEST)).code == 0


def plain(signature: bytes) -> bytes:
    parsed = parse_signature(signature)
    return encode_dss_signature(parsed.r, parsed.s)


@pytest.mark.parametrize("ak", [TPM.ak.public, bare(Encoding.PEM)], ids=["public area", "PEM"])
def test_a_plain_ecdsa_signature(files: Files, ak: bytes) -> None:
    assert files.run(ak=ak, signature=plain(SIGNATURE)).code == 0
    other = TPM.quote(b"another", PCRS).signature
    ran = files.run(ak=ak, signature=plain(other))
    assert (ran.code, ran.problem) == (1, "attestation-signature-wrong")
    assert files.run(ak=ak, signature=b"\x30\x03abc").code == 2


@pytest.mark.parametrize("scheme", [f.RSASSA, f.RSAPSS])
def test_rsa_signatures(files: Files, scheme: int) -> None:
    tpm = Forger(ak=forge_key("rsa2048", scheme=(scheme, f.SHA256)))
    attest, signature = tpm.quote(NONCE, PCRS)
    pem = tpm.ak.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for ak in (tpm.ak.public, pem):
        assert files.run(ak=ak, quote=attest, signature=signature).code == 0
    assert files.run(ak=tpm.ak.public, quote=attest, signature=parse_signature(signature).value).code == 0


# ---- Bad quotes -------------------------------------------------------------------------------------------------


def test_another_nonce(files: Files) -> None:
    for nonce in ("11223345", "1122334400", "0x11"):
        ran = files.run("--nonce", nonce)
        assert (ran.code, ran.problem, ran.document["verdict"]) == (1, "nonce-mismatch", "bad")


def test_no_nonce_answers_no_challenge(files: Files) -> None:
    attest, signature = TPM.quote(b"", PCRS)
    ran = files.run("--nonce", "", quote=attest, signature=signature)
    assert (ran.code, ran.problem) == (1, "nonce-mismatch")


@pytest.mark.parametrize("nonce", ["xyz", "1", "00" * 65])
def test_what_is_no_nonce(files: Files, nonce: str) -> None:
    ran = files.run("--nonce", nonce)
    assert (ran.code, ran.problem) == (2, "nonce-unreadable")


@pytest.mark.parametrize(
    ("lies", "problem"),
    [
        ({"magic": 0xFF544346}, "not-made-by-tpm"),
        ({"type": f.CERTIFY}, "attestation-type-wrong"),
        ({"digest": b"\x01" * 32}, "pcr-digest-mismatch"),
    ],
)
def test_one_lie_in_the_quote(files: Files, lies: dict[str, Any], problem: str) -> None:
    attest, signature = TPM.quote(NONCE, PCRS, **lies)
    ran = files.run(quote=attest, signature=signature, pcrs=as_json())
    assert (ran.code, ran.problem) == (1, problem)


@pytest.mark.parametrize(
    "pcrs",
    [
        pytest.param({**PCRS, "sha256": {0: b"\x01" * 32}}, id="one less"),
        pytest.param({**PCRS, "sha256": PCRS["sha256"] | {8: bytes(32)}}, id="one that is not quoted"),
        pytest.param({"sha256": PCRS["sha256"]}, id="a bank less"),
    ],
)
def test_values_of_other_pcrs(files: Files, pcrs: dict[str, dict[int, bytes]]) -> None:
    ran = files.run(pcrs=as_json(pcrs))
    assert (ran.code, ran.problem) == (1, "pcr-values-mismatch")


def test_a_value_that_differs(files: Files) -> None:
    ran = files.run(pcrs=as_json({**PCRS, "sha256": PCRS["sha256"] | {7: bytes(32)}}))
    assert (ran.code, ran.problem) == (1, "pcr-digest-mismatch")


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        (f.AK_ATTRIBUTES & ~f.RESTRICTED, "ak-not-restricted"),
        (f.AK_ATTRIBUTES & ~f.FIXED_TPM, "ak-not-fixed-tpm"),
    ],
)
def test_a_key_that_can_sign_what_no_tpm_said(files: Files, attributes: int, problem: str) -> None:
    tpm = Forger(ak=forge_key(attributes=attributes))
    attest, signature = tpm.quote(NONCE, PCRS)
    ran = files.run(ak=tpm.ak.public, quote=attest, signature=signature)
    assert (ran.code, ran.problem) == (1, problem)


def test_a_bare_key_signs_over_strong_hashes_of_its_kind_alone(files: Files) -> None:
    tpm = Forger(ak=forge_key(scheme=(f.ECDSA, f.SHA1)))
    attest, signature = tpm.quote(NONCE, PCRS)
    pem = tpm.ak.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ran = files.run(ak=pem, quote=attest, signature=signature)
    assert (ran.code, ran.problem) == (1, "signature-scheme-mismatch")
    ran = files.run(ak=tpm.ak.public, quote=attest, signature=signature)
    assert (ran.code, ran.problem) == (1, "ak-hash-weak")


def test_sha1_banks_are_no_evidence(files: Files) -> None:
    alone = {"sha1": {0: bytes(20)}}
    attest, signature = TPM.quote(NONCE, alone)
    ran = files.run(quote=attest, signature=signature, pcrs=as_json(alone))
    assert (ran.code, ran.problem) == (1, "sha1-bank-refused")
    ran = files.run("--allow-sha1", quote=attest, signature=signature, pcrs=as_json(alone))
    assert (ran.code, ran.document["pcrs"]) == (0, json.loads(as_json(alone)))
    both = {**alone, "sha256": {0: bytes(32)}}
    attest, signature = TPM.quote(NONCE, both)
    ran = files.run(quote=attest, signature=signature, pcrs=as_json(both))
    assert (ran.code, set(ran.document["pcrs"])) == (0, {"sha256"})


def test_a_quote_over_nothing(files: Files) -> None:
    for selection in ([], [(f.SHA256, b"\0\0\0")]):
        attest, signature = TPM.quote(NONCE, {}, selection=selection)
        ran = files.run(quote=attest, signature=signature)
        assert (ran.code, ran.problem) == (1, "nothing-selected")


# ---- Input that can't be used -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lies", "problem"),
    [
        ({"ak": b""}, "malformed-tpm-structure"),
        ({"ak": TPM.ak.public[:-1]}, "malformed-tpm-structure"),
        ({"ak": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}, "key-unreadable"),
        ({"ak": b"\x30\x03abc"}, "key-unreadable"),
        ({"quote": ATTEST[:-1]}, "malformed-tpm-structure"),
        ({"quote": ATTEST + b"\0"}, "malformed-tpm-structure"),
        ({"signature": SIGNATURE[:-1]}, "malformed-tpm-structure"),
        ({"signature": b""}, "malformed-tpm-structure"),
        ({"pcrs": b""}, "pcrs-unreadable"),
        ({"pcrs": b"{"}, "malformed-pcr-file"),
        ({"pcrs": b'{"sha256": {"0": "zz"}}'}, "malformed-pcr-file"),
        ({"pcrs": b'{"sha256": 1}'}, "malformed-pcr-file"),
        ({"pcrs": b"[" * 5000}, "pcrs-unreadable"),
        ({"pcrs": b"sha256:\n  0 : 0x00\n"}, "malformed-pcr-file"),
        ({"pcrs": bytes(111)}, "pcrs-unreadable"),
        ({"pcrs": struct.pack("<I", 17) + bytes(664)}, "pcrs-unreadable"),
        ({"quote": bytes(64 * 1024 + 1)}, "input-too-large"),
        ({"eventlog": b""}, "malformed-event-log"),
        ({"eventlog": b"no log"}, "malformed-event-log"),
    ],
)
def test_input_that_can_not_be_used(files: Files, lies: dict[str, bytes], problem: str) -> None:
    ran = files.run(**lies)
    assert (ran.code, ran.problem) == (2, problem)


def test_a_key_of_another_kind(files: Files) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert files.run(ak=pem).problem == "key-unreadable"
    odd = ec.generate_private_key(ec.SECP256K1()).public_key()
    ran = files.run(ak=odd.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert ran.code in (1, 2)


# ---- Forms of PCR values ----------------------------------------------------------------------------------------


def as_yaml() -> bytes:
    lines = []
    for bank, values in PCRS.items():
        lines += [f"  {bank}:", *(f"    {index:<2}: 0x{value.hex().upper()}" for index, value in values.items())]
    return "\n".join(lines).encode() + b"\n"


def as_structures(**lies: int) -> bytes:
    """What `tpm2_quote -o` writes: the C structures of a little-endian machine."""
    banks = {"sha256": 0x0B, "sha384": 0x0C}
    entries = b""
    for bank, values in PCRS.items():
        bits = sum(1 << index for index in values)
        entries += struct.pack("<HB4sx", banks[bank], 3, bits.to_bytes(4, "little"))
    digests = [value for values in PCRS.values() for value in values.values()]
    data = struct.pack("<I", lies.get("banks", len(PCRS))) + entries.ljust(128, b"\0")
    data += struct.pack("<II", lies.get("lists", 1), lies.get("count", len(digests)))
    return data + b"".join(struct.pack("<H64s", len(digest), digest) for digest in digests).ljust(8 * 66, b"\0")


@pytest.mark.parametrize(
    "pcrs",
    [as_json(), as_yaml(), as_structures(), b"".join(v for values in PCRS.values() for v in values.values())],
    ids=["JSON", "what tpm2_pcrread prints", "what tpm2_quote writes", "digests in a row"],
)
def test_forms_of_pcr_values(files: Files, pcrs: bytes) -> None:
    ran = files.run(pcrs=pcrs)
    assert (ran.code, ran.document["pcrs"]) == (0, json.loads(as_json()))
    ran = files.run(pcrs=pcrs.replace(b"07", b"08").replace(b"\x07", b"\x08"))
    assert (ran.code, ran.problem) == (1, "pcr-digest-mismatch")


@pytest.mark.parametrize("lies", [{"lists": 2}, {"lists": 1 << 31}, {"count": 9}, {"count": 1}, {"banks": 17}])
def test_structures_that_do_not_add_up(files: Files, lies: dict[str, int]) -> None:
    ran = files.run(pcrs=as_structures(**lies))
    assert (ran.code, ran.problem) == (2, "pcrs-unreadable")


def test_the_firmware_is_told_where_the_quote_proves_it(files: Files) -> None:
    name = TPM.ak.name
    signer = struct.pack(">H", f.SHA256) + hashlib.sha256(bytes.fromhex("4000000b") + name).digest()
    attest, signature = TPM.quote(NONCE, PCRS, qualified_signer=signer, firmware_version=0x0007_0055_0011_CB02)
    assert files.run(quote=attest, signature=signature).document["firmware"] == "7.85.17.51970"
    assert files.run().document["firmware"] is None


# ---- With the firmware's log -------------------------------------------------------------------------------------

BOOT = logwriter.grub_boot()
BOOTED = {"sha256": {pcr: BOOT.pcrs["sha256"][pcr] for pcr in (0, 4, 7)}}
BOOT_ATTEST, BOOT_SIGNATURE = TPM.quote(NONCE, BOOTED)


def booted(files: Files, log: bytes, *more: object, **lies: bytes) -> Ran:
    return files.run(*more, **{"quote": BOOT_ATTEST, "signature": BOOT_SIGNATURE, "eventlog": log} | lies)


@pytest.mark.parametrize("values", [{}, {"pcrs": as_json(BOOTED)}], ids=["by the digest", "by values"])
def test_a_log_that_replays_to_the_quote_says_what_was_booted(files: Files, values: dict[str, bytes]) -> None:
    ran = booted(files, BOOT.agile(), **values)
    assert (ran.code, ran.document["verdict"]) == (0, "good")
    assert ran.document["pcrs"] == json.loads(as_json(BOOTED))
    assert ran.document["facts"]["secure_boot"] is True


def test_a_log_of_another_boot_is_refused(files: Files) -> None:
    for values, problem in (({}, "pcr-digest-mismatch"), ({"pcrs": as_json(BOOTED)}, "event-log-mismatch")):
        ran = booted(files, lying_log(), **values)
        assert (ran.code, ran.problem) == (1, problem)


def lying_log() -> bytes:
    """An event of a quoted PCR is left out."""
    number = next(at for at, event in enumerate(BOOT.log, 1) if event.pcr == 4)
    return BOOT.without(number).agile()
