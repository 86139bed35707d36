"""Edge proxies: one key each, found by it, and gone for good when disabled."""

from __future__ import annotations

import pytest

from attestd.ids import Serial, Site
from attestd.registry import proxies
from attestd.registry.engine import Connection, Registry
from attestd.registry.proxies import Proxy, ProxyTaken, UnknownProxy

from .conftest import NOW


def add(c: Connection, name: str, key: bytes) -> Proxy:
    return proxies.add(
        c, name=name, site=Site("shop-7"), thumbprint=key * 32, public_key=b"key", serial=Serial(7), now=NOW
    )


def test_adding_and_finding(registry: Registry) -> None:
    with registry.acting() as c:
        two, one = add(c, "two", b"2"), add(c, "one", b"1")
        assert one == Proxy("one", Site("shop-7"), b"1" * 32, b"key", Serial(7), NOW, None)
        assert proxies.by_name(c, "one") == one
        assert proxies.by_thumbprint(c, b"2" * 32) == two
        assert proxies.by_thumbprint(c, b"3" * 32) is None
        assert proxies.every(c) == [one, two]
        with pytest.raises(UnknownProxy):
            proxies.by_name(c, "three")


@pytest.mark.parametrize(("name", "key"), [("one", b"2"), ("two", b"1")])
def test_names_and_keys_are_one_s_own(registry: Registry, name: str, key: bytes) -> None:
    with registry.acting() as c:
        add(c, "one", b"1")
    with pytest.raises(ProxyTaken), registry.acting() as c:
        add(c, name, key)
    with registry.reading() as c:
        assert len(proxies.every(c)) == 1


def test_renewing_and_disabling(registry: Registry) -> None:
    with registry.acting() as c:
        add(c, "one", b"1")
        two = add(c, "two", b"2")
        proxies.renew(c, "one", serial=Serial(8))
        assert proxies.by_name(c, "one").serial == Serial(8)
        proxies.disable(c, "one", now=NOW + 1)
        assert proxies.by_name(c, "one").disabled_at == NOW + 1
        assert proxies.by_name(c, "two") == two
        for act in (
            lambda: proxies.renew(c, "one", serial=Serial(9)),
            lambda: proxies.disable(c, "one", now=NOW + 2),
            lambda: proxies.renew(c, "three", serial=Serial(9)),
            lambda: proxies.disable(c, "three", now=NOW + 2),
        ):
            with pytest.raises(UnknownProxy):
                act()
        assert proxies.by_name(c, "one").serial == Serial(8)
