"""The entries of an IMA list as they were judged, a page at a time, for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from attestd.appraisal.runtime import Judge, RuntimeState, appraise_runtime, shown
from attestd.appraisal.runtimepolicy import RuntimePolicy
from attestd.tpm.attest import VerifiedQuote
from attestd.tpm.ima import Run
from attestd.tpm.imatemplates import MalformedImaEntry, read_event

MAX_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """One entry; `number` counts from 1. `why` it is not good; empty: it is, or a rule leaves it out."""

    number: int
    path: str
    digest: str
    why: str


@dataclass(frozen=True, slots=True)
class ListedEntries:
    """A page; `more`: others follow. `total` counts all entries that the quote proves, violations included."""

    entries: tuple[ListedEntry, ...]
    total: int
    more: bool


def list_runtime(
    policies: Sequence[RuntimePolicy],
    entries: bytes,
    *,
    quote: VerifiedQuote,
    after: int = 0,
    limit: int = 100,
    differing: bool = False,
) -> ListedEntries:
    """Judges a whole list, and tells the entries after a number; `differing`: those alone that are not good.

    Raises what `appraise_runtime` raises.
    """
    page = _Page(after, min(limit, MAX_PAGE), differing)
    found = appraise_runtime(policies, entries, quote=quote, judging=partial(_ListingJudge, page=page))
    return ListedEntries(tuple(page.found), found.state.replay.entries, page.more)


class _Page:
    def __init__(self, after: int, limit: int, differing: bool) -> None:
        self.after, self.limit, self.differing = after, limit, differing
        self.found: list[ListedEntry] = []
        self.more = False


class _ListingJudge(Judge):
    """Judges as ever, and writes down what stands on one page."""

    def __init__(self, policies: Sequence[RuntimePolicy], known: RuntimeState, *, page: _Page) -> None:
        super().__init__(policies, known)
        self._page = page
        self._nobody = not policies
        self._why: dict[int, str] = {}  # of this run

    def refuse(self, number: int, path: bytes, digest: str, why: str) -> None:
        super().refuse(number, path, digest, why)
        self._why[number] = why

    def take(self, run: Run) -> None:
        self._why.clear()
        super().take(run)
        page = self._page
        if page.more or run.first + len(run.items) - 1 <= page.after:
            return
        for number, data in enumerate(run.items, run.first):
            why = self._why.get(number, "")
            if number <= page.after or (page.differing and not why):
                continue
            if len(page.found) == page.limit:
                page.more = True
                return
            page.found.append(self._entry(number, run, data, why))

    def _entry(self, number: int, run: Run, data: bytes, why: str) -> ListedEntry:
        try:
            event = read_event(run.template, data, run.order)
        except MalformedImaEntry:
            return ListedEntry(number, "", "", why)
        return ListedEntry(number, shown(event.name), event.digest.text[:200], why)
