"""An instance's settings: `<dir>/attestd.toml`, overridden by `ATTESTD_<SECTION>_<KEY>` in the environment; frozen.

Durations are written "90s", "10m", "1h", "7d" and held as `timedelta`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from attestd.config.providers import read_providers
from attestd.config.sections import (
    AttestationSettings,
    AuditSettings,
    BrakeSettings,
    BundleSettings,
    ConsoleSettings,
    CredentialSettings,
    DatabaseSettings,
    DistributionSettings,
    EdgeSettings,
    EndorsementSettings,
    EnrollmentSettings,
    KeySettings,
    LimitSettings,
    OidcSettings,
    ReferenceSettings,
    RetentionSettings,
    ServerSettings,
    WebhookSettings,
)
from attestd.config.values import BANKS, SettingInvalid, parse_duration, read_section, read_text, read_texts
from attestd.errors import Misconfigured
from attestd.ids import Tier, TrustDomain

__all__ = [
    "AttestationSettings",
    "AuditSettings",
    "BrakeSettings",
    "BundleSettings",
    "ConsoleSettings",
    "CredentialSettings",
    "DatabaseSettings",
    "DistributionSettings",
    "EdgeSettings",
    "EndorsementSettings",
    "EnrollmentSettings",
    "InstanceMissing",
    "KeySettings",
    "LimitSettings",
    "OidcSettings",
    "ReferenceSettings",
    "RetentionSettings",
    "ServerSettings",
    "SettingInvalid",
    "Settings",
    "WebhookSettings",
    "parse_duration",
]


_REPORTED_WITHIN = timedelta(seconds=90)  # edges report every minute, some seconds more or less
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}", re.ASCII)
_HOOK = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)


class InstanceMissing(Misconfigured):
    """There is no instance here"""

    remedy = "Run `attestd init --trust-domain NAME` first, or name the instance with --dir."


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything, checked. `dir` is the instance's folder."""

    dir: Path
    trust_domain: TrustDomain
    server: ServerSettings = field(default_factory=ServerSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    enrollment: EnrollmentSettings = field(default_factory=EnrollmentSettings)
    endorsement: EndorsementSettings = field(default_factory=EndorsementSettings)
    attestation: AttestationSettings = field(default_factory=AttestationSettings)
    brake: BrakeSettings = field(default_factory=BrakeSettings)
    credentials: CredentialSettings = field(default_factory=CredentialSettings)
    bundle: BundleSettings = field(default_factory=BundleSettings)
    distribution: DistributionSettings = field(default_factory=DistributionSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    keys: KeySettings = field(default_factory=KeySettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    console: ConsoleSettings = field(default_factory=ConsoleSettings)
    providers: tuple[OidcSettings, ...] = ()
    references: tuple[ReferenceSettings, ...] = ()
    webhooks: tuple[WebhookSettings, ...] = ()

    @classmethod
    def load(cls, dir: Path, environ: Mapping[str, str]) -> Self:
        """Reads and checks the instance's settings.

        Raises InstanceMissing without a file, SettingInvalid naming the setting, what it holds and what it may hold.
        """
        path = dir / "attestd.toml"
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise InstanceMissing(f"{path} does not exist.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingInvalid(f"{path} can't be read.", seen=error) from None
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingInvalid(f"{path} is not TOML.", seen=error) from None
        return cls._from(dir, document, environ)

    @classmethod
    def _from(cls, dir: Path, document: dict[str, Any], environ: Mapping[str, str]) -> Self:
        domain = document.pop("trust_domain", None)
        if not isinstance(domain, str):
            raise SettingInvalid("trust_domain is missing.", expected='trust_domain = "example.org"')
        references, webhooks = document.pop("reference", []), document.pop("webhook", [])
        console = document.get("console", {})
        providers = console.pop("oidc", {}) if isinstance(console, dict) else {}
        sections = {
            "server": ServerSettings(),
            "database": DatabaseSettings(),
            "enrollment": EnrollmentSettings(),
            "endorsement": EndorsementSettings(),
            "attestation": AttestationSettings(),
            "brake": BrakeSettings(),
            "credentials": CredentialSettings(),
            "bundle": BundleSettings(),
            "distribution": DistributionSettings(),
            "edges": EdgeSettings(),
            "limits": LimitSettings(),
            "retention": RetentionSettings(),
            "keys": KeySettings(),
            "audit": AuditSettings(),
            "console": ConsoleSettings(),
        }
        if unknown := sorted(set(document) - set(sections)):
            raise SettingInvalid("attestd.toml has unknown sections.", seen=unknown, expected=sorted(sections))
        for name, listed in (("reference", references), ("webhook", webhooks)):
            if not isinstance(listed, list):
                raise SettingInvalid(f"{name} is a list of tables.", expected=f"[[{name}]]")
        settings = cls(
            dir=dir,
            trust_domain=TrustDomain(domain),
            references=tuple(_read_reference(entry, f"reference {n}") for n, entry in enumerate(references, 1)),
            providers=read_providers(providers),
            webhooks=tuple(_read_webhook(entry, f"webhook {n}") for n, entry in enumerate(webhooks, 1)),
            **{
                name: read_section(name, default, document.get(name, {}), environ) for name, default in sections.items()
            },
        )
        _check(settings)
        return settings

    @property
    def console_origin(self) -> str:
        """Where browsers find the console. A passkey belongs to a host name and never to an address, so where the
        service is called by an address it is the first of its names, at its own port."""
        parts = urlsplit(self.console.origin or self.server.url)
        host, port = parts.hostname or "", parts.port
        if not self.console.origin and is_address(host):
            named = [name for name in self.server.names if not is_address(name)]
            host, port = (named[0].lower(), self.server.port) if named else (host, port)
        shown = f"[{host}]" if ":" in host else host
        return f"https://{shown}" if port in (None, 443) else f"https://{shown}:{port}"  # as browsers write it

    @property
    def rp_id(self) -> str:
        """The host name that passkeys belong to; empty where the console is called by an address."""
        host = urlsplit(self.console_origin).hostname or ""
        return "" if is_address(host) else host

    @property
    def database_url(self) -> str:
        """The URL with a relative SQLite path made absolute."""
        url = self.database.url
        if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
            return f"sqlite:///{(self.dir / url.removeprefix('sqlite:///')).resolve()}"
        return url


def is_address(host: str) -> bool:
    """Whether this is an IP address, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _read_reference(entry: object, where: str) -> ReferenceSettings:
    if not isinstance(entry, dict) or set(entry) - {"name", "tier", "pcrs"} or not {"name", "pcrs"} <= set(entry):
        raise SettingInvalid(
            f"{where} is not a reference.", seen=repr(entry)[:120], expected="name, pcrs and maybe tier"
        )
    banks: dict[str, dict[int, tuple[bytes, ...]]] = {}
    for bank, values in entry["pcrs"].items() if isinstance(entry["pcrs"], dict) else ():
        if bank not in BANKS or not isinstance(values, dict):
            raise SettingInvalid(f"{where} names an unknown bank.", seen=bank, expected=", ".join(BANKS))
        banks[bank] = {}
        for index, digests in values.items():
            good = digests if isinstance(digests, list) else [digests]
            if not (index.isdigit() and int(index) < 24) or not good:
                raise SettingInvalid(f"{where}.pcrs.{bank}.{index} is no PCR with values.", expected="0 to 23")
            try:
                octets = tuple(bytes.fromhex(digest) for digest in good)
            except (ValueError, TypeError):
                raise SettingInvalid(f"{where}.pcrs.{bank}.{index} is not hexadecimal.", seen=repr(good)[:80]) from None
            if any(len(value) != BANKS[bank] for value in octets):
                raise SettingInvalid(
                    f"{where}.pcrs.{bank}.{index} has the wrong length.", expected=f"{BANKS[bank]} octets"
                )
            banks[bank][int(index)] = octets
    if not any(banks.values()):
        raise SettingInvalid(f"{where} names no PCR.", expected='[reference.pcrs.sha256]\n7 = ["…"]')
    tier = Tier.parse(read_text(entry["tier"], f"{where}.tier")) if "tier" in entry else None
    name = read_text(entry["name"], f"{where}.name")
    if not _REFERENCE.fullmatch(name):
        raise SettingInvalid(f"{where}.name is not a name.", seen=repr(name)[:80], expected="letters, digits, . _ -")
    return ReferenceSettings(name, banks, tier)


def _read_webhook(entry: object, where: str) -> WebhookSettings:
    needed = {"name", "url", "secret_file"}
    if not isinstance(entry, dict) or set(entry) - needed - {"events"} or not needed <= set(entry):
        raise SettingInvalid(
            f"{where} is not a webhook.", seen=repr(entry)[:120], expected="name, url, secret_file and maybe events"
        )
    name, url, file = (read_text(entry[member], f"{where}.{member}") for member in ("name", "url", "secret_file"))
    if not _HOOK.fullmatch(name):
        raise SettingInvalid(f"{where}.name is not a name.", seen=repr(name)[:80], expected="a-z 0-9 -")
    events = read_texts(entry["events"], f"{where}.events") if "events" in entry else ("*",)
    return WebhookSettings(name, url, file, events)


def _check(settings: Settings) -> None:
    server = settings.server
    host, colon, port = server.listen.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 65536):
        raise SettingInvalid(
            "server.listen is not an address.", seen=repr(server.listen), expected='like "127.0.0.1:8443"'
        )
    if server.public_url and not server.public_url.startswith("https://"):
        raise SettingInvalid("server.public_url is not https.", seen=repr(server.public_url), expected="https://…")
    origin = urlsplit(settings.console.origin)
    if settings.console.origin and (
        origin.scheme != "https" or not origin.hostname or origin.path.strip("/") or origin.query or origin.fragment
    ):
        raise SettingInvalid(
            "console.origin is not an origin.", seen=repr(settings.console.origin)[:120], expected="https://HOST[:PORT]"
        )
    settings.limits.networks  # noqa: B018 - raises
    if settings.limits.proxy_header not in ("x-forwarded-for", "forwarded"):
        raise SettingInvalid(
            "limits.proxy_header is none that is understood.",
            seen=repr(settings.limits.proxy_header)[:80],
            expected="x-forwarded-for or forwarded",
        )
    if unknown := sorted(set(settings.attestation.logs) - {"", "eventlog", "ima"}):
        raise SettingInvalid("attestation.logs names what is no log.", seen=unknown, expected="eventlog, ima")
    if settings.brake.devices < settings.brake.least:
        raise SettingInvalid(
            "brake.devices is less than brake.least.",
            seen=f"{settings.brake.devices} < {settings.brake.least}",
            expected="brake.least to be at most brake.devices",
        )
    if settings.edges.silent_after < _REPORTED_WITHIN:
        raise SettingInvalid(
            "edges.silent_after is shorter than what lies between two reports of an edge.",
            seen=f"{settings.edges.silent_after.total_seconds():.0f}s",
            expected=f"at least {_REPORTED_WITHIN.total_seconds():.0f}s",
        )
    if len({hook.name for hook in settings.webhooks}) != len(settings.webhooks):
        raise SettingInvalid("Two webhooks have one name.", seen=", ".join(hook.name for hook in settings.webhooks))
    for reference in settings.references:
        for bank, values in reference.pcrs.items():
            missing = sorted(set(values) - set(settings.attestation.pcrs.get(bank, ())))
            if missing:
                raise SettingInvalid(
                    f"Reference {reference.name!r} speaks of PCRs that quotes do not cover.",
                    seen=f"{bank} {missing}",
                    expected=f"attestation.pcrs to name them ({bank} {settings.attestation.pcrs.get(bank, ())})",
                )
