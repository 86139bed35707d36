"""Path building: which certificates are tried, what is trusted, and where the search ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from attestd.tpm.chain import (
    MAX_ISSUERS,
    MAX_SIGNATURE_CHECKS,
    ChainTooCostly,
    ChainTooLong,
    NoTrustAnchors,
    TrustAnchors,
    UntrustedMaker,
    VerifiedPath,
    verify_certificate_chain,
)
from attestd.tpm.der import MalformedCertificate
from attestd.tpm.ekcert import Quirk, parse_certificate
from attestd.tpm.vouching import BadCertificateSignature, MakerCertificateExpired
from tests import ek_ca as ca

KEY = ca.ec_key("chain ek").public_key()
MAKER = ca.maker()
ROOT, MIDDLE = MAKER.root, MAKER.intermediate
LEAF = MIDDLE.ek_certificate(KEY)


def walk(
    leaf: bytes, intermediates: list[bytes], *, roots: list[bytes], store: list[bytes] | None = None
) -> VerifiedPath:
    return verify_certificate_chain(
        parse_certificate(leaf),
        intermediates=[parse_certificate(der) for der in intermediates],
        anchors=TrustAnchors.load(roots, store or []),
        now=ca.NOW,
    )


def subjects(path: VerifiedPath) -> list[bytes]:
    return [certificate.subject for certificate in path.certificates]


# ---- Where issuers come from ------------------------------------------------------------------------------------


def test_intermediates_come_with_the_request_or_from_the_store() -> None:
    wanted = [ca.EMPTY_NAME, MIDDLE.name, ROOT.name]
    assert subjects(walk(LEAF, [MIDDLE.certificate], roots=[ROOT.certificate])) == wanted
    assert subjects(walk(LEAF, [], roots=[ROOT.certificate], store=[MIDDLE.certificate])) == wanted


def test_a_root_may_certify_an_ek_itself() -> None:
    assert subjects(walk(ROOT.ek_certificate(KEY), [], roots=[ROOT.certificate])) == [ca.EMPTY_NAME, ROOT.name]


def test_a_missing_intermediate_is_an_unknown_maker() -> None:
    with pytest.raises(UntrustedMaker) as refusal:
        walk(LEAF, [], roots=[ROOT.certificate])
    assert refusal.value.seen == "O=Test Maker, CN=Maker Intermediate"
    assert "attestd trust add FILE" in refusal.value.what_to_do


def test_some_intermediates_from_the_request_and_some_from_the_store() -> None:
    line = ca.line_of_cas(5)
    certificates = [authority.certificate for authority in line]
    leaf = line[-1].ek_certificate(KEY)
    path = walk(
        leaf, [certificates[4], certificates[2]], roots=certificates[:1], store=[certificates[3], certificates[1]]
    )
    assert len(path.certificates) == 6


def test_the_order_of_intermediates_and_strangers_among_them_do_not_matter() -> None:
    line = ca.line_of_cas(4)
    stranger = ca.maker("Stranger").intermediate.certificate
    supplied = [line[1].certificate, stranger, line[3].certificate, line[2].certificate]
    assert len(walk(line[3].ek_certificate(KEY), supplied, roots=[line[0].certificate]).certificates) == 5


# ---- What is trusted --------------------------------------------------------------------------------------------


def test_an_empty_trust_store_refuses() -> None:
    for store in ([], [MIDDLE.certificate, ROOT.certificate]):
        with pytest.raises(NoTrustAnchors) as refusal:
            walk(LEAF, [MIDDLE.certificate, ROOT.certificate], roots=[], store=store)
        assert "attestd trust add FILE" in refusal.value.what_to_do


def test_a_root_that_comes_with_the_request_is_not_trusted() -> None:
    other = ca.maker("Other").root.certificate
    for store in ([], [ROOT.certificate]):
        with pytest.raises(UntrustedMaker) as refusal:
            walk(LEAF, [MIDDLE.certificate, ROOT.certificate], roots=[other], store=store)
        assert refusal.value.seen == "O=Test Maker, CN=Maker Root"


def test_a_self_signed_ek_certificate_is_not_trusted() -> None:
    """A software key that certifies itself; its own certificate is sent along as its issuer's, too."""
    key = ca.ec_key("itself")
    itself = ca.MakerCa("Itself", key)
    form = itself.ek_form(key.public_key()).but(subject=itself.name)
    own = form.sign(key)
    with pytest.raises(UntrustedMaker) as refusal:
        walk(own, [own], roots=[ROOT.certificate])
    assert refusal.value.seen == "O=Test Maker, CN=Itself"
    with pytest.raises(UntrustedMaker):
        walk(own, [itself.self_signed().certificate, itself.self_signed().certificate], roots=[ROOT.certificate])


def test_a_root_of_the_same_name_and_another_key_is_not_trusted() -> None:
    """The impostor's chain is perfect but for the key of its root."""
    impostor_root = replace(ROOT, key=ca.ec_key("impostor root")).self_signed()
    impostor = replace(MIDDLE, key=ca.ec_key("impostor")).certified_by(impostor_root)
    leaf = impostor.ek_certificate(KEY)
    assert walk(leaf, [impostor.certificate], roots=[impostor_root.certificate])
    with pytest.raises(UntrustedMaker):
        walk(leaf, [impostor.certificate, impostor_root.certificate], roots=[ca.maker("Other").root.certificate])


def test_a_root_of_the_same_name_without_key_identifiers_is_told_apart_by_its_signature() -> None:
    plain = ROOT.form(ROOT).without("2.5.29.14").without("2.5.29.35")
    trusted = ROOT.self_signed(plain)
    impostor_root = replace(ROOT, key=ca.ec_key("impostor root"))
    impostor = replace(MIDDLE, key=ca.ec_key("impostor"))
    forged = impostor.form(impostor_root).without("2.5.29.35").sign(impostor_root.key)
    leaf = impostor.ek_certificate(KEY)
    with pytest.raises(BadCertificateSignature):
        walk(leaf, [forged], roots=[trusted.certificate])


def test_the_issuers_name_is_compared_octet_for_octet() -> None:
    """The right key under another spelling of its name is another issuer."""
    shouted = ca.name("MAKER INTERMEDIATE")
    with pytest.raises(UntrustedMaker):
        walk(MIDDLE.ek_form(KEY).but(issuer=shouted).sign(MIDDLE.key), [MIDDLE.certificate], roots=[ROOT.certificate])


def test_an_intermediate_in_the_place_of_a_root_ends_the_search() -> None:
    """What an operator trusts, is trusted: also a CA below another one."""
    assert subjects(walk(LEAF, [], roots=[MIDDLE.certificate])) == [ca.EMPTY_NAME, MIDDLE.name]


# ---- Choosing among namesakes -----------------------------------------------------------------------------------


def test_a_renewed_intermediate_is_found_beside_the_expired_one() -> None:
    expired = MIDDLE.certified_by(ROOT, not_after=ca.NOW - timedelta(days=1)).certificate
    path = walk(LEAF, [], roots=[ROOT.certificate], store=[expired, MIDDLE.certificate])
    assert path.certificates[1].der == MIDDLE.certificate
    with pytest.raises(MakerCertificateExpired):
        walk(LEAF, [], roots=[ROOT.certificate], store=[expired])


def test_the_failure_that_came_furthest_is_reported() -> None:
    expired = MIDDLE.certified_by(ROOT, not_after=ca.NOW - timedelta(days=1)).certificate
    spoilt = MIDDLE.ek_form(KEY).sign(MIDDLE.key, spoil=True)
    for store in ([expired, MIDDLE.certificate], [MIDDLE.certificate, expired]):
        with pytest.raises(BadCertificateSignature):
            walk(spoilt, [], roots=[ROOT.certificate], store=store)


def test_a_namesake_that_leads_nowhere_does_not_end_the_search() -> None:
    nowhere = MIDDLE.certified_by(ca.maker("Nowhere").root).certificate
    assert walk(LEAF, [nowhere, MIDDLE.certificate], roots=[ROOT.certificate])


def test_cas_that_certify_each_other_end_the_search() -> None:
    first, second = ca.MakerCa("First", ca.ec_key("first")), ca.MakerCa("Second", ca.ec_key("second"))
    circle = [first.certified_by(second).certificate, second.certified_by(first).certificate]
    with pytest.raises(UntrustedMaker):
        walk(first.ek_certificate(KEY), circle, roots=[ROOT.certificate])
    assert walk(first.ek_certificate(KEY), [*circle, first.certified_by(ROOT).certificate], roots=[ROOT.certificate])


# ---- Bounds -----------------------------------------------------------------------------------------------------


def test_the_length_of_a_chain_is_bounded() -> None:
    line = ca.line_of_cas(MAX_ISSUERS + 1)

    def walk_below(count: int) -> VerifiedPath:
        certificates = [authority.certificate for authority in line[:count]]
        return walk(line[count - 1].ek_certificate(KEY), [], roots=certificates[:1], store=certificates[1:])

    assert len(walk_below(MAX_ISSUERS).certificates) == MAX_ISSUERS + 1
    with pytest.raises(ChainTooLong):
        walk_below(MAX_ISSUERS + 1)


def namesakes(count: int) -> list[bytes]:
    """CAs of one name and different keys, without key identifiers: only a signature tells them apart."""
    ca_form = MIDDLE.form(ROOT).without("2.5.29.14")
    return [
        ca_form.but(serial=ca.integer(n + 1), spki=ca.spki(ca.ec_key("n").public_key())).sign(ROOT.key)
        for n in range(count)
    ]


def test_the_number_of_signature_checks_is_bounded() -> None:
    """Two checks are the honest chain's own: the leaf's and the intermediate's."""
    honest = [MIDDLE.certificate]
    fitting = namesakes(MAX_SIGNATURE_CHECKS - 2)
    assert walk(LEAF, [], roots=[ROOT.certificate], store=fitting + honest)
    with pytest.raises(ChainTooCostly):
        walk(LEAF, [], roots=[ROOT.certificate], store=namesakes(MAX_SIGNATURE_CHECKS - 1) + honest)


# ---- The store --------------------------------------------------------------------------------------------------


def test_a_store_is_indexed_by_name_without_duplicates() -> None:
    anchors = TrustAnchors.load([ROOT.certificate, ROOT.certificate + b"\0"], [MIDDLE.certificate])
    assert [len(found) for found in anchors.roots.values()] == [1]
    assert set(anchors.intermediates) == {MIDDLE.name}


def test_a_store_with_an_unreadable_certificate_says_so() -> None:
    with pytest.raises(MalformedCertificate):
        TrustAnchors.load([ROOT.certificate[:-1]])
    with pytest.raises(MalformedCertificate):
        TrustAnchors.load([], [b"nothing"])


def test_quirks_of_the_whole_path_are_recorded() -> None:
    long_serial = MIDDLE.certified_by(ROOT, serial=ca.der(0x02, b"\x00\x05")).certificate
    zero_serial = ROOT.self_signed(serial=ca.integer(0)).certificate
    path = walk(LEAF + b"\xff", [long_serial], roots=[zero_serial])
    assert path.quirks == {Quirk.PADDED, Quirk.LONG_SERIAL, Quirk.ODD_SERIAL}
