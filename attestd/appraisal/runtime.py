"""Runtime appraisal: are the files that a device measured since its boot good ones?

Steps of `appraise_runtime`:
1. The known state, if one is given, is of the same boot, by the same policies, and ends where the entries begin.
2. The list is replayed to the quoted PCR 10 (attestd.tpm.ima); every entry up to there is judged on the way.
3. A list that gets to no such entry proves nothing, and neither does a judgement of it.
4. The list begins with the aggregate of the very boot that the quote speaks of, where the quote tells.

Judging an entry: by each policy on its own, and one that finds it good is enough, so that an update overlaps with what
it replaces. A file is good that is listed, or that a trusted key signed, as the rule for its path says; a measured
buffer by its own rules; an entry that can't be read, or that nobody has a rule for, is refused. Violations (a file was
written while it was measured) are counted: what they say of their file is proven by nothing.

What was refused once stays refused until the next boot or a judgement of the whole list by other policies: later
entries can't make it good, so the state carries it on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import Any, NamedTuple, Self

from attestd.appraisal.runtimeopinion import GOOD, IGNORED, LearnedKey, PolicyView
from attestd.appraisal.runtimepolicy import RuntimePolicy
from attestd.errors import Conflict, EvidenceRefused
from attestd.protocol.encoding import MalformedJson, Members, b64encode, read_object, write_object
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.ima import IMA_PCR, ImaWalk, Run
from attestd.tpm.imasignatures import (
    MAX_KEY,
    FileKey,
)
from attestd.tpm.imastate import ImaState, check_boot_aggregate
from attestd.tpm.imatemplates import BOOT_AGGREGATE, ImaEvent, MalformedImaEntry, read_event

MAX_REFUSED = 32  # refusals told one by one
MAX_LEARNED = 64  # keys learned in one boot
MAX_SHOWN = 300  # characters of a path
MAX_STATE = 2 * 1024 * 1024  # octets of a kept state; learned keys are the most of it
_U32 = Struct("<I")
_PLAIN = b"ima-ng"


class Pcr10NotQuoted(EvidenceRefused):
    """The quote does not cover PCR 10, so it proves no IMA list"""

    remedy = "Let the policy's selection name PCR 10 in a bank of SHA-256 or better."


class AnotherBoot(Conflict):
    """The device was restarted since the entries that are known"""

    remedy = "Send the whole IMA list of this boot."


class AnotherPolicy(Conflict):
    """The entries that are known were judged by another policy"""

    remedy = "Send the whole IMA list once more, so that all of it is judged by this policy."


class EntriesMissing(Conflict):
    """The entries do not begin where the known ones end"""

    remedy = "Send the entries from the one after the last that was attested, or the whole list."


class Boot(NamedTuple):
    """One boot of one device, by its TPM's clockInfo (TPM 2.0 Library, Part 2, section 10.11.1).

    Both counts must be the same: a resume from sleep keeps PCRs and counts as a restart, as does a start that clears
    them. Which of them it was only a whole list shows, and asking for one costs little.
    """

    reset_count: int
    restart_count: int

    @classmethod
    def of(cls, quote: VerifiedQuote) -> Self:
        return cls(quote.clock.reset_count, quote.clock.restart_count)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One entry that is not good: for people, bounded."""

    entry: int  # counted from 1
    path: str
    digest: str
    why: str


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """What is known of one boot's list. Bounded, whatever the list's length."""

    replay: ImaState
    boot: Boot
    policy: bytes  # `fingerprint_of` the policies by which all of it was judged
    files: int = 0  # judged, and good or refused
    ignored: int = 0
    buffers: int = 0
    refused: int = 0
    refusals: tuple[Refusal, ...] = ()  # the first ones
    learned: tuple[LearnedKey, ...] = ()

    @classmethod
    def begin(cls, policies: Sequence[RuntimePolicy], banks: Iterable[str], boot: Boot) -> Self:
        """Before the first entry of a boot."""
        return cls(ImaState.begin(banks), boot, fingerprint_of(policies))

    def check_continues(self, *, boot: Boot, policies: Sequence[RuntimePolicy], begins_at: int) -> None:
        """That entries from `begins_at` on (counted from 0) go on from this state.

        Raises AnotherBoot, AnotherPolicy, EntriesMissing: the device is then to send its whole list, and that is judged
        without a known state.
        """
        if self.boot != boot:
            raise AnotherBoot(seen=_told(boot), expected=_told(self.boot))
        if self.policy != fingerprint_of(policies):
            raise AnotherPolicy
        if self.replay.entries != begins_at:
            raise EntriesMissing(seen=f"entries from {begins_at} on", expected=f"from {self.replay.entries} on")

    def to_bytes(self) -> bytes:
        """As `parse` reads it: what is kept between attestations."""
        return write_object(self.to_members())

    def to_members(self) -> dict[str, Any]:
        """The JSON form that `from_members` reads."""
        return {
            "v": 1,
            "replay": self.replay.to_members(),
            "reset_count": self.boot.reset_count,
            "restart_count": self.boot.restart_count,
            "policy": b64encode(self.policy),
            "files": self.files,
            "ignored": self.ignored,
            "buffers": self.buffers,
            "refused": self.refused,
            "refusals": [
                {"entry": one.entry, "path": one.path, "digest": one.digest, "why": one.why} for one in self.refusals
            ],
            "learned": [
                {"policy": b64encode(key.policy), "keyring": key.keyring, "certificate": b64encode(key.certificate)}
                for key in self.learned
            ],
        }

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedJson and other MalformedInput."""
        return cls.from_members(Members(read_object(data, limit=MAX_STATE, name="runtime state"), "runtime state"))

    @classmethod
    def from_members(cls, members: Members) -> Self:
        """Raises MalformedJson and other MalformedInput."""
        members.version()
        refusals, learned = [], []
        for refusal in members.objects("refusals", most=MAX_REFUSED):
            entry, path = refusal.integer("entry"), refusal.text("path", limit=MAX_SHOWN)
            refusals.append(Refusal(entry, path, refusal.text("digest"), refusal.text("why")))
            refusal.done()
        for key in members.objects("learned", most=MAX_LEARNED):
            policy, certificate = key.octets("policy", limit=32, least=32), key.octets("certificate", limit=MAX_KEY)
            learned.append(LearnedKey(policy, key.text("keyring"), certificate))
            key.done()
        names = ("files", "ignored", "buffers", "refused")
        files, ignored, buffers, refused = (members.integer(name) for name in names)
        if min(files, ignored, buffers, refused) < 0:
            raise MalformedJson("A kept runtime state counts below zero.")
        state = cls(
            ImaState.from_members(members.object("replay")),
            Boot(members.integer("reset_count"), members.integer("restart_count")),
            members.octets("policy", limit=32, least=32),
            files,
            ignored,
            buffers,
            refused,
            tuple(refusals),
            tuple(learned),
        )
        members.done()
        return state


@dataclass(frozen=True, slots=True)
class RuntimeAppraisal:
    """What a quote and a list prove of what ran since the boot, by some policies."""

    state: RuntimeState  # to go on from; all counts are of the whole boot
    new_entries: int
    allowed_violations: int | None  # the most that a policy allows; None: any number
    boot_aggregate: tuple[int, ...] | None  # the quoted PCRs that it is the hash of; None: the quote lacks them

    @property
    def acceptable(self) -> bool:
        """Whether everything that was measured is good; at least the boot's aggregate was, or there is no appraisal."""
        return not self.state.refused and not self._has_too_many_violations

    @property
    def _has_too_many_violations(self) -> bool:
        allowed = self.allowed_violations
        return allowed is not None and self.state.replay.violations > allowed

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not acceptable, in sentences for people; bounded."""
        state = self.state
        told = [f"IMA entry {one.entry}, {one.path} ({one.digest}): {one.why}" for one in state.refusals]
        if state.refused > len(told):
            told.append(f"{state.refused - len(told)} more IMA entries are not good.")
        if self._has_too_many_violations:
            told.append(
                f"{state.replay.violations} files were written while IMA measured them; {self.allowed_violations} may."
            )
        return tuple(told)


def quoted_pcr10(pcrs: Mapping[str, Mapping[int, bytes]]) -> dict[str, bytes]:
    """PCR 10 by bank, of a quote's values. Raises Pcr10NotQuoted."""
    quoted = {bank: values[IMA_PCR] for bank, values in pcrs.items() if IMA_PCR in values}
    if not quoted:
        raise Pcr10NotQuoted(seen=", ".join(f"{bank} {sorted(values)}" for bank, values in pcrs.items()))
    return quoted


def fingerprint_of(policies: Sequence[RuntimePolicy]) -> bytes:
    """Of several policies together, whatever their order."""
    return hashlib.sha256(b"".join(sorted(policy.fingerprint for policy in policies))).digest()


def appraise_runtime(
    policies: Sequence[RuntimePolicy],
    entries: bytes | Iterable[bytes],
    *,
    quote: VerifiedQuote,
    known: RuntimeState | None = None,
    begins_at: int = 0,
    judging: Callable[[Sequence[RuntimePolicy], RuntimeState], Judge] | None = None,
) -> RuntimeAppraisal:
    """Judges an IMA list, or with a `known` state its continuation from entry `begins_at` on (counted from 0).

    `judging` makes a judge that remembers more than the result needs (`attestd.appraisal.runtimelisting`).

    Raises Pcr10NotQuoted, AnotherBoot, AnotherPolicy, EntriesMissing, MalformedImaList, MalformedImaEntry,
    TemplateDigestMismatch, ImaListMismatch, BankNotReplayed, AnotherListForm, BootAggregateMissing,
    BootAggregateMismatch. What an entry that is proven says, however bad, is in the result.
    """
    quoted = quoted_pcr10(quote.pcrs)
    # 1. What is known is of this boot and these policies, and ends where the entries begin.
    boot = Boot.of(quote)
    if known is None:
        known = RuntimeState.begin(policies, quoted, boot)
    known.check_continues(boot=boot, policies=policies, begins_at=begins_at)
    # 2. Replay, and judge on the way.
    judge = (judging or Judge)(policies, known)
    walk = ImaWalk(known.replay, entries, quoted=quoted)
    for run in walk:
        judge.take(run)
    # 3. The quote proves it, or nothing was judged.
    replay = walk.proven()
    # 4. It is of the boot that was quoted.
    boot_aggregate = check_boot_aggregate(replay, quote.pcrs)
    allowed = [policy.violations for policy in policies]
    return RuntimeAppraisal(
        state=judge.state(replay),
        new_entries=replay.entries - known.replay.entries,
        allowed_violations=None if None in allowed else max((n for n in allowed if n is not None), default=0),
        boot_aggregate=boot_aggregate,
    )


class Judge:
    """Judges runs of entries by some policies, and keeps count."""

    def __init__(self, policies: Sequence[RuntimePolicy], known: RuntimeState) -> None:
        self._views = [PolicyView(policy) for policy in policies]
        self._known = known
        self._files, self._ignored, self._buffers = known.files, known.ignored, known.buffers
        self._refused, self._refusals = known.refused, list(known.refusals)
        self._learned = list(known.learned)
        self._boot_aggregate = known.replay.boot_aggregate
        for learned in known.learned:
            for view in self._views:
                if view.policy.fingerprint == learned.policy:
                    view.add(learned.keyring, FileKey.load(learned.certificate))

    def state(self, replay: ImaState) -> RuntimeState:
        """Everything that was judged so far, which `replay` proves."""
        return replace(
            self._known,
            replay=replay,
            files=self._files,
            ignored=self._ignored,
            buffers=self._buffers,
            refused=self._refused,
            refusals=tuple(self._refusals),
            learned=tuple(self._learned),
        )

    def take(self, run: Run) -> None:
        """Judges each entry of a run; plain listed ones by one lookup of their octets."""
        if not self._views:  # nobody's policy: nothing is good, and there is nothing to say of each
            self._files += len(run.items)
            self._refused += len(run.items)
            return
        plain = run.template == _PLAIN and run.order == "little"
        if plain and any(view.policy.good.issuperset(run.items) for view in self._views):
            self._files += len(run.items)
            return
        rest = list(enumerate(run.items, run.first))
        if plain:
            for view in self._views:
                rest = view.not_plainly_good(rest)
            self._files += len(run.items) - len(rest)
        for number, data in rest:
            self._judge(number, run, data)

    def _judge(self, number: int, run: Run, data: bytes) -> None:
        """An entry that is not plainly good."""
        try:
            event = read_event(run.template, data, run.order)
        except MalformedImaEntry as error:
            self.refuse(number, b"", "", str(error))
            return
        if event.buffer is not None:
            self._judge_buffer(number, event)
        elif event.name == BOOT_AGGREGATE and self._is_boot_aggregate(number, event):
            self._files += 1
        else:
            self._judge_file(number, event)

    def _is_boot_aggregate(self, number: int, event: ImaEvent) -> bool:
        """The boot's first entry, or one like it, as a kernel writes that was started by kexec. What it is the hash of
        `check_boot_aggregate` compares with the quote."""
        if number == 1:
            self._boot_aggregate = event.digest
        return event.digest == self._boot_aggregate

    def _judge_file(self, number: int, event: ImaEvent) -> None:
        opinions = [view.opinion(event) for view in self._views]
        if GOOD not in opinions and IGNORED in opinions:
            self._ignored += 1
            return
        self._files += 1
        if GOOD not in opinions:
            self.refuse(number, event.name, event.digest.text, opinions[0] if opinions else _NOBODY)

    def _judge_buffer(self, number: int, event: ImaEvent) -> None:
        opinions = []
        for view in self._views:
            opinion, learned = view.opinion_of_buffer(event, room=MAX_LEARNED - len(self._learned))
            opinions.append(opinion)
            self._learned += learned
        if GOOD not in opinions and IGNORED in opinions:
            self._ignored += 1
            return
        self._buffers += 1
        if GOOD not in opinions:
            self.refuse(number, event.name, event.digest.text, opinions[0] if opinions else _NOBODY)

    def refuse(self, number: int, path: bytes, digest: str, why: str) -> None:
        """An entry is not good."""
        self._refused += 1
        if len(self._refusals) < MAX_REFUSED:
            self._refusals.append(Refusal(number, shown(path), digest[:200], why[:400]))


_NOBODY = "There is no policy that could find it good."


def shown(path: bytes) -> str:
    """A path for people: printable and bounded."""
    text = path[:MAX_SHOWN].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else "?" for c in text)[:MAX_SHOWN]


def _told(boot: Boot) -> str:
    return f"reset {boot.reset_count}, restart {boot.restart_count}"
