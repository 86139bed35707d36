"""What must hold in a registry at any moment, whatever was killed: one function over the whole database.

    check_registry(registry)                        # raises RegistryBroken, with everything that is broken

Each rule is a generator of complaints in plain words. They speak of what is stored alone; what clients were told is
compared with it in `ledger`.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Row, select

from attestd.credentials.bundle import Bundle, Statement
from attestd.credentials.copies import Copy
from attestd.ids import Serial
from attestd.protocol.encoding import b64decode
from attestd.protocol.messages import CredentialAnswer
from attestd.registry import tables
from attestd.registry.devices import STATUS
from attestd.registry.engine import Registry
from attestd.registry.states import State
from attestd.tpm.objects import parse_public

# Acts on a device by the state that they leave it in, and those that issue to it.
LEADS_TO: Mapping[str, State] = {
    "ask": State.PENDING,
    "approve": State.APPROVED,
    "reject": State.REJECTED,
    "enroll": State.ACTIVE,
    "quarantine": State.QUARANTINED,
    "release": State.ACTIVE,
    "retire": State.RETIRED,
    "replace-tpm": State.APPROVED,
}
ISSUES = frozenset(
    {"enroll", "attest", "renew", "rekey", "add-proxy", "renew-proxy", "register-operator", "add-operator"}
    | {"certify-service"}
)
_KEYED = (State.ACTIVE, State.QUARANTINED)
# A used nonce is remembered for a minute longer than it was good, at the least.
_REMEMBERED = 60


class RegistryBroken(AssertionError):
    """The registry contradicts itself"""


@dataclass(frozen=True)
class Stored:
    """Everything that the rules look at, read at one moment."""

    devices: Sequence[Row[Any]]
    issued: Sequence[Row[Any]]
    revocations: Mapping[str, Row[Any]]
    spends: Sequence[Row[Any]]
    audit: Sequence[Row[Any]]
    blocked: frozenset[bytes]
    counters: Mapping[str, int]
    bundle: Row[Any] | None
    now: int  # unix seconds

    @classmethod
    def read(cls, registry: Registry, now: int) -> Stored:
        with registry.reading() as c:

            def every(table: Any, *order: Any) -> Sequence[Row[Any]]:
                return c.execute(select(table).order_by(*order)).all()

            newest = select(tables.bundles).order_by(tables.bundles.c.epoch.desc(), tables.bundles.c.version.desc())
            return cls(
                devices=every(tables.devices),
                issued=every(tables.issued, tables.issued.c.number),
                revocations={row.serial: row for row in every(tables.revocations)},
                spends=every(tables.spends),
                audit=every(tables.audit, tables.audit.c.number),
                blocked=frozenset(row.ek_hash for row in every(tables.blocked_eks)),
                counters={row.name: row.value for row in every(tables.counters)},
                bundle=c.execute(newest.limit(1)).one_or_none(),
                now=now,
            )

    def certificates_of(self) -> Mapping[str, Sequence[Row[Any]]]:
        """Each device's certificates, the oldest first."""
        found: dict[str, list[Row[Any]]] = defaultdict(list)
        for row in self.issued:
            if row.device_id is not None:
                found[row.device_id].append(row)
        return found


def check_registry(registry: Registry, *, now: int | None = None) -> None:
    """Raises RegistryBroken with everything that is broken. `now`: the service's time, if not the real one."""
    stored = Stored.read(registry, int(time.time()) if now is None else now)
    broken = [complaint for rule in RULES for complaint in rule(stored)]
    if broken:
        shown = "\n".join(f"- {complaint}" for complaint in broken[:50])
        raise RegistryBroken(f"{len(broken)} contradictions:\n{shown}")


# ---- Certificates -----------------------------------------------------------------------------------------------


def every_certificate_is_what_its_row_says(stored: Stored) -> Iterator[str]:
    for row in stored.issued:
        certificate = x509.load_der_x509_certificate(row.der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        said = (
            str(Serial(certificate.serial_number)),
            names.get_values_for_type(x509.UniformResourceIdentifier),
            int(certificate.not_valid_after_utc.timestamp()),
            hashlib.sha256(row.der).digest(),
        )
        if said != (row.serial, [row.subject], row.not_after, row.thumbprint):
            yield f"the row of certificate {row.serial} says something else than the certificate"
        if row.device_id is not None and not row.subject.endswith(f"/{row.device_id}"):
            yield f"certificate {row.serial} of device {row.device_id} names {row.subject}"


def every_certificate_has_its_audit_row_and_the_other_way_round(stored: Stored) -> Iterator[str]:
    audited = Counter(row.detail["serial"] for row in stored.audit if row.act in ISSUES and "serial" in row.detail)
    kept = {row.serial for row in stored.issued}
    for row in stored.issued:
        if audited[row.serial] != 1:
            yield f"certificate {row.serial} ({row.subject}) has {audited[row.serial]} audit rows"
    for serial in audited.keys() - kept:
        yield f"the audit trail names certificate {serial}, which is not in the registry"


def every_device_certificate_was_paid_for_once(stored: Stored) -> Iterator[str]:
    """Each has one spent challenge or nonce, with the very answer that carries it; old ones are forgotten."""
    answers: Counter[str] = Counter()
    ders = {row.serial: row.der for row in stored.issued}
    for row in stored.spends:
        if row.answer is None or b'"chain"' not in row.answer:
            continue
        leaf = x509.load_pem_x509_certificates(CredentialAnswer.parse(row.answer).chain.encode("ascii"))[0]
        answers[row.serial] += 1
        if leaf.public_bytes(Encoding.DER) != ders.get(row.serial):
            yield f"a kept answer holds another certificate than the registry's {row.serial}"
    at = {row.detail["serial"]: row.at for row in stored.audit if row.act in ISSUES and "serial" in row.detail}
    for row in stored.issued:
        forgotten = at.get(row.serial, 0) + _REMEMBERED < stored.now
        if row.device_id is not None and answers[row.serial] not in ((0, 1) if forgotten else (1,)):
            yield f"certificate {row.serial} of {row.device_id} was the answer to {answers[row.serial]} requests"


def what_was_spent_says_for_whom(stored: Stored) -> Iterator[str]:
    serials = {row.serial for row in stored.issued}
    known = {row.id for row in stored.devices}
    for row in stored.spends:
        if row.answer is not None and (row.serial not in serials or row.device_id is None):
            yield f"a spent {row.purpose} keeps an answer about certificate {row.serial}, which does not exist"
        if row.device_id is not None and row.answer is not None and row.device_id not in known:
            yield f"a spent {row.purpose} is of device {row.device_id}, which does not exist"


def revocations_are_of_certificates(stored: Stored) -> Iterator[str]:
    ends = {row.serial: row.not_after for row in stored.issued}
    for serial, row in stored.revocations.items():
        if ends.get(serial) != row.not_after:
            yield f"the revocation of {serial} fits no certificate"


def only_active_and_quarantined_devices_hold_valid_certificates(stored: Stored) -> Iterator[str]:
    certificates = stored.certificates_of()
    for device in stored.devices:
        if device.state in _KEYED:
            continue
        for row in certificates.get(device.id, ()):
            if row.not_after > stored.now and row.serial not in stored.revocations:
                yield f"device {device.id} is {device.state} and certificate {row.serial} is not revoked"


# ---- Devices ----------------------------------------------------------------------------------------------------


def no_device_is_half_enrolled(stored: Stored) -> Iterator[str]:
    """Active or quarantined: every key, an appraisal, and a newest certificate that is for its credential key."""
    certificates = stored.certificates_of()
    for device in stored.devices:
        keys = (device.ek_public, device.ak_public, device.ck_public, device.ck_name, device.result, device.attested_at)
        if device.state in _KEYED:
            if None in keys or device.attestation_good_until is None:
                yield f"device {device.id} is {device.state} without all of its keys and its appraisal"
                continue
            held = certificates.get(device.id, ())
            if not held:
                yield f"device {device.id} is {device.state} and was never issued a certificate"
            elif _key_of(held[-1].der) != _spki(parse_public(device.ck_public).key):
                yield f"the newest certificate of device {device.id} is for another key than its credential key"
        if device.ck_public is not None and parse_public(device.ck_public).name != device.ck_name:
            yield f"device {device.id} has a credential key and another key's Name"
        if (device.ck_public is None) != (device.ak_public is None):
            yield f"device {device.id} has one of its two keys"
        if device.ek_public is not None and hashlib.sha256(device.ek_public).digest() != device.ek_hash:
            yield f"device {device.id} has an EK and another EK's hash"


def who_was_approved_has_a_place_of_its_own(stored: Stored) -> Iterator[str]:
    held = Counter(device.status_index for device in stored.devices if device.status_index is not None)
    for index, count in held.items():
        if count > 1:
            yield f"{count} devices have the status index {index}"
        if index >= stored.counters["next_status_index"]:
            yield f"the status index {index} is in use and will be given out again"
    for device in stored.devices:
        placed = None not in (device.tier, device.site, device.status_index)
        if device.state in (*_KEYED, State.APPROVED) and not placed:
            yield f"device {device.id} is {device.state} without tier, site and status index"


def an_endorsement_key_is_one_device_s(stored: Stored) -> Iterator[str]:
    for ek_hash, count in Counter(device.ek_hash for device in stored.devices).items():
        if count > 1:
            yield f"{count} devices have one endorsement key"
        if ek_hash in stored.blocked:
            yield "a device has an endorsement key that was replaced"


def a_device_is_where_the_audit_trail_left_it(stored: Stored) -> Iterator[str]:
    left = {device_id: LEADS_TO[act] for device_id, act in _acts(stored) if act in LEADS_TO}
    for device in stored.devices:
        expected = left.get(device.id, State.APPROVED if device.source == "inventory" else None)
        gave_up = device.state == State.RETIRED and expected is State.PENDING  # its request was not decided in time
        if device.state != expected and not gave_up:
            yield f"device {device.id} is {device.state}, and the audit trail left it {expected or 'unknown'}"


def every_change_of_a_device_has_its_audit_row(stored: Stored) -> Iterator[str]:
    """A device begins with version 1. Each act adds one, but for asking again before anybody decided."""
    versions: dict[str, int] = {}
    last: dict[str, str] = {}
    for device_id, act in _acts(stored):
        undecided = act == "ask" and last.get(device_id, "ask") == "ask"
        versions[device_id] = versions.get(device_id, 1) + (not undecided)
        last[device_id] = act
    for device in stored.devices:
        expected = versions.get(device.id, 1)
        if device.state_version != expected:
            yield f"device {device.id} has version {device.state_version}, and {expected} by the audit trail"


def _acts(stored: Stored) -> Iterator[tuple[str, str]]:
    """What changed devices, in order. A quarantined one that got a certificate for a good attestation was released."""
    last: dict[str, str] = {}
    for row in stored.audit:
        freed = row.act == "attest" and last.get(row.subject) == "quarantine" and "serial" in row.detail
        act = "release" if freed else row.act
        if act in LEADS_TO or act == "rekey":
            last[row.subject] = act
            yield row.subject, act


# ---- What is published ------------------------------------------------------------------------------------------


def the_bundle_says_what_the_registry_says(stored: Stored) -> Iterator[str]:
    """If nothing changed since it was signed, that is: a revision stands for a content."""
    if stored.bundle is None:
        return
    if stored.bundle.revision > stored.counters["revision"]:
        yield f"the newest bundle is of revision {stored.bundle.revision}, which has not been yet"
    if stored.bundle.revision != stored.counters["revision"]:
        return
    copy = Copy.read(stored.bundle.content.encode())
    statement = Statement.parse(b64decode(copy.statement.split(".")[1]))
    bundle = Bundle.of(statement, copy.parts)
    for device in stored.devices:
        if device.status_index is not None and bundle.status[device.status_index] is not STATUS[State(device.state)]:
            yield f"device {device.id} is {device.state}, and {bundle.status[device.status_index].name} in the bundle"
    unexpired = {serial for serial, row in stored.revocations.items() if row.not_after > stored.now}
    for serial in unexpired - {str(serial) for serial in bundle.revoked}:
        yield f"the bundle does not name the revoked certificate {serial}"


RULES: tuple[Callable[[Stored], Iterator[str]], ...] = (
    every_certificate_is_what_its_row_says,
    every_certificate_has_its_audit_row_and_the_other_way_round,
    every_device_certificate_was_paid_for_once,
    what_was_spent_says_for_whom,
    revocations_are_of_certificates,
    only_active_and_quarantined_devices_hold_valid_certificates,
    no_device_is_half_enrolled,
    who_was_approved_has_a_place_of_its_own,
    an_endorsement_key_is_one_device_s,
    a_device_is_where_the_audit_trail_left_it,
    every_change_of_a_device_has_its_audit_row,
    the_bundle_says_what_the_registry_says,
)


def _key_of(der: bytes) -> bytes:
    return _spki(x509.load_der_x509_certificate(der).public_key())


def _spki(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
