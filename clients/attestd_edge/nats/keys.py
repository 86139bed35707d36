"""The keys between an edge and its nats-server, and what the server's configuration must know of them.

Each has one use: the account key signs answers, the curve key opens questions, and three user keys let this service
into three accounts: to be asked, to disconnect, to carry. They never leave the folder; `keys.conf` holds public ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.public import PrivateKey

from attestd.broker.nkeys import Kind, SigningKey, write_public, write_seed
from attestd.errors import Conflict
from attestd_edge.files import FileUnwritable, read_file
from attestd_edge.nats.nkeys import CurveKey
from attestd_edge.nats.settings import KEY_NAMES

PUBLIC_FILE: Final = "keys.conf"
DISTRIBUTION_FILE: Final = "distribution.conf"
_MAX_SEED = 256  # octets
_NAMES: Final = dict(zip(KEY_NAMES, (Kind.ACCOUNT, Kind.CURVE, Kind.USER, Kind.USER, Kind.USER), strict=True))


class KeysMade(Conflict):
    """There are keys already, and nothing is overwritten"""

    remedy = "Use what is there, or name another folder."


@dataclass(frozen=True, slots=True)
class Keys:
    """All of them."""

    issuer: SigningKey
    sealing: CurveKey
    callout: SigningKey
    watch: SigningKey
    carry: SigningKey

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises FileUnreadable or NkeyMalformed."""
        seeds = {
            name: read_file(folder / f"{name}.seed", limit=_MAX_SEED).decode("ascii", "replace").strip()
            for name in _NAMES
        }
        return cls(
            SigningKey.from_seed(seeds["issuer"], Kind.ACCOUNT),
            CurveKey.from_seed(seeds["sealing"]),
            *(SigningKey.from_seed(seeds[name], Kind.USER) for name in ("callout", "watch", "carry")),
        )


def make(folder: Path, *, entropy: Callable[[int], bytes]) -> Path:
    """Fresh keys in `folder`; returns the file with the public ones. Raises KeysMade or FileUnwritable."""
    return _make(folder, PUBLIC_FILE, "this nats-server knows attestd-edge by", _NAMES, entropy)


def make_distribution(folder: Path, *, entropy: Callable[[int], bytes]) -> Path:
    """As `make`, for the service that publishes bundles (`publish`) and the edges that read them (`listen`)."""
    names = {"publish": Kind.USER, "listen": Kind.USER}
    return _make(folder, DISTRIBUTION_FILE, "bundles are published and read with", names, entropy)


def _make(folder: Path, public_file: str, use: str, names: Mapping[str, Kind], entropy: Callable[[int], bytes]) -> Path:
    lines = [f"# The public keys that {use}. Made by `attestd-edge nats keys`.\n"]
    files: dict[str, str] = {}
    for name, kind in names.items():
        seed = entropy(32)
        if kind is Kind.CURVE:
            public = bytes(PrivateKey(seed).public_key)
        else:
            public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        files[f"{name}.seed"] = write_seed(kind, seed) + "\n"
        lines.append(f'ATTESTD_{name.upper()}: "{write_public(kind, public)}"\n')
    files[public_file] = "".join(lines)
    for name in files:
        if (folder / name).exists():
            raise KeysMade(f"{folder / name} exists.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            mode = 0o644 if name == public_file else 0o600
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise FileUnwritable(f"{folder} can't be written: {error.strerror}.") from error
    return folder / public_file
