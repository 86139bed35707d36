"""What operators do with reference manifests: add, promote, withdraw (docs/references.md, docs/adr/0025).

Each verb is one transaction that acts and leaves an audit row. What begins to decide is guarded, so that nobody locks a
fleet out by accident. A device is at risk if it is active, if the manifest is for it, and if nothing that decides
already, and goes on deciding for a day at least, held at its last attestation; and if
- the watched manifest of the same content would refuse it, or
- it has not attested since that one began to be watched, so that nothing is known of it.
Where devices are at risk, the operator says how many may be; where nobody watched, that this is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from attestd.appraisal.manifests import MAX_MANIFEST, ReferenceManifest, Stage
from attestd.config import Settings
from attestd.errors import Conflict
from attestd.ids import DeviceId
from attestd.operations import Act
from attestd.protocol.encoding import read_object
from attestd.registry import references
from attestd.registry.engine import Connection, Registry
from attestd.registry.references import Affected, StoredManifest

OVERLAP: Final = 7 * 86400  # seconds for which an earlier version counts beside a new one
GOES_ON: Final = 86400  # seconds: what holds a device for less is no reason to call it safe
NOTICED: Final = 2  # seconds until every process compares with a manifest that was added
MAX_LOOKED: Final = 100_000  # devices that one count looks at


class WouldRefuse(Conflict):
    """Enforced now, this manifest would refuse devices"""

    remedy = (
        "`attestd references refusals` says which and why. Correct the manifest, wait until its devices have attested, "
        "or take it: --accept-refusals with the number that is expected."
    )


class NobodyWatched(Conflict):
    """Nobody watched what this manifest would refuse"""

    remedy = (
        "Add it at stage monitor, let its devices attest, look at `attestd references refusals`, then promote it; or "
        "take the risk: --unwatched."
    )


class BankNotQuoted(Conflict):
    """This manifest speaks of a PCR bank that no quote covers"""

    remedy = "Name the bank in `attestation.pcrs` once every device's TPM has it: who lacks it can't attest then."


class AlreadyThere(Conflict):
    """This very manifest counts already"""

    remedy = "Nothing is to be done; `attestd references list` shows it."


@dataclass(frozen=True, slots=True)
class Prospect:
    """What enforcing a manifest would do now, by its active devices; `more`: they are too many to count them all.

    `refused`: the watched manifest would refuse them. `unheard`: nothing is known of them. `held`: either of these,
    but something that decides already held for them, and goes on deciding. `watched_since`: None: nobody watches.
    """

    watched_since: int | None
    refused: int
    unheard: int
    held: int
    more: bool

    @property
    def at_risk(self) -> int:
        return self.refused + self.unheard

    def __str__(self) -> str:
        least = "at least " if self.more else ""
        if self.watched_since is None:
            return f"{least}{self.unheard} active devices that it is for, of which nothing is known"
        return (
            f"{least}{self.refused} devices that it would refuse, and {least}{self.unheard} that have not attested "
            "since it is watched"
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an operator takes: how many devices may be at risk; that nobody watched."""

    refusals: int = 0
    unwatched: bool = False


NOTHING: Final = Accepted()


@dataclass(frozen=True, slots=True)
class References:
    """The operators' verbs on manifests. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry

    # ---- Acts -------------------------------------------------------------------------------------------------

    def add(
        self, manifest: ReferenceManifest, act: Act, *, overlap: int = OVERLAP, accepted: Accepted = NOTHING
    ) -> StoredManifest:
        """A new version, at the stage that it names.

        Raises BankNotQuoted, WouldRefuse, NobodyWatched, AlreadyThere, ReferencesRaced.
        """
        if unquoted := sorted(set(manifest.pcrs) - set(self.settings.attestation.pcrs)):
            raise BankNotQuoted(seen=", ".join(unquoted), expected=", ".join(self.settings.attestation.pcrs))
        prospect, version = self._guard(manifest, act, overlap, accepted)
        with self.registry.acting() as c:
            references.begin_change(c, seen=version)
            stored = _store(c, manifest, act, overlap)
            act.note(c, "add-reference", _subject(stored), **_detail(stored, overlap, prospect))
        return stored

    def promote(
        self, number: int, stage: Stage, act: Act, *, overlap: int = OVERLAP, accepted: Accepted = NOTHING
    ) -> StoredManifest:
        """The same references at another stage, which ends this version: on to `enforce`, or back from it.

        Raises UnknownManifest, AlreadyThere, WouldRefuse, NobodyWatched, ReferencesRaced.
        """
        with self.registry.reading() as c:
            found = references.by_number(c, number)
        if found.stage == stage:
            raise AlreadyThere("This manifest is at that stage.", seen=stage)
        manifest = ReferenceManifest.from_json(found.document).at_stage(stage)
        prospect, version = self._guard(manifest, act, overlap, accepted)
        with self.registry.acting() as c:
            references.begin_change(c, seen=version)
            references.withdraw(c, number, now=act.at)
            stored = _store(c, manifest, act, overlap)
            detail = {"promoted": number, "was": found.stage, **_detail(stored, overlap, prospect)}
            act.note(c, "promote-reference", _subject(stored), **detail)
        return stored

    def withdraw(self, number: int, act: Act) -> StoredManifest:
        """A version counts no longer, from now on. Raises UnknownManifest."""
        with self.registry.acting() as c:
            ended = references.withdraw(c, number, now=act.at)
            act.note(c, "withdraw-reference", _subject(ended), name=ended.name, stage=ended.stage)
        return ended

    # ---- What it would do -------------------------------------------------------------------------------------

    def prospect(self, manifest: ReferenceManifest, *, now: int, overlap: int = OVERLAP) -> Prospect:
        """What enforcing this content would do at this time (unix seconds)."""
        with self.registry.reading() as c:
            return self._prospect(c, manifest, now, overlap)

    def _guard(
        self, manifest: ReferenceManifest, act: Act, overlap: int, accepted: Accepted
    ) -> tuple[Prospect | None, int]:
        """What is foreseen of a manifest that is to decide, and the version of all manifests that was looked at."""
        with self.registry.reading() as c:
            version = references.version(c)
            if manifest.stage is not Stage.ENFORCE or _counts_already(c, manifest, act.at):
                return None, version
            prospect = self._prospect(c, manifest, act.at, overlap)
        if prospect.watched_since is None:
            if (prospect.unheard or prospect.more) and not accepted.unwatched:
                raise NobodyWatched(
                    f"{manifest.name!r} was never watched, and would decide about devices at once.", seen=prospect
                )
        elif prospect.at_risk > accepted.refusals or (prospect.more and not accepted.refusals):
            raise WouldRefuse(
                f"Enforced now, {manifest.name!r} could refuse devices.",
                seen=prospect,
                expected=f"--accept-refusals {max(1, prospect.at_risk)}, or no device at risk",
            )
        return prospect, version

    def _prospect(self, c: Connection, manifest: ReferenceManifest, now: int, overlap: int) -> Prospect:
        watching = _watching(c, manifest, now)
        since = None if watching is None else max(watching.added_at + NOTICED, manifest.not_before or 0)
        digest = "" if watching is None else watching.digest
        lasting = self._lasting(c, manifest, now, overlap)
        unheard, spared, more = _count(
            lambda after: references.affected(
                c, manifest.match, refused_by=digest, unheard_since=_FOREVER if since is None else since, after=after
            ),
            lasting,
        )
        refused = 0
        if watching is not None:
            refused, also_spared, beyond = _count(
                lambda after: references.affected(c, manifest.match, refused_by=digest, after=after), lasting
            )
            spared, more = spared + also_spared, more or beyond
        return Prospect(since, refused, unheard, spared, more)

    def _lasting(self, c: Connection, manifest: ReferenceManifest, now: int, overlap: int) -> frozenset[str]:
        """Manifests, as results name them, that decide now and for a while after this one does.

        Where this one speaks of what runs, only those that do so, too: a device that was never asked for its list has
        none to show.
        """
        found = {
            f"{stored.name}@sha256:{stored.digest}"
            for stored in references.in_force(c, now=now)
            if stored.stage == Stage.ENFORCE
            and (stored.name != manifest.name or overlap >= GOES_ON)
            and (stored.until is None or stored.until >= now + GOES_ON)
            and _goes_on(stored, now, speaks_of_runtime=manifest.runtime is not None)
        }
        if manifest.runtime is None:
            found |= {
                ReferenceManifest.of_pcrs(said.name, said.pcrs, said.tier).policy_id
                for said in self.settings.references
            }
        return frozenset(found)


_FOREVER: Final = (1 << 62) - 1


def _in_force(c: Connection, now: int) -> list[StoredManifest]:
    """The newest ones that count, without their documents."""
    return references.page(c, counting_at=now, limit=references.MAX_PAGE)


def _counts_already(c: Connection, manifest: ReferenceManifest, now: int) -> bool:
    return any(stored.digest == manifest.digest for stored in _in_force(c, now))


def _watching(c: Connection, manifest: ReferenceManifest, now: int) -> StoredManifest | None:
    """The watched version of the same content, if one counts."""
    digest = manifest.at_stage(Stage.MONITOR).digest
    return next((stored for stored in _in_force(c, now) if stored.digest == digest), None)


def _goes_on(stored: StoredManifest, now: int, *, speaks_of_runtime: bool) -> bool:
    members = read_object(stored.document, limit=MAX_MANIFEST)
    return members.get("not_after", _FOREVER) >= now + GOES_ON and ("runtime" in members or not speaks_of_runtime)


def _count(
    page: Callable[[DeviceId | None], tuple[list[Affected], DeviceId | None]], lasting: frozenset[str]
) -> tuple[int, int, bool]:
    """How many are at risk, how many something else holds, and whether there are more than were looked at."""
    at_risk = held = 0
    after: DeviceId | None = None
    for _ in range(MAX_LOOKED // references.MAX_PAGE):
        found, after = page(after)
        for device in found:
            if device.status != "contraindicated" and device.policies & lasting:
                held += 1
            else:
                at_risk += 1
        if after is None:
            return at_risk, held, False
    return at_risk, held, True


def _store(c: Connection, manifest: ReferenceManifest, act: Act, overlap: int) -> StoredManifest:
    if any(stored.digest == manifest.digest and stored.until is None for stored in _in_force(c, act.at)):
        raise AlreadyThere(seen=manifest.policy_id)
    return references.add(
        c,
        name=manifest.name,
        stage=manifest.stage.value,
        digest=manifest.digest,
        document=manifest.document,
        added_by=act.actor,
        now=act.at,
        overlap=overlap,
    )


def _subject(stored: StoredManifest) -> str:
    return f"reference {stored.number}"


def _detail(stored: StoredManifest, overlap: int, prospect: Prospect | None) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "name": stored.name,
        "stage": stored.stage,
        "digest": stored.digest,
        "overlap": overlap,
    }
    if prospect is not None:
        detail |= {"refused": prospect.refused, "unheard": prospect.unheard, "held": prospect.held}
        detail["watched"] = prospect.watched_since is not None
    return detail
