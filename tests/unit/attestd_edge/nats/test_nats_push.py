"""[edge.push]: what is taken, and what is refused by name."""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py is not installed")
pytest.importorskip("nacl", reason="PyNaCl is not installed")

from attestd.broker.addresses import BrokerMisconfigured
from attestd.broker.links import Broker
from attestd_edge.edge import broker_feed
from attestd_edge.nats.feed import Feed
from attestd_edge.nats.keys import make_distribution
from attestd_edge.settings import Settings, SettingsInvalid
from tests.unit.attestd_edge.nats.conftest import members


@pytest.fixture
def told(tmp_path):
    """The feed of an edge with this [edge.push]; `...` takes a member out."""
    make_distribution(tmp_path / "nats", entropy=os.urandom)

    def read(**lies: Any) -> Feed | None:
        push = {"nats": "tls://nats.example.org:4222", "ca": "ca.pem", "credentials": "nats/listen.seed", **lies}
        configured = members()
        configured["edge"]["push"] = {name: value for name, value in push.items() if value is not ...}
        return broker_feed(Settings.read(configured, base=tmp_path))

    return read


def test_a_broker_elsewhere_sees_the_proxys_certificate(told, tmp_path):
    shown = (tmp_path / "proxy.pem", tmp_path / "proxy.key.pem")
    expected = Broker("tls://nats.example.org:4222", tmp_path / "ca.pem", tmp_path / "nats" / "listen.seed", *shown)
    assert told()._broker == expected


def test_a_broker_on_this_machine(told, tmp_path):
    feed = told(nats="nats://127.0.0.1:4222", ca=...)
    assert feed._broker == Broker("nats://127.0.0.1:4222", None, tmp_path / "nats" / "listen.seed")


def test_without_one(tmp_path):
    assert broker_feed(Settings.read(members(), base=tmp_path)) is None


@pytest.mark.parametrize(
    ("lies", "error"),
    [
        ({"nats": ...}, SettingsInvalid),
        ({"nats": "tls://"}, SettingsInvalid),
        ({"nats": "nats://nats.example.org", "ca": ...}, SettingsInvalid),
        ({"ca": ...}, SettingsInvalid),
        ({"credentials": ...}, SettingsInvalid),
        ({"credentials": 5}, SettingsInvalid),
        ({"stream": "MINE"}, SettingsInvalid),
        ({"credentials": "nats/nobody.seed"}, BrokerMisconfigured),
        ({"credentials": "nats/distribution.conf"}, BrokerMisconfigured),
    ],
)
def test_one_lie(told, lies, error):
    assert told() is not None
    with pytest.raises(error):
        told(**lies)
