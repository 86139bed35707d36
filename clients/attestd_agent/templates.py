"""The TPMT_PUBLIC templates of every key that the agent asks a TPM for. Pure: octets only, no TPM library.

Endorsement keys: TCG EK Credential Profile for TPM Family 2.0, version 2.4 revision 3, annex B.3 (low range, templates
L-1 and L-2) and B.4 (high range, templates H-1 to H-6); NV indices: sections 2.2.1.4 and 2.2.1.5.
Storage root: TPM v2.0 Provisioning Guidance 1.0, section 7.5.1.
Structures: TPM 2.0 Library, Part 2, sections 8.3 (TPMA_OBJECT) and 12.2 (TPMT_PUBLIC).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from attestd.tpm.ektemplates import POLICY_A_SHA256, POLICY_B_SHA256, POLICY_B_SHA384
from attestd.tpm.objects import P256, P384, Alg, Attributes

_BORN_HERE = Attributes.FIXED_TPM | Attributes.FIXED_PARENT | Attributes.SENSITIVE_DATA_ORIGIN
_EK_LOW = _BORN_HERE | Attributes.ADMIN_WITH_POLICY | Attributes.RESTRICTED | Attributes.DECRYPT
_EK_HIGH = _EK_LOW | Attributes.USER_WITH_AUTH


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _head(kind: int, name_alg: int, attributes: int, policy: bytes) -> bytes:
    return struct.pack(">HHI", kind, name_alg, attributes) + _sized(policy)


def _storage(aes_bits: int) -> bytes:
    """symmetric = AES-CFB, asymmetric scheme = none: what restricted decryption keys have."""
    return struct.pack(">HHHH", Alg.AES, aes_bits, Alg.CFB, Alg.NULL)


def _rsa_ek(name_alg: int, attributes: int, policy: bytes, *, bits: int, aes: int, unique: bytes) -> bytes:
    head = _head(Alg.RSA, name_alg, attributes, policy)
    return head + _storage(aes) + struct.pack(">HI", bits, 0) + _sized(unique)


def _ecc_storage(name_alg: int, attributes: int, policy: bytes, *, curve: int, aes: int, unique: bytes) -> bytes:
    head = _head(Alg.ECC, name_alg, attributes, policy)
    return head + _storage(aes) + struct.pack(">HH", curve, Alg.NULL) + _sized(unique) * 2


@dataclass(frozen=True, slots=True)
class EndorsementTemplate:
    """One row of the profile: where the certificate lies in NV and which template made its key."""

    name: str  # what `--ek` takes
    profile: str  # the profile's name for it
    certificate: int  # NV index of the certificate
    area: bytes  # the default template; an NV template replaces it, an NV nonce fills its `unique`
    unique_size: int  # octets of one `unique` field that a nonce is padded to
    low: bool  # low range: authorised by PolicyA alone; high range: the empty authValue will do for USER role

    @property
    def nonce(self) -> int | None:
        """NV index of the nonce for `unique`; the high range has none."""
        return self.certificate + 1 if self.low else None

    @property
    def template(self) -> int:
        """NV index of a template that replaces the default one."""
        return self.certificate + (2 if self.low else 1)

    def with_nonce(self, nonce: bytes) -> bytes:
        """The default template with `unique` set from the NV nonce: padded with zeros at its end; ECC: x only."""
        fields = 2 if self.area[:2] == struct.pack(">H", Alg.ECC) else 1
        plain = self.area[: len(self.area) - fields * (2 + self.unique_size)]
        padded = nonce[: self.unique_size].ljust(self.unique_size, b"\0")
        return plain + _sized(padded) + (_sized(bytes(self.unique_size)) if fields == 2 else b"")


# In the order of preference. It must never depend on chance: another EK is another device to the service.
ENDORSEMENT: Final[tuple[EndorsementTemplate, ...]] = (
    EndorsementTemplate(
        "rsa-2048",
        "L-1",
        0x01C00002,
        _rsa_ek(Alg.SHA256, _EK_LOW, POLICY_A_SHA256, bits=2048, aes=128, unique=bytes(256)),
        256,
        low=True,
    ),
    EndorsementTemplate(
        "ecc-p256",
        "L-2",
        0x01C0000A,
        _ecc_storage(Alg.SHA256, _EK_LOW, POLICY_A_SHA256, curve=P256, aes=128, unique=bytes(32)),
        32,
        low=True,
    ),
    EndorsementTemplate(
        "rsa-2048-high",
        "H-1",
        0x01C00012,
        _rsa_ek(Alg.SHA256, _EK_HIGH, POLICY_B_SHA256, bits=2048, aes=128, unique=b""),
        0,
        low=False,
    ),
    EndorsementTemplate(
        "ecc-p256-high",
        "H-2",
        0x01C00014,
        _ecc_storage(Alg.SHA256, _EK_HIGH, POLICY_B_SHA256, curve=P256, aes=128, unique=b""),
        0,
        low=False,
    ),
    EndorsementTemplate(
        "ecc-p384-high",
        "H-3",
        0x01C00016,
        _ecc_storage(Alg.SHA384, _EK_HIGH, POLICY_B_SHA384, curve=P384, aes=256, unique=b""),
        0,
        low=False,
    ),
    EndorsementTemplate(
        "rsa-3072-high",
        "H-6",
        0x01C0001C,
        _rsa_ek(Alg.SHA384, _EK_HIGH, POLICY_B_SHA384, bits=3072, aes=256, unique=b""),
        0,
        low=False,
    ),
)

# The handles that the profile and the provisioning guidance reserve for endorsement keys.
ENDORSEMENT_HANDLES: Final = range(0x81010000, 0x81020000)
# The NV indices that the TCG reserves for endorsement certificates.
ENDORSEMENT_INDICES: Final = range(0x01C00000, 0x01C08000)
# Where the profile keeps the certificates of the EK's issuers, concatenated in index order.
CHAIN_INDICES: Final = range(0x01C00100, 0x01C00200)

OWNER: Final = 0x40000001
SRK_HANDLE: Final = 0x81000001

_SRK_ATTRIBUTES = _BORN_HERE | Attributes.USER_WITH_AUTH | Attributes.NO_DA | Attributes.RESTRICTED | Attributes.DECRYPT
# Word for word what OpenSSL's tpm2 provider creates for a key whose parent is TPM_RH_OWNER: `unique` is empty.
STORAGE_ROOT: Final = _ecc_storage(Alg.SHA256, _SRK_ATTRIBUTES, b"", curve=P256, aes=128, unique=b"")

# noDA: a lockout after somebody else's wrong guesses must not silence the device.
_KEY_ATTRIBUTES = _BORN_HERE | Attributes.USER_WITH_AUTH | Attributes.NO_DA | Attributes.SIGN
# Restricted: it signs only what the TPM itself made, so that a quote can't be forged through it.
ATTESTATION_KEY: Final = (
    _head(Alg.ECC, Alg.SHA256, _KEY_ATTRIBUTES | Attributes.RESTRICTED, b"")
    + struct.pack(">HHHHH", Alg.NULL, Alg.ECDSA, Alg.SHA256, P256, Alg.NULL)
    + _sized(b"") * 2
)
# No fixed scheme: TLS chooses the hash.
CREDENTIAL_KEY: Final = (
    _head(Alg.ECC, Alg.SHA256, _KEY_ATTRIBUTES, b"")
    + struct.pack(">HHHH", Alg.NULL, Alg.NULL, P256, Alg.NULL)
    + _sized(b"") * 2
)


def is_storage_root(area: bytes) -> bool:
    """Is this public area a P-256 storage key that anyone may use as a parent?

    It must be noDA: were its authValue not empty after all, the attempt must not count towards a lockout.
    """
    if len(area) < 22:
        return False
    kind, name_alg, attributes, policy = struct.unpack_from(">HHIH", area)
    return (
        kind == Alg.ECC
        and name_alg == Alg.SHA256
        and attributes & _SRK_ATTRIBUTES == _SRK_ATTRIBUTES
        and not attributes & Attributes.SIGN
        and policy == 0
        and struct.unpack_from(">H", area, 18)[0] == P256
    )
