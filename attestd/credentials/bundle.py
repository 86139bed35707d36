"""What edges decide with, signed: authorities, token keys, policy, states, revocations (docs/protocol.md, section 5).

What is signed is a statement: a compact JWS, header `{alg, typ, x5t#S256}`, that names the bundle's parts by their
digests. So a part that has not changed need not travel again, and a long list may travel as what changed in it
(`copies`). `x5t#S256` (RFC 7515, section 4.1.8) names the certificate of a key that a pinned root delegated to the
signing of bundles and times, and to nothing else (BUNDLE_EKU); it travels beside the statement.

A signer of bundles is online, a root is not: so a bundle can withdraw a root, and never add one (`Bundle.authorities`).
A new root is introduced by the old one, with a cross-certificate among `issuers`.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.certificates import MAX_CERTIFICATE
from attestd.credentials.copies import HEAD, KEYS, MAX_STATEMENT, PARTS, POLICY, REVOKED, STATUS, Copy
from attestd.credentials.delegation import BUNDLE_EKU, delegated_path
from attestd.credentials.jwk import public_jwk, read_jwk
from attestd.credentials.jws import UnverifiedJws
from attestd.credentials.patches import SERIAL, each_serial
from attestd.credentials.status import StatusList
from attestd.credentials.succession import succeed
from attestd.credentials.transparency import MAX_HEAD
from attestd.credentials.x509 import Authorities, NoAuthorities
from attestd.errors import InputTooLarge, Unauthenticated, Unavailable
from attestd.ids import Serial, TrustDomain
from attestd.protocol.encoding import MalformedJson, Members, b64encode, read_object, write_object

BUNDLE_TYP: Final = "attestd-bundle+jws"
MAX_POLICY = 256 * 1024
MAX_CERTIFICATES = 32
MAX_TOKEN_KEYS = 16
MAX_KID = 128
MAX_STALE_AFTER = 30 * 86400  # seconds
CLOCK_SKEW = timedelta(seconds=60)  # by which the service's clock may be ahead of ours
_MAX_COUNT = 1 << 53
_MAX_TIME = 1 << 40
_MAX_KEYS = 1024 * 1024  # octets


class BundleRolledBack(Unauthenticated):
    """This bundle is older than one that was in use here"""

    remedy = "Fetch the bundle from the service; after a restore from a backup, the service must raise its epoch."


class BundleFromElsewhere(Unauthenticated):
    """This bundle is another trust domain's"""

    remedy = "Point this edge at its own service, or correct its trust domain."


class BundleFromTheFuture(Unauthenticated):
    """This bundle was issued in the future"""

    remedy = "Correct this machine's clock, or the service's."


class BundleStale(Unavailable):
    """The bundle is too old to decide with"""

    remedy = "Restore the connection to the service; a fresh bundle is fetched every second."


class BundleIncomplete(Unauthenticated):
    """The bundle's parts are not those of its statement"""

    remedy = "Fetch the whole bundle; an edge does so by itself."


class SignerElsewhere(Unauthenticated):
    """The bundle came with another signer's certificate"""

    remedy = "Fetch the whole bundle; an edge does so by itself."


@dataclass(frozen=True, slots=True)
class Statement:
    """What is signed: which bundle it is, and the SHA-256 digests of its parts. Times in unix seconds."""

    trust_domain: TrustDomain
    epoch: int
    version: int
    issued_at: int
    stale_after: int  # seconds
    policy_version: int
    digests: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """The JWS payload."""
        return write_object(
            {
                "v": 1,
                "trust_domain": str(self.trust_domain),
                "epoch": self.epoch,
                "version": self.version,
                "issued_at": self.issued_at,
                "stale_after": self.stale_after,
                "policy_version": self.policy_version,
                "parts": {name: b64encode(digest) for name, digest in self.digests.items()},
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """From the JWS payload. Raises MalformedInput or InputTooLarge."""
        members = Members(read_object(payload, limit=MAX_STATEMENT, name="statement"), "statement")
        members.version()
        parts = members.object("parts")
        parsed = cls(
            trust_domain=TrustDomain(members.text("trust_domain", limit=255)),
            epoch=members.number("epoch", most=_MAX_COUNT),
            version=members.number("version", most=_MAX_COUNT),
            issued_at=members.number("issued_at", most=_MAX_TIME),
            stale_after=members.number("stale_after", least=1, most=MAX_STALE_AFTER),
            policy_version=members.number("policy_version", most=_MAX_COUNT),
            digests={name: parts.octets(name, limit=32, least=32) for name in PARTS if name != HEAD or name in parts},
        )
        parts.done()
        members.done()
        return parsed


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `verify_copy` proved, or what the service is about to sign. Times in unix seconds."""

    trust_domain: TrustDomain
    epoch: int
    version: int
    issued_at: int
    stale_after: int  # seconds
    roots: tuple[bytes, ...]  # DER
    issuers: tuple[bytes, ...]  # DER
    token_issuer: str
    token_keys: Mapping[str, Mapping[str, str]]  # kid -> JWK
    policy_version: int
    policy: str  # Cedar
    status: StatusList
    revoked: frozenset[Serial]
    audit_head: str | None = None  # JWS: the audit trail's newest head; a service from before heads had none

    @property
    def age_limit(self) -> datetime:
        """From when on this bundle is too old to decide with."""
        return datetime.fromtimestamp(self.issued_at + self.stale_after, UTC)

    def check_fresh(self, now: datetime) -> None:
        """Raises BundleStale from `age_limit` on."""
        if now >= self.age_limit:
            raise BundleStale(seen=f"issued {now.timestamp() - self.issued_at:.0f} s ago", expected=self.stale_after)

    def authorities(self, pinned: Sequence[bytes]) -> Authorities:
        """The issuers, under those pinned roots that the bundle still names. Raises NoAuthorities, MalformedInput."""
        roots = [root for root in pinned if root in self.roots]
        if not roots:
            raise NoAuthorities("The bundle names none of the pinned roots.")
        return _authorities(tuple(roots), self.issuers, self.trust_domain)

    def succeed(self, pinned: Sequence[bytes], now: datetime) -> tuple[bytes, ...]:
        """The roots to pin from now on: those that are pinned, the ones they introduce, without those withdrawn."""
        return succeed(pinned, self.roots, self.issuers, now=now)

    def verification_keys(self) -> dict[str, ec.EllipticCurvePublicKey]:
        """The token keys, by key id, as `verify_token` takes them."""
        return {kid: read_jwk(jwk) for kid, jwk in self.token_keys.items()}

    @property
    def name(self) -> str:
        """Epoch and version, as ETags and deltas name it."""
        return f"{self.epoch}.{self.version}"

    def parts(self) -> dict[str, bytes]:
        """The octets that the statement names by their digests: the same bundle gives the same octets."""
        keys = {
            "roots": [b64encode(root) for root in self.roots],
            "issuers": [b64encode(issuer) for issuer in self.issuers],
            "token_issuer": self.token_issuer,
            "token_keys": {kid: dict(jwk) for kid, jwk in self.token_keys.items()},
        }
        parts = {
            KEYS: write_object(keys),
            POLICY: self.policy.encode("utf-8"),
            STATUS: self.status.octets,
            REVOKED: b"".join(serial.number.to_bytes(SERIAL, "big") for serial in sorted(self.revoked)),
        }
        return parts if self.audit_head is None else parts | {HEAD: self.audit_head.encode("ascii")}

    def statement(self, parts: Mapping[str, bytes]) -> Statement:
        """What is to be signed about these parts."""
        return Statement(
            self.trust_domain,
            self.epoch,
            self.version,
            self.issued_at,
            self.stale_after,
            self.policy_version,
            {name: sha256(octets).digest() for name, octets in parts.items()},
        )

    @classmethod
    def of(cls, statement: Statement, parts: Mapping[str, bytes]) -> Self:
        """From parts that have the statement's digests. Raises MalformedInput or InputTooLarge."""
        keys = Members(read_object(parts[KEYS], limit=_MAX_KEYS, name="part keys"), "keys")
        head = parts.get(HEAD)
        bundle = cls(
            trust_domain=statement.trust_domain,
            epoch=statement.epoch,
            version=statement.version,
            issued_at=statement.issued_at,
            stale_after=statement.stale_after,
            roots=keys.many_octets("roots", limit=MAX_CERTIFICATE, most=MAX_CERTIFICATES),
            issuers=keys.many_octets("issuers", limit=MAX_CERTIFICATE, most=MAX_CERTIFICATES),
            token_issuer=keys.text("token_issuer", limit=2048),
            token_keys=_token_keys(keys.object("token_keys")),
            policy_version=statement.policy_version,
            policy=_text(parts[POLICY], POLICY, MAX_POLICY),
            status=StatusList(parts[STATUS]),
            revoked=frozenset(Serial(int.from_bytes(one, "big")) for one in each_serial(parts[REVOKED])),
            audit_head=None if head is None else _text(head, HEAD, MAX_HEAD),
        )
        keys.done()
        return bundle


def verify_copy(
    copy: Copy,
    *,
    roots: Sequence[bytes],
    trust_domain: TrustDomain,
    floor: tuple[int, int],
    now: datetime,
) -> Bundle:
    """The bundle in `copy`, proven to be this trust domain's and not older than what was in use before.

    `roots`: the pinned roots (DER). `floor`: the highest (epoch, version) that was ever persisted here, (0, 0) at
    first; the caller persists the new one **before** it uses the bundle. Whether the bundle is fresh is another
    question, asked at every use: `Bundle.check_fresh`.
    Raises MalformedInput, InputTooLarge, Unauthenticated; NoAuthorities if the bundle withdrew the pinned roots.
    """
    # 1. Signed by a key that a pinned root delegated to this, and that is within its time.
    signed = UnverifiedJws.read(copy.statement, typ=BUNDLE_TYP, limit=MAX_STATEMENT, name="statement")
    named = signed.unverified_header.octets("x5t#S256", limit=32, least=32)
    if not copy.signer or not hmac.compare_digest(sha256(copy.signer[0]).digest(), named):
        raise SignerElsewhere(expected=f"the certificate with the SHA-256 fingerprint {named.hex()}")
    signer, *above = delegated_path(copy.signer, roots, BUNDLE_EKU)
    for certificate in (signer, *above):
        certificate.check_dates(now)
    statement = Statement.parse(signed.verified_by(signer.key))
    # 2. For us.
    if statement.trust_domain != trust_domain:
        raise BundleFromElsewhere(seen=statement.trust_domain, expected=trust_domain)
    # 3. Not rolled back, and not ahead of the time: it would stay fresh for too long.
    if (statement.epoch, statement.version) < floor:
        raise BundleRolledBack(
            seen=f"epoch {statement.epoch}, version {statement.version}",
            expected=f"at least epoch {floor[0]}, version {floor[1]}",
        )
    if datetime.fromtimestamp(statement.issued_at, UTC) > now + CLOCK_SKEW:
        raise BundleFromTheFuture(seen=statement.issued_at, expected=f"at most {int(now.timestamp())}")
    # 4. Whole: these parts, all of them, and no others.
    found = {name: sha256(octets).digest() for name, octets in copy.parts.items()}
    if found != dict(statement.digests):
        wrong = sorted(name for name in {*found, *statement.digests} if found.get(name) != statement.digests.get(name))
        raise BundleIncomplete(seen=f"other octets of {', '.join(wrong)}")
    bundle = Bundle.of(statement, copy.parts)
    # 5. Usable: the caller is about to persist its version, and could not go back to the bundle before.
    bundle.authorities(bundle.succeed(roots, now))
    return bundle


# Bundle after bundle names the same ones.
@lru_cache(maxsize=8)
def _authorities(roots: tuple[bytes, ...], issuers: tuple[bytes, ...], trust_domain: TrustDomain) -> Authorities:
    return Authorities.load(roots, issuers, trust_domain=trust_domain)


def _text(octets: bytes, name: str, limit: int) -> str:
    """A part that is text. Raises MalformedInput or InputTooLarge."""
    if len(octets) > limit:
        raise InputTooLarge(f"The part {name} is too long.", seen=len(octets), expected=f"at most {limit} octets")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedJson(f"The part {name} is not UTF-8.") from None


def _token_keys(members: Members) -> dict[str, dict[str, str]]:
    keys: dict[str, dict[str, str]] = {}
    for kid, jwk in members.items():
        if len(keys) == MAX_TOKEN_KEYS or len(kid) > MAX_KID:
            raise InputTooLarge(
                "The bundle's token keys are too many or too long.", expected=f"at most {MAX_TOKEN_KEYS}"
            )
        if not isinstance(jwk, dict):
            raise MalformedJson("A token key is not an object.", seen=type(jwk).__name__)
        keys[kid] = public_jwk(read_jwk(jwk))  # so that a key that can't be used is noticed now
    return keys
