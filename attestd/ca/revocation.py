"""The full CRL of the issuing CA (RFC 5280, section 5), for relying parties that know no bundle.

It covers every certificate of its issuer, so it needs no issuing distribution point, which is critical and which many
verifiers do not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.readback import SignedBytesDiffer
from attestd.ca.signer import Signer
from attestd.errors import Misconfigured
from attestd.ids import Serial

# RFC 5280, section 5.3.1. "unspecified" is left out, as it should be; "removeFromCRL" is for delta CRLs, and
# "certificateHold" for what comes back: here a quarantine is the status list's word, and a revocation is for good.
_REASONS = {
    reason.value: reason
    for reason in (
        x509.ReasonFlags.key_compromise,
        x509.ReasonFlags.ca_compromise,
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
        x509.ReasonFlags.privilege_withdrawn,
        x509.ReasonFlags.aa_compromise,
    )
}
_ES256 = ec.ECDSA(hashes.SHA256())


class RevocationListInvalid(Misconfigured):
    """The revocation list can't be made"""

    remedy = "Report this: the service asked for a revocation list that no verifier would accept."


def build_crl(
    revoked: Iterable[tuple[Serial, int, str]],
    issuer: Signer,
    *,
    number: int,
    now: datetime,
    next_update: datetime,
) -> bytes:
    """The list in DER, signed, read back and compared.

    `revoked`: serial number, time in unix seconds, reason; a reason that is a name of RFC 5280's, section 5.3.1, goes
    into the list, any other words stay out of it. `number` never decreases (section 5.2.3).
    Raises RevocationListInvalid, SignedBytesDiffer.
    """
    this_update = now.astimezone(UTC).replace(microsecond=0)
    next_update = next_update.astimezone(UTC).replace(microsecond=0)
    if not this_update < next_update:
        raise RevocationListInvalid("It would be stale at once.", seen=next_update, expected=f"after {this_update}")
    if not 0 <= number < 1 << 159:  # at most 20 octets
        raise RevocationListInvalid("Its number is out of range.", seen=number, expected="0 to 2^159 - 1")
    entries = [_entry(*one) for one in revoked]
    # The entries at once: adding one at a time copies the whole list each time.
    builder = x509.CertificateRevocationListBuilder(revoked_certificates=entries)
    der = issuer.sign_crl(
        builder.issuer_name(issuer.certificate.subject)
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    _require_as_meant(der, entries, issuer, number=number, this_update=this_update, next_update=next_update)
    return der


def _entry(serial: Serial, at: int, reason: str) -> x509.RevokedCertificate:
    builder = (
        x509.RevokedCertificateBuilder().serial_number(serial.number).revocation_date(datetime.fromtimestamp(at, UTC))
    )
    if reason in _REASONS:
        builder = builder.add_extension(x509.CRLReason(_REASONS[reason]), critical=False)
    return builder.build()


def _require_as_meant(
    der: bytes,
    entries: list[x509.RevokedCertificate],
    issuer: Signer,
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
) -> None:
    """What was signed is read back and compared, field by field, before it leaves. Raises SignedBytesDiffer."""
    try:
        crl = x509.load_der_x509_crl(der)
        found = [_shown(entry) for entry in crl]
        extensions = {extension.oid: (extension.critical, extension.value) for extension in crl.extensions}
    except (ValueError, x509.DuplicateExtension):
        raise SignedBytesDiffer("The signed octets are not a revocation list.") from None
    authority, counter = x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None), x509.CRLNumber(number)
    compared: dict[str, tuple[object, object]] = {
        "issuer": (crl.issuer, issuer.certificate.subject),
        "this update": (crl.last_update_utc, this_update),
        "next update": (crl.next_update_utc, next_update),
        "algorithm": (crl.signature_algorithm_oid, x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256),
        "extensions": (extensions, {authority.oid: (False, authority), counter.oid: (False, counter)}),
        "entries": (found, [_shown(entry) for entry in entries]),
    }
    for name, (seen, expected) in compared.items():
        if seen != expected:
            raise SignedBytesDiffer(f"The signed revocation list's {name} are not what was meant.")
    try:
        issuer.public_key.verify(crl.signature, crl.tbs_certlist_bytes, _ES256)
    except InvalidSignature:
        raise SignedBytesDiffer("The revocation list's signature is not the issuer's.") from None


def _shown(entry: x509.RevokedCertificate) -> tuple[object, ...]:
    return (
        entry.serial_number,
        entry.revocation_date_utc,
        [(extension.critical, extension.value) for extension in entry.extensions],
    )
