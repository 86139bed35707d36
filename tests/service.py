"""A whole service for tests, and everybody who calls it: devices with an imitated TPM, operators, edge proxies.

    world = World(tmp_path)                            # a frozen clock, a real registry and authority, one TPM maker
    device = world.device()                            # an imitated TPM with an EK certificate of that maker
    assert device.enroll().status_code == 202          # unknown: it waits for approval
    world.approve(device)
    assert device.enroll().status_code == 200          # device.chain, device.id, device.answer
    assert device.attest().status_code == 200
    assert world.admin.post("/v1/admin/devices/import", b"…", content_type="text/csv").status_code == 200
    world.clock.advance(hours=5)

A device's steps can be taken one by one, with a lie in any of them: `begin`, `evidence`, `complete`, `signed`.
Answers are Flask test responses.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from werkzeug.test import TestResponse

from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.profiles import load_profiles
from attestd.callers import Callers
from attestd.config import DatabaseSettings, ServerSettings, Settings
from attestd.credentials.requests import SoftwareKey
from attestd.ids import Site, TrustDomain
from attestd.issuance.appraising import Appraiser
from attestd.issuance.attesting import Attestations
from attestd.issuance.ears import Ears
from attestd.issuance.enrollment import Enrollment
from attestd.issuance.grants import Granter
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
from attestd.policy import PolicySet, default_policy, edge_tokens_policy
from attestd.protocol.encoding import b64decode, read_object, write_object
from attestd.protocol.signed import sign_detached
from attestd.publication import Publication
from attestd.registry import devices, policies
from attestd.registry.acts import Step
from attestd.registry.devices import Device
from attestd.registry.engine import Connection, Registry
from attestd.registry.operators import Role
from attestd.web.app import Service, create_app
from tests import ek_ca
from tests.database import KIND, drop, fresh
from tests.described import require_described
from tests.forger import ForgedKey, Forger, forge_iak
from tests.soft_device import PCRS, URL, SoftDevice, signer

__all__ = ["PCRS", "URL", "Caller", "Clock", "SoftDevice", "World", "problem", "signer", "wire"]

TRUST_DOMAIN = TrustDomain("fleet.example")
START = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SITE = "shop-1"


class Clock:
    """Stands still until told otherwise."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **amount: float) -> datetime:
        """`advance(minutes=5)`: arguments as for timedelta."""
        self.now += timedelta(**amount)
        return self.now


@cache
def _template() -> Path:
    """An instance's folder, made once a process and copied for each test: the authority."""
    folder = Path(tempfile.mkdtemp(prefix="attestd-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    create_hierarchy(folder, TRUST_DOMAIN, now=START, entropy=os.urandom)
    return folder


def _fill(url: str) -> None:
    """Tables and the first policy."""
    registry = Registry.open(url, create=True)
    with registry.acting() as c:
        policies.add(
            c,
            text=default_policy() + edge_tokens_policy(),
            created_by="test",
            now=int(START.timestamp()),
            expected_version=0,
        )
    registry.close()


class World:
    """One instance with everybody around it. `settings` replaces sections of the settings: `enrollment=…`.

    `database` is its kind, sqlite or postgresql; else ATTESTD_TEST_DATABASE chooses.
    """

    def __init__(self, folder: Path, *, database: str = KIND, **settings: Any) -> None:
        shutil.copytree(_template(), folder, dirs_exist_ok=True)
        (folder / "keys").chmod(0o700)
        self.clock = Clock()
        server = ServerSettings(public_url=URL)
        self.url = fresh("world", _fill, folder / "registry.db", kind=database)
        self._gone = weakref.finalize(self, drop, self.url)
        self._gone.atexit = False  # the server ends with the process
        stored = DatabaseSettings(self.url)
        base = Settings(dir=folder, trust_domain=TRUST_DOMAIN, server=server, database=stored)
        self.settings = replace(base, **settings)
        self.hierarchy = Hierarchy.load(folder)
        self.registry = Registry.open(self.url)
        self.service = wire(self.settings, self.hierarchy, self.registry, self.clock)
        self.app = create_app(self.service)
        self.maker = ek_ca.maker()
        self.service.operations.add_makers(self.maker.root.certificate, self.act)
        self._callers: dict[str, Caller] = {}

    def close(self) -> None:
        self.registry.close()
        self._gone()

    def configure(self, **settings: Any) -> None:
        """Other sections of the settings from now on, as if every instance had been started anew."""
        self.settings = replace(self.settings, **settings)
        anew = wire(self.settings, self.hierarchy, self.registry, self.clock)
        for part in fields(Service):
            object.__setattr__(self.service, part.name, getattr(anew, part.name))

    @property
    def act(self) -> Act:
        """Something that happened before the test's story begins."""
        return Act(actor="test", now=self.clock(), request_id="test-setup")

    # ---- Who calls --------------------------------------------------------------------------------------------

    def device(self, forger: Forger | None = None, *, certificates: list[bytes] | None = None) -> SoftDevice:
        """A machine with a TPM of the maker that this instance trusts; `certificates` [] leaves the EK's out."""
        forger = forger or Forger()
        if certificates is None:
            leaf = self.maker.intermediate.ek_certificate(forger.ek.private.public_key())
            certificates = self.maker.chain(leaf)
        return SoftDevice(self, forger, certificates)

    def identified(
        self, iak: ForgedKey | None = None, form: Callable[[ek_ca.Form], ek_ca.Form] | None = None
    ) -> SoftDevice:
        """A machine that enrolls by an IAK that the maker certified; `form` changes its certificate."""
        iak = iak or forge_iak()
        certificate = self.maker.intermediate.iak_form(iak.private.public_key())
        leaf = (form or (lambda unchanged: unchanged))(certificate).sign(self.maker.intermediate.key)
        device = SoftDevice(self, Forger(), self.maker.chain(leaf))
        device.iak = iak
        return device

    def enrolled(self, **approval: Any) -> SoftDevice:
        """A device with credentials."""
        device = self.device()
        assert device.enroll().status_code == 202
        self.approve(device, **approval)
        answer = device.enroll()
        assert answer.status_code == 200, answer.text
        return device

    def caller(self, role: str) -> Caller:
        """An operator with this role (viewer, operator, admin), or a proxy; always the same one."""
        if role not in self._callers:
            self._callers[role] = self.new_caller(role)
        return self._callers[role]

    def add_caller(self, kind: str, caller: Caller) -> None:
        """`caller(kind)` is this one from now on."""
        self._callers[kind] = caller

    def new_caller(self, role: str, name: str | None = None) -> Caller:
        key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
        if role == "proxy":
            pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
            self.service.certifying.add_proxy(name or "proxy-1", Site(SITE), pem, self.act)
        else:
            self.service.certifying.register_operator(name or f"{role}-1", Role(role), key.public_key, self.act)
        return Caller(self, key)

    @property
    def admin(self) -> Caller:
        return self.caller("admin")

    @property
    def operator(self) -> Caller:
        return self.caller("operator")

    @property
    def viewer(self) -> Caller:
        return self.caller("viewer")

    @property
    def proxy(self) -> Caller:
        return self.caller("proxy")

    # ---- Shortcuts --------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: bytes = b"", **options: Any) -> TestResponse:
        """An unsigned request. Its answer must be as the service describes it (tests/described.py)."""
        answer = self.app.test_client().open(path, method=method, data=body or None, **options)
        require_described(method, path.partition("?")[0], answer)
        return answer

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.request("GET", path, **options)

    def post(self, path: str, body: bytes, *, content_type: str = "application/json", **options: Any) -> TestResponse:
        return self.request("POST", path, body, content_type=content_type, **options)

    def nonce(self) -> bytes:
        return b64decode(self.get("/v1/nonce").headers["Replay-Nonce"])

    def approve(self, device: SoftDevice, *, tier: str = "device", site: str = SITE, **more: Any) -> TestResponse:
        message = {"v": 1, "tier": tier, "site": site, **more}
        return self.operator.post(f"/v1/admin/devices/{self.row(device).id}/approve", message)

    def row(self, device: SoftDevice) -> Device:
        """What the registry knows of it."""
        with self.registry.reading() as c:
            found = devices.by_ek_hash(c, device.ek_hash)
        assert found is not None, "the registry does not know this device"
        return found


def wire(settings: Settings, hierarchy: Hierarchy, registry: Registry, clock: Callable[[], datetime]) -> Service:
    """The parts put together as `attestd serve` does."""
    entropy = os.urandom
    profiles = load_profiles()
    granter = Granter(settings.trust_domain, hierarchy, profiles, entropy)

    def policy() -> PolicySet:
        with registry.reading() as c:
            stored = policies.latest(c)
        return PolicySet.parse(stored.text, stored.version)

    ears = Ears(hierarchy, settings.server.url)
    trust = Trust(registry, settings.endorsement)
    appraiser = Appraiser(settings, registry)
    quarantines = Quarantines(registry, settings.brake)
    sign_in = SignIn(settings, registry, hierarchy.sealing, entropy)
    return Service(
        settings=settings,
        registry=registry,
        enrollment=Enrollment(
            settings, registry, hierarchy.sealing, granter, ears, trust, appraiser, entropy, quarantines
        ),
        attestations=Attestations(settings, registry, hierarchy.sealing, granter, ears, appraiser, quarantines),
        lifecycle=Lifecycle(settings, registry, hierarchy, hierarchy.sealing, granter, policy, entropy),
        operations=Operations(settings, registry, entropy),
        certifying=Certifying(settings, registry, hierarchy, profiles, entropy),
        fleet=Fleet(settings, registry, quarantines),
        selections=Selections(settings, registry),
        authority=Authority(settings, registry, lambda: hierarchy.sealing.places),
        sign_in=sign_in,
        oidc=Oidc(sign_in, {each.name: Provider(each, settings.dir) for each in settings.providers}),
        people=People(sign_in),
        touch=Touch(sign_in),
        callers=Callers(registry, hierarchy.sealing, settings.console.idle_timeout),
        newsroom=Newsroom(registry),
        publication=Publication(settings, registry, hierarchy),
        clock=clock,
        entropy=entropy,
    )


@dataclass
class Caller:
    """An operator or a proxy: ordinary requests with a signature beside them."""

    world: World
    key: SoftwareKey

    def open(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        **lies: Any,
    ) -> TestResponse:
        """`lies` replace what is signed: url, nonce, kid, alg, sign, signed_method, signed_body."""
        told = {**(headers or {}), "Authorization": self.authorize(method, path, body, **lies)}
        return self.world.request(method, path, body, headers=told, content_type=content_type)

    def authorize(self, method: str, path: str, body: bytes = b"", **lies: Any) -> str:
        """The Authorization header of such a call."""
        said: dict[str, Any] = {
            "sign": self.key.sign,
            "alg": "ES256",
            "kid": self.key.thumbprint,
            "method": lies.pop("signed_method", method),
            "url": URL + path,
            "nonce": b"" if "nonce" in lies else self.world.nonce(),
        }
        return sign_detached(lies.pop("signed_body", body), **said | lies)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.open("GET", path, **options)

    def post(
        self, path: str, message: Mapping[str, Any] | bytes, *, content_type: str = "application/json", **options: Any
    ) -> TestResponse:
        body = message if isinstance(message, bytes) else write_object(message)
        return self.open("POST", path, body, content_type=content_type, **options)

    def put(self, path: str, message: Mapping[str, Any], **options: Any) -> TestResponse:
        return self.open("PUT", path, write_object(message), content_type="application/json", **options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self.open("DELETE", path, **options)


def problem(answer: TestResponse) -> str:
    """The problem's name, of an answer that is one in every respect."""
    document = read_object(answer.data, limit=64 * 1024)
    assert answer.content_type == "application/problem+json"
    assert document["status"] == answer.status_code
    assert document["request_id"] == answer.headers["X-Request-Id"]
    assert all(document[name] for name in ("title", "detail", "remedy"))
    return str(document["type"]).removeprefix("urn:attestd:problem:")


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """`happens` is committed by somebody else after the checks, just before the next transaction begins."""
    acting, act = Registry.acting, Registry.act
    done: list[bool] = []

    def first() -> None:
        if not done:
            done.append(True)
            happens()

    def late(registry: Registry) -> AbstractContextManager[Connection]:
        first()
        return acting(registry)

    def late_act(registry: Registry, *steps: Step) -> None:
        first()
        act(registry, *steps)

    monkeypatch.setattr(Registry, "acting", late)
    monkeypatch.setattr(Registry, "act", late_act)
