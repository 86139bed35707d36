"""Two services on one database: any finishes what another began, and 64 clients at once get nothing twice."""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select

from attestd.ca.keyfiles import read_secret
from attestd.credentials.requests import SoftwareKey
from attestd.policy import default_policy, edge_tokens_policy
from attestd.protocol.derivations import completion_proof
from attestd.protocol.encoding import b64decode, read_object
from attestd.protocol.messages import CompleteRequest, RenewalRequest, TokenRequest
from attestd.registry import tables
from attestd.registry.engine import Registry
from tests import ek_ca
from tests.chaos.invariants import check_registry
from tests.chaos.load import Answer, Operator, Proxy
from tests.chaos.served import Served, _free_port
from tests.database import drop
from tests.forger import Forger, forge_ck
from tests.postgres import require_postgres, shared
from tests.service import SITE, URL
from tests.soft_device import SoftDevice

pytestmark = [pytest.mark.once, pytest.mark.timeout(300)]  # it names the kinds of database by itself

CLIENTS = 64
_T = TypeVar("_T")


class Door:
    """One service, in the place of a `World`; for any number of threads."""

    def __init__(self, served: Served) -> None:
        self._client = httpx.Client(
            base_url=served.url,
            verify=ssl.create_default_context(cafile=str(served.folder / "ca" / "root.pem")),
            timeout=60.0,
            headers={"Host": URL.removeprefix("https://")},  # the name that requests are signed for
            limits=httpx.Limits(max_connections=CLIENTS),
        )

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, path: str, body: bytes, *, content_type: str = "application/json", **options: Any) -> Answer:
        return self.request("POST", path, body, content_type=content_type, **options)

    def nonce(self) -> bytes:
        return b64decode(self.get("/v1/nonce").headers["Replay-Nonce"])

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Answer:
        sent = dict(headers or {}) | ({} if content_type is None else {"Content-Type": content_type})
        answer = self._client.request(method, path, content=body or None, headers=sent)
        return Answer(answer.status_code, answer.headers, answer.content)

    def close(self) -> None:
        self._client.close()


@dataclass
class Fleet:
    """Two services, A and B, on one database, and an operator who calls A."""

    a: Door
    b: Door
    operator: Operator
    registry: Registry

    @property
    def doors(self) -> Iterator[Door]:
        """The one and the other, for ever."""
        return cycle((self.a, self.b))

    def device(self, door: Door, forger: Forger | None = None) -> SoftDevice:
        forger, maker = forger or Forger(), ek_ca.maker()
        leaf = maker.intermediate.ek_certificate(forger.ek.private.public_key())
        return SoftDevice(door, forger, maker.chain(leaf))  # type: ignore[arg-type]

    def approve_all(self) -> None:
        self.operator.tidy()

    def enrolled(self, door: Door) -> SoftDevice:
        device = self.device(door)
        assert device.enroll().status_code == 202
        self.approve_all()
        assert device.enroll().status_code == 200
        return device

    def rows(self, table: Any, *wanted: Any) -> list[Any]:
        with self.registry.reading() as c:
            return list(c.execute(select(table).where(*wanted)))

    def count(self, table: Any) -> int:
        with self.registry.reading() as c:
            return int(c.execute(select(func.count()).select_from(table)).scalar_one())


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if request.param == "postgresql":
        require_postgres()
    database = shared().fresh_database() if request.param == "postgresql" else ""
    folder = tmp_path_factory.mktemp("services") / "instance"
    first = Served.make(folder, database=database)
    services = [first, Served(folder, _free_port(), folder / "log-b", first.environ)]
    try:
        for served in services:  # both at the same moment, as after a power cut
            served.environ = {**served.environ, "ATTESTD_SERVER_WORKERS": "1", "ATTESTD_SERVER_THREADS": "16"}
            served.start(wait=False)
        for served in services:
            served.wait()
        yield from _run(services)
        assert not "".join(served.failures for served in services)
    finally:
        for served in services:
            served.close()
        if database:
            drop(database)


def _run(services: list[Served]) -> Iterator[Fleet]:
    folder = services[0].folder
    a, b = (Door(served) for served in services)
    key = SoftwareKey.from_pem(read_secret(folder / "admin" / "admin.key", limit=16 * 1024))
    registry = services[0].registry()
    fleet = Fleet(a, b, Operator(a, key, random.Random(1)), registry)  # type: ignore[arg-type]
    fleet.operator.trust(ek_ca.maker().root.certificate)
    fleet.operator.permit_tokens(default_policy() + edge_tokens_policy())
    yield fleet
    check_registry(registry)
    a.close()
    b.close()
    registry.close()


def at_once(acts: Sequence[Callable[[], _T]]) -> list[_T]:
    """All of them at the same moment, each on a thread of its own."""
    start = threading.Barrier(len(acts))
    outcomes: list[Any] = [None] * len(acts)

    def run(number: int) -> None:
        start.wait(30)
        outcomes[number] = acts[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert None not in outcomes
    return outcomes


# ---- What one began, another finishes ---------------------------------------------------------------------------


def test_a_challenge_of_one_is_completed_at_another_and_retried_at_the_first(fleet: Fleet) -> None:
    device = fleet.device(fleet.a)
    challenge = device.begin()
    device.world = fleet.b  # type: ignore[assignment]
    assert device.complete(challenge).status_code == 202
    fleet.approve_all()
    challenge = device.begin()
    device.world = fleet.a  # type: ignore[assignment]
    first = device.complete(challenge)
    assert first.status_code == 200
    device.world = fleet.b  # type: ignore[assignment]
    again = device.resend()
    assert (again.status_code, again.data) == (200, first.data)


def test_a_nonce_of_one_is_used_at_another_and_then_nowhere(fleet: Fleet) -> None:
    device = fleet.enrolled(fleet.a)
    nonce = fleet.a.nonce()
    device.world = fleet.b  # type: ignore[assignment]
    assert device.renew(nonce=nonce).status_code == 200
    device.world = fleet.a  # type: ignore[assignment]
    refused: Any = device.token(nonce=nonce)
    assert (refused.status_code, refused.problem) == (401, "nonce-spent")


def test_a_quarantine_at_one_is_seen_at_another_at_once(fleet: Fleet) -> None:
    device = fleet.enrolled(fleet.b)
    key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    fleet.operator.add_proxy("proxy-quarantine", key)
    proxies = [Proxy(door, key) for door in (fleet.a, fleet.b)]  # type: ignore[arg-type]
    before = proxies[1].bundle()
    assert fleet.operator.act("quarantine", device.id).status_code == 200
    refused: Any = device.renew()
    assert (refused.status_code, refused.problem) == (403, "device-quarantined")
    after = [proxy.bundle() for proxy in reversed(proxies)]
    assert after[0].data != before.data
    assert after[0].data == after[1].data


def test_no_two_bundles_have_one_version(fleet: Fleet) -> None:
    device = fleet.enrolled(fleet.a)
    key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    fleet.operator.add_proxy("proxy-versions", key)
    ended = threading.Event()

    def change() -> list[tuple[str, bytes]]:
        try:
            for _ in range(10):
                for verb in ("quarantine", "release"):
                    assert fleet.operator.act(verb, device.id).status_code == 200
        finally:
            ended.set()
        return []

    def fetch(door: Door) -> list[tuple[str, bytes]]:
        proxy = Proxy(door, key)  # type: ignore[arg-type]
        found = []
        while not ended.is_set():
            answer = proxy.bundle()
            assert answer.status_code == 200, answer.text
            found.append((answer.headers["ETag"], answer.data))
        return found

    seen = at_once([change, *(partial(fetch, door) for door in (fleet.a, fleet.b) * 2)])
    bundles: dict[str, bytes] = {}
    for series in seen:
        versions = [tuple(map(int, etag.strip('"').split("."))) for etag, _ in series]
        assert versions == sorted(versions)
        for etag, data in series:
            assert bundles.setdefault(etag, data) == data
    assert len(bundles) > 2


# ---- Sixty-four at once -----------------------------------------------------------------------------------------


def test_one_challenge_is_accepted_once(fleet: Fleet) -> None:
    """Whoever sends the very same request may be told the same again; another one under this challenge is refused."""
    device = fleet.device(fleet.a)
    assert device.enroll().status_code == 202
    fleet.approve_all()
    challenge = device.begin()
    secret = device.tpm.activate(challenge.credential_blob, challenge.secret)
    requests = []
    for _ in range(4):
        device.tpm.ck = forge_ck()
        body = device.evidence(challenge).to_bytes()
        requests.append(
            CompleteRequest(challenge.challenge, body, completion_proof(secret=secret, body=body)).to_bytes()
        )
    before = fleet.count(tables.issued)
    answers = at_once(
        [
            partial(door.post, "/v1/enrollments/complete", request)
            for _, door, request in zip(range(CLIENTS), fleet.doors, cycle(requests))
        ]
    )
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.data for answer in answers if answer.status_code == 200}) == 1
    assert fleet.count(tables.issued) == before + 1
    assert len(fleet.rows(tables.spends, tables.spends.c.id == challenge.id)) == 1


def test_one_nonce_is_accepted_once(fleet: Fleet) -> None:
    device = fleet.enrolled(fleet.a)
    nonce = fleet.a.nonce()
    asked = [
        ("/v1/renewals", RenewalRequest().to_bytes()),
        ("/v1/tokens", TokenRequest("edge", "dpop").to_bytes()),
        ("/v1/tokens", TokenRequest("edge", "tls").to_bytes()),
    ]

    def ask(door: Door, path: str, payload: bytes) -> Any:
        own = SoftDevice(door, device.tpm, device.certificates)  # type: ignore[arg-type]
        return own.signed(path, payload, kid=device.id, nonce=nonce)

    answers = at_once([partial(ask, door, *what) for _, door, what in zip(range(CLIENTS), fleet.doors, cycle(asked))])
    assert {answer.status_code for answer in answers} == {200, 401}
    assert {answer.problem for answer in answers} == {"", "nonce-spent"}
    assert len({answer.data for answer in answers if answer.status_code == 200}) == 1


def test_one_tpm_is_one_device(fleet: Fleet) -> None:
    forger = Forger()
    devices = [fleet.device(door, forger) for _, door in zip(range(CLIENTS), fleet.doors, strict=False)]
    before = fleet.count(tables.devices)
    answers = at_once([device.enroll for device in devices])
    # Who came second in the same moment is told to ask again.
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert fleet.count(tables.devices) == before + 1
    assert len(fleet.rows(tables.devices, tables.devices.c.ek_hash == bytes(devices[0].ek_hash))) == 1


def test_no_index_and_no_serial_is_given_twice(fleet: Fleet) -> None:
    devices = [fleet.device(door) for _, door in zip(range(CLIENTS), fleet.doors, strict=False)]
    assert {answer.status_code for answer in at_once([device.enroll for device in devices])} == {202}
    waiting = fleet.operator.devices("pending")
    placed = {"tier": "device", "site": SITE}
    callers = [Operator(door, fleet.operator._caller.key, random.Random(1)) for door in (fleet.a, fleet.b)]  # type: ignore[arg-type]
    approved = at_once([partial(caller.act, "approve", one, **placed) for one, caller in zip(waiting, cycle(callers))])
    assert {answer.status_code for answer in approved} == {200}
    assert {answer.status_code for answer in at_once([device.enroll for device in devices])} == {200}
    renewed: list[Any] = at_once([device.renew for device in devices])
    assert {answer.status_code for answer in renewed} == {200}
    ids = {read_object(answer.data, limit=1 << 20)["device_id"] for answer in renewed}
    assert len(ids) == CLIENTS
    indices = [row.status_index for row in fleet.rows(tables.devices) if row.status_index is not None]
    assert len(set(indices)) == len(indices) >= CLIENTS
    serials = [row.serial for row in fleet.rows(tables.issued)]
    assert len(set(serials)) == len(serials) >= 2 * CLIENTS
