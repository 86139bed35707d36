"""Heads and proofs by HTTP: what auditors and edges get is enough to check it without the service."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import text

from attestd.credentials.copies import Copy
from attestd.credentials.hashtree import verify_consistency
from attestd.credentials.transparency import InclusionProof, VerifiedHead, verify_head
from attestd.protocol.encoding import b64decode
from tests.service import TRUST_DOMAIN, Caller, World, problem


def root(world: World) -> bytes:
    return world.hierarchy.root.public_bytes(Encoding.DER)


def document(caller: Caller, path: str) -> dict[str, Any]:
    answer = caller.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def head(world: World) -> VerifiedHead:
    said = document(world.viewer, "/v1/admin/audit/head")
    verified = verify_head(said["head"], roots=[root(world)], trust_domain=TRUST_DOMAIN, now=world.clock())
    found = verified.head
    assert (said["log"], said["size"], b64decode(said["root"]), said["time"]) == (
        found.log, found.size, found.root, found.at
    )  # fmt: skip
    return verified


def test_a_head_covers_what_was_done_before_it_was_asked_for(world: World) -> None:
    first = head(world).head
    world.enrolled()
    second = head(world).head
    assert second.size > first.size
    newest = document(world.viewer, "/v1/admin/audit?limit=1")["audit"][0]
    assert newest["leaf"] == second.size - 1


def test_a_proof_of_one_row_convinces_a_stranger(world: World) -> None:
    device = world.enrolled()
    row = document(world.viewer, f"/v1/admin/audit?subject={device.id}&limit=1")["audit"][0]
    answer = world.viewer.get(f"/v1/admin/audit/{row['number']}/proof")
    proof = InclusionProof.parse(answer.data)
    assert proof.verify(root(world), now=world.clock()).trust_domain == TRUST_DOMAIN
    assert proof.entry == {name: value for name, value in row.items() if name != "leaf"}


@pytest.mark.parametrize("path", ["/v1/admin/audit/consistency", "/v1/audit/consistency"])
def test_consistency(world: World, path: str) -> None:
    first = head(world).head
    world.enrolled()
    second = head(world).head
    caller = world.proxy if path.startswith("/v1/audit") else world.viewer
    said = document(caller, f"{path}?log=1&first={first.size}&second={second.size}")
    verify_consistency(
        first=first.size,
        first_root=first.root,
        second=second.size,
        second_root=second.root,
        path=[b64decode(step) for step in said["path"]],
    )


@pytest.mark.parametrize("number", ["999999", "x", "-1", "9" * 40, "1.0", "%00"])
def test_rows_that_are_not(world: World, number: str) -> None:
    answer = world.viewer.get(f"/v1/admin/audit/{number}/proof")
    assert (answer.status_code, problem(answer)) == (404, "audit-row-unknown")


@pytest.mark.parametrize(
    ("query", "status", "slug"),
    [
        ("", 400, "query-malformed"),
        ("first=1", 400, "query-malformed"),
        ("first=1&second=x", 400, "query-malformed"),
        ("first=1&second=1&third=1", 400, "query-malformed"),
        ("first=1&first=2&second=3", 400, "query-malformed"),
        ("first=1&second=99999", 409, "log-elsewhere"),
        ("first=2&second=1", 409, "log-elsewhere"),
        ("log=7&first=1&second=1", 409, "log-elsewhere"),
    ],
)
def test_questions_that_are_none(world: World, query: str, status: int, slug: str) -> None:
    head(world)
    answer = world.proxy.get(f"/v1/audit/consistency?{query}" if query else "/v1/audit/consistency")
    assert (answer.status_code, problem(answer)) == (status, slug)


def test_a_damaged_tree_is_said_and_not_signed(world: World) -> None:
    head(world)
    with world.registry.acting() as c:
        c.execute(text("UPDATE audit_tiles SET hashes = :nothing"), {"nothing": b""})
    answer = world.viewer.get("/v1/admin/audit/1/proof")
    assert (answer.status_code, problem(answer)) == (503, "tree-damaged")


def test_the_bundle_carries_the_newest_head_within_a_minute(world: World) -> None:
    """What is urgent goes ahead of it: a head is longer than the change, and wants a proof."""

    def carried() -> str:
        answer = world.proxy.get("/v1/bundle")
        assert answer.status_code == 200
        return Copy.read(answer.data).parts["head"].decode()

    head(world)  # whoever asks first is made an operator, which is a row of its own
    world.enrolled()
    first = carried()
    assert first == head(world).jws
    world.enrolled()
    assert head(world).jws != first
    assert carried() == first
    world.clock.advance(seconds=30)
    world.enrolled()
    assert carried() == first
    world.clock.advance(seconds=29)
    assert carried() == first
    world.clock.advance(seconds=1)
    assert carried() == head(world).jws


def test_the_lag_is_measured(world: World) -> None:
    head(world)
    at = int(world.clock().timestamp())
    with world.registry.acting() as c:
        c.execute(
            text("INSERT INTO audit (at, actor, act, subject, detail) VALUES (:at, 'a', 'b', 'c', '{}')"),
            {"at": at - 42},
        )
    said = world.get("/metrics").text
    assert "attestd_audit_unsealed 1.0" in said
    assert "attestd_audit_lag_seconds 42.0" in said
    assert "attestd_audit_archived 0.0" in said
