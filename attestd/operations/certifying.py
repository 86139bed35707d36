"""Who has a credential and is no device: edge proxies, operators, the service itself.

Each has a key that was made where it is used; the authority certifies its public half. Each verb is one transaction
that leaves an audit row. Who is disabled can do nothing more from their next call on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.certificates import CertificateSpec, IssuedCertificate, issue, nested_validity
from attestd.ca.hierarchy import Hierarchy
from attestd.ca.profiles import Profile
from attestd.config import Settings
from attestd.credentials.jwk import jwk_thumbprint
from attestd.errors import MalformedInput
from attestd.ids import Serial, Site, SpiffeId
from attestd.issuance.grants import pem_chain
from attestd.operations.act import Act
from attestd.protocol.encoding import b64decode
from attestd.registry import identities, invitations, issued, operators, passkeys, proxies, sessions
from attestd.registry.engine import Connection, Registry
from attestd.registry.operators import LastAdmin, Operator, OperatorTaken, Role


class UnusablePublicKey(MalformedInput):
    """This is not a P-256 public key"""

    remedy = "Send the public half in PEM: `openssl pkey -in key.pem -pubout`."


@dataclass(frozen=True, slots=True)
class Certifying:
    """The verbs. One object serves any number of requests in any process."""

    settings: Settings
    registry: Registry
    hierarchy: Hierarchy
    profiles: Mapping[str, Profile]
    entropy: Callable[[int], bytes]

    # ---- Edge proxies ------------------------------------------------------------------------------------------

    def add_proxy(self, name: str, site: Site, public_key_pem: str, act: Act) -> str:
        """An edge proxy's own identity, for a key that the proxy made: its PEM chain. A known name is certified anew
        for the same key and site, so that a proxy that slept too long comes back by an operator's act."""
        key = read_public_key(public_key_pem)
        spiffe_id = SpiffeId.of_proxy(self.settings.trust_domain, site, name)
        certificate = self._certify("proxy", key, spiffe_id, act)
        thumbprint = b64decode(jwk_thumbprint(key))
        with self.registry.acting() as c:
            known = proxies.by_thumbprint(c, thumbprint)
            if known is not None and (known.name, known.site) == (name, site):
                proxies.renew(c, name, serial=certificate.serial)
            else:
                proxies.add(
                    c,
                    name=name,
                    site=site,
                    thumbprint=thumbprint,
                    public_key=_spki(key),
                    serial=certificate.serial,
                    now=act.at,
                )
            self._record(c, certificate, spiffe_id, "proxy")
            act.note(c, "add-proxy", name, site=str(site), serial=str(certificate.serial))
        return pem_chain(certificate, self.hierarchy)

    def renew_proxy(self, name: str, act: Act) -> tuple[IssuedCertificate, str]:
        """A proxy's next certificate for the same key, while it is registered and not disabled, and its PEM chain."""
        with self.registry.reading() as c:
            proxy = proxies.by_name(c, name)
        spiffe_id = SpiffeId.of_proxy(self.settings.trust_domain, proxy.site, name)
        certificate = self._certify("proxy", _p256(serialization.load_der_public_key(proxy.public_key)), spiffe_id, act)
        with self.registry.acting() as c:
            proxies.renew(c, name, serial=certificate.serial)
            self._record(c, certificate, spiffe_id, "proxy")
            act.note(c, "renew-proxy", name, serial=str(certificate.serial))
        return certificate, pem_chain(certificate, self.hierarchy)

    def disable_proxy(self, name: str, act: Act) -> None:
        """The proxy fetches no bundle any more; what it has goes stale. Its certificate is revoked."""
        with self.registry.acting() as c:
            serial = proxies.by_name(c, name).serial
            proxies.disable(c, name, now=act.at)
            if not issued.is_revoked(c, serial):
                with suppress(issued.UnknownCredential):  # forgotten, long after it expired
                    issued.revoke(c, serial, reason="proxy disabled", now=act.at)
            act.note(c, "disable-proxy", name)

    # ---- Operators ---------------------------------------------------------------------------------------------

    def register_operator(self, name: str, role: Role, key: ec.EllipticCurvePublicKey, act: Act) -> str:
        """An operator's credential for a key of their own: the PEM chain. An existing operator's is renewed."""
        spiffe_id = SpiffeId.of_operator(self.settings.trust_domain, name)
        certificate = self._certify("admin", key, spiffe_id, act)
        thumbprint, public_key = b64decode(jwk_thumbprint(key)), _spki(key)
        with self.registry.acting() as c:
            if any(operator.name == name for operator in operators.every(c)):
                operators.renew(c, name, thumbprint=thumbprint, public_key=public_key, certificate=certificate.der)
            else:
                operators.add(
                    c,
                    name=name,
                    role=role,
                    thumbprint=thumbprint,
                    public_key=public_key,
                    certificate=certificate.der,
                    now=act.at,
                )
            self._record(c, certificate, spiffe_id, "admin")
            act.note(c, "register-operator", name, role=role.value, serial=str(certificate.serial))
        return pem_chain(certificate, self.hierarchy)

    def add_operator(self, name: str, role: Role, public_key_pem: str, act: Act) -> str:
        """An operator with a key of their own, made on their machine: the PEM chain. Who was disabled can be added
        anew, with any role; who was not gets another certificate for the same key and role."""
        key = read_public_key(public_key_pem)
        spiffe_id = SpiffeId.of_operator(self.settings.trust_domain, name)
        certificate = self._certify("admin", key, spiffe_id, act)
        thumbprint = b64decode(jwk_thumbprint(key))
        with self.registry.acting() as c:
            if proxies.by_thumbprint(c, thumbprint) is not None:
                raise OperatorTaken("This key is a proxy's.", seen=name)
            if sessions.by_thumbprint(c, thumbprint) is not None:
                raise OperatorTaken("This key is a session's of the console.", seen=name)
            operators.admit(
                c,
                name=name,
                role=role,
                thumbprint=thumbprint,
                public_key=_spki(key),
                certificate=certificate.der,
                now=act.at,
            )
            self._record(c, certificate, spiffe_id, "admin")
            act.note(c, "add-operator", name, role=role.value, serial=str(certificate.serial))
        return pem_chain(certificate, self.hierarchy)

    def disable_operator(self, name: str, act: Act) -> None:
        """Ends what an operator may do, in every process from their next call on. Their credential is revoked, their
        sessions end.

        Raises UnknownOperator, and LastAdmin unless another admin is left who has a way in.
        """
        with self.registry.acting() as c:
            admins = {operator.name: operator for operator in operators.admins(c)}
            disabled = operators.by_name(c, name)
            if admins.pop(name, None) is not None and not any(_can_act(c, other, act.now) for other in admins.values()):
                raise LastAdmin(seen=name, expected="another admin with a good credential, or a passkey")
            operators.disable(c, name, now=act.at)
            sessions.end_of(c, name, because="the operator was disabled", now=act.at)
            invitations.withdraw_of(c, name, now=act.at)
            if disabled.key is not None:
                serial = Serial(x509.load_der_x509_certificate(disabled.key.certificate).serial_number)
                if not issued.is_revoked(c, serial):
                    with suppress(issued.UnknownCredential):  # forgotten, long after it expired
                        issued.revoke(c, serial, reason="operator disabled", now=act.at)
            act.note(c, "disable-operator", name, role=disabled.role.value)

    # ---- The service -------------------------------------------------------------------------------------------

    def certify_service(self, key: ec.EllipticCurvePublicKey, names: Set[str], act: Act) -> str:
        """A certificate for the service's own TLS, under these DNS names and addresses: its PEM chain."""
        spiffe_id = SpiffeId.of_service(self.settings.trust_domain)
        addresses = {name: address for name in names if (address := _address(name)) is not None}
        certificate = self._certify(
            "server",
            key,
            spiffe_id,
            act,
            dns_names=tuple(sorted(set(names) - set(addresses))),
            ip_addresses=tuple(addresses[name] for name in sorted(addresses)),
        )
        with self.registry.acting() as c:
            self._record(c, certificate, spiffe_id, "server")
            act.note(c, "certify-service", str(spiffe_id), serial=str(certificate.serial))
        return pem_chain(certificate, self.hierarchy)

    def _certify(
        self,
        profile: str,
        key: ec.EllipticCurvePublicKey,
        spiffe_id: SpiffeId,
        act: Act,
        *,
        dns_names: tuple[str, ...] = (),
        ip_addresses: tuple[IPv4Address | IPv6Address, ...] = (),
    ) -> IssuedCertificate:
        chosen, issuer = self.profiles[profile], self.hierarchy.issuer
        not_before, not_after = nested_validity(chosen, issuer=issuer.certificate, now=act.now)
        return issue(
            CertificateSpec(
                public_key=key,
                spiffe_id=spiffe_id,
                profile=chosen,
                serial=Serial.random(self.entropy(20)),
                not_before=not_before,
                not_after=not_after,
                dns_names=dns_names,
                ip_addresses=ip_addresses,
            ),
            issuer,
        )

    def _record(self, c: Connection, certificate: IssuedCertificate, spiffe_id: SpiffeId, profile: str) -> None:
        issued.record(
            c,
            serial=certificate.serial,
            subject=str(spiffe_id),
            profile=profile,
            not_before=int(certificate.not_before.timestamp()),
            not_after=int(certificate.not_after.timestamp()),
            der=certificate.der,
            thumbprint=sha256(certificate.der).digest(),
        )


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _can_act(c: Connection, operator: Operator, now: datetime) -> bool:
    """Whether this operator has a way in: a credential that is good for a call now, a passkey, or an identity."""
    if passkeys.count(c, operator.name) or identities.of_operator(c, operator.name):
        return True
    if operator.key is None:
        return False
    certificate = x509.load_der_x509_certificate(operator.key.certificate)
    return certificate.not_valid_after_utc > now and not issued.is_revoked(c, Serial(certificate.serial_number))


def read_public_key(pem: str) -> ec.EllipticCurvePublicKey:
    """A P-256 public key in PEM. Raises UnusablePublicKey."""
    try:
        return _p256(serialization.load_pem_public_key(pem.encode("ascii")))
    except (ValueError, UnsupportedAlgorithm):  # UnicodeEncodeError is a ValueError
        raise UnusablePublicKey("This is not a public key in PEM.", expected="-----BEGIN PUBLIC KEY-----") from None


def _p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UnusablePublicKey("This key is of another kind.", seen=type(key).__name__, expected="P-256")
    return key


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
