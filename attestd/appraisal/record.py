"""An appraisal, written down: all that its result follows from, so that anybody can draw it again (docs/adr/0025).

A record is canonical JSON. It holds the quote with its key, the registry's words (tier, labels, endorsement), the
moment and, by their SHA-256, the documents: event log, IMA list, reference manifests, advisories. `reappraise` goes the
whole way from these octets to the result, as the service did, and finds the same octets or the record lies.

What it can't show: that the quote answered a nonce that was fresh, and that the registry's words were true.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from attestd.appraisal.comparison import Evidence, appraise, deciding
from attestd.appraisal.hardware import Endorsed
from attestd.appraisal.manifests import ReferenceManifest, Stage, Subject
from attestd.appraisal.results import AttestationResult
from attestd.appraisal.runtimes import judge_runtime
from attestd.errors import EvidenceRefused
from attestd.ids import Tier
from attestd.protocol.encoding import MalformedJson, Members, b64encode, read_object, write_object
from attestd.protocol.evidence import (
    MAX_ATTEST,
    MAX_ENTRIES,
    MAX_PUBLIC,
    MAX_SIGNATURE,
    PcrValues,
    read_hex_pcrs,
)
from attestd.tpm.activation import recall_ak
from attestd.tpm.advisories import Advisories
from attestd.tpm.attest import VerifiedQuote, verify_quote
from attestd.tpm.bootfacts import boot_facts
from attestd.tpm.eventlog import parse_event_log
from attestd.tpm.objects import parse_public
from attestd.tpm.replay import verify_event_log

MAX_RECORD: Final = 256 * 1024  # octets
_MAX_MANIFESTS: Final = 256
_MAX_TIME: Final = (1 << 37) - 1  # unix seconds: within the years that calendars here know
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class DocumentMissing(EvidenceRefused):
    """The record speaks of a document that is not there, or of another one"""

    remedy = "Use the file as it was exported; every document in it must have the SHA-256 that the record names."


@dataclass(frozen=True, slots=True)
class AppraisalRecord:
    """See the module. `manifests` are digests in hexadecimal; `ima_entries` of the whole boot, as far as is proven."""

    device: str
    at: int  # unix seconds
    tier: Tier | None
    labels: Mapping[str, str]
    endorsed: Endorsed
    ek_area: bytes = field(repr=False)  # empty: not known
    ak_area: bytes = field(repr=False)
    attest: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    qualifying_data: bytes = field(repr=False)
    pcrs: PcrValues
    manifests: tuple[str, ...]
    advisories: str  # SHA-256 in hexadecimal
    accepted: tuple[str, ...]
    eventlog: bytes | None = None  # SHA-256
    ima_entries: int | None = None

    def to_bytes(self) -> bytes:
        """As `parse` reads it: the same record gives the same octets."""
        endorsed = self.endorsed
        return write_object(
            {
                "v": 1,
                "device": self.device,
                "at": self.at,
                "tier": "" if self.tier is None else self.tier.value,
                "labels": dict(self.labels),
                "endorsement": {
                    "kind": endorsed.kind,
                    "manufacturer": endorsed.manufacturer,
                    "model": endorsed.model,
                    "firmware_version": endorsed.firmware_version,
                    "quirks": list(endorsed.quirks),
                    "ek": b64encode(self.ek_area),
                },
                "ak": b64encode(self.ak_area),
                "quote": {
                    "attest": b64encode(self.attest),
                    "signature": b64encode(self.signature),
                    "qualifying_data": b64encode(self.qualifying_data),
                },
                "pcrs": {
                    bank: {str(index): value.hex() for index, value in values.items()}
                    for bank, values in self.pcrs.items()
                },
                "manifests": list(self.manifests),
                "advisories": self.advisories,
                "accepted": list(self.accepted),
                **({} if self.eventlog is None else {"eventlog": self.eventlog.hex()}),
                **({} if self.ima_entries is None else {"ima_entries": self.ima_entries}),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedInput's children."""
        members = Members(read_object(data, limit=MAX_RECORD, name="record"), "record")
        members.version()
        tier = members.text("tier", limit=16)
        labels = members.object("labels")
        endorsement, quote = members.object("endorsement"), members.object("quote")
        ek_area = endorsement.octets("ek", limit=MAX_PUBLIC)
        found = cls(
            device=members.text("device", limit=64),
            at=_within(members, "at", _MAX_TIME),
            tier=Tier.parse(tier) if tier else None,
            labels=MappingProxyType({name: labels.text(name) for name, _ in labels.items()}),
            endorsed=Endorsed(
                kind=endorsement.text("kind", limit=16),
                manufacturer=endorsement.text("manufacturer"),
                model=endorsement.text("model"),
                firmware_version=endorsement.text("firmware_version"),
                quirks=endorsement.texts("quirks", most=32),
                ek=parse_public(ek_area) if ek_area else None,
            ),
            ek_area=ek_area,
            ak_area=members.octets("ak", limit=MAX_PUBLIC, least=1),
            attest=quote.octets("attest", limit=MAX_ATTEST, least=1),
            signature=quote.octets("signature", limit=MAX_SIGNATURE, least=1),
            qualifying_data=quote.octets("qualifying_data", limit=64, least=16),
            pcrs=read_hex_pcrs(members.object("pcrs")),
            manifests=members.texts("manifests", most=_MAX_MANIFESTS, limit=64),
            advisories=members.text("advisories", limit=64),
            accepted=members.texts("accepted", most=256),
            eventlog=_digest(members, "eventlog") if "eventlog" in members else None,
            ima_entries=_within(members, "ima_entries", MAX_ENTRIES) if "ima_entries" in members else None,
        )
        for part in (endorsement, quote, members):
            part.done()
        return found

    def verify_quote(self) -> VerifiedQuote:
        """The quote, by this key, over these values. Raises EvidenceRefused's and MalformedInput's children."""
        return verify_quote(
            recall_ak(self.ak_area),
            attest=self.attest,
            signature=self.signature,
            qualifying_data=self.qualifying_data,
            pcrs=self.pcrs,
            selection={bank: tuple(sorted(values)) for bank, values in self.pcrs.items()},
            allow_sha1="sha1" in self.pcrs,
        )


def _within(members: Members, name: str, most: int) -> int:
    if not 0 <= (value := members.integer(name)) <= most:
        raise MalformedJson(f"record.{name} is out of bounds.", expected=f"0 to {most}")
    return value


def _digest(members: Members, name: str) -> bytes:
    if not _SHA256.fullmatch(text := members.text(name, limit=64)):
        raise MalformedJson(f"record.{name} is no SHA-256.", seen=repr(text), expected="64 hexadecimal digits")
    return bytes.fromhex(text)


def reappraise(
    record: AppraisalRecord,
    *,
    manifests: Sequence[bytes],
    advisories: bytes,
    eventlog: bytes | None = None,
    ima: bytes | None = None,
) -> AttestationResult:
    """The result that follows from a record and its documents.

    1. The documents are those that the record names.
    2. The quote is its key's, and covers the values.
    3. The event log replays to them; the IMA list, from its beginning, to PCR 10.
    4. The engine compares (`comparison`).

    Raises DocumentMissing, and what the steps of an attestation raise.
    """
    parsed = [ReferenceManifest.from_json(document) for document in manifests]  # 1
    _require("reference manifests", sorted(record.manifests), sorted(manifest.digest for manifest in parsed))
    _require("advisories", record.advisories, hashlib.sha256(advisories).hexdigest())
    seen = None if eventlog is None else hashlib.sha256(eventlog).digest()
    _require("event log", record.eventlog and record.eventlog.hex(), seen and seen.hex())
    if (record.ima_entries is None) is not (ima is None):
        raise DocumentMissing("The record and the file differ in whether there is an IMA list.")
    quote = record.verify_quote()  # 2
    facts = None if eventlog is None else boot_facts(verify_event_log(parse_event_log(eventlog), quote))  # 3
    chip = record.endorsed.chip(
        quote, recall_ak(record.ak_area).public, Advisories.parse(advisories), frozenset(record.accepted)
    )
    subject = Subject(record.tier, record.labels, chip.manufacturer, chip.model)
    judged = None
    if ima is not None:
        judged = judge_runtime(
            ima,
            quote=quote,
            deciding=deciding(parsed, subject, record.at),
            watched=deciding(parsed, subject, record.at, Stage.MONITOR),
        )
        _require("IMA list", record.ima_entries, judged.entries)
    evidence = Evidence(
        quote,
        chip,
        facts,
        None if judged is None else judged.decided,
        {} if judged is None else judged.watched,
    )
    return appraise(evidence, subject=subject, manifests=parsed, attested_at=record.at)  # 4


def canonical(result: AttestationResult) -> bytes:
    """A result's octets: compact JSON with sorted names."""
    return write_object(result.to_members())


def _require(what: str, named: Any, seen: Any) -> None:
    if named != seen:
        raise DocumentMissing(
            f"These are not the {what} of the record.", seen=str(seen)[:200], expected=str(named)[:200]
        )
