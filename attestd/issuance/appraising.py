"""From verified evidence to a result, and to what is kept of it: the one way, for enrollments and for attestations.

1. The manifests that speak of this device now: those that decide, those that are watched.
2. What they speak of must be there: a log that was not sent affirms nothing, and is asked for.
3. The event log replays to the quote; one that was replayed to the same values before is not read again.
4. The IMA list reaches the quoted PCR 10; of a list that is known only new entries are needed.
5. The engine compares (`attestd.appraisal.comparison`).
6. All that the result follows from is written down, to be kept in the act that records the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from attestd.appraisal.comparison import Evidence, appraise, deciding
from attestd.appraisal.hardware import Endorsed
from attestd.appraisal.manifests import ReferenceManifest, Stage, Subject
from attestd.appraisal.record import MAX_RECORD, AppraisalRecord, canonical
from attestd.appraisal.results import AttestationResult
from attestd.appraisal.runtimes import JudgedRuntime, Runtimes, judge_runtime
from attestd.config import Settings
from attestd.errors import Conflict, EvidenceRefused, MalformedInput
from attestd.ids import DeviceId, Tier
from attestd.issuance.chips import Chips
from attestd.issuance.references import InForce, References
from attestd.protocol.encoding import read_object, write_object
from attestd.protocol.evidence import Lately, QuoteEvidence
from attestd.registry import attestations, evidence, references
from attestd.registry.acts import Step
from attestd.registry.attestations import Found
from attestd.registry.contents import ADVISORIES, EVENT_LOG, REFERENCES, Contents
from attestd.registry.engine import Registry
from attestd.registry.evidence import ImaPart, Kept
from attestd.tpm.activation import VerifiedAk
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.bootfacts import RecalledFacts, boot_facts, recall_facts
from attestd.tpm.eventlog import Event, parse_event_log
from attestd.tpm.eventtypes import NO_ACTION
from attestd.tpm.ima import IMA_PCR
from attestd.tpm.imalist import is_text, position_of
from attestd.tpm.replay import verify_event_log

_WAITING: Final = "waiting"  # stands in a record for a device that nobody approved yet


class EvidenceIncomplete(EvidenceRefused):
    """Reference values speak of a log that was not sent"""

    remedy = "Send the logs that the header Attestd-Evidence names, and check that the agent may read them."


class EventLogUnknown(Conflict):
    """This event log was not seen before with these PCR values"""

    remedy = "Send the event log itself."


@dataclass(frozen=True, slots=True)
class Case:
    """One device's verified quote, and what came with it. `device` is None for one that waits for approval."""

    device: DeviceId | None
    quote: VerifiedQuote
    unverified: QuoteEvidence
    qualifying_data: bytes
    ak: VerifiedAk
    endorsed: Endorsed
    ek_area: bytes
    tier: Tier | None
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Appraised:
    """A result, what it follows from, and what the device need not send again."""

    result: AttestationResult
    lately: Lately
    kept: Kept
    ima: ImaPart | None
    new_boot: bool
    after: Kept | None  # what this one goes on from
    watched: tuple[tuple[str, tuple[str, ...]], ...]  # digest, and why that manifest would refuse

    def keeping(self, device: DeviceId) -> tuple[Step, ...]:
        """Steps of the act that records the result."""
        at = self.kept.at
        said = [step for digest, why in self.watched for step in references.watching(device, digest, why, now=at)]
        kept = evidence.keeping(device, self.kept, ima=self.ima, new_boot=self.new_boot, after=self.after)
        found = found_by(self.kept, self.result)
        as_before = self.after is not None and found.digest == found_by(self.after).digest
        return (*kept, *attestations.counting(device, found, as_before=as_before, now=at), *said)


class Appraiser:
    """One a process; any number of threads."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Raises AdvisoriesInvalid, ManifestInvalid."""
        self._registry = registry
        self.chips = Chips.of(settings)
        self.references = References(settings, registry)
        self.contents = Contents(registry)
        self._advisories = hashlib.sha256(self.chips.advisories.document).hexdigest()

    def in_force(self, now: datetime) -> InForce:
        """The manifests, and what they ask for."""
        return self.references.in_force(now)

    def before(self, device: DeviceId, unverified: QuoteEvidence) -> Kept | None:
        """What this evidence may go on from; not asked for where it has no log."""
        logs = unverified.eventlog, unverified.eventlog_sha256, unverified.ima
        return None if logs == (None, None, None) else evidence.newest(self._registry, device)

    def appraise(self, case: Case, *, kept: Kept | None = None, now: datetime) -> Appraised:
        """Raises EvidenceIncomplete, EventLogUnknown, and whatever refuses a log."""
        at = int(now.timestamp())
        chips = self.chips
        chip = case.endorsed.chip(case.quote, case.ak.public, chips.advisories, chips.accepted)
        subject = Subject(case.tier, case.labels, chip.manufacturer, chip.model)
        manifests = self.in_force(now).manifests
        decide = deciding(manifests, subject, at)  # 1
        watched = deciding(manifests, subject, at, Stage.MONITOR)
        log = _log_of(case.unverified)
        _require_logs(decide, eventlog=log, ima=case.unverified.ima)  # 2
        facts, values = _facts(case, kept, log)  # 3
        judged = self._runtime(case, kept, decide, watched)  # 4
        result = appraise(  # 5
            Evidence(
                case.quote,
                chip,
                facts,
                None if judged is None else judged.decided,
                {} if judged is None else judged.watched,
            ),
            subject=subject,
            manifests=manifests,
            attested_at=at,
        )
        record = AppraisalRecord(  # 6
            device=_WAITING if case.device is None else str(case.device),
            at=at,
            tier=case.tier,
            labels=case.labels,
            endorsed=case.endorsed,
            ek_area=case.ek_area,
            ak_area=case.ak.public.area,
            attest=case.unverified.attest,
            signature=case.unverified.signature,
            qualifying_data=case.qualifying_data,
            pcrs=case.quote.pcrs,
            manifests=tuple(sorted(manifest.digest for manifest in (*decide, *watched))),
            advisories=self._advisories,
            accepted=tuple(sorted(chips.accepted)),
            eventlog=log,
            ima_entries=None if judged is None else judged.entries,
        )
        self._keep_documents(case.unverified, (*decide, *watched), at)
        boot = _boot_of(case)
        return Appraised(
            result=result,
            lately=Lately(log, 0 if judged is None else judged.entries),
            kept=Kept(
                verdict=evidence.BAD if result.contraindicated else evidence.GOOD,
                at=at,
                inputs=record.to_bytes(),
                boot=boot,
                boot_log=log,
                boot_pcrs=values,
                boot_facts=None if facts is None else facts.members,
                ima_entries=None if judged is None else judged.entries,
                runtime_state=None if judged is None else judged.states.to_bytes(),
                result=canonical(result),
            ),
            ima=_new_part(case.unverified, judged),
            new_boot=kept is not None and kept.boot != boot,
            after=kept,
            watched=_said(watched, result),
        )

    def _runtime(
        self,
        case: Case,
        kept: Kept | None,
        decide: tuple[ReferenceManifest, ...],
        watched: tuple[ReferenceManifest, ...],
    ) -> JudgedRuntime | None:
        """Step 4."""
        entries = case.unverified.ima
        if entries is None:
            return None
        return judge_runtime(
            entries,
            quote=case.quote,
            deciding=decide,
            watched=watched,
            known=_known(kept) if case.unverified.ima_from else None,  # a whole list goes on from nothing
            begins_at=case.unverified.ima_from,
        )

    def _keep_documents(self, unverified: QuoteEvidence, manifests: tuple[ReferenceManifest, ...], at: int) -> None:
        """What the record speaks of, where it is not kept elsewhere: the registry has its own manifests."""
        own = {manifest.digest for manifest in self.references.own}
        for manifest in manifests:
            if manifest.digest in own:
                self.contents.keep(REFERENCES, manifest.document, now=at)
        self.contents.keep(ADVISORIES, self.chips.advisories.document, now=at)
        if unverified.eventlog is not None:
            self.contents.keep(EVENT_LOG, unverified.eventlog, now=at)


def found_by(kept: Kept, result: AttestationResult | None = None) -> Found:
    """What an attestation came to, for its device's history: equal digests are the same result of the same boot."""
    members = read_object(kept.result, limit=MAX_RECORD)
    same = {name: members.get(name) for name in ("vector", "reasons", "policies")}
    log = None if kept.boot_log is None else kept.boot_log.hex()
    return Found(
        digest=hashlib.sha256(write_object({**same, "boot": kept.boot, "log": log})).digest(),
        boot=kept.boot,
        result=kept.result,
        inputs=kept.inputs,
        boot_log=kept.boot_log,
        ima_entries=kept.ima_entries,
        runtime_state=kept.runtime_state,
        differing=() if result is None else tuple(_unknown_digests(result)),
    )


def _unknown_digests(result: AttestationResult) -> Iterator[tuple[bytes, str]]:
    """Each once, with where it was measured."""
    seen: set[bytes] = set()
    for difference in result.differences:
        if (digest := difference.digest) is not None and digest not in seen:
            seen.add(digest)
            yield digest, difference.place


def _require_logs(decide: tuple[ReferenceManifest, ...], *, eventlog: bytes | None, ima: bytes | None) -> None:
    """Step 2."""
    missing = []
    if any(manifest.boot for manifest in decide) and eventlog is None:
        missing.append("eventlog")
    if any(manifest.runtime is not None for manifest in decide) and ima is None:
        missing.append("ima")
    if missing:
        raise EvidenceIncomplete(seen=f"no {' and no '.join(missing)}", expected=", ".join(missing))


def _log_of(unverified: QuoteEvidence) -> bytes | None:
    """The event log's SHA-256."""
    if unverified.eventlog is not None:
        return hashlib.sha256(unverified.eventlog).digest()
    return unverified.eventlog_sha256


def _values_of(quote: VerifiedQuote, *, ima: bool) -> bytes:
    """A digest of the PCR values that an event log's facts depend on: without IMA's, which grows as files run, unless
    the log itself measures into that PCR."""
    return hashlib.sha256(
        write_object(
            {
                "ima": ima,
                "pcrs": {
                    bank: {str(index): value.hex() for index, value in values.items() if ima or index != IMA_PCR}
                    for bank, values in quote.pcrs.items()
                },
            }
        )
    ).digest()


def _facts(case: Case, kept: Kept | None, log: bytes | None) -> tuple[RecalledFacts | None, bytes | None]:
    """Step 3, and by which values. The same log and the same values have the same facts; all that is asked of facts is
    their JSON form."""
    if log is None:
        return None, None
    if kept is not None and kept.boot_facts is not None and kept.boot_pcrs is not None and kept.boot_log == log:
        for ima in (False, True):
            if kept.boot_pcrs == _values_of(case.quote, ima=ima):
                return recall_facts(kept.boot_facts), kept.boot_pcrs
    if case.unverified.eventlog is None:
        raise EventLogUnknown(seen=log.hex())
    read = parse_event_log(case.unverified.eventlog)
    facts = boot_facts(verify_event_log(read, case.quote))
    values = _values_of(case.quote, ima=any(_measures_ima(event) for event in read.events))
    return recall_facts(facts.to_members()), values


def _measures_ima(event: Event) -> bool:
    return event.pcr == IMA_PCR and event.type != NO_ACTION


def _known(kept: Kept | None) -> Runtimes | None:
    """Where the judgements stand. What another version wrote counts as nothing: the whole list is asked for."""
    if kept is None or kept.runtime_state is None:
        return None
    try:
        return Runtimes.parse(kept.runtime_state)
    except MalformedInput:
        return None


def _boot_of(case: Case) -> str:
    """Counts are one TPM's: another one that takes its place may have the same."""
    clock = case.quote.clock
    return f"{clock.reset_count}.{clock.restart_count}.{case.ak.name[-8:].hex()}"


def _new_part(unverified: QuoteEvidence, judged: JudgedRuntime | None) -> ImaPart | None:
    """The entries that were proven now and not before, without those that came after the quote."""
    if judged is None or unverified.ima is None or (new := judged.decided.new_entries) == 0:
        return None
    part = unverified.ima[: position_of(unverified.ima, new)]
    unended = is_text(part) and not part.endswith(b"\n")  # the next part begins with a line of its own
    return ImaPart(unverified.ima_from, part + b"\n" * unended)


def _said(watched: tuple[ReferenceManifest, ...], result: AttestationResult) -> tuple[tuple[str, tuple[str, ...]], ...]:
    by_policy = {manifest.policy_id: manifest.digest for manifest in watched}
    return tuple((by_policy[found.policy], found.reasons) for found in result.monitored)
