"""Subjects that name their device: templates such as `field.{site}.{device}.>`, filled in for one identity.

A device's id and its site may hold dots, which would be two tokens of a subject: bike-1 of site `a` and `b.bike-1`
must not meet. So a dot is written as `~`, which no name holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from attestd.credentials.identity import VerifiedIdentity
from attestd.errors import MalformedInput
from attestd.ids import DeviceId, Site, Tier

MAX_SUBJECT = 512  # characters
_LITERAL = re.compile(r"[A-Za-z0-9_$-]{1,64}", re.ASCII)
_NAMES = ("{tier}", "{site}", "{device}")


class SubjectMalformed(MalformedInput):
    """This is not a subject, or not one that can be filled in"""

    remedy = "Write tokens with dots between them: letters, digits, _ - $, {tier} {site} {device}, * and a last >."


def write_name(name: str) -> str:
    """A site's or device's name as one token."""
    return name.replace(".", "~")


def read_name(token: str) -> str:
    """The name that this token stands for."""
    return token.replace("~", ".")


@dataclass(frozen=True, slots=True)
class Template:
    """A subject or pattern with names to be filled in."""

    tokens: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises SubjectMalformed."""
        tokens = tuple(text.split("."))
        for place, part in enumerate(tokens):
            last = place == len(tokens) - 1
            if not (part in _NAMES or part == "*" or (part == ">" and last) or _LITERAL.fullmatch(part)):
                raise SubjectMalformed(f"Token {place + 1} is not one of a subject.", seen=repr(text[:80]))
        if len(text) > MAX_SUBJECT:
            raise SubjectMalformed("The subject is too long.", expected=f"at most {MAX_SUBJECT} characters")
        return cls(tokens)

    def __str__(self) -> str:
        return ".".join(self.tokens)

    def fill(self, tier: Tier, site: Site, device: DeviceId) -> str:
        """The subject of this device."""
        names = {"{tier}": tier.value, "{site}": write_name(site), "{device}": write_name(device)}
        return ".".join(names.get(token, token) for token in self.tokens)

    def filled_for(self, identity: VerifiedIdentity) -> str:
        """The subject of this identity."""
        return self.fill(identity.tier, identity.site, identity.device_id)

    def all(self) -> str:
        """The pattern of all devices' subjects."""
        return ".".join("*" if token in _NAMES else token for token in self.tokens)

    def names_in(self, subject: str) -> tuple[dict[str, str], str] | None:
        """The names in a subject of this template, and what stands for its last `>`; None for another subject."""
        tokens = subject.split(".")
        open_ended = self.tokens[-1] == ">"
        head = self.tokens[:-1] if open_ended else self.tokens
        if len(tokens) <= len(head) if open_ended else len(tokens) != len(head):
            return None
        found: dict[str, str] = {}
        for expected, token in zip(head, tokens, strict=False):
            if expected in _NAMES:
                if found.setdefault(expected, token) != token:
                    return None
            elif expected not in ("*", token):
                return None
        return found, ".".join(tokens[len(head) :])

    def moved(self, names: Mapping[str, str], rest: str) -> str:
        """This template with the names, and the rest, of another's subject."""
        return ".".join(rest if part == ">" else names.get(part, part) for part in self.tokens)

    def meets(self, other: Template) -> bool:
        """Whether a subject could be of both."""
        for mine, theirs in zip(self.tokens, other.tokens, strict=False):
            if ">" in (mine, theirs):
                return True
            if mine != theirs and not ({mine, theirs} & {"*", *_NAMES}):
                return False
        return len(self.tokens) == len(other.tokens)

    def tells_apart(self, other: Template) -> bool:
        """Whether each name that `other` has, this template fills in at the same place: then whoever may use this one
        can't write another's name there."""
        return all(self.tokens[place : place + 1] == (token,) for place, token in other.places())

    def places(self) -> list[tuple[int, str]]:
        """Where which name stands."""
        return [(place, token) for place, token in enumerate(self.tokens) if token in _NAMES]
