"""Which devices somebody looks for: state, result, place, maker, label, words.

Parsed once, bounded, the same for lists, exports and whatever is done to all that match. docs/fleet.md says what each
of them matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from sqlalchemy import ColumnElement, and_, or_

from attestd.errors import MalformedInput
from attestd.ids import Site, Tier
from attestd.registry.counts import NONE
from attestd.registry.states import State
from attestd.registry.tables import device_terms, devices
from attestd.registry.tables.fleet import BAD

FILTERS: Final = ("state", "result", "tier", "site", "maker", "label", "overdue", "q")
RESULTS: Final = ("affirming", "warning", "contraindicated", NONE)
OVERDUE: Final = "overdue"  # beside the states: active, but no result counts
MAX_TEXT: Final = 200  # characters of any one filter
MAX_WORDS: Final = 8
_LAST: Final = "\U0010ffff"  # sorts after everything that begins alike


class FilterMalformed(MalformedInput):
    """A filter can't be read"""

    remedy = "Use the values that are expected; docs/fleet.md says what each filter matches."


@dataclass(frozen=True, slots=True)
class Clause:
    """What a device must be found by. `first` is the term, or what the term begins with; `kinds` None: of any kind.

    `anywhere`: the id or the site that begins so will do, too.
    """

    first: str
    exact: bool
    kinds: tuple[str, ...] | None = None
    anywhere: bool = False

    @property
    def before(self) -> str:
        """What begins like `first` is from there on, and before this."""
        return self.first + _LAST

    def fits(self) -> ColumnElement[bool]:
        """Of a row of `device_terms`."""
        t = device_terms.c
        wanted = [t.term == self.first] if self.exact else [t.term >= self.first, t.term < self.before]
        if self.kinds is not None:
            wanted.append(t.kind.in_(self.kinds))
        return and_(*wanted)


@dataclass(frozen=True, slots=True)
class Filters:
    """All of them must hold. Of several states or results one must."""

    states: tuple[State, ...] = ()
    or_overdue: bool = False  # one of the states, or overdue
    overdue: bool = False
    results: tuple[str, ...] = ()
    tier: Tier | None = None
    site: Site | None = None
    clauses: tuple[Clause, ...] = ()

    @classmethod
    def parse(cls, unverified: Mapping[str, str]) -> Self:
        """From what a query or a form says; empty ones count as absent. Raises FilterMalformed, MalformedName."""
        found = {name: value for name, value in unverified.items() if value}
        if unknown := sorted(found.keys() - set(FILTERS)):
            raise FilterMalformed("There is no such filter.", seen=unknown[0][:40], expected=", ".join(FILTERS))
        for name, value in found.items():
            _require_text(name, value)
        states = _listed("state", found.get("state", ""), (*State, OVERDUE))
        tier, site = found.get("tier"), found.get("site")
        return cls(
            states=tuple(State(state) for state in states if state != OVERDUE),
            or_overdue=OVERDUE in states,
            overdue=bool(_listed("overdue", found.get("overdue", ""), ("yes",))),
            results=_listed("result", found.get("result", ""), RESULTS),
            tier=None if tier is None else Tier.parse(tier),
            site=None if site is None else Site(site),
            clauses=(
                *(Clause(_folded(maker), exact=True, kinds=("maker",)) for maker in _one(found, "maker")),
                *(_label(label) for label in _one(found, "label")),
                *(_word(word) for word in _words(found.get("q", ""))),
            ),
        )

    @property
    def groups(self) -> dict[str, list[str]]:
        """As far as kept counts know it (`attestd.registry.counts`)."""
        found: dict[str, list[str]] = {}
        states = set(self.states)
        if self.or_overdue:
            states.add(State.ACTIVE)
        if self.overdue:
            states = {State.ACTIVE}.intersection(states or {State.ACTIVE})
        if states or self.overdue:
            found["state"] = sorted(state.value for state in states)
        if self.results:
            found["result_status"] = list(self.results)
        if self.tier is not None:
            found["tier"] = [self.tier.value]
        if self.site is not None:
            found["site"] = [str(self.site)]
        return found

    @property
    def counted(self) -> bool:
        """Whether kept counts say exactly how many devices match."""
        return not (self.clauses or self.overdue or self.or_overdue)

    @property
    def by_time_alone(self) -> bool:
        """Whether nothing but states and time is asked for."""
        return not (self.clauses or self.results or self.tier or self.site) and not (self.overdue and self.states)

    def columns(self, ended_by: int) -> list[ColumnElement[bool]]:
        """What the device's own row must say; `ended_by`: a result that ended by then makes a device overdue."""
        d = devices.c
        late = and_(d.state == State.ACTIVE.value, d.attestation_good_until <= ended_by)
        wanted: list[ColumnElement[bool]] = []
        states = [d.state == state.value for state in self.states]
        if self.or_overdue:
            states.append(late)
        if states:
            wanted.append(or_(*states))
        if self.overdue:
            wanted.append(late)
        if self.results:
            wanted.append(or_(*(_is_result(result) for result in self.results)))
        if self.results and {"affirming", NONE}.isdisjoint(self.results):
            wanted.append(BAD)  # SQLite takes a partial index only where its very words are asked for
        if self.tier is not None:
            wanted.append(d.tier == self.tier.value)
        if self.site is not None:
            wanted.append(d.site == str(self.site))
        return wanted


def _is_result(result: str) -> ColumnElement[bool]:
    status = devices.c.result_status
    return or_(status.is_(None), status == NONE) if result == NONE else status == result


def _require_text(name: str, value: str) -> None:
    if len(value) > MAX_TEXT:
        raise FilterMalformed(f"{name} is too long.", seen=f"{len(value)} characters", expected=f"at most {MAX_TEXT}")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise FilterMalformed(f"{name} holds a character that no text has.")


def _one(found: Mapping[str, str], name: str) -> list[str]:
    return [found[name]] if found.get(name, "").strip() else []


def _listed(name: str, value: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Names with commas between them, each once."""
    values = [each.strip() for each in value.split(",") if each.strip()]
    if unknown := [each for each in values if each not in known]:
        raise FilterMalformed(f"This is no {name}.", seen=repr(unknown[0][:40]), expected=", ".join(known))
    return tuple(dict.fromkeys(values))


def _words(text: str) -> list[str]:
    words = text.split()
    if len(words) > MAX_WORDS:
        raise FilterMalformed("These are too many words.", seen=len(words), expected=f"at most {MAX_WORDS}")
    return words


def _word(word: str) -> Clause:
    return Clause(_folded(word), exact=False, anywhere=True)


def _label(label: str) -> Clause:
    """`name=value` is that very label; `name` alone any value of it."""
    exact = "=" in label
    return Clause(_folded(label if exact else f"{label}="), exact=exact, kinds=("label",))


def _folded(text: str) -> str:
    """As the database folds terms: ASCII letters only."""
    return text.strip().encode().lower().decode()
