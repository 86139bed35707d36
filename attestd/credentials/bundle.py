"""What edges decide with, signed: authorities, token keys, policy, states, revocations (docs/protocol.md, section 5).

A bundle is a compact JWS, header `{alg, typ, x5c}`. `x5c` is the one certificate of a key that a pinned root delegated
to the signing of bundles and times, and to nothing else (BUNDLE_EKU). The same keys sign the time for devices whose
clock can't be trusted (section 7).

A signer of bundles is online, a root is not: so a bundle can withdraw a root, and never add one (`Bundle.authorities`).
A new root is introduced by the old one, with a cross-certificate among `issuers`.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.certificates import MAX_CERTIFICATE
from attestd.credentials.delegation import delegated_signer
from attestd.credentials.jwk import public_jwk, read_jwk
from attestd.credentials.jws import UnverifiedJws
from attestd.credentials.status import BITS, StatusList
from attestd.credentials.succession import succeed
from attestd.credentials.transparency import MAX_HEAD
from attestd.credentials.x509 import Authorities, NoAuthorities
from attestd.errors import InputTooLarge, Unauthenticated, Unavailable
from attestd.ids import Serial, TrustDomain
from attestd.protocol.encoding import MalformedJson, Members, b64encode, read_object, write_object

# UUID 1819164a-05ca-461e-9365-cf535f70c2b8 (docs/adr/0009-object-ids.md): may sign bundles and times.
BUNDLE_EKU: Final = x509.ObjectIdentifier("1.2.840.113556.1.8000.2554.6169.5706.1482.17950.37733.13587295.7389880")
BUNDLE_TYP: Final = "attestd-bundle+jws"
TIME_TYP: Final = "attestd-time+jws"

MAX_BUNDLE = 48 * 1024 * 1024  # characters of JWS: 67 million devices' states at their least compressible
MAX_TIME_ANSWER = 16 * 1024
MAX_POLICY = 256 * 1024
MAX_CERTIFICATES = 32
MAX_TOKEN_KEYS = 16
MAX_KID = 128
MAX_STALE_AFTER = 30 * 86400  # seconds
CLOCK_SKEW = timedelta(seconds=60)  # by which the service's clock may be ahead of ours
_MAX_COUNT = 1 << 53
_MAX_TIME = 1 << 40


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


class TimeNonceWrong(Unauthenticated):
    """This time answers another question"""

    remedy = "Ask again with a fresh nonce."


class TimeBehindFloor(Unauthenticated):
    """This time lies before one that is already proven"""

    remedy = "Check the service's clock."


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `verify_bundle` proved, or what the service is about to sign. Times in unix seconds."""

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
        return Authorities.load(roots, self.issuers, trust_domain=self.trust_domain)

    def succeed(self, pinned: Sequence[bytes], now: datetime) -> tuple[bytes, ...]:
        """The roots to pin from now on: those that are pinned, the ones they introduce, without those withdrawn."""
        return succeed(pinned, self.roots, self.issuers, now=now)

    def verification_keys(self) -> dict[str, ec.EllipticCurvePublicKey]:
        """The token keys, by key id, as `verify_token` takes them."""
        return {kid: read_jwk(jwk) for kid, jwk in self.token_keys.items()}

    def to_bytes(self) -> bytes:
        """The JWS payload: the same bundle gives the same octets."""
        head = {} if self.audit_head is None else {"audit_head": self.audit_head}
        return write_object(
            {
                "v": 1,
                **head,
                "trust_domain": str(self.trust_domain),
                "epoch": self.epoch,
                "version": self.version,
                "issued_at": self.issued_at,
                "stale_after": self.stale_after,
                "roots": [b64encode(root) for root in self.roots],
                "issuers": [b64encode(issuer) for issuer in self.issuers],
                "token_issuer": self.token_issuer,
                "token_keys": {kid: dict(jwk) for kid, jwk in self.token_keys.items()},
                "policy_version": self.policy_version,
                "policy": self.policy,
                "status": {"bits": BITS, "lst": self.status.encode()},
                "revoked": [str(serial) for serial in sorted(self.revoked)],
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """From the JWS payload. Raises MalformedInput or InputTooLarge."""
        members = Members(read_object(payload, limit=MAX_BUNDLE, name="bundle"), "bundle")
        members.version()
        status = members.object("status")
        if _number(status, "bits", most=8) != BITS:
            raise MalformedJson("The status list is of another kind.", expected=f"bits: {BITS}")
        parsed = cls(
            trust_domain=TrustDomain(members.text("trust_domain", limit=255)),
            epoch=_number(members, "epoch", most=_MAX_COUNT),
            version=_number(members, "version", most=_MAX_COUNT),
            issued_at=_number(members, "issued_at", most=_MAX_TIME),
            stale_after=_number(members, "stale_after", least=1, most=MAX_STALE_AFTER),
            roots=members.many_octets("roots", limit=MAX_CERTIFICATE, most=MAX_CERTIFICATES),
            issuers=members.many_octets("issuers", limit=MAX_CERTIFICATE, most=MAX_CERTIFICATES),
            token_issuer=members.text("token_issuer", limit=2048),
            token_keys=_token_keys(members.object("token_keys")),
            policy_version=_number(members, "policy_version", most=_MAX_COUNT),
            policy=members.text("policy", limit=MAX_POLICY),
            status=StatusList.decode(status.text("lst", limit=MAX_BUNDLE)),
            revoked=frozenset(Serial.parse(text) for text in members.texts("revoked", most=MAX_BUNDLE, limit=40)),
            audit_head=members.text("audit_head", limit=MAX_HEAD) if "audit_head" in members else None,
        )
        status.done()
        members.done()
        return parsed


def verify_bundle(
    jws: str,
    *,
    roots: Sequence[bytes],
    trust_domain: TrustDomain,
    floor: tuple[int, int],
    now: datetime,
) -> Bundle:
    """The bundle in `jws`, proven to be this trust domain's and not older than what was in use before.

    `roots`: the pinned roots (DER). `floor`: the highest (epoch, version) that was ever persisted here, (0, 0) at
    first; the caller persists the new one **before** it uses the bundle. Whether the bundle is fresh is another
    question, asked at every use: `Bundle.check_fresh`.
    Raises MalformedInput, InputTooLarge, Unauthenticated; NoAuthorities if the bundle withdrew the pinned roots.
    """
    # 1. Signed by a key that a pinned root delegated to this, and that is within its time.
    signed = UnverifiedJws.read(jws, typ=BUNDLE_TYP, limit=MAX_BUNDLE, name="bundle")
    signer, *above = delegated_signer(signed.unverified_header, roots, BUNDLE_EKU)
    for certificate in (signer, *above):
        certificate.check_dates(now)
    bundle = Bundle.parse(signed.verified_by(signer.key))
    # 2. For us.
    if bundle.trust_domain != trust_domain:
        raise BundleFromElsewhere(seen=bundle.trust_domain, expected=trust_domain)
    # 3. Not rolled back, and not ahead of the time: it would stay fresh for too long.
    if (bundle.epoch, bundle.version) < floor:
        raise BundleRolledBack(
            seen=f"epoch {bundle.epoch}, version {bundle.version}",
            expected=f"at least epoch {floor[0]}, version {floor[1]}",
        )
    if datetime.fromtimestamp(bundle.issued_at, UTC) > now + CLOCK_SKEW:
        raise BundleFromTheFuture(seen=bundle.issued_at, expected=f"at most {int(now.timestamp())}")
    # 4. Usable: the caller is about to persist its version, and could not go back to the bundle before.
    bundle.authorities(bundle.succeed(roots, now))
    return bundle


def verify_time(jws: str, *, roots: Sequence[bytes], nonce: bytes, floor: datetime) -> datetime:
    """The service's time, in answer to `nonce`, for a device that only knows that it is not before `floor`.

    The signer is judged at the time that it states, which its own certificate must cover.
    Raises MalformedInput, InputTooLarge, Unauthenticated.
    """
    # 1. Signed by a key that a pinned root delegated to this.
    signed = UnverifiedJws.read(jws, typ=TIME_TYP, limit=MAX_TIME_ANSWER, name="time answer")
    signer, *above = delegated_signer(signed.unverified_header, roots, BUNDLE_EKU)
    members = Members(read_object(signed.verified_by(signer.key), limit=MAX_TIME_ANSWER, name="time"), "time")
    answered, seconds = members.octets("nonce", limit=256), _number(members, "time", most=_MAX_TIME)
    members.done()
    # 2. In answer to this very question.
    if not hmac.compare_digest(answered, nonce):
        raise TimeNonceWrong
    # 3. Within the signer's own validity, and not before what is already known.
    time = datetime.fromtimestamp(seconds, UTC)
    for certificate in (signer, *above):
        certificate.check_dates(time)
    if time < floor:
        raise TimeBehindFloor(seen=time, expected=f"{floor} or later")
    return time


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


def _number(members: Members, name: str, *, least: int = 0, most: int) -> int:
    value = members.integer(name)
    if not least <= value <= most:
        raise MalformedJson(
            f"{name} is out of range.", seen=value if abs(value) <= most else None, expected=f"{least} to {most}"
        )
    return value
