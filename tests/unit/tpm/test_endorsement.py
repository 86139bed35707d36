"""An EK's endorsement: the honest one, and one lie at a time in its certificate, its key or its template."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.errors import AttestdError
from attestd.ids import EkHash
from attestd.tpm import ekprofile as p
from attestd.tpm import endorsement as e
from attestd.tpm.chain import NoTrustAnchors, QuirkRefused, UntrustedMaker
from attestd.tpm.der import MalformedCertificate
from attestd.tpm.ekcert import Quirk, parse_certificate
from attestd.tpm.ektemplates import EkAttributesWrong
from attestd.tpm.identity import vet_identity_key
from attestd.tpm.vouching import BadCertificateSignature, MakerCertificateExpired, WeakCertificateSignature
from attestd.tpm.wire import MalformedTpmStructure
from tests import ek_ca as ca
from tests.forger import forge_iak

from .test_weak_keys import TELLING, roca_key

MAKER = ca.maker()
MIDDLE = MAKER.intermediate
ANCHORS = e.TrustAnchors.load(MAKER.roots)
EC_KEY = ca.ec_key("ek").public_key()
RSA_KEY = ca.rsa_key("ek").public_key()
FORM = MIDDLE.ek_form(EC_KEY)
RSA_FORM = MIDDLE.ek_form(RSA_KEY)


def endorse(form: ca.Form = FORM, key: ca.PublicKey = EC_KEY, **options: Any) -> e.VerifiedEndorsement:
    return e.verify_endorsement(
        ca.ek_area(key), MAKER.chain(form.sign(MIDDLE.key)), **{"anchors": ANCHORS, "now": ca.NOW, **options}
    )


@pytest.mark.parametrize(
    "key",
    [EC_KEY, RSA_KEY, ca.ec_key("ek", ec.SECP384R1).public_key(), ca.rsa_key("ek", 3072).public_key()],
    ids=["P-256", "RSA-2048", "P-384", "RSA-3072"],
)
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_an_honest_ek_is_endorsed(key: ca.PublicKey, kind: str) -> None:
    maker = ca.maker(kind=kind)
    leaf = maker.intermediate.ek_certificate(key)
    anchors = e.TrustAnchors.load(maker.roots)
    found = e.verify_endorsement(ca.ek_area(key), maker.chain(leaf), anchors=anchors, now=ca.NOW)
    assert found.ek.area == ca.ek_area(key)
    assert found.ek_hash == EkHash.of(ca.ek_area(key))
    assert (found.kind, found.manufacturer, found.model) == ("certificate", "IFX", "SLB 9670")
    assert (found.firmware_version, found.quirks) == ("id:00070055", ())
    assert found.certificate == leaf
    assert found.issuers[-1] == parse_certificate(maker.root.certificate).sha256


def test_neither_the_ek_nor_its_hash_is_shown() -> None:
    shown = repr(endorse())
    assert EkHash.of(ca.ek_area(EC_KEY)).hex() not in shown
    assert "ek_hash" not in shown
    assert "TpmPublic" not in shown


# ---- The key ----------------------------------------------------------------------------------------------------


def test_the_certificate_must_be_for_this_very_key() -> None:
    for other in (ca.ec_key("other").public_key(), RSA_KEY):
        with pytest.raises(e.CertificateForAnotherKey):
            endorse(FORM, other)
    with pytest.raises(e.CertificateForAnotherKey):
        endorse(RSA_FORM, ca.rsa_key("other ek").public_key())
    assert endorse(RSA_FORM, RSA_KEY)


def test_an_rsa_exponent_counts() -> None:
    numbers = rsa.RSAPublicNumbers(3, RSA_KEY.public_numbers().n)
    with pytest.raises(e.CertificateForAnotherKey):
        endorse(RSA_FORM.but(spki=ca.spki(numbers.public_key())), RSA_KEY)


def test_the_ek_certificate_comes_first() -> None:
    chain = MAKER.chain(FORM.sign(MIDDLE.key))
    with pytest.raises(e.CertificateForAnotherKey):
        e.verify_endorsement(ca.ek_area(EC_KEY), chain[::-1], anchors=ANCHORS, now=ca.NOW)


def test_the_public_area_must_be_an_eks() -> None:
    area = ca.ek_area(EC_KEY)
    chain = MAKER.chain(FORM.sign(MIDDLE.key))
    exportable = area[:4] + (0x000300B2 & ~0x2).to_bytes(4, "big") + area[8:]
    with pytest.raises(EkAttributesWrong):
        e.verify_endorsement(exportable, chain, anchors=ANCHORS, now=ca.NOW)
    with pytest.raises(MalformedTpmStructure):
        e.verify_endorsement(area + b"\0", chain, anchors=ANCHORS, now=ca.NOW)


def test_a_key_with_the_roca_fingerprint_is_refused() -> None:
    key = roca_key()
    assert key.key_size == 2048
    with pytest.raises(p.WeakEndorsementKey) as refusal:
        endorse(MIDDLE.ek_form(key), key)
    assert "firmware" in refusal.value.what_to_do
    with pytest.raises(p.WeakEndorsementKey):
        e.endorse_by_inventory(ca.ek_area(key), known=EkHash.of(ca.ek_area(key)))
    with pytest.raises(p.WeakEndorsementKey):
        certified(MIDDLE.ek_form(key))


def test_a_key_that_differs_from_the_fingerprint_modulo_one_prime_is_not_refused() -> None:
    for prime in TELLING:
        key = roca_key(spoil=prime)
        assert endorse(MIDDLE.ek_form(key), key)
        assert certified(MIDDLE.ek_form(key))


# ---- The certificate alone --------------------------------------------------------------------------------------


def certified(form: ca.Form, **options: Any) -> p.VerifiedEkCertificate:
    return p.verify_ek_certificate(
        parse_certificate(form.sign(MIDDLE.key)),
        intermediates=[parse_certificate(MIDDLE.certificate)],
        **{"anchors": ANCHORS, "now": ca.NOW, **options},
    )


def test_a_certificate_is_judged_without_its_key() -> None:
    found = certified(FORM)
    assert (found.identity.manufacturer, found.identity.model) == ("IFX", "SLB 9670")
    assert found.path.root.der == MAKER.root.certificate


@pytest.mark.parametrize(
    "key",
    [ca.rsa_key("short ek", 1024), ca.rsa_key("long ek", 4096), ca.ec_key("large ek", ec.SECP521R1)],
    ids=["RSA-1024", "RSA-4096", "P-521"],
)
def test_a_certificate_for_a_key_that_no_ek_has(key: ca.PrivateKey) -> None:
    with pytest.raises(p.EkKeyUnsuitable):
        certified(MIDDLE.ek_form(key.public_key()))


# ---- Chips for TPM 1.2, and quirks that a policy refuses --------------------------------------------------------

MARKED = RSA_FORM.but(spki=ca.oaep_spki(RSA_KEY))
NOTHING_REFUSED: frozenset[Quirk] = frozenset()


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(MARKED.without("2.5.29.15"), id="no key usage"),
        pytest.param(MARKED.without("2.5.29.37"), id="no purpose"),
        pytest.param(MARKED.without("2.5.29.15").without("2.5.29.37"), id="neither"),
    ],
)
def test_a_key_marked_for_oaep_alone_needs_neither_usage_nor_purpose(form: ca.Form) -> None:
    found = endorse(form, RSA_KEY, refused=NOTHING_REFUSED)
    assert found.quirks == ("rsaes-oaep-key", "tpm12-profile")
    with pytest.raises((p.EkKeyUsageWrong, p.NotAnEkCertificate)):
        endorse(form, RSA_KEY)


@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        pytest.param(RSA_FORM.without("2.5.29.15"), p.EkKeyUsageWrong, id="not marked, no key usage"),
        pytest.param(RSA_FORM.without("2.5.29.37"), p.NotAnEkCertificate, id="not marked, no purpose"),
        pytest.param(
            MARKED.with_extension(ca.key_usage("digital_signature")), p.EkKeyUsageWrong, id="marked, and it signs"
        ),
        pytest.param(
            MARKED.with_extension(ca.purposes(ca.AIK_PURPOSE)), p.NotAnEkCertificate, id="marked, another purpose"
        ),
        pytest.param(
            MARKED.without("2.5.29.15").without("2.5.29.17"), p.TpmIdentityMissing, id="marked, no TPM's identity"
        ),
    ],
)
def test_the_mark_stands_for_what_is_absent_and_for_nothing_else(form: ca.Form, refusal: type[AttestdError]) -> None:
    with pytest.raises(refusal):
        endorse(form, RSA_KEY, refused=NOTHING_REFUSED)


def test_a_policy_may_refuse_any_quirk() -> None:
    odd = FORM.but(serial=ca.integer(0))
    assert endorse(odd).quirks == ("odd-serial",)
    with pytest.raises(QuirkRefused) as refusal:
        endorse(odd, refused=frozenset({Quirk.ODD_SERIAL}))
    assert refusal.value.seen == "odd-serial"
    assert endorse(FORM, refused=frozenset(Quirk)).quirks == ()


# ---- The certificates -------------------------------------------------------------------------------------------


def test_no_certificate_is_no_endorsement() -> None:
    with pytest.raises(e.NoEndorsementCertificate) as refusal:
        e.verify_endorsement(ca.ek_area(EC_KEY), [], anchors=ANCHORS, now=ca.NOW)
    assert "inventory" in refusal.value.what_to_do


def test_the_number_of_certificates_is_bounded() -> None:
    chain = MAKER.chain(FORM.sign(MIDDLE.key))
    assert e.verify_endorsement(ca.ek_area(EC_KEY), chain + chain[1:] * 6, anchors=ANCHORS, now=ca.NOW)
    with pytest.raises(e.TooManyCertificates):
        e.verify_endorsement(ca.ek_area(EC_KEY), chain + chain[1:] * 7, anchors=ANCHORS, now=ca.NOW)


def test_every_certificate_must_be_readable() -> None:
    chain = MAKER.chain(FORM.sign(MIDDLE.key))
    for at in range(2):
        broken = [der[:-1] if n == at else der for n, der in enumerate(chain)]
        with pytest.raises(MalformedCertificate):
            e.verify_endorsement(ca.ek_area(EC_KEY), broken, anchors=ANCHORS, now=ca.NOW)


def test_the_chain_is_verified() -> None:
    with pytest.raises(NoTrustAnchors):
        endorse(anchors=e.TrustAnchors.load([]))
    with pytest.raises(UntrustedMaker):
        endorse(anchors=e.TrustAnchors.load(ca.maker("Other").roots))
    with pytest.raises(MakerCertificateExpired):
        endorse(now=ca.END + timedelta(seconds=1))
    with pytest.raises(BadCertificateSignature):
        e.verify_endorsement(
            ca.ek_area(EC_KEY), MAKER.chain(FORM.sign(MIDDLE.key, spoil=True)), anchors=ANCHORS, now=ca.NOW
        )


def test_sha1_is_never_accepted_here() -> None:
    with pytest.raises(WeakCertificateSignature):
        endorse(FORM.but(digest="sha1"))


def test_padding_is_cut_and_recorded() -> None:
    certificate = FORM.sign(MIDDLE.key)
    found = e.verify_endorsement(
        ca.ek_area(EC_KEY), MAKER.chain(certificate + b"\xff" * 64), anchors=ANCHORS, now=ca.NOW
    )
    assert (found.certificate, found.quirks) == (certificate, ("padded",))


def test_a_key_marked_for_oaep_is_accepted() -> None:
    found = endorse(RSA_FORM.but(spki=ca.oaep_spki(RSA_KEY)), RSA_KEY)
    assert found.quirks == ("rsaes-oaep-key",)


# ---- The EK certificate's profile -------------------------------------------------------------------------------


def test_an_ek_certificate_is_no_ca() -> None:
    assert endorse(FORM.without("2.5.29.19"))
    with pytest.raises(p.EkCertificateIsCa):
        endorse(FORM.with_extension(ca.basic_constraints(True)))


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(FORM.without("2.5.29.37"), id="none"),
        pytest.param(FORM.with_extension(ca.purposes(ca.AIK_PURPOSE)), id="attestation key"),
        pytest.param(FORM.with_extension(ca.purposes("2.5.29.37.0")), id="any purpose"),
        pytest.param(FORM.with_extension(ca.purposes()).but(serial=ca.integer(0)), id="an empty list, read leniently"),
    ],
)
def test_the_purpose_must_be_the_eks(form: ca.Form) -> None:
    assert endorse(FORM.with_extension(ca.purposes(ca.AIK_PURPOSE, ca.EK_PURPOSE)))
    with pytest.raises(p.NotAnEkCertificate):
        endorse(form)


def test_the_key_usage_must_be_the_keys() -> None:
    agreement, encipherment = ca.key_usage("key_agreement"), ca.key_usage("key_encipherment")
    assert endorse(FORM.with_extension(agreement))
    assert endorse(FORM.with_extension(ca.key_usage("key_agreement", "data_encipherment")))
    assert endorse(RSA_FORM.with_extension(encipherment), RSA_KEY)
    with pytest.raises(p.EkKeyUsageWrong):
        endorse(FORM.with_extension(encipherment))
    with pytest.raises(p.EkKeyUsageWrong):
        endorse(RSA_FORM.with_extension(agreement), RSA_KEY)
    with pytest.raises(p.EkKeyUsageWrong):
        endorse(FORM.without("2.5.29.15"))


@pytest.mark.parametrize("usage", ["digital_signature", "content_commitment", "key_cert_sign", "crl_sign"])
def test_an_ek_may_not_sign(usage: str) -> None:
    with pytest.raises(p.EkKeyUsageWrong):
        endorse(FORM.with_extension(ca.key_usage("key_agreement", usage)))


# ---- The TPM's identity -----------------------------------------------------------------------------------------


def named(*names: bytes, critical: bool | None = True) -> ca.Form:
    return FORM.with_extension(ca.alternative_name(*names, critical=critical))


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(named(ca.tpm_attributes(), critical=None), id="not critical"),
        pytest.param(named(ca.tpm_attributes(one_set=True)), id="one set"),
        pytest.param(named(ca.tpm_attributes(write=ca.printable)), id="printable strings"),
        pytest.param(named(ca.name("a hostname"), ca.tpm_attributes()), id="another name beside it"),
        pytest.param(named(ca.tpm_attributes()).but(subject=ca.name("a hostname")), id="a subject too"),
    ],
)
def test_the_tpms_identity_is_read(form: ca.Form) -> None:
    found = endorse(form)
    assert (found.manufacturer, found.model, found.firmware_version) == ("IFX", "SLB 9670", "id:00070055")


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(FORM.without("2.5.29.17"), id="no alternative name"),
        pytest.param(named(), id="an empty one"),
        pytest.param(named(ca.name("a hostname")), id="one about something else"),
    ],
)
def test_a_missing_identity_is_refused(form: ca.Form) -> None:
    with pytest.raises(p.TpmIdentityMissing):
        endorse(form)


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(ca.tpm_attributes(manufacturer=None), id="no manufacturer"),
        pytest.param(ca.tpm_attributes(model=None), id="no model"),
        pytest.param(ca.tpm_attributes(version=None), id="no version"),
        pytest.param(ca.seq(*[ca.der(0x31, ca.attribute("2.23.133.2.1", "id:49465800"))] * 3), id="one thrice"),
        pytest.param(ca.tpm_attributes(manufacturer="49465800"), id="manufacturer without id:"),
        pytest.param(ca.tpm_attributes(manufacturer="id:4946580"), id="manufacturer too short"),
        pytest.param(ca.tpm_attributes(manufacturer="id:494658000"), id="manufacturer too long"),
        pytest.param(ca.tpm_attributes(manufacturer="id:4946580g"), id="manufacturer not hexadecimal"),
        pytest.param(ca.tpm_attributes(model="SLB\x1b[2J"), id="model not printable"),
        pytest.param(ca.tpm_attributes(model="m" * 65), id="model too long"),
        pytest.param(ca.tpm_attributes(version="id:\n"), id="version not printable"),
        pytest.param(ca.tpm_attributes(version="v" * 65), id="version too long"),
    ],
)
def test_a_malformed_identity_is_refused(attributes: bytes) -> None:
    assert endorse(named(ca.tpm_attributes(model="m" * 64, version="v" * 64)))
    with pytest.raises(p.TpmIdentityMalformed):
        endorse(named(attributes))


def test_two_identities_are_refused() -> None:
    with pytest.raises(p.TpmIdentityMalformed):
        endorse(named(ca.tpm_attributes(), ca.tpm_attributes(model="SLB 9672")))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("id:53544D20", "STM"),
        ("id:4E544300", "NTC"),
        ("id:494E5443", "INTC"),
        ("id:49465800", "IFX"),
        ("id:414d4400", "AMD"),
        ("id:00001014", "id:00001014"),
        ("id:00000000", "id:00000000"),
        ("id:41001b42", "id:41001B42"),
    ],
)
def test_vendor_ids_are_shown_as_text(written: str, shown: str) -> None:
    assert endorse(named(ca.tpm_attributes(manufacturer=written))).manufacturer == shown


# ---- Google's certificates without EKU and SAN ------------------------------------------------------------------

INSTANCE = ca.Extension("1.3.6.1.4.1.11129.2.1.21", ca.seq())
BARE = FORM.without("2.5.29.37").without("2.5.29.17").with_extension(INSTANCE)


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the test maker's root is the pinned one."""
    monkeypatch.setattr(p, "_GOOGLE_CAS_ROOTS", frozenset({parse_certificate(MAKER.root.certificate).sha256}))


@pytest.mark.usefixtures("pinned")
def test_a_bare_certificate_under_the_pinned_root_is_accepted() -> None:
    found = endorse(BARE)
    assert (found.manufacturer, found.model, found.quirks) == ("GOOG", "", ("google-cas",))


def test_a_bare_certificate_under_another_root_is_refused() -> None:
    with pytest.raises(p.NotAnEkCertificate):
        endorse(BARE)


@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        pytest.param(BARE.without(INSTANCE.kind), p.NotAnEkCertificate, id="no instance extension"),
        pytest.param(BARE.with_extension(ca.purposes(ca.AIK_PURPOSE)), p.NotAnEkCertificate, id="another purpose"),
        pytest.param(
            BARE.with_extension(ca.alternative_name(ca.tpm_attributes())), p.NotAnEkCertificate, id="a TPM's name"
        ),
        pytest.param(
            BARE.with_extension(ca.key_usage("key_agreement", "data_encipherment")),
            p.NotAnEkCertificate,
            id="another key usage too",
        ),
        pytest.param(BARE.with_extension(ca.key_usage("digital_signature")), p.EkKeyUsageWrong, id="a signing key"),
        pytest.param(BARE.without("2.5.29.15"), p.EkKeyUsageWrong, id="no key usage"),
        pytest.param(BARE.with_extension(ca.basic_constraints(True)), p.EkCertificateIsCa, id="a CA"),
    ],
)
def test_under_the_pinned_root_every_condition_holds(form: ca.Form, refusal: type[AttestdError]) -> None:
    with pytest.raises(refusal):
        endorse(form)


@pytest.mark.usefixtures("pinned")
def test_ordinary_certificates_under_the_pinned_root_are_ordinary() -> None:
    found = endorse(FORM.with_extension(INSTANCE))
    assert (found.manufacturer, found.quirks) == ("IFX", ())


# ---- The inventory ----------------------------------------------------------------------------------------------


def test_the_inventory_endorses_a_known_ek() -> None:
    area = ca.ek_area(RSA_KEY)
    found = e.endorse_by_inventory(area, known=EkHash.of(area))
    assert (found.kind, found.ek_hash, found.ek.area) == ("inventory", EkHash.of(area), area)
    assert (found.manufacturer, found.certificate, found.issuers) == ("", None, ())


def test_the_inventory_endorses_no_other_ek() -> None:
    with pytest.raises(e.EkNotInInventory):
        e.endorse_by_inventory(ca.ek_area(EC_KEY), known=EkHash.of(ca.ek_area(RSA_KEY)))


def test_the_inventory_endorses_eks_only() -> None:
    area = ca.ek_area(EC_KEY)
    signing = area[:4] + (0x00050072).to_bytes(4, "big") + area[8:]
    with pytest.raises(EkAttributesWrong):
        e.endorse_by_inventory(signing, known=EkHash.of(signing))


# ---- Remembering ------------------------------------------------------------------------------------------------


def test_an_endorsement_survives_storage() -> None:
    by_maker = endorse(FORM.but(serial=ca.integer(0)))
    by_inventory = e.endorse_by_inventory(ca.ek_area(RSA_KEY), known=EkHash.of(ca.ek_area(RSA_KEY)))
    assert by_maker.quirks == (Quirk.ODD_SERIAL,)
    for found in (by_maker, by_inventory):
        recalled = e.recall_endorsement(found.to_parts())
        assert recalled == found
        assert recalled.ek == found.ek


def identified(key: ca.PublicKey = EC_KEY, **options: Any) -> e.VerifiedEndorsement:
    iak = forge_iak()
    leaf = MIDDLE.iak_form(iak.private.public_key()).sign(MIDDLE.key)
    return e.endorse_by_identity(
        ca.ek_area(key),
        vet_identity_key(iak.public),
        MAKER.chain(leaf),
        **{"anchors": ANCHORS, "now": ca.NOW, **options},
    )


def test_an_identity_key_stands_in_an_ek_s_place_and_survives_storage() -> None:
    found = identified()
    assert found.identity is not None
    assert (found.kind, found.manufacturer, found.area) == ("iak", "IFX", found.identity.area)
    assert found.ek_hash == EkHash.of(found.identity.area) != EkHash.of(ca.ek_area(EC_KEY))
    recalled = e.recall_endorsement(found.to_parts())
    assert (recalled, recalled.above) == (found, ())


def test_an_identity_key_s_certificates_are_bounded_and_its_own() -> None:
    iak, other = vet_identity_key(forge_iak().public), forge_iak().private.public_key()
    leaf = MIDDLE.iak_form(other).sign(MIDDLE.key)
    for certificates, refusal in (
        ([], e.NoEndorsementCertificate),
        (MAKER.chain(leaf) * 5, e.TooManyCertificates),
        (MAKER.chain(leaf), e.CertificateForAnotherKey),
    ):
        with pytest.raises(refusal):
            e.endorse_by_identity(ca.ek_area(EC_KEY), iak, certificates, anchors=ANCHORS, now=ca.NOW)


def test_the_ek_that_carries_its_challenge_is_an_ek() -> None:
    with pytest.raises(p.WeakEndorsementKey):
        identified(roca_key())


# ---- Whatever comes ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=3))
def test_random_octets_never_raise_anything_else(area: bytes, certificates: list[bytes]) -> None:
    for public in (area, ca.ek_area(EC_KEY)):
        with pytest.raises(AttestdError):
            e.verify_endorsement(public, certificates, anchors=ANCHORS, now=ca.NOW)


def test_an_impostor_with_everything_but_the_key_is_refused() -> None:
    """Root and intermediate by the maker's names, signed by the impostor; the maker's own intermediate sent along."""
    root = replace(MAKER.root, key=ca.ec_key("impostor root")).self_signed()
    middle = replace(MIDDLE, key=ca.ec_key("impostor middle"))
    middle = middle.certified_by(root, middle.form(root, path_length=0))
    leaf = middle.ek_certificate(EC_KEY)
    for extra in ([], [root.certificate], [MIDDLE.certificate, root.certificate]):
        with pytest.raises(AttestdError):
            e.verify_endorsement(ca.ek_area(EC_KEY), [leaf, middle.certificate, *extra], anchors=ANCHORS, now=ca.NOW)
    own = e.TrustAnchors.load([root.certificate])
    assert e.verify_endorsement(ca.ek_area(EC_KEY), [leaf, middle.certificate], anchors=own, now=ca.NOW)
