"""An instance's folder: making one, opening one, and putting the service's parts together. The only place that does.

<dir>/attestd.toml     settings            <dir>/registry.db      SQLite, unless another database is named
<dir>/keys/, ca/       private keys and certificates of the authority (ca/hierarchy.py)
<dir>/admin/           the first admin's key and credential
<dir>/tls/             the service's own TLS certificate, renewed by `attestd serve`
<dir>/profiles/        certificate profiles, if others than the shipped ones are wanted
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.authorities import Lifetimes
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.keyfiles import write_secret
from attestd.ca.manifest import TokenPlace
from attestd.ca.profiles import Profile, check_lifetimes, load_profiles
from attestd.ca.unlocking import Unlocking
from attestd.callers import Callers
from attestd.config import SettingInvalid, Settings
from attestd.errors import Conflict
from attestd.ids import TrustDomain
from attestd.issuance.appraising import Appraiser
from attestd.issuance.attesting import Attestations
from attestd.issuance.ears import Ears
from attestd.issuance.enrollment import Enrollment
from attestd.issuance.grants import Granter
from attestd.issuance.issuers import Issuers
from attestd.issuance.lifecycle import Lifecycle
from attestd.issuance.quarantining import Quarantines
from attestd.issuance.trust import Trust
from attestd.operations import Act, Operations
from attestd.operations.authority import Authority
from attestd.operations.certifying import Certifying
from attestd.operations.fleet import Fleet
from attestd.operations.news import Newsroom
from attestd.operations.oidc import Oidc
from attestd.operations.people import People
from attestd.operations.provider import Provider
from attestd.operations.selections import Selections
from attestd.operations.sign_in import SignIn
from attestd.operations.touch import Touch
from attestd.policy import PolicySet, default_policy
from attestd.protocol.encoding import b64encode
from attestd.publication import Publication
from attestd.registry import policies
from attestd.registry.engine import Registry
from attestd.registry.operators import Role
from attestd.web.service import Service

ADMIN = "admin"
_FILE = "sqlite:///"
OWN_FILE = f"{_FILE}registry.db"  # in the instance's folder
_DELIVERED = "$CREDENTIALS_DIRECTORY/"


class InstanceExists(Conflict):
    """There is an instance here already"""

    remedy = "Use it, or name another folder with --dir. An instance is never overwritten."


class DatabaseInUse(Conflict):
    """This database holds another instance's registry"""

    remedy = "Give the new instance an empty database of its own: `createdb`. A registry is never overwritten."


@dataclass(frozen=True, slots=True)
class Instance:
    """An opened instance: its settings and everything made from them."""

    settings: Settings
    hierarchy: Hierarchy
    profiles: Mapping[str, Profile]
    registry: Registry
    service: Service


def now() -> datetime:
    """The one clock of the service's entry points."""
    return datetime.now(UTC)


def open_instance(
    dir: Path,
    environ: Mapping[str, str],
    *,
    clock: Callable[[], datetime] = now,
    ask: Callable[[], bytes] | None = None,
    waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Instance:
    """Reads settings, keys and database, checks that lifetimes nest, and wires the service.

    `waiting` is entered around all that the registry waits for. Raises Misconfigured's children, each with what is
    wrong and how to mend it.
    """
    settings = Settings.load(dir, environ)
    profiles = profiles_of(settings)
    hierarchy = Hierarchy.load(dir, unlocking_of(settings, environ, ask=ask))
    registry = Registry.open(settings.database_url, waiting=waiting)
    appraiser = Appraiser(settings, registry)
    quarantines = Quarantines(registry, settings.brake)
    entropy = os.urandom
    granter = Granter(settings.trust_domain, hierarchy, profiles, entropy)
    ears = Ears(hierarchy, settings.server.url)
    trust = Trust(registry, settings.endorsement, issuers=Issuers(settings.endorsement, waiting=waiting))
    sign_in = SignIn(settings, registry, hierarchy.sealing, entropy)
    service = Service(
        settings=settings,
        registry=registry,
        enrollment=Enrollment(
            settings, registry, hierarchy.sealing, granter, ears, trust, appraiser, entropy, quarantines
        ),
        attestations=Attestations(settings, registry, hierarchy.sealing, granter, ears, appraiser, quarantines),
        lifecycle=Lifecycle(
            settings,
            registry,
            hierarchy,
            hierarchy.sealing,
            granter,
            _PolicyInForce(registry),
            entropy,
        ),
        operations=Operations(settings, registry, entropy),
        certifying=Certifying(settings, registry, hierarchy, profiles, entropy),
        fleet=Fleet(settings, registry, quarantines),
        selections=Selections(settings, registry),
        authority=Authority(settings, registry, lambda: hierarchy.sealing.places),
        sign_in=sign_in,
        oidc=Oidc(sign_in, {each.name: Provider(each, settings.dir, waiting=waiting) for each in settings.providers}),
        people=People(sign_in),
        touch=Touch(sign_in),
        callers=Callers(registry, hierarchy.sealing, settings.console.idle_timeout),
        newsroom=Newsroom(registry),
        publication=Publication(settings, registry, hierarchy),
        clock=clock,
        entropy=entropy,
    )
    return Instance(settings, hierarchy, profiles, registry, service)


def unlocking_of(
    settings: Settings, environ: Mapping[str, str], *, ask: Callable[[], bytes] | None = None
) -> Unlocking:
    """Where passphrase and PIN come from. `ask` is for a person who has no credentials from the service manager."""
    delivered = environ.get("CREDENTIALS_DIRECTORY")

    def path(text: str) -> Path | None:
        if text.startswith(_DELIVERED):
            return None if delivered is None else Path(delivered, text.removeprefix(_DELIVERED))
        return settings.dir / text if text else None

    return Unlocking(
        passphrase_file=path(settings.keys.passphrase_file),
        pin_file=path(settings.keys.pin_file),
        delivered_in=None if delivered is None else Path(delivered),
        ask=ask,
    )


def profiles_of(settings: Settings) -> Mapping[str, Profile]:
    """The instance's certificate profiles, with lifetimes that nest. Raises LifetimesContradict."""
    own = settings.dir / "profiles"
    profiles = load_profiles(own if own.is_dir() else None)
    check_lifetimes(
        profiles,
        root=settings.credentials.root_lifetime,
        issuer=settings.credentials.issuer_lifetime,
        attestation_validity=settings.attestation.validity,
        token_lifetime=settings.credentials.token_lifetime,
    )
    return profiles


class _PolicyInForce:
    """The newest policy, parsed once a version."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._parsed: PolicySet | None = None

    def __call__(self) -> PolicySet:
        with self._registry.reading() as c:
            stored = policies.latest(c)
        parsed = self._parsed
        if parsed is None or parsed.version != stored.version:
            parsed = self._parsed = PolicySet.parse(stored.text, stored.version)
        return parsed


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """How a new instance keeps its keys. `passphrase_file` and `pin_file` are what attestd.toml will name.

    `passphrase` is what a person typed, where the file will only be there for the service.
    """

    passphrase_file: str = ""
    pin_file: str = ""
    passphrase: bytes | None = field(default=None, repr=False)
    place: TokenPlace | None = None

    @property
    def section(self) -> str:
        """`[keys]` in attestd.toml, or nothing."""
        named = {"passphrase_file": self.passphrase_file, "pin_file": self.pin_file}
        lines = [f"{name} = {json.dumps(value)}" for name, value in named.items() if value]
        return "\n".join(["", "[keys]", *lines, ""]) if lines else ""


PLAIN_KEYS = KeyChoice()


def create_instance(
    dir: Path,
    trust_domain: TrustDomain,
    *,
    listen: str,
    environ: Mapping[str, str],
    keys: KeyChoice = PLAIN_KEYS,
    database: str = OWN_FILE,
) -> Instance:
    """Makes a new instance: settings, authority, database, first policy, first admin.

    It is made beside `dir` and renamed at the end, so that a power cut leaves no half of one. `database` is a URL, kept
    in the settings; ATTESTD_DATABASE_URL has precedence, as ever. Raises InstanceExists, DatabaseInUse.
    """
    if dir.exists() and (not dir.is_dir() or any(dir.iterdir())):
        raise InstanceExists(f"{dir} is not empty.", expected="an empty or absent folder")
    database = environ.get("ATTESTD_DATABASE_URL", database)
    dir.parent.mkdir(parents=True, exist_ok=True)
    typed = keys.passphrase
    ask = None if typed is None else (lambda: typed)
    draft = Path(tempfile.mkdtemp(prefix=f".{dir.name}-", dir=dir.parent))  # 0700
    try:
        text = _SETTINGS.format(trust_domain=trust_domain, listen=listen, database=json.dumps(database)) + keys.section
        (draft / "attestd.toml").touch(0o600)  # the database's URL may hold a password
        (draft / "attestd.toml").write_text(text, "utf-8")
        settings = Settings.load(draft, environ)
        profiles_of(settings)  # lifetimes are checked before anything is signed with them
        at = now()
        create_hierarchy(
            draft,
            trust_domain,
            now=at,
            entropy=os.urandom,
            lifetimes=Lifetimes(root=settings.credentials.root_lifetime, issuer=settings.credentials.issuer_lifetime),
            unlocking=unlocking_of(settings, environ, ask=ask),
            encrypt=bool(keys.passphrase_file),
            place=keys.place,
        )
        registry = _new_registry(settings.database_url)
        with registry.acting() as c:
            text = default_policy()
            policies.add(c, text=text, created_by="attestd init", now=int(at.timestamp()), expected_version=0)
        registry.close()
        instance = open_instance(draft, environ, ask=ask)
        renew_admin(instance, at)
        instance.registry.close()
        draft.rename(dir)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return open_instance(dir, environ, ask=ask)


def _new_registry(url: str) -> Registry:
    """The tables, where nobody has made any. Raises DatabaseInUse."""
    if not url.startswith(_FILE):
        registry = Registry(url)
        seen = registry.schema()
        registry.close()
        if seen is not None:
            raise DatabaseInUse("The database has tables already.", seen=f"a registry of revision {seen}")
    return Registry.open(url, create=True)


def name_passphrase_file(dir: Path, file: Path) -> None:
    """Writes `[keys] passphrase_file` into attestd.toml. Raises SettingInvalid if it names another already."""
    path = dir / "attestd.toml"
    named = Settings.load(dir, {}).keys.passphrase_file
    if named == str(file.resolve()):
        return
    text = path.read_text("utf-8")
    if named or re.search(r"(?m)^\s*\[\s*keys\s*\]", text):
        raise SettingInvalid(
            "attestd.toml has a section [keys] already.",
            seen=named or "no passphrase_file",
            expected=f"passphrase_file = {json.dumps(str(file.resolve()))}",
            remedy="Name the file there, and leave --passphrase-file out.",
        )
    replace_secret(path, (text + KeyChoice(passphrase_file=str(file.resolve())).section).encode("utf-8"))


def renew_admin(instance: Instance, at: datetime) -> None:
    """A fresh key and credential for the first admin, kept in the instance's folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    act = Act(actor="attestd init", now=at, request_id="local")
    chain = instance.service.certifying.register_operator(ADMIN, Role.ADMIN, key.public_key(), act)
    folder = instance.settings.dir / "admin"
    folder.mkdir(mode=0o700, exist_ok=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    credential = chain + instance.service.publication.root_pem  # whole, so that it serves from another machine too
    for name, data in (("admin.key", pem), ("admin.pem", credential.encode("ascii"))):
        replace_secret(folder / name, data)


def first_link(instance: Instance, at: datetime) -> str:
    """A one-time link by which the first admin signs in to the console; good for a day."""
    act = Act(actor="attestd init", now=at, request_id="local")
    token, _ = instance.service.people.invite(ADMIN, Role.ADMIN, act)
    return f"{instance.settings.console_origin}/first/{b64encode(token)}"


def replace_secret(path: Path, data: bytes) -> None:
    """Writes a file that only its owner reads, over one that may exist: a power cut leaves the old or the new."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    write_secret(draft, data, entropy=os.urandom)
    draft.replace(path)


_SETTINGS = """\
# An attestd instance. Durations are written "90s", "10m", "1h", "7d". What is left out has the value shown behind `#`.
trust_domain = "{trust_domain}"

[server]
listen = "{listen}"
# What devices put into their signed requests; set it when the service is reached under another name.
# public_url = "https://attestd.example.org"
# names = ["localhost", "127.0.0.1"]
# workers = 2

[database]
url = {database}

[attestation]
# How long a good attestation counts, and which PCRs a quote must cover.
# validity = "4h"
# pcrs = {{ sha256 = [0, 1, 2, 3, 4, 5, 6, 7] }}

# The web console: where browsers find it, and for how long somebody stays signed in (docs/sign-in.md).
# [console]
# origin = "https://attestd.example.org"
# session_lifetime = "8h"
# idle_timeout = "30m"

# Behind a proxy that ends TLS: whose word about a client's address counts (docs/overload.md).
# [limits]
# trusted_proxies = ["10.0.0.0/24"]

# Good PCR values. Without any, nothing about a device's software is affirmed.
# [[reference]]
# name = "gateway image 12"
# tier = "device"
# [reference.pcrs.sha256]
# 7 = ["<64 hexadecimal digits>"]
"""


def describe(instance: Instance) -> dict[str, Any]:
    """What `attestd init --json` and `attestd serve --json` say."""
    return {
        "dir": str(instance.settings.dir),
        "trust_domain": str(instance.settings.trust_domain),
        "url": instance.settings.server.url,
        "root_sha256": instance.hierarchy.root.fingerprint(hashes.SHA256()).hex(),
    }
