"""Issuing: what comes out is what the specification says, and specifications stay within their profile."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from attestd.ca.certificates import (
    LifetimeExhausted,
    OutlivesIssuer,
    SpecContradictsProfile,
    issue,
    nested_validity,
)
from attestd.ca.hierarchy import Hierarchy
from attestd.ca.profiles import Profile
from attestd.credentials.facts import FACTS_OID, Facts
from attestd.credentials.x509 import Authorities, verify_chain
from attestd.ids import Serial, SpiffeId

from .conftest import DOMAIN, FACTS, LEAF_KEY, NOW, Specify, counted

IDENTITIES = {
    "device": "spiffe://example.org/device/berlin/d1",
    "edge": "spiffe://example.org/edge/berlin/e1",
    "cloud": "spiffe://example.org/cloud/eu/c1",
    "server": "spiffe://example.org/service/attestd",
    "admin": "spiffe://example.org/admin/ada",
    "proxy": "spiffe://example.org/proxy/berlin/p1",
}
NAMES = {
    "dns_names": ("attestd.example.org", "localhost"),
    "ip_addresses": (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")),
}


def for_profile(specify: Specify, profile: Profile, **changes: Any) -> Any:
    """A good specification for this profile."""
    good: dict[str, Any] = {
        "profile": profile,
        "spiffe_id": SpiffeId.parse(IDENTITIES[profile.name]),
        "facts": FACTS if profile.facts else None,
        "not_after": NOW + profile.lifetime,
    }
    return specify(**good | (NAMES if profile.names else {}) | changes)


@pytest.mark.parametrize("name", IDENTITIES)
def test_every_field_of_a_certificate(
    hierarchy: Hierarchy, specify: Specify, profiles: Mapping[str, Profile], name: str
) -> None:
    profile = profiles[name]
    spec = for_profile(specify, profile)
    issued = issue(spec, hierarchy.issuer)
    assert (issued.serial, issued.not_before, issued.not_after) == (spec.serial, spec.not_before, spec.not_after)

    certificate = x509.load_der_x509_certificate(issued.der)
    assert certificate == x509.load_pem_x509_certificate(issued.pem.encode())
    assert certificate.version is x509.Version.v3
    assert certificate.serial_number == spec.serial.number
    assert certificate.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
    assert certificate.issuer == hierarchy.issuer.certificate.subject
    assert certificate.subject == x509.Name([])
    assert certificate.not_valid_before_utc == NOW - timedelta(seconds=60)
    assert certificate.not_valid_after_utc == NOW + profile.lifetime
    assert certificate.public_key() == LEAF_KEY.public_key()
    certificate.verify_directly_issued_by(hierarchy.issuer.certificate)

    found = {extension.oid: (extension.critical, extension.value) for extension in certificate.extensions}
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(IDENTITIES[name])]
    if profile.names:
        names += [x509.DNSName("attestd.example.org"), x509.DNSName("localhost")]
        names += [x509.IPAddress(address) for address in NAMES["ip_addresses"]]
    issuer_id = hierarchy.issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    expected = {
        ExtensionOID.BASIC_CONSTRAINTS: (True, x509.BasicConstraints(ca=False, path_length=None)),
        ExtensionOID.KEY_USAGE: (
            True,
            x509.KeyUsage(True, False, False, False, False, False, False, False, False),
        ),
        ExtensionOID.EXTENDED_KEY_USAGE: (False, x509.ExtendedKeyUsage(profile.extended_key_usage)),
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: (True, x509.SubjectAlternativeName(names)),
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: (
            False,
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id),
        ),
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: (False, x509.SubjectKeyIdentifier.from_public_key(LEAF_KEY.public_key())),
    }
    if profile.facts:
        expected[FACTS_OID] = (False, FACTS.to_extension())
    assert found == expected


@pytest.mark.parametrize("name", ["device", "edge", "cloud", "admin", "proxy"])
def test_the_products_own_verifier_accepts_it(
    hierarchy: Hierarchy, specify: Specify, profiles: Mapping[str, Profile], name: str
) -> None:
    issued = issue(for_profile(specify, profiles[name]), hierarchy.issuer)
    issuers = [_der(signer.certificate) for signer in hierarchy.issuers]
    authorities = Authorities.load([_der(hierarchy.root)], issuers, trust_domain=DOMAIN)
    verified = verify_chain([issued.der], authorities=authorities, now=NOW)
    assert str(verified.spiffe_id) == IDENTITIES[name]
    assert verified.facts == (FACTS if profiles[name].facts else None)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def test_a_crl_distribution_point_is_optional(hierarchy: Hierarchy, specify: Specify) -> None:
    plain = x509.load_der_x509_certificate(issue(specify(), hierarchy.issuer).der)
    with pytest.raises(x509.ExtensionNotFound):
        plain.extensions.get_extension_for_class(x509.CRLDistributionPoints)
    url = "http://attestd.example.org/v1/crl"
    pointed = x509.load_der_x509_certificate(issue(specify(crl_url=url), hierarchy.issuer).der)
    (point,) = pointed.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name == [x509.UniformResourceIdentifier(url)]
    assert (point.reasons, point.crl_issuer, point.relative_name) == (None, None, None)


@pytest.mark.parametrize(
    "serial",
    [1, 0x7F, 0x80, 0xFF00, (1 << 159) - 1, 1 << 158],
)
def test_any_serial_number(hierarchy: Hierarchy, specify: Specify, serial: int) -> None:
    issued = issue(specify(serial=Serial(serial)), hierarchy.issuer)
    assert x509.load_der_x509_certificate(issued.der).serial_number == serial


def test_facts_of_any_size(hierarchy: Hierarchy, specify: Specify) -> None:
    for size in (1, 40, 60, 100, 200, 255):  # DER lengths of one, two and three octets
        facts = Facts({}, {f"l{n}": "x" * size for n in range(3)}, {}, 1, 1)
        issued = issue(specify(facts=facts), hierarchy.issuer)
        extension = x509.load_der_x509_certificate(issued.der).extensions.get_extension_for_oid(FACTS_OID).value
        assert isinstance(extension, x509.UnrecognizedExtension)
        assert Facts.from_extension(extension.value) == facts


def test_key_agreement(hierarchy: Hierarchy, specify: Specify, profiles: Mapping[str, Profile]) -> None:
    profile = replace(profiles["device"], key_usage=frozenset(["digitalSignature", "keyAgreement"]))
    issued = issue(specify(profile=profile), hierarchy.issuer)
    usage = x509.load_der_x509_certificate(issued.der).extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_agreement, usage.key_cert_sign) == (True, True, False)


# ---- Specifications that contradict their profile ---------------------------------------------------------------

SPEC_LIES: dict[str, dict[str, Any]] = {
    "another curve": {"public_key": ec.derive_private_key(5, ec.SECP384R1()).public_key()},
    "another tier": {"spiffe_id": SpiffeId.parse("spiffe://example.org/edge/berlin/d1")},
    "an operator": {"spiffe_id": SpiffeId.parse("spiffe://example.org/admin/d1")},
    "no facts": {"facts": None},
    "a DNS name": {"dns_names": ("localhost",)},
    "an address": {"ip_addresses": (ipaddress.ip_address("127.0.0.1"),)},
    "no CRL URL": {"crl_url": "ftp://example.org"},
    "a CRL URL that is no ASCII": {"crl_url": "http://exämple.org"},
    "no time zone": {"not_before": (NOW - timedelta(seconds=60)).replace(tzinfo=None)},
    "another time zone": {"not_before": (NOW - timedelta(seconds=60)).astimezone(timezone(timedelta(hours=1)))},
    "a fraction of a second": {"not_after": NOW + timedelta(microseconds=1)},
    "ends as it begins": {"not_after": NOW - timedelta(seconds=60)},
    "too long": {"not_after": NOW + timedelta(seconds=3601)},
    "too early": {"not_before": NOW - timedelta(seconds=61)},
}


@pytest.mark.parametrize("lie", SPEC_LIES)
def test_a_specification_beyond_its_profile_is_refused(specify: Specify, lie: str) -> None:
    specify()
    with pytest.raises(SpecContradictsProfile):
        specify(**SPEC_LIES[lie])


SERVER_LIES: dict[str, dict[str, Any]] = {
    "facts": {"facts": FACTS},
    "a wildcard": {"dns_names": ("*.example.org",)},
    "upper case": {"dns_names": ("Example.org",)},
    "an empty label": {"dns_names": ("example..org",)},
    "a hyphen first": {"dns_names": ("-example.org",)},
    "a long label": {"dns_names": ("x" * 64 + ".org",)},
    "a long name": {"dns_names": (".".join(["x" * 63] * 4),)},
    "a name twice": {"dns_names": ("localhost", "localhost")},
    "a hundred and one names": {"dns_names": tuple(f"n{n}" for n in range(101)), "ip_addresses": ()},
}


@pytest.mark.parametrize("lie", SERVER_LIES)
def test_a_servers_names_are_checked(specify: Specify, profiles: Mapping[str, Profile], lie: str) -> None:
    for_profile(specify, profiles["server"], dns_names=("x" * 63 + ".org", "xn--bcher-kva.example", "n"))
    with pytest.raises(SpecContradictsProfile):
        for_profile(specify, profiles["server"], **SERVER_LIES[lie])


def test_another_trust_domain_is_refused(hierarchy: Hierarchy, specify: Specify) -> None:
    other = SpiffeId.parse("spiffe://example.net/device/berlin/d1")
    with pytest.raises(SpecContradictsProfile, match=r"example\.net"):
        issue(specify(spiffe_id=other), hierarchy.issuer)


def test_nothing_outlives_its_issuer(hierarchy: Hierarchy, specify: Specify) -> None:
    ends = hierarchy.issuer.certificate.not_valid_after_utc
    issue(specify(not_before=ends - timedelta(minutes=1), not_after=ends), hierarchy.issuer)
    with pytest.raises(OutlivesIssuer):
        issue(specify(not_before=ends - timedelta(minutes=1), not_after=ends + timedelta(seconds=1)), hierarchy.issuer)


def test_validity_nests(hierarchy: Hierarchy, profiles: Mapping[str, Profile]) -> None:
    device, issuer = profiles["device"], hierarchy.issuer.certificate
    ends = issuer.not_valid_after_utc
    hour, second = timedelta(hours=1), timedelta(seconds=1)

    def validity(now: datetime, good_until: datetime | None = None) -> tuple[datetime, datetime]:
        return nested_validity(device, issuer=issuer, now=now, good_until=good_until)

    backdated = NOW - timedelta(seconds=60)
    assert validity(NOW) == (backdated, NOW + hour)
    assert validity(NOW + timedelta(microseconds=9)) == (backdated, NOW + hour)
    assert validity(NOW.astimezone(timezone(timedelta(hours=5))))[1].tzinfo is UTC
    assert validity(NOW, NOW + 2 * hour) == (backdated, NOW + hour)
    assert validity(NOW, NOW + second) == (backdated, NOW + second)
    assert validity(ends - second) == (ends - timedelta(seconds=61), ends)
    for now, good_until, said in ((NOW, NOW, "attestation"), (ends, None, "issuer")):
        with pytest.raises(LifetimeExhausted, match=said):
            validity(now, good_until)


def test_serial_numbers_have_159_bits() -> None:
    entropy = counted("serials")
    numbers = [Serial.random(entropy(20)).number for _ in range(200)]
    assert max(number.bit_length() for number in numbers) == 159
    assert all(0 < number < 1 << 159 for number in numbers)


def test_extended_key_usages_separate_callers_from_servers(profiles: Mapping[str, Profile]) -> None:
    servers = {name for name, found in profiles.items() if ExtendedKeyUsageOID.SERVER_AUTH in found.extended_key_usage}
    assert servers == {"edge", "cloud", "server"}
