"""Cedar text as tokens: bounds before the engine reads it, and line and column for what the engine refuses.

Two gaps of cedarpy 4.12 are closed here, both seen by trying: its parser recurses on the thread's stack, so that deep
nesting kills the process instead of raising; and its messages name no place. Nothing here decides what is valid Cedar:
that the engine does (docs.cedarpolicy.com, "Grammar specification for Cedar policy syntax").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from attestd.errors import InputTooLarge, MalformedInput

MAX_POLICY = 256 * 1024  # octets
MAX_BRACKETS = 32  # brackets within brackets; cedarpy's parser takes about 8 KiB of stack for each
MAX_DEPTH = 100  # levels of one expression: what cedarpy's own walk of a policy allows

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*)
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*|[0-9]+)
    | (?P<mark>&&|\|\||==|!=|<=|>=|::|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_JOINERS = frozenset({"&&", "||"})
_PASSIVE = frozenset({"::", ":", "@", "?", "="})  # marks that nest nothing


class Place(NamedTuple):
    """Line and column in a policy's text, both counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class Flaw(NamedTuple):
    """One thing that is wrong with a policy, and where."""

    place: Place
    message: str


class PolicyInvalid(MalformedInput):
    """The policy is not valid"""

    remedy = "Correct the policy at the named line and column; `attestd policy schema` prints what it may use."

    def __init__(
        self, detail: str = "", *, flaws: Iterable[Flaw] = (), seen: object = None, expected: object = None
    ) -> None:
        super().__init__(detail, seen=seen, expected=expected)
        self.flaws = tuple(flaws)  # all that are known, in the order of the text


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the policy text; `at` is its offset in characters."""

    text: str
    at: int
    kind: str


@dataclass(frozen=True, slots=True)
class Source:
    """Policy text cut into statements, each a tuple of tokens that ends with `;` (but for a last, unfinished one)."""

    text: str
    statements: tuple[tuple[Token, ...], ...]

    @classmethod
    def read(cls, text: str) -> Source:
        """Within bounds, or InputTooLarge or PolicyInvalid."""
        if (size := len(text.encode())) > MAX_POLICY:
            raise InputTooLarge("The policy is too large.", seen=f"{size} octets", expected=f"at most {MAX_POLICY}")
        tokens = [
            Token(match[0], match.start(), match.lastgroup or "")
            for match in _TOKEN.finditer(text)
            if match.lastgroup != "space"
        ]
        source = cls(text, _statements(tokens))
        source._bound_nesting()
        return source

    def place(self, at: int) -> Place:
        """Line and column of an offset."""
        return Place(self.text.count("\n", 0, at) + 1, at - (self.text.rfind("\n", 0, at) + 1) + 1)

    def _bound_nesting(self) -> None:
        """An upper bound of each expression's depth, from its marks alone, before anything recursive reads it."""
        for statement in self.statements:
            levels: list[tuple[int, int]] = []  # for each open bracket: joiners, marks since the last joiner
            joined = run = 0
            for token in statement:
                if token.text in "([{":
                    levels.append((joined, run))
                    joined, run = 0, 0
                elif token.text in ")]}":
                    joined, run = levels.pop() if levels else (0, 0)
                    run += 1  # what follows a bracket may hang on it: f(x).g(y)
                elif token.text in ",;":
                    joined, run = 0, 0
                elif token.text in _JOINERS:
                    joined, run = joined + 1, 0
                elif (token.kind == "mark" and token.text not in _PASSIVE) or token.text in ("if", "then", "else"):
                    run += 1
                depth = joined + run + sum(sum(level) + 1 for level in levels)
                if len(levels) > MAX_BRACKETS or depth > MAX_DEPTH:
                    place = self.place(token.at)
                    raise PolicyInvalid(
                        f"The policy is nested too deeply at {place}.",
                        flaws=[Flaw(place, "nested too deeply")],
                        expected=f"at most {MAX_BRACKETS} brackets within brackets and {MAX_DEPTH} levels",
                    )

    def place_of_syntax_error(self, message: str, parse: Callable[[str], object]) -> Place:
        """Where the engine's parser stops. `parse` raises ValueError for text that is not Cedar.

        The first statement that does not parse alone is the culprit. In it, every prefix before the offending token
        only lacks its end, and every longer one shows the error: a binary search finds the token.
        """
        for statement in self.statements:
            if _error(parse, self._cut(statement, len(statement))) is None:
                continue
            low, high = 0, len(statement)  # prefix `low` is viable; `high` tokens are not
            while high - low > 1:
                middle = (low + high) // 2
                if "end of input" in (_error(parse, self._cut(statement, middle)) or "end of input"):
                    low = middle
                else:
                    high = middle
            if "end of input" in message:
                return self.place(statement[-1].at + len(statement[-1].text))
            # What is wrong in meaning only shows once the statement is whole; then the message's words point better.
            by_grammar = high < len(statement) or message.startswith(("unexpected token", "invalid token"))
            return self.place(statement[high - 1].at if by_grammar else self._named_in(statement, message))
        return self.place(len(self.text))

    def place_of_policy(self, index: int, message: str) -> Place:
        """Where, in the policy of that index, the name stands that a validation message quotes."""
        if not 0 <= index < len(self.statements):
            return self.place(0)
        return self.place(self._named_in(self.statements[index], message))

    def _cut(self, statement: tuple[Token, ...], count: int) -> str:
        last = statement[count - 1]
        return self.text[statement[0].at : last.at + len(last.text)] if count else ""

    def _named_in(self, statement: tuple[Token, ...], message: str) -> int:
        """The first token that the message quotes or names at its end, else the statement's start.

        Messages quote in backticks or apostrophes: names of attributes, marks, string literals, and also the engine's
        own name for the policy and names of types; so literals and lower-case words are looked for first.
        """
        spans = re.findall(r"[`']([^`']+)[`']", message) + re.findall(r": (\w+)$", message)
        named = {
            match[0].strip('"') for span in spans for match in _TOKEN.finditer(span) if match.lastgroup != "space"
        } - {"", "::", "entity"}
        found = [token for token in statement if token.text.strip('"') in named]
        for token in found:
            if token.kind == "text" or not token.text[:1].isupper():
                return token.at
        return (found or statement)[0].at


def _error(parse: Callable[[str], object], text: str) -> str | None:
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return None


def _statements(tokens: list[Token]) -> tuple[tuple[Token, ...], ...]:
    statements: list[tuple[Token, ...]] = []
    start = 0
    for position, token in enumerate(tokens):
        if token.text == ";":
            statements.append(tuple(tokens[start : position + 1]))
            start = position + 1
    if start < len(tokens):
        statements.append(tuple(tokens[start:]))
    return tuple(statements)
