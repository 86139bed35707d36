"""Why an appraisal came to its result: which events of the boot differ from what reference values expect.

It says nothing that the engine did not find. What differs is what `comparison.compare` calls a difference; the events
are those that the facts rest on (`attestd.tpm.bootfacts.trace_facts`); what ran is `runtime`'s own judgement.

The order of events among different PCRs is the log's word and not proven (`attestd.tpm.replay`). So "first" is what the
log calls first. What was measured after the first code that nobody knows was measured by that code: it is read, and not
relied on, whatever it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from attestd.appraisal.comparison import Verdict, compare, conditions, counting, deciding
from attestd.appraisal.differences import Difference
from attestd.appraisal.manifests import Good, ReferenceManifest, Subject
from attestd.appraisal.record import AppraisalRecord
from attestd.appraisal.runtime import RuntimeState
from attestd.appraisal.stages import STAGES, Stage, pcr_of, stage_of, stage_of_pcr
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.bootfacts import BootFacts, boot_facts, trace_facts
from attestd.tpm.eventlog import Event, parse_event_log
from attestd.tpm.eventnames import event_name
from attestd.tpm.eventtypes import NO_ACTION, name_of
from attestd.tpm.ima import IMA_PCR
from attestd.tpm.replay import VerifiedEventLog, verify_event_log

MAX_DIFFERENCES: Final = 64
MAX_FOLDED: Final = 100  # events and stretches that are told at once
_MOST_EXPECTED: Final = 8  # good values of one manifest


class Standing(StrEnum):
    """How something measured stands to the reference values."""

    EXPECTED = "expected"
    DIFFERS = "differs"
    SUSPECT = "suspect"  # in a PCR whose value differs: reference values don't tell which of its events
    UNPROVEN = "unproven"  # reference values speak of it, and nothing shows it
    UNJUDGED = "unjudged"  # no reference value speaks of it
    UNRELIED = "unrelied"  # measured by code that nobody knows


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one manifest lists as good; `more` values are not shown. `ends`: unix seconds."""

    manifest: str
    digest: str
    ends: int | None
    values: tuple[Any, ...]
    more: int
    at_least: int | None

    def to_members(self) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Explained:
    """One difference where it was measured. `event`: its number in the log; None: it rests on none."""

    difference: Difference
    stage: Stage
    event: Event | None
    pcr: int | None
    relied: bool
    expected: tuple[Expectation, ...]

    def to_members(self) -> dict[str, Any]:
        found, event = self.difference, self.event
        return {
            "stage": self.stage.value,
            "claim": found.claim,
            "bank": found.bank or None,
            "pcr": self.pcr,
            "event": None if event is None else event.number,
            "type": None if event is None else name_of(event.type),
            "name": "" if event is None else event_name(event),
            "fact": found.fact or None,
            "value": _plain(found.value),
            "digest": None if found.digest is None else found.digest.hex(),
            "relied": self.relied,
            "expected": [expectation.to_members() for expectation in self.expected],
            "reason": found.reason,
        }


@dataclass(frozen=True, slots=True)
class ExplainedEvent:
    """One event, and how it stands. `digest` is of the bank that facts rest on."""

    event: Event
    digest: bytes | None
    standing: Standing

    def to_members(self) -> dict[str, Any]:
        return {
            "number": self.event.number,
            "pcr": self.event.pcr,
            "type": name_of(self.event.type),
            "digest": None if self.digest is None else self.digest.hex(),
            "name": event_name(self.event),
            "standing": self.standing.value,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """See the module. `events` is None where there is no log: none was sent, or it is not kept any more."""

    quote: VerifiedQuote
    manifests: tuple[ReferenceManifest, ...]  # those that decided
    differences: tuple[Explained, ...]
    more: int  # differences that are not told
    events: tuple[ExplainedEvent, ...] | None
    facts: Mapping[str, Any]
    chain: Mapping[Stage, Standing]
    pcrs: tuple[Mapping[str, Any], ...]
    runtime: RuntimeState | None = field(repr=False)

    def folded(self) -> list[dict[str, Any]]:
        """The events, neighbours that stand alike and do not differ in one: {"first", "last", "standing"}.

        At most MAX_FOLDED are told so, and the rest as one that stands in several ways: its standing is None.
        """
        found: list[dict[str, Any]] = []
        for each in self.events or ():
            number = each.event.number
            last = found[-1] if found else {}
            if "last" in last and last["standing"] in (each.standing, None):
                last["last"] = number
            elif len(found) >= MAX_FOLDED:
                found.append({"first": number, "last": number, "standing": None})
            elif each.standing is Standing.DIFFERS:
                found.append(each.to_members())
            else:
                found.append({"first": number, "last": number, "standing": each.standing.value})
        return found

    def counts(self) -> dict[str, int]:
        """How many events stand how."""
        counted = dict.fromkeys(Standing, 0)
        for each in self.events or ():
            counted[each.standing] += 1
        return {standing.value: count for standing, count in counted.items()}


def explain(
    record: AppraisalRecord,
    *,
    subject: Subject,
    manifests: Sequence[ReferenceManifest],
    eventlog: bytes | None,
    runtime: RuntimeState | None,
    ends: Mapping[str, int | None] | None = None,
) -> Explanation:
    """Explains a kept appraisal. `ends`: until when manifests count, by digest, beside what they say of themselves.

    `eventlog` None: none was sent, or it is not kept any more; PCRs are all that can be told then. Raises what a record
    and a log raise that are not as they were.
    """
    quote = record.verify_quote()
    log, facts = _read_log(eventlog, quote)
    decided = deciding(manifests, subject, record.at)
    verdicts = [compare(manifest, quote, facts) for manifest in decided]
    held, closest = counting(verdicts)
    judges = held or ([] if closest is None else [closest])
    boot = _Boot(quote, log, facts, judges)
    explained = [boot.explain(difference, decided, ends or {}) for each in judges for difference in each.differences]
    explained.sort(key=lambda each: (each.event is None, each.event.number if each.event else 0))
    return Explanation(
        quote=quote,
        manifests=decided,
        differences=tuple(explained[:MAX_DIFFERENCES]),
        more=max(0, len(explained) - MAX_DIFFERENCES),
        events=None if log is None else tuple(boot.events()),
        facts={} if facts is None else facts.to_members(),
        chain=boot.chain(runtime),
        pcrs=tuple(boot.pcrs()),
        runtime=runtime,
    )


def _read_log(eventlog: bytes | None, quote: VerifiedQuote) -> tuple[VerifiedEventLog | None, BootFacts | None]:
    if eventlog is None:
        return None, None
    verified = verify_event_log(parse_event_log(eventlog), quote)
    return verified, boot_facts(verified)


class _Boot:
    """One boot, as the manifests that count see it."""

    def __init__(
        self, quote: VerifiedQuote, log: VerifiedEventLog | None, facts: BootFacts | None, judges: Sequence[Verdict]
    ) -> None:
        self._quote, self._log, self._judges = quote, log, judges
        self._asked: list[tuple[str, Good]] = [each for judge in judges for each in conditions(judge.manifest)]
        self._events = {} if log is None else {event.number: event for event in log.log.events}
        self._places: dict[tuple[str, str], int] = {}  # fact and value -> the first event that it rests on
        self._facts: dict[int, list[tuple[str, Any]]] = {}
        for trace in [] if log is None or facts is None else trace_facts(log.log, log.match, facts):
            self._places.setdefault((trace.fact, repr(trace.value)), trace.event)
            self._facts.setdefault(trace.event, []).append((trace.fact, trace.value))
        self._differences = [difference for judge in judges for difference in judge.differences]
        self._by_value = {  # PCRs that manifests name values of, and whether those differ
            (bank, pcr): any((found.bank, found.pcr) == (bank, pcr) for found in self._differences)
            for judge in judges
            for bank, values in judge.manifest.pcrs.items()
            for pcr in values
        }
        self._suspect = {pcr for (_, pcr), differs in self._by_value.items() if differs}
        self._cutoff = self._first_unknown_code()

    # ---- Differences --------------------------------------------------------------------------------------------

    def explain(
        self, found: Difference, manifests: Sequence[ReferenceManifest], ends: Mapping[str, int | None]
    ) -> Explained:
        event = self._event_of(found)
        return Explained(
            difference=found,
            stage=self._stage_of(found),
            event=event,
            pcr=event.pcr if event is not None else found.pcr if found.pcr is not None else pcr_of(found),
            relied=event is None or self._cutoff is None or event.number <= self._cutoff,
            expected=tuple(
                one for manifest in manifests for one in _expectations(manifest, found, ends.get(manifest.digest))
            ),
        )

    def _event_of(self, found: Difference) -> Event | None:
        """The event that a difference rests on; where a doubt names a PCR, none: the whole PCR is meant."""
        number = self._places.get((found.fact, repr(found.value))) if found.pcr is None else None
        return None if number is None else self._events.get(number)

    def _stage_of(self, found: Difference) -> Stage:
        event = self._event_of(found)
        return stage_of(found) if event is None else stage_of_pcr(event.pcr)

    def _first_unknown_code(self) -> int | None:
        """The number of the event from which on everything was measured by code that nobody knows, or after it."""
        firsts = []
        for found in self._differences:
            if found.claim != "executables":
                continue
            if (event := self._event_of(found)) is not None:
                firsts.append(event.number)
            elif found.pcr is not None and found.value is not None:
                own = [event.number for event in self._events.values() if _extends(event, found.pcr)]
                firsts += own[:1]
        return min(firsts, default=None)

    # ---- Events, PCRs, stages -----------------------------------------------------------------------------------

    def events(self) -> Iterator[ExplainedEvent]:
        if self._log is None:
            return
        position = self._log.log.banks.index(self._log.match.bank)
        for event in self._events.values():
            yield ExplainedEvent(event, event.digests[position], self._standing(event))

    def _standing(self, event: Event) -> Standing:
        asked = [good.covers(value) for fact, value in self._facts.get(event.number, ()) for good in self._goods(fact)]
        if asked and not all(asked):
            return Standing.DIFFERS
        if self._log is None or event.type == NO_ACTION:
            return Standing.UNJUDGED
        if event.pcr in self._suspect:
            return Standing.SUSPECT
        if self._cutoff is not None and event.number > self._cutoff:
            return Standing.UNRELIED
        if asked or any(pcr == event.pcr for _, pcr in self._by_value):
            return Standing.EXPECTED
        return Standing.UNJUDGED

    def _goods(self, fact: str) -> list[Good]:
        return [good for name, good in self._asked if name == fact]

    def pcrs(self) -> Iterator[Mapping[str, Any]]:
        of_pcr: dict[int, list[ExplainedEvent]] = {}
        for each in self.events():
            of_pcr.setdefault(each.event.pcr, []).append(each)
        compared = frozenset() if self._log is None else self._log.match.pcrs
        for bank, values in sorted(self._quote.pcrs.items()):
            for index, value in sorted(values.items()):
                own = [each for each in of_pcr.get(index, []) if each.event.type != NO_ACTION]
                yield {
                    "bank": bank,
                    "pcr": index,
                    "value": value.hex(),
                    "standing": self._standing_of_pcr(bank, index, own).value,
                    "replayed": index in compared,
                    "events": [each.event.number for each in own[:_MOST_NUMBERS]],
                    "event_count": len(own),
                }

    def _standing_of_pcr(self, bank: str, index: int, events: Sequence[ExplainedEvent]) -> Standing:
        if (differs := self._by_value.get((bank, index))) is not None:
            return Standing.DIFFERS if differs else Standing.EXPECTED
        found = {each.standing for each in events}
        doubted = any(
            pcr_of(each) == index and self._event_of(each) is None and each.value is not None
            for each in self._differences
        )
        if Standing.DIFFERS in found or doubted:
            return Standing.DIFFERS
        late = self._cutoff is not None and (not events or events[0].event.number > self._cutoff)
        if late and (events or index == IMA_PCR):
            return Standing.UNRELIED
        return Standing.EXPECTED if Standing.EXPECTED in found else Standing.UNJUDGED

    def chain(self, runtime: RuntimeState | None) -> Mapping[Stage, Standing]:
        """The stages in the order in which they run."""
        unknown = [self._stage_of(found) for found in self._differences if found.claim == "executables" and found.value]
        first = min(map(STAGES.index, unknown), default=len(STAGES)) if self._judges else len(STAGES)
        return {
            stage: Standing.UNRELIED if place > first else self._standing_of_stage(stage, runtime)
            for place, stage in enumerate(STAGES)
        }

    def _standing_of_stage(self, stage: Stage, runtime: RuntimeState | None) -> Standing:
        own = [found for found in self._differences if self._stage_of(found) is stage]
        if own:
            return Standing.DIFFERS if any(found.value is not None for found in own) else Standing.UNPROVEN
        if stage is Stage.FILES:
            return self._standing_of_files(runtime)
        names = [name for name, _ in self._asked if name != "doubts"]
        asked = any(stage_of(Difference("", fact=name)) is stage for name in names)
        return Standing.EXPECTED if asked or self._has_values(stage) else Standing.UNJUDGED

    def _has_values(self, stage: Stage) -> bool:
        return any(stage_of_pcr(pcr) is stage for _, pcr in self._by_value)

    def _standing_of_files(self, runtime: RuntimeState | None) -> Standing:
        policies = [judge.manifest.runtime for judge in self._judges if judge.manifest.runtime is not None]
        if not policies:
            return Standing.UNJUDGED
        if runtime is None:
            return Standing.UNPROVEN
        allowed = [policy.violations for policy in policies]
        most = None if None in allowed else max((n for n in allowed if n is not None), default=0)
        too_many = most is not None and runtime.replay.violations > most
        return Standing.DIFFERS if runtime.refused or too_many else Standing.EXPECTED


_MOST_NUMBERS: Final = 256  # events of one PCR that are named


def _extends(event: Event, pcr: int) -> bool:
    return event.pcr == pcr and event.type != NO_ACTION


def _expectations(manifest: ReferenceManifest, found: Difference, until: int | None) -> Iterator[Expectation]:
    """What this manifest lists as good in this place; nothing, where it does not speak of it."""
    ends = min((end for end in (manifest.not_after, until) if end is not None), default=None)
    values: list[Any]
    at_least = None
    if found.pcr is not None:
        values = sorted(value.hex() for value in manifest.pcrs.get(found.bank, {}).get(found.pcr, ()))
    else:
        good = dict(conditions(manifest)).get(found.fact)
        if good is None:
            return
        at_least = good.at_least
        values = sorted((value for _, value in good.values), key=repr)
    if not values and at_least is None and found.fact != "doubts":
        return
    yield Expectation(
        manifest.name, manifest.digest, ends, tuple(values[:_MOST_EXPECTED]), len(values[_MOST_EXPECTED:]), at_least
    )


def _plain(value: Any) -> Any:
    """For JSON."""
    if isinstance(value, bytes):
        return value.hex()
    return list(value) if isinstance(value, tuple) else value
