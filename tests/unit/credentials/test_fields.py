"""The short way through a certificate: it takes what services issue, and reads nothing that `cryptography` would not
read alike. The certificates here are written part by part, so that each part can be odd."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import pytest
from asn1crypto import x509 as asn1
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials import certificates, fields
from attestd.credentials.certificates import CertificateRefused, ParsedCertificate
from attestd.credentials.facts import FACTS_OID
from attestd.credentials.fields import MAX_PART, MAX_PARTS, KnownParts, OtherForm, read_extension
from attestd.ids import Serial
from tests import authority as a

Der = bytes


def tlv(tag: int, *content: bytes, length: bytes | None = None) -> Der:
    """One element; `length` instead of the one that DER asks for."""
    inside = b"".join(content)
    size = len(inside)
    if length is None:
        octets = size.to_bytes((size.bit_length() + 7) // 8 or 1, "big")
        length = octets if size < 0x80 else bytes((0x80 | len(octets),)) + octets
    return bytes((tag,)) + length + inside


def long(tag: int, *content: bytes) -> Der:
    """With a length that is longer than it has to be."""
    size = len(b"".join(content))
    return tlv(tag, *content, length=b"\x83" + size.to_bytes(3, "big"))


def sequence(*content: bytes) -> Der:
    return tlv(0x30, *content)


HONEST: Final = a.leaf()
READ: Final = ParsedCertificate.parse(HONEST)
HONEST_EXTENSIONS: Final = tuple(item.dump() for item in asn1.Certificate.load(HONEST)["tbs_certificate"]["extensions"])

SHA256, SHA384 = (bytes.fromhex(f"300a06082a8648ce3d04030{n}") for n in (2, 3))
POINT: Final = READ.point
X, Y = POINT[1:33], POINT[33:]
P: Final = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
CURVE: Final = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
# Points on the curve with x = 0 and with y = 5: the same numbers plus p still have 32 octets, and are no coordinates.
SMALL_X: Final = bytes.fromhex(f"04{'00' * 32}66485c780e2f83d72433bd5d84a06bb6541c2af31dae871728bf856a174f93f4")
SMALL_Y: Final = bytes.fromhex(f"04d7325d7646cd60d80a92738ceb345f844cffaf35841022cab176f692de8de1d7{5:064x}")


def key(point: bytes, curve: bytes = CURVE, unused: bytes = b"\0") -> Der:
    return sequence(curve, tlv(0x03, unused + point))


def name(*attributes: bytes) -> Der:
    return sequence(*(tlv(0x31, attribute) for attribute in attributes))


def common_name(text: bytes, tag: int = 0x0C) -> Der:
    return sequence(bytes.fromhex("0603550403"), tlv(tag, text))


def utc(text: bytes) -> Der:
    return tlv(0x17, text)


def extension(oid: str, value: bytes, critical: bytes = b"") -> Der:
    return sequence(bytes.fromhex(oid), critical, tlv(0x04, value))


CRITICAL: Final = b"\x01\x01\xff"
NAMES, KEY_ID, USAGE, PURPOSES, CONSTRAINTS = (f"0603551d{arc}" for arc in ("11", "0e", "0f", "25", "13"))
FACTS: Final = "06222a864886f71401be40937a83a76683b16881af1a818d4a829d3581b09b708587b046"
URI: Final = tlv(0x86, a.BIKE.encode())
VALUE: Final = a.FACTS.to_extension().value


def names(*general: bytes, critical: bytes = CRITICAL) -> Der:
    return extension(NAMES, sequence(*general), critical)


PARTS: Final[dict[str, list[Der]]] = {
    "version": [
        tlv(0xA0, b"\x02\x01\x02"),
        b"",
        tlv(0xA0, b"\x02\x01\x01"),
        tlv(0xA0, b"\x02\x01\x00"),
        tlv(0xA0, b"\x02\x01\x03"),
        tlv(0xA0, b"\x02\x02\x00\x02"),
    ],
    "serial": [
        tlv(0x02, b"\x4d"),
        tlv(0x02, b"\x7f" + b"\xff" * 19),
        tlv(0x02, b"\x00\x80" + b"\x11" * 17),
        tlv(0x02, b"\x00"),
        tlv(0x02, b""),
        tlv(0x02, b"\xff"),
        tlv(0x02, b"\x00\x4d"),
        tlv(0x02, b"\x00" + b"\xff" * 20),
        tlv(0x02, b"\x01" * 21),
        long(0x02, b"\x4d"),
        tlv(0x04, b"\x4d"),
    ],
    "inner": [SHA256, SHA384, bytes.fromhex("300c06082a8648ce3d0403020500"), bytes.fromhex("300a06082a8648ce3d040301")],
    "issuer": [
        READ.issuer_name,
        name(),
        name(common_name(b"issuer")),
        name(common_name(b"issuer", 0x13)),
        name(common_name(b"\xff\xfe")),
        name(common_name(b"somebody")),
        name(b""),
        sequence(b"\x31\x00"),
        sequence(b"\x05\x00"),
        long(0x30, b""),
        tlv(0x31),
    ],
    "before": [
        utc(b"260301110000Z"),
        utc(b"000101000000Z"),
        utc(b"491231235959Z"),
        utc(b"500101000000Z"),
        utc(b"2603011100Z"),
        utc(b"260301110000+0000"),
        utc(b"260301240000Z"),
        utc(b"260301110060Z"),
        utc(b"260229110000Z"),
        utc(b"261301110000Z"),
        utc(b"26W011110000Z"),
        utc(b"26-301110000Z"),
        utc(b" 60301110000Z"),
        utc(b"260301110000z"),
        utc(b"260301110000 "),
        tlv(0x18, b"20260301110000Z"),
        tlv(0x18, b"20500101000000Z"),
    ],
    "after": [utc(b"260301130000Z"), utc(b"491231235959Z"), tlv(0x18, b"20500101000000Z"), utc(b"260301130000")],
    "subject": [b"\x30\x00", name(common_name(b"bike")), name(common_name(b"\xff")), b"\x30\x01\x00"],
    "key": [
        key(POINT),
        key(b"\x04" + X + bytes(32)),
        key(b"\x04" + X + (P - int.from_bytes(Y, "big")).to_bytes(32, "big")),
        key(SMALL_X),
        key(b"\x04" + P.to_bytes(32, "big") + SMALL_X[33:]),
        key(SMALL_Y),
        key(SMALL_Y[:33] + (P + 5).to_bytes(32, "big")),
        key(b"\x04" + bytes(64)),
        key(bytes((2 + (Y[-1] & 1),)) + X),
        key(bytes((6 + (Y[-1] & 1),)) + X + Y),
        key(b"\0"),
        key(POINT[:-1]),
        key(POINT + b"\0"),
        key(POINT, unused=b"\1"),
        key(POINT, bytes.fromhex("301006072a8648ce3d020106052b81040022")),
        key(POINT, bytes.fromhex("300906072a8648ce3d0201")),
    ],
    "ids": [b"", tlv(0x81, b"\0\1"), tlv(0xA1, b"\0\1")],
    "signature": [
        tlv(0x03, b"\0", READ.signature),
        tlv(0x03, b"\0"),
        tlv(0x03),
        tlv(0x03, b"\1", READ.signature),
        tlv(0x03, b"\0anything"),
        long(0x03, b"\0", READ.signature),
        tlv(0x04, b"\0", READ.signature),
        tlv(0x03, b"\0", bytes(126)),
        tlv(0x03, b"\0", bytes(127)),
        tlv(0x03, b"\0", bytes(127), length=b"\x80"),
        tlv(0x03, b"\0", bytes(132), length=b"\x85"),
        tlv(0x03, b"\0", bytes(300)),
    ],
    "outer": [SHA256, SHA384],
    "behind": [b"", b"\0", b"\x30\x00"],
}
EXTENSIONS: Final[list[Der]] = [
    *HONEST_EXTENSIONS,
    names(URI),
    names(URI, critical=b""),
    names(URI, critical=b"\x01\x01\x01"),
    names(URI, critical=b"\x01\x01\x00"),
    names(),
    names(URI, URI),
    names(URI, tlv(0x82, b"bike.example.org"), tlv(0x87, b"\x7f\0\0\1"), tlv(0x87, bytes(16))),
    names(tlv(0x82, b"b\xfccke.example.org")),
    names(tlv(0x82, b"")),
    names(tlv(0x87, b"\x7f\0\0")),
    names(tlv(0x87, bytes(8))),
    names(tlv(0x81, b"ada@example.org"), URI),
    names(tlv(0x88, b"\x2a\x03"), URI),
    names(tlv(0xA4, name(common_name(b"bike"))), URI),
    names(tlv(0x86, b"")),
    names(tlv(0x86, b"spiffe://example.org/device/munich/b\xc3\xbc")),
    names(tlv(0x86, b"spiffe://example.org/device/munich/\0")),
    names(tlv(0x86, b"u" * 126)),
    names(tlv(0x86, b"u" * 127)),
    names(tlv(0x86, b"u" * 128)),
    names(tlv(0x86, b"u" * 300)),
    names(*[URI] * 8),
    names(tlv(0x86, b"cut", length=b"\x09")),
    names(tlv(0x86, b"more", length=b"\x03")),
    names(b"\x86"),
    names(long(0x86, b"spiffe://example.org/device/munich/b")),
    extension(NAMES, long(0x30, URI), CRITICAL),
    extension(NAMES, sequence(URI) + b"\0", CRITICAL),
    extension(NAMES, tlv(0x31, URI), CRITICAL),
    extension(KEY_ID, tlv(0x04, b"k" * 20)),
    extension(KEY_ID, tlv(0x04, b"k")),
    extension(KEY_ID, tlv(0x04)),
    extension(KEY_ID, tlv(0x04, b"k" * 200)),
    extension(KEY_ID, long(0x04, b"k" * 20)),
    extension(KEY_ID, tlv(0x04, b"k" * 20), CRITICAL),
    extension(KEY_ID, tlv(0x04, b"k" * 20) + b"\0"),
    extension(FACTS, VALUE),
    extension(FACTS, b""),
    extension(FACTS, b"anything", CRITICAL),
    extension(FACTS, b"f" * 300),
    extension(FACTS + "00", VALUE),
    extension(USAGE, b"\x03\x02\x07\x80", CRITICAL),
    extension(USAGE, b"\x03\x02\x07\x80"),
    extension(USAGE, b"\x03\x02\x06\x80", CRITICAL),
    extension(USAGE, b"\x03\x02\x07", CRITICAL),
    extension(PURPOSES, sequence(bytes.fromhex("06082b06010505070302"))),
    extension(PURPOSES, sequence()),
    extension(CONSTRAINTS, sequence(), CRITICAL),
    extension(CONSTRAINTS, sequence(b"\x01\x01\xff"), CRITICAL),
    extension(CONSTRAINTS, sequence(b"\x01\x01\x00"), CRITICAL),
    extension("06032a0304", b"anything"),
    extension("06032a0304", b"anything", CRITICAL),
    extension("0600", b"anything"),
    extension("06022a84", b"anything"),
    sequence(bytes.fromhex("06032a0305")),
    sequence(),
    tlv(0x31, bytes.fromhex("06032a0306"), tlv(0x04)),
    b"\x30",
    b"\0",
]
WRAPPINGS: Final = [
    lambda *content: tlv(0xA3, sequence(*content)),
    lambda *_: b"",
    lambda *content: tlv(0xA3, sequence(*content), b"\0"),
    lambda *content: tlv(0xA3, long(0x30, *content)),
    lambda *content: long(0xA3, sequence(*content)),
    lambda *content: tlv(0xA3, sequence(*content, b"\x30")),
    lambda *content: tlv(0xA3, sequence(*content)) + b"\x30\x00",
]


def bare(*content: bytes) -> Der:
    return b"".join(content)


def written(*, extensions: tuple[Der, ...] = HONEST_EXTENSIONS, wrapped: int = 0, **odd: int) -> Der:
    """The honest certificate, but for the parts that are named: each by its number in PARTS."""
    part = {name: spelled[odd.get(name, 0)] for name, spelled in PARTS.items()}
    tbs = sequence(
        part["version"], part["serial"], part["inner"], part["issuer"], sequence(part["before"], part["after"]),
        part["subject"], part["key"], part["ids"], [*WRAPPINGS, bare][wrapped](*extensions),
    )  # fmt: skip
    return sequence(tbs, part["outer"], part["signature"]) + part["behind"]


def same_both_ways(der: Der) -> ParsedCertificate | type[Exception]:
    """What is read, or the refusal; the second reading knows what the first one saw."""
    outcomes: list[Any] = []
    for read in (ParsedCertificate._read, ParsedCertificate.parse, ParsedCertificate.parse):
        try:
            outcomes.append(read(der))
        except CertificateRefused as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    if isinstance(outcomes[0], ParsedCertificate):
        theirs = x509.load_der_x509_certificate(der).public_key()
        assert outcomes[2].key == theirs
        assert outcomes[0].key == theirs
    return outcomes[0]


pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> KnownParts:
    """Nothing is known but the honest certificate's parts."""
    known = KnownParts()
    monkeypatch.setattr(certificates, "_KNOWN", known)
    ParsedCertificate.parse(HONEST)
    return known


# ---- What takes the short way ------------------------------------------------------------------------------------


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> list[Der]:
    """The certificates that went the long way."""
    seen: list[Der] = []
    real = x509.load_der_x509_certificate
    monkeypatch.setattr(x509, "load_der_x509_certificate", lambda der: seen.append(der) or real(der))
    return seen


@pytest.mark.parametrize(
    "lie",
    [
        {"serial": 1 << 158},
        {"key": a.STRANGER_KEY},
        {"uris": ["spiffe://example.org/edge/berlin/gateway"]},
        {"facts": replace(a.FACTS, labels={"name": "x" * 200}, status_index=12345)},
        {"not_after": a.NOW + 30 * a.DAY},
        {"names": [x509.DNSName("localhost")]},
    ],
)
def test_another_device_of_the_fleet(long_way: list[Der], lie: dict[str, Any]) -> None:
    ParsedCertificate.parse(a.leaf(**lie))
    assert not long_way


def test_what_is_written_here_is_what_the_authority_writes(long_way: list[Der]) -> None:
    der = written()
    signed, serial = asn1.Certificate.load(der)["tbs_certificate"].dump(), Serial(77)
    assert same_both_ways(der) == READ._replace(der=der, signed=signed, serial=serial)
    assert long_way == [der, der]  # the long way, and for its key


def test_an_unknown_part_takes_the_long_way_once(long_way: list[Der]) -> None:
    for serial in (1, 2):
        ParsedCertificate.parse(a.leaf(purposes=[x509.OID_SERVER_AUTH, x509.OID_CLIENT_AUTH], serial=serial))
        ParsedCertificate.parse(a.leaf(subject="bike", serial=serial))
    assert len(long_way) == 2


# ---- Both ways read alike ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "number"), [(part, n) for part, spelled in PARTS.items() for n in range(len(spelled))]
)
def test_an_odd_part(part: str, number: int) -> None:
    read = same_both_ways(written(**{part: number}))
    assert number or isinstance(read, ParsedCertificate)


@pytest.mark.parametrize("number", range(len(EXTENSIONS)))
@pytest.mark.parametrize("beside", [(), HONEST_EXTENSIONS[1:4]], ids=["alone", "among others"])
def test_an_odd_extension(number: int, beside: tuple[Der, ...]) -> None:
    same_both_ways(written(extensions=(*beside, EXTENSIONS[number])))


@pytest.mark.parametrize("number", range(len(WRAPPINGS)))
def test_an_odd_wrapping(number: int) -> None:
    same_both_ways(written(wrapped=number))
    same_both_ways(written(wrapped=number, extensions=()))


@pytest.mark.parametrize("twice", HONEST_EXTENSIONS)
def test_an_extension_comes_once(twice: Der) -> None:
    assert same_both_ways(written(extensions=(*HONEST_EXTENSIONS, twice))) is certificates.CertificateMalformed


def test_a_name_s_extension_comes_once_in_all_its_forms() -> None:
    two = (names(URI), names(tlv(0x86, b"u" * 200), critical=b""))
    assert same_both_ways(written(extensions=two)) is certificates.CertificateMalformed


@given(
    st.fixed_dictionaries({part: st.integers(0, len(spelled) - 1) | st.just(0) for part, spelled in PARTS.items()}),
    st.lists(st.sampled_from(EXTENSIONS), max_size=6),
    st.sampled_from([0, 0, 0, *range(len(WRAPPINGS))]),
)
def test_several_odd_parts(odd: dict[str, int], extensions: list[Der], wrapped: int) -> None:
    same_both_ways(written(extensions=tuple(extensions), wrapped=wrapped, **odd))


@given(
    st.sampled_from([HONEST, a.ISSUER.der, a.signer()]),
    st.integers(0, 700),
    st.integers(0, 3),
    st.binary(max_size=3),
)
def test_changed_octets(der: Der, at: int, out: int, put: bytes) -> None:
    same_both_ways(der[:at] + put + der[at + out :])


@pytest.mark.parametrize("change", [lambda o: o + 1, lambda o: o ^ 0x80, lambda o: 0x81])
def test_each_octet(change: Callable[[int], int]) -> None:
    for at, octet in enumerate(HONEST):
        if (put := change(octet) % 256) != octet:
            same_both_ways(HONEST[:at] + bytes((put,)) + HONEST[at + 1 :])


@pytest.mark.parametrize("wrong", [-300, -256, -20, -12, -3, -2, -1, 1, 2, 3, 12, 20, 60, 100, 256])
def test_a_part_s_length(wrong: int) -> None:
    """The two outer lengths, alone and together."""
    for places in ((2,), (6,), (2, 6)):
        der = bytearray(HONEST)
        for at in places:
            der[at : at + 2] = (int.from_bytes(HONEST[at : at + 2], "big") + wrong).to_bytes(2, "big")
        same_both_ways(bytes(der))
        same_both_ways(bytes(der) + bytes(max(0, wrong)))
        same_both_ways(bytes(der)[: len(der) + min(0, wrong)])


@given(st.binary(max_size=80))
def test_any_octets(data: bytes) -> None:
    assert KnownParts().read(data) is None
    with suppress(OtherForm):
        read_extension(data)


def test_a_cut_certificate(known: KnownParts) -> None:
    assert known.read(HONEST) is not None
    for size in range(len(HONEST)):
        assert known.read(HONEST[:size]) is None


# ---- Sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(60, 140), *range(180, 270)])
def test_facts_and_names_of_every_size(size: int) -> None:
    """Around the sizes at which one more octet takes a longer length."""
    uris = tuple(tlv(0x86, b"u" * min(rest, 120)) for rest in range(size, 0, -120))
    assert read_extension(extension(FACTS, b"f" * size)) == ("facts", b"f" * size)
    said = read_extension(names(*uris))
    assert said == ("uris", tuple("u" * (len(uri) - 2) for uri in uris))
    assert isinstance(
        same_both_ways(written(extensions=(names(*uris), extension(FACTS, b"f" * size)))), ParsedCertificate
    )


def test_the_facts_identifier() -> None:
    made = a.FACTS.to_extension()
    assert x509.load_der_x509_certificate(HONEST).extensions.get_extension_for_oid(FACTS_OID).value == made
    assert bytes.fromhex(FACTS) in HONEST
    assert fields.FACTS == "facts"


@pytest.mark.parametrize("left", range(125, 140))
def test_a_length_that_is_none(left: int) -> None:
    """Where no length fits, nothing stands for one: neither the indefinite form nor an octet of nothing."""
    for odd in (b"\x80", b"\x81\x00", b"\x00"):
        facts = sequence(bytes.fromhex(FACTS), b"\x04" + odd, b"f" * (left - 1 - len(odd)))
        assert same_both_ways(written(extensions=(facts,))) is certificates.CertificateMalformed
        uris = sequence(bytes.fromhex(NAMES), CRITICAL, tlv(0x04, b"\x30" + odd, b"u" * (left - 1 - len(odd))))
        assert same_both_ways(written(extensions=(uris,))) is certificates.CertificateMalformed


@pytest.mark.parametrize("odd", [b"\0", b"\xa3\x80", b"\xa3\x80\x30\x80", b"\xa3\x81\x00\x30\x80"])
def test_extensions_in_nothing(odd: bytes) -> None:
    usage = extension(USAGE, b"\x03\x02\x07\x80", CRITICAL)
    for size in range(100, 300):
        der = written(wrapped=len(WRAPPINGS), extensions=(odd, usage, extension(FACTS, b"f" * size)))
        assert same_both_ways(der) is certificates.CertificateMalformed


# ---- What is remembered ------------------------------------------------------------------------------------------


def test_the_parts_that_are_known_are_bounded(known: KnownParts) -> None:
    for number in range(2 * MAX_PARTS):
        ParsedCertificate.parse(
            a.leaf(subject=f"bike {number}", more=[(x509.UnrecognizedExtension(OTHER, b"%d" % number), False)])
        )
        assert len(known._names) <= MAX_PARTS
        assert len(known._extensions) <= MAX_PARTS


OTHER: Final = x509.ObjectIdentifier("2.25.1")


def test_large_parts_are_not_remembered(known: KnownParts) -> None:
    large = x509.UnrecognizedExtension(OTHER, bytes(MAX_PART))
    ParsedCertificate.parse(a.leaf(more=[(large, False)]))
    assert max(map(len, known._extensions)) <= MAX_PART
    ParsedCertificate.parse(a.leaf(subject="b" * 64, issuer_name="c" * 64))
    assert max(map(len, known._names)) <= MAX_PART


def test_what_each_device_has_for_itself_is_not_remembered(known: KnownParts) -> None:
    before = dict(known._extensions)
    for odd in (names(tlv(0x86, b"u" * 300)), extension(KEY_ID, tlv(0x04, b"k"))):
        same_both_ways(written(extensions=(odd,)))
    assert known._extensions == before


def test_nothing_is_learned_from_what_is_refused(known: KnownParts) -> None:
    critical = extension("06032a0304", b"anything", CRITICAL)
    assert same_both_ways(written(extensions=(critical,))) is certificates.CriticalExtensionUnknown
    assert critical not in known._extensions
