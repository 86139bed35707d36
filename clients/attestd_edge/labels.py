"""Data labels and claims of a request: whose word they are, and how they are read.

- **Labels** are the boundary's word: what its settings say, then what the application tells (`labels=` of the
  middleware), then, where `labels_from_hop` is set, what an authenticated reverse proxy sends in Attestd-Labels. They
  add up; two that disagree are refused, for one of them would be a lie.
- **Claims** are the sender's word, in Data-Labels. They prove nothing, and no label is ever taken from them: policies
  see them apart (`context.claims`).

Both headers are a dictionary of RFC 8941 with strings for values: `residency="EU", origin-site="munich"`. What can't be
read is refused whole: data whose label was lost is data that no policy stops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attestd.errors import Forbidden
from attestd.policy.situations import LabelsMalformed, read_labels
from attestd_edge.hop import Door, Headers, HopIncomplete, Peer
from attestd_edge.settings import Guarded

FROM_HOP: Final = "attestd-labels"
FROM_SENDER: Final = "data-labels"
MAX_HEADER: Final = 4096  # characters
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class LabelsRefused(Forbidden):
    """The labels of the data can't be read"""

    remedy = 'Send Data-Labels once, as in: residency="EU", classification="internal"; or leave it out.'


class LabelsDisagree(Forbidden):
    """Two labels of one name contradict each other"""

    remedy = "The operator of this boundary finds both in the edge's log under this request id."


_MEMBER: Final = re.compile(r'([a-z][a-z0-9_.-]*+)="((?:[ !#-\[\]-~]|\\["\\])*+)"', re.ASCII)
_COMMA: Final = re.compile(r"[ \t]*+,[ \t]*+", re.ASCII)


def parse_dictionary(text: str) -> Mapping[str, str]:
    """A header's labels (RFC 8941, section 3.2; a name twice is refused here). Raises LabelsRefused."""
    try:
        return read_labels(_members(text))
    except LabelsMalformed as error:
        raise LabelsRefused(error.detail, seen=error.seen, expected=error.expected) from error


def _members(text: str) -> dict[str, str]:
    if len(text) > MAX_HEADER:
        raise LabelsMalformed(seen=f"{len(text)} characters", expected=f"at most {MAX_HEADER}")
    found: dict[str, str] = {}
    at = 0
    while True:
        member = _MEMBER.match(text, at)
        if member is None or member[1] in found:
            raise LabelsMalformed(seen=repr(text[at : at + 40]), expected='<name>="<text>", …')
        found[member[1]] = re.sub(r"\\(.)", r"\1", member[2])
        if (at := member.end()) == len(text):
            return found
        if (comma := _COMMA.match(text, at)) is None:
            raise LabelsMalformed(seen=repr(text[at : at + 40]), expected="a comma")
        at = comma.end()


def claims_of(headers: Headers) -> Mapping[str, str]:
    """What the sender claims. Raises HeaderDuplicated or LabelsRefused."""
    text = headers.one(FROM_SENDER)
    return NOTHING if text is None else parse_dictionary(text)


def labels_of(
    guarded: Guarded | None, headers: Headers, *, door: Door, peer: Peer, told: Mapping[str, str] = NOTHING
) -> Mapping[str, str]:
    """The boundary's word: its settings, the application's (`told`), the hop's.

    Raises LabelsRefused, LabelsDisagree, HeaderDuplicated, or HopIncomplete for a hop that says nothing.
    """
    if guarded is None or (told is NOTHING and not guarded.labels_from_hop):
        return guarded.labels if guarded is not None else _told(told)
    found = _joined(guarded.labels, _told(told))
    if guarded.labels_from_hop:
        if not door.believes(peer):
            raise HopIncomplete("The labels are the reverse proxy's to tell, and this is not the reverse proxy.")
        text = headers.one(FROM_HOP)
        if not text:
            raise HopIncomplete(f"The reverse proxy did not send {FROM_HOP}.")
        found = _joined(found, parse_dictionary(text))
    return found


def _told(labels: Mapping[str, str]) -> Mapping[str, str]:
    """The application's word, which may be as wrong as anybody's."""
    try:
        return read_labels(labels)
    except (LabelsMalformed, AttributeError, TypeError) as error:
        raise LabelsRefused(f"The application's labels can't be used: {error}"[:300]) from error


def _joined(one: Mapping[str, str], other: Mapping[str, str]) -> Mapping[str, str]:
    for name in one.keys() & other.keys():
        if one[name] != other[name]:
            raise LabelsDisagree(seen=f"{name}: {one[name]!r} and {other[name]!r}")
    return MappingProxyType({**one, **other})
