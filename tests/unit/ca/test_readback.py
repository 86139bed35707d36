"""Reading back: a signer that returns a certificate that differs in one field gets nothing out.

The liar takes the honest certificate apart with another library, changes one thing and signs again, mostly with the
issuer's real key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asn1crypto import core, x509
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.certificates import IssuedCertificate, issue
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.profiles import Profile
from attestd.ca.readback import SignedBytesDiffer, elements, tlv
from attestd.ca.signer import FileSigner
from attestd.credentials.facts import FACTS_OID
from attestd.ids import SpiffeId

from .conftest import DOMAIN, FACTS, LEAF_KEY, OTHER_KEY, Specify, counted

URL = "http://attestd.example.org/crl"
_ECDSA_SHA384 = {"algorithm": "sha384_ecdsa"}


class Liar(FileSigner):
    """The real issuer, but for what it does to the octets that it has signed."""

    def __init__(self, honest: FileSigner, lie: Callable[[bytes, ec.EllipticCurvePrivateKey], bytes]) -> None:
        super().__init__(honest.certificate, honest._key)
        object.__setattr__(self, "lie", lie)

    def sign_certificate(self, builder: pyca.CertificateBuilder) -> bytes:
        lie: Any = self.lie  # type: ignore[attr-defined]
        return bytes(lie(super().sign_certificate(builder), self._key))


def changed(
    change: Callable[[Any], None], signing_key: ec.EllipticCurvePrivateKey | None = None
) -> Callable[..., bytes]:
    """A lie that applies `change` to the TBSCertificate and signs it again."""

    def lie(der: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
        certificate = x509.Certificate.load(der)
        tbs = certificate["tbs_certificate"]
        change(tbs)
        octets = tbs.dump(force=True)
        signature = (signing_key or key).sign(octets, ec.ECDSA(hashes.SHA256()))
        algorithm = tlv(0x30, bytes.fromhex("06082a8648ce3d040302"))
        return tlv(0x30, octets + algorithm + tlv(0x03, b"\x00" + signature))

    return lie


def extension(name: str, change: Callable[[Any], None]) -> Callable[[Any], None]:
    """Changes one extension, by asn1crypto's name or OID."""

    def apply(tbs: Any) -> None:
        (found,) = [one for one in tbs["extensions"] if one["extn_id"].native == name]
        change(found)

    return apply


def value(octets: bytes) -> Callable[[Any], None]:
    def change(one: Any) -> None:
        one["extn_value"] = core.ParsableOctetString(octets)

    return change


def criticality(critical: bool) -> Callable[[Any], None]:
    def change(one: Any) -> None:
        one["critical"] = critical

    return change


def put(name: str, what: Any) -> Callable[[Any], None]:
    def change(tbs: Any) -> None:
        tbs[name] = what

    return change


def moved(which: str, seconds: int) -> Callable[[Any], None]:
    def change(tbs: Any) -> None:
        moment = tbs["validity"][which].native + timedelta(seconds=seconds)
        tbs["validity"][which] = x509.Time({"utc_time": moment})

    return change


def without(name: str) -> Callable[[Any], None]:
    def change(tbs: Any) -> None:
        kept = [one for one in tbs["extensions"] if one["extn_id"].native != name]
        tbs["extensions"] = x509.Extensions(kept)

    return change


def added(oid: str, octets: bytes) -> Callable[[Any], None]:
    def change(tbs: Any) -> None:
        new = x509.Extension({"extn_id": oid, "critical": False, "extn_value": core.ParsableOctetString(octets)})
        tbs["extensions"] = x509.Extensions([*tbs["extensions"], new])

    return change


def names(*found: tuple[str, Any]) -> bytes:
    return bytes(x509.GeneralNames([x509.GeneralName(name, what) for name, what in found]).dump())


def spki(key: ec.EllipticCurvePrivateKey) -> Any:
    octets = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return x509.PublicKeyInfo.load(octets)


def compressed(tbs: Any) -> None:
    point = LEAF_KEY.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    tbs["subject_public_key_info"] = x509.PublicKeyInfo.load(tlv(0x30, algorithm + tlv(0x03, b"\x00" + point)))


FACTS_NAME = FACTS_OID.dotted_string
ID = "spiffe://example.org/device/berlin/d1"
LIES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "version 2": ("version", put("version", "v2")),
    "serial number": ("serial number", put("serial_number", 0x123456789ABCDEE)),
    "inner algorithm": ("algorithm", put("signature", x509.SignedDigestAlgorithm(_ECDSA_SHA384))),
    "issuer": ("issuer", put("issuer", x509.Name.build({"common_name": "attestd issuer"}))),
    "begins earlier": ("validity", moved("not_before", -1)),
    "ends later": ("validity", moved("not_after", 1)),
    "a subject": ("subject", put("subject", x509.Name.build({"common_name": "d1"}))),
    "another key": ("public key", put("subject_public_key_info", spki(OTHER_KEY))),
    "the same key, compressed": ("public key", compressed),
    "an issuer's unique id": ("more or fewer", put("issuer_unique_id", core.OctetBitString(b"\x01"))),
    "a subject's unique id": ("more or fewer", put("subject_unique_id", core.OctetBitString(b"\x01"))),
    "a CA": ("basic constraints", extension("basic_constraints", value(bytes.fromhex("30030101ff")))),
    "constraints not critical": ("basic constraints", extension("basic_constraints", criticality(False))),
    "no constraints": ("basic constraints", without("basic_constraints")),
    "may sign certificates": ("key usage", extension("key_usage", value(bytes.fromhex("03020284")))),
    "usage not critical": ("key usage", extension("key_usage", criticality(False))),
    "no usage": ("key usage", without("key_usage")),
    "any purpose": (
        "extended key usage",
        extension("extended_key_usage", value(tlv(0x30, bytes.fromhex("0604551d2500")))),
    ),
    "also a server": (
        "extended key usage",
        extension("extended_key_usage", value(tlv(0x30, bytes.fromhex("06082b0601050507030206082b06010505070301")))),
    ),
    "purpose critical": ("extended key usage", extension("extended_key_usage", criticality(True))),
    "no purpose": ("extended key usage", without("extended_key_usage")),
    "another device": (
        "names",
        extension("subject_alt_name", value(names(("uniform_resource_identifier", ID.replace("d1", "d2"))))),
    ),
    "two devices": (
        "names",
        extension(
            "subject_alt_name",
            value(names(("uniform_resource_identifier", ID), ("uniform_resource_identifier", ID + "2"))),
        ),
    ),
    "a host name": (
        "names",
        extension("subject_alt_name", value(names(("uniform_resource_identifier", ID), ("dns_name", "example.org")))),
    ),
    "names not critical": ("names", extension("subject_alt_name", criticality(False))),
    "no names": ("names", without("subject_alt_name")),
    "another authority": (
        "authority key identifier",
        extension("authority_key_identifier", value(tlv(0x30, tlv(0x80, b"\x05" * 20)))),
    ),
    "no authority": ("authority key identifier", without("authority_key_identifier")),
    "another key identifier": ("subject key identifier", extension("key_identifier", value(tlv(0x04, b"\x05" * 20)))),
    "no key identifier": ("subject key identifier", without("key_identifier")),
    "another device's facts": (
        "facts",
        extension(FACTS_NAME, value(replace(FACTS, status_index=18).to_extension().value)),
    ),
    "facts that are no facts": ("facts", extension(FACTS_NAME, value(tlv(0x0C, b"{}")))),
    "facts critical": ("facts", extension(FACTS_NAME, criticality(True))),
    "no facts": ("facts", without(FACTS_NAME)),
    "another list": (
        "CRL distribution point",
        extension(
            "crl_distribution_points",
            value(tlv(0x30, tlv(0x30, tlv(0xA0, tlv(0xA0, tlv(0x86, b"http://evil.example/crl")))))),
        ),
    ),
    "no list": ("more or fewer", without("crl_distribution_points")),
    "one extension more": ("more or fewer", added("2.16.840.1.113730.1.13", tlv(0x16, b"hello"))),
    "an extension twice": (
        "more or fewer",
        added("2.5.29.37", tlv(0x30, bytes.fromhex("06082b06010505070301"))),
    ),
}


def honest(der: bytes, _: ec.EllipticCurvePrivateKey) -> bytes:
    return der


@pytest.fixture
def issued_by(hierarchy: Hierarchy, specify: Specify) -> Callable[..., IssuedCertificate]:
    def run(lie: Callable[..., bytes]) -> IssuedCertificate:
        return issue(specify(crl_url=URL), Liar(hierarchy.issuer, lie))

    return run


Issue = Callable[[Callable[..., bytes]], IssuedCertificate]


def test_an_honest_signer_is_believed(issued_by: Issue) -> None:
    issued_by(honest)
    issued_by(changed(lambda tbs: None))  # the forger's own work, without a lie, passes


@pytest.mark.parametrize("lie", LIES)
def test_each_field_that_differs_is_noticed(issued_by: Issue, lie: str) -> None:
    field, change = LIES[lie]
    with pytest.raises(SignedBytesDiffer, match=field):
        issued_by(changed(change))


def test_another_keys_signature_is_noticed(issued_by: Issue) -> None:
    with pytest.raises(SignedBytesDiffer, match="signature is not the issuer's"):
        issued_by(changed(lambda tbs: None, OTHER_KEY))


def test_a_signature_of_something_else_is_noticed(issued_by: Issue) -> None:
    def lie(der: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
        tbs, algorithm, _ = elements(der)
        return tlv(0x30, tbs + algorithm + tlv(0x03, b"\x00" + key.sign(b"else", ec.ECDSA(hashes.SHA256()))))

    with pytest.raises(SignedBytesDiffer, match="signature is not the issuer's"):
        issued_by(lie)


@pytest.mark.parametrize("tag", [0x03, 0x04])
def test_the_signature_is_a_whole_bit_string(issued_by: Issue, tag: int) -> None:
    def lie(der: bytes, _: ec.EllipticCurvePrivateKey) -> bytes:
        tbs, algorithm, signature = elements(der)
        octets = pyca.load_der_x509_certificate(der).signature
        unused = b"\x01" if tag == 0x03 else b"\x00"
        assert signature == tlv(0x03, b"\x00" + octets)
        return tlv(0x30, tbs + algorithm + tlv(tag, unused + octets))

    with pytest.raises(SignedBytesDiffer, match="signature is not the issuer's"):
        issued_by(lie)


def test_the_signature_ends_where_the_certificate_does(issued_by: Issue) -> None:
    def lie(der: bytes, _: ec.EllipticCurvePrivateKey) -> bytes:
        tbs, algorithm, signature = elements(der)
        assert signature[1] < 0x7F
        return tlv(0x30, tbs + algorithm + signature[:1] + bytes((signature[1] + 1,)) + signature[2:])

    with pytest.raises(SignedBytesDiffer, match="not a certificate"):
        issued_by(lie)


def test_another_outer_algorithm_is_noticed(issued_by: Issue) -> None:
    def lie(der: bytes, _: ec.EllipticCurvePrivateKey) -> bytes:
        tbs, _, signature = elements(der)
        return tlv(0x30, tbs + tlv(0x30, bytes.fromhex("06082a8648ce3d040303")) + signature)

    with pytest.raises(SignedBytesDiffer, match="signature algorithm"):
        issued_by(lie)


@pytest.mark.parametrize(
    "lie",
    [
        lambda der, _: der + b"\x00",
        lambda der, _: der[:-1],
        lambda der, _: b"",
        lambda der, _: b"\x30",
        lambda der, _: b"\x30\x00",
        lambda der, _: b"\x30\x82",
        lambda der, _: b"\x30\x84\xff\xff\xff\xff",
        lambda der, _: tlv(0x30, tlv(0x30, b"") * 3),
        lambda der, _: tlv(0x30, elements(der)[0]),
        lambda der, _: tlv(0x30, b"".join(elements(der)) + tlv(0x05, b"")),
        lambda der, _: b"not a certificate",
    ],
    ids=["octet more", "octet less", "empty", "tag", "nothing", "cut length", "huge", "hollow", "bare", "more", "text"],
)
def test_what_is_no_certificate_is_noticed(issued_by: Issue, lie: Callable[..., bytes]) -> None:
    with pytest.raises(SignedBytesDiffer):
        issued_by(lie)


def test_every_truncation_is_noticed(issued_by: Issue) -> None:
    size = len(issued_by(honest).der)
    for at in range(0, size - 2, 7):
        with pytest.raises(SignedBytesDiffer):
            issued_by(lambda der, _, at=at: der[:at])


def test_a_certificate_that_ends_after_2049(
    tmp_path_factory: pytest.TempPathFactory, specify: Specify, profiles: Mapping[str, Profile]
) -> None:
    late = datetime(2051, 6, 1, tzinfo=UTC)
    hierarchy = create_hierarchy(tmp_path_factory.mktemp("late"), DOMAIN, now=late, entropy=counted("late"))
    for not_before in (late, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)):
        profile = replace(profiles["device"], lifetime=late + timedelta(hours=1) - not_before)
        spec = specify(profile=profile, not_before=not_before, not_after=late + timedelta(hours=1))
        found = pyca.load_der_x509_certificate(issue(spec, hierarchy.issuer).der)
        assert (found.not_valid_before_utc, found.not_valid_after_utc) == (spec.not_before, spec.not_after)


def test_a_long_identity(hierarchy: Hierarchy, specify: Specify) -> None:
    """DER lengths above 127 octets in the names."""
    spiffe_id = SpiffeId.parse(f"spiffe://example.org/device/{'s' * 64}/{'d' * 64}")
    found = pyca.load_der_x509_certificate(issue(specify(spiffe_id=spiffe_id), hierarchy.issuer).der)
    names_found = found.extensions.get_extension_for_class(pyca.SubjectAlternativeName).value
    assert names_found.get_values_for_type(pyca.UniformResourceIdentifier) == [str(spiffe_id)]
