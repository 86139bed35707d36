"""What clients were told, and whether it is true: every answer that left the service is held against its database.

A client writes down each answer as it arrives. `settle` then looks for what stands behind it:
a certificate or token has its row, its audit row and the spent challenge or nonce that it answered; a retry got the
same octets, or a refusal that docs/protocol.md states and that the database explains; an acknowledged act of an
operator is in the audit trail.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Row, select

from attestd.ids import Serial
from attestd.protocol.derivations import request_digest
from attestd.protocol.encoding import b64decode
from attestd.protocol.messages import CompleteRequest, CredentialAnswer, TokenAnswer
from attestd.protocol.signed import SignedEnvelope
from attestd.registry import tables
from attestd.registry.engine import Registry

# What a device or an operator may be told besides success, with operators acting in between and the same request sent
# again after its answer got lost (docs/protocol.md, sections 1 to 3). Anything else is a fault of the service.
REFUSALS: Mapping[str, frozenset[str]] = {
    "/v1/enrollments": frozenset(),
    "/v1/enrollments/complete": frozenset(
        {"challenge-spent", "answer-outdated", "state-changed", "device-quarantined", "endorsement-key-blocked"}
        | {"ek-blocked", "transition-refused", "already-spent"}
    ),
    "signed": frozenset(
        {"nonce-spent", "answer-outdated", "state-changed", "device-quarantined", "device-not-active"}
        | {"device-unknown", "signature-wrong", "attestation-overdue"}
    ),
    "admin": frozenset({"call-nonce-spent", "transition-refused", "state-changed", "unknown-device", "ek-taken"}),
}
_SPENT = frozenset({"challenge-spent", "nonce-spent", "answer-outdated"})


@dataclass(frozen=True)
class Told:
    """One request and the answer that its client got in the end. `attempts` counts how often it was sent."""

    path: str
    body: bytes
    status: int
    data: bytes
    request_id: str
    attempts: int
    at: float

    @property
    def problem(self) -> str:
        """The problem's name, of a refusal."""
        return str(json.loads(self.data)["type"]).removeprefix("urn:attestd:problem:")

    @property
    def digest(self) -> bytes:
        """What the service knows the request by."""
        if self.path == "/v1/enrollments/complete":
            return request_digest(CompleteRequest.parse(self.body).body)
        return request_digest(SignedEnvelope.parse_flattened(self.body, limit=len(self.body)).signing_input)


@dataclass
class Ledger:
    """Safe for any number of clients."""

    complaints: list[str] = field(default_factory=list)  # what clients saw that must not be
    counted: Counter[str] = field(default_factory=Counter)
    _told: list[Told] = field(default_factory=list)
    _settled: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, told: Told) -> None:
        """A client's request is answered."""
        with self._lock:
            self._told.append(told)
            kind = (
                told.path if not told.path.startswith("/v1/admin/") else "/v1/admin/… " + told.path.rpartition("/")[2]
            )
            self.counted[f"{kind} {told.status}{'' if told.status < 400 else ' ' + told.problem}"] += 1
            self.counted["sent again"] += told.attempts > 1
            self.counted["sent again and answered"] += told.attempts > 1 and told.status == 200
        if told.status >= 400 and told.problem not in REFUSALS[_kind(told.path)]:
            self.complain(f"{told.path} was answered {told.status} {told.data!r}")

    def complain(self, what: str) -> None:
        with self._lock:
            self.complaints.append(what)

    def count(self, what: str) -> None:
        with self._lock:
            self.counted[what] += 1

    @property
    def answered(self) -> int:
        """How many requests were, so far."""
        return len(self._told)

    def summary(self) -> str:
        """How often clients saw what, a line each."""
        return "\n".join(f"{count:6} {what}" for what, count in sorted(self.counted.items()))

    def settle(self, registry: Registry) -> None:
        """Holds what was told since the last time against the database. Raises AssertionError with all complaints."""
        with self._lock:
            told, self._settled = self._told[self._settled :], len(self._told)
        kept = _Kept.read(registry)
        complaints = [*self.complaints, *(complaint for one in told for complaint in kept.contradict(one))]
        assert not complaints, f"{len(complaints)} complaints:\n" + "\n".join(f"- {c}" for c in complaints[:50])


def _kind(path: str) -> str:
    if path.startswith("/v1/admin/"):
        return "admin"
    return path if path in REFUSALS else "signed"


@dataclass(frozen=True)
class _Kept:
    """The registry's side."""

    issued: Mapping[str, Row[Any]]
    revoked: frozenset[str]
    spends: Mapping[bytes, Row[Any]]
    by_serial: Mapping[str, Sequence[Row[Any]]]
    by_token: Mapping[str, Row[Any]]
    by_request: Mapping[str, Row[Any]]
    acts: Mapping[str, Sequence[Row[Any]]]  # on each device
    now: float

    @classmethod
    def read(cls, registry: Registry) -> _Kept:
        now = time.time()
        with registry.reading() as c:
            audit = c.execute(select(tables.audit)).all()
            by_serial: dict[str, list[Row[Any]]] = {}
            acts: dict[str, list[Row[Any]]] = {}
            for row in audit:
                by_serial.setdefault(row.detail.get("serial", ""), []).append(row)
                acts.setdefault(row.subject, []).append(row)
            return cls(
                issued={row.serial: row for row in c.execute(select(tables.issued))},
                revoked=frozenset(row.serial for row in c.execute(select(tables.revocations))),
                spends={row.request_digest: row for row in c.execute(select(tables.spends))},
                by_serial=by_serial,
                by_token={row.detail["jti"]: row for row in audit if "jti" in row.detail},
                by_request={row.request_id: row for row in audit if row.request_id},
                acts=acts,
                now=now,
            )

    def contradict(self, told: Told) -> Iterator[str]:
        if told.status == 200 and told.path == "/v1/tokens":
            yield from self._token(told)
        elif told.status == 200 and _kind(told.path) in ("signed", "/v1/enrollments/complete"):
            yield from self._certificate(told)
        elif told.status == 200 and told.path.startswith("/v1/admin/devices/"):
            yield from self._act(told)
        elif told.status >= 400 and told.problem in _SPENT:
            yield from self._refusal(told)

    def _certificate(self, told: Told) -> Iterator[str]:
        answer = CredentialAnswer.parse(told.data)
        leaf = x509.load_pem_x509_certificates(answer.chain.encode("ascii"))[0]
        serial = str(Serial(leaf.serial_number))
        row = self.issued.get(serial)
        if row is None or row.der != leaf.public_bytes(Encoding.DER) or row.device_id != answer.device_id:
            yield f"{answer.device_id} was given certificate {serial}, which the registry does not have"
        if len(self.by_serial.get(serial, ())) != 1:
            yield f"{answer.device_id} was given certificate {serial}, and the audit trail does not say so once"
        yield from self._spent(told, answer.device_id)

    def _token(self, told: Told) -> Iterator[str]:
        claims = json.loads(b64decode(TokenAnswer.parse(told.data).token.split(".")[1]))
        if claims["jti"] not in self.by_token:
            yield f"{claims['sub']} was given token {claims['jti']}, and the audit trail does not say so"
        yield from self._spent(told, claims["sub"].rpartition("/")[2])

    def _spent(self, told: Told, device_id: str) -> Iterator[str]:
        row = self.spends.get(told.digest)
        if row is None and self.now - told.at < 60:
            yield f"{device_id} was answered on {told.path}, and what it used up is not spent"
        if row is not None and row.answer != told.data:
            yield f"{device_id} was answered on {told.path} other octets than those that are kept"

    def _act(self, told: Told) -> Iterator[str]:
        row = self.by_request.get(told.request_id)
        *_, subject, act = told.path.split("/")
        known = {"replace": "replace-tpm"}.get(act, act)
        if row is None or (row.act, row.subject) != (known, subject):
            yield f"an operator was told that {act} of {subject} is done, and the audit trail does not say so"

    def _refusal(self, told: Told) -> Iterator[str]:
        """Who is refused for having asked before must have asked before, and not be owed the answer."""
        row = self.spends.get(told.digest)
        if row is None:
            if self.now - told.at < 60:
                yield f"{told.path} was refused with {told.problem}, and nothing is spent"
        elif told.problem != "answer-outdated":
            if row.answer is not None:
                yield f"{told.path} was refused with {told.problem}, and its answer is kept"
        elif row.serial not in self.revoked and not self._disturbed(row):
            yield f"{told.path} was refused with {told.problem}, and certificate {row.serial} stands"

    def _disturbed(self, spent: Row[Any]) -> bool:
        """Whether the device left its active state since."""
        return any(
            row.act in ("quarantine", "retire", "replace-tpm") and row.at >= spent.at
            for row in self.acts.get(spent.device_id, ())
        )
