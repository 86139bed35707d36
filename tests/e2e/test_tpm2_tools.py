"""What tpm2-tools write about a software TPM is read by `attestd appraise`, in every form that they have."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Run, run
from tests.software_tpm import LocalCa, SoftwareTpm, missing_programs

__all__ = ["run"]
_TOOLS = ("tpm2_createek", "tpm2_createak", "tpm2_readpublic", "tpm2_quote", "tpm2_pcrread", "tpm2_nvread")
_MISSING = [*missing_programs(), *(tool for tool in _TOOLS if shutil.which(tool) is None)]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")

NONCE, SELECTION = "0011223344", "sha256:0,1,7,23"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the tools have been at work."""
    folder = tmp_path_factory.mktemp("tools")
    with LocalCa() as ca, SoftwareTpm(ca) as tpm:
        environment = {**os.environ, "TPM2TOOLS_TCTI": tpm.tcti}

        def tool(*arguments: str) -> str:
            """One command; without a resource manager what it loaded is flushed after it."""
            done = subprocess.run(
                arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, done.stderr
            subprocess.run(["tpm2_flushcontext", "-t"], env=environment, capture_output=True, check=False, timeout=60)
            return done.stdout

        tool("tpm2_nvread", "0x01c00002", "-o", "ek.der")
        tool("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub")
        for kind, scheme in (("ecc", "ecdsa"), ("rsa", "rsassa")):
            tool("tpm2_createak", "-C", "ek.ctx", "-c", f"{kind}.ctx", "-G", kind, "-g", "sha256", "-s", scheme)
            for form in ("tss", "tpmt", "pem", "der"):
                tool("tpm2_readpublic", "-c", f"{kind}.ctx", "-f", form, "-o", f"{kind}.{form}")
            for form, pcrs in (("tss", "serialized"), ("plain", "values")):
                tool(
                    "tpm2_quote", "-c", f"{kind}.ctx", "-l", SELECTION, "-q", NONCE, "-g", "sha256",
                    "-m", f"{kind}-{form}.quote", "-s", f"{kind}-{form}.sig", "-f", form,
                    "-o", f"{kind}-{form}.pcrs", "-F", pcrs,
                )  # fmt: skip
        (folder / "read.txt").write_text(tool("tpm2_pcrread", SELECTION, "-o", "read.bin"))
        (folder / "roots.pem").write_text("".join(map(ssl.DER_cert_to_PEM_cert, ca.roots)))
        (folder / "issuer.der").write_bytes(ca.intermediates[0])
    yield folder


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
@pytest.mark.parametrize("key", ["tss", "tpmt", "pem", "der"])
@pytest.mark.parametrize("form", ["tss", "plain"])
def test_a_quote_in_each_form(run: Run, folder: Path, kind: str, key: str, form: str) -> None:
    command = [
        "appraise", "quote", "--ak", folder / f"{kind}.{key}", "--quote", folder / f"{kind}-{form}.quote",
        "--signature", folder / f"{kind}-{form}.sig", "--json",
    ]  # fmt: skip
    for pcrs in (f"{kind}-{form}.pcrs", "read.txt", "read.bin"):
        ran = run(*command, "--nonce", NONCE, "--pcrs", folder / pcrs)
        assert (ran.code, ran.document["nonce_checked"], set(ran.document["pcrs"]["sha256"])) == (
            0,
            True,
            {"0", "1", "7", "23"},
        )
    ran = run(*command, "--nonce", "00")
    assert (ran.code, ran.problem) == (1, "nonce-mismatch")
    other = [folder / "rsa.tss" if part == folder / f"{kind}.{key}" else part for part in command]
    if kind == "ecc":
        assert run(*other).code in (1, 2)


def test_the_ek_certificate_out_of_nv(run: Run, folder: Path) -> None:
    command = ["appraise", "ek", folder / "ek.der", "--roots", folder / "roots.pem", "--json"]
    ran = run(*command, "--intermediate", folder / "issuer.der")
    assert (ran.code, ran.document["verdict"]) == (0, "good")
    ran = run(*command)
    assert (ran.code, ran.problem) == (1, "untrusted-maker")


def test_an_ek_is_no_attestation_key(run: Run, folder: Path) -> None:
    ran = run(
        "appraise", "quote", "--ak", folder / "ek.pub", "--quote", folder / "rsa-tss.quote",
        "--signature", folder / "rsa-tss.sig", "--json",
    )  # fmt: skip
    assert (ran.code, ran.problem) == (1, "ak-not-signing")
