"""The audit trail's entries and the signed heads of its hash tree (docs/protocol.md, section 8).

A head is a compact JWS, header `{alg, typ, x5c}`. `x5c` is the one certificate of a key that a pinned root delegated to
audit heads and to nothing else (AUDIT_EKU). Who keeps a head can have the service prove, later, that nothing sealed by
then has changed (`hashtree.verify_consistency`), and that an entry is among what it sealed (`InclusionProof`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Self

from cryptography import x509

from attestd.credentials.delegation import delegated_signer
from attestd.credentials.hashtree import HASH, MAX_PATH, MAX_SIZE, leaf_hash, verify_consistency, verify_inclusion
from attestd.credentials.jws import UnverifiedJws
from attestd.credentials.x509 import UnknownIssuer
from attestd.errors import Unauthenticated
from attestd.ids import TrustDomain
from attestd.protocol.encoding import MalformedJson, Members, b64encode, read_object, write_object

# UUID 4bd5a015-4a96-47c5-99cf-6618ad89ddd5 (docs/adr/0009-object-ids.md): may sign heads of the audit trail.
AUDIT_EKU: Final = x509.ObjectIdentifier("1.2.840.113556.1.8000.2554.19413.40981.19094.18373.39375.6690989.9035221")
HEAD_TYP: Final = "attestd-audit-head+jws"
MAX_HEAD: Final = 8 * 1024  # characters
MAX_ENTRY: Final = 64 * 1024 * 1024  # octets: a row may list what one act did to many devices
_MAX_PROOF: Final = MAX_ENTRY + 64 * 1024
_MAX_TIME: Final = 1 << 40
_SKEW: Final = timedelta(seconds=60)  # by which the service's clock may be ahead of ours


class HeadFromElsewhere(Unauthenticated):
    """This head is of another trust domain's audit trail"""

    remedy = "Compare heads of one service with each other."


class HeadFromTheFuture(Unauthenticated):
    """This head was signed in the future"""

    remedy = "Correct this machine's clock, or the service's."


class LogChanged(Unauthenticated):
    """This head is of an older log than the one that was in use here"""

    remedy = "After a restore from a backup the service must raise its epoch; a new log then begins."


class RootElsewhere(Unauthenticated):
    """This proof was made under another root"""

    remedy = "Name the root certificate that is expected; the service that made the proof has it: `GET /v1/root`."


def entry_octets(entry: Mapping[str, Any]) -> bytes:
    """What a leaf covers: the whole row, as one canonical JSON object.

    Members: number, at, actor, act, subject, request_id, detail.
    """
    return write_object({"v": 1, **entry})


@dataclass(frozen=True, slots=True)
class Head:
    """What a head says. `log` is the epoch in which this log began, `at` in unix seconds."""

    trust_domain: TrustDomain
    log: int
    size: int
    root: bytes
    at: int

    def to_bytes(self) -> bytes:
        """The JWS payload."""
        return write_object(
            {
                "v": 1,
                "trust_domain": str(self.trust_domain),
                "log": self.log,
                "size": self.size,
                "root": b64encode(self.root),
                "time": self.at,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """From the JWS payload. Raises MalformedInput or InputTooLarge."""
        members = Members(read_object(payload, limit=MAX_HEAD, name="head"), "head")
        members.version()
        parsed = cls(
            trust_domain=TrustDomain(members.text("trust_domain", limit=255)),
            log=members.number("log", most=MAX_SIZE),
            size=members.number("size", most=MAX_SIZE),
            root=members.octets("root", limit=HASH, least=HASH),
            at=members.number("time", most=_MAX_TIME),
        )
        members.done()
        return parsed


@dataclass(frozen=True, slots=True)
class VerifiedHead:
    """A head that a pinned root's delegate signed; `jws` proves it to others."""

    head: Head
    jws: str = field(repr=False)


def verify_head(
    jws: str, *, roots: Sequence[bytes], trust_domain: TrustDomain | None, now: datetime | None
) -> VerifiedHead:
    """The head in `jws`, proven to be this trust domain's (None: whose it is, is for the caller to look at).

    `roots`: the pinned roots (DER). The signer is judged at the time that the head states, so that old heads stay
    evidence; that time must not lie after `now`.
    Raises MalformedInput, InputTooLarge, Unauthenticated.
    """
    # 1. Signed by a key that a pinned root delegated to this.
    signed = UnverifiedJws.read(jws, typ=HEAD_TYP, limit=MAX_HEAD, name="audit head")
    signer, *above = delegated_signer(signed.unverified_header, roots, AUDIT_EKU)
    head = Head.parse(signed.verified_by(signer.key))
    # 2. While it was valid, and not ahead of the time.
    at = datetime.fromtimestamp(head.at, UTC)
    for certificate in (signer, *above):
        certificate.check_dates(at)
    if now is not None and at > now + _SKEW:
        raise HeadFromTheFuture(seen=at, expected=f"at most {now}")
    # 3. For us.
    if trust_domain is not None and head.trust_domain != trust_domain:
        raise HeadFromElsewhere(seen=head.trust_domain, expected=trust_domain)
    return VerifiedHead(head, jws)


def needs_proof(before: Head, after: Head) -> bool:
    """Whether `after` must be proven to contain `before`. A new log, begun after a restore, contains nothing.

    Raises LogChanged for a head of an older log.
    """
    if after.log < before.log:
        raise LogChanged(seen=after.log, expected=f"at least {before.log}")
    return after.log == before.log


def verify_successor(before: Head, after: Head, path: Sequence[bytes]) -> None:
    """Returns if the log of `after` begins with that of `before`. Raises TreeProofMalformed, HistoryRewritten."""
    verify_consistency(first=before.size, first_root=before.root, second=after.size, second_root=after.root, path=path)


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That one entry is a leaf of the tree under a head: all that is needed to check it, but the root certificate."""

    entry: Mapping[str, Any]
    leaf: int
    path: tuple[bytes, ...]
    jws: str = field(repr=False)
    root_sha256: bytes  # of the root certificate: which one to look for

    def to_members(self) -> dict[str, Any]:
        """As the admin API and proof files have it."""
        return {
            "v": 1,
            "entry": dict(self.entry),
            "leaf": self.leaf,
            "path": [b64encode(step) for step in self.path],
            "head": self.jws,
            "root_sha256": self.root_sha256.hex(),
        }

    @classmethod
    def parse(cls, document: bytes) -> Self:
        """Raises MalformedInput or InputTooLarge. Nothing is proven yet."""
        members = Members(read_object(document, limit=_MAX_PROOF, name="proof"), "proof")
        members.version()
        parsed = cls(
            entry=dict(members.object("entry").items()),
            leaf=members.number("leaf", most=MAX_SIZE),
            path=members.many_octets("path", limit=HASH, most=MAX_PATH),
            jws=members.text("head", limit=MAX_HEAD),
            root_sha256=_hexadecimal(members.text("root_sha256", limit=64)),
        )
        members.done()
        return parsed

    def verify(self, root: bytes, *, now: datetime | None) -> Head:
        """The head that the entry is proven to be under. `root`: the pinned root certificate (DER).

        Raises RootElsewhere, Unauthenticated's others, MalformedInput.
        """
        try:
            head = verify_head(self.jws, roots=[root], trust_domain=None, now=now).head
        except UnknownIssuer:
            raise RootElsewhere(seen=sha256(root).hexdigest(), expected=self.root_sha256.hex()) from None
        leaf = leaf_hash(entry_octets(self.entry))
        verify_inclusion(leaf, index=self.leaf, size=head.size, root=head.root, path=self.path)
        return head


def _hexadecimal(text: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != HASH or data.hex() != text:
        raise MalformedJson("root_sha256 is not a fingerprint.", seen=repr(text), expected="64 hexadecimal digits")
    return data
