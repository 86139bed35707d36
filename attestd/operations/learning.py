"""Drafts of reference manifests, from the newest evidence of devices that an operator knows to be good.

Nothing is added: a draft's reader decides (docs/references.md). `attestd.appraisal.learning` makes it of their values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from attestd.appraisal.learning import Draft, Golden, Wish, learn, most_alike
from attestd.appraisal.manifests import Match
from attestd.appraisal.runtimelearning import RuntimeDraft
from attestd.errors import AttestdError, Conflict, MalformedInput
from attestd.ids import DeviceId
from attestd.operations import Act
from attestd.protocol.encoding import read_object
from attestd.registry import devices, evidence
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.evidence import Kept

MAX_GOLDEN: Final = 32  # devices to learn from at once
_MAX_INPUTS: Final = 16 * 1024 * 1024


class NothingToLearn(Conflict):
    """None of these devices has evidence to learn from"""

    remedy = (
        'Add a manifest with stage = "learn" that matches them, so that they send their logs; then have them attest: '
        "`attestd devices demand`."
    )


class TooManyGolden(MalformedInput):
    """These are no devices to learn from: none, one twice, or too many"""

    remedy = "Choose a few machines that you know to be good."


@dataclass(frozen=True, slots=True)
class Source:
    """What there was to learn from one device. `why`: what kept it from being learned from, or from parts of it."""

    device_id: DeviceId
    attested_at: int | None
    has_log: bool
    has_list: bool
    why: str


@dataclass(frozen=True, slots=True)
class Learned:
    """A draft, and what it was learned from."""

    draft: Draft
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Learning:
    """The verb. One object serves any number of requests in any process."""

    registry: Registry

    def learn(
        self, device_ids: Sequence[DeviceId], name: str, act: Act, *, wish: Wish, match: Match | None = None
    ) -> Learned:
        """A draft of a manifest, from the newest evidence of these devices. Nothing is added: its reader decides.

        `match` None: what these devices have in common. Raises UnknownDevice, TooManyGolden, NothingToLearn.
        """
        if not 1 <= len(device_ids) <= MAX_GOLDEN or len(set(device_ids)) != len(device_ids):
            raise TooManyGolden(seen=f"{len(device_ids)} devices", expected=f"1 to {MAX_GOLDEN}, each once")
        golden: list[Golden] = []
        sources: list[Source] = []
        found: list[Device] = []
        for device_id in device_ids:
            with self.registry.reading() as c:
                device = devices.by_id(c, device_id)
                kept = next(iter(evidence.every(c, device_id)), None)
                parts = _ima_list(c, device_id, kept) if wish.runtime and kept is not None else None
            one, source = _read(device, kept, parts, wish)
            sources.append(source)
            if one is not None:
                golden.append(one)
                found.append(device)
        if not golden:
            raise NothingToLearn(seen="; ".join(f"{source.device_id}: {source.why}" for source in sources)[:1000])
        draft = learn(golden, name=name, match=match or most_alike(_subjects(found)), wish=wish)
        with self.registry.acting() as c:
            act.note(c, "learn-reference", f"reference {name}", devices=[str(each.device_id) for each in golden])
        return Learned(draft, tuple(sources))


def _ima_list(c: Connection, device_id: DeviceId, kept: Kept) -> bytes | None:
    if not kept.ima_entries:
        return None
    return b"".join(part.content for part in evidence.ima_list(c, device_id, kept.boot, entries=kept.ima_entries))


def _read(device: Device, kept: Kept | None, ima: bytes | None, wish: Wish) -> tuple[Golden | None, Source]:
    """What is known of one device, and what is not."""
    if kept is None:
        return None, Source(device.id, None, False, False, "no evidence is kept of it; have it attest")
    pcrs = _pcrs(kept.inputs)
    facts = kept.boot_facts
    why = ["its newest evidence was contraindicated"] if kept.verdict == evidence.BAD else []
    if facts is None:
        why.append("it sent no event log, so no boot facts are learned from it")
    runtime = None
    if wish.runtime:
        if not ima:
            why.append("it sent no IMA list, so nothing that ran is learned from it")
        else:
            try:
                runtime = RuntimeDraft.of_pcrs(ima, pcrs=pcrs)
            except AttestdError as error:
                why.append(f"its IMA list can't be learned: {error}")
    golden = Golden(str(device.id), pcrs, facts, runtime, kept.verdict == evidence.BAD)
    return golden, Source(device.id, kept.at, facts is not None, bool(kept.ima_entries), "; ".join(why))


def _pcrs(inputs: bytes) -> Mapping[str, Mapping[int, bytes]]:
    """The quoted PCR values in kept evidence (attestd/issuance/keeping.py)."""
    found = read_object(inputs, limit=_MAX_INPUTS)["pcrs"]
    return {bank: {int(i): bytes.fromhex(value) for i, value in each.items()} for bank, each in found.items()}


def _subjects(found: Iterable[Device]) -> list[Match]:
    return [Match(each.tier, dict(each.labels), each.manufacturer, each.model) for each in found]
