"""An instance's folder: making one, opening one, and putting the service's parts together. The only place that does.

<dir>/attestd.toml     settings            <dir>/registry.db      SQLite, unless another database is named
<dir>/keys/, ca/       private keys and certificates of the authority (ca/hierarchy.py)
<dir>/admin/           the first admin's key and credential
<dir>/tls/             the service's own TLS certificate, renewed by `attestd serve`
<dir>/profiles/        certificate profiles, if others than the shipped ones are wanted
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.authorities import Lifetimes
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.keyfiles import write_secret
from attestd.ca.profiles import Profile, check_lifetimes, load_profiles
from attestd.callers import Callers
from attestd.config import Settings
from attestd.errors import Conflict
from attestd.ids import TrustDomain
from attestd.issuance.enrollment import Enrollment
from attestd.issuance.grants import Granter
from attestd.issuance.lifecycle import Lifecycle
from attestd.issuance.trust import Trust
from attestd.operations import Act, Operations
from attestd.policy import PolicySet, default_policy
from attestd.publication import Publication
from attestd.registry import policies
from attestd.registry.engine import Registry
from attestd.registry.operators import Role
from attestd.web.app import Service

ADMIN = "admin"


class InstanceExists(Conflict):
    """There is an instance here already"""

    remedy = "Use it, or name another folder with --dir. An instance is never overwritten."


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


def open_instance(dir: Path, environ: Mapping[str, str], *, clock: Callable[[], datetime] = now) -> Instance:
    """Reads settings, keys and database, checks that lifetimes nest, and wires the service.

    Raises Misconfigured's children, each with what is wrong and how to mend it.
    """
    settings = Settings.load(dir, environ)
    profiles = profiles_of(settings)
    hierarchy = Hierarchy.load(dir)
    registry = Registry.open(settings.database_url)
    entropy = os.urandom
    granter = Granter(settings.trust_domain, hierarchy, profiles, entropy)
    service = Service(
        settings=settings,
        registry=registry,
        enrollment=Enrollment(settings, registry, hierarchy.sealing, granter, Trust(registry), entropy),
        lifecycle=Lifecycle(
            settings, registry, hierarchy, hierarchy.sealing, granter, _PolicyInForce(registry), entropy
        ),
        operations=Operations(settings, registry, hierarchy, profiles, entropy),
        callers=Callers(registry, hierarchy.sealing),
        publication=Publication(settings, registry, hierarchy),
        clock=clock,
        entropy=entropy,
    )
    return Instance(settings, hierarchy, profiles, registry, service)


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


def create_instance(dir: Path, trust_domain: TrustDomain, *, listen: str, environ: Mapping[str, str]) -> Instance:
    """Makes a new instance: settings, authority, database, first policy, first admin.

    It is made beside `dir` and renamed at the end, so that a power cut leaves no half of one. Raises InstanceExists.
    """
    if dir.exists() and (not dir.is_dir() or any(dir.iterdir())):
        raise InstanceExists(f"{dir} is not empty.", expected="an empty or absent folder")
    dir.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{dir.name}-", dir=dir.parent))  # 0700
    try:
        (draft / "attestd.toml").write_text(_SETTINGS.format(trust_domain=trust_domain, listen=listen), "utf-8")
        settings = Settings.load(draft, environ)
        profiles_of(settings)  # lifetimes are checked before anything is signed with them
        at = now()
        create_hierarchy(
            draft,
            trust_domain,
            now=at,
            entropy=os.urandom,
            lifetimes=Lifetimes(root=settings.credentials.root_lifetime, issuer=settings.credentials.issuer_lifetime),
        )
        registry = Registry.open(settings.database_url, create=True)
        with registry.acting() as c:
            text = default_policy()
            policies.add(c, text=text, created_by="attestd init", now=int(at.timestamp()), expected_version=0)
        registry.close()
        instance = open_instance(draft, environ)
        renew_admin(instance, at)
        instance.registry.close()
        draft.rename(dir)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return open_instance(dir, environ)


def renew_admin(instance: Instance, at: datetime) -> None:
    """A fresh key and credential for the first admin, kept in the instance's folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    act = Act(actor="attestd init", now=at, request_id="local")
    chain = instance.service.operations.register_operator(ADMIN, Role.ADMIN, key.public_key(), act)
    folder = instance.settings.dir / "admin"
    folder.mkdir(mode=0o700, exist_ok=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, data in (("admin.key", pem), ("admin.pem", chain.encode("ascii"))):
        replace_secret(folder / name, data)


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
url = "sqlite:///registry.db"

[attestation]
# How long a good attestation counts, and which PCRs a quote must cover.
# validity = "4h"
# pcrs = {{ sha256 = [0, 1, 2, 3, 4, 5, 6, 7] }}

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
