"""Bundles and times, signed here, are what the edge's and the device's verifiers accept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization

from attestd.ca.bundles import sign_bundle, sign_time
from attestd.ca.hierarchy import Hierarchy
from attestd.credentials.bundle import Bundle, verify_copy
from attestd.credentials.status import Status, StatusList
from attestd.credentials.times import TimeNonceWrong, verify_time
from attestd.errors import Unauthenticated
from attestd.ids import Serial

from .conftest import DOMAIN, NOW


@pytest.fixture
def roots(hierarchy: Hierarchy) -> list[bytes]:
    return [hierarchy.root.public_bytes(serialization.Encoding.DER)]


@pytest.fixture
def bundle(hierarchy: Hierarchy, roots: list[bytes]) -> Bundle:
    return Bundle(
        trust_domain=DOMAIN,
        epoch=1,
        version=7,
        issued_at=int(NOW.timestamp()),
        stale_after=300,
        roots=tuple(roots),
        issuers=tuple(signer.certificate.public_bytes(serialization.Encoding.DER) for signer in hierarchy.issuers),
        token_issuer="https://attestd.example.org",
        token_keys=hierarchy.token_jwks,
        policy_version=3,
        policy="permit(principal, action, resource);",
        status=StatusList.of({5: Status.SUSPENDED}, 8),
        revoked=frozenset([Serial(99)]),
    )


@pytest.mark.parametrize("which", [0, 1], ids=["current", "next"])
def test_an_edge_accepts_a_signed_bundle(hierarchy: Hierarchy, bundle: Bundle, roots: list[bytes], which: int) -> None:
    jws = sign_bundle(bundle, hierarchy.bundle_signers[which])
    verified = verify_copy(jws, roots=roots, trust_domain=DOMAIN, floor=(1, 7), now=NOW)
    assert verified == bundle
    assert set(verified.verification_keys()) == {key.kid for key in hierarchy.token_keys}
    assert verified.authorities(roots).trust_domain == DOMAIN


def test_an_edge_refuses_what_another_key_signed(hierarchy: Hierarchy, bundle: Bundle, roots: list[bytes]) -> None:
    with pytest.raises(Unauthenticated):  # the issuing CA's key is not delegated to bundles
        verify_copy(sign_bundle(bundle, hierarchy.issuer), roots=roots, trust_domain=DOMAIN, floor=(0, 0), now=NOW)
    signer = replace(hierarchy.bundle_signer, _key=hierarchy.bundle_signers[1]._key)
    with pytest.raises(Unauthenticated):
        verify_copy(sign_bundle(bundle, signer), roots=roots, trust_domain=DOMAIN, floor=(0, 0), now=NOW)


def test_a_device_accepts_a_signed_time(hierarchy: Hierarchy, roots: list[bytes]) -> None:
    jws = sign_time(b"n" * 32, NOW + timedelta(milliseconds=999), hierarchy.bundle_signer)
    assert verify_time(jws, roots=roots, nonce=b"n" * 32, floor=NOW) == NOW
    with pytest.raises(TimeNonceWrong):
        verify_time(jws, roots=roots, nonce=b"m" * 32, floor=NOW)


def test_a_time_is_no_bundle(hierarchy: Hierarchy, bundle: Bundle, roots: list[bytes]) -> None:
    copy = sign_bundle(bundle, hierarchy.bundle_signer)
    jws = sign_time(b"n" * 32, NOW, hierarchy.bundle_signer)
    with pytest.raises(Unauthenticated):
        verify_copy(replace(copy, statement=jws), roots=roots, trust_domain=DOMAIN, floor=(0, 0), now=NOW)
    with pytest.raises(Unauthenticated):
        verify_time(copy.statement, roots=roots, nonce=b"n" * 32, floor=NOW)
