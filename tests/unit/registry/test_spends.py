"""Single use, also when two processes try at the same moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from attestd.ids import DeviceId, Serial
from attestd.registry import spends
from attestd.registry.acts import perform
from attestd.registry.engine import Connection, Registry
from attestd.registry.spends import AlreadySpent, Spent

from .conftest import NOW, Fleet, race

ID = b"0123456789abcdef"


def spend(c: Connection, id: bytes = ID, *, digest: bytes = b"d" * 32, expires_at: int = NOW + 300) -> None:
    perform(c, spends.spending(id, purpose="nonce", request_digest=digest, now=NOW, expires_at=expires_at))


def test_spending_once(registry: Registry) -> None:
    with registry.acting() as c:
        assert spends.find(c, ID) is None
        spend(c)
    with registry.reading() as c:
        assert spends.find(c, ID) == Spent(ID, "nonce", b"d" * 32, None, None, None, None, NOW, NOW + 300)


def test_spending_twice(fleet: Fleet) -> None:
    with fleet.registry.acting() as c:
        spend(c)
        spend(c, b"another")
    before = fleet.everything()
    with pytest.raises(AlreadySpent), fleet.registry.acting() as c:
        spend(c, digest=b"e" * 32)
    assert fleet.everything() == before


def test_everything_for_a_retry_is_kept(registry: Registry) -> None:
    with registry.acting() as c:
        used = spends.spending(
            ID,
            purpose="challenge",
            request_digest=b"d" * 32,
            proof_digest=b"p" * 32,
            answer=b"{}",
            device_id=DeviceId("till-1"),
            serial=Serial(77),
            now=NOW,
            expires_at=NOW + 1,
        )
        perform(c, used)
    with registry.reading() as c:
        assert spends.find(c, ID) == Spent(
            ID, "challenge", b"d" * 32, b"p" * 32, b"{}", DeviceId("till-1"), Serial(77), NOW, NOW + 1
        )


def test_a_transaction_that_loses_the_race_keeps_nothing(fleet: Fleet) -> None:
    with fleet.registry.acting() as c:
        spend(c)
    before = fleet.everything()
    with pytest.raises(AlreadySpent), fleet.registry.acting() as c:
        fleet.ask(c, b"EK")
        spend(c)
    assert fleet.everything() == before


def test_a_spend_is_undone_with_its_transaction(registry: Registry) -> None:
    with pytest.raises(RuntimeError), registry.acting() as c:
        spend(c)
        raise RuntimeError
    with registry.acting() as c:
        spend(c)


def test_forgetting(registry: Registry) -> None:
    with registry.acting() as c:
        for number in range(3):
            spend(c, bytes([number]), expires_at=NOW + number)
        assert spends.purge(c, before=NOW, limit=100) == 0
        assert spends.purge(c, before=NOW + 2, limit=100) == 2
        assert spends.find(c, b"\x01") is None
        assert spends.find(c, b"\x02") is not None


def test_of_threads_one_wins(registry: Registry, url: str) -> None:
    outcomes = race(url, 8, lambda c, number: spend(c, digest=bytes([number]) * 32))
    assert sorted(map(repr, outcomes)) == sorted([repr(None)] + [repr(AlreadySpent)] * 7)


RACER = """
import sys
from attestd.registry import spends
from attestd.registry.engine import Registry

registry = Registry.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
wins = 0
for number in range(50):
    try:
        registry.act(spends.spending(bytes([number]), purpose="nonce", request_digest=b"", now=0, expires_at=1))
        wins += 1
    except spends.AlreadySpent:
        pass
print(wins)
"""


def test_of_processes_one_wins(registry: Registry, url: str) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(wins) == 50
