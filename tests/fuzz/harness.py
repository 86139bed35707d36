"""What every fuzz target promises, and the two ways to run one.

A target feeds octets of anybody's making to one parser. The parser may return, or raise one of the project's named
errors; anything else is a find: another exception, an answer that contradicts the target's oracle, or more than its
share of time. `guided` runs a target with coverage (atheris, on Linux on x86-64), `mutants_of` without, the same every
time. Seeds are made by the project's own code.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from attestd.errors import AttestdError

SECONDS = 1.0  # of processor time, for one input


class TooSlow(Exception):
    """An input took more processor time than any input may."""


@dataclass(frozen=True)
class Target:
    """`run` takes octets, and raises what is not an AttestdError for a find only. `seeds` are made when first needed.

    `words` are pieces that inputs are made of, for both ways of mutating. `refuses`: there are octets that it refuses.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    limit: int = 8192  # octets of an input
    refuses: bool = True

    def __call__(self, data: bytes) -> bool:
        """Whether the parser took it. Raises what is a find."""
        begin = time.process_time()
        try:
            self.run(data)
        except AttestdError:
            accepted = False
        else:
            accepted = True
        if (took := time.process_time() - begin) > SECONDS:
            raise TooSlow(f"{took:.1f} s for {len(data)} octets")
        return accepted


def once(make: Callable[[], Sequence[bytes]]) -> Callable[[], Sequence[bytes]]:
    """Seeds cost keys and signatures: they are made once a process."""
    return cache(make)


# ---- Without coverage: the same inputs every time ---------------------------------------------------------------

_ODD = (b"\x00", b"\xff", b"\x7f\xff", b"\x80\x00", b"\xff\xff", b"\x00\x00\x00\x01", b"\xff\xff\xff\xff")


def mutants_of(target: Target, seeds: Sequence[bytes], count: int) -> Iterator[bytes]:
    """`count` inputs near the seeds. Which change is made where depends on nothing but the target's name."""
    chance = random.Random(target.name)
    for number in range(count):
        data = seeds[number % len(seeds)]
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            data = _mutated(chance, data, target.words, seeds)
        yield data[: target.limit]


def _mutated(chance: random.Random, data: bytes, words: Sequence[bytes], seeds: Sequence[bytes]) -> bytes:
    at, to = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
    match chance.randrange(9):
        case 0 if data:  # one bit
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case 1:  # one octet
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[min(to, at + 16) :]
        case 4:  # twice
            return data[:to] + data[at:to][:64] + data[to:]
        case 5:
            odd = chance.choice(_ODD)
            return data[:at] + odd + data[at + len(odd) :]
        case 6 if words:
            word = chance.choice(words)
            return data[:at] + word + data[at if chance.random() < 0.5 else at + len(word) :]
        case 7:
            other = chance.choice(seeds)
            return data[:at] + other[chance.randint(0, len(other)) :]
        case _:
            return data[:at] + chance.randbytes(chance.choice((1, 2, 4, 16))) + data[at:]


# ---- Smaller, for people to look at ------------------------------------------------------------------------------


def find_of(target: Target, data: bytes) -> tuple[str, str, int] | None:
    """The find's place: the exception, and the last line of the project that it passed; None where there is none."""
    try:
        target(data)
    except Exception as found:  # noqa: BLE001 - whatever it is, it is the find
        file, line = "", 0
        step = found.__traceback__
        while step is not None:
            file, line = step.tb_frame.f_code.co_filename, step.tb_lineno
            step = step.tb_next
        return type(found).__name__, file, line
    return None


def minimized(target: Target, data: bytes, *, tries: int = 3000) -> bytes:
    """A shorter input with the same find: pieces are left out as long as the find stays where it is."""
    place = find_of(target, data)
    size = max(1, len(data) // 2)
    while size and tries > 0:
        at = 0
        while at < len(data) and tries > 0:
            shorter = data[:at] + data[at + size :]
            tries -= 1
            if find_of(target, shorter) == place:
                data = shorter
            else:
                at += size
        size //= 2
    return data
