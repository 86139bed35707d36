"""What the agent remembers: who it is, what the service said, when to come back. Pure; `state` keeps it on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from attestd.errors import MalformedInput
from attestd.protocol.encoding import Members, read_object, write_object
from attestd.protocol.evidence import PcrSelection, parse_selection
from attestd_agent.keys import TpmKey

_MAX_RECORD = 128 * 1024
_JWT = re.compile(r"[\w-]+(?:\.[\w-]+){2}", re.ASCII)


class ChainNotOfThisKey(MalformedInput):
    """The certificate is not for the device's credential key"""

    remedy = "Ask the service's operator: it answered with a certificate for another key."


class MalformedChain(MalformedInput):
    """The certificate chain can't be read"""

    remedy = ChainNotOfThisKey.remedy


class MalformedEar(MalformedInput):
    """The attestation result can't be read"""

    remedy = ChainNotOfThisKey.remedy


@dataclass(frozen=True, slots=True)
class Record:
    """One credential's facts. All times are Unix seconds by this device's clock, as it stood when the answer came:
    a clock that is wrong by a constant still renews in time."""

    server: str
    device_id: str
    spiffe_id: str
    ek: str  # the endorsement key's kind: a later enrollment must not choose another one
    selection: PcrSelection  # what the service wanted quoted when the device enrolled
    wants: tuple[str, ...]  # and which logs with it
    obtained_at: int
    renew_at: int  # with its jitter
    expires_at: int
    result: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        members = Members(read_object(data, limit=_MAX_RECORD, name="device.json"), "device.json")
        members.version()
        parsed = cls(
            server=members.text("server", limit=2048),
            device_id=members.text("device_id", limit=64),
            spiffe_id=members.text("spiffe_id", limit=2048),
            ek=members.text("ek", limit=40),
            selection=parse_selection(members.object("selection")),
            wants=members.texts("wants", most=8),
            obtained_at=members.integer("obtained_at"),
            renew_at=members.integer("renew_at"),
            expires_at=members.integer("expires_at"),
            result=dict(members.object("result").items()),
        )
        members.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object(
            {
                "v": 1,
                "server": self.server,
                "device_id": self.device_id,
                "spiffe_id": self.spiffe_id,
                "ek": self.ek,
                "selection": {bank: list(indices) for bank, indices in self.selection.items()},
                "wants": list(self.wants),
                "obtained_at": self.obtained_at,
                "renew_at": self.renew_at,
                "expires_at": self.expires_at,
                "result": self.result,
            }
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """The service knows the device and gives it nothing yet: pending approval, or quarantined."""

    state: str
    server: str
    since: int  # Unix seconds
    retry_at: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        members = Members(read_object(data, limit=_MAX_RECORD, name="waiting.json"), "waiting.json")
        members.version()
        parsed = cls(
            state=members.text("state", limit=20),
            server=members.text("server", limit=2048),
            since=members.integer("since"),
            retry_at=members.integer("retry_at"),
        )
        members.done()
        return parsed

    def to_bytes(self) -> bytes:
        return write_object(
            {"v": 1, "state": self.state, "server": self.server, "since": self.since, "retry_at": self.retry_at}
        )


@dataclass(frozen=True)
class Enrolled:
    """A credential and the keys that it is for: made only by `of`, which proves that they belong together."""

    ak: TpmKey
    ck: TpmKey
    chain: str  # PEM, the leaf first
    record: Record
    leaf: x509.Certificate
    ear: str = ""  # the attestation's result as a JWT, for relying parties; it is theirs to verify

    @classmethod
    def of(cls, *, ak: TpmKey, ck: TpmKey, chain: str, record: Record, ear: str = "") -> Self:
        """Raises MalformedChain, MalformedEar, or ChainNotOfThisKey where the leaf's key is not `ck`."""
        try:
            leaf = x509.load_pem_x509_certificates(chain.encode("ascii"))[0]
            key = leaf.public_key()
        except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):  # UnicodeEncodeError is a ValueError
            raise MalformedChain(expected="PEM certificates, the device's own first") from None
        if key != ck.key:
            raise ChainNotOfThisKey
        return cls(ak, ck, chain, record, leaf, _checked(ear))

    def with_ear(self, ear: str) -> Self:
        """The same credential with a later result. Raises MalformedEar."""
        return replace(self, ear=_checked(ear))


def _checked(ear: str) -> str:
    if ear and not _JWT.fullmatch(ear):
        raise MalformedEar(seen=repr(ear[:40]), expected="a JWT: three parts in base64url")
    return ear
