"""munich's edge on NATS, without a server: a question is put, an answer comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attestd.ids import Site, Tier
from attestd.policy import Boundary
from attestd_edge.settings import Settings
from attestd_edge.views import View
from tests import authority as a

if TYPE_CHECKING:
    from attestd_edge.nats.keys import Keys
    from attestd_edge.nats.settings import NatsSettings
    from tests.nats_asker import Asker

ORIGIN = "https://nats.munich.example.org"


def members(**nats: Any) -> dict[str, Any]:
    """An edge's configuration, as parsed TOML; `nats` replaces members of [nats], `...` takes one out."""
    told: dict[str, Any] = {
        "server": "nats://127.0.0.1:4222",
        "keys": "keys",
        "account": "FIELD",
        "origin": ORIGIN,
        "lifetime": 300,
        "grant": [
            {
                "boundary": "field-to-munich",
                "publish": ["field.{site}.{device}.>"],
                "subscribe": ["orders.{site}.{device}.>"],
            }
        ],
        "carry": {
            "boundary": "munich-to-cloud",
            "stream": "FIELD",
            "from": "field.{site}.{device}.>",
            "to": "cleared.{site}.{device}.>",
            "withheld": "withheld.{site}.{device}.>",
        },
        **nats,
    }
    return {
        "edge": {
            "server": "https://attestd.example.org",
            "root": "root.pem",
            "trust_domain": "example.org",
            "state_dir": "state",
            "key": "proxy.key.pem",
            "certificate": "proxy.pem",
        },
        "tokens": {"audience": a.AUDIENCE, "origins": ["https://api.example.org"]},
        "boundary": [
            {
                "name": "field-to-munich",
                "from": {"tier": "device", "site": "munich"},
                "to": {"tier": "edge", "site": "munich"},
                "labels": {"class": "telemetry"},
            },
            {
                "name": "munich-to-cloud",
                "from": {"tier": "device", "site": "munich"},
                "to": {"tier": "cloud", "site": "cloud"},
            },
        ],
        "nats": {name: value for name, value in told.items() if value is not ...},
    }


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., NatsSettings]:
    from attestd_edge.nats.settings import NatsSettings

    return lambda **nats: NatsSettings.of(Settings.read(members(**nats), base=tmp_path))


@pytest.fixture
def settings(configured) -> NatsSettings:
    return configured()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    from attestd_edge.nats.keys import Keys, make

    drawn = iter(range(200, 250))
    make(tmp_path / "keys", entropy=lambda size: bytes([next(drawn)]) * size)
    return Keys.load(tmp_path / "keys")


@pytest.fixture
def asker(keys) -> Asker:
    from tests.nats_asker import Asker

    return Asker(ours=keys.sealing.public, issuer=keys.issuer.public)


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    from attestd_edge.nats.ledger import Ledger

    found = Ledger.open(tmp_path)
    yield found
    found.close()


@pytest.fixture
def with_policy(bundle) -> Callable[[str], View]:
    """A view under another policy."""
    return lambda text, **lies: View.of(bundle(policy=text, **lies), pinned=[a.ROOT.der])


@pytest.fixture
def cloud() -> Boundary:
    return Boundary("munich-to-cloud", Tier.DEVICE, Site("munich"), Tier.CLOUD, Site("cloud"))
