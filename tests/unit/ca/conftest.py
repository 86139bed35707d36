"""One hierarchy for all tests of a run, and what it takes to have a certificate issued."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.certificates import CertificateSpec
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.profiles import Profile, load_profiles
from attestd.credentials.facts import Facts
from attestd.ids import Serial, SpiffeId, TrustDomain

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
DOMAIN = TrustDomain("example.org")
FACTS = Facts({"hardware": 2}, {"line": "a7"}, {"secure-boot": True}, 17, int(NOW.timestamp()))
LEAF_KEY = ec.derive_private_key(0x1EAF, ec.SECP256R1())
OTHER_KEY = ec.derive_private_key(0x07E4, ec.SECP256R1())

Entropy = Callable[[int], bytes]


def counted(seed: str = "") -> Entropy:
    """Octets that differ at each call and are the same in each run."""
    numbers = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed} {next(numbers)}".encode()).digest(size)


@pytest.fixture
def entropy() -> Entropy:
    return counted()


@pytest.fixture(scope="session")
def hierarchy(tmp_path_factory: pytest.TempPathFactory) -> Hierarchy:
    return create_hierarchy(tmp_path_factory.mktemp("ca") / "instance", DOMAIN, now=NOW, entropy=counted("session"))


@pytest.fixture
def instance(tmp_path: Path, hierarchy: Hierarchy) -> Path:
    """A copy of the hierarchy's folder, to be broken."""
    for source in hierarchy.folder.rglob("*"):
        target = tmp_path / source.relative_to(hierarchy.folder)
        if source.is_dir():
            target.mkdir(mode=source.stat().st_mode & 0o777)
        else:
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode & 0o777)
    return tmp_path


@pytest.fixture(scope="session")
def profiles() -> Mapping[str, Profile]:
    return load_profiles()


Specify = Callable[..., CertificateSpec]


@pytest.fixture
def specify(profiles: Mapping[str, Profile]) -> Specify:
    """A good device certificate's specification, with changes."""

    def make(**changes: Any) -> CertificateSpec:
        good = CertificateSpec(
            public_key=LEAF_KEY.public_key(),
            spiffe_id=SpiffeId.parse("spiffe://example.org/device/berlin/d1"),
            profile=profiles["device"],
            serial=Serial(0x123456789ABCDEF),
            not_before=NOW - timedelta(seconds=60),
            not_after=NOW + timedelta(minutes=60),
            facts=FACTS,
        )
        return replace(good, **changes)

    return make
