"""The protocol's state machine: random acts of devices, operators and edges against a small model of docs/protocol.md,
section 3, written from its words and not from the code.

After every step: nothing was issued off state; every certificate given out is in the registry and the audit trail; the
status list says what the model says; versions only grow; no EK hash was told to anybody.

The short form takes the same walks every time. FUZZ_EXAMPLES makes it a longer one, with other walks each time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from werkzeug.test import TestResponse

from attestd.config import ReferenceSettings
from attestd.credentials.bundle import Bundle, verify_copy
from attestd.credentials.copies import Copy
from attestd.credentials.facts import FACTS_OID, Facts
from attestd.credentials.status import Status
from attestd.ids import DeviceId, Serial
from attestd.protocol.encoding import b64encode
from attestd.protocol.messages import BeginAnswer
from attestd.registry import audit, devices, issued
from tests.service import PCRS, TRUST_DOMAIN, SoftDevice, World

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
GOOD = ReferenceSettings("image 12", {"sha256": {0: (PCRS["sha256"][0],)}})
BAD_PCRS = {"sha256": {**PCRS["sha256"], 0: b"\xee" * 32}}
ATTESTATION_HOLDS = timedelta(hours=4)
CHALLENGE_HOLDS = timedelta(minutes=5)
DEVICES = 3

slots = st.sampled_from([0, 0, 0, 1, 1, 2])


@dataclass
class Certificate:
    """One that was given out."""

    serial: Serial
    not_after: datetime
    revoked: bool = False


@dataclass
class Model:
    """One identity as protocol.md has it. `state` None: the service has never recorded it."""

    device: SoftDevice
    state: str | None = None
    id: str = ""
    bound: bool = False  # to a tier and a site, by an approval
    certificates: list[Certificate] = field(default_factory=list)
    good_until: datetime | None = None  # the last good attestation's end, if that still counts for sure
    latest: datetime | None = None  # the same, if it counts at all
    index: int | None = None  # in the status list
    version: int = 0
    challenge: tuple[BeginAnswer, datetime] | None = None
    completions: list[tuple[bytes, bytes]] = field(default_factory=list)  # a request's octets, and the answer's


class Protocol(RuleBasedStateMachine):
    """Random walks over a whole service."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="attestd-walk-"))
        self.world = World(self.folder / "instance", references=(GOOD,))
        self.models = [Model(self.world.device()) for _ in range(DEVICES)]
        self.blocked: list[SoftDevice] = []
        self.told: list[bytes] = []
        self.given: list[str] = []  # serial numbers, in their order
        self.floor = (0, 0)
        self.audited = 0
        for role in ("viewer", "operator", "proxy"):
            self.world.caller(role)
        request = self.world.request

        def listening(*words: Any, **options: Any) -> TestResponse:
            answer = request(*words, **options)
            self.told.append(answer.data + str(answer.headers).encode())
            return answer

        self.world.request = listening  # type: ignore[method-assign]

    def teardown(self) -> None:
        self.world.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def now(self) -> datetime:
        return self.world.clock()

    # ---- What answers mean ------------------------------------------------------------------------------------

    def refused(self, answer: TestResponse) -> None:
        assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
        assert b"BEGIN CERTIFICATE" not in answer.data
        assert b'"token"' not in answer.data

    def issued(self, model: Model, answer: TestResponse) -> None:
        """A certificate came: that takes an active device, whatever was asked."""
        assert model.state == "active", f"issued to a device that is {model.state}"
        assert answer.status_code == 200, answer.text
        chain = x509.load_pem_x509_certificates(json.loads(answer.data)["chain"].encode())
        serial = Serial(chain[0].serial_number)
        facts = chain[0].extensions.get_extension_for_oid(FACTS_OID).value
        assert isinstance(facts, x509.UnrecognizedExtension)
        model.index = Facts.from_extension(facts.value).status_index
        if str(serial) not in self.given:
            self.given.append(str(serial))
            model.certificates.append(Certificate(serial, chain[0].not_valid_after_utc))

    def revoke_all(self, model: Model) -> None:
        for certificate in model.certificates:
            certificate.revoked = True

    # ---- Enrollment -------------------------------------------------------------------------------------------

    @initialize(stages=st.sampled_from([(2, 1, 0), (2, 2, 0), (2, 0, 0), (1, 0, 0), (0, 0, 0)]))
    def some_are_known(self, stages: tuple[int, ...]) -> None:
        """Walks begin with some devices waiting (1) and some active (2), or they would seldom come far."""
        for slot, stage in enumerate(stages):
            for _ in range(stage):
                if self.models[slot].state == "pending":
                    self.decide(slot, "approve")
                self.enroll(slot)

    @rule(slot=slots)
    def enroll(self, slot: int) -> None:
        """Both round trips, honestly."""
        self.begin(slot)
        if self.models[slot].challenge is not None:
            self.complete(slot, "")

    @rule(slot=slots)
    def begin(self, slot: int) -> None:
        model = self.models[slot]
        model.challenge = None
        answer = self.world.post("/v1/enrollments", model.device.begin_request().to_bytes())
        if answer.status_code == 200:
            model.challenge = BeginAnswer.parse(answer.data), self.now
        else:
            assert model.state in ("rejected", "quarantined")
            self.refused(answer)

    @precondition(lambda self: any(model.challenge for model in self.models))
    @rule(
        slot=slots,
        lie=st.sampled_from(["", "", "", "", "proof", "nonce", "id", "ek_hash", "ak_name", "ck_name", "pcrs", "body"]),
    )
    def complete(self, slot: int, lie: str) -> None:
        model = self.models[slot]
        if model.challenge is None:
            return None
        challenge, begun = model.challenge
        device = model.device
        late = self.now >= begun + CHALLENGE_HOLDS
        lies = {lie: bytes(32 if lie in ("nonce", "ek_hash") else 16 if lie == "id" else 34)}
        if lie == "pcrs":
            device.pcrs = BAD_PCRS
        body = device.evidence(challenge, **({} if lie in ("", "proof", "pcrs", "body") else lies)).to_bytes()
        device.pcrs = PCRS
        if lie == "body":
            body = body.replace(b'"quote"', b'"Quote"')
        answer = device.complete(challenge, body, proof=bytes(32) if lie == "proof" else None)
        if lie == "proof":  # spends nothing
            return self.refused(answer)
        if late:
            return self.refused(answer)
        model.challenge = None  # spent, also where the evidence is refused
        if lie not in ("", "pcrs"):
            return self.refused(answer)
        return self.completed(model, answer, contraindicated=lie == "pcrs")

    def completed(self, model: Model, answer: TestResponse, *, contraindicated: bool) -> None:
        """The evidence is genuine: the state decides."""
        if model.state in (None, "pending", "retired"):
            assert answer.status_code == 202, answer.text
            model.state = "pending"
            model.id = str(self.world.row(model.device).id)
        elif model.state in ("rejected", "quarantined"):
            self.refused(answer)
        elif contraindicated:
            self.refused(answer)
            if model.state == "active":
                model.state = "quarantined"
        else:
            self.revoke_all(model)
            model.state = "active"
            self.issued(model, answer)
            model.good_until = model.latest = self.now + ATTESTATION_HOLDS
            model.completions.append((model.device.completion, answer.data))

    @precondition(lambda self: any(model.completions for model in self.models))
    @rule(slot=slots, which=st.integers(0, 5))
    def complete_once_more(self, slot: int, which: int) -> None:
        """A retry: the very octets of the answer, or a refusal; and the octets only to a device that is active."""
        model = self.models[slot]
        if not model.completions:
            return
        request, before = model.completions[which % len(model.completions)]
        answer = self.world.post("/v1/enrollments/complete", request)
        if answer.status_code == 200:
            assert answer.data == before
            assert model.state == "active"
            serial = str(Serial(x509.load_pem_x509_certificates(json.loads(before)["chain"].encode())[0].serial_number))
            assert not next(c for c in model.certificates if str(c.serial) == serial).revoked
        else:
            self.refused(answer)

    # ---- Signed requests --------------------------------------------------------------------------------------

    @precondition(lambda self: any(model.certificates for model in self.models))
    @rule(slot=slots, lie=st.sampled_from(["", "", "pcrs", "nonce", "ak_name", "sign", "old nonce"]))
    def attest(self, slot: int, lie: str) -> None:
        model = self.models[slot]
        if model.device.answer is None:
            return None
        device = model.device
        nonce = self.world.nonce()
        if lie == "old nonce":
            self.world.clock.advance(minutes=6)
        device.pcrs = BAD_PCRS if lie == "pcrs" else PCRS
        lies = {lie: bytes(34)} if lie in ("nonce", "ak_name") else {}
        payload = device.attestation(nonce, **lies).to_bytes()
        device.pcrs = PCRS
        said: dict[str, Any] = {"sign": lambda _: bytes(64)} if lie == "sign" else {}
        answer = device.signed("/v1/attestations", payload, nonce=nonce, **said)
        if lie in ("nonce", "ak_name", "sign", "old nonce") or model.state not in ("active", "quarantined"):
            return self.refused(answer)
        if lie == "pcrs" or model.state == "quarantined":
            assert answer.status_code == 202, answer.text
            assert b"BEGIN CERTIFICATE" not in answer.data
            model.state, model.good_until = "quarantined", None
            return None
        self.issued(model, answer)
        model.good_until = model.latest = self.now + ATTESTATION_HOLDS
        return None

    @precondition(lambda self: any(model.certificates for model in self.models))
    @rule(slot=slots, what=st.sampled_from(["renew", "renew", "rekey", "token", "token"]))
    def ask(self, slot: int, what: str) -> None:
        """A renewal, a new key, or a token: with a good attestation surely, off state never."""
        model = self.models[slot]
        if model.device.answer is None:
            return None
        ask = {"renew": model.device.renew, "rekey": model.device.rekey, "token": model.device.token}[what]
        answer = ask()
        good = model.good_until is not None and self.now < model.good_until
        holds = any(not c.revoked and self.now < c.not_after for c in model.certificates)
        if answer.status_code != 200:
            assert not (model.state == "active" and good and (holds or what != "token")), answer.text
            return self.refused(answer)
        assert model.state == "active", f"{what} for a device that is {model.state}"
        assert model.latest is not None, f"{what} without an attestation"
        assert self.now < model.latest, f"{what} after the attestation's end"
        if what != "token":
            self.issued(model, answer)
        return None

    @precondition(lambda self: self.blocked)
    @rule(what=st.sampled_from(["enroll", "attest", "renew", "token"]), which=st.integers(0, 5))
    def a_replaced_tpm_comes_back(self, what: str, which: int) -> None:
        device = self.blocked[which % len(self.blocked)]
        if what == "enroll":
            begun = self.world.post("/v1/enrollments", device.begin_request().to_bytes())
            answer = begun if begun.status_code >= 400 else device.complete(BeginAnswer.parse(begun.data))
        elif device.answer is None:
            return
        else:
            answer = getattr(device, what)()
        self.refused(answer)

    # ---- Operators --------------------------------------------------------------------------------------------

    @precondition(lambda self: any(model.id for model in self.models))
    @rule(slot=slots, verb=st.sampled_from(["approve", "approve", "reject", "quarantine", "release", "retire"]))
    def decide(self, slot: int, verb: str) -> None:
        model = self.models[slot]
        if not model.id:
            return None
        message: dict[str, Any] = {"v": 1}
        if verb == "approve":
            message |= {"tier": "device", "site": "shop-1"}
        answer = self.world.operator.post(f"/v1/admin/devices/{model.id}/{verb}", message)
        table = {
            "approve": (["pending"], "approved"),
            "reject": (["pending"], "rejected"),
            "quarantine": (["active"], "quarantined"),
            "release": (["quarantined"], "active"),
            "retire": (["pending", "approved", "rejected", "active", "quarantined"], "retired"),
        }
        come_from, go_to = table[verb]
        if model.state not in come_from:
            return self.refused(answer)
        assert answer.status_code == 200, answer.text
        model.state = go_to
        model.bound = model.bound or verb == "approve"
        if verb == "retire":
            self.revoke_all(model)
            model.good_until = model.latest = None
        return None

    @precondition(lambda self: any(model.id for model in self.models))
    @rule(slot=slots, by=st.sampled_from(["a new TPM", "a new TPM", "another device's"]))
    def replace(self, slot: int, by: str) -> None:
        model = self.models[slot]
        if not model.id:
            return None
        other = self.models[(slot + 1) % DEVICES]
        new = self.world.device() if by == "a new TPM" else other.device
        message = {"v": 1, "ek_hash": new.ek_hash.hex()}
        answer = self.world.operator.post(f"/v1/admin/devices/{model.id}/replace", message)
        if not model.bound or (new is other.device and other.bound):
            return self.refused(answer)
        assert answer.status_code == 200, answer.text
        self.blocked.append(model.device)
        self.revoke_all(model)
        if new is other.device:  # nobody had approved it, and it is this device from now on
            self.models[(slot + 1) % DEVICES] = Model(self.world.device())
        model.device, model.state = new, "approved"
        model.challenge = model.good_until = model.latest = None
        return None

    @precondition(lambda self: any(model.certificates for model in self.models))
    @rule(slot=slots, which=st.integers(0, 5))
    def revoke(self, slot: int, which: int) -> None:
        model = self.models[slot]
        if not model.certificates:
            return
        certificate = model.certificates[which % len(model.certificates)]
        answer = self.world.operator.post(f"/v1/admin/credentials/{certificate.serial}/revoke", {"v": 1})
        if answer.status_code == 200:
            certificate.revoked = True
        else:
            self.refused(answer)

    @rule(minutes=st.sampled_from([1, 4, 20, 70, 250]))
    def time_passes(self, minutes: int) -> None:
        self.world.clock.advance(minutes=minutes)

    # ---- What holds at all times ------------------------------------------------------------------------------

    def bundle(self) -> Bundle:
        """As an edge fetches it, never going back."""
        answer = self.world.proxy.get("/v1/bundle")
        if answer.status_code != 200:  # the proxy slept past its own certificate
            self.world.service.certifying.renew_proxy("proxy-1", self.world.act)
            answer = self.world.proxy.get("/v1/bundle")
        root = self.world.hierarchy.root.public_bytes(Encoding.DER)
        copy = Copy.read(answer.data)
        bundle = verify_copy(copy, roots=(root,), trust_domain=TRUST_DOMAIN, floor=self.floor, now=self.now)
        self.floor = (bundle.epoch, bundle.version)
        return bundle

    @invariant()
    def the_status_list_says_what_the_model_says(self) -> None:
        bundle = self.bundle()
        wanted = {"active": Status.VALID, "quarantined": Status.SUSPENDED, "retired": Status.INVALID}
        for model in self.models:
            if model.index is None:
                continue
            status = bundle.status[model.index]
            if model.state in wanted:
                assert status is wanted[model.state], (model.state, status)
            for certificate in model.certificates:
                if certificate.revoked and self.now < certificate.not_after:
                    assert certificate.serial in bundle.revoked or status is not Status.VALID
                if model.state == "active" and not certificate.revoked:
                    assert certificate.serial not in bundle.revoked

    @invariant()
    def the_registry_says_what_the_model_says(self) -> None:
        with self.world.registry.reading() as c:
            for model in self.models:
                found = devices.by_ek_hash(c, model.device.ek_hash)
                assert (None if found is None else found.state.value) == model.state
                if found is not None:
                    assert str(found.id) == model.id
                    assert found.state_version >= model.version
                    model.version = found.state_version

    @invariant()
    def every_certificate_is_recorded(self) -> None:
        """In the registry, and in the audit trail by its serial number."""
        if self.audited == len(self.given):
            return
        with self.world.registry.reading() as c:
            rows = {str(row.detail.get("serial")) for row in audit.page(c, limit=1000)}
            for model in self.models:
                kept = (
                    {str(entry.serial) for entry in issued.page(c, device_id=DeviceId(model.id), limit=1000)}
                    if model.id
                    else set()
                )
                assert {str(certificate.serial) for certificate in model.certificates} <= kept
        assert set(self.given[self.audited :]) <= rows
        self.audited = len(self.given)

    @invariant()
    def no_ek_hash_is_told(self) -> None:
        for model in self.models:
            digest = model.device.ek_hash
            for text in self.told:
                assert digest.hex().encode() not in text
                assert b64encode(digest).encode() not in text
        self.told.clear()


SHORT = settings(max_examples=25, stateful_step_count=35, derandomize=True, database=None)
LONG = settings(max_examples=max(EXAMPLES, 1) * 4, stateful_step_count=80, derandomize=False, database=None)

TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    LONG if EXAMPLES else SHORT, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
