"""Reading back: whatever errs before it, a certificate that differs from what was meant does not get out.

The writer that errs has its honest TBSCertificate taken apart and changed in one point by another library; the issuer's
real key then signs that. The signer that errs, or lies, gets honest octets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asn1crypto import core, x509
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca import certificates, tbs
from attestd.ca.certificates import CertificateSpec, IssuedCertificate, issue
from attestd.ca.der import content, elements, tlv
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.ca.profiles import Profile
from attestd.ca.readback import SignedBytesDiffer, require_as_meant
from attestd.ca.signer import FileSigner, Signer
from attestd.credentials.facts import FACTS_OID, Facts
from attestd.credentials.jws import raw_signature
from attestd.ids import SpiffeId

from .conftest import DOMAIN, FACTS, LEAF_KEY, NOW, OTHER_KEY, Specify, counted

URL = "http://attestd.example.org/crl"
_ECDSA_SHA384 = {"algorithm": "sha384_ecdsa"}
_SHA256 = ec.ECDSA(hashes.SHA256())

Change = Callable[[Any], None]


# ---- A writer that errs -----------------------------------------------------------------------------------------


def rewritten(octets: bytes, change: Change) -> bytes:
    """The TBSCertificate with this change."""
    loaded = x509.TbsCertificate.load(octets)
    change(loaded)
    return bytes(loaded.dump(force=True))


@pytest.fixture
def erring(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """From then on, what is written and signed has this change."""
    honest = tbs.write_tbs

    def err(change: Change) -> None:
        monkeypatch.setattr(certificates, "write_tbs", lambda spec, issuer: rewritten(honest(spec, issuer), change))

    return err


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


def respelled(which: str) -> Callable[[Any], None]:
    """The same time as a GeneralizedTime, which is for 2050 and later."""

    def change(tbs: Any) -> None:
        tbs["validity"][which] = x509.Time({"general_time": tbs["validity"][which].native})

    return change


def named(oid: str) -> Callable[[Any], None]:
    def change(one: Any) -> None:
        one["extn_id"] = oid

    return change


def reordered(tbs: Any) -> None:
    tbs["extensions"] = x509.Extensions([*list(tbs["extensions"])[1:], tbs["extensions"][-1]])


def unique(tbs: Any) -> None:
    tbs["extensions"] = None
    tbs["issuer_unique_id"] = core.OctetBitString(b"\x01")


def sized(text: bytes) -> bytes:
    return tlv(0x0C, text)


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
    "version 2": ("form", put("version", "v2")),
    "version 1": ("form", put("version", "v1")),
    "no extensions": ("form", lambda tbs: tbs.__setitem__("extensions", None)),
    "serial number": ("serial number", put("serial_number", 0x123456789ABCDEE)),
    "inner algorithm": ("algorithm", put("signature", x509.SignedDigestAlgorithm(_ECDSA_SHA384))),
    "issuer": ("issuer", put("issuer", x509.Name.build({"common_name": "attestd issuer"}))),
    "begins earlier": ("beginning", moved("not_before", -1)),
    "ends later": ("end", moved("not_after", 1)),
    "begins in the other form": ("size of times", respelled("not_before")),
    "ends in the other form": ("size of times", respelled("not_after")),
    "a subject": ("subject", put("subject", x509.Name.build({"common_name": "d1"}))),
    "another key": ("public key", put("subject_public_key_info", spki(OTHER_KEY))),
    "the same key, compressed": ("public key", compressed),
    "an issuer's unique id": ("form", put("issuer_unique_id", core.OctetBitString(b"\x01"))),
    "a subject's unique id": ("form", put("subject_unique_id", core.OctetBitString(b"\x01"))),
    "a unique id for extensions": ("last field", unique),
    "a CA": ("basic constraints", extension("basic_constraints", value(bytes.fromhex("30030101ff")))),
    "constraints not critical": ("basic constraints", extension("basic_constraints", criticality(False))),
    "no constraints": ("basic constraints", without("basic_constraints")),
    "no constraints, but a list twice": ("basic constraints", reordered),
    "may agree on keys": ("key usage", extension("key_usage", value(bytes.fromhex("03020388")))),
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
    "facts of another name": ("facts", extension(FACTS_NAME, named("1.2.840.113556.1.8000.2554.1"))),
    "a number for a truth": ("facts", extension(FACTS_NAME, value(sized(FACTS.encode().replace(b"true", b"1"))))),
    "facts critical": ("facts", extension(FACTS_NAME, criticality(True))),
    "no facts": ("facts", without(FACTS_NAME)),
    "another list": (
        "CRL distribution point",
        extension(
            "crl_distribution_points",
            value(tlv(0x30, tlv(0x30, tlv(0xA0, tlv(0xA0, tlv(0x86, b"http://evil.example/crl")))))),
        ),
    ),
    "no list": ("CRL distribution point", without("crl_distribution_points")),
    "one extension more": ("number of extensions", added("2.16.840.1.113730.1.13", tlv(0x16, b"hello"))),
    "an extension twice": (
        "number of extensions",
        added("2.5.29.37", tlv(0x30, bytes.fromhex("06082b06010505070301"))),
    ),
}


@pytest.fixture
def spec(specify: Specify) -> CertificateSpec:
    return specify(crl_url=URL)


def test_an_honest_writer_is_believed(
    hierarchy: Hierarchy, spec: CertificateSpec, erring: Callable[[Change], None]
) -> None:
    issue(spec, hierarchy.issuer)
    erring(lambda tbs: None)  # taken apart and put together again, without a change
    issue(spec, hierarchy.issuer)


@pytest.mark.parametrize("lie", LIES)
def test_each_field_that_differs_is_noticed(
    hierarchy: Hierarchy, spec: CertificateSpec, erring: Callable[[Change], None], lie: str
) -> None:
    field, change = LIES[lie]
    erring(change)
    with pytest.raises(SignedBytesDiffer, match=field):
        issue(spec, hierarchy.issuer)


HOSTS = ("dns_name", "example.org"), ("dns_name", "n")
ADDRESS = ("ip_address", "192.0.2.1")
SERVICE = ("uniform_resource_identifier", "spiffe://example.org/service/attestd")
SERVER_LIES = {
    "a host less": names(SERVICE, HOSTS[0], ADDRESS),
    "a host more": names(SERVICE, *HOSTS, ("dns_name", "m"), ADDRESS),
    "another host": names(SERVICE, HOSTS[0], ("dns_name", "m"), ADDRESS),
    "another address": names(SERVICE, *HOSTS, ("ip_address", "192.0.2.2")),
    "a network": names(SERVICE, *HOSTS, ("ip_address", "192.0.2.1/32")),
    "a host as an address of mail": names(SERVICE, HOSTS[0], ("rfc822_name", "n@example.org"), ADDRESS),
    "another service": names((SERVICE[0], SERVICE[1] + "2"), *HOSTS, ADDRESS),
}


def test_a_servers_names(
    hierarchy: Hierarchy, specify: Specify, profiles: Mapping[str, Profile], erring: Callable[[Change], None]
) -> None:
    spec = specify(
        profile=profiles["server"],
        spiffe_id=SpiffeId.parse(SERVICE[1]),
        facts=None,
        dns_names=("example.org", "n"),
        ip_addresses=(ipaddress.ip_address("192.0.2.1"),),
    )
    erring(extension("subject_alt_name", value(names(SERVICE, *HOSTS, ADDRESS))))
    issue(spec, hierarchy.issuer)
    for lie in SERVER_LIES.values():
        erring(extension("subject_alt_name", value(lie)))
        with pytest.raises(SignedBytesDiffer, match="names"):
            issue(spec, hierarchy.issuer)
    erring(added(FACTS_NAME, FACTS.to_extension().value))
    with pytest.raises(SignedBytesDiffer, match="number of extensions"):
        issue(spec, hierarchy.issuer)


def test_no_octet_may_differ(hierarchy: Hierarchy, spec: CertificateSpec) -> None:
    """Each octet of what is signed, in two ways, under a signature that is right."""
    issuer = hierarchy.issuer
    octets, _, _ = elements(issue(spec, issuer).der)
    require_as_meant(tbs.put_together(octets, issuer.sign_tbs(octets)), spec, issuer)
    for at in range(len(octets)):
        for bits in (0x01, 0x20):
            changed = octets[:at] + bytes((octets[at] ^ bits,)) + octets[at + 1 :]
            with pytest.raises(SignedBytesDiffer):
                require_as_meant(tbs.put_together(changed, issuer.sign_tbs(changed)), spec, issuer)


def test_another_spelling_is_noticed(hierarchy: Hierarchy, spec: CertificateSpec) -> None:
    """Of the very same value: readers differ in what else than DER they take."""
    issuer = hierarchy.issuer
    octets, _, _ = elements(issue(spec, issuer).der)
    fields = elements(octets)
    extensions = elements(content(fields[-1]))
    for at, honest, respelled in (
        (1, "0404 03020780", "0405 0303078000"),  # key usage: zero bits at its end
        (0, "0402 3000", "0405 3003010100"),  # basic constraints: a default that is spelled out
        (0, "0101ff", "010101"),  # critical: another truth
        (2, "060355", "06048055"),  # extended key usage: an arc with an empty septet
    ):
        changed = content(extensions[at]).replace(bytes.fromhex(honest), bytes.fromhex(respelled))
        assert tlv(0x30, changed) != extensions[at]
        listed = b"".join([*extensions[:at], tlv(0x30, changed), *extensions[at + 1 :]])
        written = tlv(0x30, b"".join(fields[:-1]) + tlv(0xA3, tlv(0x30, listed)))
        with pytest.raises(SignedBytesDiffer):
            require_as_meant(tbs.put_together(written, issuer.sign_tbs(written)), spec, issuer)


def test_each_part_of_the_specification_counts(
    hierarchy: Hierarchy, specify: Specify, spec: CertificateSpec, profiles: Mapping[str, Profile]
) -> None:
    """An honest certificate, held against each specification that differs in one point."""
    der = issue(spec, hierarchy.issuer).der
    require_as_meant(der, spec, hierarchy.issuer)
    device, second = profiles["device"], timedelta(seconds=1)
    for changes in (
        {"public_key": OTHER_KEY.public_key()},
        {"spiffe_id": SpiffeId.parse(ID + "2")},
        {"spiffe_id": SpiffeId.parse(ID.replace("d1", "d2"))},
        {"serial": replace(spec.serial, number=spec.serial.number + 1)},
        {"not_before": spec.not_before + second},
        {"not_after": spec.not_after - second},
        {"facts": replace(FACTS, status_index=18)},
        {"facts": replace(FACTS, attested_at=FACTS.attested_at + 1)},
        {"facts": replace(FACTS, labels={"line": "a8"})},
        {"facts": replace(FACTS, vector={"hardware": 3})},
        {"facts": replace(FACTS, boot={"secure-boot": False})},
        {"facts": replace(FACTS, boot={"secure-boot": 1})},
        {"profile": replace(device, facts=False), "facts": None},
        {"profile": replace(device, key_usage=frozenset(["digitalSignature", "keyAgreement"]))},
        {"profile": replace(device, extended_key_usage=profiles["edge"].extended_key_usage)},
        {"crl_url": None},
        {"crl_url": URL + "2"},
    ):
        other = replace(spec, **changes)
        with pytest.raises(SignedBytesDiffer):
            require_as_meant(der, other, hierarchy.issuer)
        issue(other, hierarchy.issuer)


# ---- A writer that mixes up what it keeps -----------------------------------------------------------------------


def test_another_issuers_parts_are_noticed(
    hierarchy: Hierarchy,
    spec: CertificateSpec,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = create_hierarchy(tmp_path_factory.mktemp("other"), DOMAIN, now=NOW, entropy=counted("other")).issuer
    issue(spec, other)
    honest = tbs._in_common
    monkeypatch.setattr(tbs, "_in_common", lambda *_: honest(*_key(hierarchy.issuer, spec)))
    issue(spec, hierarchy.issuer)
    with pytest.raises(SignedBytesDiffer, match="issuer"):
        issue(spec, other)
    for part in ("uses", "identifiers", "lists"):
        wrong = replace(honest(*_key(hierarchy.issuer, spec)), **{part: b""})
        monkeypatch.setattr(tbs, "_in_common", lambda *_, wrong=wrong: wrong)
        with pytest.raises(SignedBytesDiffer):
            issue(spec, hierarchy.issuer)


def _key(issuer: Signer, spec: CertificateSpec) -> Any:
    profile = spec.profile
    return issuer.subject, issuer.key_identifier, profile.key_usage, profile.extended_key_usage, spec.crl_url


def test_another_devices_facts_are_noticed(
    hierarchy: Hierarchy, spec: CertificateSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = replace(FACTS, labels={"line": "b7"}).encode()
    monkeypatch.setattr(Facts, "encode", lambda self: others)
    with pytest.raises(SignedBytesDiffer, match="facts"):
        issue(spec, hierarchy.issuer)


@pytest.mark.parametrize("word", ["subject", "key_identifier"])
def test_the_issuers_certificate_counts_and_not_what_a_signer_says_of_it(
    hierarchy: Hierarchy, spec: CertificateSpec, word: str
) -> None:
    other = {"subject": pyca.Name([]).public_bytes(), "key_identifier": b"\x05" * 20}
    signer = FileSigner(hierarchy.issuer.certificate, hierarchy.issuer._key)  # type: ignore[attr-defined]
    issue(spec, signer)
    signer.__dict__[word] = other[word]
    with pytest.raises(SignedBytesDiffer):
        issue(spec, signer)


# ---- A signer that errs, or lies --------------------------------------------------------------------------------


class Liar(FileSigner):
    """The real issuer, but for what it signs, or what it makes of its signature."""

    def __init__(self, honest: Signer, lie: Callable[[ec.EllipticCurvePrivateKey, bytes], bytes]) -> None:
        super().__init__(honest.certificate, honest._key)  # type: ignore[attr-defined]
        object.__setattr__(self, "lie", lie)

    def sign_tbs(self, tbs: bytes) -> bytes:
        lie: Any = self.lie  # type: ignore[attr-defined]
        return bytes(lie(self._key, tbs))


def signed(key: ec.EllipticCurvePrivateKey, octets: bytes) -> bytes:
    return key.sign(octets, _SHA256)


SIGNERS: dict[str, Callable[[ec.EllipticCurvePrivateKey, bytes], bytes]] = {
    "another key": lambda key, tbs: signed(OTHER_KEY, tbs),
    "something else": lambda key, tbs: signed(key, b"else"),
    "an octet more": lambda key, tbs: signed(key, tbs + b"\x00"),
    "an octet less": lambda key, tbs: signed(key, tbs[:-1]),
    "another certificate": lambda key, tbs: signed(key, tbs[:-1] + bytes((tbs[-1] ^ 1,))),
    "with another hash": lambda key, tbs: key.sign(tbs, ec.ECDSA(hashes.SHA384())),
    "nothing": lambda key, tbs: b"",
    "zeros": lambda key, tbs: bytes(71),
    "no DER": lambda key, tbs: raw_signature(signed(key, tbs)),
    "zero and zero": lambda key, tbs: bytes.fromhex("3006020100020100"),
    "a signature and more": lambda key, tbs: signed(key, tbs) + b"\x00",
    "a signature in another spelling": lambda key, tbs: b"\x30\x81" + signed(key, tbs)[1:],
    "a signature and a certificate's end": lambda key, tbs: signed(key, tbs) + tlv(0x30, tbs),
    "far too much": lambda key, tbs: bytes(70_000),
}


@pytest.mark.parametrize("lie", SIGNERS)
def test_what_was_not_signed_does_not_get_out(hierarchy: Hierarchy, spec: CertificateSpec, lie: str) -> None:
    issue(spec, Liar(hierarchy.issuer, signed))
    with pytest.raises(SignedBytesDiffer, match="signature is not the issuer's"):
        issue(spec, Liar(hierarchy.issuer, SIGNERS[lie]))


# ---- A certificate put together wrongly -------------------------------------------------------------------------


@pytest.fixture
def issued(hierarchy: Hierarchy, spec: CertificateSpec) -> IssuedCertificate:
    return issue(spec, hierarchy.issuer)


@pytest.mark.parametrize("header", ["0301", "0307", "0400", "3000"])
def test_the_signature_is_a_whole_bit_string(
    hierarchy: Hierarchy, spec: CertificateSpec, issued: IssuedCertificate, header: str
) -> None:
    octets, algorithm, signature = elements(issued.der)
    tag, unused = bytes.fromhex(header)
    found = pyca.load_der_x509_certificate(issued.der).signature
    assert signature == tlv(0x03, b"\x00" + found)
    with pytest.raises(SignedBytesDiffer, match="signature is not the issuer's"):
        require_as_meant(tlv(0x30, octets + algorithm + tlv(tag, bytes((unused,)) + found)), spec, hierarchy.issuer)


def test_the_signature_ends_where_the_certificate_does(
    hierarchy: Hierarchy, spec: CertificateSpec, issued: IssuedCertificate
) -> None:
    octets, algorithm, signature = elements(issued.der)
    assert signature[1] < 0x7F
    longer = tlv(0x30, octets + algorithm + signature[:1] + bytes((signature[1] + 1,)) + signature[2:])
    with pytest.raises(SignedBytesDiffer, match="not a certificate"):
        require_as_meant(longer, spec, hierarchy.issuer)


@pytest.mark.parametrize("algorithm", ["300a06082a8648ce3d040303", "300c06082a8648ce3d0403020500"])
def test_another_outer_algorithm_is_noticed(
    hierarchy: Hierarchy, spec: CertificateSpec, issued: IssuedCertificate, algorithm: str
) -> None:
    octets, _, signature = elements(issued.der)
    with pytest.raises(SignedBytesDiffer, match=r"signature algorithm|signature_alg"):
        require_as_meant(tlv(0x30, octets + bytes.fromhex(algorithm) + signature), spec, hierarchy.issuer)


@pytest.mark.parametrize(
    "lie",
    [
        lambda der: der + b"\x00",
        lambda der: der[:-1],
        lambda der: b"",
        lambda der: b"\x30",
        lambda der: b"\x30\x00",
        lambda der: b"\x30\x82",
        lambda der: b"\x30\x84\xff\xff\xff\xff",
        lambda der: tlv(0x30, tlv(0x30, b"") * 3),
        lambda der: tlv(0x30, elements(der)[0]),
        lambda der: tlv(0x30, b"".join(elements(der)) + tlv(0x05, b"")),
        lambda der: tlv(0x31, b"".join(elements(der))),
        lambda der: b"\x30\x83\x00" + der[2:],
        lambda der: b"not a certificate",
    ],
    ids=[
        "octet more",
        "octet less",
        "empty",
        "tag",
        "nothing",
        "cut length",
        "huge",
        "hollow",
        "bare",
        "more",
        "set",
        "long length",
        "text",
    ],
)
def test_what_is_no_certificate_is_noticed(
    hierarchy: Hierarchy, spec: CertificateSpec, issued: IssuedCertificate, lie: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(SignedBytesDiffer):
        require_as_meant(lie(issued.der), spec, hierarchy.issuer)


def test_every_truncation_is_noticed(hierarchy: Hierarchy, spec: CertificateSpec, issued: IssuedCertificate) -> None:
    for at in range(len(issued.der)):
        with pytest.raises(SignedBytesDiffer):
            require_as_meant(issued.der[:at], spec, hierarchy.issuer)


# ---- Odd ones that are right ------------------------------------------------------------------------------------


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
