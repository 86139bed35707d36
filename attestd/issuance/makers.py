"""The facts about TPM makers that come with the product: their known certificates, and advisories on their firmware."""

from __future__ import annotations

from functools import cache
from importlib import resources

from attestd.tpm.known_makers import Manifest


@cache
def known_makers() -> Manifest:
    """The manifest of known makers' certificates (certs/tpm-roots). It identifies certificates, and trusts none."""
    return Manifest.parse((resources.files("attestd_certs") / "tpm-roots" / "manifest.csv").read_bytes())
