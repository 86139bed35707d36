"""Settings: read whole, checked, and refused with the setting's name."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from attestd.config import BrakeSettings, InstanceMissing, SettingInvalid, Settings, parse_duration

GOOD = 'trust_domain = "example.org"\n'


def load(folder: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    (folder / "attestd.toml").write_text(text, "utf-8")
    return Settings.load(folder, environ or {})


def test_defaults_are_safe(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD)
    assert settings.server.listen == "127.0.0.1:8443"
    assert settings.attestation.pcrs == {"sha256": tuple(range(8))}
    assert not settings.attestation.release_after_good
    assert settings.database_url == f"sqlite:///{tmp_path / 'registry.db'}"


def test_a_missing_instance_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InstanceMissing) as refused:
        Settings.load(tmp_path, {})
    assert "attestd init" in refused.value.what_to_do


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    text = GOOD + '[server]\nlisten = "127.0.0.1:1"\n[attestation]\nvalidity = "1h"\n'
    environ = {"ATTESTD_SERVER_LISTEN": "127.0.0.1:2", "ATTESTD_ATTESTATION_VALIDITY": "2h"}
    settings = load(tmp_path, text, environ)
    assert settings.server.port == 2
    assert settings.attestation.validity == timedelta(hours=2)


SSO = """
[console]
origin = "https://Console.example.org:443/"
session_lifetime = "1h"

[console.oidc.harbour]
issuer = "https://sso.example.org/realms/harbour"
client_id = "attestd"
client_secret_file = "sso.secret"
label = "Harbour SSO"
scopes = ["openid", "groups"]
roles = { claim = "groups", admin = ["fleet-admins"], viewer = ["staff", "guests"] }
"""


def test_a_console_with_an_identity_provider(tmp_path: Path) -> None:
    settings = load(tmp_path, GOOD + SSO, {"ATTESTD_CONSOLE_IDLE_TIMEOUT": "5m"})
    assert settings.console.session_lifetime == timedelta(hours=1)
    assert settings.console.idle_timeout == timedelta(minutes=5)
    assert (settings.console_origin, settings.rp_id) == ("https://console.example.org", "console.example.org")
    (provider,) = settings.providers
    assert (provider.name, provider.label, provider.scopes) == ("harbour", "Harbour SSO", ("openid", "groups"))
    assert provider.roles_claim == "groups"
    assert provider.roles == {"admin": ("fleet-admins",), "viewer": ("staff", "guests")}


@pytest.mark.parametrize(
    ("server", "origin", "rp_id"),
    [
        ("", "https://localhost:8443", "localhost"),
        ('listen = "[::1]:9443"\nnames = ["::1"]', "https://[::1]:9443", ""),
        ('listen = "10.0.0.1:443"\nnames = ["10.0.0.1", "Fleet.example"]', "https://fleet.example", "fleet.example"),
        ('public_url = "https://a.example:8443"', "https://a.example:8443", "a.example"),
    ],
)
def test_where_browsers_find_the_console(tmp_path: Path, server: str, origin: str, rp_id: str) -> None:
    settings = load(tmp_path, f"{GOOD}[server]\n{server}\n")
    assert (settings.console_origin, settings.rp_id) == (origin, rp_id)


def _provider(**lies: str) -> str:
    members = {"issuer": '"https://i.example"', "client_id": '"c"', **lies}
    return GOOD + "[console.oidc.sso]\n" + "".join(f"{name} = {value}\n" for name, value in members.items() if value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD + "[console]\nidle = 1\n", "unknown settings"),
        (GOOD + '[console]\norigin = "http://a.example"\n', "console.origin"),
        (GOOD + '[console]\norigin = "https://a.example/console"\n', "console.origin"),
        (GOOD + "[console]\noidc = 5\n", "console.oidc"),
        (GOOD + "[console.oidc]\nsso = 5\n", "console.oidc.sso"),
        (GOOD + '[console.oidc."S S"]\nissuer = "https://i"\nclient_id = "c"\n', "proper name"),
        (_provider(issuer=""), "console.oidc.sso"),
        (_provider(issuer='"http://i.example"'), "console.oidc.sso.issuer"),
        (_provider(issuer='"https://u:p@i.example"'), "console.oidc.sso.issuer"),
        (_provider(issuer='"https://i.example?x"'), "console.oidc.sso.issuer"),
        (_provider(client_id='""'), "console.oidc.sso.client_id"),
        (_provider(secret='"s"'), "console.oidc.sso"),
        (_provider(scopes='["profile"]'), "console.oidc.sso.scopes"),
        (_provider(roles='{ admin = ["a"] }'), "console.oidc.sso.roles"),
        (_provider(roles='{ claim = "g", owner = ["a"] }'), "console.oidc.sso.roles"),
        (_provider(roles='{ claim = "g", admin = [""] }'), "console.oidc.sso.roles"),
        (_provider(roles='{ claim = "", admin = ["a"] }'), "console.oidc.sso.roles"),
    ],
)
def test_a_console_s_settings_that_can_t_be_read(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingInvalid) as refused:
        load(tmp_path, text)
    assert named in str(refused.value)


def test_a_brake(tmp_path: Path) -> None:
    text = GOOD + "[brake]\nenabled = false\ndevices = 20\nshare = 1\nleast = 2\n"
    assert load(tmp_path, text).brake == BrakeSettings(enabled=False, devices=20, share=1.0, least=2)
    assert load(tmp_path, text, {"ATTESTD_BRAKE_SHARE": "0.25"}).brake.share == 0.25


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "trust_domain"),
        ("trust_domain = 5\n", "trust_domain"),
        ("trust_domain = \n", "TOML"),
        (GOOD + "[sever]\n", "unknown sections"),
        (GOOD + "[distribution]\nnats = 1\n", "distribution.nats"),
        (GOOD + '[distribution]\nstream = "x"\n', "unknown settings"),
        (GOOD + '[server]\nlisten = "nowhere"\n', "server.listen"),
        (GOOD + '[server]\nlisten = "127.0.0.1:99999"\n', "server.listen"),
        (GOOD + '[server]\npublic_url = "http://example.org"\n', "public_url"),
        (GOOD + "[server]\nworkers = 0\n", "server.workers"),
        (GOOD + "[server]\nworkers = true\n", "server.workers"),
        (GOOD + "[server]\ncolour = 1\n", "unknown settings"),
        (GOOD + "server = 5\n", "server"),
        (GOOD + "[brake]\nshare = 0\n", "brake.share"),
        (GOOD + "[brake]\nshare = 1.5\n", "brake.share"),
        (GOOD + "[brake]\nshare = nan\n", "brake.share"),
        (GOOD + "[brake]\nshare = true\n", "brake.share"),
        (GOOD + "[brake]\ndevices = 0\n", "brake.devices"),
        (GOOD + "[brake]\ndevices = 2\n", "brake.least"),
        (GOOD + '[attestation]\nvalidity = "soon"\n', "attestation.validity"),
        (GOOD + "[attestation]\nvalidity = 5\n", "attestation.validity"),
        (GOOD + "[attestation]\npcrs = { sha256 = [] }\n", "pcrs"),
        (GOOD + "[attestation]\npcrs = {}\n", "pcrs"),
        (GOOD + "[attestation]\npcrs = { sha256 = [24] }\n", "pcrs"),
        (GOOD + "[attestation]\npcrs = { md5 = [0] }\n", "unknown bank"),
        (GOOD + '[attestation]\nrelease_after_good = "yes"\n', "release_after_good"),
        (GOOD + '[[reference]]\nname = "x"\n', "reference 1"),
        (GOOD + '[[reference]]\nname = "x"\npcrs = {}\n', "no PCR"),
        (GOOD + '[[reference]]\nname = "x"\n[reference.pcrs.sha256]\n7 = ["00"]\n', "length"),
        (GOOD + '[[reference]]\nname = "x"\n[reference.pcrs.sha256]\n7 = ["zz"]\n', "hexadecimal"),
        (GOOD + '[[reference]]\nname = "x"\n[reference.pcrs.sha256]\n7 = []\n', "no PCR with values"),
        (GOOD + f'[[reference]]\nname = "x"\n[reference.pcrs.sha256]\n9 = ["{"00" * 32}"]\n', "do not cover"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingInvalid) as refused:
        load(tmp_path, text)
    assert named in refused.value.detail


def test_reference_values_are_read(tmp_path: Path) -> None:
    text = GOOD + f'[[reference]]\nname = "x"\ntier = "edge"\n[reference.pcrs.sha256]\n7 = ["{"ab" * 32}"]\n'
    (reference,) = load(tmp_path, text).references
    assert reference.pcrs == {"sha256": {7: (b"\xab" * 32,)}}
    assert reference.tier == "edge"


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("7d", 604800)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text, "x").total_seconds() == seconds


@pytest.mark.parametrize("text", ["0s", "-1s", "1", "1w", "1.5h", "", " 1h", "99999999s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(SettingInvalid):
        parse_duration(text, "x")


def test_a_service_is_itself_under_each_of_its_names(tmp_path: Path) -> None:
    text = GOOD + '[server]\nlisten = "0.0.0.0:9443"\npublic_url = "https://a.example/"\nnames = ["b.example"]\n'
    server = load(tmp_path, text).server
    assert server.url == "https://a.example"
    assert server.local_url == "https://127.0.0.1:9443"
    assert server.origins == {"https://a.example", "https://b.example:9443", "https://127.0.0.1:9443"}


def test_ipv6_addresses_are_bracketed(tmp_path: Path) -> None:
    server = load(tmp_path, GOOD + '[server]\nlisten = "[::1]:9443"\nnames = []\n').server
    assert (server.host, server.port, server.url) == ("::1", 9443, "https://[::1]:9443")


def test_limits_name_networks(tmp_path: Path) -> None:
    text = GOOD + '[limits]\ntrusted_proxies = ["10.0.0.0/8", "2001:db8::1"]\nunlimited = []\nmax_wait = "2s"\n'
    limits = load(tmp_path, text).limits
    assert [str(network) for network in limits.networks["trusted_proxies"]] == ["10.0.0.0/8", "2001:db8::1/128"]
    assert limits.networks["unlimited"] == ()
    assert limits.max_wait == timedelta(seconds=2)
    assert load(tmp_path, text, {"ATTESTD_LIMITS_TRUSTED_PROXIES": ""}).limits.networks["trusted_proxies"] == ()


def test_nobody_is_trusted_and_this_machine_alone_unlimited_by_default(tmp_path: Path) -> None:
    networks = load(tmp_path, GOOD).limits.networks
    assert networks["trusted_proxies"] == ()
    assert [str(network) for network in networks["unlimited"]] == ["127.0.0.1/32", "::1/128"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('trusted_proxies = ["10.0.0.1/8"]', "limits.trusted_proxies"),  # host bits: which of the two was meant?
        ('unlimited = ["everybody"]', "limits.unlimited"),
        ('proxy_header = "x-real-ip"', "limits.proxy_header"),
        ("reads = 0", "limits.reads"),
        ("connections = true", "limits.connections"),
        ('max_wait = "0s"', "limits.max_wait"),
    ],
)
def test_wrong_limits_are_named(tmp_path: Path, line: str, named: str) -> None:
    with pytest.raises(SettingInvalid) as refused:
        load(tmp_path, GOOD + f"[limits]\n{line}\n")
    assert named in refused.value.detail
