"""Issuing certificates: build, sign, then read the signed octets back and compare every field with what was meant.

RFC 5280 and the SPIFFE X.509-SVID specification. The SPIFFE ID is the only name: the subject is empty and the subject
alternative name therefore critical (RFC 5280, section 4.2.1.6; X509-SVID, section 3.1), so nothing that reads a common
name can be misled. OpenSSL (strictly), curl, Go, Java and Python accept that.

`readback` then compares the signed octets with the specification; nothing else leaves the process.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ssl import DER_cert_to_PEM_cert

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.profiles import Profile
from attestd.ca.readback import SignedBytesDiffer, require_as_meant
from attestd.ca.signer import Signer
from attestd.credentials.facts import Facts
from attestd.errors import Conflict, Misconfigured
from attestd.ids import Serial, SpiffeId

__all__ = ["CertificateSpec", "IssuedCertificate", "SignedBytesDiffer", "issue", "nested_validity"]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NOBODY = x509.Name([])
_LEAF = x509.BasicConstraints(ca=False, path_length=None)
_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII
)
_HTTP_URL = re.compile(r"https?://[!-~]{1,1000}", re.ASCII)
_MAX_NAMES = 100


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
        named = (*self.dns_names, *self.ip_addresses)
        if named and not profile.names:
            raise SpecContradictsProfile(f"Profile {profile.name} allows no DNS names or addresses.", seen=named[0])
        if len(named) > _MAX_NAMES or len(set(named)) != len(named):
            raise SpecContradictsProfile(
                "There are too many names, or one is listed twice.", seen=len(named), expected=f"at most {_MAX_NAMES}"
            )
        for name in self.dns_names:
            if not _DNS_NAME.fullmatch(name):
                raise SpecContradictsProfile("This is not a DNS name.", seen=repr(name[:80]), expected="a-z 0-9 - .")
        if self.crl_url is not None and not _HTTP_URL.fullmatch(self.crl_url):
            raise SpecContradictsProfile("This is not a CRL's URL.", seen=repr(self.crl_url[:80]), expected="http://…")
        for moment in (self.not_before, self.not_after):
            if moment.utcoffset() != timedelta(0) or moment.microsecond:
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
    ends = {f"profile {profile.name}": start + profile.lifetime, "issuer": issuer.not_valid_after_utc}
    if good_until is not None:
        ends["attestation"] = good_until.astimezone(UTC).replace(microsecond=0)
    name, not_after = min(ends.items(), key=lambda end: end[1])
    if not_after <= start:
        raise LifetimeExhausted(
            f"The {name} has ended.", seen=not_after.isoformat(), expected=f"after {start.isoformat()}"
        )
    return start - profile.backdate, not_after


def issue(spec: CertificateSpec, issuer: Signer) -> IssuedCertificate:
    """Signs what `spec` describes; returns only what was read back and found the same.

    1. The issuer is of the identity's trust domain and does not end before the certificate.
    2. Build and sign.
    3. Parse the signed octets, compare each field with the specification, check the signature with the issuer's key.

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
    der = issuer.sign_certificate(_build(spec, issuer))  # 2
    require_as_meant(der, spec, issuer)  # 3
    return IssuedCertificate(der, spec.serial, spec.not_before, spec.not_after, issuer.key_identifier)


def _build(spec: CertificateSpec, issuer: Signer) -> x509.CertificateBuilder:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spec.spiffe_id))]
    names += [x509.DNSName(name) for name in spec.dns_names]
    names += [x509.IPAddress(address) for address in spec.ip_addresses]
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer.certificate.subject)
        .subject_name(_NOBODY)
        .public_key(spec.public_key)
        .serial_number(spec.serial.number)
        .not_valid_before(spec.not_before)
        .not_valid_after(spec.not_after)
        .add_extension(_LEAF, critical=True)
        .add_extension(key_usage(spec.profile.key_usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage(spec.profile.extended_key_usage), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(spec.public_key), critical=False)
    )
    if spec.facts is not None:
        builder = builder.add_extension(spec.facts.to_extension(), critical=False)
    if spec.crl_url is not None:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(spec.crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return builder


def key_usage(usages: frozenset[str]) -> x509.KeyUsage:
    """The extension for these usages, by their names in RFC 5280, section 4.2.1.3."""
    return x509.KeyUsage(
        digital_signature="digitalSignature" in usages,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement="keyAgreement" in usages,
        key_cert_sign="keyCertSign" in usages,
        crl_sign="cRLSign" in usages,
        encipher_only=False,
        decipher_only=False,
    )
