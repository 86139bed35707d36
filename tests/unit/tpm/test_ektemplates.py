"""EK templates: six accepted shapes, and one lie in each field of each of them."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.errors import EvidenceRefused
from attestd.tpm.ektemplates import (
    POLICY_A_SHA256,
    POLICY_B_SHA256,
    POLICY_B_SHA384,
    EkAttributesWrong,
    EkPolicyWrong,
    EkProtectionWrong,
    EkTemplateUnknown,
    check_ek_template,
)
from attestd.tpm.objects import parse_public
from tests import forger as f
from tests.forger import forge_ck, forge_ek, forge_key, new_private_key

TEMPLATES = ("L-1", "L-2", "H-1", "H-2", "H-3", "H-6")


@pytest.fixture(scope="module")
def keys() -> dict[str, f.PrivateKey]:
    """One private key for each template; keys of one size are shared."""
    sizes = {kind: new_private_key(kind) for kind in ("rsa2048", "rsa3072", "p256", "p384")}
    kinds = ("rsa2048", "p256", "rsa2048", "p256", "p384", "rsa3072")
    return {template: sizes[kind] for template, kind in zip(TEMPLATES, kinds, strict=True)}


def test_policies_are_what_the_profile_defines() -> None:
    assert f.policy_a(f.SHA256) == POLICY_A_SHA256
    assert f.policy_b(f.SHA256) == POLICY_B_SHA256
    assert f.policy_b(f.SHA384) == POLICY_B_SHA384


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_template_is_recognised(keys: dict[str, f.PrivateKey], template: str) -> None:
    assert check_ek_template(parse_public(forge_ek(template, private=keys[template]).public)) == template


_BOTH = f.EK_LOW_ATTRIBUTES & f.EK_HIGH_ATTRIBUTES


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("lie", "refusal"),
    [
        ({"name_alg": f.SHA512, "auth_policy": b""}, EkTemplateUnknown),
        *(
            ({"attributes": _BOTH & ~bit}, EkAttributesWrong)
            for bit in (f.FIXED_TPM, f.FIXED_PARENT, f.SENSITIVE_DATA_ORIGIN, f.ADMIN_WITH_POLICY, f.RESTRICTED)
        ),
        ({"attributes": _BOTH & ~f.DECRYPT}, EkAttributesWrong),
        ({"attributes": _BOTH | f.SIGN}, EkAttributesWrong),
        ({"attributes": _BOTH | f.NO_DA}, EkAttributesWrong),
        ({"auth_policy": b""}, EkPolicyWrong),
        ({"symmetric": None}, EkProtectionWrong),
        ({"symmetric": (f.AES, 192, f.CFB_MODE)}, EkProtectionWrong),
        ({"symmetric": (f.AES, 128, 0x0042)}, EkProtectionWrong),  # CBC
        ({"symmetric": (0x0026, 128, f.CFB_MODE)}, EkProtectionWrong),  # Camellia
    ],
)
def test_one_lie_in_each_template(
    keys: dict[str, f.PrivateKey], template: str, lie: dict[str, Any], refusal: type[EvidenceRefused]
) -> None:
    with pytest.raises(refusal):
        check_ek_template(parse_public(forge_ek(template, private=keys[template], **lie).public))


@pytest.mark.parametrize("template", TEMPLATES)
def test_another_policy_of_the_right_size_is_refused(keys: dict[str, f.PrivateKey], template: str) -> None:
    size = 48 if template in ("H-3", "H-6") else 32
    with pytest.raises(EkPolicyWrong):
        check_ek_template(parse_public(forge_ek(template, private=keys[template], auth_policy=b"p" * size).public))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_scheme_of_its_own_is_refused(keys: dict[str, f.PrivateKey], template: str) -> None:
    own = f.OAEP if isinstance(keys[template], rsa.RSAPrivateKey) else 0x0019  # ECDH
    with pytest.raises(EkProtectionWrong):
        check_ek_template(parse_public(forge_ek(template, private=keys[template], scheme=(own, f.SHA256)).public))


def test_range_and_policy_belong_together(keys: dict[str, f.PrivateKey]) -> None:
    """The low range's attributes with the high range's policy, and the other way round, are no template."""
    for template, policy in (("L-1", f.policy_b(f.SHA256)), ("H-1", f.policy_a(f.SHA256))):
        with pytest.raises(EkPolicyWrong):
            check_ek_template(parse_public(forge_ek(template, private=keys[template], auth_policy=policy).public))


@pytest.mark.parametrize("kind", ["p521", "rsa1024"])
def test_other_sizes_are_no_template(kind: str) -> None:
    with pytest.raises(EkTemplateUnknown):
        check_ek_template(parse_public(forge_ek("L-1", private=new_private_key(kind)).public))


def test_other_keys_of_the_device_are_no_endorsement_key() -> None:
    for key in (forge_key(), forge_ck()):
        with pytest.raises(EkAttributesWrong):
            check_ek_template(parse_public(key.public))
