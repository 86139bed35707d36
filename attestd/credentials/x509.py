"""A presented certificate chain -> a verified certificate -> an identity (SPIFFE X509-SVID; RFC 5280, section 6.1).

The authorities' own paths to the pinned roots are proven once, by `Authorities.load`, and an issuer that comes with a
leaf is proven once for each set of authorities; a presented certificate then costs one signature check for each
certificate that was not seen before, commonly one. The path is walked here, and not by
`cryptography.x509.verification`: that interface is declared unstable, names no reason that could be acted upon, and
checks the authorities' signatures each time. The tests use it as their second opinion.

Of leaves nothing is remembered here; the edge memoises verdicts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from cryptography.x509.oid import ExtendedKeyUsageOID

from attestd.credentials.certificates import (
    CertificateRefused,
    IssuerMismatch,
    ParsedCertificate,
    PathTooLong,
    PurposeWrong,
)
from attestd.credentials.facts import Facts
from attestd.credentials.identity import FactsMissing, VerifiedIdentity, admit, standing
from attestd.credentials.status import StatusList
from attestd.errors import InputTooLarge, MalformedInput, Misconfigured
from attestd.ids import MalformedName, Serial, SpiffeId, Tier, TrustDomain
from attestd.protocol.encoding import b64encode

CLIENT_AUTH: Final = ExtendedKeyUsageOID.CLIENT_AUTH
_TIERS = frozenset(Tier)
MAX_CHAIN = 5  # certificates that a peer may present
MAX_AUTHORITIES = 64  # paths from issuers to roots
MAX_MET = 64  # issuers that came with leaves and are remembered, of at most 8 kB each


class NoAuthorities(Misconfigured):
    """There is no root to trust"""

    remedy = "Pin the trust domain's root; `attestd init` wrote it."


class TooManyAuthorities(Misconfigured):
    """There are too many authorities"""

    remedy = "Remove the issuers that are no longer used."


class ChainMalformed(CertificateRefused):
    """The chain has no certificate, or too many"""


class UnknownIssuer(CertificateRefused):
    """The certificate does not lead to a trusted root"""


class SpiffeIdWrong(CertificateRefused):
    """The certificate does not name exactly one SPIFFE ID"""


class TrustDomainWrong(CertificateRefused):
    """The certificate names another trust domain than its issuers'"""


class FactsMalformed(CertificateRefused):
    """The certificate's facts about the device can't be read"""

    remedy = "Renew the credential at the service that issued it."


@dataclass(frozen=True, slots=True)
class _Authority:
    """An issuer whose path to a pinned root is proven, but for the time."""

    parsed: ParsedCertificate
    above: _Authority | None  # None for a root
    allowed_below: int  # by its own path length constraint and by those above it
    path: tuple[ParsedCertificate, ...] = field(init=False, repr=False)  # itself, then what is above it
    serials: tuple[Serial, ...] = field(init=False, repr=False)
    not_after: datetime = field(init=False, repr=False)  # the earliest end on the path

    def __post_init__(self) -> None:
        path = (self.parsed, *(() if self.above is None else self.above.path))
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "serials", tuple(issuer.serial for issuer in path))
        object.__setattr__(self, "not_after", min(issuer.not_after for issuer in path))

    def check_dates(self, now: datetime) -> None:
        for issuer in self.path:
            issuer.check_dates(now)

    def leads_up(self, *, below: int, now: datetime) -> bool:
        """Whether the path still holds; if not, the certificates presented may show another one."""
        in_time = all(issuer.not_before <= now <= issuer.not_after for issuer in self.path)
        return in_time and below <= self.allowed_below


@dataclass(frozen=True, slots=True)
class Authorities:
    """One trust domain's issuers, each with a proven path to a pinned root.

    `_met` are issuers that came with a leaf, by their octets: proven once, but for the time, as those known are.
    """

    trust_domain: TrustDomain
    _known: tuple[_Authority, ...]
    _met: dict[bytes, _Authority] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, roots: Iterable[bytes], issuers: Iterable[bytes] = (), *, trust_domain: TrustDomain) -> Self:
        """`roots` are pinned; of `issuers` those count that lead to one of them (DER, any order).

        Issuers that lead elsewhere are left out: during a root's rotation an edge may not know the new one yet.
        Raises NoAuthorities; CertificateRefused for a certificate that can't be read or is no authority's.
        """
        known: list[_Authority] = []
        for der in roots:
            parsed = _parse_authority(der, trust_domain)
            known.append(_Authority(parsed, None, _path_length(parsed)))
        if not known:
            raise NoAuthorities
        waiting = [_parse_authority(der, trust_domain) for der in issuers]
        above = tuple(known)
        for _ in range(MAX_CHAIN):  # one round a level: every round's newcomers are the next round's issuers
            above = tuple(
                _Authority(parsed, authority, min(_path_length(parsed), authority.allowed_below - 1))
                for parsed in waiting
                for authority in above
                if authority.allowed_below > 0 and _leads_to(authority, parsed)
            )
            known.extend(above)
            if len(known) > MAX_AUTHORITIES:
                raise TooManyAuthorities(expected=f"at most {MAX_AUTHORITIES} paths")
        return cls(trust_domain, tuple(known))

    def issuers_of(self, child: ParsedCertificate) -> Iterable[_Authority]:
        """The authorities that may have issued `child`, by the key identifiers: no more than a filter."""
        return (known for known in self._known if child.names_issuer(known.parsed))

    def met(self, der: bytes) -> _Authority | None:
        """The authority that has exactly these octets, if it came before and was proven."""
        return self._met.get(der)

    def remember(self, proven: _Authority) -> _Authority:
        """`proven` leads to a pinned root. Only a root's own issuers get here, so the few there are have room."""
        if len(self._met) < MAX_MET or proven.parsed.der in self._met:
            self._met[proven.parsed.der] = proven
        return proven


def _path_length(parsed: ParsedCertificate) -> int:
    length = None if parsed.constraints is None else parsed.constraints.path_length
    return MAX_CHAIN if length is None else length


def _leads_to(authority: _Authority, parsed: ParsedCertificate) -> bool:
    if any(parsed.der == other.der for other in authority.path):
        return False
    try:
        parsed.check_issued_by(authority.parsed)
    except IssuerMismatch:
        return False
    return True


def _parse_authority(der: bytes, trust_domain: TrustDomain, *, below: int = 0) -> ParsedCertificate:
    """An issuer's certificate that may issue clients' certificates in this trust domain, if it can be trusted."""
    parsed = ParsedCertificate.parse(der)
    parsed.check_authority(below=below)
    if parsed.purposes is not None and CLIENT_AUTH not in parsed.purposes:
        raise PurposeWrong("The issuer may not issue clients' certificates.")
    # SPIFFE X509-SVID, section 3.2: if an authority has a SPIFFE ID, that has no path and is in our trust domain.
    if any(uri != f"spiffe://{trust_domain}" for uri in parsed.uris):
        raise TrustDomainWrong("The issuer is another trust domain's.", expected=f"spiffe://{trust_domain}")
    return parsed


@dataclass(frozen=True, slots=True)
class VerifiedCertificate:
    """A client certificate of this trust domain, proven genuine and within its time; made by `verify_chain` only.

    Not yet asked: whether it was revoked, and whether its device still stands (`device_identity`). Nor does it say
    that the peer holds the key: that is the TLS handshake's to prove.
    `not_after` is the earliest end on its path.
    """

    der: bytes
    spiffe_id: SpiffeId
    serial: Serial
    issuer_serials: tuple[Serial, ...]
    facts: Facts | None  # never None for a device
    not_before: datetime
    not_after: datetime

    @property
    def thumbprint(self) -> str:
        """SHA-256 of the DER, base64url: x5t#S256 (RFC 8705, section 3.1)."""
        return b64encode(hashlib.sha256(self.der).digest())


def verify_chain(chain: Sequence[bytes], *, authorities: Authorities, now: datetime) -> VerifiedCertificate:
    """The leaf of `chain` (DER; the leaf first, each followed by its issuer, the root not needed).

    Certificates after the first one that a known authority issued are not looked at.
    Raises CertificateRefused or FactsMissing (both Unauthenticated), and nothing else.
    """
    # 1. Bounds: a peer's chain costs at most this many signature checks.
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise ChainMalformed(seen=f"{len(chain)} certificates", expected=f"1 to {MAX_CHAIN}")
    # 2. The leaf by itself, which is cheap: dates (RFC 5280, 6.1.3 (a)(2)), usage (X509-SVID, sections 4 and 5.2).
    leaf = ParsedCertificate.parse(chain[0])
    leaf.check_dates(now)
    leaf.check_leaf(CLIENT_AUTH)
    # 3. Its one name (X509-SVID, section 2), in the trust domain that the roots are pinned for.
    spiffe_id = _spiffe_id(leaf)
    if spiffe_id.trust_domain != authorities.trust_domain:
        raise TrustDomainWrong(seen=spiffe_id.trust_domain, expected=authorities.trust_domain)
    # 4. The path to a pinned root.
    issuer = _climb(leaf, chain[1:], authorities=authorities, below=0, now=now)
    # 5. Only then what it says about the device.
    facts = _facts(leaf, spiffe_id)
    return VerifiedCertificate(
        der=leaf.der,
        spiffe_id=spiffe_id,
        serial=leaf.serial,
        issuer_serials=issuer.serials,
        facts=facts,
        not_before=leaf.not_before,
        not_after=min(leaf.not_after, issuer.not_after),
    )


def _climb(
    child: ParsedCertificate, presented: Sequence[bytes], *, authorities: Authorities, below: int, now: datetime
) -> _Authority:
    """`child`'s issuer, proven up to a root; `below` issuers stand between it and the leaf, `child` included."""
    refusal: CertificateRefused | None = None
    for authority in authorities.issuers_of(child):
        try:
            child.check_issued_by(authority.parsed)
            authority.check_dates(now)
            if below > authority.allowed_below:
                raise PathTooLong(seen=below, expected=f"at most {authority.allowed_below}")
        except IssuerMismatch:
            continue
        except CertificateRefused as error:
            refusal = error
            continue
        return authority
    if refusal is not None:
        raise refusal
    if not presented:
        raise UnknownIssuer(expected="a chain to one of the pinned roots")
    if (met := authorities.met(presented[0])) is not None and met.leads_up(below=below, now=now):
        child.check_issued_by(met.parsed)
        return met
    issuer = _parse_authority(presented[0], authorities.trust_domain, below=below)
    child.check_issued_by(issuer)
    issuer.check_dates(now)
    above = _climb(issuer, presented[1:], authorities=authorities, below=below + 1, now=now)
    return authorities.remember(_Authority(issuer, above, min(_path_length(issuer), above.allowed_below - 1)))


def _spiffe_id(leaf: ParsedCertificate) -> SpiffeId:
    if len(leaf.uris) != 1:
        raise SpiffeIdWrong(seen=f"{len(leaf.uris)} URIs", expected="exactly one URI")
    try:
        return SpiffeId.parse(leaf.uris[0])
    except MalformedName as error:
        raise SpiffeIdWrong(error.detail, seen=error.seen, expected=error.expected) from error


def _facts(leaf: ParsedCertificate, spiffe_id: SpiffeId) -> Facts | None:
    if leaf.facts is None:
        if spiffe_id.path[0] in _TIERS:
            raise FactsMissing(seen=spiffe_id)
        return None
    try:
        return Facts.from_extension(leaf.facts)
    except (MalformedInput, InputTooLarge) as error:
        raise FactsMalformed(error.detail, seen=error.seen, expected=error.expected) from error


def device_identity(
    verified: VerifiedCertificate, *, status: StatusList, revoked: Container[Serial]
) -> VerifiedIdentity:
    """The device behind a verified certificate, if neither the certificate, an issuer of it nor the device fell.

    Raises NotADevice, CredentialRevoked, StatusUnknown, DeviceSuspended or DeviceRevoked.
    """
    return admit(
        spiffe_id=verified.spiffe_id,
        facts=verified.facts,
        serials=(verified.serial, *verified.issuer_serials),
        credential_id=str(verified.serial),
        not_after=verified.not_after,
        kind="x509",
        status=status,
        revoked=revoked,
    )


def check_device_stands(verified: VerifiedCertificate, *, status: StatusList, revoked: Container[Serial]) -> None:
    """Returns where `device_identity` does, and raises as it does: for a certificate beside another credential."""
    serials = (verified.serial, *verified.issuer_serials)
    standing(verified.spiffe_id, verified.facts, serials, status=status, revoked=revoked)
