"""The certificates above the leaves: a root, the issuing intermediate, and the keys that the root delegates to.

    root (pathlen 2) ─┬─ issuing intermediate (pathlen 0) ── leaves, CRL
                      ├─ bundle and time signers, current and next
                      └─ signers of audit heads, current and next

CAs carry `spiffe://<trust domain>` as their one name and never authenticate anybody (SPIFFE X.509-SVID, section 3.2).
Delegated signers carry no name at all, so nothing can take them for an SVID, and one critical extended key usage: who
does not know it must refuse the certificate (RFC 5280, section 4.2.1.12).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from attestd.ca.profiles import compare_lifetimes, key_usage
from attestd.ca.signer import Signer, SigningKey, authority_domain
from attestd.credentials.delegation import BUNDLE_EKU
from attestd.credentials.transparency import AUDIT_EKU
from attestd.errors import Misconfigured
from attestd.ids import Serial, TrustDomain

# Verifiers whose clock is behind must not refuse a hierarchy that was made a moment ago.
_BACKDATE = timedelta(seconds=60)
_CA_USAGE = frozenset(("keyCertSign", "cRLSign"))
_SIGNER_USAGE = frozenset(("digitalSignature",))
_E = TypeVar("_E", bound=x509.ExtensionType)


class ChainBroken(Misconfigured):
    """The authorities' certificates do not fit together"""

    remedy = "Restore the folder ca/ from the backup of this instance's folder."


class AuthorityExpired(Misconfigured):
    """An authority's certificate is not valid now"""

    remedy = "Check the clock; if it is right, replace this authority with `attestd ca rotate` (docs/keys.md)."


class AuthorityExpiring(Misconfigured):
    """An authority's certificate ends soon"""

    remedy = (
        "Replace it with `attestd ca rotate` (docs/keys.md): what it issues is cut short, and nothing can be issued "
        "once it has ended."
    )


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long the authorities live; delegated signers, all like `bundle_signer`, as long as the issuer by default."""

    root: timedelta = timedelta(days=3650)
    issuer: timedelta = timedelta(days=365)
    bundle_signer: timedelta | None = None

    @property
    def signer(self) -> timedelta:
        """The lifetime of delegated signers."""
        return self.issuer if self.bundle_signer is None else self.bundle_signer

    def check(self) -> str:
        """What is issued ends no later than its issuer. Returns the arithmetic. Raises LifetimesContradict with it."""
        return compare_lifetimes(
            [("issuer", self.issuer, "root", self.root), ("bundle signer", self.signer, "root", self.root)]
        )


@dataclass(frozen=True, slots=True)
class Ceremony:
    """What the certificates made in one go have in common."""

    trust_domain: TrustDomain
    now: datetime
    lifetimes: Lifetimes
    entropy: Callable[[int], bytes]

    def root(self, key: SigningKey, *, name: x509.Name | None = None) -> Signer:
        """A root, signed by itself. The next one of an instance takes over the `name` of the one before.

        Certificates between roots of one name are self-issued and count for no path length (RFC 5280, section 4.2.1.9).
        """
        public = key.public_key
        builder = self._builder("root", public, self.lifetimes.root, issuer=None, issuer_key=public, subject=name)
        return key.certified(_read(key.sign_certificate(self._as_authority(builder, path_length=2))))

    def cross(self, root: x509.Certificate, other: Signer, *, not_after: datetime) -> x509.Certificate:
        """What `other`, a root too, says for this root's key until `not_after`."""
        public = root.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101 - `require_root` saw it
        ends = min(not_after, root.not_valid_after_utc, other.certificate.not_valid_after_utc)
        lifetime = ends - self.now.astimezone(UTC).replace(microsecond=0)
        builder = self._builder(
            "root",
            public,
            lifetime,
            issuer=other.certificate.subject,
            issuer_key=other.public_key,
            subject=root.subject,
        )
        return _read(other.sign_certificate(self._as_authority(builder, path_length=1)))

    def issuer(self, key: SigningKey, root: Signer) -> Signer:
        """The issuing intermediate."""
        builder = self._builder(
            "issuer",
            key.public_key,
            self._within(root, self.lifetimes.issuer),
            issuer=root.certificate.subject,
            issuer_key=root.public_key,
        )
        return key.certified(_read(root.sign_certificate(self._as_authority(builder, path_length=0))))

    def bundle_signer(self, key: SigningKey, root: Signer) -> Signer:
        """A key to sign bundles and times with."""
        return self._delegated(key, root, "bundles", BUNDLE_EKU)

    def audit_signer(self, key: SigningKey, root: Signer) -> Signer:
        """A key to sign heads of the audit trail with."""
        return self._delegated(key, root, "audit", AUDIT_EKU)

    def _delegated(self, key: SigningKey, root: Signer, role: str, purpose: x509.ObjectIdentifier) -> Signer:
        builder = (
            self._builder(
                role,
                key.public_key,
                self._within(root, self.lifetimes.signer),
                issuer=root.certificate.subject,
                issuer_key=root.public_key,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(_SIGNER_USAGE), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        )
        return key.certified(_read(root.sign_certificate(builder)))

    def _within(self, root: Signer, lifetime: timedelta) -> timedelta:
        """Nothing outlives its root, however late in the root's life it is made."""
        return min(lifetime, root.certificate.not_valid_after_utc - self.now.astimezone(UTC).replace(microsecond=0))

    def _builder(
        self,
        role: str,
        public: ec.EllipticCurvePublicKey,
        lifetime: timedelta,
        *,
        issuer: x509.Name | None,
        issuer_key: ec.EllipticCurvePublicKey,
        subject: x509.Name | None = None,
    ) -> x509.CertificateBuilder:
        start = self.now.astimezone(UTC).replace(microsecond=0)
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        # A part of the key's identifier makes the name unique: two authorities of one name confuse path building.
        subject = subject or x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.trust_domain[:64]),
                x509.NameAttribute(NameOID.COMMON_NAME, f"attestd {role} {identifier.digest[:4].hex()}"),
            ]
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(public)
            .serial_number(Serial.random(self.entropy(20)).number)
            .not_valid_before(start - _BACKDATE)
            .not_valid_after(start + lifetime)
            .add_extension(identifier, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        )

    def _as_authority(self, builder: x509.CertificateBuilder, *, path_length: int) -> x509.CertificateBuilder:
        name = x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")
        return (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(key_usage(_CA_USAGE), critical=True)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        )


# ---- What was found on disk -------------------------------------------------------------------------------------


def require_root(certificate: x509.Certificate, trust_domain: TrustDomain) -> None:
    """Raises ChainBroken, NotAnAuthority unless this is a root of the trust domain, signed by itself."""
    _require_issued(certificate, certificate)
    _require_authority(certificate, trust_domain)
    length = _extension(certificate, x509.BasicConstraints).path_length
    if length is not None and length < 1:
        raise ChainBroken(
            f"{_shown(certificate)} allows no issuer below it.", seen=length, expected="a path length of at least 1"
        )


def require_issuer(certificate: x509.Certificate, root: x509.Certificate, trust_domain: TrustDomain) -> None:
    """Raises ChainBroken, NotAnAuthority unless `root` made this certificate an issuer in the trust domain."""
    _require_issued(certificate, root)
    _require_authority(certificate, trust_domain)
    length = _extension(certificate, x509.BasicConstraints).path_length
    if length != 0:
        raise ChainBroken(
            f"{_shown(certificate)} may make issuers of its own.", seen=length, expected="a path length of 0"
        )


def require_bundle_signer(certificate: x509.Certificate, root: x509.Certificate) -> None:
    """Raises ChainBroken unless `root` delegated bundles, and nothing else, to this certificate."""
    _require_delegated(certificate, root, BUNDLE_EKU, "sign bundles")


def require_audit_signer(certificate: x509.Certificate, root: x509.Certificate) -> None:
    """Raises ChainBroken unless `root` delegated heads of the audit trail, and nothing else, to this certificate."""
    _require_delegated(certificate, root, AUDIT_EKU, "sign heads of the audit trail")


def _require_delegated(
    certificate: x509.Certificate, root: x509.Certificate, purpose: x509.ObjectIdentifier, meant: str
) -> None:
    _require_issued(certificate, root)
    purposes = _extension(certificate, x509.ExtendedKeyUsage)
    if list(purposes) != [purpose]:
        raise ChainBroken(
            f"{_shown(certificate)} may do something else than {meant}.",
            seen=", ".join(seen.dotted_string for seen in purposes),
            expected=purpose.dotted_string,
        )
    if _extension(certificate, x509.BasicConstraints).ca:
        raise ChainBroken(f"{_shown(certificate)} is a CA.", expected="a leaf")


def require_cross(certificate: x509.Certificate, roots: Sequence[x509.Certificate]) -> None:
    """Raises ChainBroken unless this says for one of the roots' keys what another of them may say.

    `roots`: former ones, too. Of those that are forgotten, nothing can be said here.
    """
    same = [root for root in roots if root.public_key() == certificate.public_key()]
    if not same or certificate.subject != same[0].subject:
        raise ChainBroken(f"{_shown(certificate)} speaks for no root that is here.")
    _require_authority(certificate, authority_domain(same[0]))
    authority = _extension(certificate, x509.AuthorityKeyIdentifier).key_identifier
    for root in roots:
        if _extension(root, x509.SubjectKeyIdentifier).digest == authority:
            _require_issued(certificate, root)


def require_in_time(certificate: x509.Certificate, now: datetime) -> None:
    """Raises AuthorityExpired outside its validity, and AuthorityExpiring in the last twelfth of it."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= now <= ends:
        raise AuthorityExpired(
            f"{_shown(certificate)} is not valid now.", seen=now.isoformat(), expected=f"{begins} to {ends}"
        )
    if ends - now < (ends - begins) / 12:
        raise AuthorityExpiring(f"{_shown(certificate)} ends in {(ends - now).days} days.", seen=ends.isoformat())


def _require_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    if not _is_issued(certificate, issuer):
        raise ChainBroken(f"{_shown(certificate)} was not issued by the root that is here.", expected=_shown(issuer))


def _is_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _require_authority(certificate: x509.Certificate, trust_domain: TrustDomain) -> None:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ChainBroken(f"{_shown(certificate)} has a key of another kind.", expected="P-256")
    if not _extension(certificate, x509.BasicConstraints).ca:
        raise ChainBroken(f"{_shown(certificate)} is no CA.", expected="basicConstraints: cA")
    if not _extension(certificate, x509.KeyUsage).key_cert_sign:
        raise ChainBroken(f"{_shown(certificate)} may not sign certificates.", expected="keyUsage: keyCertSign")
    if (seen := authority_domain(certificate)) != trust_domain:
        raise ChainBroken(f"{_shown(certificate)} is of another trust domain.", seen=seen, expected=trust_domain)


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        raise ChainBroken(f"{_shown(certificate)} has no {kind.__name__}.") from None


def _read(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _shown(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()
