"""Certificates from devices, from makers' files and from TLS peers. What is taken, OpenSSL's side reads alike, and a
chain is believed only over the octets that its issuers signed."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.credentials.certificates import ParsedCertificate
from attestd.credentials.requests import SoftwareKey
from attestd.credentials.x509 import Authorities, device_identity, verify_chain
from attestd.errors import AttestdError
from attestd.tpm.authority_info import MAX_URLS, issuer_urls
from attestd.tpm.cabinets import MAX_UNPACKED, unpack
from attestd.tpm.chain import TrustAnchors, verify_certificate_chain
from attestd.tpm.der import children, element, read_oid, whole
from attestd.tpm.ekcert import Quirk, parse_certificate
from attestd.tpm.ekprofile import check_ek_certificate
from attestd.tpm.endorsement import verify_endorsement
from attestd.tpm.known_makers import COLUMNS, Manifest, write_date
from attestd.tpm.makers import certificates_in, describe_certificate
from attestd_edge.identity import ProxyIdentity, read_certificates
from tests import authority as a
from tests import ek_ca
from tests.cabinet_writer import cabinet
from tests.fuzz.harness import Target, once

_EK_KEY = ek_ca.ec_key("fuzz ek")
_WORDS = (
    b"\x30\x82",
    b"\x06\x03\x55\x1d\x13",
    b"\x06\x03\x55\x1d\x0f",
    b"\x06\x03\x55\x1d\x11",
    b"\x06\x03\x55\x1d\x25",
    b"\x06\x03\x55\x1d\x1e",
    b"\x01\x01\xff",
    b"\x17\x0d",
    b"\x18\x0f99991231235959Z",
    b"\x05\x00",
    bytes.fromhex("06072a8648ce3d0201"),
    bytes.fromhex("06092a864886f70d010107"),
)
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"


@once
def _eks() -> list[bytes]:
    ca = ek_ca.maker().intermediate
    honest = ca.ek_form(_EK_KEY.public_key())
    odd = ca.ek_form(ek_ca.rsa_key("fuzz ek").public_key()).but(
        spki=ek_ca.oaep_spki(ek_ca.rsa_key("fuzz ek").public_key())
    )
    return [
        honest.sign(ca.key),
        honest.sign(ca.key) + b"\xff" * 20,
        b"\x10\x01\x00\x02\x00\x10\x02" + honest.sign(ca.key),
        odd.sign(ca.key),
        honest.but(ecdsa_null=True).sign(ca.key),
        ek_ca.maker().root.certificate,
    ]


@once
def _chains() -> list[bytes]:
    return [b"".join(ek_ca.maker().chain(_eks()[0]))]


@cache
def _anchors() -> TrustAnchors:
    return TrustAnchors.load(ek_ca.maker().roots)


@once
def _files() -> list[bytes]:
    root, ca = ek_ca.maker().root.certificate, ek_ca.maker().intermediate.certificate
    pem = x509.load_der_x509_certificate(root).public_bytes(Encoding.PEM)
    return [root, root + ca, pem, b"# a root\n" + pem + pem]


@once
def _cabinets() -> list[bytes]:
    files = {"AMD\\root.crt": _files()[2], "version.txt": b"1", "Intel\\ca.cer": ek_ca.maker().root.certificate}
    return [
        cabinet(files),
        cabinet(files, kind=0),
        cabinet(files, reserved=(20, 3, 2), checked=False, after=b"\x30\x03abc"),
        cabinet({"a.der": b"", "b.der": b"x"}, checked=False),
    ]


@once
def _manifests() -> list[bytes]:
    described = [
        describe_certificate(der, now=ek_ca.NOW) for der in ek_ca.maker().chain(ek_ca.maker().root.certificate)
    ]
    lines = [",".join(COLUMNS)] + [
        f"Test,{d.kind},{d.purposes},{d.key},{write_date(d.not_before)},{write_date(d.not_after)},{d.sha256.hex()},"
        f'"{d.subject}",test@1'
        for d in described
    ]
    return ["\n".join(lines).encode(), "\r\n".join(lines[:2]).encode()]


@once
def _hinting() -> list[bytes]:
    """EK certificates that say where their issuer's is."""
    ca, url = ek_ca.maker().intermediate, ek_ca.der(0x86, b"http://pki.example/ca.crt")
    hint = ek_ca.seq(ek_ca.seq(ek_ca.oid("1.3.6.1.5.5.7.48.2"), url))
    form = ca.ek_form(_EK_KEY.public_key()).with_extension(ek_ca.Extension("1.3.6.1.5.5.7.1.1", hint))
    return [form.sign(ca.key), form.but(serial=ek_ca.integer(0)).sign(ca.key)]


@once
def _leaves() -> list[bytes]:
    return [a.leaf(), a.leaf(uris=["spiffe://example.org/edge/munich/gate"]), a.ISSUER.der, a.signer()]


@once
def _presented() -> list[bytes]:
    leaf = a.leaf()
    return [leaf + a.ISSUER.der, leaf]


@once
def _pem() -> list[bytes]:
    made = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in (a.leaf(), a.ISSUER.der)]
    return [made[0], made[0] + made[1]]


@cache
def _authorities() -> Authorities:
    return Authorities.load((a.ROOT.der,), (a.ISSUER.der,), trust_domain=a.TRUST_DOMAIN)


# ---- What the targets do -----------------------------------------------------------------------------------------


def _der(data: bytes) -> None:
    """Walked to the ground: elements hold their children and nothing else."""
    todo, seen = [whole(data)], 0
    while todo and seen < 2000:
        item, seen = todo.pop(), seen + 1
        assert item.raw.endswith(item.content)
        assert item.raw in data
        if item.tag & 0x20:
            inside = children(item)
            assert b"".join(child.raw for child in inside) == item.content
            todo += inside
        elif item.tag == 0x06:
            read_oid(item.content)


def _maker_certificate(data: bytes) -> None:
    read = parse_certificate(data)
    assert read.der in data
    assert read.tbs in read.der
    if read.quirks <= {Quirk.PADDED, Quirk.NV_HEADER}:
        theirs = x509.load_der_x509_certificate(read.der)
        assert theirs.tbs_certificate_bytes == read.tbs
        assert theirs.signature == read.signature
        assert theirs.serial_number == read.serial
        assert read.subject in read.tbs
        assert read.issuer in read.tbs
        assert theirs.not_valid_before_utc == read.claims.not_before
        assert theirs.not_valid_after_utc == read.claims.not_after
        assert {extension.oid.dotted_string for extension in theirs.extensions} == read.claims.extensions


def _split(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    while data:
        found.append(element(data).raw)
        data = data[len(found[-1]) :]
    return found


def _maker_chain(data: bytes) -> None:
    """Only what the maker's CAs signed leads to its root."""
    leaf, *others = map(parse_certificate, _split(data) or [b""])
    path = verify_certificate_chain(leaf, intermediates=others, anchors=_anchors(), now=ek_ca.NOW)
    genuine = {parse_certificate(der).tbs for der in (*ek_ca.maker().chain(_eks()[0]), ek_ca.maker().root.certificate)}
    assert {certificate.tbs for certificate in path.certificates} <= genuine
    check_ek_certificate(path)


def _endorsement(data: bytes) -> None:
    """One EK, and whatever certificates: it is endorsed by its own alone."""
    area = ek_ca.ek_area(_EK_KEY.public_key())
    endorsed = verify_endorsement(area, _split(data), anchors=_anchors(), now=ek_ca.NOW)
    assert endorsed.manufacturer == "IFX"


def _maker_file(data: bytes) -> None:
    for der in certificates_in(data):
        described = describe_certificate(der, now=ek_ca.NOW)
        assert described.subject.isprintable()
        assert described.issuer.isprintable()


def _cabinet(data: bytes) -> None:
    """However it is made, no more comes out than is allowed, and names are text."""
    files = unpack(data)
    assert sum(len(file.content) for file in files) <= MAX_UNPACKED
    assert all(isinstance(file.name, str) for file in files)


def _manifest(data: bytes) -> None:
    """What is known, is known by a fingerprint, and never of two makers."""
    manifest = Manifest.parse(data)
    for sha256, known in manifest.certificates.items():
        assert (len(sha256), known.sha256) == (32, sha256)
        assert manifest.by_subject[known.subject] == known.maker
        assert known.subject.isprintable()


def _hints(data: bytes) -> None:
    urls = issuer_urls(parse_certificate(data))
    assert len(urls) <= MAX_URLS
    assert all(url.isascii() and url.isprintable() and " " not in url for url in urls)


def _leaf(data: bytes) -> None:
    """Both ways read alike; a seed's parts are known, so that what is near one takes the short way if it can."""
    for known in _leaves():
        ParsedCertificate.parse(known)
    try:
        parsed = ParsedCertificate.parse(data)
    except AttestdError as error:
        with suppress(type(error)):
            ParsedCertificate._read(data)
            raise AssertionError(f"the long way takes it: {error}") from None
        raise
    assert parsed == ParsedCertificate._read(data)
    assert parsed.der == data
    assert parsed.key == parsed.certificate.public_key()
    assert parsed.certificate.public_bytes(Encoding.DER) == data


def _presented_chain(data: bytes) -> None:
    """A forwarded chain: believed over signed octets only."""
    verified = verify_chain(_split(data), authorities=_authorities(), now=a.NOW)
    assert verified.der in _presented()[0]
    device_identity(verified, status=a.STATUS, revoked=frozenset())


def _proxy_file(data: bytes) -> None:
    """A proxy's certificates, from its file or from an answer: its own key's, or none."""
    identity = ProxyIdentity.of(SoftwareKey(a.LEAF_KEY), read_certificates(data, where="proxy.pem"))
    assert identity.certificate.public_key() == a.LEAF_KEY.public_key()


TARGETS = (
    Target("der", _der, lambda: [_eks()[0], _eks()[3]], _WORDS),
    Target("maker-certificate", _maker_certificate, _eks, _WORDS),
    Target("maker-chain", _maker_chain, _chains, _WORDS),
    Target("endorsement", _endorsement, _chains, _WORDS),
    Target("maker-file", _maker_file, _files, (*_WORDS, _BEGIN, _END)),
    Target("cabinet", _cabinet, _cabinets, (b"MSCF", b"CK", b"\x00\x80", b"\xfd\xff"), limit=64 * 1024),
    Target("maker-manifest", _manifest, _manifests, (b",", b'"', b"\n", b"root", b"any"), limit=64 * 1024),
    Target("issuer-hints", _hints, _hinting, (*_WORDS, b"http://", bytes.fromhex("06082b06010505073002"))),
    Target("presented-certificate", _leaf, _leaves, _WORDS),
    Target("presented-chain", _presented_chain, _presented, _WORDS),
    Target("proxy-file", _proxy_file, _pem, (_BEGIN, _END)),
)
