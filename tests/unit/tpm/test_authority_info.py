"""Hints where an issuer's certificate is: read within bounds, from the octets that were signed."""

from __future__ import annotations

import pytest

from attestd.tpm.authority_info import MAX_URLS, issuer_urls
from attestd.tpm.ekcert import parse_certificate
from tests import ek_ca as ca

MIDDLE = ca.maker().intermediate
FORM = MIDDLE.ek_form(ca.ec_key("aia").public_key())
CA_ISSUERS, OCSP = "1.3.6.1.5.5.7.48.2", "1.3.6.1.5.5.7.48.1"
URL = "http://pki.example/ca.crt"


def description(url: str | bytes = URL, *, method: str = CA_ISSUERS, tag: int = 0x86) -> bytes:
    return ca.seq(ca.oid(method), ca.der(tag, url.encode() if isinstance(url, str) else url))


def urls_of(*descriptions: bytes, **form: object) -> tuple[str, ...]:
    extension = ca.Extension("1.3.6.1.5.5.7.1.1", ca.seq(*descriptions))
    return issuer_urls(parse_certificate(FORM.with_extension(extension).but(**form).sign(MIDDLE.key)))


def test_addresses_are_read() -> None:
    assert urls_of(description(), description("HTTPS://other.example/x")) == (URL, "HTTPS://other.example/x")
    assert urls_of(description(), serial=ca.integer(0)) == (URL,)  # by the lenient reader, too


def test_a_certificate_without_them_names_none() -> None:
    assert issuer_urls(parse_certificate(FORM.sign(MIDDLE.key))) == ()


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(description(method=OCSP), id="another access method"),
        pytest.param(description(tag=0x82), id="a DNS name"),
        pytest.param(description("ldap://pki.example/cn=ca"), id="LDAP"),
        pytest.param(description("file:///etc/passwd"), id="a file"),
        pytest.param(description("http://pki.example/" + "x" * 512), id="too long"),
        pytest.param(description("http://pki.example/a b"), id="a space"),
        pytest.param(description(b"http://pki.example/\r\nX: y"), id="a line end"),
    ],
)
def test_what_is_no_such_address_is_no_hint(odd: bytes) -> None:
    assert urls_of(odd, description()) == (URL,)


def test_the_number_of_addresses_is_bounded() -> None:
    assert len(urls_of(*(description(f"http://pki.example/{number}") for number in range(20)))) == MAX_URLS


def test_an_extension_that_can_not_be_read_is_no_hint() -> None:
    broken = ca.Extension("1.3.6.1.5.5.7.1.1", b"\x30\x05\x30")
    odd = FORM.with_extension(broken).but(serial=ca.integer(0))
    assert issuer_urls(parse_certificate(odd.sign(MIDDLE.key))) == ()
