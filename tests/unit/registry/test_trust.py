"""The makers' certificates, and the version by which every process notices a change."""

from __future__ import annotations

import pytest
from sqlalchemy import false, select

from attestd.registry import revision, trust
from attestd.registry.engine import Registry
from attestd.registry.trust import TrustedMaker, TrustRaced, UnknownMaker

from .conftest import NOW


def maker(name: str, **members: object) -> TrustedMaker:
    found = {
        "sha256": name.encode().ljust(32),
        "der": b"der " + name.encode(),
        "subject": f"CN={name}",
        "not_after": NOW,
        "is_root": True,
        "added_at": NOW,
        "added_by": "ada",
    }
    return TrustedMaker(**found | members)  # type: ignore[arg-type]


def test_adding_and_removing(registry: Registry) -> None:
    infineon, nuvoton = maker("Infineon"), maker("Nuvoton", is_root=False)
    with registry.acting() as c:
        assert trust.every(c) == []
        assert trust.add(c, [nuvoton, infineon]) == 2
        assert trust.every(c) == [infineon, nuvoton]
        trust.remove(c, infineon.sha256)
        assert trust.every(c) == [nuvoton]


def test_a_certificate_that_is_trusted_already_stays_as_it_is(registry: Registry) -> None:
    with registry.acting() as c:
        trust.add(c, [maker("Infineon")])
        assert trust.add(c, [maker("Infineon", added_by="bob"), maker("STM"), maker("STM")]) == 1
        assert [entry.added_by for entry in trust.every(c)] == ["ada", "ada"]


def test_one_added_between_the_look_and_the_act(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a database where another transaction commits in between."""
    with registry.acting() as c:
        trust.add(c, [maker("Infineon")])
    monkeypatch.setattr(trust, "select", lambda *columns: select(*columns).where(false()))
    with pytest.raises(TrustRaced), registry.acting() as c:
        trust.add(c, [maker("STM"), maker("Infineon")])
    monkeypatch.undo()
    with registry.reading() as c:
        assert (trust.every(c), trust.version(c)) == ([maker("Infineon")], 1)


def test_removing_what_is_not_trusted(registry: Registry) -> None:
    with registry.acting() as c:
        trust.add(c, [maker("Infineon")])
        with pytest.raises(UnknownMaker):
            trust.remove(c, maker("STM").sha256)
        assert len(trust.every(c)) == 1


def test_each_change_is_noticed_and_asks_for_no_bundle(registry: Registry) -> None:
    """Bundles say nothing of TPM makers."""
    versions = []
    with registry.acting() as c:
        bundles_say = revision.current(c)
        for act in (
            lambda: None,
            lambda: trust.add(c, [maker("Infineon")]),
            lambda: trust.add(c, [maker("Infineon")]),
            lambda: trust.remove(c, maker("Infineon").sha256),
        ):
            act()
            versions.append(trust.version(c))
        assert revision.current(c) == bundles_say
    assert versions == [0, 1, 1, 2]
