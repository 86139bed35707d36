"""Operators: one key each, found by it, and gone for good when disabled."""

from __future__ import annotations

import pytest

from attestd.registry import operators
from attestd.registry.engine import Connection, Registry
from attestd.registry.operators import Operator, OperatorKey, OperatorTaken, Role, UnknownOperator, UnknownRole

from .conftest import NOW


def add(c: Connection, name: str, key: bytes) -> Operator:
    return operators.add(
        c, name=name, role=Role.OPERATOR, thumbprint=key * 32, public_key=b"key", certificate=b"cert", now=NOW
    )


def test_adding_and_finding(registry: Registry) -> None:
    with registry.acting() as c:
        bob, ada = add(c, "bob", b"b"), add(c, "ada", b"a")
        assert ada == Operator("ada", Role.OPERATOR, OperatorKey(b"a" * 32, b"key", b"cert"), NOW, None)
        assert operators.by_name(c, "ada") == ada
        assert operators.by_thumbprint(c, b"b" * 32) == bob
        assert operators.by_thumbprint(c, b"c" * 32) is None
        assert operators.every(c) == [ada, bob]
        with pytest.raises(UnknownOperator):
            operators.by_name(c, "eve")


@pytest.mark.parametrize(("name", "key"), [("ada", b"b"), ("bob", b"a")])
def test_names_and_keys_are_one_s_own(registry: Registry, name: str, key: bytes) -> None:
    with registry.acting() as c:
        add(c, "ada", b"a")
    with pytest.raises(OperatorTaken), registry.acting() as c:
        add(c, name, key)
    with registry.reading() as c:
        assert len(operators.every(c)) == 1


def test_renewing(registry: Registry) -> None:
    with registry.acting() as c:
        add(c, "ada", b"a")
        bob = add(c, "bob", b"b")
        operators.renew(c, "ada", thumbprint=b"n" * 32, public_key=b"new key", certificate=b"new")
        ada = operators.by_name(c, "ada")
        assert ada.key == OperatorKey(b"n" * 32, b"new key", b"new")
        assert operators.by_name(c, "bob") == bob
        with pytest.raises(UnknownOperator):
            operators.renew(c, "eve", thumbprint=b"e" * 32, public_key=b"", certificate=b"")
    with pytest.raises(OperatorTaken), registry.acting() as c:
        operators.renew(c, "ada", thumbprint=b"b" * 32, public_key=b"", certificate=b"")


def test_disabling_is_final(registry: Registry) -> None:
    with registry.acting() as c:
        add(c, "ada", b"a")
        bob = add(c, "bob", b"b")
        operators.disable(c, "ada", now=NOW + 1)
        assert operators.by_name(c, "ada").disabled_at == NOW + 1
        assert operators.by_name(c, "bob") == bob
        for act in (
            lambda: operators.disable(c, "ada", now=NOW + 2),
            lambda: operators.renew(c, "ada", thumbprint=b"n" * 32, public_key=b"", certificate=b""),
            lambda: operators.disable(c, "eve", now=NOW),
        ):
            with pytest.raises(UnknownOperator):
                act()
        found = operators.by_thumbprint(c, b"a" * 32)
        assert found is not None
        assert found.disabled_at == NOW + 1


def test_roles() -> None:
    assert Role.parse("admin") is Role.ADMIN
    with pytest.raises(UnknownRole):
        Role.parse("root")
