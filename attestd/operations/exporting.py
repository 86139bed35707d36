"""A device's kept evidence as a file that anybody can check again (`attestd.appraisal.bundle`, docs/evidence.md)."""

from __future__ import annotations

from attestd.appraisal.bundle import EvidenceBundle
from attestd.appraisal.record import AppraisalRecord
from attestd.errors import NotFound
from attestd.ids import DeviceId
from attestd.operations import Act
from attestd.registry import devices, evidence, references, trust
from attestd.registry.contents import ContentGone, Contents
from attestd.registry.engine import Connection, Registry
from attestd.registry.evidence import Kept


class NoEvidence(NotFound):
    """Nothing is kept of this device"""

    remedy = "It has not attested yet, or not with such a result: `attestd devices show` says when it did."


def export(
    registry: Registry, contents: Contents, device_id: DeviceId, *, verdict: str | None, act: Act
) -> EvidenceBundle:
    """The device's newest evidence, or the newest of a verdict ("good", "bad"), with all that it rests on.

    The TPM's certificate is in it, which is a lifelong tracker: so the trail says who took it. Raises UnknownDevice,
    NoEvidence, ContentGone.
    """
    with registry.acting() as c:
        devices.by_id(c, device_id)
        found = [kept for kept in evidence.every(c, device_id) if verdict in (None, kept.verdict)]
        if not found:
            raise NoEvidence(seen=verdict or "no evidence")
        kept = found[0]
        record = AppraisalRecord.parse(kept.inputs)
        manifests = [references.by_digest(c, digest) for digest in record.manifests]
        certificates, missing = _endorsement(c, contents, device_id)
        ima = _ima_list(c, device_id, kept)
        act.note(c, "export-evidence", str(device_id), of=kept.at, verdict=kept.verdict)
    return EvidenceBundle(
        record=kept.inputs,
        result=kept.result,
        certificates=certificates,
        missing=missing,
        manifests=tuple(
            contents.find(bytes.fromhex(digest)) if stored is None else stored.document
            for digest, stored in zip(record.manifests, manifests, strict=True)
        ),
        advisories=contents.find(bytes.fromhex(record.advisories)),
        eventlog=None if record.eventlog is None else contents.find(record.eventlog),
        ima=ima,
    )


def _ima_list(c: Connection, device_id: DeviceId, kept: Kept) -> bytes | None:
    """The list that the evidence went on from, put together again."""
    if kept.ima_entries is None:
        return None
    parts = evidence.ima_list(c, device_id, kept.boot, entries=kept.ima_entries)
    if not parts or parts[0].first != 0:
        raise ContentGone("The beginning of this boot's IMA list is not kept any more.", seen=kept.boot)
    return b"".join(part.content for part in parts)


def _endorsement(c: Connection, contents: Contents, device_id: DeviceId) -> tuple[tuple[bytes, ...], tuple[str, ...]]:
    """The certificates that are to be had, the TPM's own first, and the SHA-256 of those that are not."""
    endorsement = evidence.endorsed_by(c, device_id)
    if endorsement.certificate is None:
        return (), ()
    stored = {maker.sha256: maker.der for maker in trust.every(c)}
    found, missing = [endorsement.certificate], []
    for sha256 in endorsement.issuers:
        try:
            found.append(stored.get(sha256) or contents.find(sha256))
        except ContentGone:
            missing.append(sha256.hex())
    return tuple(found), tuple(missing)
