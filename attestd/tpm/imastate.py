"""How far an IMA measurement list was replayed, and the boot that it belongs to.

Linux 6.10, security/integrity/ima: ima_queue.c, ima_crypto.c (what each entry extends into PCR 10, and the aggregate of
the boot that comes first). A state is small, of constant size, and never changes: a later list of the same boot goes on
from it, so that only new entries need to travel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from attestd.errors import EvidenceRefused
from attestd.protocol.encoding import MalformedJson, Members, b64encode
from attestd.protocol.evidence import BANKS, PcrValues
from attestd.tpm.imatemplates import FileDigest

# What the kernel extends: the hash of the template data by the bank's own hash (since Linux 5.8), or the SHA-1 template
# digest filled up with zeros (before, and for banks whose hash the kernel lacks).
HASHED: Final = "hashed"
PADDED: Final = "padded"
HASHES: Final = {name: getattr(hashlib, name) for name in BANKS}


class BootAggregateMissing(EvidenceRefused):
    """The IMA list does not begin with the boot's aggregate"""

    remedy = "Send the list from its first entry, which the kernel writes at boot before anything else can."


class BootAggregateMismatch(EvidenceRefused):
    """The IMA list belongs to another boot than the quoted PCRs"""

    remedy = "Quote PCRs 0 to 9 and send the list of the same boot."


class Chain(NamedTuple):
    """PCR 10 as replayed, in one bank and one way of extending it. None once an entry could not be hashed."""

    bank: str
    form: str
    value: bytes | None

    def extended(self, list_hash: str, digest: bytes, data: bytes | None, *, violation: bool) -> Chain:
        """After one more entry of this template digest, in its list's hash, and template data, if they can be told."""
        bank, form, value = self
        by = bank if form == HASHED else "sha1"
        if violation:
            measured = b"\xff" * BANKS[by]
        elif list_hash == by:
            measured = digest
        elif data is not None:
            measured = HASHES[by](data).digest()
        else:
            return Chain(bank, form, None)
        if value is not None:
            value = HASHES[bank](value + measured.ljust(BANKS[bank], b"\0")).digest()
        return Chain(bank, form, value)


class ListForm(NamedTuple):
    """How a list is written. `hash` is its template digests'; `order` of its numbers, "" where a text list tells none
    yet."""

    text: bool
    hash: str
    order: str


@dataclass(frozen=True, slots=True)
class ImaState:
    """How far a list was replayed. `form` is None before the first entry."""

    chains: tuple[Chain, ...]
    entries: int = 0  # of any PCR, violations included
    violations: int = 0
    elsewhere: int = 0  # entries for other PCRs, which nothing here proves
    boot_aggregate: FileDigest | None = None  # of the first entry
    form: ListForm | None = None

    @classmethod
    def begin(cls, banks: Iterable[str]) -> Self:
        """Before the first entry: PCR 10 is zeros after a reset. Nothing tells yet how the kernel extends."""
        chains: list[Chain] = []
        for bank in banks:
            zeros = bytes(BANKS[bank])
            chains += [Chain(bank, form, zeros) for form in ((HASHED,) if bank == "sha1" else (HASHED, PADDED))]
        return cls(tuple(chains))

    @property
    def pcr10(self) -> dict[str, bytes | None]:
        """The replayed PCR by bank, hashed where nothing tells the way yet."""
        found: dict[str, bytes | None] = {}
        for chain in self.chains:
            found.setdefault(chain.bank, chain.value)
        return found

    def to_members(self) -> dict[str, Any]:
        """The JSON form that `from_members` reads."""
        return {
            "chains": [
                {"bank": chain.bank, "form": chain.form, "value": b64encode(chain.value)}
                for chain in self.chains
                if chain.value is not None
            ],
            "entries": self.entries,
            "violations": self.violations,
            "elsewhere": self.elsewhere,
            "boot_aggregate": self.boot_aggregate.text if self.boot_aggregate else "",
            "form": {} if self.form is None else self.form._asdict(),
        }

    @classmethod
    def from_members(cls, members: Members) -> Self:
        """Raises MalformedJson, MalformedImaEntry."""
        chains = []
        for chain in members.objects("chains", most=2 * len(BANKS)):
            bank, form = chain.text("bank", limit=16), chain.text("form", limit=16)
            if bank not in BANKS or form not in (HASHED, PADDED):
                raise MalformedJson("A kept IMA state names an unknown bank.", seen=f"{bank} {form}")
            chains.append(Chain(bank, form, chain.octets("value", limit=BANKS[bank], least=BANKS[bank])))
            chain.done()
        entries, violations, elsewhere = (members.integer(name) for name in ("entries", "violations", "elsewhere"))
        if min(entries, violations, elsewhere) < 0:
            raise MalformedJson("A kept IMA state counts below zero.")
        aggregate = members.text("boot_aggregate", limit=256)
        written = _read_form(members.object("form"))
        members.done()
        digest = FileDigest.parse(aggregate) if aggregate else None
        return cls(tuple(chains), entries, violations, elsewhere, digest, written)


def _read_form(members: Members) -> ListForm | None:
    if not members.items():
        return None
    form = ListForm(members.boolean("text"), members.text("hash", limit=16), members.text("order", limit=16))
    if form.hash not in BANKS or form.order not in ("little", "big", *([""] if form.text else [])):
        raise MalformedJson("A kept IMA state is of no list that there is.", seen=repr(form))
    members.done()
    return form


def check_boot_aggregate(state: ImaState, pcrs: PcrValues) -> tuple[int, ...] | None:
    """The PCRs whose quoted values the list's first entry is the hash of; None where the quote lacks some of them.

    Linux, ima_crypto.c, ima_calc_boot_aggregate_tfm: PCRs 0 to 7 in the bank of the digest's own hash; since 5.8 PCRs
    0 to 9, unless the hash is SHA-1. It ties the list to the boot that the quote speaks of. Raises BootAggregateMissing
    where the list began with anything else, BootAggregateMismatch.
    """
    aggregate = state.boot_aggregate
    if aggregate is None:
        raise BootAggregateMissing(seen=f"{state.entries} entries that begin with something else")
    values = pcrs.get(aggregate.algorithm, {})
    spans = (range(8),) if aggregate.algorithm == "sha1" else (range(10), range(8))
    if aggregate.kind != "ima" or not set(spans[0]) <= values.keys():
        return None
    for span in spans:
        if hashlib.new(aggregate.algorithm, b"".join(values[index] for index in span)).digest() == aggregate.value:
            return tuple(span)
    raise BootAggregateMismatch(
        seen=aggregate.text, expected=" or ".join(f"the hash of the quoted PCRs 0 to {span[-1]}" for span in spans)
    )
