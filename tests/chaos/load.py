"""Who calls while things break: devices with imitated TPMs, operators, an edge proxy, over real HTTPS.

Every client keeps the protocol's promise from its side: a request whose answer got lost, or that was answered 503, is
sent again as it is, octet by octet, until it is answered. Sometimes one is sent once more although it was answered.
"""

from __future__ import annotations

import hashlib
import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.ca.keyfiles import read_secret
from attestd.credentials.requests import SoftwareKey
from attestd.protocol.encoding import b64decode
from attestd_agent.transport import TIME_LIMIT
from tests import ek_ca
from tests.chaos.ledger import Ledger, Told
from tests.forger import Forger
from tests.service import SITE, URL, Caller
from tests.soft_device import SoftDevice

_PATIENCE = 60.0  # seconds for one act, restarts of the service included
_PAUSE = 0.1  # seconds between attempts; a Retry-After is cut to it, so that a test is not spent waiting
_RETURNS = 8  # acts that bring a machine back, at most: asking, waiting, enrolling, attesting, renewing
_ECHO = 0.1  # of the answered requests are sent once more


class Unanswered(Exception):
    """Nobody answered in time."""


class Ended(Exception):
    """The load was told to stop in the middle of a request that nobody answers."""


@dataclass(frozen=True)
class Answer:
    """What `SoftDevice` and `Caller` take for a test client's response."""

    status_code: int
    headers: httpx.Headers
    data: bytes

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "replace")

    @property
    def problem(self) -> str:
        """The problem's name; empty for an answer that is none."""
        if self.status_code < 400:
            return ""
        return str(json.loads(self.data)["type"]).removeprefix("urn:attestd:problem:")

    def get_json(self) -> Any:
        return json.loads(self.data)


class Wire:
    """One client's connection, in the place of a `World`: what it is asked to send, it sends until it is answered."""

    def __init__(
        self, url: str, root: Path, ledger: Ledger, rng: random.Random, *, patience: float = _PATIENCE
    ) -> None:
        self._client = httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=str(root)),
            timeout=TIME_LIMIT,
            headers={"Host": URL.removeprefix("https://")},  # the service's public name, which requests are signed for
        )
        self._ledger = ledger
        self._rng = rng
        self._patience = patience
        self.ended = threading.Event()

    def close(self) -> None:
        self._client.close()

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
        """The answer, once there is one; without patience also one that says to ask again. Raises Unanswered, Ended."""
        sent = dict(headers or {}) | ({} if content_type is None else {"Content-Type": content_type})
        began, attempts = time.monotonic(), 0
        while True:
            attempts += 1
            answer = self._once(method, path, body, sent)
            if answer is not None and (answer.status_code not in (429, 503) or not self._patience):
                break
            if self.ended.is_set():
                raise Ended
            if time.monotonic() - began >= self._patience:
                raise Unanswered(f"{method} {path}, {attempts} times in {self._patience:g} s")
            time.sleep(_PAUSE * self._rng.uniform(0.5, 1.5))
        if method == "POST" and answer.status_code not in (429, 503):
            self._note(path, body, answer, attempts)
            if answer.status_code == 200 and self._rng.random() < _ECHO:
                self._echo(path, body, sent, answer)
        return answer

    def _once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer | None:
        """None: there was no answer."""
        try:
            answer = self._client.request(method, path, content=body or None, headers=headers)
        except httpx.TransportError as error:
            self._ledger.count(f"no answer: {type(error).__name__}")
            return None
        if answer.status_code in (429, 503):
            self._ledger.count(f"{answer.status_code} {json.loads(answer.content)['type'].rpartition(':')[2]}")
            if not answer.headers.get("Retry-After", "").isdigit() or not json.loads(answer.content).get("remedy"):
                self._ledger.complain(f"{path}: {answer.status_code} without Retry-After or remedy: {answer.content!r}")
        elif answer.status_code >= 500:
            self._ledger.complain(f"{path} was answered {answer.status_code} {answer.content!r}")
        return Answer(answer.status_code, answer.headers, answer.content)

    def _echo(self, path: str, body: bytes, headers: Mapping[str, str], first: Answer) -> None:
        """The network delivers a request twice: the same octets again, or a refusal."""
        again = self._once("POST", path, body, headers)
        if (
            again is None
            or again.status_code in (429, 503)
            or path.startswith("/v1/admin/")
            or path == "/v1/enrollments"
        ):
            return
        self._note(path, body, again, 2)
        if again.status_code == 200 and again.data != first.data:
            self._ledger.complain(f"{path}: one request had two answers")

    def _note(self, path: str, body: bytes, answer: Answer, attempts: int) -> None:
        request_id = answer.headers.get("X-Request-Id", "")
        self._ledger.note(Told(path, body, answer.status_code, answer.data, request_id, attempts, time.time()))


# ---- Devices ----------------------------------------------------------------------------------------------------


class Machine:
    """One machine that does what an agent does, for ever: enroll, and then whatever comes next."""

    def __init__(self, wire: Wire, rng: random.Random) -> None:
        self._wire = wire
        self._rng = rng
        self.device = _manufactured(wire)
        self._enrolled = False

    @property
    def id(self) -> str | None:
        return None if self.device.answer is None else self.device.id

    def step(self) -> str:
        """One act; returns what came of it: "", or the problem's name."""
        return self._judge(self._enroll() if not self._enrolled or self._rng.random() < 0.1 else self._verb())

    def _judge(self, problem: str) -> str:
        """What a problem means for this machine's next act."""
        if problem in ("signature-wrong", "device-unknown", "device-not-active"):
            self._enrolled = False  # the service holds other keys of it, or none
        if problem in ("endorsement-key-blocked", "ek-blocked"):
            self.device, self._enrolled = _manufactured(self._wire), False  # it was replaced, and is scrap
        return problem

    def insert(self, forger: Forger) -> None:
        """Another TPM is put into this machine."""
        self.device, self._enrolled = _manufactured(self._wire, forger), False

    def renew(self) -> Answer:
        return self.device.renew()  # type: ignore[return-value]

    def come_back(self) -> str:
        """What an agent does to be in order again: a renewal, after whatever it takes. "" once it is, or a problem."""
        if not self._enrolled:
            return self._judge(self._enroll()) or "enrolled anew"
        problem = self.renew().problem
        if problem == "attestation-overdue":  # let out of quarantine, say: the last attestation does not count
            return str(self.device.attest().problem) or "attested anew"
        return self._judge(problem)

    def _enroll(self) -> str:
        fresh = Forger(ek=self.device.tpm.ek)  # each enrollment makes new keys
        device = SoftDevice(self._wire, fresh, self.device.certificates)  # type: ignore[arg-type]
        answer: Any = device.enroll()
        if answer.status_code == 200:
            self.device, self._enrolled = device, True
        return answer.problem or ("pending" if answer.status_code == 202 else "")

    def _verb(self) -> str:
        verbs: list[Callable[[], Any]] = [self.device.renew, self.device.attest, self.device.rekey, self.device.token]
        verb = self._rng.choices(verbs, weights=[45, 25, 12, 18])[0]
        return str(verb().problem)


def _manufactured(wire: Wire, forger: Forger | None = None) -> SoftDevice:
    forger, maker = forger or Forger(), ek_ca.maker()
    leaf = maker.intermediate.ek_certificate(forger.ek.private.public_key())
    return SoftDevice(wire, forger, maker.chain(leaf))  # type: ignore[arg-type]


# ---- Operators --------------------------------------------------------------------------------------------------


class Operator:
    """Approves whoever waits, lets out whoever is quarantined, and disturbs the rest now and then."""

    def __init__(self, wire: Wire, key: SoftwareKey, rng: random.Random) -> None:
        self._wire = wire
        self._caller = Caller(wire, key)  # type: ignore[arg-type]
        self._rng = rng

    def devices(self, state: str) -> list[str]:
        found: Any = self._caller.get(f"/v1/admin/devices?state={state}&limit=1000")
        return [device["id"] for device in found.get_json().get("devices", [])]

    def trust(self, certificate: bytes) -> None:
        path, kind = "/v1/admin/trust", "application/pkix-cert"
        answer = self._caller.open("POST", path, certificate, content_type=kind)
        assert answer.status_code == 200, answer.text

    def act(self, verb: str, device_id: str, **more: Any) -> Answer:
        message = {"v": 1, "reason": "chaos", **more}
        return self._caller.post(f"/v1/admin/devices/{device_id}/{verb}", message)  # type: ignore[return-value]

    def add_proxy(self, name: str, key: SoftwareKey) -> str:
        """The proxy's chain (PEM)."""
        pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
        answer: Any = self._caller.post("/v1/admin/proxies", {"v": 1, "name": name, "site": SITE, "public_key": pem})
        assert answer.status_code == 201, answer.text
        return str(answer.get_json()["chain"])

    def permit_tokens(self, text: str) -> None:
        answer = self._caller.put("/v1/admin/policy", {"v": 1, "text": text})
        assert answer.status_code == 200, answer.text

    def tidy(self) -> None:
        """Nobody is left waiting or locked up."""
        for device_id in self.devices("pending"):
            self.act("approve", device_id, tier="device", site=SITE)
        for device_id in self.devices("quarantined"):
            self.act("release", device_id)

    def step(self, machines: list[Machine]) -> None:
        self.tidy()
        machine = self._rng.choice(machines)
        if machine.id is None:
            return
        verb = self._rng.choices(["quarantine", "retire", "replace", ""], weights=[40, 6, 6, 48])[0]
        if verb == "replace":
            forger = Forger()
            if self.act("replace", machine.id, ek_hash=ek_hash(forger)).status_code == 200:
                machine.insert(forger)
        elif verb:
            self.act(verb, machine.id)


def ek_hash(forger: Forger) -> str:
    """How an operator names this TPM."""
    return hashlib.sha256(forger.ek.public).hexdigest()


class Proxy:
    """An edge proxy, which takes the first answer that it gets."""

    def __init__(self, wire: Wire, key: SoftwareKey) -> None:
        self._caller = Caller(wire, key)  # type: ignore[arg-type]

    def bundle(self) -> Answer:
        return self._caller.get("/v1/bundle")  # type: ignore[return-value]


# ---- All of them ------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """Threads that call a service, each with a wire, a seed and machines of its own."""

    url: str
    folder: Path
    seed: int
    threads: int = 4
    machines_each: int = 3
    pause: float = 0.02  # seconds, on average, between a thread's acts
    ledger: Ledger = field(default_factory=Ledger)
    machines: list[Machine] = field(default_factory=list)
    _wires: list[Wire] = field(default_factory=list)
    _running: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        key = SoftwareKey.from_pem(read_secret(self.folder / "admin" / "admin.key", limit=16 * 1024))
        self.operator = Operator(self._wire(), key, self._fork())

    def _fork(self) -> random.Random:
        return random.Random(self._rng.getrandbits(64))

    def _wire(self, *, patience: float = _PATIENCE) -> Wire:
        wire = Wire(self.url, self.folder / "ca" / "root.pem", self.ledger, self._fork(), patience=patience)
        self._wires.append(wire)
        return wire

    def proxy(self, name: str = "proxy-1") -> Proxy:
        """A new edge proxy."""
        key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
        self.operator.add_proxy(name, key)
        return Proxy(self._wire(patience=0), key)

    def hasty_machine(self) -> Machine:
        """An enrolled machine, of nobody's, that takes the first answer that it gets."""
        machine = Machine(self._wire(patience=0), self._fork())
        for _ in range(100):
            if machine.step() == "" and machine.id is not None:
                return machine
            self.operator.tidy()
        raise Unanswered("the machine was not enrolled")

    def start(self) -> None:
        """Everybody begins; with new machines, if there were others before."""
        self._stop.clear()
        for _ in range(self.threads):
            wire = self._wire()
            own = [Machine(wire, self._fork()) for _ in range(self.machines_each)]
            self.machines += own
            self._run(self._drive, own, self._fork())
        self._run(self._operate, self._fork())

    def stop(self) -> None:
        """Everybody finishes the act that is in progress."""
        self._stop.set()
        for thread in self._running:
            thread.join(_PATIENCE)
        for wire in self._wires:
            wire.ended.set()
        for thread in self._running:
            thread.join(_PATIENCE)
        self._running.clear()

    def abandon(self) -> None:
        """Nobody waits for answers any more."""
        for wire in self._wires:
            wire.ended.set()
        self.close()

    def recover(self) -> None:
        """After it all, with everybody let in again: each machine renews. Raises AssertionError."""
        self.operator.tidy()
        for machine in self.machines:
            problems: list[str] = []
            while (problem := machine.come_back()) and len(problems) < _RETURNS:
                problems.append(problem)
                self.operator.tidy()
            if problem:
                raise AssertionError(f"machine {machine.id} does not come back: {', '.join(problems)}")

    def close(self) -> None:
        self.stop()
        for wire in self._wires:
            wire.close()

    def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        def guarded() -> None:
            while not self._stop.is_set():
                try:
                    work(*arguments)
                except Ended:
                    return
                except Exception as error:  # noqa: BLE001 - whatever a client trips over is a finding
                    self.ledger.complain(f"a client failed: {type(error).__name__}: {error}")
                    return

        thread = threading.Thread(target=guarded, daemon=True)
        self._running.append(thread)
        thread.start()

    def _drive(self, machines: list[Machine], rng: random.Random) -> None:
        rng.choice(machines).step()
        time.sleep(rng.expovariate(1 / self.pause))

    def _operate(self, rng: random.Random) -> None:
        self.operator.step(self.machines)
        time.sleep(rng.uniform(0.05, 0.25))
