"""How the story is told: numbered steps with durations, each of which comes out as expected or says how it did not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from attestd.errors import AttestdError


class NotAsExpected(AttestdError):
    """A step came out otherwise than it should"""


@dataclass
class Story:
    """Counts steps and failures while it tells them."""

    steps: int = 0
    as_expected: int = 0

    def chapter(self, title: str) -> None:
        """A heading."""
        _say(f"\n{title}")

    def step(self, title: str, act: Callable[[], str]) -> None:
        """One step: `act` does it and returns what came out, or raises. The story goes on either way."""
        self.steps += 1
        started = time.monotonic()
        print(f"  {self.steps:>2}  {title} ...", end="", flush=True)
        try:
            outcome = act()
        except AttestdError as error:
            self._end(started, "NOT AS EXPECTED")
            _say(f"        {error}")
        except Exception as error:  # noqa: BLE001 - the story must be told to its end, and fail there
            self._end(started, "NOT AS EXPECTED")
            _say(f"        {type(error).__name__}: {error}")
        else:
            self.as_expected += 1
            self._end(started, "ok")
            for line in outcome.splitlines():
                _say(f"        {line}")

    def refused(self, title: str, act: Callable[[], str]) -> None:
        """A step whose act is refused, and tells the reason; see `expect_refusal`."""
        self.step(f"refused: {title}", act)

    def _end(self, started: float, word: str) -> None:
        print(f" {word}, {time.monotonic() - started:.2f} s", flush=True)

    def conclusion(self) -> str:
        """The last line."""
        return f"demo: {self.steps} steps, {self.as_expected} as expected"


def expect_refusal(act: Callable[[], object], *, slug: str) -> str:
    """Runs an impostor's attempt. It must be refused for the very reason that `slug` names, which is returned."""
    try:
        act()
    except AttestdError as error:
        seen = getattr(error, "problem", "") or error.slug()
        if seen.removeprefix("urn:attestd:problem:") != slug:
            raise NotAsExpected("Refused for another reason.", seen=f"{seen}: {error}", expected=slug) from None
        return f"{slug}: {error.detail}"
    raise NotAsExpected("The impostor was let in.", expected=slug)


def _say(line: str) -> None:
    print(line, file=sys.stdout, flush=True)
