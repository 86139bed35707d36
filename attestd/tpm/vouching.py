"""May this CA vouch for that certificate? Every check of one step of a path, each with its own error.

RFC 5280, section 6.1 (basic path validation); the numbers in the code are its. Stricter than that section: key usage
may not be absent in a CA; constraints that are not evaluated here refuse the path even where they are not critical; a
CA that names purposes must name the path's (which keeps 1,822 known CAs for attestation keys from vouching for EKs).
Not used: the issuer and serial number in an authority key identifier, which 17 Infineon CAs have wrong.

An expired root (quirk "expired-root"). A trust anchor is a name and a key (section 6.1.1 (d)): its dates are no part of
path validation, and 44 known CAs outlive their root by years, as do the chips below them. So the dates of a root that
an operator trusts bind it as they bind whoever signs: it must have been valid when it issued the certificate below it.
Everything else on the path must be valid now, and so must every root whose expiry the caller refuses to let through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attestd.errors import EvidenceRefused
from attestd.tpm.claims import (
    ALTERNATIVE_NAME,
    AUTHORITY_KEY_ID,
    BASIC_CONSTRAINTS,
    EXTENDED_KEY_USAGE,
    INHIBIT_ANY_POLICY,
    KEY_USAGE,
    NAME_CONSTRAINTS,
    POLICIES,
    POLICY_CONSTRAINTS,
    SUBJECT_KEY_ID,
)
from attestd.tpm.der import shown_name
from attestd.tpm.ekcert import MakerCertificate, Quirk
from attestd.tpm.weak_keys import has_roca_fingerprint

ANY_PURPOSE = "2.5.29.37.0"  # anyExtendedKeyUsage (RFC 5280, section 4.2.1.12)


class MakerCertificateExpired(EvidenceRefused):
    """A certificate of the chain has expired"""

    remedy = "Enroll the device by its EK's hash in the inventory, or add the maker's renewed certificate."


class MakerCertificateNotYetValid(EvidenceRefused):
    """A certificate of the chain is not valid yet"""

    remedy = "Check the service's clock."


class UnhandledCriticalExtension(EvidenceRefused):
    """A certificate of the chain has a critical extension that is not understood"""

    remedy = "Enroll the device by its EK's hash in the inventory, and report this extension to attestd's developers."


class UnhandledConstraint(EvidenceRefused):
    """A CA of the chain is under a constraint that is not evaluated"""

    remedy = UnhandledCriticalExtension.remedy


class IssuerKeyDiffers(EvidenceRefused):
    """The certificate was issued with another key of this name"""

    remedy = "Add the issuer whose key identifier the certificate names with `attestd trust add FILE`."


class IssuerNotCa(EvidenceRefused):
    """A certificate was issued by one that is not a CA"""


class IssuerMayNotSign(EvidenceRefused):
    """A certificate was issued by a CA whose key may not sign certificates"""


class IssuerNotForPurpose(EvidenceRefused):
    """A certificate was issued by a CA that may not vouch for this kind of key"""


class PathLengthExceeded(EvidenceRefused):
    """More CAs stand below a CA than it allows"""


class WeakIssuerKey(EvidenceRefused):
    """A CA's key is too short, or known to be weak"""


class WeakCertificateSignature(EvidenceRefused):
    """A certificate is signed over a hash whose collisions can be bought"""

    remedy = "Enroll the device by its EK's hash in the inventory."


class UnknownSignatureAlgorithm(EvidenceRefused):
    """A certificate is signed by an algorithm that is not accepted"""

    remedy = WeakCertificateSignature.remedy


class BadCertificateSignature(EvidenceRefused):
    """A certificate's signature is not its issuer's"""


_UNDERSTOOD_IN_CA = frozenset(
    {BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, POLICIES, SUBJECT_KEY_ID, AUTHORITY_KEY_ID}
)
# Policies are understood as section 6.1 does when any policy is acceptable and none is required: they are read, and no
# decision hangs on them. The alternative name is read by `ekcert`, and judged by `endorsement`.
UNDERSTOOD_IN_LEAF = _UNDERSTOOD_IN_CA | {ALTERNATIVE_NAME}
_CONSTRAINTS = frozenset({NAME_CONSTRAINTS, POLICY_CONSTRAINTS, INHIBIT_ANY_POLICY})
_LEAST_RSA_BITS = 2048
# The first SHA-1 collision was shown in February 2017 (SHAttered), the first that could forge a certificate in 2019
# ("From Collisions to Chosen-Prefix Collisions", EUROCRYPT 2019). Of the known CAs this refuses Infineon's 39, 53, 55
# and 63 of 2017.
SHA1_ENDED = datetime(2017, 1, 1, tzinfo=UTC)


def check_dates(certificate: MakerCertificate, now: datetime) -> None:
    """Section 6.1.3 (a)(2)."""
    claims = certificate.claims
    if now < claims.not_before:
        raise MakerCertificateNotYetValid(
            f"The certificate of {shown_name(certificate.subject)} is not valid yet.",
            seen=f"now {now.isoformat()}",
            expected=f"not before {claims.not_before.isoformat()}",
        )
    if now > claims.not_after:
        raise MakerCertificateExpired(
            f"The certificate of {shown_name(certificate.subject)} has expired.",
            seen=f"now {now.isoformat()}",
            expected=f"not after {claims.not_after.isoformat()}",
        )


def check_critical(certificate: MakerCertificate, understood: frozenset[str]) -> None:
    """Sections 6.1.4 (o) and 6.1.5 (f)."""
    if unhandled := sorted(certificate.claims.critical - understood):
        raise UnhandledCriticalExtension(
            f"The certificate of {shown_name(certificate.subject)} has a critical extension that is not understood.",
            seen=", ".join(unhandled)[:200],
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One step up: may `issuer` vouch for `child`, with `below` CAs already between it and the leaf?

    `purpose` is the key purpose (an OID) that the path is for; `refused` are the quirks that the path may not have.
    """

    child: MakerCertificate
    issuer: MakerCertificate
    below: int
    now: datetime
    purpose: str
    trusted: bool  # the issuer is a root of the trust store
    refused: frozenset[Quirk]

    @property
    def who(self) -> str:
        """The issuer's name, for people."""
        return shown_name(self.issuer.subject)


def _check_key_ids(step: Step) -> None:
    """RFC 5280, sections 4.2.1.1 and 4.2.1.2, where both are present."""
    wanted, found = step.child.claims.authority_key_id, step.issuer.claims.subject_key_id
    if wanted is not None and found is not None and wanted != found:
        raise IssuerKeyDiffers(f"No known key of {step.who} is the one.", seen=found.hex(), expected=wanted.hex())


def _check_is_ca(step: Step) -> None:
    """Section 6.1.4 (k)."""
    if not step.issuer.claims.is_ca:
        raise IssuerNotCa(f"{step.who} is no CA.", expected="basicConstraints with cA TRUE")


def _check_may_sign(step: Step) -> None:
    """Section 6.1.4 (n)."""
    if "key_cert_sign" not in (step.issuer.claims.usages or ()):
        raise IssuerMayNotSign(
            f"The key of {step.who} may not sign certificates.",
            seen=", ".join(sorted(step.issuer.claims.usages or ())) or "no key usage",
            expected="key_cert_sign",
        )


def _check_purpose(step: Step) -> None:
    """RFC 5280, section 4.2.1.12, applied to CAs: purposes nest."""
    purposes = step.issuer.claims.purposes
    if purposes is not None and not purposes & {step.purpose, ANY_PURPOSE}:
        raise IssuerNotForPurpose(
            f"{step.who} may not vouch for this kind of key.",
            seen=", ".join(sorted(purposes))[:200] or "no purpose",
            expected=step.purpose,
        )


def _check_path_length(step: Step) -> None:
    """Section 6.1.4 (l) and (m)."""
    allowed = step.issuer.claims.path_length
    if allowed is not None and step.below > allowed:
        raise PathLengthExceeded(
            f"Too many CAs stand below {step.who}.", seen=step.below, expected=f"at most {allowed}"
        )


def _check_constraints(step: Step) -> None:
    """Sections 6.1.3 (b) to (f), which are not evaluated: no maker's CA is under such a constraint."""
    if constraints := sorted(step.issuer.claims.extensions & _CONSTRAINTS):
        raise UnhandledConstraint(
            f"{step.who} is under a constraint that is not evaluated.", seen=", ".join(constraints)
        )


def _check_issuer_critical(step: Step) -> None:
    """Section 6.1.4 (o)."""
    check_critical(step.issuer, _UNDERSTOOD_IN_CA)


def _check_issuer_dates(step: Step) -> None:
    """Section 6.1.3 (a)(2); for a trusted root that is over, the moment when it signed counts."""
    ends, signed = step.issuer.claims.not_after, step.child.claims.not_before
    if step.trusted and Quirk.EXPIRED_ROOT not in step.refused and signed <= ends < step.now:
        check_dates(step.issuer, signed)
    else:
        check_dates(step.issuer, step.now)


def _check_strength(step: Step) -> None:
    """Before a signature counts: the issuer's key, the algorithm and the hash must carry it."""
    if isinstance(step.issuer.key, rsa.RSAPublicKey) and step.issuer.key.key_size < _LEAST_RSA_BITS:
        raise WeakIssuerKey(
            f"The key of {step.who} is too short.",
            seen=f"{step.issuer.key.key_size} bits",
            expected=f"at least {_LEAST_RSA_BITS}",
        )
    if has_roca_fingerprint(step.issuer.key):
        raise WeakIssuerKey(
            f"The key of {step.who} can be factored (CVE-2017-15361).", seen="the fingerprint of Infineon's RSALib"
        )
    if step.child.algorithm is None:
        raise UnknownSignatureAlgorithm(
            seen=step.child.algorithm_oid, expected="RSA (PKCS #1 v1.5) or ECDSA, with SHA-2"
        )
    if step.child.algorithm.weak:
        signed = step.child.claims.not_before
        if Quirk.SHA1_SIGNATURE in step.refused or signed >= SHA1_ENDED:
            raise WeakCertificateSignature(
                f"{step.who} signed over SHA-1.",
                seen=f"{step.child.algorithm.name}, {signed:%Y-%m-%d}",
                expected="SHA-2",
            )


def verify_signature(child: MakerCertificate, issuer: MakerCertificate) -> None:
    """Proves that `issuer`'s key signed the very octets of `child`, by an algorithm that is known here."""
    key, algorithm = issuer.key, child.algorithm

    def refusal() -> BadCertificateSignature:
        return BadCertificateSignature(
            f"A certificate's signature is not that of {shown_name(issuer.subject)}.",
            seen=algorithm.name if algorithm else child.algorithm_oid,
        )

    if algorithm is None or not isinstance(key, algorithm.key):
        raise refusal()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(child.signature, child.tbs, padding.PKCS1v15(), algorithm.hash)
        else:
            key.verify(child.signature, child.tbs, ec.ECDSA(algorithm.hash))
    except (InvalidSignature, UnsupportedAlgorithm):
        raise refusal() from None


# Cheap ones first, the signature last. Further down the list is further along: that failure is the one to report.
CHECKS: tuple[Callable[[Step], None], ...] = (
    _check_key_ids,
    _check_is_ca,
    _check_may_sign,
    _check_purpose,
    _check_path_length,
    _check_constraints,
    _check_issuer_critical,
    _check_issuer_dates,
    _check_strength,
)
