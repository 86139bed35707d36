"""[nats]: what is taken, and what is refused by name."""

from __future__ import annotations

import stat
from datetime import timedelta

import pytest

pytest.importorskip("nacl", reason="PyNaCl is not installed")

from attestd.broker.nkeys import Kind, NkeyMalformed, write_seed
from attestd_edge.files import FileUnreadable
from attestd_edge.nats.keys import Keys, KeysMade, make
from attestd_edge.nats.settings import NatsSettings
from attestd_edge.settings import Settings, SettingsInvalid
from tests.unit.attestd_edge.nats.conftest import members

GRANT = {"boundary": "field-to-munich", "publish": ["field.{site}.{device}.>"]}
CARRY = members()["nats"]["carry"]


def test_a_whole_configuration(settings, tmp_path):
    assert settings.keys == tmp_path / "keys"
    assert settings.lifetime == timedelta(seconds=300)
    assert settings.grants[0].guarded.labels == {"class": "telemetry"}
    assert settings.carriage is not None
    assert settings.carriage.stream == "FIELD"


def test_the_least_configuration(configured):
    settings = configured(origin=..., lifetime=..., carry=...)
    assert (settings.origin, settings.carriage, settings.lifetime) == (None, None, timedelta(seconds=300))


def test_with_tls(configured, tmp_path):
    settings = configured(server="tls://nats.munich.example.org:4222", ca="ca.pem")
    assert settings.ca == tmp_path / "ca.pem"


def test_a_grants_labels_add_up_with_the_boundarys(configured):
    labelled = {**GRANT, "labels": {"purpose": "billing", "class": "telemetry"}}
    settings = configured(grant=[labelled, GRANT])
    assert [dict(one.guarded.labels) for one in settings.grants] == [
        {"class": "telemetry", "purpose": "billing"},
        {"class": "telemetry"},
    ]


@pytest.mark.parametrize(
    "lie",
    [
        {"server": "nats://nats.munich.example.org:4222"},  # elsewhere, without TLS
        {"server": "tls://nats.munich.example.org:4222"},  # without the authority that it is checked by
        {"server": "nats://127.0.0.1:4222", "ca": "ca.pem"},
        {"server": "http://127.0.0.1"},
        {"server": "nats://user:pass@127.0.0.1:4222"},
        {"server": "nats://127.0.0.1:4222/x"},
        {"server": ...},
        {"keys": ...},
        {"account": "A B"},
        {"account": "A.>"},
        {"origin": "nats://nats.munich.example.org"},
        {"lifetime": 9},
        {"lifetime": 901},
        {"lifetime": "300"},
        {"grant": [{**GRANT, "labels": "billing"}]},
        {"grant": [{**GRANT, "labels": {"purpose": 5}}]},
        {"grant": [{**GRANT, "labels": {"pur pose": "billing"}}]},
        {"grant": [{**GRANT, "labels": {"class": "billing"}}]},  # the boundary says telemetry
        {"grant": []},
        {"grant": ...},
        {"grant": [{**GRANT, "boundary": "elsewhere"}]},
        {"grant": [{**GRANT, "publish": "field.>"}]},
        {"grant": [{**GRANT, "publish": [7]}]},
        {"grant": [{**GRANT, "publish": ["field..x"]}]},
        {"grant": [{**GRANT, "sub": []}]},
        {"grant": [{"boundary": "field-to-munich"}]},
        {"unknown": 1},
        {"carry": {**CARRY, "boundary": "elsewhere"}},
        {"carry": {**CARRY, "unknown": 1}},
        {"carry": {**CARRY, "stream": "A.B"}},
        {"carry": {**CARRY, "from": "field.{site}.>"}},  # whose is it?
        {"carry": {**CARRY, "to": "cleared.{tier}.{device}.>"}},  # nothing says the tier
        {"carry": {**CARRY, "to": "cleared.*.{device}.>"}},
        {"carry": {**CARRY, "to": "cleared.{site}.{device}"}},
        {"carry": {**CARRY, "to": "field.{site}.{device}.>"}},  # round and round
        {"carry": {**CARRY, "withheld": "field.{site}.{device}.>"}},
    ],
)
def test_one_fault(configured, lie):
    with pytest.raises(SettingsInvalid):
        configured(**lie)


@pytest.mark.parametrize(
    "subject",
    [
        "field.{site}.>",
        "field.{site}.*.t",
        ">",
        "cleared.{site}.{device}.>",  # past the boundary
        "withheld.{site}.{device}.>",
    ],
)
def test_a_grant_by_which_devices_could_speak_for_others(configured, subject):
    grant = [{**GRANT, "publish": [subject]}]
    with pytest.raises(SettingsInvalid):
        configured(grant=grant)
    assert configured(grant=grant, carry=...)  # where nothing is carried by its subject, it is the operator's choice


def test_without_nats_there_is_none(tmp_path):
    plain = members()
    del plain["nats"]
    with pytest.raises(SettingsInvalid):
        NatsSettings.of(Settings.read(plain, base=tmp_path))


def test_an_origin_needs_an_audience(tmp_path):
    plain = members()
    del plain["tokens"]
    with pytest.raises(SettingsInvalid):
        NatsSettings.of(Settings.read(plain, base=tmp_path))


def test_keys_are_made_once_and_kept_close(tmp_path):
    drawn = iter(range(1, 9))
    public = make(tmp_path / "keys", entropy=lambda size: bytes([next(drawn)]) * size)
    keys = Keys.load(tmp_path / "keys")
    text = public.read_text()
    assert f'ATTESTD_ISSUER: "{keys.issuer.public}"' in text
    assert f'ATTESTD_SEALING: "{keys.sealing.public}"' in text
    assert f'ATTESTD_WATCH: "{keys.watch.public}"' in text
    for seed in (tmp_path / "keys").glob("*.seed"):
        assert stat.S_IMODE(seed.stat().st_mode) == 0o600
        assert seed.read_text().strip() not in text
    with pytest.raises(KeysMade):
        make(tmp_path / "keys", entropy=lambda size: b"z" * size)
    assert Keys.load(tmp_path / "keys").callout.public == keys.callout.public
    assert not any(seed.read_text().strip() in repr(keys) for seed in (tmp_path / "keys").glob("*.seed"))


def test_a_key_in_another_ones_place(tmp_path):
    make(tmp_path, entropy=lambda size: b"k" * size)
    (tmp_path / "callout.seed").write_text(write_seed(Kind.ACCOUNT, b"k" * 32))
    with pytest.raises(NkeyMalformed):
        Keys.load(tmp_path)
    (tmp_path / "callout.seed").unlink()
    with pytest.raises(FileUnreadable):
        Keys.load(tmp_path)


@pytest.mark.parametrize(("boundary", "refused"), [("field-to-munich", True), ("munich-to-cloud", False)])
def test_what_devices_send_by_themselves_can_not_have_receipts(tmp_path, boundary, refused):
    """What is carried can: the edge sees it."""
    told = members()
    next(one for one in told["boundary"] if one["name"] == boundary)["receipts"] = "allowed"
    if refused:
        with pytest.raises(SettingsInvalid, match="can't have receipts"):
            NatsSettings.of(Settings.read(told, base=tmp_path))
    else:
        NatsSettings.of(Settings.read(told, base=tmp_path))
