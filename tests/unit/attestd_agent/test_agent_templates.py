"""The key templates, by tpm2-pytss's second opinion and by attestd's own verifiers."""

from __future__ import annotations

import struct

import pytest

from attestd_agent.templates import (
    ATTESTATION_KEY,
    CREDENTIAL_KEY,
    ENDORSEMENT,
    STORAGE_ROOT,
    is_storage_root,
)

_NAMES = {
    "L-1": "EK-RSA2048",
    "L-2": "EK-ECC256",
    "H-1": "EK-HIGH-RSA2048",
    "H-2": "EK-HIGH-ECC256",
    "H-3": "EK-HIGH-ECC384",
    "H-6": "EK-HIGH-RSA3072",
}


class _NothingInNv:
    def __init__(self, nonce: dict[int, bytes] | None = None) -> None:
        self.held = nonce or {}

    def __call__(self, index: int) -> bytes:
        from tpm2_pytss.utils import NoSuchIndex

        if int(index) in self.held:
            return self.held[int(index)]
        raise NoSuchIndex(index)


@pytest.mark.parametrize("row", ENDORSEMENT, ids=lambda row: row.name)
def test_endorsement_templates_are_the_profile_s(row: object) -> None:
    utils = pytest.importorskip("tpm2_pytss.utils")
    assert hasattr(row, "profile")
    certificate = {row.certificate: b"\x30\x00"}
    _, public = utils.create_ek_template(_NAMES[row.profile], _NothingInNv(certificate))
    assert bytes(public.publicArea.marshal()) == row.area


@pytest.mark.parametrize("row", [row for row in ENDORSEMENT if row.low], ids=lambda row: row.name)
@pytest.mark.parametrize("nonce", [b"n" * 16, b"n" * 32])
def test_a_nonce_goes_into_the_template_as_the_profile_says(row: object, nonce: bytes) -> None:
    utils = pytest.importorskip("tpm2_pytss.utils")
    assert hasattr(row, "nonce")
    _, public = utils.create_ek_template(_NAMES[row.profile], _NothingInNv({row.nonce: nonce}))
    assert bytes(public.publicArea.marshal()) == row.with_nonce(nonce)


def test_nv_indices_are_the_profile_s() -> None:
    pytest.importorskip("tpm2_pytss")
    from tpm2_pytss.internal.templates import ek_template

    for row in ENDORSEMENT:
        theirs = ek_template.lookup(_NAMES[row.profile])
        assert (int(theirs.cert_index), theirs.nonce_index) == (row.certificate, row.nonce)


def test_the_storage_root_is_what_openssl_s_provider_creates() -> None:
    tsskey = pytest.importorskip("tpm2_pytss.tsskey")
    assert bytes(tsskey._parent_ecc_template.marshal()) == STORAGE_ROOT


@pytest.mark.parametrize("template", [ATTESTATION_KEY, CREDENTIAL_KEY, STORAGE_ROOT])
def test_templates_are_whole_structures(template: bytes) -> None:
    types = pytest.importorskip("tpm2_pytss.types")
    _, size = types.TPMT_PUBLIC.unmarshal(template)
    assert size == len(template)


@pytest.mark.parametrize(
    ("offset", "octets"),
    [
        (0, b"\x00\x01"),  # RSA
        (2, b"\x00\x0c"),  # nameAlg SHA-384
        (4, struct.pack(">I", 0x30072)),  # noDA clear
        (4, struct.pack(">I", 0x20472)),  # not restricted
        (4, struct.pack(">I", 0x70472)),  # signs too
        (8, b"\x00\x20"),  # a policy
        (18, b"\x00\x04"),  # P-384
    ],
)
def test_other_keys_are_no_storage_root(offset: int, octets: bytes) -> None:
    assert is_storage_root(STORAGE_ROOT)
    assert not is_storage_root(STORAGE_ROOT[:offset] + octets + STORAGE_ROOT[offset + len(octets) :])
    assert not is_storage_root(STORAGE_ROOT[:20])
