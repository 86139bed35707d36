"""What the agent knows of its TPM's keys, and what they make. Pure: no TPM library is needed here.

Key files: "ASN.1 Specification for TPM 2.0 Key Files" (draft-woodhouse-cert-best-practice, section 3.1.1: TPMKey with
type id-loadablekey, 2.23.133.10.1.3), as tpm2-openssl and tpm2-tss-engine read them.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from asn1crypto import core
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.errors import MalformedInput
from attestd.ids import EkHash
from attestd.protocol.evidence import PcrValues
from attestd.tpm.objects import TpmPublic, parse_public


class MalformedKeyFile(MalformedInput):
    """This is not a TPM key file"""

    remedy = "Enroll again: `attestd-agent enroll` writes a new one."


class _TpmKeyFile(core.Sequence):  # type: ignore[misc]
    _fields: ClassVar = [
        ("type", core.ObjectIdentifier),
        ("empty_auth", core.Boolean, {"explicit": 0, "optional": True}),
        ("parent", core.Integer),
        ("public", core.OctetString),
        ("private", core.OctetString),
    ]


_LOADABLE_KEY = "2.23.133.10.1.3"
_PEM = re.compile(
    r"-----BEGIN TSS2 PRIVATE KEY-----\n([A-Za-z0-9+/=\n]{1,8192})-----END TSS2 PRIVATE KEY-----\n?", re.ASCII
)


@dataclass(frozen=True)
class TpmKey:
    """A key that only its TPM can load: TPM2B_PUBLIC, TPM2B_PRIVATE (encrypted by the parent) and the parent's handle.

    `parent` is a persistent handle, or TPM_RH_OWNER for the primary key of `templates.STORAGE_ROOT`.
    """

    public: bytes
    private: bytes
    parent: int

    @cached_property
    def parsed(self) -> TpmPublic:
        return parse_public(self.area)

    @property
    def area(self) -> bytes:
        """The TPMT_PUBLIC: what messages carry."""
        return self.public[2:]

    @property
    def name(self) -> bytes:
        return self.parsed.name

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The public half. Raises MalformedKeyFile for other keys than this agent makes."""
        found = self.parsed.key
        if not isinstance(found, ec.EllipticCurvePublicKey):
            raise MalformedKeyFile("The key is of another kind.", seen=self.parsed.type.name, expected="ECC")
        return found

    def to_pem(self) -> bytes:
        """A "TSS2 PRIVATE KEY", which OpenSSL's tpm2 provider uses as it is."""
        der: bytes = _TpmKeyFile(
            {
                "type": _LOADABLE_KEY,
                "empty_auth": True,
                "parent": self.parent,
                "public": self.public,
                "private": self.private,
            }
        ).dump()
        text = base64.encodebytes(der).replace(b"\n", b"")
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        body = b"\n".join(lines)
        return b"-----BEGIN TSS2 PRIVATE KEY-----\n" + body + b"\n-----END TSS2 PRIVATE KEY-----\n"

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Raises MalformedKeyFile or MalformedTpmStructure."""
        matched = _PEM.fullmatch(data.decode("ascii", "replace"))
        if matched is None:
            raise MalformedKeyFile(expected='one PEM block "TSS2 PRIVATE KEY"')
        text = matched[1]
        try:
            read = _TpmKeyFile.load(base64.b64decode(text), strict=True).native
        except (ValueError, TypeError):
            raise MalformedKeyFile("The key file is not the ASN.1 that it should be.") from None
        public = read["public"]
        if read["type"] != _LOADABLE_KEY or int.from_bytes(public[:2], "big") != len(public) - 2:
            raise MalformedKeyFile("The key file holds no loadable key.", expected=_LOADABLE_KEY)
        found = cls(public=public, private=read["private"], parent=read["parent"])
        _ = found.parsed  # so that a broken file fails here, by its name
        return found


@dataclass(frozen=True)
class EndorsementKey:
    """The TPM's endorsement key, ready for use: where it is, or how to make it again."""

    kind: str  # the template's name, as `--ek` takes it
    public: bytes  # TPMT_PUBLIC
    certificates: tuple[bytes, ...]  # DER; its own first, its issuers' after that; none is fine
    handle: int | None  # persistent, or None: to be created from `template`
    template: bytes  # TPMT_PUBLIC

    @property
    def hash(self) -> EkHash:
        """What the inventory wants. A lifelong tracker: shown on request, never logged."""
        return EkHash.of(self.public)


@dataclass(frozen=True)
class HeldIdentity:
    """A persistent key that the machine's maker certified to be an attestation key (IAK)."""

    handle: int
    public: bytes  # TPMT_PUBLIC
    certificates: tuple[bytes, ...]  # DER; its own first, its issuers' after that

    @property
    def hash(self) -> EkHash:
        """What stands in the EK hash's place: as lifelong a tracker."""
        return EkHash.of(self.public)


@dataclass(frozen=True)
class Signed:
    """A TPMS_ATTEST and the TPMT_SIGNATURE over it."""

    attest: bytes
    signature: bytes


@dataclass(frozen=True)
class Quoted(Signed):
    """A quote with the PCR values that it covers."""

    pcrs: PcrValues


@dataclass(frozen=True)
class Proof:
    """What an enrollment needs from the TPM, in one go."""

    secret: bytes
    certified: Signed
    quoted: Quoted
    identified: Signed | None = None  # the AK, by the identity key
