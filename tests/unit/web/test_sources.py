"""Sources: who asks, by whose word, and how often."""

from __future__ import annotations

import tracemalloc
from ipaddress import ip_network

import pytest

from attestd.web.sources import Buckets, Proxies, source_of

PROXY = "10.0.0.5"
TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8:ffff::/48"))


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("no:address", "no:address"),
        ("local", "local"),
    ],
)
def test_a_source_is_what_one_party_holds(address: str, source: str) -> None:
    assert source_of(address) == source


def forwarded(value: str, *, peer: str = PROXY, name: bytes = b"x-forwarded-for", header: bytes | None = None) -> str:
    return Proxies(TRUSTED, header or name).client(peer, [(b"host", b"a"), (name, value.encode())])


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("192.0.2.1, 10.1.1.1", "192.0.2.1"),  # through two proxies
        ("10.1.1.1", "10.1.1.1"),  # the proxy itself asks
    ],
)
def test_a_trusted_proxy_names_its_client(value: str, client: str) -> None:
    assert forwarded(value) == client


def test_what_a_client_wrote_before_the_proxy_counts_for_nothing() -> None:
    assert forwarded("203.0.113.9, 192.0.2.1") == "192.0.2.1"


def test_nobody_else_names_clients() -> None:
    assert forwarded("192.0.2.1", peer="203.0.113.9") == "203.0.113.9"


def test_the_other_header_counts_for_nothing() -> None:
    assert forwarded("for=192.0.2.1", name=b"forwarded", header=b"x-forwarded-for") == PROXY


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.1;proto=https", "192.0.2.1"),
        ('for="[2001:db8::1]:4711"', "2001:db8::1"),
        ("for=203.0.113.9, For=192.0.2.1;by=10.0.0.5", "192.0.2.1"),
        ("for=unknown", PROXY),
        ("for=_hidden", PROXY),
    ],
)
def test_the_standard_header_is_read_too(value: str, client: str) -> None:
    assert forwarded(value, name=b"forwarded") == client


@pytest.mark.parametrize("value", ["", "garbage", "192.0.2.1, garbage", "1" * 5000])
def test_what_cant_be_read_is_the_proxys_own(value: str) -> None:
    assert forwarded(value) == PROXY


def test_a_bucket_empties_and_fills() -> None:
    buckets = Buckets(rate=2, burst=3)
    assert [buckets.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", 100.0) == 0
    assert buckets.take("a", 100.4) > 0
    assert buckets.take("a", 100.5) == 0
    assert buckets.take("a", 100.5) > 0


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    buckets = Buckets(rate=2, burst=3)
    buckets.take("a", 0.0)
    assert [buckets.take("a", 1000.0) == 0 for _ in range(4)] == [True, True, True, False]


def test_asking_takes_nothing() -> None:
    buckets = Buckets(rate=1, burst=1)
    assert buckets.has("a", 0.0)
    assert len(buckets) == 0
    buckets.take("a", 0.0)
    assert not buckets.has("a", 0.5)
    assert buckets.has("a", 1.0)


def test_the_table_is_bounded_and_the_overflow_shares_a_bucket() -> None:
    buckets = Buckets(rate=1, burst=2, most=10)
    for n in range(10):
        buckets.take(f"held-{n}", 0.0)
    passed = [buckets.take(f"other-{n}", 0.0) == 0 for n in range(100)]
    assert len(buckets) == 10
    assert passed == [True] * 20 + [False] * 80  # ten buckets' worth, for all of them


def test_who_is_held_keeps_its_own_bucket_while_others_overflow() -> None:
    buckets = Buckets(rate=1, burst=2, most=10)
    for n in range(10):
        buckets.take(f"held-{n}", 0.0)
    for n in range(100):
        buckets.take(f"other-{n}", 0.0)
    assert [buckets.take("held-0", 0.0) == 0 for _ in range(2)] == [True, False]


def test_full_buckets_make_room() -> None:
    buckets = Buckets(rate=1, burst=2, most=10)
    for n in range(10):
        buckets.take(f"held-{n}", 0.0)
    for n in range(10):
        assert buckets.take(f"later-{n}", 5.0) == 0
        assert buckets.take(f"later-{n}", 5.0) == 0
        assert buckets.take(f"later-{n}", 5.0) > 0  # each has its own


def test_a_whole_network_of_sources_takes_bounded_memory() -> None:
    buckets = Buckets(rate=1, burst=10)
    tracemalloc.start()
    try:
        for n in range(100_000):
            buckets.take(f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::/64", n / 1e6)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 8 * 1024 * 1024
