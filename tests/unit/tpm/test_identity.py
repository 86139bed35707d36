"""Certificates of identity keys: the honest one, and one lie at a time in it, in its chain or in its key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.errors import AttestdError
from attestd.tpm import identity as i
from attestd.tpm.activation import vet_ak
from attestd.tpm.attest import (
    AttestationSignatureWrong,
    CertifiedNameMismatch,
    IdentityNameMismatch,
    NonceMismatch,
    SignatureSchemeMismatch,
    verify_identified_ak,
)
from attestd.tpm.chain import QuirkRefused, TrustAnchors, UntrustedMaker
from attestd.tpm.der import MalformedCertificate
from attestd.tpm.ekcert import Quirk, parse_certificate
from attestd.tpm.statements import AttestationTypeWrong, NotMadeByTpm
from attestd.tpm.vouching import BadCertificateSignature, IssuerNotForPurpose, MakerCertificateExpired
from attestd.tpm.wire import MalformedTpmStructure
from tests import ek_ca as ca
from tests import forger as f

from .test_weak_keys import roca_key

MAKER = ca.maker()
ROOT, MIDDLE = MAKER.root, MAKER.intermediate
KEY = ca.ec_key("iak").public_key()
FORM = MIDDLE.iak_form(KEY)


def verify(
    form: ca.Form = FORM, *, middle: bytes = MIDDLE.certificate, **options: Any
) -> i.VerifiedIdentityCertificate:
    return i.verify_identity_certificate(
        parse_certificate(form.sign(MIDDLE.key)),
        intermediates=[parse_certificate(middle)],
        **{"anchors": TrustAnchors.load(MAKER.roots), "now": ca.NOW, **options},
    )


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(FORM, id="as makers do"),
        pytest.param(FORM.with_extension(ca.purposes(ca.AIK_PURPOSE)), id="with the purpose"),
        pytest.param(FORM.with_extension(ca.policies(*(f"2.23.133.11.1.{n}" for n in (1, 2, 3)))), id="all policies"),
        pytest.param(FORM.with_extension(ca.policies("2.23.133.11.1.3", "1.2.3", "2.23.133.11.1.1")), id="others, too"),
        pytest.param(FORM.without("2.5.29.19"), id="no basic constraints"),
        pytest.param(
            FORM.but(subject=ca.EMPTY_NAME).with_extension(ca.other_names(ca.hardware_module(), critical=True)),
            id="an empty subject",
        ),
        pytest.param(
            FORM.with_extension(
                ca.other_names(
                    ca.hardware_module(type_id="1.3.6.1.5.5.7.8.3"), ca.hardware_module(), ca.der(0xA4, ca.name("x"))
                )
            ),
            id="other names beside it",
        ),
        pytest.param(FORM.but(serial=ca.integer(0)), id="read leniently"),
    ],
)
def test_an_honest_certificate(form: ca.Form) -> None:
    found = verify(form)
    assert (found.manufacturer, found.hardware_serial) == ("IFX", "49465800:0123456789abcdef:4d5")
    assert found.path.root.der == ROOT.certificate
    assert "0123456789abcdef" not in repr(found)


@pytest.mark.parametrize("key", [ca.ec_key("iak", ec.SECP384R1), ca.rsa_key("iak"), ca.rsa_key("iak", 3072)])
def test_keys_that_count(key: ca.PrivateKey) -> None:
    assert verify(MIDDLE.iak_form(key.public_key()))


@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        pytest.param(FORM.with_extension(ca.basic_constraints(True)), i.IdentityCertificateIsCa, id="a CA"),
        pytest.param(FORM.without("2.5.29.15"), i.IdentityKeyUsageWrong, id="no key usage"),
        pytest.param(
            FORM.with_extension(ca.key_usage("digital_signature", "key_agreement")),
            i.IdentityKeyUsageWrong,
            id="an IDevID's key usage",
        ),
        pytest.param(FORM.with_extension(ca.key_usage("key_encipherment")), i.IdentityKeyUsageWrong, id="an EK's"),
        pytest.param(FORM.with_extension(ca.purposes(ca.EK_PURPOSE)), i.IdentityKeyUsageWrong, id="an EK's purpose"),
        pytest.param(FORM.without("2.5.29.32"), i.IdentityKeyNotVerified, id="no policies"),
        pytest.param(FORM.with_extension(ca.policies("2.5.29.32.0")), i.IdentityKeyNotVerified, id="any policy"),
        pytest.param(
            FORM.with_extension(ca.policies(ca.TPM_RESTRICTED)), i.IdentityKeyNotVerified, id="nobody saw it in a TPM"
        ),
        pytest.param(
            FORM.with_extension(ca.policies(ca.TPM_RESIDENCY, ca.TPM_FIXED)),
            i.IdentityKeyNotRestricted,
            id="an IDevID's policies",
        ),
        pytest.param(FORM.without("2.5.29.17"), i.HardwareModuleMissing, id="no names"),
        pytest.param(FORM.with_extension(ca.other_names()), i.HardwareModuleMissing, id="an empty list of names"),
        pytest.param(
            FORM.with_extension(ca.other_names(ca.hardware_module(type_id="1.3.6.1.5.5.7.8.3"))),
            i.HardwareModuleMissing,
            id="another name",
        ),
        pytest.param(
            FORM.with_extension(ca.other_names(ca.hardware_module(), ca.hardware_module())),
            i.HardwareModuleMissing,
            id="two hardware modules",
        ),
        pytest.param(
            FORM.with_extension(ca.other_names(ca.hardware_module(kind="1.3.6.1.4.1.47196.6.3.2.1"))),
            i.HardwareModuleNotTpm,
            id="another kind of module",
        ),
        pytest.param(
            FORM.with_extension(ca.other_names(ca.hardware_module(b"a\nb"))), MalformedCertificate, id="no plain serial"
        ),
        pytest.param(
            FORM.with_extension(ca.other_names(ca.hardware_module(b"x" * 161))),
            MalformedCertificate,
            id="too long",
        ),
        pytest.param(
            FORM.with_extension(ca.other_names(ca.hardware_module(b""))), MalformedCertificate, id="an empty serial"
        ),
        pytest.param(MIDDLE.iak_form(ca.rsa_key("short", 1024).public_key()), i.WeakIdentityKey, id="RSA-1024"),
        pytest.param(MIDDLE.iak_form(ca.ec_key("iak", ec.SECP521R1).public_key()), i.WeakIdentityKey, id="P-521"),
        pytest.param(MIDDLE.iak_form(roca_key()), i.WeakIdentityKey, id="ROCA"),
        pytest.param(FORM.but(not_after=ca.NOW - timedelta(days=1)), MakerCertificateExpired, id="expired"),
    ],
)
def test_one_lie_in_a_certificate(form: ca.Form, refusal: type[AttestdError]) -> None:
    with pytest.raises(refusal):
        verify(form)


def test_the_chain_is_verified() -> None:
    with pytest.raises(UntrustedMaker):
        verify(anchors=TrustAnchors.load(ca.maker("Other").roots))
    with pytest.raises(BadCertificateSignature):
        i.verify_identity_certificate(
            parse_certificate(FORM.sign(MIDDLE.key, spoil=True)),
            intermediates=[parse_certificate(MIDDLE.certificate)],
            anchors=TrustAnchors.load(MAKER.roots),
            now=ca.NOW,
        )


def test_a_ca_for_eks_alone_does_not_vouch_for_attestation_keys() -> None:
    form = MIDDLE.form(ROOT, path_length=0)
    assert verify(middle=form.with_extension(ca.purposes(ca.AIK_PURPOSE)).sign(ROOT.key))
    with pytest.raises(IssuerNotForPurpose):
        verify(middle=form.with_extension(ca.purposes(ca.EK_PURPOSE)).sign(ROOT.key))


def test_a_policy_may_refuse_quirks() -> None:
    with pytest.raises(QuirkRefused):
        verify(FORM.but(serial=ca.integer(0)), refused=frozenset({Quirk.ODD_SERIAL}))


def test_a_serial_without_a_vendor() -> None:
    assert verify(FORM.with_extension(ca.other_names(ca.hardware_module(b"SN-1")))).manufacturer == ""


# ---- The key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lies",
    [{}, {"kind": "p384", "scheme": (f.ECDSA, f.SHA384), "name_alg": f.SHA384},
     {"kind": "rsa2048", "scheme": (f.RSAPSS, f.SHA256)}],
)  # fmt: skip
def test_identity_keys_by_the_templates(lies: dict[str, Any]) -> None:
    key = f.forge_iak(**{"kind": "p256", **lies, **({"auth_policy": b""} if lies else {})})
    assert i.vet_identity_key(key.public).public.area == key.public


@pytest.mark.parametrize(
    "lies",
    [
        *({"attributes": f.IAK_ATTRIBUTES & ~bit} for bit in
          (f.FIXED_TPM, f.FIXED_PARENT, f.SENSITIVE_DATA_ORIGIN, f.RESTRICTED, f.SIGN)),
        {"attributes": f.IAK_ATTRIBUTES | f.DECRYPT},
        {"scheme": (f.NULL,)},
        {"scheme": (f.ECDSA, f.SHA1)},
        {"name_alg": f.SHA1, "auth_policy": b""},
    ],
)  # fmt: skip
def test_one_lie_in_an_identity_key(lies: dict[str, Any]) -> None:
    with pytest.raises(i.IdentityKeyUnfit):
        i.vet_identity_key(f.forge_iak(**lies).public)


def test_an_identity_key_is_read_whole() -> None:
    with pytest.raises(MalformedTpmStructure):
        i.vet_identity_key(f.forge_iak().public + b"\0")


# ---- Its word ---------------------------------------------------------------------------------------------------

TPM, IAK, NONCE = f.Forger(), f.forge_iak(), bytes(range(32))


def identified(attestation: f.Attestation, *, nonce: bytes = NONCE, iak: f.ForgedKey = IAK) -> bytes:
    public = i.vet_identity_key(iak.public).public
    ak = vet_ak(TPM.ak.public)
    return verify_identified_ak(public, ak, attest=attestation[0], signature=attestation[1], qualifying_data=nonce).name


def test_an_ak_that_its_identity_key_certifies() -> None:
    assert identified(TPM.identify(IAK, NONCE)) == TPM.ak.name


@pytest.mark.parametrize(
    ("lies", "refusal"),
    [
        ({"magic": 0}, NotMadeByTpm),
        ({"type": f.QUOTE}, AttestationTypeWrong),
        ({"name": TPM.ck.name}, CertifiedNameMismatch),
        ({"hierarchy": 0x40000001}, IdentityNameMismatch),
        ({"hierarchy": 0x4000000C}, IdentityNameMismatch),
        ({"qualified_signer": IAK.name}, IdentityNameMismatch),
        ({"qualified_signer": b""}, IdentityNameMismatch),
        ({"signer": f.forge_iak()}, AttestationSignatureWrong),
        ({"scheme": (f.ECDSA, f.SHA384)}, SignatureSchemeMismatch),
        ({"trailing": b"\0"}, MalformedTpmStructure),
    ],
)
def test_one_lie_in_its_word(lies: dict[str, Any], refusal: type[AttestdError]) -> None:
    with pytest.raises(refusal):
        identified(TPM.identify(IAK, NONCE, **lies))


def test_its_word_is_for_one_challenge() -> None:
    for nonce in (bytes(32), b""):
        with pytest.raises(NonceMismatch):
            identified(TPM.identify(IAK, NONCE), nonce=nonce)


def test_a_public_area_that_claims_more_than_the_key_is() -> None:
    """The certificate speaks of the key alone: only the key's own word tells which public area is its."""
    other = f.forge_iak(private=IAK.private, auth_policy=b"")
    with pytest.raises(IdentityNameMismatch):
        identified(TPM.identify(IAK, NONCE), iak=other)
