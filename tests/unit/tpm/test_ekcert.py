"""Makers' certificates, read whole: the honest ones, each named oddity, and everything else refused."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestd.errors import AttestdError
from attestd.protocol.evidence import MAX_CERTIFICATE
from attestd.tpm.claims import read_strictly
from attestd.tpm.der import MalformedCertificate
from attestd.tpm.ekcert import (
    CertificateTooLarge,
    MakerCertificate,
    Quirk,
    SignatureAlgorithmsDiffer,
    UnsupportedCertificateKey,
    parse_certificate,
)
from tests import ek_ca as ca

CA = ca.maker().intermediate
RSA_CA = ca.maker(kind="rsa").intermediate
KEY = ca.rsa_key("ekcert")
FORM = CA.ek_form(KEY.public_key())
HONEST = FORM.sign(CA.key)
LONG_SERIAL = ca.der(0x02, b"\x00\x05")


def quirks(der: bytes) -> set[Quirk]:
    return set(parse_certificate(der).quirks)


def test_an_honest_certificate_is_read_as_it_is() -> None:
    found = parse_certificate(HONEST)
    assert found.der == HONEST
    assert found.sha256 == hashlib.sha256(HONEST).digest()
    assert HONEST[4 : 4 + len(found.tbs)] == found.tbs
    assert HONEST.endswith(found.signature)
    assert found.algorithm is not None
    assert (found.algorithm.name, found.algorithm.weak) == ("ECDSA with sha256", False)
    assert (found.issuer, found.subject, found.serial) == (CA.name, ca.EMPTY_NAME, 0x1234567890)
    assert found.key.public_numbers() == KEY.public_key().public_numbers()
    assert found.claims == read_strictly(HONEST)
    assert found.quirks == frozenset()


# ---- Cutting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"\0", b"\xff" * 300, b"0\x03abc", b"garbage"])
def test_padding_is_cut(tail: bytes) -> None:
    found = parse_certificate(HONEST + tail)
    assert (found.der, found.quirks) == (HONEST, {Quirk.PADDED})


def header(certificate: bytes, *, full: bytes = b"\x10\x02") -> bytes:
    return b"\x10\x01\x00" + (len(full) + len(certificate)).to_bytes(2, "big") + full


@pytest.mark.parametrize("full", [b"\x10\x02", b""])
def test_an_nv_header_is_cut(full: bytes) -> None:
    found = parse_certificate(header(HONEST, full=full) + HONEST)
    assert (found.der, found.quirks) == (HONEST, {Quirk.NV_HEADER})
    assert quirks(header(HONEST) + HONEST + b"\xff\xff") == {Quirk.NV_HEADER, Quirk.PADDED}


@pytest.mark.parametrize("wrong", [b"\x10\x02\x00", b"\x10\x01\x01", b"\x00\x00\x00"])
def test_another_header_is_refused(wrong: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        parse_certificate(wrong + header(HONEST)[3:] + HONEST)


def test_the_size_is_bounded_before_parsing() -> None:
    padding = MAX_CERTIFICATE - len(HONEST)
    assert parse_certificate(HONEST + b"\0" * padding).der == HONEST
    with pytest.raises(CertificateTooLarge):
        parse_certificate(HONEST + b"\0" * (padding + 1))


# ---- The certificate's frame ------------------------------------------------------------------------------------


def test_two_signature_algorithms_are_refused() -> None:
    other = ca.algorithm_id(CA.key, "sha384")
    assert parse_certificate(FORM.but(outer_algorithm=ca.algorithm_id(CA.key, "sha256")).sign(CA.key))
    with pytest.raises(SignatureAlgorithmsDiffer):
        parse_certificate(FORM.but(outer_algorithm=other).sign(CA.key))


@pytest.mark.parametrize(
    "version",
    [b"", ca.der(0xA0, ca.integer(0)), ca.der(0xA0, ca.integer(1)), ca.der(0xA0), ca.der(0xA1, ca.integer(2))],
)
def test_only_version_3(version: bytes) -> None:
    for form in (FORM, FORM.but(extensions=()), FORM.but(serial=LONG_SERIAL)):  # the last one is read leniently
        assert parse_certificate(form.sign(CA.key))
        with pytest.raises(MalformedCertificate):
            parse_certificate(form.but(version=version).sign(CA.key))


def test_an_empty_certificate_is_refused() -> None:
    with pytest.raises(MalformedCertificate):
        parse_certificate(ca.seq(ca.seq(), ca.algorithm_id(CA.key, "sha256"), ca.bits(b"signature")))


@pytest.mark.parametrize(
    "lie",
    [
        {"spki": b""},
        {"issuer": ca.integer(1)},
        {"serial": ca.utf8("1")},
        {"serial": ca.der(0x02)},
        {"subject": b""},
    ],
)
def test_a_missing_or_wrong_part_is_refused(lie: dict[str, bytes]) -> None:
    with pytest.raises(MalformedCertificate):
        parse_certificate(FORM.but(**lie).sign(CA.key))


def test_a_signature_of_broken_octets_is_refused() -> None:
    whole = FORM.sign(CA.key)
    tbs = parse_certificate(whole).tbs
    with pytest.raises(MalformedCertificate):
        parse_certificate(ca.seq(tbs, ca.algorithm_id(CA.key, "sha256"), ca.bits(b"signature", 1)))


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("authority", [CA, RSA_CA], ids=["ECDSA", "RSA"])
def test_strong_signature_algorithms_are_known(authority: ca.MakerCa, digest: str) -> None:
    algorithm = parse_certificate(authority.ek_form(KEY.public_key()).but(digest=digest).sign(authority.key)).algorithm
    assert algorithm is not None
    assert (algorithm.hash.name, algorithm.weak) == (digest, False)
    assert isinstance(authority.key.public_key(), algorithm.key)


@pytest.mark.parametrize("authority", [CA, RSA_CA], ids=["ECDSA", "RSA"])
def test_sha1_is_known_as_weak(authority: ca.MakerCa) -> None:
    algorithm = parse_certificate(authority.ek_form(KEY.public_key()).but(digest="sha1").sign(authority.key)).algorithm
    assert algorithm is not None
    assert algorithm.weak


def test_an_unknown_signature_algorithm_is_named() -> None:
    pss = ca.seq(ca.oid("1.2.840.113549.1.1.10"), ca.seq())
    found = parse_certificate(RSA_CA.ek_form(KEY.public_key()).but(algorithm=pss).sign(RSA_CA.key))
    assert (found.algorithm, found.algorithm_oid) == (None, "1.2.840.113549.1.1.10")


# ---- Keys -------------------------------------------------------------------------------------------------------


def test_rsa_and_nist_keys_are_read() -> None:
    for key in (ca.rsa_key("3072", 3072), ca.ec_key("c"), ca.ec_key("c", ec.SECP384R1), ca.ec_key("c", ec.SECP521R1)):
        public = key.public_key()
        found = parse_certificate(CA.ek_certificate(public))
        assert found.key.public_numbers() == public.public_numbers()


def refuses_key(spki: bytes) -> None:
    with pytest.raises((UnsupportedCertificateKey, MalformedCertificate)):
        parse_certificate(FORM.but(spki=spki).sign(CA.key))


def test_other_keys_are_refused() -> None:
    refuses_key(ca.spki(ed25519.Ed25519PrivateKey.generate().public_key()))  # type: ignore[arg-type]
    refuses_key(ca.spki(ca.ec_key("k1", ec.SECP256K1).public_key()))


def test_huge_rsa_keys_are_refused() -> None:
    def spki_of(size: int) -> bytes:
        numbers = ca.seq(ca.integer(1 << (size - 1) | 1), ca.integer(65537))
        return ca.seq(ca.seq(ca.oid("1.2.840.113549.1.1.1"), ca.NULL), ca.bits(numbers))

    assert parse_certificate(FORM.but(spki=spki_of(8192)).sign(CA.key)).key.key_size == 8192
    refuses_key(spki_of(8200))


def test_broken_keys_are_refused() -> None:
    algorithm = ca.seq(ca.oid("1.2.840.113549.1.1.1"), ca.NULL)
    refuses_key(ca.seq(algorithm, ca.bits(b"no key")))
    refuses_key(ca.seq(ca.seq(ca.oid("1.2.3.4")), ca.bits(b"no key")))
    refuses_key(ca.seq(algorithm))
    point = ca.ec_key("point").public_key()
    refuses_key(ca.spki(point)[:-1] + bytes([ca.spki(point)[-1] ^ 1]))


# ---- The departures that have a name ----------------------------------------------------------------------------


def test_a_key_marked_for_oaep_is_an_rsa_key() -> None:
    found = parse_certificate(FORM.but(spki=ca.oaep_spki(KEY.public_key())).sign(CA.key))
    assert found.key.public_numbers() == KEY.public_key().public_numbers()
    assert found.quirks == {Quirk.RSAES_OAEP_KEY}


@pytest.mark.parametrize(
    "inner",
    [
        pytest.param(b"no key", id="no DER"),
        pytest.param(ca.seq(ca.integer(3)), id="one number"),
        pytest.param(ca.seq(ca.integer(-3), ca.integer(65537)), id="negative modulus"),
        pytest.param(ca.seq(ca.integer(1 << 2047 | 1), ca.integer(2)), id="even exponent"),
        pytest.param(ca.seq(ca.integer(1 << 8200 | 1), ca.integer(65537)), id="huge modulus"),
    ],
)
def test_a_broken_key_marked_for_oaep_is_refused(inner: bytes) -> None:
    refuses_key(ca.seq(ca.seq(ca.oid("1.2.840.113549.1.1.7"), ca.seq()), ca.bits(inner)))


UNSORTED = ca.seq(ca.der(0x31, ca.attribute("2.5.4.10", "Test Maker"), ca.attribute("2.5.4.3", "Odd CA")))
SORTED = ca.seq(ca.der(0x31, ca.attribute("2.5.4.3", "Odd CA"), ca.attribute("2.5.4.10", "Test Maker")))
FALSE = ca.boolean(False)


@pytest.mark.parametrize(
    ("form", "quirk"),
    [
        pytest.param(FORM.but(issuer=UNSORTED), Quirk.SET_ORDER, id="issuer's set not sorted"),
        pytest.param(FORM.but(subject=UNSORTED), Quirk.SET_ORDER, id="subject's set not sorted"),
        pytest.param(
            FORM.with_extension(ca.alternative_name(UNSORTED)), Quirk.SET_ORDER, id="alternative name's set not sorted"
        ),
        pytest.param(
            FORM.with_extension(ca.Extension("1.2.3", b"x", False)), Quirk.ENCODED_DEFAULT, id="FALSE written"
        ),
        pytest.param(
            FORM.with_extension(ca.Extension("2.5.29.19", ca.seq(FALSE), True)), Quirk.ENCODED_DEFAULT, id="cA FALSE"
        ),
        pytest.param(FORM.but(serial=LONG_SERIAL), Quirk.LONG_SERIAL, id="long serial"),
        pytest.param(FORM.but(serial=ca.integer(0)), Quirk.ODD_SERIAL, id="zero serial"),
        pytest.param(FORM.but(serial=ca.integer(-7)), Quirk.ODD_SERIAL, id="negative serial"),
        pytest.param(FORM.but(ecdsa_null=True), Quirk.ECDSA_NULL, id="ECDSA with NULL"),
    ],
)
def test_a_named_departure_is_read_and_recorded(form: ca.Form, quirk: Quirk) -> None:
    der = form.sign(CA.key)
    found = parse_certificate(der)
    assert found.quirks == {quirk}
    assert found.claims.purposes == {ca.EK_PURPOSE}
    assert found.claims.not_after == ca.END
    assert der[4 : 4 + len(found.tbs)] == found.tbs
    assert found.algorithm is not None


def test_what_is_sorted_and_minimal_is_no_departure() -> None:
    assert quirks(FORM.but(issuer=SORTED, serial=ca.integer(0x80)).sign(CA.key)) == set()


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(FORM.with_extension(ca.purposes()), id="empty extKeyUsage"),
        pytest.param(FORM.but(extensions=(*FORM.extensions, ca.basic_constraints(True))), id="an extension twice"),
        pytest.param(FORM.with_extension(ca.Extension("2.5.29.19", ca.seq() + b"\0")), id="octets after a value"),
        pytest.param(FORM.but(subject=ca.seq(ca.integer(1))), id="a subject that is none"),
    ],
)
def test_a_departure_without_a_name_is_refused(form: ca.Form) -> None:
    with pytest.raises(MalformedCertificate):
        parse_certificate(form.sign(CA.key))


def test_a_named_departure_excuses_no_other_one() -> None:
    """What asn1crypto can't make sense of is refused, whatever else is odd about the certificate."""
    for form in (
        FORM.but(extensions=(*FORM.extensions, ca.basic_constraints(True))),
        FORM.with_extension(ca.Extension("2.5.29.15", ca.seq())),
        FORM.with_extension(ca.Extension("2.5.29.37", ca.purposes(ca.EK_PURPOSE).value + b"\0")),
    ):
        with pytest.raises(MalformedCertificate):
            parse_certificate(form.but(serial=LONG_SERIAL).sign(CA.key))


# ---- Whatever comes ---------------------------------------------------------------------------------------------


def _parses_or_refuses(octets: bytes) -> MakerCertificate | None:
    try:
        return parse_certificate(octets)
    except AttestdError:
        return None


def test_every_truncation_is_refused() -> None:
    for odd in (HONEST, FORM.but(serial=LONG_SERIAL, issuer=UNSORTED).sign(CA.key)):
        for size in range(len(odd)):
            with pytest.raises(MalformedCertificate):
                parse_certificate(odd[:size])


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_random_octets_are_refused(octets: bytes) -> None:
    assert _parses_or_refuses(octets) is None


SEEDS = (
    HONEST,
    FORM.but(serial=LONG_SERIAL).sign(CA.key),
    FORM.but(serial=ca.integer(-1), issuer=UNSORTED, spki=ca.oaep_spki(KEY.public_key())).sign(CA.key),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_spoilt_octets_never_raise_anything_else(seed: bytes, spoils: list[tuple[int, int]], insert: bool) -> None:
    octets = bytearray(seed)
    for at, value in spoils:
        if insert:
            octets.insert(at % len(octets), value)
        else:
            octets[at % len(octets)] = value
    _parses_or_refuses(bytes(octets))
