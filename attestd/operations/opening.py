"""One attestation of a device, opened: what it came to and what differs, for operators (docs/evidence.md).

Newer evidence is whole. Of former runs the quote, the event log and the judgement of what ran are kept, the IMA list
for the boots that `evidence` still speaks of; of the oldest ones the result alone. What is not there is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from attestd.appraisal.comparison import deciding
from attestd.appraisal.explanation import Explained, Explanation, explain
from attestd.appraisal.manifests import ReferenceManifest, Subject
from attestd.appraisal.record import MAX_RECORD, AppraisalRecord
from attestd.appraisal.runtime import RuntimeState
from attestd.appraisal.runtimelisting import ListedEntries, list_runtime
from attestd.appraisal.runtimes import Runtimes
from attestd.errors import MalformedInput
from attestd.ids import DeviceId
from attestd.issuance.appraising import found_by
from attestd.protocol.encoding import read_object
from attestd.registry import attestations, devices, evidence, references
from attestd.registry.attestations import Run, Shown
from attestd.registry.contents import ContentGone, Contents
from attestd.registry.engine import Connection, Registry
from attestd.registry.references import StoredManifest

MAX_KNOWN: Final = 16  # digests that are looked up
_MOST_VERSIONS: Final = 64  # manifests that are looked through for a digest
_MOST_OCTETS: Final = 8 * 1024 * 1024  # of them


class EvidenceForgotten(ContentGone):
    """Of this attestation only its result is kept"""

    remedy = "`attestd devices history` shows which ones can be opened. `attestd devices demand` asks for a new one."


@dataclass(frozen=True, slots=True)
class KnownDigest:
    """What else is known of a digest that no deciding manifest lists. `looked`: through so many manifests."""

    shown: Shown
    manifests: tuple[StoredManifest, ...]
    looked: int


@dataclass(frozen=True, slots=True)
class Opened:
    """An attestation of a run. `number` is the one whose evidence this is; `explanation` None: none is kept.

    `log_kept`, `list_kept`: whether the log, and the list of what ran, that came with it are there.
    """

    run: Run
    number: int
    at: int
    result: Mapping[str, Any]
    record: AppraisalRecord | None
    explanation: Explanation | None
    log_kept: bool
    list_kept: bool
    known: Mapping[str, KnownDigest] = field(default_factory=dict)
    versions: Mapping[str, StoredManifest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What is kept of one attestation, from `evidence` or from a run."""

    number: int
    at: int
    inputs: bytes | None
    runtime_state: bytes | None
    whole: bool  # with its IMA list


def open_attestation(registry: Registry, contents: Contents, device_id: DeviceId, number: int) -> Opened:
    """The attestation of this number, by the evidence of its run. Raises UnknownDevice, AttestationUnknown."""
    with registry.reading() as c:
        devices.by_id(c, device_id)
        run = attestations.of_number(c, device_id, number)
        kept = _kept(c, device_id, run)
    result = read_object(run.result, limit=MAX_RECORD)
    if kept.inputs is None:
        return Opened(run, kept.number, kept.at, result, None, None, log_kept=False, list_kept=False)
    record = AppraisalRecord.parse(kept.inputs)
    with registry.reading() as c:
        versions = {digest: stored for digest in record.manifests if (stored := references.by_digest(c, digest))}
    log = _log(contents, record)
    explanation = explain(
        record,
        subject=_subject(record),
        manifests=_manifests(contents, record, versions),
        eventlog=log,
        runtime=_runtime(kept.runtime_state),
        ends={digest: stored.until for digest, stored in versions.items()},
    )
    with registry.reading() as c:
        known = _known(c, device_id, explanation.differences)
    return Opened(
        run,
        kept.number,
        kept.at,
        result,
        record,
        explanation,
        log_kept=record.eventlog is None or log is not None,
        list_kept=record.ima_entries is None or kept.whole,
        known=known,
        versions=versions,
    )


def open_list(
    registry: Registry, contents: Contents, device_id: DeviceId, number: int, *, after: int, limit: int, differing: bool
) -> ListedEntries:
    """What ran, by this attestation: entries as they were judged. Raises UnknownDevice, AttestationUnknown,
    EvidenceForgotten."""
    with registry.reading() as c:
        devices.by_id(c, device_id)
        run = attestations.of_number(c, device_id, number)
        kept = _kept(c, device_id, run)
        if kept.inputs is None or not kept.whole:
            raise EvidenceForgotten(seen=number)
        record = AppraisalRecord.parse(kept.inputs)
        if record.ima_entries is None:
            return ListedEntries((), 0, more=False)
        parts = evidence.ima_list(c, device_id, run.boot, entries=record.ima_entries)
        versions = {digest: stored for digest in record.manifests if (stored := references.by_digest(c, digest))}
    if not parts or parts[0].first != 0:
        raise EvidenceForgotten("The beginning of this boot's IMA list is not kept any more.", seen=run.boot)
    decided = deciding(_manifests(contents, record, versions), _subject(record), record.at)
    return list_runtime(
        [manifest.runtime for manifest in decided if manifest.runtime is not None],
        b"".join(part.content for part in parts),
        quote=record.verify_quote(),
        after=after,
        limit=limit,
        differing=differing,
    )


def _kept(c: Connection, device_id: DeviceId, run: Run) -> _Evidence:
    """The newest evidence that came to what this run did, or that of its first attestation."""
    for kept in evidence.every(c, device_id):
        if run.first_at <= kept.at <= run.last_at and found_by(kept).digest == run.digest:
            return _Evidence(run.last, kept.at, kept.inputs, kept.runtime_state, whole=True)
    return _Evidence(run.first, run.first_at, run.inputs, run.runtime_state, whole=False)


def _log(contents: Contents, record: AppraisalRecord) -> bytes | None:
    try:
        return None if record.eventlog is None else contents.find(record.eventlog)
    except ContentGone:
        return None


def _manifests(
    contents: Contents, record: AppraisalRecord, versions: Mapping[str, StoredManifest]
) -> list[ReferenceManifest]:
    """Those that the record names and that are still to be had; the instance's own are among the contents."""
    found = []
    for digest in record.manifests:
        try:
            stored = versions.get(digest)
            document = contents.find(bytes.fromhex(digest)) if stored is None else stored.document
        except ContentGone:
            continue
        found.append(ReferenceManifest.from_json(document))
    return found


def _subject(record: AppraisalRecord) -> Subject:
    return Subject(record.tier, record.labels, record.endorsed.manufacturer, record.endorsed.model)


def _runtime(state: bytes | None) -> RuntimeState | None:
    try:
        return None if state is None else Runtimes.parse(state).decided
    except MalformedInput:  # another version wrote it
        return None


def _known(c: Connection, device_id: DeviceId, differences: Sequence[Explained]) -> dict[str, KnownDigest]:
    wanted = {each.difference.digest.hex(): each.difference.digest for each in differences if each.difference.digest}
    if not wanted:
        return {}
    documents: list[StoredManifest] = []
    octets = 0
    for version in references.page(c, limit=_MOST_VERSIONS):
        stored = references.by_number(c, version.number)
        octets += len(stored.document)
        if octets > _MOST_OCTETS:
            break
        documents.append(stored)
    return {
        text: KnownDigest(
            attestations.shown_by(c, digest, besides=device_id),
            tuple(stored for stored in documents if text.encode() in stored.document),
            len(documents),
        )
        for text, digest in list(wanted.items())[:MAX_KNOWN]
    }
