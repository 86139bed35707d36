"""The sections of attestd.toml, with their defaults; frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network

from attestd.config.values import SettingInvalid
from attestd.ids import Tier


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

    @property
    def status_list(self) -> str:
        """Where other relying parties find the states of all devices; tokens name it."""
        return f"{self.url}/v1/status-list"

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
    """`[attestation]`: how long a good result stands, whether it frees a device; which PCRs a quote must cover and
    which logs come with it, besides those that reference manifests speak of.

    `overdue_after`: for how long a result may have ended before the device is told as overdue. `demand_within`: for how
    long a result stands at most, once an operator wants another one.
    """

    validity: timedelta = timedelta(hours=4)
    pcrs: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"sha256": (0, 1, 2, 3, 4, 5, 6, 7)})
    logs: tuple[str, ...] = ()  # "eventlog", "ima"
    release_after_good: bool = False
    overdue_after: timedelta = timedelta(minutes=5)
    demand_within: timedelta = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class BrakeSettings:
    """`[brake]`: how many devices a minute may be quarantined by their results (docs/operations.md, "The brake").

    `devices`, or `share` of the active ones if that is less; never fewer than `least`.
    """

    enabled: bool = True
    devices: int = 100
    share: float = 0.1
    least: int = 3

    def limit(self, active: int) -> int:
        """For so many active devices."""
        return min(self.devices, max(self.least, int(active * self.share)))


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
class DistributionSettings:
    """`[distribution]`: where bundles are published besides the service's own doors (docs/nats.md). Files are relative
    to the instance's folder."""

    nats: str = ""  # tls://<host>:<port>; empty: nowhere
    ca: str = ""  # that nats-server's certificate is checked by
    credentials: str = "distribution/publish.seed"  # or a .creds file
    certificate: str = ""  # shown to a nats-server that demands one, with its key
    key: str = ""


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """`[edges]`: when an edge counts as silent, and as behind (docs/sites.md).

    `behind_after`: for how long a newer bundle may have been out. `named_in_metrics`: /metrics, which is public, shows
    each edge's name and the age of its bundle.
    """

    silent_after: timedelta = timedelta(minutes=3)
    behind_after: timedelta = timedelta(seconds=30)
    named_in_metrics: bool = False


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
    attestations: timedelta = timedelta(days=400)  # what they came to, after it changed
    receipts: timedelta = timedelta(days=365)  # after they came; where their chains stand is kept for ever
    edge_counts: timedelta = timedelta(days=14)  # what edges decided, by hour; their totals are kept for ever
    sessions: timedelta = timedelta(days=30)  # of the console, after their end; invitations after theirs


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """`[console]`: the web console, and for how long somebody stays signed in (docs/sign-in.md)."""

    enabled: bool = True
    # Where browsers find the console; empty: the service's own address. Passkeys belong to its host name.
    origin: str = ""
    session_lifetime: timedelta = timedelta(hours=8)
    idle_timeout: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """`[console.oidc.NAME]`: an OpenID provider that people sign in with (docs/sign-in.md).

    `roles`: which values of the claim `roles_claim` give which role, the highest one counts; none: only who was invited
    comes in.
    """

    name: str
    issuer: str
    client_id: str
    client_secret_file: str = ""  # relative to the instance's folder; empty: a public client
    label: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    roles_claim: str = ""
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ca: str = ""  # a file with the root that the provider's TLS leads to, if the system does not know it


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """`[[webhook]]`: who is told what happens (docs/webhooks.md). `events` are acts of the audit trail; "*" is all."""

    name: str
    url: str
    secret_file: str  # relative to the instance's folder
    events: tuple[str, ...] = ("*",)
