"""The configuration: what is read, and what is refused by name."""

from __future__ import annotations

import copy
import tomllib

import pytest

from attestd.ids import Tier
from attestd_edge import settings as settings_module
from attestd_edge.files import FileUnreadable
from attestd_edge.hop import CertificateSource
from attestd_edge.settings import Settings, SettingsInvalid, TlsListen, UnixListen
from attestd_edge.views import Staleness

TEXT = """
[edge]
server = "https://ATTESTD.example.org:8443/"
root = "root.pem"
trust_domain = "example.org"
state_dir = "/var/lib/attestd-edge/state"
key = "proxy.key.pem"
certificate = "proxy.pem"

[listen]
unix = "auth.sock"
group = "www-data"

[tokens]
audience = "edge"
origins = ["https://api.example.org", "http://127.0.0.1:8080"]

[[boundary]]
name = "field-to-munich"
from = { tier = "device" }
to = { tier = "edge", site = "munich" }
labels = { class = "telemetry" }
"""
TLS = {"tls": "[::1]:9443", "certificate": "c.pem", "key": "k.pem", "hop_ca": "h.pem"}


def read(tmp_path, **changes):
    members = copy.deepcopy(tomllib.loads(TEXT))
    for path, value in changes.items():
        *tables, name = path.split("__")
        target = members
        for table in tables:
            target = target[int(table) if table.isdigit() else table]
        if value is ...:
            del target[name]
        else:
            target[name] = value
    return Settings.read(members, base=tmp_path)


def test_a_whole_configuration(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(TEXT)
    found = Settings.load(path)
    assert found.server == "https://attestd.example.org:8443"
    assert found.root == tmp_path / "root.pem"
    assert str(found.state_dir) == "/var/lib/attestd-edge/state"
    assert found.listen == UnixListen(tmp_path / "auth.sock", 0o660, "www-data")
    assert found.origins == {"https://api.example.org", "http://127.0.0.1:8080"}
    assert found.certificate_header is CertificateSource.NGINX
    guarded = found.boundaries["field-to-munich"]
    assert (guarded.boundary.from_tier, guarded.boundary.from_site) == (Tier.DEVICE, None)
    assert guarded.labels == {"class": "telemetry"}
    assert not guarded.labels_from_hop
    assert read(tmp_path, boundary__0__labels_from_hop=True).boundaries["field-to-munich"].labels_from_hop


def test_the_documented_example_is_a_configuration(tmp_path):
    text = (settings_module.__doc__ or "").partition("\n\n")[2]
    Settings.read(tomllib.loads(text), base=tmp_path)


def test_tls(tmp_path):
    found = read(tmp_path, listen=TLS)
    assert found.listen == TlsListen("::1", 9443, tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "h.pem")


def test_envoy(tmp_path):
    assert read(tmp_path).envoy is None
    found = read(tmp_path, envoy={"unix": "envoy.sock", "group": "envoy"})
    assert found.envoy == UnixListen(tmp_path / "envoy.sock", 0o660, "envoy")
    assert found.listen == UnixListen(tmp_path / "auth.sock", 0o660, "www-data")
    assert read(tmp_path, envoy=TLS).envoy == TlsListen(
        "::1", 9443, tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "h.pem"
    )
    found = read(tmp_path, listen__certificate_header="x-forwarded-client-cert")
    assert found.certificate_header is CertificateSource.ENVOY


@pytest.mark.parametrize(
    ("change", "value", "told"),
    [
        ("edge__server", "http://attestd.example.org", "edge.server"),
        ("edge__server", "https://attestd.example.org/path", "edge.server"),
        ("edge__server", "https://attestd.example.org?x=1", "edge.server"),
        ("edge__server", "https://attestd.example.org#x", "edge.server"),
        ("edge__server", "attestd", "edge.server"),
        ("edge__server", ..., "edge.server is missing"),
        ("edge__server", 8443, "edge.server is of the wrong kind"),
        ("edge__root", "", "edge.root is empty"),
        ("edge__trust_domain", "Example!", "edge.trust_domain"),
        ("edge__rooot", "x", "edge.rooot is not a setting"),
        ("edge", ..., "There is no [edge]"),
        ("colour", "red", "colour is not a setting"),
        ("listen__mode", "0666", "everybody"),
        ("listen__mode", "0661", "everybody"),
        ("listen__mode", "rw", "mode"),
        ("listen__tls", "0.0.0.0:9443", "exclude"),
        ("listen__port", 80, "listen.port is not a setting"),
        ("listen", {**TLS, "tls": "9443"}, "listen.tls"),
        ("listen", {**TLS, "tls": "host:99999"}, "listen.tls"),
        ("listen", {"tls": "host:9443", "certificate": "c", "key": "k"}, "listen.hop_ca is missing"),
        ("listen", {"tcp": "127.0.0.1:9000"}, "listen.tcp is not a setting"),
        ("listen__certificate_header", "x-ssl-cert", "certificate_header"),
        ("listen__certificate_header", "tls", "certificate_header"),
        ("envoy", {"tcp": "127.0.0.1:9000"}, "envoy.tcp is not a setting"),
        ("envoy", {"mode": "0660"}, "envoy.mode is not a setting"),
        ("envoy", {"unix": "e.sock", "mode": "0666"}, "envoy.mode lets everybody"),
        ("envoy", {**TLS, "unix": "e.sock"}, "envoy.unix and envoy.tls exclude"),
        ("envoy", {**TLS, "tls": "9443"}, "envoy.tls is not an address"),
        ("envoy", {"tls": "host:9443", "certificate": "c", "key": "k"}, "envoy.hop_ca is missing"),
        ("envoy", "envoy.sock", "envoy is of the wrong kind"),
        ("tokens__origins", [], "belong together"),
        ("tokens__origins", ["http://api.example.org"], "tokens.origins[1]"),
        ("tokens__origins", ["https://api.example.org", "https://api.example.org/x"], "tokens.origins[2]"),
        ("tokens__origins", "https://api.example.org", "tokens.origins is of the wrong kind"),
        ("tokens__origins", [1], "tokens.origins"),
        ("tokens__audience", ..., "belong together"),
        ("boundary", {"name": "x"}, "boundary is of the wrong kind"),
        ("boundary", [1], "boundary"),
        ("boundary__0__name", "Munich!", "boundary[1].name"),
        ("boundary__0__from", ..., "boundary[1].from"),
        ("boundary__0__from__tier", "space", "boundary[1].from.tier"),
        ("boundary__0__from__site", "Munich", "boundary[1].from.site"),
        ("boundary__0__to__site", ..., "boundary[1].to.site is missing"),
        ("boundary__0__to__zone", "x", "boundary[1].to.zone is not a setting"),
        ("boundary__0__labels", {"bad name": "x"}, "boundary[1].labels"),
        ("boundary__0__labels", {"class": 1}, "boundary[1].labels"),
        ("boundary__0__labels", {"class": "x" * 257}, "boundary[1].labels"),
        ("boundary__0__labels", {f"l{n}": "" for n in range(17)}, "boundary[1].labels"),
        ("boundary__0__labels_from_hop", "true", "boundary[1].labels_from_hop is of the wrong kind"),
        ("boundary__0__labels_from_hop", 1, "boundary[1].labels_from_hop is of the wrong kind"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, value, told):
    read(tmp_path)
    with pytest.raises(SettingsInvalid) as caught:
        read(tmp_path, **{change: value})
    assert told in str(caught.value)


def test_two_boundaries_of_one_name(tmp_path):
    twice = tomllib.loads(TEXT)["boundary"] * 2
    with pytest.raises(SettingsInvalid, match="name that another one has"):
        read(tmp_path, boundary=twice)


@pytest.mark.parametrize("data", [b"\xff", b"[edge", b"x = 1\nx = 2"])
def test_what_is_no_toml(tmp_path, data):
    path = tmp_path / "edge.toml"
    path.write_bytes(data)
    with pytest.raises(SettingsInvalid):
        Settings.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileUnreadable):
        Settings.load(tmp_path / "missing.toml")


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    path = tmp_path / "edge.toml"
    path.write_text(TEXT)
    Settings.load(path)
    monkeypatch.setattr(settings_module, "MAX_SETTINGS", len(TEXT) - 1)
    with pytest.raises(FileUnreadable):
        Settings.load(path)


def test_how_stale_a_boundary_may_be(tmp_path):
    def rule(**said):
        changes = {f"boundary__0__{name}": value for name, value in said.items()}
        return read(tmp_path, **changes).boundaries["field-to-munich"].staleness

    assert rule() is None
    assert rule(max_staleness=900) == Staleness(900)
    assert rule(max_staleness=900, when_stale="telemetry") == Staleness(900, "telemetry")
    for wrong in (
        {"max_staleness": 0},
        {"max_staleness": -1},
        {"max_staleness": "900"},
        {"max_staleness": True},
        {"when_stale": "telemetry"},
        {"max_staleness": 900, "when_stale": ""},
        {"max_staleness": 900, "when_stale": "every thing"},
    ):
        with pytest.raises(SettingsInvalid, match=r"staleness|when_stale"):
            rule(**wrong)
