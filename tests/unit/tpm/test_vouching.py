"""One lie for each check of a step from a certificate to its issuer, beside the same chain without the lie."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from attestd.errors import EvidenceRefused
from attestd.tpm import vouching as v
from attestd.tpm.chain import TrustAnchors, VerifiedPath, verify_certificate_chain
from attestd.tpm.der import MalformedCertificate
from attestd.tpm.ekcert import Quirk, parse_certificate
from tests import ek_ca as ca

KEY = ca.ec_key("vouching ek").public_key()
ROOT = ca.maker().root
MIDDLE = ca.maker().intermediate
MIDDLE_FORM = MIDDLE.form(ROOT, path_length=0)
LEAF_FORM = MIDDLE.ek_form(KEY)
MOMENT = timedelta(seconds=1)


def walk(
    *,
    leaf: ca.Form = LEAF_FORM,
    middle: ca.Form = MIDDLE_FORM,
    root: ca.Form | None = None,
    now: datetime = ca.NOW,
    leaf_signer: ca.MakerCa = MIDDLE,
    **options: Any,
) -> VerifiedPath:
    """root → middle → leaf, each as its form says, signed by the honest keys."""
    root_certificate = (root or ROOT.form(ROOT)).sign(ROOT.key)
    return verify_certificate_chain(
        parse_certificate(leaf.sign(leaf_signer.key)),
        intermediates=[parse_certificate(middle.sign(ROOT.key))],
        anchors=TrustAnchors.load([root_certificate]),
        now=now,
        **options,
    )


def test_the_honest_chain_is_accepted() -> None:
    path = walk()
    assert [found.subject for found in path.certificates] == [ca.EMPTY_NAME, MIDDLE.name, ROOT.name]
    assert path.leaf.subject == ca.EMPTY_NAME
    assert path.root.subject == ROOT.name
    assert path.quirks == frozenset()


# ---- Dates ------------------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {"not_before": ca.NOW, "not_after": ca.NOW + timedelta(days=1)}


@pytest.mark.parametrize("which", ["leaf", "middle"])
def test_every_certificate_below_the_root_must_be_valid_now(which: str) -> None:
    forms = {"leaf": LEAF_FORM, "middle": MIDDLE_FORM}
    chain: dict[str, Any] = {which: forms[which].but(**SHORT)}
    assert walk(**chain, now=ca.NOW)
    assert walk(**chain, now=SHORT["not_after"])
    with pytest.raises(v.MakerCertificateNotYetValid):
        walk(**chain, now=ca.NOW - MOMENT)
    with pytest.raises(v.MakerCertificateExpired):
        walk(**chain, now=SHORT["not_after"] + MOMENT)


def test_a_root_must_be_valid_already() -> None:
    assert walk(root=ROOT.form(ROOT).but(**SHORT))
    with pytest.raises(v.MakerCertificateNotYetValid):
        walk(root=ROOT.form(ROOT).but(**SHORT), now=ca.NOW - MOMENT)


OVER: dict[str, Any] = {"not_before": ca.START - timedelta(days=1), "not_after": ca.START + timedelta(days=1)}


def test_a_trusted_root_that_is_over_still_vouches_for_what_it_signed_in_its_time() -> None:
    path = walk(root=ROOT.form(ROOT).but(**OVER))
    assert path.quirks == {Quirk.EXPIRED_ROOT}
    assert walk(root=ROOT.form(ROOT).but(**OVER), now=OVER["not_after"]).quirks == frozenset()


@pytest.mark.parametrize(
    ("root", "middle", "refusal"),
    [
        pytest.param({"not_after": ca.START - MOMENT}, {}, v.MakerCertificateExpired, id="signed after its end"),
        pytest.param({"not_before": ca.START + MOMENT}, {}, v.MakerCertificateNotYetValid, id="signed before its time"),
        pytest.param({}, {"not_after": ca.NOW - MOMENT}, v.MakerCertificateExpired, id="an intermediate is over, too"),
    ],
)
def test_a_root_that_is_over_vouches_for_nothing_else(
    root: dict[str, Any], middle: dict[str, Any], refusal: type[EvidenceRefused]
) -> None:
    with pytest.raises(refusal):
        walk(root=ROOT.form(ROOT).but(**{**OVER, **root}), middle=MIDDLE_FORM.but(**middle))


def test_a_root_that_is_over_is_refused_where_a_policy_says_so() -> None:
    with pytest.raises(v.MakerCertificateExpired):
        walk(root=ROOT.form(ROOT).but(**OVER), refused=frozenset({Quirk.EXPIRED_ROOT}))


def test_an_intermediate_that_is_over_is_no_root() -> None:
    """The store's intermediates are trusted for nothing, so their dates are those of everybody."""
    anchors = TrustAnchors.load([ROOT.certificate], [MIDDLE_FORM.but(**OVER).sign(ROOT.key)])
    with pytest.raises(v.MakerCertificateExpired):
        verify_certificate_chain(parse_certificate(LEAF_FORM.sign(MIDDLE.key)), anchors=anchors, now=ca.NOW)


def test_a_renewed_root_comes_before_the_one_that_is_over() -> None:
    over, renewed = ROOT.form(ROOT).but(**OVER).sign(ROOT.key), ROOT.certificate
    for roots in ([over, renewed], [renewed, over]):
        path = verify_certificate_chain(
            parse_certificate(LEAF_FORM.sign(MIDDLE.key)),
            anchors=TrustAnchors.load(roots, [MIDDLE.certificate]),
            now=ca.NOW,
        )
        assert (path.root.der, path.quirks) == (renewed, frozenset())


# ---- Critical extensions and constraints ------------------------------------------------------------------------

STRANGE = "1.3.6.1.4.1.99999.1"


@pytest.mark.parametrize("which", ["leaf", "middle", "root"])
def test_unknown_critical_extensions_are_refused_by_their_oid(which: str) -> None:
    forms = {"leaf": LEAF_FORM, "middle": MIDDLE_FORM, "root": ROOT.form(ROOT)}
    harmless: dict[str, Any] = {which: forms[which].with_extension(ca.Extension(STRANGE, b"x"))}
    assert walk(**harmless)
    critical: dict[str, Any] = {which: forms[which].with_extension(ca.Extension(STRANGE, b"x", True))}
    with pytest.raises(v.UnhandledCriticalExtension) as refusal:
        walk(**critical)
    assert refusal.value.seen == STRANGE


def test_a_critical_alternative_name_is_understood_in_an_ek_certificate_only() -> None:
    name = ca.alternative_name(ca.tpm_attributes(), critical=True)
    assert walk(leaf=LEAF_FORM.with_extension(name))
    with pytest.raises(v.UnhandledCriticalExtension) as refusal:
        walk(middle=MIDDLE_FORM.with_extension(name))
    assert refusal.value.seen == "2.5.29.17"


def test_critical_policies_and_purposes_are_understood() -> None:
    policies = ca.Extension("2.5.29.32", ca.seq(ca.seq(ca.oid("2.5.29.32.0"))), True)
    purposes = ca.purposes(ca.EK_PURPOSE, critical=True)
    assert walk(
        leaf=LEAF_FORM.with_extension(policies, purposes), middle=MIDDLE_FORM.with_extension(policies, purposes)
    )


CONSTRAINTS = {
    "2.5.29.30": ca.seq(ca.der(0xA0, ca.seq(ca.der(0x82, b"example.org")))),
    "2.5.29.36": ca.seq(ca.der(0x80, b"\0")),
    "2.5.29.54": ca.integer(0),
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
@pytest.mark.parametrize("critical", [True, None])
def test_constraints_that_are_not_evaluated_refuse(kind: str, critical: bool | None) -> None:
    constraint = ca.Extension(kind, CONSTRAINTS[kind], critical)
    for chain in (
        {"middle": MIDDLE_FORM.with_extension(constraint)},
        {"root": ROOT.form(ROOT).with_extension(constraint)},
    ):
        with pytest.raises(v.UnhandledConstraint) as refusal:
            walk(**chain)  # type: ignore[arg-type]
        assert refusal.value.seen == kind


# ---- Who may issue ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["middle", "root"])
def test_an_issuer_must_be_a_ca(which: str) -> None:
    form = MIDDLE_FORM if which == "middle" else ROOT.form(ROOT)
    for lie in (form.with_extension(ca.basic_constraints(False)), form.without("2.5.29.19")):
        chain: dict[str, Any] = {which: lie}
        with pytest.raises(v.IssuerNotCa):
            walk(**chain)


@pytest.mark.parametrize("which", ["middle", "root"])
def test_an_issuer_must_be_allowed_to_sign_certificates(which: str) -> None:
    form = MIDDLE_FORM if which == "middle" else ROOT.form(ROOT)
    for lie in (form.with_extension(ca.key_usage("digital_signature", "crl_sign")), form.without("2.5.29.15")):
        chain: dict[str, Any] = {which: lie}
        with pytest.raises(v.IssuerMayNotSign):
            walk(**chain)


@pytest.mark.parametrize("which", ["middle", "root"])
def test_an_issuer_with_purposes_must_have_this_one(which: str) -> None:
    form = MIDDLE_FORM if which == "middle" else ROOT.form(ROOT)
    for kinds in ((ca.EK_PURPOSE,), (ca.AIK_PURPOSE, ca.EK_PURPOSE), ("2.5.29.37.0",)):
        honest: dict[str, Any] = {which: form.with_extension(ca.purposes(*kinds))}
        assert walk(**honest)
    lie: dict[str, Any] = {which: form.with_extension(ca.purposes(ca.AIK_PURPOSE))}
    with pytest.raises(v.IssuerNotForPurpose):
        walk(**lie)
    assert walk(**lie, purpose=ca.AIK_PURPOSE)


def test_path_lengths_hold() -> None:
    top, middle, low = ca.line_of_cas(3, label="Length")
    leaf = parse_certificate(low.ek_certificate(KEY))

    def walk_with(length: int, of: str) -> VerifiedPath:
        lengths = {of: length}
        root = top.form(top, path_length=lengths.get("root")).sign(top.key)
        between = middle.form(top, path_length=lengths.get("middle")).sign(top.key)
        return verify_certificate_chain(
            leaf,
            intermediates=[parse_certificate(between), parse_certificate(low.certificate)],
            anchors=TrustAnchors.load([root]),
            now=ca.NOW,
        )

    assert walk_with(2, "root")
    assert walk_with(1, "middle")
    with pytest.raises(v.PathLengthExceeded):
        walk_with(1, "root")
    with pytest.raises(v.PathLengthExceeded):
        walk_with(0, "middle")


def test_a_self_issued_ca_does_not_count_against_the_path_length() -> None:
    """RFC 5280, section 6.1.4 (l): a CA's certificate for its own next key."""
    next_key = replace(ROOT, key=ca.ec_key("root's next key"))
    rollover = next_key.form(ROOT).sign(ROOT.key)
    leaf = parse_certificate(next_key.ek_certificate(KEY))
    root = ROOT.form(ROOT, path_length=0).sign(ROOT.key)
    anchors = TrustAnchors.load([root])
    assert verify_certificate_chain(leaf, intermediates=[parse_certificate(rollover)], anchors=anchors, now=ca.NOW)


# ---- Names, key identifiers, signatures -------------------------------------------------------------------------


def test_the_key_identifiers_must_agree_where_both_are_there() -> None:
    assert walk(leaf=LEAF_FORM.without("2.5.29.35"))
    assert walk(middle=MIDDLE_FORM.without("2.5.29.14"))
    with pytest.raises(v.IssuerKeyDiffers):
        walk(leaf=LEAF_FORM.with_extension(ca.authority_key(b"another key")))


def test_a_signature_by_another_key_is_refused() -> None:
    stranger = replace(MIDDLE, key=ca.ec_key("stranger"))
    assert walk(leaf_signer=MIDDLE)
    with pytest.raises(v.BadCertificateSignature):
        walk(leaf_signer=stranger)


def test_a_signature_by_another_kind_of_key_is_refused() -> None:
    with pytest.raises(v.BadCertificateSignature):
        walk(leaf_signer=replace(MIDDLE, key=ca.rsa_key("stranger")))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_signature_must_be_by_the_algorithm_that_is_named(kind: str) -> None:
    """The right key signed the right octets, and the certificate names the other kind of algorithm."""
    middle = ca.maker(kind=kind).intermediate
    other = ca.maker(kind="rsa" if kind == "ec" else "ec").intermediate
    named = ca.algorithm_id(other.key, "sha256")
    with pytest.raises(v.BadCertificateSignature):
        v.verify_signature(
            parse_certificate(middle.ek_form(KEY).but(algorithm=named).sign(middle.key)),
            parse_certificate(middle.certificate),
        )


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_signature_over_other_octets_is_refused(kind: str) -> None:
    maker = ca.maker(kind=kind)
    middle = maker.intermediate
    anchors = TrustAnchors.load(maker.roots, [middle.certificate])
    form = middle.ek_form(KEY)
    assert verify_certificate_chain(parse_certificate(form.sign(middle.key)), anchors=anchors, now=ca.NOW)
    with pytest.raises(v.BadCertificateSignature):
        verify_certificate_chain(parse_certificate(form.sign(middle.key, spoil=True)), anchors=anchors, now=ca.NOW)


def test_every_signed_octet_counts() -> None:
    """Change any one octet of the signed part: it is never accepted."""
    maker = ca.maker(kind="rsa")
    anchors = TrustAnchors.load(maker.roots, [maker.intermediate.certificate])
    honest = maker.intermediate.ek_certificate(KEY)
    begin = 4
    for at in range(begin, begin + len(parse_certificate(honest).tbs)):
        spoilt = bytearray(honest)
        spoilt[at] ^= 0x01
        try:
            verify_certificate_chain(parse_certificate(bytes(spoilt)), anchors=anchors, now=ca.NOW)
        except (EvidenceRefused, MalformedCertificate):
            continue
        pytest.fail(f"octet {at} does not count")


OLD: dict[str, Any] = {"digest": "sha1", "not_before": v.SHA1_ENDED - MOMENT}
OLD_ROOT = ROOT.form(ROOT).but(not_before=v.SHA1_ENDED - timedelta(days=999))


def test_signatures_over_sha1_count_if_they_are_old_and_asked_for() -> None:
    for chain in ({"leaf": LEAF_FORM.but(**OLD)}, {"middle": MIDDLE_FORM.but(**OLD)}):
        with pytest.raises(v.WeakCertificateSignature):
            walk(**chain, root=OLD_ROOT)
        assert walk(**chain, root=OLD_ROOT, refused=frozenset()).quirks == {Quirk.SHA1_SIGNATURE}


def test_signatures_over_sha1_from_when_collisions_could_be_made_never_count() -> None:
    young = {**OLD, "not_before": v.SHA1_ENDED}
    for chain in ({"leaf": LEAF_FORM.but(**young)}, {"middle": MIDDLE_FORM.but(**young)}):
        with pytest.raises(v.WeakCertificateSignature):
            walk(**chain, root=OLD_ROOT, refused=frozenset())


def test_a_roots_own_signature_proves_nothing_and_is_not_judged() -> None:
    assert walk(root=ROOT.form(ROOT).but(digest="sha1")).quirks == frozenset()


def test_an_unknown_signature_algorithm_is_refused_by_its_oid() -> None:
    pss = ca.seq(ca.oid("1.2.840.113549.1.1.10"), ca.seq())
    with pytest.raises(v.UnknownSignatureAlgorithm) as refusal:
        walk(leaf=LEAF_FORM.but(algorithm=pss))
    assert refusal.value.seen == "1.2.840.113549.1.1.10"


@pytest.mark.parametrize("size", [2048, 1024])
def test_a_short_issuer_key_is_refused(size: int) -> None:
    short = ca.MakerCa("Short CA", ca.rsa_key("short", size)).certified_by(ROOT)
    anchors = TrustAnchors.load([ROOT.certificate], [short.certificate])
    leaf = parse_certificate(short.ek_certificate(KEY))
    if size >= 2048:
        assert verify_certificate_chain(leaf, anchors=anchors, now=ca.NOW)
        return
    with pytest.raises(v.WeakIssuerKey):
        verify_certificate_chain(leaf, anchors=anchors, now=ca.NOW)


def test_an_issuer_key_that_can_be_factored_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the known CAs has such a key; the test of the property itself is in test_weak_keys."""
    issuer = ca.MakerCa("Weak CA", ca.rsa_key("weak issuer")).certified_by(ROOT)
    anchors = TrustAnchors.load([ROOT.certificate], [issuer.certificate])
    leaf = parse_certificate(issuer.ek_certificate(KEY))
    assert verify_certificate_chain(leaf, anchors=anchors, now=ca.NOW)
    weak = issuer.key.public_key().public_numbers()
    monkeypatch.setattr(v, "has_roca_fingerprint", lambda key: key.public_numbers() == weak)
    with pytest.raises(v.WeakIssuerKey) as refusal:
        verify_certificate_chain(leaf, anchors=anchors, now=ca.NOW)
    assert "CVE-2017-15361" in str(refusal.value)


def test_an_unknown_algorithm_verifies_nothing() -> None:
    pss = ca.seq(ca.oid("1.2.840.113549.1.1.10"), ca.seq())
    leaf = parse_certificate(LEAF_FORM.but(algorithm=pss).sign(MIDDLE.key))
    with pytest.raises(v.BadCertificateSignature):
        v.verify_signature(leaf, parse_certificate(MIDDLE.certificate))
