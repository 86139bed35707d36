"""From an EK certificate up to a trusted root: path building and path validation, and the roots that are trusted.

RFC 5280, section 6.1 (basic path validation; the single checks are in `vouching`) and RFC 4158 (path building: names
first, key identifiers to choose among namesakes, no certificate twice).

A root is trusted because an operator put it into the trust store, and for nothing else: a self-signed certificate that
comes with a request is a certificate without an issuer. Intermediates come from the store or with the request and are
trusted for nothing; no URL in a certificate is followed. For the same reason makers' revocation lists are not read: a
single chip is kept out by rejecting or retiring its device, a maker's CA by removing it from the store.

The root's own basic constraints, key usage and purposes bind it too, which section 6.1 leaves open; so do its dates, as
of the moment when it signed (`vouching` says why).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Self

from attestd.errors import EvidenceRefused, InputTooLarge
from attestd.tpm.der import shown_name
from attestd.tpm.ekcert import REFUSED_BY_DEFAULT, MakerCertificate, Quirk, parse_certificate
from attestd.tpm.vouching import CHECKS, UNDERSTOOD_IN_LEAF, Step, check_critical, check_dates, verify_signature

EK_CERTIFICATE = "2.23.133.8.1"  # tcg-kp-EKCertificate (TCG EK Credential Profile, section 3.2)

# Intel's on-die chains need all six: PTT, kernel and ROM CA from NV, then issuing CA, intermediate and root.
MAX_ISSUERS = 6
# Bounds what one request can cost. An honest chain needs one check for each issuer, and one more for each namesake
# that has no key identifier.
MAX_SIGNATURE_CHECKS = 32


USE_INVENTORY = "Enroll the device by its EK's hash in the inventory (`attestd-agent evidence` prints it)."


class NoTrustAnchors(EvidenceRefused):
    """No TPM maker is trusted here yet"""

    remedy = "Add the TPM maker's root with `attestd trust add FILE`, or enroll the device by its EK's hash."


class UntrustedMaker(EvidenceRefused):
    """The certificate chain leads to no trusted TPM maker"""

    remedy = (
        "If this maker is to be trusted, add its root (and intermediates) with `attestd trust add FILE`; "
        "otherwise enroll the device by its EK's hash in the inventory."
    )


class ChainTooLong(EvidenceRefused):
    """The certificate chain is too long"""


class ChainTooCostly(InputTooLarge):
    """The certificate chain takes too many signature checks"""

    remedy = "Send the EK certificate with the intermediates of its own chain, and no others."


class QuirkRefused(EvidenceRefused):
    """The certificate chain departs from the rules in a way that this service does not let through"""

    remedy = "`endorsement.refuse_quirks` in attestd.toml names these ways (docs/endorsements.md). " + USE_INVENTORY


def check_quirks(quirks: frozenset[Quirk], refused: frozenset[Quirk]) -> None:
    """Raises QuirkRefused for a quirk that is not to be let through."""
    if unwanted := sorted(quirks & refused):
        raise QuirkRefused(seen=", ".join(unwanted), expected="a chain without it")


class Vouched:
    """CA certificates whose issuer's signature was found right, by the SHA-256 of both.

    All TPMs of a batch come with the same intermediates: what does not change is not computed for each of them. Only
    the signature is remembered; dates, constraints and trust are judged every time.
    """

    MOST = 512  # then it begins anew

    def __init__(self) -> None:
        self._pairs: set[tuple[bytes, bytes]] = set()

    def holds(self, child: MakerCertificate, issuer: MakerCertificate) -> bool:
        return (child.sha256, issuer.sha256) in self._pairs

    def note(self, child: MakerCertificate, issuer: MakerCertificate) -> None:
        """A leaf is met once; noting it would only push out what is met again."""
        if child.claims.is_ca:
            if len(self._pairs) >= self.MOST:
                self._pairs.clear()
            self._pairs.add((child.sha256, issuer.sha256))


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """The TPM makers that this service trusts: parsed once, found by name.

    Both maps go from a DER name to the certificates of that subject.
    """

    roots: Mapping[bytes, tuple[MakerCertificate, ...]]
    intermediates: Mapping[bytes, tuple[MakerCertificate, ...]]
    vouched: Vouched = field(default_factory=Vouched, compare=False, repr=False)

    @classmethod
    def load(cls, roots: Iterable[bytes], intermediates: Iterable[bytes] = ()) -> Self:
        """From DER certificates. Raises what `parse_certificate` raises, for the first that can't be read."""
        return cls(_by_subject(roots), _by_subject(intermediates))


def _by_subject(certificates: Iterable[bytes]) -> Mapping[bytes, tuple[MakerCertificate, ...]]:
    found: dict[bytes, dict[bytes, MakerCertificate]] = {}
    for certificate in map(parse_certificate, certificates):
        found.setdefault(certificate.subject, {})[certificate.sha256] = certificate
    return MappingProxyType({subject: tuple(namesakes.values()) for subject, namesakes in found.items()})


@dataclass(frozen=True, slots=True)
class VerifiedPath:
    """A chain proven valid at one moment: the leaf first, a trusted root last. `quirks` are those of all of it."""

    certificates: tuple[MakerCertificate, ...]
    quirks: frozenset[Quirk]

    @property
    def leaf(self) -> MakerCertificate:
        return self.certificates[0]

    @property
    def root(self) -> MakerCertificate:
        return self.certificates[-1]


def verify_certificate_chain(
    leaf: MakerCertificate,
    *,
    intermediates: Sequence[MakerCertificate] = (),
    anchors: TrustAnchors,
    now: datetime,
    purpose: str = EK_CERTIFICATE,
    refused: frozenset[Quirk] = REFUSED_BY_DEFAULT,
) -> VerifiedPath:
    """Finds and proves a path from `leaf` to a trusted root. What kind of certificate the leaf is, the caller checks.

    `purpose` is what every CA that names purposes must name; `refused` are quirks that no path may have. Raises the
    error of the attempt that came furthest.
    """
    # A root that is missing is no path: absence fails.
    if not anchors.roots:
        raise NoTrustAnchors(seen="an empty trust store")
    # 6.1.3 and 6.1.4, for each step up.
    search = _Search(anchors, tuple(intermediates), now, purpose, refused)
    path = search.climb((leaf,))
    if path is None:
        raise search.failure or UntrustedMaker()
    # 6.1.3 (a)(2) and 6.1.5 (f): the leaf's own dates and critical extensions.
    check_dates(leaf, now)
    check_critical(leaf, UNDERSTOOD_IN_LEAF)
    quirks = {quirk for certificate in path for quirk in certificate.quirks}
    if path[-1].claims.not_after < now:
        quirks.add(Quirk.EXPIRED_ROOT)
    # The root's signature on itself proves nothing and is not looked at.
    if any(certificate.algorithm is not None and certificate.algorithm.weak for certificate in path[:-1]):
        quirks.add(Quirk.SHA1_SIGNATURE)
    check_quirks(frozenset(quirks), refused)
    return VerifiedPath(path, frozenset(quirks))


@dataclass(slots=True)
class _Search:
    """One depth-first search, and the failure that came furthest: by length of the path, then by check."""

    anchors: TrustAnchors
    supplied: tuple[MakerCertificate, ...]
    now: datetime
    purpose: str
    refused: frozenset[Quirk]
    signature_checks: int = 0
    furthest: tuple[int, int] = (0, 0)
    failure: EvidenceRefused | None = None

    def climb(self, path: tuple[MakerCertificate, ...]) -> tuple[MakerCertificate, ...] | None:
        """The path completed to a trusted root, or None. Each step is taken only over a verified signature."""
        unknown = True
        for issuer, trusted in self._issuers(path[-1].issuer):
            if any(issuer.sha256 == certificate.sha256 for certificate in path):  # RFC 4158, section 2.4.2: no loops
                continue
            unknown = False
            if not self._may_step(path, issuer, trusted=trusted):
                continue
            longer = (*path, issuer)
            found = longer if trusted else self.climb(longer)
            if found is not None:
                return found
        if unknown:
            self._note(path, -1, UntrustedMaker(seen=shown_name(path[-1].issuer), expected="a name in the trust store"))
        return None

    def _issuers(self, name: bytes) -> Iterable[tuple[MakerCertificate, bool]]:
        """Section 6.1.3 (a)(4): certificates of this subject, and whether they end the search; trusted roots first.

        A renewed root comes before the one that it replaced: an expired one is for whom nothing better is left.
        """
        roots = self.anchors.roots.get(name, ())
        yield from ((root, True) for root in sorted(roots, key=lambda root: root.claims.not_after < self.now))
        yield from ((ca, False) for ca in self.anchors.intermediates.get(name, ()))
        yield from ((ca, False) for ca in self.supplied if ca.subject == name)

    def _may_step(self, path: tuple[MakerCertificate, ...], issuer: MakerCertificate, *, trusted: bool) -> bool:
        if len(path) > MAX_ISSUERS:
            self._note(path, -1, ChainTooLong(expected=f"at most {MAX_ISSUERS} CAs above the EK"))
            return False
        # Self-issued CAs do not count against a path length (section 6.1.4 (l)).
        below = sum(1 for ca in path[1:] if ca.subject != ca.issuer)
        step = Step(path[-1], issuer, below, self.now, self.purpose, trusted, self.refused)
        for order, check in enumerate((*CHECKS, self._check_signature)):
            try:
                check(step)
            except EvidenceRefused as failure:
                self._note(path, order, failure)
                return False
        return True

    def _check_signature(self, step: Step) -> None:
        """Section 6.1.3 (a)(1), over the original octets, and not more often than an honest chain can need."""
        self.signature_checks += 1
        if self.signature_checks > MAX_SIGNATURE_CHECKS:
            raise ChainTooCostly(expected=f"at most {MAX_SIGNATURE_CHECKS} signature checks")
        if not self.anchors.vouched.holds(step.child, step.issuer):
            verify_signature(step.child, step.issuer)
            self.anchors.vouched.note(step.child, step.issuer)

    def _note(self, path: tuple[MakerCertificate, ...], order: int, failure: EvidenceRefused) -> None:
        if self.failure is None or (len(path), order) > self.furthest:
            self.furthest, self.failure = (len(path), order), failure
