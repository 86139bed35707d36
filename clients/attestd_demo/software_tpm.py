"""Software TPMs for the story: swtpm, manufactured by a local certificate authority of their own.

Nothing of the machine's own swtpm configuration is read or written, and no privilege is needed. What swtpm_setup 0.7 to
0.10 makes: an RSA-2048 EK (template L-1) at 0x81010001 with its certificate in NV index 0x01c00002.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from attestd.errors import Unavailable

_START_LIMIT = 20.0  # seconds until swtpm must answer
_STOP_LIMIT = 10.0


class SoftwareTpmFailed(Unavailable):
    """The software TPM can't be made or started"""

    remedy = "Install swtpm and swtpm-tools (deploy/install-dependencies.sh runtime)."


@dataclass(frozen=True)
class Maker:
    """A maker of software TPMs: its certificate authority is created in `folder` with the first TPM that it makes."""

    folder: Path

    @property
    def certificates(self) -> Path:
        """The maker's root and issuing certificates in one PEM file, for `attestd trust add`."""
        both = self.folder / "maker.pem"
        if not both.exists():
            names = ("swtpm-localca-rootca-cert.pem", "issuercert.pem")
            both.write_text("".join((self.folder / name).read_text("ascii") for name in names), "ascii")
        return both

    def make(self, state: Path) -> None:
        """Manufactures a TPM: its EK, and the certificate for it. Raises SoftwareTpmFailed."""
        settings, options, config = (self.folder / f"localca.{name}" for name in ("conf", "options", "setup"))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.write_text(
            f"statedir = {self.folder}\nsigningkey = {self.folder}/signkey.pem\n"
            f"issuercert = {self.folder}/issuercert.pem\ncertserial = {self.folder}/certserial\n"
        )
        options.write_text("--platform-manufacturer attestd\n--platform-version 2.1\n--platform-model demo\n")
        config.write_text(
            f"create_certs_tool = {shutil.which('swtpm_localca')}\ncreate_certs_tool_config = {settings}\n"
            f"create_certs_tool_options = {options}\nactive_pcr_banks = sha256\n"
        )
        state.mkdir(mode=0o700, parents=True)
        command = ["swtpm_setup", "--tpm2", "--create-ek-cert", "--lock-nvram", "--tpmstate", str(state)]
        try:
            made = subprocess.run(
                [*command, "--config", str(config), "--logfile", str(state / "setup.log")],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SoftwareTpmFailed("swtpm_setup can't be run.", seen=error) from None
        if made.returncode:
            log = (state / "setup.log").read_text(errors="replace")[-500:]
            shutil.rmtree(state)
            raise SoftwareTpmFailed("swtpm_setup failed.", seen=log)


class SoftwareTpm:
    """A running TPM. Its socket is in a short-named folder of its own: such a path has at most 107 octets."""

    def __init__(self, state: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="attestd-tpm-"))
        self._socket = self._folder / "s"
        server, control = f"type=unixio,path={self._socket}", f"type=unixio,path={self._socket}.ctrl"
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", server, "--ctrl", control]
        self._process = subprocess.Popen(
            [*command, "--flags", "not-need-init,startup-clear"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the story, which then powers its TPMs off itself
        )
        self._wait_until_it_answers()

    @property
    def path(self) -> str:
        """The socket at which it takes commands."""
        return str(self._socket)

    @property
    def tcti(self) -> str:
        """What the agent's --tcti takes."""
        return f"swtpm:path={self._socket}"

    def close(self) -> None:
        """Powers off; the state stays."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_LIMIT
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(f"{self._socket}.ctrl")
                except OSError:
                    time.sleep(0.02)
                    continue
            if self._socket.exists():
                return
        self.close()
        raise SoftwareTpmFailed("swtpm did not start.")
