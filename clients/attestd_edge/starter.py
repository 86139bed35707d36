"""A new edge's key and first configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.errors import Conflict
from attestd.ids import Site, TrustDomain
from attestd_edge.files import FileUnwritable
from attestd_edge.settings import read_origin

_CONFIG = """\
# attestd-edge: `attestd-edge check --config {path}` says what is wrong with it.
# Paths are relative to this file's folder.

[edge]
server = "{server}"
root = "root.pem"                  # the service's root (attestd: ca/root.pem, or GET /v1/root)
trust_domain = "{trust_domain}"
state_dir = "state"
key = "proxy.key.pem"
certificate = "proxy.pem"          # made by: attestd proxies add NAME --site {site} --key proxy.pub.pem --out proxy.pem

[listen]
unix = "auth.sock"                 # under systemd: /run/attestd-edge/auth.sock
mode = "0660"
# group = "www-data"               # the reverse proxy's group
certificate_header = "x-client-cert"

# [tokens]                         # without this, certificates only
# audience = "edge"
# origins = ["https://api.{trust_domain}"]

[[boundary]]
name = "field-to-{site}"
from = {{ tier = "device", site = "{site}" }}
to = {{ tier = "edge", site = "{site}" }}
# labels = {{ class = "telemetry" }}
"""


class AlreadyMade(Conflict):
    """There is something already, and nothing is overwritten"""

    remedy = "Use what is there, or name another folder."


@dataclass(frozen=True, slots=True)
class Made:
    """The files of a new edge."""

    key: Path
    public_key: Path
    config: Path


def make(folder: Path, *, server: str, trust_domain: str, site: str) -> Made:
    """Writes a fresh P-256 key, its public half and a configuration into `folder`.

    Raises MalformedName, SettingsInvalid, AlreadyMade or FileUnwritable.
    """
    made = Made(folder / "proxy.key.pem", folder / "proxy.pub.pem", folder / "edge.toml")
    text = _CONFIG.format(
        path=made.config,
        server=read_origin(server),
        trust_domain=TrustDomain(trust_domain),
        site=Site(site),
    )
    for path in (made.key, made.public_key, made.config):
        if path.exists():
            raise AlreadyMade(f"{path} exists.")
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state").mkdir(mode=0o750, exist_ok=True)
        _write(made.key, private, mode=0o600)
        _write(made.public_key, public, mode=0o644)
        _write(made.config, text.encode(), mode=0o640)
    except OSError as error:
        raise FileUnwritable(f"{folder}: {error.strerror}.") from error
    return made


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """Only where nothing is: O_EXCL, so that a link put there is not followed."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
