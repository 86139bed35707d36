"""An instance's settings: `<dir>/attestd.toml`, overridden by `ATTESTD_<SECTION>_<KEY>` in the environment; frozen.

Durations are written "90s", "10m", "1h", "7d" and held as `timedelta`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Self, cast

from attestd.errors import Misconfigured
from attestd.ids import Tier, TrustDomain

_DURATION = re.compile(r"([1-9][0-9]{0,6})(s|m|h|d)", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_BANKS = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


class InstanceMissing(Misconfigured):
    """There is no instance here"""

    remedy = "Run `attestd init --trust-domain NAME` first, or name the instance with --dir."


class SettingInvalid(Misconfigured):
    """A setting can't be read"""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`[server]`: where the service listens and what it is called."""

    listen: str = "127.0.0.1:8443"
    # What devices, operators and proxies put into the `url` of signed requests; empty: https://<listen>.
    public_url: str = ""
    # DNS names and IP addresses in the TLS certificate, besides the listening address.
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    workers: int = 2
    threads: int = 8  # a worker
    request_timeout: timedelta = timedelta(seconds=30)

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def local_host(self) -> str:
        """Where this machine itself reaches the service: its address, or loopback when it listens on all."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104

    @property
    def local_url(self) -> str:
        """How this machine itself calls the service."""
        return self._at(self.local_host)

    @property
    def all_names(self) -> frozenset[str]:
        """The names and addresses in the TLS certificate."""
        return frozenset({*self.names, self.local_host})

    @property
    def url(self) -> str:
        """What devices, operators and proxies sign for, unless they call the service by another of its names."""
        return self.public_url.rstrip("/") or self.local_url

    @property
    def origins(self) -> frozenset[str]:
        """Every origin under which the service is itself: the public one, and each of its names at its own port."""
        return frozenset({self.url, *(self._at(name) for name in self.all_names)})

    def _at(self, host: str) -> str:
        return f"https://[{host}]:{self.port}" if ":" in host else f"https://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """`[database]`: an SQLAlchemy URL; a relative SQLite path is relative to the instance's folder."""

    url: str = "sqlite:///registry.db"


@dataclass(frozen=True, slots=True)
class EnrollmentSettings:
    """`[enrollment]`."""

    challenge_lifetime: timedelta = timedelta(minutes=5)
    nonce_lifetime: timedelta = timedelta(minutes=5)
    max_pending: int = 1000
    pending_lifetime: timedelta = timedelta(days=7)
    retry_after: timedelta = timedelta(seconds=30)  # what a waiting device is told


@dataclass(frozen=True, slots=True)
class EndorsementSettings:
    """`[endorsement]`: which oddities of makers' certificates count, which advisories are lived with, and from where
    issuers' certificates may be fetched (docs/endorsements.md)."""

    # Quirks (attestd/tpm/ekcert.py) that this instance does not let through.
    refuse_quirks: tuple[str, ...] = ("sha1-signature", "tpm12-profile")
    accept_advisories: tuple[str, ...] = ()  # by their id
    accept_iak: bool = False  # an IAK that its maker certified, in an EK's place
    fetch_issuers_from: tuple[str, ...] = ()  # hosts; none: nothing is ever fetched
    fetch_private_addresses: bool = False
    fetch_timeout: timedelta = timedelta(seconds=3)  # for all that one chain lacks


@dataclass(frozen=True, slots=True)
class AttestationSettings:
    """`[attestation]`: which PCRs a quote must cover, how long a good result stands, whether it frees a device."""

    validity: timedelta = timedelta(hours=4)
    pcrs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"sha256": (0, 1, 2, 3, 4, 5, 6, 7)})
    release_after_good: bool = False


@dataclass(frozen=True, slots=True)
class ReferenceSettings:
    """`[[reference]]`: PCR values that are good for the devices it speaks of (all devices of `tier`; none: of any)."""

    name: str
    pcrs: Mapping[str, Mapping[int, tuple[bytes, ...]]]
    tier: Tier | None = None


@dataclass(frozen=True, slots=True)
class CredentialSettings:
    """`[credentials]`: the other lifetimes are in the profiles (certs/profiles/*.toml, or `<dir>/profiles`)."""

    token_lifetime: timedelta = timedelta(minutes=10)
    root_lifetime: timedelta = timedelta(days=3650)
    issuer_lifetime: timedelta = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class BundleSettings:
    """`[bundle]`: for how long an edge may go on without hearing from the service."""

    stale_after: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """`[audit]`: for how long rows of the audit trail stay in the database, before they move to files."""

    retention: timedelta = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """`[limits]`: what strangers may ask for, and what one worker process takes on (docs/overload.md).

    Each worker counts for itself. A source is an IPv4 address or an IPv6 /64; a rate is requests a second.
    """

    reads: int = 50
    reads_burst: int = 500
    enrollments: int = 30  # begin and complete are one each
    enrollments_burst: int = 600
    failures: int = 5  # signed requests that were refused
    failures_burst: int = 100
    unlimited: tuple[str, ...] = ("127.0.0.1", "::1")  # networks that no rate holds
    trusted_proxies: tuple[str, ...] = ()  # networks whose word about the client's address counts
    proxy_header: str = "x-forwarded-for"  # or "forwarded": the one that those proxies set, and no other
    max_wait: timedelta = timedelta(seconds=5)  # for a thread
    waiting: int = 256  # requests of one class
    connections: int = 8192
    header_timeout: timedelta = timedelta(seconds=10)
    body_timeout: timedelta = timedelta(seconds=10)  # for small bodies; server.request_timeout for large ones
    send_timeout: timedelta = timedelta(seconds=30)  # for a client that takes nothing of its answer

    @property
    def networks(self) -> Mapping[str, tuple[IPv4Network | IPv6Network, ...]]:
        """`unlimited` and `trusted_proxies`, parsed. Raises SettingInvalid."""
        found = {}
        for name in ("unlimited", "trusted_proxies"):
            try:
                found[name] = tuple(ip_network(text) for text in getattr(self, name) if text)
            except ValueError as error:
                raise SettingInvalid(
                    f"limits.{name} is not a list of networks.", seen=error, expected='like ["10.0.0.0/8", "::1"]'
                ) from None
        return found


@dataclass(frozen=True, slots=True)
class KeySettings:
    """`[keys]`: files with what opens the keys (docs/keys.md), never the secrets themselves.

    `$CREDENTIALS_DIRECTORY/name` is a credential that the service manager hands over; other paths are relative to the
    instance's folder.
    """

    passphrase_file: str = ""
    pin_file: str = ""  # of the token


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """`[retention]`: what the service forgets by itself (docs/operations.md)."""

    certificates: timedelta = timedelta(days=30)  # after their end, with their revocations


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
    credentials: CredentialSettings = field(default_factory=CredentialSettings)
    bundle: BundleSettings = field(default_factory=BundleSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    keys: KeySettings = field(default_factory=KeySettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    references: tuple[ReferenceSettings, ...] = ()

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
        references = document.pop("reference", [])
        sections = {
            "server": ServerSettings(),
            "database": DatabaseSettings(),
            "enrollment": EnrollmentSettings(),
            "endorsement": EndorsementSettings(),
            "attestation": AttestationSettings(),
            "credentials": CredentialSettings(),
            "bundle": BundleSettings(),
            "limits": LimitSettings(),
            "retention": RetentionSettings(),
            "keys": KeySettings(),
            "audit": AuditSettings(),
        }
        if unknown := sorted(set(document) - set(sections)):
            raise SettingInvalid("attestd.toml has unknown sections.", seen=unknown, expected=sorted(sections))
        if not isinstance(references, list):
            raise SettingInvalid("reference is a list of tables.", expected="[[reference]]")
        settings = cls(
            dir=dir,
            trust_domain=TrustDomain(domain),
            references=tuple(_reference(entry, f"reference {n}") for n, entry in enumerate(references, 1)),
            **{name: _section(name, default, document.get(name, {}), environ) for name, default in sections.items()},
        )
        _check(settings)
        return settings

    @property
    def database_url(self) -> str:
        """The URL with a relative SQLite path made absolute."""
        url = self.database.url
        if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
            return f"sqlite:///{(self.dir / url.removeprefix('sqlite:///')).resolve()}"
        return url


def parse_duration(text: object, name: str) -> timedelta:
    """`"10m"` -> ten minutes. Raises SettingInvalid."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SettingInvalid(f"{name} is not a duration.", seen=repr(text), expected='like "90s", "10m", "1h" or "7d"')
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _whole(value: object, name: str) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 1_000_000:
        raise SettingInvalid(f"{name} is not a number in range.", seen=repr(value), expected="1 to 1000000")
    return number


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > 2048:
        raise SettingInvalid(f"{name} is not a string.", seen=repr(value)[:80])
    return value


def _texts(value: object, name: str) -> tuple[str, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise SettingInvalid(f"{name} is not a list of strings.", seen=repr(value)[:80])
    return tuple(entry.strip() for entry in listed)


def _flag(value: object, name: str) -> bool:
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise SettingInvalid(f"{name} is neither true nor false.", seen=repr(value)[:80])
    return value


def _selection(value: object, name: str) -> Mapping[str, tuple[int, ...]]:
    if not isinstance(value, dict) or not value:
        raise SettingInvalid(f"{name} names no PCR bank.", expected="{ sha256 = [0, 1, 2, 3, 4, 5, 6, 7] }")
    found: dict[str, tuple[int, ...]] = {}
    for bank, indices in value.items():
        if bank not in _BANKS:
            raise SettingInvalid(f"{name} names an unknown bank.", seen=bank, expected=", ".join(_BANKS))
        if not isinstance(indices, list) or not indices or not all(type(i) is int and 0 <= i < 24 for i in indices):
            raise SettingInvalid(
                f"{name}.{bank} is not a list of PCR indices.", seen=repr(indices)[:80], expected="0 to 23"
            )
        found[bank] = tuple(sorted(set(indices)))
    return found


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "timedelta": parse_duration,
    "int": _whole,
    "str": _text,
    "bool": _flag,
    "tuple[str, ...]": _texts,
    "Mapping[str, tuple[int, ...]]": _selection,
}


def _section(section: str, default: Any, values: object, environ: Mapping[str, str]) -> Any:
    if not isinstance(values, dict):
        raise SettingInvalid(f"[{section}] is not a table.", seen=repr(values)[:80])
    known = {f.name: cast("str", f.type) for f in fields(default)}
    if unknown := sorted(set(values) - set(known)):
        raise SettingInvalid(f"[{section}] has unknown settings.", seen=unknown, expected=sorted(known))
    found: dict[str, Any] = {}
    for name, kind in known.items():
        variable = f"ATTESTD_{section}_{name}".upper()
        if variable in environ:
            found[name] = _READERS[kind](environ[variable], variable)
        elif name in values:
            found[name] = _READERS[kind](values[name], f"{section}.{name}")
    return replace(default, **found)


def _reference(entry: object, where: str) -> ReferenceSettings:
    if not isinstance(entry, dict) or set(entry) - {"name", "tier", "pcrs"} or not {"name", "pcrs"} <= set(entry):
        raise SettingInvalid(
            f"{where} is not a reference.", seen=repr(entry)[:120], expected="name, pcrs and maybe tier"
        )
    banks: dict[str, dict[int, tuple[bytes, ...]]] = {}
    for bank, values in entry["pcrs"].items() if isinstance(entry["pcrs"], dict) else ():
        if bank not in _BANKS or not isinstance(values, dict):
            raise SettingInvalid(f"{where} names an unknown bank.", seen=bank, expected=", ".join(_BANKS))
        banks[bank] = {}
        for index, digests in values.items():
            good = digests if isinstance(digests, list) else [digests]
            if not (index.isdigit() and int(index) < 24) or not good:
                raise SettingInvalid(f"{where}.pcrs.{bank}.{index} is no PCR with values.", expected="0 to 23")
            try:
                octets = tuple(bytes.fromhex(digest) for digest in good)
            except (ValueError, TypeError):
                raise SettingInvalid(f"{where}.pcrs.{bank}.{index} is not hexadecimal.", seen=repr(good)[:80]) from None
            if any(len(value) != _BANKS[bank] for value in octets):
                raise SettingInvalid(
                    f"{where}.pcrs.{bank}.{index} has the wrong length.", expected=f"{_BANKS[bank]} octets"
                )
            banks[bank][int(index)] = octets
    if not any(banks.values()):
        raise SettingInvalid(f"{where} names no PCR.", expected='[reference.pcrs.sha256]\n7 = ["…"]')
    tier = Tier.parse(_text(entry["tier"], f"{where}.tier")) if "tier" in entry else None
    return ReferenceSettings(_text(entry["name"], f"{where}.name"), banks, tier)


def _check(settings: Settings) -> None:
    server = settings.server
    host, colon, port = server.listen.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 65536):
        raise SettingInvalid(
            "server.listen is not an address.", seen=repr(server.listen), expected='like "127.0.0.1:8443"'
        )
    if server.public_url and not server.public_url.startswith("https://"):
        raise SettingInvalid("server.public_url is not https.", seen=repr(server.public_url), expected="https://…")
    settings.limits.networks  # noqa: B018 - raises
    if settings.limits.proxy_header not in ("x-forwarded-for", "forwarded"):
        raise SettingInvalid(
            "limits.proxy_header is none that is understood.",
            seen=repr(settings.limits.proxy_header)[:80],
            expected="x-forwarded-for or forwarded",
        )
    for reference in settings.references:
        for bank, values in reference.pcrs.items():
            missing = sorted(set(values) - set(settings.attestation.pcrs.get(bank, ())))
            if missing:
                raise SettingInvalid(
                    f"Reference {reference.name!r} speaks of PCRs that quotes do not cover.",
                    seen=f"{bank} {missing}",
                    expected=f"attestation.pcrs to name them ({bank} {settings.attestation.pcrs.get(bank, ())})",
                )
