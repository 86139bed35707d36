"""Keys and credentials that look like a TPM's, for tests that need no TPM."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestd_agent.keys import TpmKey
from attestd_agent.records import Enrolled, Record
from tests.forger import ForgedKey, forge_ck, forge_key
from tests.unit.attestd_agent.fake_service import Authority, pem

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
_AUTHORITY = Authority(NOW)


def tpm_key(forged: ForgedKey, parent: int = 0x40000001) -> TpmKey:
    return TpmKey(struct.pack(">H", len(forged.public)) + forged.public, b"\0\x08private!", parent)


def record(
    *,
    obtained_at: float = NOW.timestamp(),
    renew_in: int = 1800,
    expires_in: int = 3600,
    server: str = "https://attestd.test",
) -> Record:
    return Record(
        server=server,
        device_id="device-1",
        spiffe_id="spiffe://example.org/device/yard/device-1",
        ek="rsa-2048",
        selection={"sha256": (0, 7)},
        wants=(),
        obtained_at=int(obtained_at),
        renew_at=int(obtained_at) + renew_in,
        expires_at=int(obtained_at) + expires_in,
        result={"status": "affirming"},
    )


def chain_for(ck: ForgedKey, *, begin: datetime = NOW) -> str:
    assert isinstance(ck.private, ec.EllipticCurvePrivateKey)
    leaf = _AUTHORITY.issue(
        "device",
        ck.private.public_key(),
        eku=ExtendedKeyUsageOID.CLIENT_AUTH,
        uri="spiffe://example.org/device/yard/device-1",
        begin=begin,
        end=begin + timedelta(hours=1),
    )
    return pem(leaf, _AUTHORITY.issuer)


def enrolled(facts: Record | None = None, *, begin: datetime = NOW) -> Enrolled:
    """A credential of a new key each time."""
    ck = forge_ck()
    return Enrolled.of(
        ak=tpm_key(forge_key()), ck=tpm_key(ck), chain=chain_for(ck, begin=begin), record=facts or record()
    )


def authority() -> Authority:
    """The one whose certificates `chain_for` hands out."""
    return _AUTHORITY
