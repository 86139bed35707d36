"""Which endorsement key is chosen: always the same, and the one that the certificate names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.tpm.objects import Attributes
from attestd_agent.endorsement import find_endorsement, read_identity
from attestd_agent.failures import CertificateOfAnotherTpm, IdentityKeyUnusable, NoEndorsementKey
from attestd_agent.templates import ENDORSEMENT
from tests.forger import IAK_ATTRIBUTES, ForgedKey, forge_ek, forge_iak
from tests.unit.attestd_agent.fake_service import der
from tests.unit.attestd_agent.keysmith import authority

ROWS = {row.name: row for row in ENDORSEMENT}
EKS = {row.name: forge_ek(row.profile) for row in ENDORSEMENT}


def certificate(key: ForgedKey) -> bytes:
    return der(authority().issue("ek", key.private.public_key()))  # type: ignore[arg-type]


@dataclass
class FakeTpm:
    """Makes the keys of EKS from their default templates."""

    areas: dict[int, bytes] = field(default_factory=dict)
    persistent: dict[int, bytes] = field(default_factory=dict)
    made: dict[bytes, bytes] = field(default_factory=lambda: {ROWS[name].area: ek.public for name, ek in EKS.items()})
    asked: list[bytes] = field(default_factory=list)

    def endorsement_indices(self) -> Sequence[int]:
        return sorted(self.areas)

    def endorsement_keys(self) -> Mapping[int, bytes]:
        return self.persistent

    def nv(self, index: int) -> bytes:
        return self.areas[index]

    def make_endorsement(self, template: bytes) -> bytes | None:
        self.asked.append(template)
        return self.made.get(template)


def test_without_certificates_the_first_kind_that_the_tpm_makes() -> None:
    tpm = FakeTpm()
    found = find_endorsement(tpm, kind=None, given=())
    assert (found.kind, found.public, found.certificates) == ("rsa-2048", EKS["rsa-2048"].public, ())
    del tpm.made[ROWS["rsa-2048"].area]
    assert find_endorsement(tpm, kind=None, given=()).kind == "ecc-p256"


@pytest.mark.parametrize("name", ROWS)
def test_a_kind_can_be_named(name: str) -> None:
    assert find_endorsement(FakeTpm(), kind=name, given=()).public == EKS[name].public


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(NoEndorsementKey, match="rsa-1024"):
        find_endorsement(FakeTpm(), kind="rsa-1024", given=())


@pytest.mark.parametrize("name", ROWS)
def test_a_certificate_in_nv_decides(name: str) -> None:
    own = certificate(EKS[name])
    found = find_endorsement(FakeTpm({ROWS[name].certificate: own + b"\xff" * 40}), kind=None, given=())
    assert (found.kind, found.certificates, found.handle) == (name, (own,), None)


def test_of_several_certificates_the_first_row_s() -> None:
    areas = {ROWS[name].certificate: certificate(EKS[name]) for name in ("ecc-p384-high", "ecc-p256")}
    assert find_endorsement(FakeTpm(areas), kind=None, given=()).kind == "ecc-p256"


def test_a_persistent_key_is_used_and_none_made() -> None:
    ek = EKS["ecc-p256"]
    tpm = FakeTpm({ROWS["ecc-p256"].certificate: certificate(ek)}, {0x81010002: ek.public})
    found = find_endorsement(tpm, kind=None, given=())
    assert (found.handle, tpm.asked) == (0x81010002, [])


def test_a_persistent_key_of_another_certificate_is_passed_over() -> None:
    ek = EKS["ecc-p256"]
    tpm = FakeTpm({ROWS["ecc-p256"].certificate: certificate(ek)}, {0x81010002: forge_ek("L-2").public})
    found = find_endorsement(tpm, kind=None, given=())
    assert (found.handle, found.public) == (None, ek.public)


def test_a_persistent_key_by_no_template_is_passed_over() -> None:
    odd = forge_ek("L-2", auth_policy=b"")
    found = find_endorsement(FakeTpm(persistent={0x81010002: odd.public, 0x81010003: b"?"}), kind="ecc-p256", given=())
    assert found.handle is None


def test_a_certificate_that_names_no_key_of_this_tpm_is_refused() -> None:
    tpm = FakeTpm({ROWS["ecc-p256"].certificate: certificate(forge_ek("L-2"))})
    with pytest.raises(CertificateOfAnotherTpm):
        find_endorsement(tpm, kind=None, given=())


def test_a_given_certificate_finds_its_key_and_keeps_its_issuers() -> None:
    given = (certificate(EKS["ecc-p384-high"]), der(authority().issuer))
    tpm = FakeTpm({ROWS["rsa-2048"].certificate: certificate(EKS["rsa-2048"])})
    found = find_endorsement(tpm, kind=None, given=given)
    assert (found.kind, found.certificates) == ("ecc-p384-high", given)


def test_a_given_certificate_of_another_tpm_is_refused() -> None:
    with pytest.raises(CertificateOfAnotherTpm):
        find_endorsement(FakeTpm(), kind=None, given=(certificate(forge_ek("L-2")),))


def test_a_tpm_without_any_is_named() -> None:
    with pytest.raises(NoEndorsementKey):
        find_endorsement(FakeTpm(made={}), kind=None, given=())


def test_issuers_certificates_go_on_over_indices() -> None:
    own, root, issuer = certificate(EKS["rsa-2048"]), der(authority().root), der(authority().issuer)
    chain = root + issuer
    tpm = FakeTpm({ROWS["rsa-2048"].certificate: own, 0x01C00100: chain[:300], 0x01C00101: chain[300:] + b"\0" * 8})
    assert find_endorsement(tpm, kind=None, given=()).certificates == (own, root, issuer)


def test_issuers_certificates_may_be_padded_one_by_one() -> None:
    own, root, issuer = certificate(EKS["rsa-2048"]), der(authority().root), der(authority().issuer)
    tpm = FakeTpm({ROWS["rsa-2048"].certificate: own, 0x01C00100: root + b"\xff" * 30, 0x01C00101: issuer + b"\xff"})
    assert find_endorsement(tpm, kind=None, given=()).certificates == (own, root, issuer)


def test_no_more_certificates_than_a_message_takes() -> None:
    own = certificate(EKS["rsa-2048"])
    tpm = FakeTpm({ROWS["rsa-2048"].certificate: own, 0x01C00100: der(authority().root) * 20})
    assert len(find_endorsement(tpm, kind=None, given=()).certificates) == 8


def test_a_template_in_nv_replaces_the_default_one() -> None:
    row, other = ROWS["ecc-p256"], forge_ek("L-2")
    tpm = FakeTpm({row.template: b"template"})
    tpm.made[b"template"] = other.public
    found = find_endorsement(tpm, kind="ecc-p256", given=())
    assert (found.public, found.template) == (other.public, b"template")


def test_a_nonce_in_nv_goes_into_the_template() -> None:
    row, other = ROWS["ecc-p256"], forge_ek("L-2")
    assert row.nonce is not None
    tpm = FakeTpm({row.nonce: b"n" * 16})
    tpm.made[row.with_nonce(b"n" * 16)] = other.public
    assert find_endorsement(tpm, kind="ecc-p256", given=()).public == other.public


def test_the_hash_is_of_the_public_area() -> None:
    import hashlib

    found = find_endorsement(FakeTpm(), kind="ecc-p256", given=())
    assert found.hash == hashlib.sha256(EKS["ecc-p256"].public).digest()


def test_the_certificates_are_really_for_these_keys() -> None:
    key = x509.load_der_x509_certificate(certificate(EKS["ecc-p256"])).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    assert point[1:33] in EKS["ecc-p256"].public


# ---- An identity key ------------------------------------------------------------------------------------------------

AT = 0x81020001


def test_an_identity_key_comes_with_its_certificate() -> None:
    iak = forge_iak()
    given = (certificate(iak), b"an issuer's")
    found = read_identity(iak.public, AT, given)
    assert (found.handle, found.public, found.certificates) == (AT, iak.public, given)


def test_an_identity_key_that_is_not_there_is_named() -> None:
    iak = forge_iak()
    for area in (None, b"", iak.public[:-1]):
        with pytest.raises(IdentityKeyUnusable, match="0x81020001"):
            read_identity(area, AT, (certificate(iak),))


@pytest.mark.parametrize(
    ("lacking", "named"), [(Attributes.RESTRICTED, "restricted"), (Attributes.USER_WITH_AUTH, "userWithAuth")]
)
def test_a_key_that_can_not_identify_is_named(lacking: Attributes, named: str) -> None:
    iak = forge_iak(attributes=IAK_ATTRIBUTES & ~lacking)
    with pytest.raises(IdentityKeyUnusable, match=named):
        read_identity(iak.public, AT, (certificate(iak),))


def test_an_identity_key_without_its_own_certificate_is_named() -> None:
    iak = forge_iak()
    for given in ((), (certificate(forge_iak()),), (b"",)):
        with pytest.raises(IdentityKeyUnusable, match="another key"):
            read_identity(iak.public, AT, given)
