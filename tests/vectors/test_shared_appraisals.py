"""The shared EK certificates and quotes get their manifest's verdicts from the commands, as anybody would call them.

The files are other projects' data and stay where they are: `../shared/vectors`, or where `ATTESTD_VECTORS` points.
"""

from __future__ import annotations

import base64
import json
import os
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run

VECTORS = Path(os.environ.get("ATTESTD_VECTORS", Path(__file__).resolve().parents[2].parent / "shared" / "vectors"))
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"the shared vectors are not at {VECTORS}")
ROOTS = VECTORS / "tpm-roots"


@cache
def manifest() -> dict[str, dict[str, Any]]:
    """The entries of EK certificates and quotes, by file."""
    if not VECTORS.is_dir():
        return {}
    entries = json.loads((VECTORS / "manifest.json").read_text())
    return {e["file"]: e for e in entries if e["file"].startswith(("ek-certs/", "quotes/"))}


CERTIFICATES = [file for file in manifest() if file.startswith("ek-certs/")]


def within(file: str) -> str:
    """A moment when the leaf is valid: in the middle of its life."""
    said = manifest()[file]["expected"]
    begins, ends = (
        datetime.strptime(said[name], "%b %d %H:%M:%S %Y GMT")  # noqa: DTZ007 - both the same zone
        for name in ("not_before", "not_after")
    )
    return (begins + (ends - begins) / 2).isoformat()


# ---- EK certificates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", CERTIFICATES)
def test_each_certificate_gets_its_verdict(run: Run, file: str) -> None:
    entry = manifest()[file]
    said = entry["expected"]
    ran = run("appraise", "ek", VECTORS / file, "--roots", ROOTS, "--at", within(file), "--json")
    if not said["verdict"].startswith("chain verifies to root "):
        assert "untrusted" in said["verdict"]
        assert (ran.code, ran.problem, ran.document["verdict"]) == (1, "untrusted-maker", "bad")
    elif entry["kind"] == "ek-cert":
        assert (ran.code, ran.document["verdict"]) == (0, "good")
        found = ran.document
        assert found["chain"][-1]["sha256"] == said["chain_sha256"][-1]
        assert len(found["chain"]) == 1 + len(said["chain_sha256"])
        assert ("rsaes-oaep-key" in found["quirks"]) == said["spki_rsaes_oaep"]
        if said["tpm_manufacturer"]:
            assert bytes.fromhex(said["tpm_manufacturer"][3:]).rstrip(b"\0 ").decode() == found["maker"]
    else:
        assert entry["kind"] in ("ak-cert", "aik-cert")
        assert ran.code == 1
        assert ran.problem in ("ek-key-usage-wrong", "issuer-not-for-purpose")


@pytest.mark.parametrize(
    "file", ["ifx-08-rsaes-oaep.der", "intel-sptH-ptt-rsa.der", "ntc-2111-attezt.der", "stm-rsa-05.der"]
)
def test_the_roots_may_be_microsofts_cabinet(run: Run, file: str) -> None:
    name, cabinet = f"ek-certs/{file}", ROOTS / "TrustedTpm.cab"
    ran = run("appraise", "ek", VECTORS / name, "--roots", cabinet, "--at", within(name), "--json")
    assert (ran.code, ran.document["verdict"]) == (0, "good")


def test_every_kind_of_verdict_is_there() -> None:
    kinds = [(e["kind"], e["expected"]["verdict"].startswith("chain")) for e in map(manifest().get, CERTIFICATES) if e]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        ("ek-cert", True): 12,
        ("ek-cert", False): 4,
        ("ak-cert", True): 3,
        ("aik-cert", True): 2,
    }


@pytest.mark.parametrize(
    ("file", "quirks"),
    [
        ("intel-sptH-ptt-rsa.der", ["encoded-default"]),
        ("ntc-2111-attezt.der", ["set-order"]),
        ("stm-rsa-05.der", ["long-serial"]),
        ("ifx-rsa-035.der", []),
        ("google-pca-rsa-enc.pem", ["google-cas"]),
        ("ifx-08-rsaes-oaep.der", ["nv-header", "padded", "rsaes-oaep-key", "sha1-signature", "tpm12-profile"]),
    ],
)
def test_what_is_odd_is_named(run: Run, file: str, quirks: list[str]) -> None:
    name = f"ek-certs/{file}"
    ran = run("appraise", "ek", VECTORS / name, "--roots", ROOTS, "--at", within(name), "--json")
    assert (ran.code, ran.document["quirks"]) == (0, quirks)


def test_a_nuvoton_chip_that_outlives_its_root(run: Run) -> None:
    """Its certificate says until 2040, its maker's root until 2037."""
    file = VECTORS / "ek-certs" / "ntc-2111-attezt.der"
    for at, quirks in (("2037-09-01", ["set-order"]), ("2038-01-01", ["expired-root", "set-order"])):
        ran = run("appraise", "ek", file, "--roots", ROOTS, "--at", at, "--json")
        assert (ran.code, ran.document["quirks"]) == (0, quirks)
    assert run("appraise", "ek", file, "--roots", ROOTS, "--at", "2041-01-01").code == 1
    ran = run("appraise", "ek", file, "--roots", ROOTS, "--at", "2038-01-01", "--refuse-quirk", "expired-root")
    assert ran.code == 1


def test_chips_with_advisories(run: Run) -> None:
    for name, ids in (("stm-rsa-05.der", ["CVE-2019-16863"]), ("ifx-rsa-029-SLB9665.der", [])):
        file = f"ek-certs/{name}"
        ran = run("appraise", "ek", VECTORS / file, "--roots", ROOTS, "--at", within(file), "--json")
        assert [found["id"] for found in ran.document["advisories"]] == ids


# ---- Quotes -----------------------------------------------------------------------------------------------------


def vector(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / "quotes" / f"{name}.json").read_text())
    return found


def options(folder: Path, **files: bytes) -> list[object]:
    found: list[object] = []
    for name, data in files.items():
        (folder / name).write_bytes(data)
        found += [f"--{name}", folder / name]
    return found


def octets(members: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(members[name])


def test_gce_quotes(run: Run, tmp_path: Path) -> None:
    members = vector("gotpmtools-gce-cos-85-nonce9009")
    for entry in members["quotes"]:
        told = options(
            tmp_path,
            ak=octets(members, "ak_public_tpmt_b64"),
            quote=octets(entry, "attest_b64"),
            signature=octets(entry, "signature_b64"),
            pcrs=json.dumps({entry["bank"]: entry["pcrs"]}).encode(),
        )
        ran = run("appraise", "quote", *told, "--nonce", "9009", "--allow-sha1", "--json")
        assert (ran.code, ran.document["nonce_checked"]) == (0, True)
        assert ran.document["pcrs"] == {entry["bank"]: entry["pcrs"]}
        ran = run("appraise", "quote", *told, "--nonce", "900a", "--json")
        assert (ran.code, ran.problem) == (1, "nonce-mismatch")
        without = run("appraise", "quote", *told, "--nonce", "9009", "--json")
        assert without.code == (1 if entry["bank"] == "sha1" else 0)


def test_keylime_quote_with_what_tpm2_quote_wrote(run: Run, tmp_path: Path) -> None:
    members = vector("keylime-quote")
    nonce = manifest()["quotes/keylime-quote.json"]["expected"]["attest"]["extraData"]
    told = options(
        tmp_path,
        ak=octets(members, "ak_public_tpm2b_b64"),
        quote=octets(members, "attest_b64"),
        signature=octets(members, "signature_b64"),
        pcrs=octets(members, "quotepcr_out_b64"),
    )
    ran = run("appraise", "quote", *told, "--nonce", nonce, "--json")
    assert (ran.code, set(ran.document["pcrs"]["sha256"])) == (0, {"15", "16", "22"})
    (tmp_path / "quote").write_bytes(octets(members, "attest_b64")[:-1] + b"\0")
    ran = run("appraise", "quote", *told, "--json")
    assert (ran.code, ran.problem) == (1, "attestation-signature-wrong")


def test_a_windows_quote_by_sha1(run: Run, tmp_path: Path) -> None:
    members = vector("goattest-windows_gcp_shielded_vm")
    told = options(
        tmp_path,
        ak=octets(members, "ak_public_tpmt_b64"),
        quote=octets(members, "attest_b64"),
        signature=octets(members, "signature_b64"),
    )
    ran = run("appraise", "quote", *told, "--allow-sha1", "--json")
    assert (ran.code, ran.problem) == (1, "ak-hash-weak")


def test_a_certification_is_no_quote(run: Run, tmp_path: Path) -> None:
    members = vector("attezt-ntc-certifycreation")
    told = options(
        tmp_path,
        ak=octets(members, "public"),
        quote=octets(members, "createAttestation"),
        signature=octets(members, "createSignature"),
    )
    ran = run("appraise", "quote", *told, "--json")
    assert (ran.code, ran.problem) == (1, "attestation-type-wrong")


@pytest.mark.parametrize("file", [file for file in manifest() if file.startswith("quotes/immune-")])
def test_quotes_whose_key_nobody_has_are_not_good(run: Run, tmp_path: Path, file: str) -> None:
    """By any other key their signatures are wrong."""
    members, other = vector(Path(file).stem), vector("keylime-ak-name")
    told = options(
        tmp_path,
        ak=octets(other, "ak_pub_file_b64"),
        quote=octets(members, "attest_b64"),
        signature=octets(members, "signature_b64"),
        pcrs=json.dumps(members["pcrs"]).encode(),
    )
    ran = run("appraise", "quote", *told, "--json")
    assert (ran.code, ran.problem) == (1, "signature-scheme-mismatch")


# ---- The manifest of makers -------------------------------------------------------------------------------------


def test_the_shipped_manifest_is_what_the_folder_gives() -> None:
    from tests.make_tpm_manifest import MANIFEST, manifest_of

    assert MANIFEST.read_text("utf-8") == manifest_of(ROOTS)
