"""A real TPM in software for tests: swtpm, each instance in a folder of its own, stopped by its own process id.

`LocalCa` is the maker: swtpm_setup's local certificate authority with its configuration in a temporary folder, so that
nothing of the machine's own configuration is read or written and no privilege is needed.

    with LocalCa() as ca, SoftwareTpm(ca) as tpm:       # manufactured: EK certificates in NV, issued by `ca`
        ... tpm.tcti ...                                # "swtpm:path=…"
        ca.roots, ca.intermediates                      # DER, for TrustAnchors.load

    with SoftwareTpm() as tpm:                          # blank: no EK certificate, made in a fraction of the time

A manufactured instance has, by swtpm_setup 0.7 to 0.10: an RSA-2048 EK by template L-1 at 0x81010001 with its
certificate in NV index 0x01c00002, and an ECC P-384 EK by template H-3 at 0x81010016 with its in 0x01c00016.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_START_LIMIT = 20.0  # seconds until swtpm must answer
_STOP_LIMIT = 10.0

EK_RSA_HANDLE, EK_RSA_CERTIFICATE = 0x81010001, 0x01C00002
EK_ECC_HANDLE, EK_ECC_CERTIFICATE = 0x81010016, 0x01C00016


def missing_programs(*, manufacture: bool = True) -> list[str]:
    """The programs that this module needs and the machine lacks: for pytest.mark.skipif, with their names as reason."""
    wanted = ("swtpm", "swtpm_setup", "swtpm_localca", "certtool") if manufacture else ("swtpm",)
    return [program for program in wanted if shutil.which(program) is None]


class LocalCa:
    """A maker of software TPMs: a root and an issuing certificate, created with the first TPM that it makes."""

    def __init__(self, manufacturer: str = "attestd", model: str = "test") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="attestd-ca-"))
        state = self.directory / "state"
        state.mkdir(mode=0o700)
        self._root = state / "swtpm-localca-rootca-cert.pem"
        self._issuer = state / "issuercert.pem"
        settings, options = self.directory / "localca.conf", self.directory / "localca.options"
        settings.write_text(
            f"statedir = {state}\n"
            f"signingkey = {state}/signkey.pem\n"
            f"issuercert = {self._issuer}\n"
            f"certserial = {state}/certserial\n"
        )
        options.write_text(
            f"--platform-manufacturer {manufacturer}\n--platform-version 2.1\n--platform-model {model}\n"
        )
        self.config = self.directory / "setup.conf"
        self.config.write_text(
            f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
            f"create_certs_tool_config = {settings}\n"
            f"create_certs_tool_options = {options}\n"
            "active_pcr_banks = sha256\n"
        )

    @property
    def roots(self) -> list[bytes]:
        """The self-signed root certificate, as DER; exists once a TPM has been made."""
        return [ssl.PEM_cert_to_DER_cert(self._root.read_text())]

    @property
    def intermediates(self) -> list[bytes]:
        """The certificate that signs EK certificates, as DER."""
        return [ssl.PEM_cert_to_DER_cert(self._issuer.read_text())]

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SoftwareTpm:
    """One TPM. Its folder is short-lived and short-named: the path of a Unix socket has at most 107 octets."""

    def __init__(self, ca: LocalCa | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="attestd-tpm-"))
        self.state = self.directory / "state"
        self.state.mkdir(mode=0o700)
        self._socket = self.directory / "s"
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        if ca is not None:
            try:
                self._manufacture(ca)
            except BaseException:
                self.close()
                raise

    @property
    def tcti(self) -> str:
        """What tpm2-tss, tpm2-tools (`-T`) and the agent (`--tcti`) take to reach it."""
        return f"swtpm:path={self._socket}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> Self:
        """Powers on, with TPM2_Startup(CLEAR) done, and waits until it answers."""
        if self._process is not None:
            return self
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "swtpm",
                    "socket",
                    "--tpm2",
                    "--tpmstate",
                    f"dir={self.state}",
                    "--ctrl",
                    f"type=unixio,path={self._socket}.ctrl",  # tpm2-tss looks for it under this name
                    "--server",
                    f"type=unixio,path={self._socket}",
                    "--flags",
                    "not-need-init,startup-clear",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_it_answers()
        return self

    def stop(self) -> None:
        """Powers off. The state stays; the next start is a TPM Reset: PCRs begin anew and resetCount has grown."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_LIMIT)
        for path in (self._socket, Path(f"{self._socket}.ctrl")):
            path.unlink(missing_ok=True)

    def reboot(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Powers off and forgets everything."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _manufacture(self, ca: LocalCa) -> None:
        done = subprocess.run(
            [
                "swtpm_setup",
                "--tpm2",
                "--create-ek-cert",
                "--create-platform-cert",
                "--lock-nvram",
                "--tpmstate",
                str(self.state),
                "--config",
                str(ca.config),
                "--logfile",
                str(self._log),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"swtpm_setup failed: {done.stdout}{done.stderr}{self._logged()}")

    def _wait_until_it_answers(self) -> None:
        process = self._process
        deadline = time.monotonic() + _START_LIMIT
        while process is not None and process.poll() is None and time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(f"{self._socket}.ctrl")
                    if self._socket.exists():
                        return
                except OSError:
                    pass
            time.sleep(0.01)
        self.stop()
        raise RuntimeError(f"swtpm did not start: {self._logged()}")

    def _logged(self) -> str:
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
