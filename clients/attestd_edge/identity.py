"""The proxy's own key and certificate: it fetches bundles with them, and renews at half the certificate's life."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from attestd.credentials.requests import SoftwareKey
from attestd.credentials.x509 import Authorities, VerifiedCertificate, verify_chain
from attestd.errors import Misconfigured
from attestd.ids import SpiffeId, TrustDomain
from attestd_edge.files import read_file, replace_file

MAX_PEM = 64 * 1024  # octets


class ProxyIdentityWrong(Misconfigured):
    """The proxy's own key and certificate do not fit together, or not here"""

    remedy = "Ask an operator of the service for a certificate for this proxy, and put it where the configuration says."


def read_certificates(pem: bytes, *, where: str) -> tuple[bytes, ...]:
    """The certificates of a PEM file as DER. Raises ProxyIdentityWrong."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise ProxyIdentityWrong(f"{where} holds no certificates in PEM.") from error
    return tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in found)


@dataclass(frozen=True, slots=True)
class ProxyIdentity:
    """A key, its chain, and what the chain says."""

    key: SoftwareKey
    chain: tuple[bytes, ...]  # DER, leaf first
    certificate: x509.Certificate

    @classmethod
    def load(cls, key_file: Path, certificate_file: Path) -> Self:
        """From PEM files. Raises FileUnreadable, UnusableKey or ProxyIdentityWrong."""
        key = SoftwareKey.from_pem(read_file(key_file, limit=MAX_PEM))
        pem = read_file(certificate_file, limit=MAX_PEM)
        return cls.of(key, read_certificates(pem, where=str(certificate_file)))

    @classmethod
    def of(cls, key: SoftwareKey, chain: Sequence[bytes]) -> Self:
        """Raises ProxyIdentityWrong unless the leaf is this key's."""
        leaf = x509.load_der_x509_certificate(chain[0])
        try:
            ours = leaf.public_key() == key.public_key
        except (ValueError, UnsupportedAlgorithm):
            ours = False
        if not ours:
            raise ProxyIdentityWrong("The proxy's certificate is not for its key.")
        return cls(key, tuple(chain), leaf)

    @property
    def kid(self) -> str:
        """The key's RFC 7638 thumbprint: how the service knows the caller, whatever certificate it has just now."""
        return self.key.thumbprint

    @property
    def name(self) -> SpiffeId:
        """What the certificate calls this proxy. Raises ProxyIdentityWrong or MalformedName."""
        try:
            names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        except (x509.ExtensionNotFound, ValueError):
            raise ProxyIdentityWrong("The proxy's certificate names nobody.") from None
        return SpiffeId.parse(uri)

    @property
    def half_life(self) -> datetime:
        """When to renew."""
        begin, end = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        return begin + (end - begin) / 2

    def verify(self, *, roots: Sequence[bytes], trust_domain: TrustDomain, now: datetime) -> VerifiedCertificate:
        """The certificate, proven to be one of a proxy of this trust domain. Raises ProxyIdentityWrong, or
        Unauthenticated with what is wrong with the chain."""
        authorities = Authorities.load(roots, (), trust_domain=trust_domain)
        verified = verify_chain(self.chain, authorities=authorities, now=now)
        if len(verified.spiffe_id.path) != 3 or verified.spiffe_id.path[0] != "proxy":
            raise ProxyIdentityWrong(
                "This certificate is not a proxy's.", seen=verified.spiffe_id, expected="/proxy/<site>/<name>"
            )
        return verified


def renewed(
    old: ProxyIdentity, pem: bytes, *, roots: Sequence[bytes], trust_domain: TrustDomain, now: datetime
) -> ProxyIdentity:
    """The identity in a renewal's answer, if it is the same proxy's, for the same key, and lasts longer."""
    new = ProxyIdentity.of(old.key, read_certificates(pem, where="The service's answer"))
    verified = new.verify(roots=roots, trust_domain=trust_domain, now=now)
    names = old.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [str(verified.spiffe_id)]:
        raise ProxyIdentityWrong("The service's answer names another proxy.", seen=verified.spiffe_id)
    if new.certificate.not_valid_after_utc <= old.certificate.not_valid_after_utc:
        raise ProxyIdentityWrong("The service's answer does not last longer than what it should replace.")
    return new


def save(identity: ProxyIdentity, certificate_file: Path) -> None:
    """Replaces the chain file, whole or not at all. Raises FileUnwritable."""
    pem = b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in identity.chain
    )
    replace_file(certificate_file, pem, mode=0o644)
