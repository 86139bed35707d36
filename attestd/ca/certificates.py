"""Issuing certificates: write, sign, then read the signed octets back and compare every field with what was meant.

RFC 5280 and the SPIFFE X.509-SVID specification. The SPIFFE ID is the only name: the subject is empty and the subject
alternative name therefore critical (RFC 5280, section 4.2.1.6; X509-SVID, section 3.1), so nothing that reads a common
name can be misled. OpenSSL (strictly), curl, Go, Java and Python accept that.

`tbs` writes what is signed, `readback` reads what was signed by other means; nothing else leaves the process.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ssl import DER_cert_to_PEM_cert

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.ca.profiles import Profile
from attestd.ca.readback import SignedBytesDiffer, require_as_meant
from attestd.ca.signer import Signer
from attestd.ca.tbs import put_together, write_tbs
from attestd.credentials.facts import Facts
from attestd.errors import Conflict, Misconfigured
from attestd.ids import Serial, SpiffeId

__all__ = ["CertificateSpec", "IssuedCertificate", "SignedBytesDiffer", "issue", "nested_validity"]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII
)
_HTTP_URL = re.compile(r"https?://[!-~]{1,1000}", re.ASCII)
_MAX_NAMES = 100
_AT_UTC = timedelta(0)


class SpecContradictsProfile(Misconfigured):
    """The certificate asked for is not what its profile allows"""

    remedy = "Correct the profile, or ask for a certificate by another one."


class LifetimeExhausted(Conflict):
    """There is no lifetime left for a certificate"""

    remedy = "Attest again; if that does not help, the issuing CA is about to expire (`attestd doctor`)."


class OutlivesIssuer(Misconfigured):
    """The certificate would outlive its issuer"""

    remedy = "Replace the issuing CA in time; `attestd doctor` shows how long it has left."


@dataclass(frozen=True, slots=True)
class CertificateSpec:
    """Everything that a certificate will say, checked against its profile when it is made.

    Raises SpecContradictsProfile. Times are UTC and whole seconds.
    """

    public_key: ec.EllipticCurvePublicKey
    spiffe_id: SpiffeId
    profile: Profile
    serial: Serial
    not_before: datetime
    not_after: datetime
    facts: Facts | None = None
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IpAddress, ...] = ()
    crl_url: str | None = None  # a CRL distribution point, if there is one

    # The key as a SubjectPublicKeyInfo in DER, its point uncompressed: written once, by the library.
    spki: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        profile = self.profile
        if not isinstance(self.public_key.curve, ec.SECP256R1):
            raise SpecContradictsProfile("The key is not on P-256.", seen=self.public_key.curve.name, expected="P-256")
        if not profile.covers(self.spiffe_id):
            raise SpecContradictsProfile(
                f"Profile {profile.name} is not for this identity.",
                seen=self.spiffe_id,
                expected=f"spiffe://{self.spiffe_id.trust_domain}/{'/'.join(profile.path)}",
            )
        if (self.facts is not None) != profile.facts:
            raise SpecContradictsProfile(
                f"Profile {profile.name} and the facts disagree.",
                seen="no facts" if self.facts is None else "facts",
                expected="facts" if profile.facts else "no facts",
            )
        if self.dns_names or self.ip_addresses:
            self._check_names()
        if self.crl_url is not None and not _HTTP_URL.fullmatch(self.crl_url):
            raise SpecContradictsProfile("This is not a CRL's URL.", seen=repr(self.crl_url[:80]), expected="http://…")
        for moment in (self.not_before, self.not_after):
            if moment.utcoffset() != _AT_UTC or moment.microsecond:
                raise SpecContradictsProfile("A time is not in UTC and whole seconds.", seen=moment)
        if not self.not_before < self.not_after:
            raise SpecContradictsProfile(
                "It would end before it begins.", seen=self.not_after, expected=self.not_before
            )
        if self.not_after - self.not_before > profile.lifetime + profile.backdate:
            raise SpecContradictsProfile(
                f"It would live longer than profile {profile.name} allows.",
                seen=self.not_after - self.not_before,
                expected=f"at most {profile.lifetime} and {profile.backdate} of backdating",
            )
        spki = self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        object.__setattr__(self, "spki", spki)

    def _check_names(self) -> None:
        named = (*self.dns_names, *self.ip_addresses)
        if not self.profile.names:
            raise SpecContradictsProfile(
                f"Profile {self.profile.name} allows no DNS names or addresses.", seen=named[0]
            )
        if len(named) > _MAX_NAMES or len(set(named)) != len(named):
            raise SpecContradictsProfile(
                "There are too many names, or one is listed twice.", seen=len(named), expected=f"at most {_MAX_NAMES}"
            )
        for name in self.dns_names:
            if not _DNS_NAME.fullmatch(name):
                raise SpecContradictsProfile("This is not a DNS name.", seen=repr(name[:80]), expected="a-z 0-9 - .")


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A signed certificate that was read back and is as meant. Made by `issue` alone."""

    der: bytes
    serial: Serial
    not_before: datetime
    not_after: datetime
    issuer_id: bytes  # the issuer's key identifier

    @property
    def pem(self) -> str:
        return DER_cert_to_PEM_cert(self.der)


def nested_validity(
    profile: Profile, *, issuer: x509.Certificate, now: datetime, good_until: datetime | None = None
) -> tuple[datetime, datetime]:
    """not_before and not_after of a certificate issued now: the profile's, cut where issuer or attestation end.

    Raises LifetimeExhausted when nothing is left.
    """
    start = now.astimezone(UTC).replace(microsecond=0)
    not_after, limit = start + profile.lifetime, "profile"
    if (ends := issuer.not_valid_after_utc) < not_after:
        not_after, limit = ends, "issuer"
    if good_until is not None and (ends := good_until.astimezone(UTC).replace(microsecond=0)) < not_after:
        not_after, limit = ends, "attestation"
    if not_after <= start:
        raise LifetimeExhausted(
            f"The {limit} has ended.", seen=not_after.isoformat(), expected=f"after {start.isoformat()}"
        )
    return start - profile.backdate, not_after


def issue(spec: CertificateSpec, issuer: Signer) -> IssuedCertificate:
    """Signs what `spec` describes; returns only what was read back and found the same.

    1. The issuer is of the identity's trust domain and does not end before the certificate.
    2. Write the TBSCertificate, and sign it.
    3. Read the finished certificate: is the signature the issuer's, and each field the specification's?

    Raises OutlivesIssuer, SpecContradictsProfile, SignedBytesDiffer.
    """
    ends = issuer.certificate.not_valid_after_utc
    if spec.not_after > ends:  # 1
        raise OutlivesIssuer(seen=spec.not_after.isoformat(), expected=f"at most {ends.isoformat()}")
    if issuer.trust_domain != spec.spiffe_id.trust_domain:
        raise SpecContradictsProfile(
            "The identity is of another trust domain than the issuer.",
            seen=spec.spiffe_id.trust_domain,
            expected=issuer.trust_domain,
        )
    tbs = write_tbs(spec, issuer)  # 2
    der = put_together(tbs, issuer.sign_tbs(tbs))
    require_as_meant(der, spec, issuer)  # 3
    return IssuedCertificate(der, spec.serial, spec.not_before, spec.not_after, issuer.key_identifier)
