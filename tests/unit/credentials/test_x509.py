"""One lie a test: the honest chain is accepted, and each forgery that changes one field gets its own refusal."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.certificates import (
    AlgorithmRefused,
    CertificateExpired,
    CertificateForged,
    CertificateMalformed,
    CertificateNotYetValid,
    CertificateRefused,
    CriticalExtensionUnknown,
    IssuerMismatch,
    KeyUsageWrong,
    LeafIsAuthority,
    NotAnAuthority,
    PathTooLong,
    PurposeWrong,
)
from attestd.credentials.delegation import BUNDLE_EKU
from attestd.credentials.facts import FACTS_OID
from attestd.credentials.identity import CredentialRevoked, DeviceSuspended, FactsMissing, NotADevice
from attestd.credentials.status import Status, StatusList
from attestd.credentials.x509 import (
    Authorities,
    ChainMalformed,
    FactsMalformed,
    NoAuthorities,
    SpiffeIdWrong,
    TooManyAuthorities,
    TrustDomainWrong,
    UnknownIssuer,
    VerifiedCertificate,
    device_identity,
    verify_chain,
)
from attestd.errors import Unauthenticated
from attestd.ids import Serial, TrustDomain
from tests import authority as a
from tests.authority import BIKE, FACTS, HOUR, ISSUER, ISSUER_KEY, LEAF_KEY, LOWER_KEY, NOW, ROOT, STATUS, leaf

SECOND = timedelta(seconds=1)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.25.1"), b"\x05\x00")


def authorities(
    roots: Sequence[bytes] = (ROOT.der,), issuers: Sequence[bytes] = (ISSUER.der,), domain: str = "example.org"
) -> Authorities:
    return Authorities.load(roots, issuers, trust_domain=TrustDomain(domain))


def verify(
    *chain: bytes, trusted: Authorities | None = None, now: datetime = NOW, device: bool = True
) -> VerifiedCertificate:
    verified = verify_chain(chain, authorities=trusted or authorities(), now=now)
    assert not device or verified.facts == FACTS
    return verified


def second_opinion(*chain: bytes, now: datetime = NOW) -> None:
    """The same chain, judged by the cryptography package. Raises VerificationError."""
    store = verification.Store([ROOT.certificate])
    leaf_policy = verification.ExtensionPolicy.permit_all().may_be_present(
        x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
    )
    policy = (
        verification.PolicyBuilder()
        .store(store)
        .time(now)
        .extension_policies(ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=leaf_policy)
    )
    first, *others = (x509.load_der_x509_certificate(der) for der in chain)
    policy.build_client_verifier().verify(first, others)


# ---- What is accepted ---------------------------------------------------------------------------------------------


def test_a_device_s_certificate() -> None:
    der = leaf()
    second_opinion(der, ISSUER.der)
    verified = verify(der)
    assert str(verified.spiffe_id) == BIKE
    assert verified.thumbprint == a.b64(hashlib.sha256(der).digest())
    assert verified.der == der
    assert verified.serial == Serial(x509.load_der_x509_certificate(der).serial_number)
    assert verified.issuer_serials == (
        Serial(ISSUER.certificate.serial_number),
        Serial(ROOT.certificate.serial_number),
    )
    assert (verified.not_before, verified.not_after) == (NOW - HOUR, NOW + HOUR)

    identity = device_identity(verified, status=STATUS, revoked=frozenset())
    assert (identity.kind, identity.credential_id) == ("x509", str(verified.serial))
    assert identity.certificate_serial == verified.serial
    assert (identity.tier, identity.site, identity.device_id) == ("device", "munich", "bike-1")
    assert (identity.facts, identity.not_after) == (FACTS, NOW + HOUR)


@pytest.mark.parametrize(
    "honest",
    [
        {"uris": ("spiffe://example.org/edge/munich/gateway-1",)},
        {"uris": ("spiffe://example.org/cloud/eu-1/worker",)},
        {"names": (x509.DNSName("gateway"), x509.IPAddress(ipaddress.ip_address("10.0.0.1")))},
        {"constraints": None},
        {"purposes": (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)},
        {"key_usage": a.usage(digital_signature=True, key_agreement=True)},
        {"more": [(UNKNOWN, False)]},
        {"key_ids": False},
        {"subject": "bike"},
        {"key": ec.derive_private_key(12345, ec.SECP384R1())},
        {"algorithm": hashes.SHA384()},
    ],
)
def test_other_honest_certificates(honest: dict[str, Any]) -> None:
    der = leaf(**honest)
    second_opinion(der, ISSUER.der)
    verify(der)


def test_operators_and_proxies_have_no_facts_and_are_no_devices() -> None:
    for path in ("admin/ada", "proxy/munich/p1", "service/attestd"):
        verified = verify(leaf(uris=(f"spiffe://example.org/{path}",), facts=None), device=False)
        assert verified.facts is None
        with pytest.raises(NotADevice):
            device_identity(verified, status=STATUS, revoked=frozenset())


def test_a_chain_with_more_than_is_needed() -> None:
    verify(leaf(), ISSUER.der)
    verify(leaf(), ISSUER.der, ROOT.der)
    verify(leaf(), b"not looked at")


# ---- The leaf -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"uris": ()}, SpiffeIdWrong),
        ({"uris": (BIKE, BIKE)}, SpiffeIdWrong),
        ({"uris": (BIKE, "https://example.org/")}, SpiffeIdWrong),
        ({"uris": (), "names": (x509.DNSName("bike"),)}, SpiffeIdWrong),
        ({"uris": ("https://example.org/device/munich/bike-1",)}, SpiffeIdWrong),
        ({"uris": ("spiffe://example.org",)}, SpiffeIdWrong),
        ({"uris": ("spiffe://example.org/",)}, SpiffeIdWrong),
        ({"uris": ("spiffe://example.org/device/munich/../bike-1",)}, SpiffeIdWrong),
        ({"uris": ("spiffe://example.org/device/munich/bike%2d1",)}, SpiffeIdWrong),
        ({"uris": ("SPIFFE://example.org/device/munich/bike-1",)}, SpiffeIdWrong),
        ({"uris": ("spiffe://example.org:443/device/munich/bike-1",)}, SpiffeIdWrong),
        ({"uris": ("spiffe://elsewhere.org/device/munich/bike-1",)}, TrustDomainWrong),
        ({"constraints": x509.BasicConstraints(True, None)}, LeafIsAuthority),
        ({"key_usage": None}, KeyUsageWrong),
        ({"key_usage_critical": False}, KeyUsageWrong),
        ({"key_usage": a.usage(key_agreement=True)}, KeyUsageWrong),
        ({"key_usage": a.usage(digital_signature=True, key_cert_sign=True)}, KeyUsageWrong),
        ({"key_usage": a.usage(digital_signature=True, crl_sign=True)}, KeyUsageWrong),
        ({"purposes": None}, PurposeWrong),
        ({"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}, PurposeWrong),
        ({"purposes": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, PurposeWrong),
        ({"purposes": (BUNDLE_EKU,)}, PurposeWrong),
        ({"more": [(UNKNOWN, True)]}, CriticalExtensionUnknown),
        ({"more": [(x509.NameConstraints([x509.DNSName("x")], None), True)]}, CriticalExtensionUnknown),
        ({"facts_critical": True}, CriticalExtensionUnknown),
        ({"facts": None}, FactsMissing),
        ({"facts": FACTS.encode()}, FactsMalformed),
        ({"facts": b"\x0c\x02{}"}, FactsMalformed),
        ({"facts": FACTS.to_extension().value + b" "}, FactsMalformed),
        ({"facts": b"\x0c\x82\x08\x00" + FACTS.encode().ljust(2048)}, FactsMalformed),
        ({"public_key": a.rsa_key().public_key()}, AlgorithmRefused),
        ({"public_key": ec.derive_private_key(12345, ec.SECP521R1()).public_key()}, AlgorithmRefused),
        ({"public_key": ec.derive_private_key(12345, ec.SECP256K1()).public_key()}, AlgorithmRefused),
        ({"algorithm": hashes.SHA224()}, AlgorithmRefused),
        ({"algorithm": hashes.SHA3_256()}, AlgorithmRefused),
        ({"signed_by": a.STRANGER_KEY}, CertificateForged),
        ({"issuer_name": "somebody"}, UnknownIssuer),
        ({"issuer_key_id": b"somebody"}, UnknownIssuer),
    ],
)
def test_one_lie_in_the_leaf(lie: dict[str, Any], refusal: type[Exception]) -> None:
    verify(leaf())
    with pytest.raises(refusal) as caught:
        verify(leaf(**lie))
    assert isinstance(caught.value, Unauthenticated)


@pytest.mark.parametrize("tier", ["device", "edge", "cloud"])
def test_facts_are_required_for_every_tier(tier: str) -> None:
    uris = (f"spiffe://example.org/{tier}/munich/one",)
    verify(leaf(uris=uris))
    with pytest.raises(FactsMissing):
        verify(leaf(uris=uris, facts=None))


def test_an_empty_extended_key_usage_is_refused() -> None:
    verify(leaf())
    with pytest.raises(CertificateRefused):
        verify(leaf(purposes=()))


def test_the_validity_is_inclusive_and_exact() -> None:
    der = leaf()
    verify(der, now=NOW - HOUR)
    verify(der, now=NOW + HOUR)
    with pytest.raises(CertificateNotYetValid):
        verify(der, now=NOW - HOUR - SECOND)
    with pytest.raises(CertificateExpired):
        verify(der, now=NOW + HOUR + SECOND)


def duplicate_facts(tbs: Any) -> None:
    (facts,) = [e for e in tbs["extensions"] if e["extn_id"].dotted == FACTS_OID.dotted_string]
    tbs["extensions"].append(facts.copy())


def version_one(tbs: Any) -> None:
    tbs["version"] = "v1"


def version_two(tbs: Any) -> None:
    tbs["version"] = "v2"


def set_serial(number: int) -> Any:
    def rewrite(tbs: Any) -> None:
        tbs["serial_number"] = number

    return rewrite


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "rewrite", [duplicate_facts, version_one, version_two, set_serial(0), set_serial(-5), set_serial(1 << 159)]
)
def test_certificates_that_no_builder_makes(rewrite: Any) -> None:
    verify(a.rewritten(leaf(), ISSUER_KEY, set_serial((1 << 159) - 1)))
    with pytest.raises(CertificateMalformed):
        verify(a.rewritten(leaf(), ISSUER_KEY, rewrite))


def test_inner_and_outer_algorithm_are_the_same() -> None:
    def other(tbs: Any) -> None:
        tbs["signature"] = {"algorithm": "sha384_ecdsa"}

    with pytest.raises(CertificateRefused):
        verify(a.rewritten(leaf(), ISSUER_KEY, other))


# ---- The path ------------------------------------------------------------------------------------------------------


def test_the_issuer_may_come_with_the_request() -> None:
    trusted = authorities(issuers=())
    verified = verify(leaf(), ISSUER.der, trusted=trusted)
    assert verified.issuer_serials[0] == Serial(ISSUER.certificate.serial_number)
    with pytest.raises(UnknownIssuer):
        verify(leaf(), trusted=trusted)


def test_a_chain_of_strangers_leads_nowhere() -> None:
    root = a.ca("root", key=a.STRANGER_KEY)
    issuer = a.ca("issuer", key=a.STRANGER_KEY, issuer=root)
    der = leaf(issuer=issuer)
    verify(der, trusted=authorities((root.der,), (issuer.der,)))
    for chain in ((der,), (der, issuer.der), (der, issuer.der, root.der)):
        with pytest.raises(UnknownIssuer):
            verify(*chain)


def test_a_stranger_with_a_trusted_issuer_s_name_and_key_identifier_is_a_forger() -> None:
    stranger = a.Ca(ISSUER.certificate, a.STRANGER_KEY)
    real = x509.SubjectKeyIdentifier.from_public_key(ISSUER_KEY.public_key()).digest
    with pytest.raises(CertificateForged):
        verify(leaf(issuer=stranger, issuer_key_id=real))


def test_the_presented_chain_is_in_order() -> None:
    trusted = authorities(issuers=())
    other = a.ca("other", key=a.STRANGER_KEY, issuer=ROOT, path_length=0)
    with pytest.raises(IssuerMismatch):
        verify(leaf(), other.der, ISSUER.der, trusted=trusted)


def test_a_leaf_issues_nothing() -> None:
    """A device's certificate and key as an issuer: refused for what it is, before its signature matters."""
    middle = a.Ca(x509.load_der_x509_certificate(leaf(subject="bike-1")), LEAF_KEY)
    with pytest.raises(NotAnAuthority):
        verify(leaf(issuer=middle, key=LOWER_KEY), middle.der)


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"is_ca": False}, NotAnAuthority),
        ({"constraints": False}, NotAnAuthority),
        ({"key_usage": None}, NotAnAuthority),
        ({"key_usage": a.usage(digital_signature=True)}, NotAnAuthority),
        ({"key_usage": a.usage(crl_sign=True)}, NotAnAuthority),
        ({"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}, PurposeWrong),
        ({"purposes": (BUNDLE_EKU,)}, PurposeWrong),
        ({"uris": ("spiffe://elsewhere.org",)}, TrustDomainWrong),
        ({"uris": ("spiffe://example.org/device",)}, TrustDomainWrong),
        ({"more": [(UNKNOWN, True)]}, CriticalExtensionUnknown),
        ({"more": [(x509.NameConstraints([x509.DNSName("x")], None), True)]}, CriticalExtensionUnknown),
        ({"not_after": NOW - SECOND}, CertificateExpired),
        ({"not_before": NOW + SECOND}, CertificateNotYetValid),
        ({"signed_by": a.STRANGER_KEY}, CertificateForged),
        ({"public_key": a.STRANGER_KEY.public_key()}, CertificateRefused),
        ({"algorithm": hashes.SHA224()}, AlgorithmRefused),
    ],
)
def test_one_lie_in_a_presented_issuer(lie: dict[str, Any], refusal: type[Exception]) -> None:
    trusted = authorities(issuers=())
    verify(leaf(), a.ca(issuer=ROOT).der, trusted=trusted)
    issuer = a.ca(issuer=ROOT, **lie)
    with pytest.raises(refusal) as caught:
        verify(leaf(issuer=issuer), issuer.der, trusted=trusted)
    assert isinstance(caught.value, CertificateRefused)


@pytest.mark.parametrize(
    "honest",
    [
        {"purposes": (ExtendedKeyUsageOID.CLIENT_AUTH,)},
        {"uris": ("spiffe://example.org",)},
        {"key_usage": a.usage(key_cert_sign=True)},
        {"more": [(UNKNOWN, False)]},
    ],
)
def test_other_honest_issuers(honest: dict[str, Any]) -> None:
    issuer = a.ca(issuer=ROOT, path_length=0, **honest)
    second_opinion(leaf(issuer=issuer), issuer.der)
    verify(leaf(issuer=issuer), trusted=authorities(issuers=(issuer.der,)))
    verify(leaf(issuer=issuer), issuer.der, trusted=authorities(issuers=()))


@pytest.mark.parametrize("place", ["root", "issuer"])
def test_known_authorities_must_be_within_their_time(place: str) -> None:
    for lie, refusal in (
        ({"not_after": NOW - SECOND}, CertificateExpired),
        ({"not_before": NOW + SECOND}, CertificateNotYetValid),
    ):
        root = a.ca("root", key=a.ROOT_KEY, **(lie if place == "root" else {}))
        issuer = a.ca(issuer=root, **(lie if place == "issuer" else {}))
        with pytest.raises(refusal):
            verify(leaf(issuer=issuer), trusted=authorities((root.der,), (issuer.der,)))
        with pytest.raises(refusal):
            verify(leaf(issuer=issuer), issuer.der, trusted=authorities((root.der,), ()))


def test_the_identity_ends_with_the_first_certificate_of_its_path() -> None:
    for root_end, issuer_end in ((NOW + 10 * SECOND, NOW + HOUR), (NOW + HOUR, NOW + 10 * SECOND)):
        root = a.ca("root", key=a.ROOT_KEY, not_after=root_end)
        issuer = a.ca(issuer=root, not_after=issuer_end)
        assert verify(leaf(issuer=issuer), trusted=authorities((root.der,), (issuer.der,))).not_after == (
            NOW + 10 * SECOND
        )
        assert verify(leaf(issuer=issuer), issuer.der, trusted=authorities((root.der,), ())).not_after == (
            NOW + 10 * SECOND
        )


def test_path_lengths_are_obeyed_wherever_the_issuers_come_from() -> None:
    """root (path length n) -> upper -> lower -> leaf: two issuers below the root."""
    for allowed, good in ((None, True), (2, True), (1, False), (0, False)):
        root = a.ca("root", key=a.ROOT_KEY, path_length=allowed)
        upper = a.ca("upper", key=ISSUER_KEY, issuer=root)
        lower = a.ca("lower", key=LOWER_KEY, issuer=upper)
        bike = leaf(issuer=lower)
        for issuers, chain in (
            ((), (bike, lower.der, upper.der)),
            ((upper.der,), (bike, lower.der)),
            ((lower.der, upper.der), (bike,)),
        ):
            trusted = authorities((root.der,), issuers)
            if good:
                verify(*chain, trusted=trusted)
            else:
                with pytest.raises(CertificateRefused):
                    verify(*chain, trusted=trusted)


def test_a_presented_issuer_s_own_path_length_is_obeyed() -> None:
    for allowed, good in ((None, True), (1, True), (0, False)):
        upper = a.ca("upper", key=ISSUER_KEY, issuer=ROOT, path_length=allowed)
        lower = a.ca("lower", key=LOWER_KEY, issuer=upper)
        bike = leaf(issuer=lower)
        if good:
            second_opinion(bike, lower.der, upper.der)
            verify(bike, lower.der, upper.der, trusted=authorities(issuers=()))
            verify(bike, lower.der, trusted=authorities(issuers=(upper.der,)))
        else:
            with pytest.raises(verification.VerificationError):
                second_opinion(bike, lower.der, upper.der)
            with pytest.raises(PathTooLong):
                verify(bike, lower.der, upper.der, trusted=authorities(issuers=()))
            with pytest.raises(PathTooLong):
                verify(bike, lower.der, trusted=authorities(issuers=(upper.der,)))


def test_a_root_may_issue_a_leaf_itself() -> None:
    assert verify(leaf(issuer=ROOT)).issuer_serials == (Serial(ROOT.certificate.serial_number),)


def test_the_chain_has_bounds() -> None:
    verify(leaf(), ISSUER.der, ROOT.der, ROOT.der, ROOT.der)
    for chain in ((), (leaf(), *[ROOT.der] * 5)):
        with pytest.raises(ChainMalformed):
            verify(*chain)


def test_a_large_certificate_is_not_parsed() -> None:
    large = [(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.25.1"), b"x" * 7000), False)]
    verify(leaf(more=large))
    with pytest.raises(CertificateMalformed, match="too large"):
        verify(leaf(more=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.25.1"), b"x" * 8000), False)]))


# ---- Authorities ---------------------------------------------------------------------------------------------------


def test_without_a_root_nothing_is_trusted() -> None:
    with pytest.raises(NoAuthorities):
        authorities(roots=())


@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"is_ca": False}, NotAnAuthority),
        ({"key_usage": a.usage(crl_sign=True)}, NotAnAuthority),
        ({"uris": ("spiffe://elsewhere.org",)}, TrustDomainWrong),
        ({"purposes": (BUNDLE_EKU,)}, PurposeWrong),
        ({"more": [(UNKNOWN, True)]}, CriticalExtensionUnknown),
    ],
)
def test_one_lie_in_an_authority_at_loading(lie: dict[str, Any], refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        authorities(roots=(a.ca("root", key=a.ROOT_KEY, **lie).der,))
    with pytest.raises(refusal):
        authorities(issuers=(a.ca(issuer=ROOT, **lie).der,))


def test_an_issuer_under_the_root_s_name_with_a_wrong_signature_is_refused_at_loading() -> None:
    with pytest.raises(CertificateForged):
        authorities(issuers=(a.ca(issuer=ROOT, signed_by=a.STRANGER_KEY).der,))


def test_issuers_of_unknown_roots_are_left_out() -> None:
    """During a root's rotation an edge may not know the new one."""
    new_root = a.ca("new root", key=a.STRANGER_KEY)
    new_issuer = a.ca("new issuer", key=LOWER_KEY, issuer=new_root)
    trusted = authorities(issuers=(new_issuer.der, ISSUER.der))
    verify(leaf(), trusted=trusted)
    with pytest.raises(UnknownIssuer):
        verify(leaf(issuer=new_issuer), trusted=trusted)


def test_a_new_root_is_introduced_by_a_cross_certificate() -> None:
    new_root = a.ca("new root", key=a.STRANGER_KEY)
    crossed = a.ca("new root", key=a.STRANGER_KEY, issuer=ROOT)
    new_issuer = a.ca("new issuer", key=LOWER_KEY, issuer=new_root)
    der = leaf(issuer=new_issuer)
    verify(der, trusted=authorities(issuers=(new_issuer.der, crossed.der)))
    verify(der, trusted=authorities((ROOT.der, new_root.der), (new_issuer.der, crossed.der)))
    verify(der, trusted=authorities((new_root.der,), (new_issuer.der, crossed.der)))


def test_issuers_that_certify_one_another_end_the_search() -> None:
    one, two = a.ca("one", key=ISSUER_KEY), a.ca("two", key=LOWER_KEY)
    circle = (
        a.ca("one", key=ISSUER_KEY, issuer=two).der,
        a.ca("two", key=LOWER_KEY, issuer=one).der,
        a.ca("one", key=ISSUER_KEY, issuer=ROOT).der,
        ROOT.der,
    )
    verify(leaf(issuer=two), trusted=authorities(issuers=circle))
    with pytest.raises(UnknownIssuer):
        verify(leaf(issuer=two), trusted=authorities(issuers=circle[:2]))


def test_the_number_of_authorities_is_bounded() -> None:
    many = [a.ca(f"issuer {n}", key=a.p256(100 + n), issuer=ROOT).der for n in range(64)]
    authorities(issuers=many[:63])
    with pytest.raises(TooManyAuthorities):
        authorities(issuers=many)


def test_two_keys_under_one_name() -> None:
    """Rotation: the issuer's next key under the same name, told apart by the key identifier, or by trying both."""
    following = a.ca(key=LOWER_KEY, issuer=ROOT, path_length=0)
    trusted = authorities(issuers=(ISSUER.der, following.der))
    for issuer in (ISSUER, following):
        verify(leaf(issuer=issuer), trusted=trusted)
        verify(leaf(issuer=issuer, key_ids=False), trusted=trusted)


# ---- State ---------------------------------------------------------------------------------------------------------


def test_revoked_certificates_and_issuers() -> None:
    verified = verify(leaf())
    device_identity(verified, status=STATUS, revoked={Serial(5)})
    for serial in (verified.serial, *verified.issuer_serials):
        with pytest.raises(CredentialRevoked):
            device_identity(verified, status=STATUS, revoked={serial})


def test_a_suspended_device() -> None:
    with pytest.raises(DeviceSuspended):
        device_identity(verify(leaf()), status=StatusList.of({7: Status.SUSPENDED}, 16), revoked=frozenset())


# ---- Rubbish -------------------------------------------------------------------------------------------------------

HONEST = leaf()


@given(st.binary(max_size=300))
def test_random_octets_are_refused(data: bytes) -> None:
    for chain in ((data,), (HONEST[:-1] + data, ISSUER.der)):
        if chain[0] != HONEST:
            with pytest.raises(Unauthenticated):
                verify(*chain)
    with pytest.raises(Unauthenticated):
        verify(HONEST, data, trusted=authorities(issuers=()))


def test_truncated_certificates_are_refused() -> None:
    trusted = authorities()
    for length in range(len(HONEST)):
        with pytest.raises(Unauthenticated):
            verify(HONEST[:length], trusted=trusted)


def test_the_signature_has_one_spelling() -> None:
    """A BIT STRING with unused bits that are zero is DER as well, and would be a second thumbprint for one serial."""
    for number in range(100):
        der = leaf(not_after=NOW + HOUR + number * SECOND)
        unused_bits = len(der) - len(x509.load_der_x509_certificate(der).signature) - 1
        if der[-1] % 2 == 0:
            break
    verify(der)
    with pytest.raises(CertificateMalformed):
        verify(der[:unused_bits] + b"\x01" + der[unused_bits + 1 :])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("by", [0x01, 0x02, 0x20, 0x80, 0xFF])
def test_any_changed_octet_is_noticed(by: int) -> None:
    trusted = authorities()
    for at in range(len(HONEST)):
        with pytest.raises(Unauthenticated):
            verify(HONEST[:at] + bytes((HONEST[at] ^ by,)) + HONEST[at + 1 :], trusted=trusted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("by", [0x01, 0x02, 0x20, 0x80, 0xFF])
def test_any_changed_octet_of_a_presented_issuer_is_noticed(by: int) -> None:
    trusted, honest = authorities(issuers=()), ISSUER.der
    for at in range(len(honest)):
        with pytest.raises(Unauthenticated):
            verify(HONEST, honest[:at] + bytes((honest[at] ^ by,)) + honest[at + 1 :], trusted=trusted)
