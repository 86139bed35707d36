"""A head is the service's, and a proof leads to it: with any one thing changed, neither does."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from attestd.credentials.bundle import verify_copy
from attestd.credentials.certificates import CertificateExpired, CertificateNotYetValid, PurposeWrong
from attestd.credentials.delegation import BUNDLE_EKU
from attestd.credentials.hashtree import (
    HistoryRewritten,
    NotInTree,
    inclusion_path,
    leaf_hash,
    root_of,
    tree_root,
)
from attestd.credentials.jws import AlgorithmNotAllowed, SignatureWrong, TypeConfused
from attestd.credentials.transparency import (
    AUDIT_EKU,
    MAX_HEAD,
    Head,
    HeadFromElsewhere,
    HeadFromTheFuture,
    InclusionProof,
    LogChanged,
    RootElsewhere,
    VerifiedHead,
    entry_octets,
    needs_proof,
    verify_head,
    verify_successor,
)
from attestd.credentials.x509 import UnknownIssuer
from attestd.errors import InputTooLarge, MalformedInput
from attestd.ids import TrustDomain
from tests import authority as a

T = int(a.NOW.timestamp())
MEMBERS: dict[str, Any] = json.loads(a.head().to_bytes())


def verify(jws: str, **lies: Any) -> VerifiedHead:
    honest: dict[str, Any] = {"roots": [a.ROOT.der], "trust_domain": a.TRUST_DOMAIN, "now": a.NOW}
    return verify_head(jws, **{**honest, **lies})


def test_an_honest_head() -> None:
    jws = a.signed_head()
    assert verify(jws) == VerifiedHead(a.head(), jws)
    assert Head.parse(a.head().to_bytes()) == a.head()


def test_old_heads_stay_evidence() -> None:
    """The signer's certificate has ended since; it had not when it signed."""
    assert verify(a.signed_head(), now=a.NOW + timedelta(days=3650)).head == a.head()
    assert verify(a.signed_head(), now=None).head == a.head()


def test_who_signed() -> None:
    with pytest.raises(SignatureWrong):
        verify(a.signed_head(key=a.STRANGER_KEY))
    with pytest.raises(UnknownIssuer):
        verify(a.signed_head(), roots=[])
    other = a.ca("root", key=a.STRANGER_KEY, path_length=2)
    with pytest.raises(UnknownIssuer):
        verify(a.signed_head(certificates=[a.audit_signer(issuer=other)]))


def test_the_keys_of_bundles_and_of_heads_do_not_stand_for_each_other() -> None:
    with pytest.raises(PurposeWrong):
        verify(a.signed_head(certificates=[a.signer()], key=a.SIGNER_KEY))
    with pytest.raises(PurposeWrong):
        verify(a.signed_head(certificates=[a.audit_signer(purposes=(AUDIT_EKU, BUNDLE_EKU))]))
    as_bundle = a.copy_of(certificates=[a.audit_signer()], key=a.AUDIT_KEY)
    with pytest.raises(PurposeWrong):
        verify_copy(as_bundle, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, floor=(0, 0), now=a.NOW)


def test_another_kind_of_object() -> None:
    with pytest.raises(TypeConfused):
        verify(a.signed_head(typ="attestd-bundle+jws"))
    with pytest.raises(AlgorithmNotAllowed):
        verify(a.signed_head(alg="none"))


@pytest.mark.parametrize(
    ("at", "refusal"),
    [(T + 61, HeadFromTheFuture), (T + 6 * 86400, CertificateExpired), (T - 6 * 86400, CertificateNotYetValid)],
)
def test_when(at: int, refusal: type[Exception]) -> None:
    verify(a.signed_head(a.head(at=T + 60)))
    with pytest.raises(refusal):
        verify(a.signed_head(a.head(at=at)))


def test_whose() -> None:
    elsewhere = a.signed_head(a.head(trust_domain=TrustDomain("other.org")))
    with pytest.raises(HeadFromElsewhere):
        verify(elsewhere)
    assert verify(elsewhere, trust_domain=None).head.trust_domain == TrustDomain("other.org")


@pytest.mark.parametrize(
    "lie",
    [
        {"v": 2}, {"log": -1}, {"log": 1 << 54}, {"size": -1}, {"size": 1 << 54}, {"size": "5"}, {"size": True},
        {"root": "AAAA"}, {"root": "!"}, {"time": -1}, {"time": 1 << 60}, {"trust_domain": "No Domain"}, {"more": 1},
    ],
)  # fmt: skip
def test_malformed_members(lie: dict[str, Any]) -> None:
    Head.parse(json.dumps(MEMBERS).encode())
    with pytest.raises(MalformedInput):
        verify(a.signed_head(payload=json.dumps(MEMBERS | lie).encode()))


@pytest.mark.parametrize("name", MEMBERS)
def test_missing_members(name: str) -> None:
    rest = {member: value for member, value in MEMBERS.items() if member != name}
    with pytest.raises(MalformedInput):
        verify(a.signed_head(payload=json.dumps(rest).encode()))


def test_the_limit() -> None:
    with pytest.raises(InputTooLarge):
        verify("a" * (MAX_HEAD + 1))


# ---- What comes after what ---------------------------------------------------------------------------------------


def test_a_newer_head_of_the_same_log_needs_a_proof() -> None:
    assert needs_proof(a.head(), a.head(size=6))
    with pytest.raises(HistoryRewritten, match="smaller"):
        verify_successor(a.head(), a.head(size=4), [])
    with pytest.raises(HistoryRewritten):
        verify_successor(a.head(), a.head(root=b"s" * 32), [])
    verify_successor(a.head(), a.head(at=T + 1), [])


def test_a_new_log_contains_nothing_and_an_old_one_never_comes_back() -> None:
    assert not needs_proof(a.head(), a.head(log=3, size=1))
    with pytest.raises(LogChanged):
        needs_proof(a.head(), a.head(log=1, size=9))


# ---- Proofs of one entry -----------------------------------------------------------------------------------------

ENTRY = {
    "number": 3, "at": T, "actor": "ada", "act": "retire", "subject": "bike-1", "request_id": None, "detail": {"n": 1}
}  # fmt: skip
LEAVES = [leaf_hash(b"0"), leaf_hash(b"1"), leaf_hash(entry_octets(ENTRY)), leaf_hash(b"3"), leaf_hash(b"4")]


def nodes(height: int, index: int) -> bytes:
    return root_of(LEAVES[index << height : (index + 1) << height])


HONEST = InclusionProof(
    ENTRY,
    2,
    inclusion_path(nodes, 2, 5),
    a.signed_head(a.head(root=tree_root(nodes, 5))),
    sha256(a.ROOT.der).digest(),
)


def test_an_honest_proof() -> None:
    document = json.dumps(HONEST.to_members()).encode()
    assert InclusionProof.parse(document) == HONEST
    assert InclusionProof.parse(document).verify(a.ROOT.der, now=a.NOW).size == 5


@pytest.mark.parametrize(
    "lie",
    [
        *({name: value} for name, value in {
            "number": 4, "at": T + 1, "actor": "bob", "act": "reject", "subject": "bike-2", "request_id": "r",
            "detail": {},
        }.items()),
        {"detail": {"n": 1, "m": 2}}, {"more": 1},
    ],
)  # fmt: skip
def test_every_member_of_a_row_is_covered(lie: dict[str, Any]) -> None:
    with pytest.raises(NotInTree):
        replace(HONEST, entry=ENTRY | lie).verify(a.ROOT.der, now=a.NOW)


def test_a_row_without_one_of_its_members_is_another_row() -> None:
    for name in ENTRY:
        with pytest.raises(NotInTree):
            replace(HONEST, entry={k: v for k, v in ENTRY.items() if k != name}).verify(a.ROOT.der, now=a.NOW)


def test_a_proof_with_one_lie() -> None:
    with pytest.raises(NotInTree):
        replace(HONEST, leaf=3).verify(a.ROOT.der, now=a.NOW)
    with pytest.raises(NotInTree):
        replace(HONEST, path=HONEST.path[::-1]).verify(a.ROOT.der, now=a.NOW)
    with pytest.raises(NotInTree):
        replace(HONEST, jws=a.signed_head()).verify(a.ROOT.der, now=a.NOW)
    with pytest.raises(SignatureWrong):
        forged = a.signed_head(a.head(root=tree_root(nodes, 5)), key=a.STRANGER_KEY)
        replace(HONEST, jws=forged).verify(a.ROOT.der, now=a.NOW)
    with pytest.raises(RootElsewhere):
        HONEST.verify(a.ISSUER.der, now=a.NOW)


@pytest.mark.parametrize(
    "lie",
    [
        {"v": 2}, {"leaf": -1}, {"leaf": "2"}, {"path": ["AAAA", 1]}, {"path": "AAAA"}, {"head": 1}, {"entry": []},
        {"root_sha256": "00"}, {"root_sha256": "zz" * 32}, {"root_sha256": "AA" * 32}, {"more": 1},
    ],
)  # fmt: skip
def test_malformed_proofs(lie: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        InclusionProof.parse(json.dumps(HONEST.to_members() | lie).encode())


def test_a_long_proof() -> None:
    with pytest.raises(InputTooLarge):
        InclusionProof.parse(json.dumps(HONEST.to_members() | {"path": ["A" * 43] * 65}).encode())
