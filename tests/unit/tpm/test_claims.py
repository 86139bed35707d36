"""Two readers of the same claims agree on what is well formed; the lenient one still refuses what can't be read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from attestd.tpm import claims as module
from attestd.tpm.claims import Claims, read_leniently, read_strictly
from attestd.tpm.der import Element, MalformedCertificate, children, whole
from tests import ek_ca as ca

KEY = ca.ec_key("claims")
CA = ca.maker().intermediate
RICH = (
    CA.ek_form(KEY.public_key())
    .with_extension(
        ca.Extension("2.5.29.32", ca.seq(ca.seq(ca.oid("1.2.3"))), True),
        ca.subject_key(b"subject key id"),
        ca.alternative_name(ca.tpm_attributes(), ca.tpm_attributes(model="Two"), critical=True),
        ca.purposes(ca.EK_PURPOSE, "2.23.133.8.3"),
    )
    .but(not_after=datetime(2060, 1, 2, 3, 4, 5, tzinfo=UTC))
)


def parts(der: bytes) -> tuple[Element, Element | None]:
    fields = children(children(whole(der))[0])
    return fields[4], next((item for item in fields if item.tag == 0xA3), None)


def both(form: ca.Form) -> Claims:
    der = form.sign(CA.key)
    strict = read_strictly(der)
    assert read_leniently(*parts(der)) == strict
    return strict


def test_every_claim_is_read() -> None:
    claims = both(RICH)
    assert claims.not_before == ca.START
    assert claims.not_after == datetime(2060, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (claims.is_ca, claims.path_length) == (False, None)
    assert claims.usages == {"key_agreement"}
    assert claims.purposes == {"2.23.133.8.1", "2.23.133.8.3"}
    assert claims.subject_key_id == b"subject key id"
    assert claims.authority_key_id == ca.subject_key_id(CA.key.public_key())
    assert [dict(name)["2.23.133.2.2"] for name in claims.directory_names] == ["SLB 9670", "Two"]
    assert claims.extensions == {f"2.5.29.{n}" for n in (14, 15, 17, 19, 32, 35, 37)}
    assert claims.critical == {f"2.5.29.{n}" for n in (15, 17, 19, 32)}


def test_what_a_certificate_does_not_say_is_none() -> None:
    claims = both(CA.ek_form(KEY.public_key()).but(extensions=()))
    assert claims == Claims(
        ca.START, ca.END, False, None, None, None, None, None, (), extensions=frozenset(), critical=frozenset()
    )


@pytest.mark.parametrize(
    "extension",
    [
        ca.basic_constraints(True, 3),
        ca.basic_constraints(True),
        ca.basic_constraints(True, 0, critical=None),
        ca.key_usage("key_cert_sign", "crl_sign"),
        ca.key_usage("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        ca.purposes("2.5.29.37.0", critical=True),
        ca.authority_key(b""),
        ca.alternative_name(critical=True),
        ca.alternative_name(ca.tpm_attributes(one_set=True, write=ca.printable)),
        ca.Extension("2.5.29.35", ca.seq()),
        ca.Extension("1.2.3.4", b"anything", True),
    ],
)
def test_both_readers_agree(extension: ca.Extension) -> None:
    both(RICH.with_extension(extension))


def test_an_empty_list_of_purposes_is_never_any_purpose() -> None:
    der = RICH.with_extension(ca.purposes()).sign(CA.key)
    with pytest.raises(MalformedCertificate):
        read_strictly(der)
    assert read_leniently(*parts(der)).purposes == frozenset()


@pytest.mark.parametrize(
    "extension",
    [
        pytest.param(ca.Extension("2.5.29.19", b"\x30\x03\x01\x01"), id="cut basicConstraints"),
        pytest.param(ca.Extension("2.5.29.19", ca.seq() + b"\0"), id="octets after basicConstraints"),
        pytest.param(ca.Extension("2.5.29.19", ca.integer(1)), id="basicConstraints of another type"),
        pytest.param(
            ca.Extension("2.5.29.19", ca.seq(ca.boolean(True), ca.integer(0), ca.integer(1))), id="a third constraint"
        ),
        pytest.param(
            ca.Extension("2.5.29.35", ca.seq(ca.der(0x80, b"key"), ca.integer(1), ca.integer(1), ca.integer(1))),
            id="a fourth part of authorityKeyIdentifier",
        ),
        pytest.param(ca.Extension("2.5.29.15", ca.seq()), id="keyUsage of another type"),
        pytest.param(ca.Extension("2.5.29.37", ca.integer(1)), id="extKeyUsage of another type"),
        pytest.param(ca.Extension("2.5.29.14", ca.integer(1)), id="subjectKeyIdentifier of another type"),
        pytest.param(ca.Extension("2.5.29.35", ca.integer(1)), id="authorityKeyIdentifier of another type"),
        pytest.param(ca.Extension("2.5.29.17", b"\x30\x05"), id="cut subjectAltName"),
        pytest.param(ca.Extension("2.5.29.17", ca.seq(ca.der(0xA4, ca.seq(ca.utf8("x"))))), id="a name that is none"),
        pytest.param(ca.Extension("2.5.29.17", ca.seq(ca.der(0xA4))), id="an empty directoryName"),
        pytest.param(ca.Extension("2.5.29.32", ca.seq(ca.seq(ca.integer(1)))), id="policies of another type"),
        pytest.param(ca.Extension("2.5.29.32", ca.integer(1)), id="policies that are none"),
    ],
)
def test_broken_extensions_are_refused_by_both(extension: ca.Extension) -> None:
    der = RICH.with_extension(extension).sign(CA.key)
    with pytest.raises(MalformedCertificate):
        read_strictly(der)
    with pytest.raises(MalformedCertificate):
        read_leniently(*parts(der))


def test_an_extension_that_appears_twice_is_refused_by_both() -> None:
    der = RICH.but(extensions=(*RICH.extensions, ca.basic_constraints(True))).sign(CA.key)
    with pytest.raises(MalformedCertificate):
        read_strictly(der)
    with pytest.raises(MalformedCertificate):
        read_leniently(*parts(der))


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(ca.seq(ca.oid("1.2.3")), id="no value"),
        pytest.param(ca.seq(ca.oid("1.2.3"), ca.integer(1), ca.der(0x04)), id="critical is no boolean"),
        pytest.param(ca.seq(ca.integer(1), ca.der(0x04)), id="no type"),
    ],
)
def test_extensions_of_another_shape_are_refused(item: bytes) -> None:
    validity = whole(ca.seq(ca.time(ca.START), ca.time(ca.END)))
    good = ca.Extension("1.2.3", b"", True).encode()
    assert read_leniently(validity, whole(ca.der(0xA3, ca.seq(good)))).critical == {"1.2.3"}
    with pytest.raises(MalformedCertificate):
        read_leniently(validity, whole(ca.der(0xA3, ca.seq(item))))


@pytest.mark.parametrize(
    "validity",
    [
        pytest.param(ca.seq(ca.time(ca.START)), id="one date"),
        pytest.param(ca.seq(ca.time(ca.START), ca.time(ca.END), ca.time(ca.END)), id="three dates"),
        pytest.param(ca.seq(ca.time(ca.START), ca.der(0x17, b"not a date")), id="no date"),
        pytest.param(ca.seq(ca.time(ca.START), ca.der(0x18, b"00000101000000Z")), id="the year 0"),
        pytest.param(ca.seq(ca.integer(1), ca.integer(2)), id="numbers"),
    ],
)
def test_dates_that_are_none_are_refused(validity: bytes) -> None:
    with pytest.raises(MalformedCertificate):
        read_leniently(whole(validity), None)


# ---- What a batch has in common ---------------------------------------------------------------------------------


def cut(der: bytes) -> bytes:
    extensions = parts(der)[1]
    assert extensions is not None
    return extensions.raw


def test_extensions_that_are_known_change_nothing_else() -> None:
    """Another chip of the batch: the same extensions, its own dates."""
    first, second = RICH.sign(CA.key), RICH.but(not_before=datetime(2025, 1, 1, tzinfo=UTC)).sign(CA.key)
    assert cut(first) == cut(second)
    for der in (first, second, first):
        assert read_strictly(der, cut(der)) == read_strictly(der)
    assert read_strictly(first, cut(first)).not_before != read_strictly(second, cut(second)).not_before


@pytest.mark.parametrize(
    "lie",
    [
        ca.key_usage("key_encipherment"),
        ca.purposes(ca.EK_PURPOSE),
        ca.basic_constraints(True),
        ca.subject_key(b"another key id"),
        ca.alternative_name(ca.tpm_attributes(model="Three"), critical=True),
        ca.Extension("1.2.3.4", b"", True),
    ],
)
def test_extensions_that_differ_are_not_taken_for_known_ones(lie: ca.Extension) -> None:
    honest, other = RICH.sign(CA.key), RICH.with_extension(lie).sign(CA.key)
    known, found = read_strictly(honest, cut(honest)), read_strictly(other, cut(other))
    assert found == read_strictly(other)
    assert found != known


def test_a_certificate_that_breaks_rules_elsewhere_is_refused_with_known_extensions() -> None:
    honest = RICH.sign(CA.key)
    read_strictly(honest, cut(honest))
    for lies in ({"serial": ca.der(0x02, b"\x00\x01")}, {"version": ca.der(0xA0, ca.integer(7))}):
        broken = RICH.but(**lies).sign(CA.key)
        assert cut(broken) == cut(honest)
        with pytest.raises(MalformedCertificate):
            read_strictly(broken, cut(broken))


def test_what_is_remembered_is_bounded_and_well_formed() -> None:
    for number in range(300):
        der = RICH.with_extension(ca.Extension("1.2.3.4", number.to_bytes(2, "big"))).sign(CA.key)
        assert read_strictly(der, cut(der)) == read_strictly(der)
    assert 0 < len(module._known) <= 256
    large = RICH.with_extension(ca.Extension("1.2.3.4", bytes(2048))).sign(CA.key)
    read_strictly(large, cut(large))
    assert cut(large) not in module._known
    broken = RICH.with_extension(ca.Extension("2.5.29.15", ca.seq())).sign(CA.key)
    with pytest.raises(MalformedCertificate):
        read_strictly(broken, cut(broken))
    assert cut(broken) not in module._known
