"""An IMA measurement list replayed: how far a quoted PCR 10 proves it, and what it says up to there.

Linux 6.10, security/integrity/ima/ima_queue.c: each entry extends its PCR in every bank, a violation extends all ones.
The kernel appends an entry before it extends, so a list may be longer than what was quoted, and anybody may have
written what follows. So a list is walked up to the entry whose replay equals the quoted PCR, nothing after it is read,
and a list that gets to no such entry proves nothing at all.

Steps for each entry, in the list's order:
1. It is read whole, within bounds (attestd.tpm.imalist).
2. Its template digest is that of its template data; a violation has zeros, and no data that anything proves.
3. It extends the replayed PCR, bank by bank, in both ways until the first match tells which one the kernel uses.
4. The replayed PCR is compared with the quoted one.

A walk holds a block of the list at a time and its state is of constant size, so memory does not grow with the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Final

from attestd.errors import Conflict, EvidenceRefused
from attestd.protocol.evidence import BANKS
from attestd.tpm.imalist import (
    BEGINNING,
    LIST_HASHES,
    MAX_ENTRY,
    MAX_LINE,
    BinaryForm,
    Entry,
    Feed,
    form_of,
    is_text,
    read_line,
    refuse,
)
from attestd.tpm.imastate import HASHED, HASHES, PADDED, Chain, ImaState, ListForm
from attestd.tpm.imatemplates import (
    BOOT_AGGREGATE,
    SHA1_SIZE,
    U32,
    ByteOrder,
    FileDigest,
    MalformedImaEntry,
    data_of_text,
    read_event,
)

IMA_PCR: Final = 10  # CONFIG_IMA_MEASURE_PCR_IDX, unless a kernel was built otherwise
_RUN = 4096  # entries of a run at most
_MOST_TEMPLATES = 32  # counted by name in a survey


class ImaListMismatch(EvidenceRefused):
    """The IMA list does not replay to the quoted PCR"""

    remedy = "Quote first and read the list afterwards, whole and from the kernel: what is quoted is then in it."


class TemplateDigestMismatch(EvidenceRefused):
    """An entry of the IMA list is not what its digest says"""

    remedy = "Send the kernel's list as it is; one that was edited proves nothing."


class BankNotReplayed(Conflict):
    """This bank's PCR was not replayed from the beginning"""

    remedy = "Send the whole IMA list once more."


class AnotherListForm(Conflict):
    """The entries are written in another form than those that are known"""

    remedy = "Send the whole IMA list once more, and from then on the same one of the kernel's lists."


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring entries of one template that extended PCR 10, without violations among them."""

    first: int  # the first one's number in the list, counted from 1
    template: bytes
    order: ByteOrder
    items: list[bytes]  # template data, one by one


class ImaWalk:
    """One walk through a list or its continuation: iterate for the runs of entries, then ask what is proven.

    With `quoted` (PCR 10 by bank) it ends at the entry that this PCR proves, and `proven()` tells the state there or
    refuses. Until then what was walked is nobody's word: make nothing of it but a judgement that `proven()` confirms.

    A `survey` is for telling people about a whole list: it goes on after the proven entry, and counts entries whose
    digest is wrong instead of refusing them at once.
    """

    def __init__(
        self,
        state: ImaState,
        source: bytes | Iterable[bytes],
        *,
        quoted: Mapping[str, bytes] | None = None,
        pcr: int = IMA_PCR,
        survey: bool = False,
    ) -> None:
        self._quoted = dict(quoted or {})
        if missing := sorted(self._quoted.keys() - {chain.bank for chain in state.chains}):
            raise BankNotReplayed(seen=", ".join(missing))
        self._begun = state
        self._chains = list(state.chains)
        self._feed = Feed(source)
        self._pcr = pcr
        self._survey = survey
        self._list_hash = ""
        self._entries, self._violations, self._elsewhere = state.entries, state.violations, state.elsewhere
        self._boot_aggregate = state.boot_aggregate
        self._form = state.form
        self._reached: ImaState | None = None
        self.text = False
        self.wrong, self.first_wrong = 0, 0  # entries whose digest is not that of their data; the first one's number
        self._wrong_before = 0
        self.templates: dict[str, int] = {}
        if state.entries:
            self._compare()

    # ---- What is known at the end --------------------------------------------------------------------------------

    @property
    def state(self) -> ImaState:
        """Where the walk is. Nobody's word; see `proven`."""
        return replace(
            self._begun,
            chains=tuple(self._chains),
            entries=self._entries,
            violations=self._violations,
            elsewhere=self._elsewhere,
            boot_aggregate=self._boot_aggregate,
            form=self._form,
        )

    @property
    def reached(self) -> ImaState | None:
        """The state at the entry whose replay equals the quoted PCR, if there was one: see `proven` for its worth."""
        return self._reached

    def proven(self) -> ImaState:
        """The state at the entry that the quoted PCR proves, with the way in which the kernel extends settled.

        Raises ImaListMismatch where there is no such entry, TemplateDigestMismatch where one before it was wrong.
        """
        if self._reached is None:
            pcr10 = self.state.pcr10
            raise ImaListMismatch(
                f"No entry of the IMA list replays to the quoted PCR {self._pcr}.",
                seen=f"{self._entries} entries, which replay to {_shown(pcr10)}",
                expected=_shown(self._quoted) or "a quote that covers the PCR",
            )
        if self._wrong_before:
            raise self.mismatch()
        return self._reached

    def mismatch(self) -> TemplateDigestMismatch:
        """Of a survey: which entries are not what their digests say."""
        more = f", and {self.wrong - 1} more" if self.wrong > 1 else ""
        return TemplateDigestMismatch(seen=f"entry {self.first_wrong}{more}")

    def _compare(self) -> None:
        """Step 4. Every quoted bank must be reached at once."""
        if self._reached is not None or not self._quoted:
            return
        reached = {chain.bank for chain in self._chains if chain.value == self._quoted.get(chain.bank, b"")}
        if len(reached) == len(self._quoted):
            settled = [
                chain for chain in self._chains if chain.bank not in reached or chain.value == self._quoted[chain.bank]
            ]
            self._reached = replace(self.state, chains=tuple(settled))
            self._wrong_before = self.wrong

    @property
    def _is_over(self) -> bool:
        return self._reached is not None and not self._survey

    # ---- The walk ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Run]:
        """Raises MalformedImaList, AnotherListForm; unless it is a survey, MalformedImaEntry and
        TemplateDigestMismatch."""
        if self._is_over or not (data := self._feed.more(b"", BEGINNING)):
            return
        self.text = is_text(data)
        yield from self._walk_text(data) if self.text else self._walk_binary(data, form_of(data))

    def _walk_binary(self, data: bytes, form: BinaryForm) -> Iterator[Run]:
        self._list_hash = LIST_HASHES[form.digest_size]
        self._settle(ListForm(False, self._list_hash, form.order))
        template, at = b"", 0
        while True:
            if template:
                run, at = self._take_neighbours(data, at, form, template)
                if run is not None:
                    yield run
                    if self._is_over:
                        return
                    if len(run.items) == _RUN:
                        continue
            found = form.cut(data, at, self._entries + 1)
            if isinstance(found, int):
                if self._feed.ended:
                    if at < len(data):
                        refuse(self._entries + 1, "ends too early", f"{len(data) - at} octets", f"at least {found}")
                    return
                data, at = self._feed.more(data[at:], found), 0
                continue
            entry, at = found
            template = b"" if entry.template == b"ima" else entry.template
            run = self._take(entry, form.order)
            if run is not None:
                yield run
            if self._is_over:
                return

    def _walk_text(self, data: bytes) -> Iterator[Run]:
        before = self._begun.form
        order: ByteOrder | None = None if before is None or not before.order else _ORDERS[before.order]
        while True:
            *lines, data = data.split(b"\n")
            if self._feed.ended:
                lines, data = [*lines, data], b""
            for line in filter(None, lines):
                entry = read_line(line, self._entries + 1, order or "little", strict=not self._survey)
                hash_name = LIST_HASHES[len(entry.digest)]
                if self._list_hash not in ("", hash_name):
                    refuse(self._entries + 1, "has a template digest of another size", hash_name, self._list_hash)
                self._list_hash = hash_name
                if order is None and entry.data is not None:
                    order, entry = self._order_of(line, entry)
                self._settle(ListForm(True, hash_name, order or ""))
                run = self._take(entry, order or "little")
                if run is not None:
                    yield run
                if self._is_over:
                    return
            if self._feed.ended:
                return
            if len(data) > MAX_LINE:
                refuse(self._entries + 1, "is too long a line", f"more than {MAX_LINE} octets")
            data = self._feed.more(data)

    def _settle(self, form: ListForm) -> None:
        """Parts make one list only if they are written alike: what was proven by parts, the whole must prove again."""
        before = self._begun.form
        if before is not None and form != before and (before.order or form[:2] != before[:2]):
            raise AnotherListForm(seen=_written(form), expected=_written(before))
        self._form = form

    def _order_of(self, line: bytes, entry: Entry) -> tuple[ByteOrder, Entry]:
        """How the machine writes the numbers that a text list does not show: the first entry's digest is over them."""
        if not self._is_genuine(entry):
            text = (*line.lstrip(b" ").split(b" ", 3), b"")[3]
            other = entry._replace(data=data_of_text(entry.template, text, "big"))
            if self._is_genuine(other):
                return "big", other
        return "little", entry

    def _is_genuine(self, entry: Entry) -> bool:
        return entry.data is not None and HASHES[self._list_hash](entry.data).digest() == entry.digest

    def _take(self, entry: Entry, order: ByteOrder) -> Run | None:
        """Steps 2 to 4 for an entry of any kind."""
        number = self._entries + 1
        violation = not any(entry.digest)
        genuine = violation or self._is_genuine(entry)
        if not genuine:
            self.wrong += 1
            self.first_wrong = self.first_wrong or number
            if not self._survey:
                raise self.mismatch()
        self._entries = number
        self._count(entry.template, 1)
        if entry.pcr != self._pcr:
            self._elsewhere += 1
            return None
        if number == 1 and genuine and not violation and entry.data is not None:
            self._boot_aggregate = _aggregate_of(entry.template, entry.data, order)
        self._violations += violation
        self._chains = [  # step 3
            chain.extended(self._list_hash, entry.digest, entry.data, violation=violation) for chain in self._chains
        ]
        self._compare()
        return None if violation or entry.data is None else Run(number, entry.template, order, [entry.data])

    def _count(self, template: bytes, entries: int) -> None:
        name = template.decode("latin-1")
        if name not in self.templates and len(self.templates) >= _MOST_TEMPLATES:
            name = "others"
        self.templates[name] = self.templates.get(name, 0) + entries

    # ---- Neighbours of one template, which most entries are --------------------------------------------------------

    def _take_neighbours(self, data: bytes, at: int, form: BinaryForm, template: bytes) -> tuple[Run | None, int]:
        """Steps 1 to 4 for the entries from `at` on that are of this template, for this PCR and what their digest says;
        and where they end. Whatever is not so plain is left where it is, for `_take`. One bank, which most quotes have.
        """
        values = {chain.form: chain.value for chain in self._chains}
        bank = self._chains[0].bank if self._chains else ""
        if any(chain.bank != bank or chain.value is None for chain in self._chains) or not bank:
            return None, at
        if PADDED in values and self._list_hash != "sha1":
            return None, at
        hashed, padded = values.get(HASHED), values.get(PADDED)
        quoted = self._quoted.get(bank, b"") if self._reached is None else b""
        hash_of, list_hash, same = HASHES[bank], HASHES[self._list_hash], bank == self._list_hash
        fill = bytes(BANKS[bank] - SHA1_SIZE)
        marker = U32[form.order].pack(len(template)) + template
        layout = _layout(form.order, form.digest_size, len(marker))
        unpack, head, pcr = layout.unpack_from, layout.size, self._pcr
        items: list[bytes] = []
        append = items.append
        try:
            for _ in range(_RUN):
                index, digest, name, size = unpack(data, at)
                if name != marker or index != pcr or size > MAX_ENTRY:
                    break
                begin = at + head
                to = begin + size
                octets = data[begin:to]  # fewer than `size` where the block ends: their digest is another one
                if list_hash(octets).digest() != digest:
                    break
                if hashed is not None:
                    hashed = hash_of(hashed + (digest if same else hash_of(octets).digest())).digest()
                if padded is not None:
                    padded = hash_of(padded + digest + fill).digest()
                append(octets)
                at = to
                if quoted in (hashed, padded):
                    break
        except StructError:  # the block ends within an entry's head
            pass
        if not items:
            return None, at
        run = Run(self._entries + 1, template, form.order, items)
        self._entries += len(items)
        self._count(template, len(items))
        self._chains = [Chain(bank, form, hashed if form == HASHED else padded) for _, form, _ in self._chains]
        self._compare()
        return run, at


@lru_cache(maxsize=64)
def _layout(order: ByteOrder, digest_size: int, marker_size: int) -> Struct:
    """An entry's octets before its template data: PCR, template digest, the template's name with its size, a size."""
    return Struct(f"{'<' if order == 'little' else '>'}I{digest_size}s{marker_size}sI")


def _aggregate_of(template: bytes, data: bytes, order: ByteOrder) -> FileDigest | None:
    try:
        event = read_event(template, data, order)
    except MalformedImaEntry:
        return None
    return event.digest if event.name == BOOT_AGGREGATE else None


_ORDERS: Final[Mapping[str, ByteOrder]] = {"little": "little", "big": "big"}


def _written(form: ListForm) -> str:
    return f"{'text' if form.text else 'binary'}, {form.hash} {form.order}".rstrip()


def _shown(pcr10: Mapping[str, bytes | None]) -> str:
    return ", ".join(f"{value.hex() if value else 'nothing'} ({bank})" for bank, value in pcr10.items())


def replay(state: ImaState, entries: bytes | Iterable[bytes], *, quoted: Mapping[str, bytes] | None = None) -> ImaState:
    """The state after these entries, unproven; where `quoted` tells PCR 10 by bank, at the entry that it proves.

    Raises MalformedImaList, MalformedImaEntry, TemplateDigestMismatch, ImaListMismatch, BankNotReplayed,
    AnotherListForm.
    """
    walk = ImaWalk(state, entries, quoted=quoted)
    for _ in walk:
        pass
    return walk.proven() if quoted else walk.state
