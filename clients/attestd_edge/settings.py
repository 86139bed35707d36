"""The edge's configuration: one TOML file, read once, every name checked; what it does not know, it refuses.

[edge]
server = "https://attestd.example.org:8443"
root = "/etc/attestd-edge/root.pem"            # the pinned root; several certificates during a rotation
trust_domain = "example.org"
state_dir = "/var/lib/attestd-edge"
key = "/var/lib/attestd-edge/proxy.key.pem"
certificate = "/var/lib/attestd-edge/proxy.pem"

[edge.push]                                     # a NATS server that brings bundles, too (docs/nats.md)
nats = "tls://nats.cloud.example.org:4222"
ca = "nats/cloud-ca.pem"
credentials = "nats/listen.seed"

[listen]                                        # for `attestd-edge serve` only
unix = "/run/attestd-edge/auth.sock"            # or: tls = "10.0.0.5:9443", certificate, key, hop_ca
mode = "0660"
group = "www-data"
certificate_header = "x-client-cert"            # or "client-cert" (RFC 9440), "x-forwarded-client-cert" (Envoy)

[envoy]                                         # for `attestd-edge envoy serve` only (docs/envoy.md)
unix = "/run/attestd-edge-envoy/envoy.sock"     # or: tls = "10.0.0.5:9444", certificate, key, hop_ca
mode = "0660"
group = "envoy"

[tokens]                                        # left out: certificates only
audience = "edge"
origins = ["https://api.example.org"]

[[boundary]]
name = "field-to-munich"
from = { tier = "device", site = "munich" }     # without a site: from every site
to = { tier = "edge", site = "munich" }
labels = { class = "telemetry" }                # of all data that crosses here
labels_from_hop = true                          # the reverse proxy tells more, in Attestd-Labels; left out: it does not
receipts = "allowed"                            # nothing crosses without one; "all": refusals get one, too
max_staleness = 900                             # seconds without news of the service; left out: the bundle's limit
when_stale = "telemetry"                        # then, what @when_stale("telemetry") permits; left out: nothing

[receipts]
octets = 268435456                              # that they may take on the disk; then nothing crosses there
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

from attestd.credentials.dpop import normal_uri
from attestd.errors import AttestdError, Misconfigured
from attestd.ids import Site, Tier, TrustDomain
from attestd.policy import Boundary
from attestd.policy.situations import LabelsMalformed, read_labels
from attestd_edge.files import read_file
from attestd_edge.hop import CertificateSource
from attestd_edge.views import Staleness

Parsed = TypeVar("Parsed")
MAX_SETTINGS = 1024 * 1024  # octets
RECEIPTS, LEAST_RECEIPTS = 256 << 20, 4 << 20  # octets of receipts on the disk
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", re.ASCII)


class SettingsInvalid(Misconfigured):
    """The edge's configuration is wrong"""

    remedy = "Correct the named setting, then try `attestd-edge check`."


class Receipted(Enum):
    """What gets a receipt at a boundary (docs/receipts.md)."""

    NOTHING = ""
    ALLOWED = "allowed"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A boundary and the labels of the data that crosses it here; `labels_from_hop`: the reverse proxy tells more."""

    boundary: Boundary
    labels: Mapping[str, str]
    labels_from_hop: bool = False
    receipts: Receipted = Receipted.NOTHING
    staleness: Staleness | None = None


@dataclass(frozen=True, slots=True)
class UnixListen:
    """Listen on a Unix socket; its permissions authenticate the hop."""

    path: Path
    mode: int
    group: str | None


@dataclass(frozen=True, slots=True)
class TlsListen:
    """Listen with TLS; only certificates of `hop_ca` may connect."""

    host: str
    port: int
    certificate: Path
    key: Path
    hop_ca: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that an edge is told."""

    server: str
    root: Path
    trust_domain: TrustDomain
    state_dir: Path
    key: Path
    certificate: Path
    boundaries: Mapping[str, Guarded]
    audience: str | None
    origins: frozenset[str]
    listen: UnixListen | TlsListen | None
    certificate_header: CertificateSource
    nats: Mapping[str, Any] | None = None  # unread: its own room reads it (attestd_edge.nats.settings)
    folder: Path = Path()  # that relative paths begin at
    receipts_octets: int = RECEIPTS
    envoy: UnixListen | TlsListen | None = None  # where Envoy asks over gRPC
    push: Mapping[str, Any] | None = None  # unread: attestd_edge.nats.push reads it

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a TOML file; paths in it are relative to its folder. Raises FileUnreadable or SettingsInvalid."""
        try:
            members = tomllib.loads(read_file(path, limit=MAX_SETTINGS).decode("utf-8"))
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsInvalid(f"{path} is not TOML: {error}") from error
        return cls.read(members, base=path.parent)

    @classmethod
    def read(cls, members: Mapping[str, Any], *, base: Path) -> Self:
        """From TOML already parsed. Raises SettingsInvalid, which names the setting."""
        top = _Table(members, "", base)
        edge, tokens, listen = top.table("edge", required=True), top.table("tokens"), top.table("listen")
        receipts = top.table("receipts")
        envoy = top.table("envoy")
        boundaries: dict[str, Guarded] = {}
        for number, table in enumerate(top.tables("boundary"), 1):
            guarded = _boundary(table)
            if guarded.boundary.name in boundaries:
                raise SettingsInvalid(f"Boundary {number} has a name that another one has.", seen=guarded.boundary.name)
            boundaries[guarded.boundary.name] = guarded
        audience = tokens.text("audience")
        origins = frozenset(tokens.each("origins", _own_origin))
        if (audience is None) != (not origins):
            raise SettingsInvalid("tokens.audience and tokens.origins belong together.", expected="both, or neither")
        settings = cls(
            server=edge.parsed("server", read_origin),
            root=edge.path("root"),
            trust_domain=edge.parsed("trust_domain", TrustDomain),
            state_dir=edge.path("state_dir"),
            key=edge.path("key"),
            certificate=edge.path("certificate"),
            boundaries=MappingProxyType(boundaries),
            audience=audience,
            origins=origins,
            certificate_header=_certificate_header(listen),
            listen=_listen(listen),
            nats=top.unread("nats"),
            folder=base,
            receipts_octets=receipts.number("octets", default=RECEIPTS, least=LEAST_RECEIPTS),
            envoy=_listen(envoy),
            push=edge.unread("push"),
        )
        for table in (top, edge, tokens, listen, envoy, receipts):
            table.done()
        return settings


class _Table:
    """A TOML table read by name and type; `done` refuses what nobody asked for."""

    def __init__(self, members: Mapping[str, Any], where: str, base: Path) -> None:
        self._members, self._where, self._base = members, where, base
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def name(self, name: str) -> str:
        """The setting's whole name, for people."""
        return f"{self._where}.{name}".lstrip(".")

    def _take(self, name: str, kind: type[Any]) -> Any:
        self._asked.add(name)
        value = self._members.get(name)
        if value is not None and not isinstance(value, kind):
            raise SettingsInvalid(f"{self.name(name)} is of the wrong kind.", seen=type(value).__name__)
        return value

    def text(self, name: str) -> str | None:
        """A text that is not empty, or None without the setting."""
        value: str | None = self._take(name, str)
        if value == "":
            raise SettingsInvalid(f"{self.name(name)} is empty.")
        return value

    def switch(self, name: str) -> bool:
        """True or false; false without the setting."""
        value: bool = self._take(name, bool) or False
        return value

    def number(self, name: str, *, default: int, least: int) -> int:
        """A whole number of at least `least`."""
        self._asked.add(name)
        value = self._members.get(name, default)
        if type(value) is not int or value < least:
            raise SettingsInvalid(f"{self.name(name)} is not such a number.", seen=value, expected=f"at least {least}")
        return value

    def required(self, name: str) -> str:
        if (value := self.text(name)) is None:
            raise SettingsInvalid(f"{self.name(name)} is missing.")
        return value

    def path(self, name: str) -> Path:
        return self._base / self.required(name)

    def parsed(self, name: str, parse: Callable[[str], Parsed]) -> Parsed:
        """A required text as what it stands for."""
        try:
            return parse(self.required(name))
        except AttestdError as error:
            named = error.detail if self.name(name) in error.detail else f"{self.name(name)}: {error.detail}"
            raise SettingsInvalid(named, seen=error.seen, expected=error.expected) from error

    def each(self, name: str, parse: Callable[[str], Parsed]) -> list[Parsed]:
        """A list of texts as what they stand for; empty without the setting."""
        values = self._take(name, list) or []
        places = {f"{name}[{place}]": value for place, value in enumerate(values, 1)}
        return [_Table(places, self._where, self._base).parsed(place, parse) for place in places]

    def table(self, name: str, *, required: bool = False) -> _Table:
        value = self._take(name, dict)
        if value is None and required:
            raise SettingsInvalid(f"There is no [{self.name(name)}].")
        return _Table(value or {}, self.name(name), self._base)

    def unread(self, name: str) -> Mapping[str, Any] | None:
        """A table for somebody else to read."""
        value: Mapping[str, Any] | None = self._take(name, dict)
        return value

    def tables(self, name: str) -> list[_Table]:
        values = self._take(name, list) or []
        if not all(isinstance(value, dict) for value in values):
            raise SettingsInvalid(f"{self.name(name)} is not a list of tables.", expected=f"[[{self.name(name)}]]")
        return [_Table(value, f"{self.name(name)}[{place}]", self._base) for place, value in enumerate(values, 1)]

    def labels(self, name: str) -> Mapping[str, str]:
        values = self._take(name, dict) or {}
        try:
            return read_labels(values)
        except LabelsMalformed as error:
            raise SettingsInvalid(f"{self.name(name)}: {error.detail}", seen=error.seen) from error

    def done(self) -> None:
        if unknown := sorted(set(self._members) - self._asked):
            raise SettingsInvalid(
                f"{self.name(unknown[0])} is not a setting.", seen=", ".join(unknown[:5]), expected=sorted(self._asked)
            )


_LOOPBACK = re.compile(r"http://(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]+)?", re.ASCII)


def read_origin(text: str) -> str:
    """`https://host[:port]` in its normal form. Raises MalformedUri or SettingsInvalid."""
    plain = normal_uri(text).removesuffix("/")
    if plain.count("/") != 2 or "?" in text or "#" in text or not plain.startswith("https://"):
        raise SettingsInvalid("This is not an origin.", seen=repr(text[:200]), expected="https://<host>[:<port>]")
    return plain


def _own_origin(text: str) -> str:
    """As `read_origin`; without TLS on the loopback interface only, for trying things out."""
    plain = normal_uri(text).removesuffix("/")
    return plain if _LOOPBACK.fullmatch(plain) else read_origin(text)


def _boundary(table: _Table) -> Guarded:
    start, end = table.table("from", required=True), table.table("to", required=True)
    guarded = Guarded(
        Boundary(
            name=table.parsed("name", _name),
            from_tier=start.parsed("tier", Tier.parse),
            from_site=start.parsed("site", Site) if "site" in start else None,
            to_tier=end.parsed("tier", Tier.parse),
            to_site=end.parsed("site", Site),
        ),
        table.labels("labels"),
        table.switch("labels_from_hop"),
        _receipted(table),
        _staleness(table),
    )
    for used in (start, end, table):
        used.done()
    return guarded


def _name(text: str) -> str:
    return str(Site(text))  # the same spelling as a site's: it stands in paths, policies and metrics


def _receipted(table: _Table) -> Receipted:
    text = table.text("receipts")
    if text is None:
        return Receipted.NOTHING
    if text not in (Receipted.ALLOWED.value, Receipted.ALL.value):
        raise SettingsInvalid(f"{table.name('receipts')} is not known.", seen=repr(text), expected="allowed or all")
    return Receipted(text)


def _staleness(table: _Table) -> Staleness | None:
    if "max_staleness" not in table:
        if "when_stale" in table:
            raise SettingsInvalid(
                f"{table.name('when_stale')} says what happens after a time that nothing names.",
                expected=table.name("max_staleness"),
            )
        return None
    allows = table.parsed("when_stale", _name) if "when_stale" in table else None
    return Staleness(table.number("max_staleness", default=0, least=1), allows)


def _certificate_header(table: _Table) -> CertificateSource:
    text = table.text("certificate_header") or CertificateSource.NGINX.value
    known = [source.value for source in CertificateSource if source is not CertificateSource.TLS]
    if text not in known:
        raise SettingsInvalid(
            "listen.certificate_header is not one that is read here.", seen=repr(text), expected=" or ".join(known)
        )
    return CertificateSource(text)


def _listen(table: _Table) -> UnixListen | TlsListen | None:
    """Where the hop connects. There is no plain TCP: a loopback address authenticates nobody."""
    if "unix" in table and "tls" in table:
        raise SettingsInvalid(f"{table.name('unix')} and {table.name('tls')} exclude each other.")
    if "unix" in table:
        mode = table.text("mode") or "0660"
        if not re.fullmatch(r"0?[0-7]{3}", mode) or int(mode, 8) & 0o007:
            raise SettingsInvalid(
                f"{table.name('mode')} lets everybody on this machine pose as the reverse proxy, or is no mode.",
                seen=mode,
                expected="a mode such as 0660, with nothing for others",
            )
        return UnixListen(table.path("unix"), int(mode, 8), table.text("group"))
    if "tls" in table:
        match = _HOST_PORT.fullmatch(table.required("tls"))
        if match is None or int(match[2]) >= 1 << 16:
            raise SettingsInvalid(
                f"{table.name('tls')} is not an address.", seen=table.text("tls"), expected="<host>:<port>"
            )
        return TlsListen(
            host=match[1].strip("[]"),
            port=int(match[2]),
            certificate=table.path("certificate"),
            key=table.path("key"),
            hop_ca=table.path("hop_ca"),
        )
    return None
