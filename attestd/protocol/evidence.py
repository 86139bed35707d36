"""What a device proves, as it stands in messages: keys, quotes, PCR values, logs. Nothing in it is proven yet.

Sizes: the largest TPM structures a message can hold, with room for RSA-4096 and P-521 (TPM 2.0 Library, Part 2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from attestd.protocol.encoding import MalformedJson, Members, b64decode, b64encode

MAX_PUBLIC = 1024
MAX_ATTEST = 2048
MAX_SIGNATURE = 1100
MAX_CERTIFICATE = 8 * 1024
MAX_CERTIFICATES = 8
MAX_LOG = 4 * 1024 * 1024
MAX_ENTRIES = 1 << 31  # of one boot's IMA list

# Bank name -> PCR index -> digest.
PcrValues = Mapping[str, Mapping[int, bytes]]
# Bank name -> PCR indices.
PcrSelection = Mapping[str, tuple[int, ...]]

BANKS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}  # digest sizes in octets
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_PCRS = {str(index): index for index in range(24)}  # as they are spelled


class IdentityKey(NamedTuple):
    """An IAK in an EK's place: its TPMT_PUBLIC, and its certificate with those of its issuers. Nothing is proven."""

    public: bytes
    certificates: tuple[bytes, ...]

    @classmethod
    def read(cls, members: Members) -> Self:
        public = members.octets("public", limit=MAX_PUBLIC, least=1)
        certificates = members.many_octets("certificates", limit=MAX_CERTIFICATE, most=MAX_CERTIFICATES)
        members.done()
        return cls(public, certificates)

    def to_members(self) -> dict[str, Any]:
        return {"public": b64encode(self.public), "certificates": [b64encode(c) for c in self.certificates]}


def parse_selection(members: Members) -> dict[str, tuple[int, ...]]:
    selection: dict[str, tuple[int, ...]] = {}
    for bank, indices in members.items():
        if bank not in BANKS:
            raise MalformedJson("This is not a PCR bank.", seen=repr(bank[:20]), expected=", ".join(BANKS))
        if not isinstance(indices, list) or not all(type(i) is int and 0 <= i < 24 for i in indices):
            raise MalformedJson("A PCR selection is a list of indices.", expected="whole numbers from 0 to 23")
        selection[bank] = tuple(sorted(set(indices)))
    return selection


class CertifiedKey(NamedTuple):
    """A credential key with its certification: TPMT_PUBLIC, TPMS_ATTEST, TPMT_SIGNATURE. Nothing is proven yet."""

    public: bytes
    attest: bytes
    signature: bytes

    @classmethod
    def read(cls, members: Members) -> Self:
        public = members.octets("public", limit=MAX_PUBLIC, least=1)
        attest = members.octets("attest", limit=MAX_ATTEST, least=1)
        signature = members.octets("signature", limit=MAX_SIGNATURE, least=1)
        members.done()
        return cls(public, attest, signature)

    def to_members(self) -> dict[str, Any]:
        return {
            "public": b64encode(self.public),
            "attest": b64encode(self.attest),
            "signature": b64encode(self.signature),
        }


class Lately(NamedTuple):
    """What the service knows of a boot's logs, so that they need not be sent again: the SHA-256 of the event log, and
    how many entries of the IMA list."""

    eventlog: bytes | None = None
    ima: int = 0

    @classmethod
    def read(cls, members: Members) -> Self:
        eventlog = members.octets("eventlog", limit=32, least=32) if "eventlog" in members else None
        ima = _entries(members, "ima") if "ima" in members else 0
        members.done()
        return cls(eventlog, ima)

    def to_members(self) -> dict[str, Any]:
        found: dict[str, Any] = {} if self.eventlog is None else {"eventlog": b64encode(self.eventlog)}
        return found | ({"ima": self.ima} if self.ima else {})


NOTHING_KNOWN = Lately()


def _entries(members: Members, name: str) -> int:
    if not 0 < (count := members.integer(name)) < MAX_ENTRIES:
        raise MalformedJson(f"{name} is no number of entries.", seen=count, expected=f"1 to {MAX_ENTRIES - 1}")
    return count


class QuoteEvidence(NamedTuple):
    """A quote, the PCR values that it is said to cover, and the logs. Nothing is proven yet.

    `eventlog_sha256` stands for an event log that the service knows of this boot; `ima` goes on after the `ima_from`
    entries that it knows.
    """

    attest: bytes
    signature: bytes
    pcrs: PcrValues
    eventlog: bytes | None = None
    ima: bytes | None = None
    eventlog_sha256: bytes | None = None
    ima_from: int = 0

    @classmethod
    def read(cls, members: Members) -> Self:
        """Takes `quote`, `pcrs` and the logs out of `members`; the caller calls `done()`."""
        quote = members.object("quote")
        attest = quote.octets("attest", limit=MAX_ATTEST, least=1)
        signature = quote.octets("signature", limit=MAX_SIGNATURE, least=1)
        quote.done()
        pcrs = _read_pcrs(members.object("pcrs"))
        eventlog = members.octets("eventlog", limit=MAX_LOG) if "eventlog" in members else None
        ima = members.octets("ima", limit=MAX_LOG) if "ima" in members else None
        known = members.octets("eventlog_sha256", limit=32, least=32) if "eventlog_sha256" in members else None
        if known is not None and eventlog is not None:
            raise MalformedJson("An event log is sent or it is known.", seen="eventlog and eventlog_sha256")
        ima_from = _entries(members, "ima_from") if "ima_from" in members else 0
        if ima_from and ima is None:
            raise MalformedJson("ima_from tells where entries begin.", seen="ima_from without ima")
        return cls(attest, signature, pcrs, eventlog, ima, known, ima_from)

    def to_members(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "quote": {"attest": b64encode(self.attest), "signature": b64encode(self.signature)},
            "pcrs": {
                bank: {str(i): b64encode(value) for i, value in values.items()} for bank, values in self.pcrs.items()
            },
        }
        if self.eventlog is not None:
            found["eventlog"] = b64encode(self.eventlog)
        if self.ima is not None:
            found["ima"] = b64encode(self.ima)
        if self.eventlog_sha256 is not None:
            found["eventlog_sha256"] = b64encode(self.eventlog_sha256)
        if self.ima_from:
            found["ima_from"] = self.ima_from
        return found


def _read_pcrs(members: Members) -> dict[str, dict[int, bytes]]:
    banks: dict[str, dict[int, bytes]] = {}
    for bank, values in members.items():
        if bank not in BANKS:
            raise MalformedJson("This is not a PCR bank.", seen=repr(bank[:20]), expected=", ".join(BANKS))
        if type(values) is not dict or len(values) > 24:
            raise MalformedJson("A bank maps PCR indices to digests.", expected="at most 24 entries")
        size = BANKS[bank]
        found = banks[bank] = {}
        for spelled, text in values.items():
            index = _PCRS.get(spelled)
            if index is None:
                raise MalformedJson("This is not a PCR index.", seen=repr(spelled[:20]), expected="0 to 23")
            if type(text) is not str or len(text) > 100:
                raise MalformedJson("A PCR value is a base64url string.", seen=type(text).__name__)
            digest = b64decode(text, name=f"pcrs.{bank}.{spelled}")
            if len(digest) != size:
                raise MalformedJson("A PCR value has the wrong size.", seen=len(digest), expected=f"{size} octets")
            found[index] = digest
    return banks


def read_hex_pcrs(members: Members) -> dict[str, dict[int, bytes]]:
    """PCR values as people read them: bank -> index -> hexadecimal digits."""
    banks: dict[str, dict[int, bytes]] = {}
    for bank, values in members.items():
        if bank not in BANKS or type(values) is not dict or not values.keys() <= _PCRS.keys():
            raise MalformedJson("These are not PCR values.", seen=repr(bank[:20]), expected="bank -> index -> digest")
        for spelled, text in values.items():
            if type(text) is not str or len(text) != 2 * BANKS[bank] or not _HEX.fullmatch(text):
                raise MalformedJson("A PCR value is no digest of its bank.", seen=f"{bank} PCR {spelled}")
            banks.setdefault(bank, {})[_PCRS[spelled]] = bytes.fromhex(text)
    return banks


class Identification(NamedTuple):
    """An AK's certification by an IAK: TPMS_ATTEST, TPMT_SIGNATURE. Nothing is proven yet."""

    attest: bytes
    signature: bytes

    @classmethod
    def read(cls, members: Members) -> Self:
        attest = members.octets("attest", limit=MAX_ATTEST, least=1)
        signature = members.octets("signature", limit=MAX_SIGNATURE, least=1)
        members.done()
        return cls(attest, signature)

    def to_members(self) -> dict[str, Any]:
        return {"attest": b64encode(self.attest), "signature": b64encode(self.signature)}
