"""Writing by hand: the octets are those that the library's builder makes of the same specification."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestd.ca.certificates import CertificateSpec, issue
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.profiles import Profile, key_usage
from attestd.ca.signer import Signer
from attestd.ca.tbs import write_tbs
from attestd.credentials.facts import Facts
from attestd.ids import Serial, SpiffeId, TrustDomain

from .conftest import DOMAIN, FACTS, NOW, OTHER_KEY, Specify, counted

IDENTITIES = {
    "device": "spiffe://example.org/device/berlin/d1",
    "edge": "spiffe://example.org/edge/berlin/e1",
    "cloud": "spiffe://example.org/cloud/eu/c1",
    "server": "spiffe://example.org/service/attestd",
    "admin": "spiffe://example.org/admin/ada",
    "proxy": "spiffe://example.org/proxy/berlin/p1",
}
URL = "http://attestd.example.org/crl"
ADDRESSES = tuple(ipaddress.ip_address(address) for address in ("127.0.0.1", "::1", "2001:db8::7"))


def built(spec: CertificateSpec, issuer: Signer) -> bytes:
    """The TBSCertificate by the library's builder. It signs with any key: what is signed does not depend on that."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spec.spiffe_id))]
    names += [x509.DNSName(name) for name in spec.dns_names]
    names += [x509.IPAddress(address) for address in spec.ip_addresses]
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer.certificate.subject)
        .subject_name(x509.Name([]))
        .public_key(spec.public_key)
        .serial_number(spec.serial.number)
        .not_valid_before(spec.not_before)
        .not_valid_after(spec.not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(spec.profile.key_usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage(spec.profile.extended_key_usage), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(spec.public_key), critical=False)
    )
    if spec.facts is not None:
        builder = builder.add_extension(spec.facts.to_extension(), critical=False)
    if spec.crl_url is not None:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(spec.crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return builder.sign(OTHER_KEY, hashes.SHA256()).tbs_certificate_bytes


def require_same(spec: CertificateSpec, issuer: Signer) -> None:
    assert write_tbs(spec, issuer).hex() == built(spec, issuer).hex()


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("crl_url", [None, URL, "https://example.org/" + "x" * 300])
def test_each_profile(
    hierarchy: Hierarchy, specify: Specify, profiles: Mapping[str, Profile], name: str, crl_url: str | None
) -> None:
    profile = profiles[name]
    changes: dict[str, Any] = {"facts": FACTS if profile.facts else None, "not_after": NOW + profile.lifetime}
    spec = specify(profile=profile, spiffe_id=SpiffeId.parse(IDENTITIES[name]), crl_url=crl_url, **changes)
    require_same(spec, hierarchy.issuer)
    if profile.names:
        require_same(replace(spec, dns_names=("attestd.example.org", "n")), hierarchy.issuer)
        require_same(replace(spec, ip_addresses=ADDRESSES), hierarchy.issuer)
        many = tuple(f"n{number}.example.org" for number in range(97))  # a length of three octets
        require_same(replace(spec, dns_names=many, ip_addresses=ADDRESSES), hierarchy.issuer)


def test_key_agreement(hierarchy: Hierarchy, specify: Specify, profiles: Mapping[str, Profile]) -> None:
    usages = frozenset(["digitalSignature", "keyAgreement"])
    require_same(specify(profile=replace(profiles["device"], key_usage=usages)), hierarchy.issuer)
    require_same(specify(), hierarchy.issuer)  # of the same name, by the other profile again


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 1 << 158, (1 << 159) - 1])
def test_any_serial_number(hierarchy: Hierarchy, specify: Specify, serial: int) -> None:
    require_same(specify(serial=Serial(serial)), hierarchy.issuer)


def test_each_length_of_an_identity(hierarchy: Hierarchy, specify: Specify) -> None:
    for size in range(1, 65):
        for site in ("s", "s" * 64):
            spiffe_id = SpiffeId(DOMAIN, ("device", site, "d" * size))
            require_same(specify(spiffe_id=spiffe_id), hierarchy.issuer)


@pytest.mark.parametrize("year", [1999, 2000, 2026, 2049, 2050, 2100])
def test_times(hierarchy: Hierarchy, specify: Specify, profiles: Mapping[str, Profile], year: int) -> None:
    """Each form, one of each, and numbers of one digit and two."""
    last = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    profile = replace(profiles["device"], lifetime=timedelta(days=2))
    for begins in (last, last + timedelta(seconds=1), datetime(year, 3, 4, 5, 6, 7, tzinfo=UTC)):
        spec = specify(profile=profile, not_before=begins, not_after=begins + timedelta(days=1))
        require_same(spec, hierarchy.issuer)


_TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=40)


_FACTS = st.builds(
    Facts,
    vector=st.dictionaries(st.sampled_from(["hardware", "executables"]), st.integers(-128, 127)),
    labels=st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), _TEXT, max_size=3),
    boot=st.dictionaries(st.sampled_from(["a", "b"]), st.booleans() | st.integers(-9, 9) | _TEXT),
    status_index=st.integers(0, (1 << 26) - 1),
    attested_at=st.integers(1, (1 << 40) - 1),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    facts=_FACTS,
    serial=st.integers(1, (1 << 159) - 1),
    private=st.integers(1, 1 << 255),
    begins=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    device=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
)
def test_any_device(hierarchy: Hierarchy, specify: Specify, **drawn: Any) -> None:
    begins = drawn["begins"].replace(microsecond=0)
    spec = specify(
        public_key=ec.derive_private_key(drawn["private"], ec.SECP256R1()).public_key(),
        spiffe_id=SpiffeId(DOMAIN, ("device", "berlin", drawn["device"])),
        serial=Serial(drawn["serial"]),
        not_before=begins,
        not_after=begins + timedelta(minutes=1),
        facts=drawn["facts"],
    )
    require_same(spec, hierarchy.issuer)


def test_what_is_kept_is_kept_apart(
    hierarchy: Hierarchy,
    specify: Specify,
    profiles: Mapping[str, Profile],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Issuers, profiles and URLs in turns: each certificate gets what is its own."""
    other = create_hierarchy(
        tmp_path_factory.mktemp("other"), TrustDomain("example.org"), now=NOW, entropy=counted("o")
    )
    narrow = replace(profiles["device"], extended_key_usage=profiles["edge"].extended_key_usage)
    for _ in range(2):
        for issuer in (hierarchy.issuer, other.issuer):
            for profile in (profiles["device"], narrow):
                for crl_url in (None, URL, URL + "2"):
                    spec = specify(profile=profile, crl_url=crl_url)
                    require_same(spec, issuer)
                    x509.load_der_x509_certificate(issue(spec, issuer).der).verify_directly_issued_by(
                        issuer.certificate
                    )
