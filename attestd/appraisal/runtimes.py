"""One IMA list, judged once by the manifests that decide together, and once by each that is only watched.

An update overlaps with what it replaces, so a file is good that any deciding manifest finds good; a watched one is
asked what it would say alone. Each judgement has a state of its own to go on from (`RuntimeState`); a list that goes on
must go on from all of them, or the whole of it is asked for once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from attestd.appraisal.manifests import ReferenceManifest
from attestd.appraisal.runtime import MAX_STATE, AnotherPolicy, EntriesMissing, RuntimeAppraisal, RuntimeState
from attestd.appraisal.runtime import appraise_runtime as judge
from attestd.appraisal.runtimepolicy import RuntimePolicy
from attestd.protocol.encoding import Members, read_object, write_object
from attestd.tpm.attest import VerifiedQuote

MAX_WATCHED: Final = 8  # manifests that judge one device's list besides those that decide


@dataclass(frozen=True, slots=True)
class Runtimes:
    """Where judgements of one boot's list stand; by manifests' digests for the watched ones."""

    decided: RuntimeState
    watched: Mapping[str, RuntimeState] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As `parse` reads it."""
        watched = {digest: state.to_members() for digest, state in self.watched.items()}
        return write_object({"v": 1, "decided": self.decided.to_members(), "watched": watched})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises MalformedInput's children for what this did not write."""
        members = Members(read_object(data, limit=(MAX_WATCHED + 1) * MAX_STATE, name="runtime states"), "states")
        members.version()
        decided = RuntimeState.from_members(members.object("decided"))
        said = members.object("watched")
        watched = {digest: RuntimeState.from_members(said.object(digest)) for digest, _ in said.items()}
        members.done()
        return cls(decided, watched)


@dataclass(frozen=True, slots=True)
class JudgedRuntime:
    """What a list proves, by everybody who was asked."""

    decided: RuntimeAppraisal
    watched: Mapping[str, RuntimeAppraisal]

    @property
    def entries(self) -> int:
        """Of the whole boot, as far as the quote proves them."""
        return self.decided.state.replay.entries

    @property
    def states(self) -> Runtimes:
        """To go on from."""
        return Runtimes(self.decided.state, {digest: found.state for digest, found in self.watched.items()})


def judge_runtime(
    entries: bytes,
    *,
    quote: VerifiedQuote,
    deciding: Sequence[ReferenceManifest],
    watched: Sequence[ReferenceManifest],
    known: Runtimes | None = None,
    begins_at: int = 0,
) -> JudgedRuntime:
    """Judges a list, or its continuation from entry `begins_at` on (counted from 0).

    Raises what `appraise_runtime` raises; AnotherBoot, AnotherPolicy, EntriesMissing, AnotherListForm and
    BankNotReplayed ask for the whole list.
    """
    if begins_at and known is None:
        raise EntriesMissing(seen=f"entries from {begins_at} on", expected="the whole list: nothing is known of it")
    if not begins_at:
        known = None
    policies = [manifest.runtime for manifest in deciding if manifest.runtime is not None]
    states = None if known is None else known.decided
    decided = judge(policies, entries, quote=quote, known=states, begins_at=begins_at)
    found = {}
    for manifest, policy in _asked(watched):
        state = None if known is None else known.watched.get(manifest.digest)
        if known is not None and state is None:
            raise AnotherPolicy(seen="a manifest that has not seen the entries that are known")
        found[manifest.digest] = judge([policy], entries, quote=quote, known=state, begins_at=begins_at)
    return JudgedRuntime(decided, found)


def _asked(watched: Sequence[ReferenceManifest]) -> list[tuple[ReferenceManifest, RuntimePolicy]]:
    """The first so many that have something to say."""
    asked = [(manifest, manifest.runtime) for manifest in watched if manifest.runtime is not None]
    return asked[:MAX_WATCHED]
