"""What golden devices ran, made into the section `runtime` of a manifest: the draft that an operator goes on from.

Only what a quote proves is learned, and only digests by hashes that will count. A draft lists: nothing is learned to be
ignored, and a key that signed is told by its identifier and never trusted because it was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from attestd.appraisal.runtime import quoted_pcr10
from attestd.appraisal.runtimepolicy import STRONG_HASHES
from attestd.appraisal.runtimesection import MAX_FILES
from attestd.errors import InputTooLarge
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.ima import ImaWalk
from attestd.tpm.imastate import ImaState, check_boot_aggregate
from attestd.tpm.imatemplates import BOOT_AGGREGATE, ByteOrder, ImaEvent, MalformedImaEntry, read_event

MAX_SIGNERS: Final = 256
_KEY_ID: Final = slice(3, 7)  # of a signature's header (attestd.tpm.imasignatures)


@dataclass(frozen=True, slots=True)
class RuntimeDraft:
    """Digests by path and by buffer, and what could not be learned. Drafts of several devices are added up."""

    files: Mapping[str, frozenset[str]] = field(default_factory=dict)
    buffers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    signers: Mapping[str, int] = field(default_factory=dict)  # how many files name a key by the end of its identifier
    violations: int = 0  # the most that one device had
    weak: int = 0  # entries whose digest is by a hash that does not count
    unreadable: int = 0  # entries of which no line of a manifest can be made

    @classmethod
    def of(
        cls, entries: bytes | Iterable[bytes], *, quote: VerifiedQuote, hashes: frozenset[str] = STRONG_HASHES
    ) -> Self:
        """From the whole list of one boot, up to the entry that the quote proves.

        Raises Pcr10NotQuoted, MalformedImaList, MalformedImaEntry, TemplateDigestMismatch, ImaListMismatch,
        BootAggregateMissing, BootAggregateMismatch, InputTooLarge.
        """
        return cls.of_pcrs(entries, pcrs=quote.pcrs, hashes=hashes)

    @classmethod
    def of_pcrs(
        cls,
        entries: bytes | Iterable[bytes],
        *,
        pcrs: Mapping[str, Mapping[int, bytes]],
        hashes: frozenset[str] = STRONG_HASHES,
    ) -> Self:
        """The same from the values of a quote that was verified when its evidence was kept."""
        quoted = quoted_pcr10(pcrs)
        files: dict[str, set[str]] = {}
        buffers: dict[str, set[str]] = {}
        signers: dict[str, int] = {}
        weak = unreadable = 0
        walk = ImaWalk(ImaState.begin(quoted), entries, quoted=quoted)
        for run in walk:
            for data in run.items:
                event = _read(run.template, data, run.order)
                if event is None:
                    unreadable += 1
                elif event.name == BOOT_AGGREGATE:
                    continue
                elif event.digest.algorithm not in hashes:
                    weak += 1
                else:
                    into = files if event.buffer is None else buffers
                    into.setdefault(event.name.decode(), set()).add(event.digest.text)
                    if event.signature and len(signers) < MAX_SIGNERS:
                        signer = event.signature[_KEY_ID].hex()
                        signers[signer] = signers.get(signer, 0) + 1
            if len(files) + len(buffers) > MAX_FILES:
                raise InputTooLarge("There are too many files to be learned.", expected=f"at most {MAX_FILES}")
        state = walk.proven()
        check_boot_aggregate(state, pcrs)
        return cls(_frozen(files), _frozen(buffers), MappingProxyType(signers), state.violations, weak, unreadable)

    def plus(self, other: RuntimeDraft) -> RuntimeDraft:
        """What either device ran."""
        return RuntimeDraft(
            _union(self.files, other.files),
            _union(self.buffers, other.buffers),
            MappingProxyType(
                {
                    signer: self.signers.get(signer, 0) + other.signers.get(signer, 0)
                    for signer in sorted({*self.signers, *other.signers})[:MAX_SIGNERS]
                }
            ),
            max(self.violations, other.violations),
            self.weak + other.weak,
            self.unreadable + other.unreadable,
        )

    def to_members(self) -> dict[str, Any]:
        """The section `runtime` that finds all of this good, and nothing else (`parse_runtime`)."""
        section: dict[str, Any] = {"files": {path: sorted(digests) for path, digests in sorted(self.files.items())}}
        if self.buffers:
            section["buffers"] = [
                {"name": name, "is": "listed", "digests": sorted(digests)}
                for name, digests in sorted(self.buffers.items())
            ]
        if self.violations:
            section["violations"] = self.violations
        return section


def _read(template: bytes, data: bytes, order: ByteOrder) -> ImaEvent | None:
    """The event, if a manifest can name it: in UTF-8, and a buffer by a name without a pattern in it."""
    try:
        event = read_event(template, data, order)
        event.name.decode()
    except (MalformedImaEntry, UnicodeDecodeError):
        return None
    return None if event.buffer is not None and (not event.name.strip(b"/") or b"*" in event.name) else event


def _frozen(found: Mapping[str, set[str]]) -> Mapping[str, frozenset[str]]:
    return MappingProxyType({name: frozenset(digests) for name, digests in found.items()})


def _union(one: Mapping[str, frozenset[str]], other: Mapping[str, frozenset[str]]) -> Mapping[str, frozenset[str]]:
    nothing: frozenset[str] = frozenset()
    return MappingProxyType({name: one.get(name, nothing) | other.get(name, nothing) for name in {*one, *other}})
