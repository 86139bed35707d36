"""Profiles: what each may be, and lifetimes that nest or are refused with the arithmetic."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestd.ca import profiles as p
from attestd.ca.profiles import LifetimesContradict, Profile, ProfileInvalid, ProfileMissing, check_lifetimes
from attestd.errors import Misconfigured
from attestd.ids import SpiffeId, Tier

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH

SHIPPED: dict[str, tuple[str, int, tuple[object, ...], bool, bool]] = {
    "device": ("/device/*/*", 1, (CLIENT,), True, False),
    "edge": ("/edge/*/*", 1, (CLIENT, SERVER), True, False),
    "cloud": ("/cloud/*/*", 1, (CLIENT, SERVER), True, False),
    "server": ("/service/attestd", 720, (SERVER,), False, True),
    "admin": ("/admin/*", 2160, (CLIENT,), False, False),
    "proxy": ("/proxy/*/*", 24, (CLIENT,), False, False),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_profiles(profiles: Mapping[str, Profile], name: str) -> None:
    path, hours, purposes, facts, names = SHIPPED[name]
    assert profiles[name] == Profile(
        name=name,
        path=tuple(path[1:].split("/")),
        lifetime=timedelta(hours=hours),
        backdate=timedelta(seconds=60),
        extended_key_usage=purposes,  # type: ignore[arg-type]
        key_usage=frozenset(["digitalSignature"]),
        facts=facts,
        names=names,
    )
    assert profiles[name].tier == (Tier(name) if name in set(Tier) else None)


def test_there_is_no_other_profile(profiles: Mapping[str, Profile]) -> None:
    assert set(profiles) == set(SHIPPED) == set(p.PROFILE_NAMES)


@pytest.mark.parametrize(
    ("name", "path", "covered"),
    [
        ("device", "device/berlin/d1", True),
        ("device", "edge/berlin/d1", False),
        ("device", "device/berlin", False),
        ("device", "device/berlin/d1/more", False),
        ("admin", "admin/ada", True),
        ("admin", "device/ada", False),
        ("proxy", "proxy/berlin/p1", True),
        ("server", "service/attestd", True),
        ("server", "service/other", False),
    ],
)
def test_a_profile_is_for_its_own_identities(
    profiles: Mapping[str, Profile], name: str, path: str, covered: bool
) -> None:
    assert profiles[name].covers(SpiffeId.parse(f"spiffe://example.org/{path}")) is covered


GOOD: dict[str, Any] = {
    "path": "/edge/*/*",
    "lifetime": "1h",
    "backdate": "60s",
    "key_usage": ["digitalSignature"],
    "extended_key_usage": ["clientAuth"],
    "facts": True,
    "names": False,
}


def toml(members: Mapping[str, Any]) -> str:
    lines = (
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for name, value in members.items()
    )
    return "\n".join(lines)


def test_a_profile_is_read() -> None:
    assert tomllib.loads(toml(GOOD)) == GOOD
    profile = Profile.parse("edge", toml(GOOD))
    assert (profile.tier, profile.lifetime, profile.extended_key_usage) == (Tier.EDGE, timedelta(hours=1), (CLIENT,))
    both = GOOD | {"key_usage": ["digitalSignature", "keyAgreement"], "backdate": "1h", "names": True}
    assert Profile.parse("edge", toml(both)).key_usage == {"digitalSignature", "keyAgreement"}


LIES: dict[str, dict[str, Any]] = {
    "path without a slash": {"path": "edge/*/*"},
    "path of no kind": {"path": "/*/*/*", "facts": False},
    "path with an odd segment": {"path": "/edge/A/*"},
    "path that is no text": {"path": 5},
    "lifetime without a unit": {"lifetime": "60"},
    "lifetime that is no text": {"lifetime": 60},
    "lifetime of nothing": {"lifetime": "0s"},
    "backdate too long": {"backdate": "3601s"},
    "no key usage": {"key_usage": []},
    "key usage of a CA": {"key_usage": ["digitalSignature", "keyCertSign"]},
    "key usage without signatures": {"key_usage": ["keyAgreement"]},
    "key usage that is no list": {"key_usage": "digitalSignature"},
    "no purpose": {"extended_key_usage": []},
    "any purpose": {"extended_key_usage": ["anyExtendedKeyUsage"]},
    "a purpose twice": {"extended_key_usage": ["clientAuth", "clientAuth"]},
    "a purpose that is no text": {"extended_key_usage": [[]]},
    "a tier without facts": {"facts": False},
    "facts without a tier": {"path": "/admin/*"},
    "facts that are neither": {"facts": 1},
    "names that are neither": {"names": "no"},
    "a setting more": {"max_path": 5},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_profile_that_is_wrong_in_one_point_is_refused(lie: str) -> None:
    with pytest.raises(Misconfigured, match="profile edge"):
        Profile.parse("edge", toml(GOOD | LIES[lie]))


@pytest.mark.parametrize("name", GOOD)
def test_every_setting_must_be_there(name: str) -> None:
    with pytest.raises(ProfileInvalid, match=name):
        Profile.parse("edge", toml({key: value for key, value in GOOD.items() if key != name}))


def test_a_table_is_no_choice() -> None:
    text = toml(GOOD).replace("['digitalSignature']", "{digitalSignature = 1}")
    assert text != toml(GOOD)
    with pytest.raises(ProfileInvalid, match="key_usage"):
        Profile.parse("edge", text)


def test_text_that_is_no_toml() -> None:
    with pytest.raises(ProfileInvalid, match="not TOML"):
        Profile.parse("edge", "path = ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one's own."""
    for name in p.PROFILE_NAMES:
        tier = name in set(Tier)
        members = GOOD | {"path": f"/{name}/*", "facts": tier, "lifetime": "2h"}
        (tmp_path / f"{name}.toml").write_text(toml(members), "utf-8")
    return tmp_path


def test_a_folder_of_ones_own_replaces_the_set(folder: Path) -> None:
    assert p.load_profiles(folder)["device"].lifetime == timedelta(hours=2)


@pytest.mark.parametrize("name", p.PROFILE_NAMES)
def test_a_missing_profile_is_named(folder: Path, name: str) -> None:
    (folder / f"{name}.toml").unlink()
    with pytest.raises(ProfileMissing, match=rf"{name}\.toml"):
        p.load_profiles(folder)


def test_files_that_can_not_be_profiles(folder: Path) -> None:
    file = folder / "edge.toml"
    good = file.read_bytes()
    file.write_bytes(good + b"#" * (16 * 1024 - len(good)))
    p.load_profiles(folder)
    file.write_bytes(good + b"#" * (16 * 1024 + 1 - len(good)))
    with pytest.raises(ProfileInvalid, match="too large"):
        p.load_profiles(folder)
    file.write_bytes(b"# \xff\n" + good)
    with pytest.raises(ProfileInvalid, match="can't be read"):
        p.load_profiles(folder)


# ---- Lifetimes --------------------------------------------------------------------------------------------------

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
NESTED = {"root": 3650 * DAY, "issuer": 365 * DAY, "attestation_validity": 4 * HOUR, "token_lifetime": 10 * MINUTE}


def test_the_shipped_lifetimes_nest(profiles: Mapping[str, Profile]) -> None:
    account = check_lifetimes(profiles, **NESTED)
    assert "VIOLATED" not in account
    assert account.split("; ") == [
        "token 10 min ≤ device certificate 60 min: holds",
        "device certificate 1 h ≤ attestation validity 4 h: holds",
        "token 10 min ≤ edge certificate 60 min: holds",
        "edge certificate 1 h ≤ attestation validity 4 h: holds",
        "token 10 min ≤ cloud certificate 60 min: holds",
        "cloud certificate 1 h ≤ attestation validity 4 h: holds",
        "server certificate 30 d ≤ issuer 365 d: holds",
        "admin certificate 90 d ≤ issuer 365 d: holds",
        "proxy certificate 1 d ≤ issuer 365 d: holds",
        "attestation validity 4 h ≤ issuer 8760 h: holds",
        "issuer 365 d ≤ root 3650 d: holds",
    ]


def test_equal_lifetimes_nest(profiles: Mapping[str, Profile]) -> None:
    same = dict.fromkeys(NESTED, HOUR)
    check_lifetimes({name: replace(profile, lifetime=HOUR) for name, profile in profiles.items()}, **same)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token_lifetime": 61 * MINUTE}, "token 61 min ≤ device certificate 60 min: VIOLATED"),
        ({"attestation_validity": 30 * MINUTE}, "device certificate 60 min ≤ attestation validity 30 min: VIOLATED"),
        ({"issuer": 89 * DAY}, "admin certificate 90 d ≤ issuer 89 d: VIOLATED"),
        ({"attestation_validity": 366 * DAY}, "attestation validity 366 d ≤ issuer 365 d: VIOLATED"),
        ({"root": 364 * DAY}, "issuer 365 d ≤ root 364 d: VIOLATED"),
        ({"token_lifetime": timedelta(seconds=3601)}, "token 3601 s ≤ device certificate 3600 s: VIOLATED"),
    ],
)
def test_each_contradiction_is_refused_with_the_arithmetic(
    profiles: Mapping[str, Profile], change: dict[str, timedelta], said: str
) -> None:
    with pytest.raises(LifetimesContradict) as caught:
        check_lifetimes(profiles, **(NESTED | change))
    assert said in caught.value.detail.split("; ")
    assert "issuer" in caught.value.detail  # every number is shown, also of what holds
    assert caught.value.detail.count("≤") == 11


@pytest.mark.parametrize("name", ["device", "edge", "cloud"])
def test_each_tiers_certificate_is_compared(profiles: Mapping[str, Profile], name: str) -> None:
    changed = {**profiles, name: replace(profiles[name], lifetime=5 * HOUR)}
    with pytest.raises(LifetimesContradict, match=f"{name} certificate 5 h ≤ attestation validity 4 h: VIOLATED"):
        check_lifetimes(changed, **NESTED)
