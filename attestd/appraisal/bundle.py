"""An evidence bundle: one appraisal with everything that it rests on, in one file (docs/evidence.md).

    {"v": 1, "kind": "attestd-evidence", "record": …, "result": …, "certificates": […], "documents": {…}}

Octets are base64url. `record` is an `AppraisalRecord`, `result` the canonical result that it is said to lead to,
`certificates` those by which the TPM was endorsed, its own first, and the documents are those that the record names.
Nothing in it is signed: what it shows, it shows by being checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Self

from attestd.appraisal.explanation import Explanation, explain
from attestd.appraisal.hardware import CERTIFIED
from attestd.appraisal.manifests import ReferenceManifest, Subject
from attestd.appraisal.record import MAX_RECORD, AppraisalRecord, canonical, reappraise
from attestd.appraisal.results import AttestationResult
from attestd.appraisal.runtime import RuntimeState
from attestd.errors import EvidenceRefused
from attestd.protocol.encoding import MalformedJson, Members, b64encode, read_object, write_object
from attestd.protocol.evidence import MAX_CERTIFICATE
from attestd.tpm.chain import TrustAnchors
from attestd.tpm.ekcert import MakerCertificate, Quirk, parse_certificate
from attestd.tpm.ekprofile import verify_ek_certificate
from attestd.tpm.identity import verify_identity_certificate

KIND: Final = "attestd-evidence"
MAX_BUNDLE: Final = 256 * 1024 * 1024  # octets
_MAX_DOCUMENT: Final = 64 * 1024 * 1024
_MAX_MANIFESTS: Final = 256
_MAX_CHAIN: Final = 16


class NotReproduced(EvidenceRefused):
    """The evidence leads to another result than the bundle says"""

    remedy = "Ask whoever made the bundle; compare the versions of attestd that made and read it."


class EndorsementDiffers(EvidenceRefused):
    """The certificates say another thing of the TPM than the record"""

    remedy = "Ask whoever made the bundle: the service's registry and the maker's certificate disagree."


class EndorsementNotShown(EvidenceRefused):
    """The record rests on a maker's certificate that the bundle does not hold"""

    remedy = "Export the bundle after the device has enrolled anew; endorsements are kept since then."


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """See the module. Certificates are DER; `missing` are the SHA-256 of those that were not to be had."""

    record: bytes = field(repr=False)
    result: bytes = field(repr=False)
    certificates: tuple[bytes, ...] = field(repr=False)
    missing: tuple[str, ...]
    manifests: tuple[bytes, ...] = field(repr=False)
    advisories: bytes = field(repr=False)
    eventlog: bytes | None = field(default=None, repr=False)
    ima: bytes | None = field(default=None, repr=False)

    def to_members(self) -> dict[str, Any]:
        documents: dict[str, Any] = {
            "references": [b64encode(document) for document in self.manifests],
            "advisories": b64encode(self.advisories),
        }
        if self.eventlog is not None:
            documents["eventlog"] = b64encode(self.eventlog)
        if self.ima is not None:
            documents["ima"] = b64encode(self.ima)
        return {
            "v": 1,
            "kind": KIND,
            "record": b64encode(self.record),
            "result": b64encode(self.result),
            "certificates": [b64encode(certificate) for certificate in self.certificates],
            "missing": list(self.missing),
            "documents": documents,
        }

    def to_bytes(self) -> bytes:
        """As `parse` reads it."""
        return write_object(self.to_members())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedInput's children."""
        members = Members(read_object(data, limit=MAX_BUNDLE, name="bundle"), "bundle")
        members.version()
        if (kind := members.text("kind", limit=64)) != KIND:
            raise MalformedJson("This is no evidence bundle.", seen=repr(kind), expected=KIND)
        documents = members.object("documents")
        found = cls(
            record=members.octets("record", limit=MAX_RECORD, least=2),
            result=members.octets("result", limit=MAX_RECORD, least=2),
            certificates=members.many_octets("certificates", limit=MAX_CERTIFICATE, most=_MAX_CHAIN),
            missing=members.texts("missing", most=_MAX_CHAIN, limit=64),
            manifests=documents.many_octets("references", limit=_MAX_DOCUMENT, most=_MAX_MANIFESTS),
            advisories=documents.octets("advisories", limit=_MAX_DOCUMENT),
            eventlog=documents.octets("eventlog", limit=_MAX_DOCUMENT) if "eventlog" in documents else None,
            ima=documents.octets("ima", limit=_MAX_DOCUMENT) if "ima" in documents else None,
        )
        documents.done()
        members.done()
        return found

    def reproduce(self) -> tuple[AppraisalRecord, AttestationResult]:
        """Draws the result again from the evidence. Raises NotReproduced, and what `reappraise` raises."""
        record = AppraisalRecord.parse(self.record)
        result = reappraise(
            record, manifests=self.manifests, advisories=self.advisories, eventlog=self.eventlog, ima=self.ima
        )
        if (octets := canonical(result)) != self.result:
            raise NotReproduced(seen=octets.decode()[:400], expected=self.result.decode("utf-8", "replace")[:400])
        return record, result

    def explain(self, record: AppraisalRecord, runtime: RuntimeState | None = None) -> Explanation:
        """What differs, event by event; `runtime`: what was judged of what ran. Raises what `explain` raises."""
        return explain(
            record,
            subject=Subject(record.tier, record.labels, record.endorsed.manufacturer, record.endorsed.model),
            manifests=[ReferenceManifest.from_json(document) for document in self.manifests],
            eventlog=self.eventlog,
            runtime=runtime,
        )

    def endorse(
        self, record: AppraisalRecord, *, roots: Sequence[bytes] | None, refused: frozenset[Quirk] = frozenset()
    ) -> tuple[MakerCertificate, ...]:
        """The path from the TPM's certificate to a root, at the moment of the record; none for a TPM that only an
        inventory knows.

        `roots` are the reader's own; without them the bundle's last certificate stands for its root, and what is shown
        is only that the chain is one. Raises EndorsementNotShown, EndorsementDiffers, and what verifying it raises.
        """
        said = record.endorsed
        if said.kind not in CERTIFIED:
            return ()
        if not self.certificates or said.ek is None:
            raise EndorsementNotShown(seen=f"{len(self.certificates)} certificates", expected="the TPM's and its CAs'")
        leaf, *above = map(parse_certificate, self.certificates)
        anchors = TrustAnchors.load(self.certificates[-1:] if roots is None else roots)
        known: dict[str, Any] = {
            "intermediates": above,
            "anchors": anchors,
            "now": datetime.fromtimestamp(record.at, UTC),
            "refused": refused,
        }
        if leaf.key != said.ek.key:
            raise EndorsementDiffers(seen="a certificate of another key", expected="the key of the record")
        if said.kind == "iak":
            identified = verify_identity_certificate(leaf, **known)
            path, seen = identified.path, (identified.manufacturer, "", "")
        else:
            verified = verify_ek_certificate(leaf, **known)
            chip = verified.identity
            path, seen = verified.path, (chip.manufacturer, chip.model, chip.firmware_version)
        if seen != (said.manufacturer, said.model, said.firmware_version):
            raise EndorsementDiffers(seen=seen, expected=(said.manufacturer, said.model, said.firmware_version))
        return path.certificates
