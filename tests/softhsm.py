"""A PKCS #11 token in software (SoftHSM2), each with a folder and a configuration of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attestd.ca.manifest import TokenPlace
from attestd.ca.pkcs11 import KeyToken
from attestd.ca.unlocking import Unlocking

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
LABEL, PIN, SO_PIN = "attestd-test", "482913", "99887766"


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """One token. `environ` is for processes that are to see it."""

    folder: Path

    @property
    def configuration(self) -> Path:
        return self.folder / "softhsm2.conf"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    @property
    def environ(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.configuration)}

    @property
    def place(self) -> TokenPlace:
        return TokenPlace(MODULE, LABEL)

    @property
    def unlocking(self) -> Unlocking:
        return Unlocking(pin_file=self.pin_file)

    def pull(self) -> None:
        """The token goes away."""
        (self.folder / "tokens").rename(self.folder / "pulled")

    def insert(self) -> None:
        """The token comes back."""
        (self.folder / "pulled").rename(self.folder / "tokens")

    def put_pin(self, pin: str) -> None:
        draft = self.folder / "pin.new"
        draft.write_text(pin + "\n")
        draft.chmod(0o600)
        draft.replace(self.pin_file)


@contextmanager
def softhsm(folder: Path) -> Iterator[SoftHsm]:
    """A fresh token that this process sees, too, until the end of the block."""
    made = SoftHsm(folder)
    (folder / "tokens").mkdir(parents=True)
    made.configuration.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    made.put_pin(PIN)
    init = ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", SO_PIN]
    subprocess.run(init, env=os.environ | made.environ, check=True, capture_output=True)
    before = os.environ.get("SOFTHSM2_CONF")
    _forget_modules()
    os.environ |= made.environ
    try:
        yield made
    finally:
        _forget_modules()
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before


def _forget_modules() -> None:
    """The module reads its configuration when it is initialised: the next token needs that anew."""
    import pkcs11

    KeyToken._known.clear()
    if MODULE in pkcs11._loaded:
        pkcs11._loaded[MODULE].finalize()
