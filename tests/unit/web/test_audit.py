"""Heads and proofs by HTTP: what auditors and edges get is enough to check it without the service."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import text

from attestd.auditing.archives import archive_audit
from attestd.credentials.copies import Copy
from attestd.credentials.hashtree import verify_consistency, verify_inclusion
from attestd.credentials.transparency import InclusionProof, VerifiedHead, verify_head
from attestd.protocol.encoding import b64decode
from attestd.registry import audit
from tests.edge_reports import edge_report
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


# ---- Finding and opening rows -------------------------------------------------------------------------------------


def listed(caller: Caller, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document(caller, f"/v1/admin/audit?{query}")["audit"]
    return found


def test_filters(world: World) -> None:
    device, other = world.enrolled(), world.enrolled()
    for each, why in ((device, "stolen from the van"), (other, "odd")):
        world.operator.post(f"/v1/admin/devices/{each.id}/quarantine", {"v": 1, "reason": why})
    acts = {row["act"] for row in listed(world.viewer, f"subject={device.id}")}
    assert {"approve", "enroll", "quarantine"} <= acts
    assert {row["act"] for row in listed(world.viewer, "act=quarantine,approve")} == {"quarantine", "approve"}
    assert "enroll" not in {row["act"] for row in listed(world.viewer, "but=enroll")}
    assert {row["actor"] for row in listed(world.viewer, "actor=operator:operator-1")} == {"operator:operator-1"}
    assert [row["subject"] for row in listed(world.viewer, "text=FROM%20the%20van")] == [device.id]
    now = int(world.clock().timestamp())
    assert listed(world.viewer, f"since={now + 1}") == []
    assert listed(world.viewer, f"until={now}") == []
    assert listed(world.viewer, f"since={now}&until={now + 1}") != []


@pytest.mark.parametrize(
    "query",
    [
        "act=%00", "act=Quarantine", "act=a,,b", "act=" + ",".join("abc" for _ in range(21)), "but=" + "a" * 41,
        "actor=" + "x" * 201, "text=" + "x" * 201, "text=%00", "subject=" + "x" * 201, "since=now", "until=-1",
        "since=" + "9" * 19, "before=1&after=1", "act=a&act=b", "limit=1001", "nobody=1",
    ],
)  # fmt: skip
def test_filters_that_are_none(world: World, query: str) -> None:
    answer = world.viewer.get(f"/v1/admin/audit?{query}")
    assert (answer.status_code, problem(answer)) == (400, "query-malformed")


@pytest.mark.parametrize("text", ["'", '"', "%", "_", "\\", "<script>", "' OR 1=1 --", "é" * 200])
def test_odd_words_are_words(world: World, text: str) -> None:
    for name in ("text", "actor", "subject"):
        found = listed(world.viewer, f"{name}={quote(text)}")
        assert all(text.casefold() in str(row).casefold() for row in found)


def test_one_row_and_its_place(world: World) -> None:
    device = world.enrolled()
    row = listed(world.viewer, f"subject={device.id}&limit=1")[0]
    said = document(world.viewer, f"/v1/admin/audit/{row['number']}")
    assert said["row"] == {**row, "leaf": said["row"]["leaf"]}
    assert (said["archived"], said["trouble"]) == (False, "")
    verify_inclusion(
        b64decode(said["leaf_hash"]),
        index=said["row"]["leaf"],
        size=said["head"]["size"],
        root=b64decode(said["head"]["root"]),
        path=[b64decode(step) for step in said["path"]],
    )


def test_one_row_of_a_file(world: World) -> None:
    device = world.enrolled()
    row = listed(world.viewer, f"subject={device.id}&limit=1")[0]
    head(world)
    with world.registry.acting() as c:  # the newest row stays in the database whatever its age
        audit.append(c, at=0, actor="test", act="overdue", subject="x", request_id=None, detail={})
    head(world)
    ends = world.clock.now
    world.clock.advance(days=100)
    folder = world.service.publication.audit.folder
    assert archive_audit(world.registry, folder, world.clock(), timedelta(days=90), 1000) > 0
    world.clock.now = ends  # or the viewer's credential would be over
    said = document(world.viewer, f"/v1/admin/audit/{row['number']}")
    assert (said["row"]["detail"], said["archived"]) == (row["detail"], True)
    assert said["head"] is not None
    assert [found["number"] for found in listed(world.viewer, f"subject={device.id}&limit=1")] == [row["number"]]


def test_one_row_of_a_damaged_tree_is_shown_and_not_proven(world: World) -> None:
    head(world)
    with world.registry.acting() as c:
        c.execute(text("UPDATE audit_tiles SET hashes = :nothing"), {"nothing": b""})
    said = document(world.viewer, "/v1/admin/audit/1")
    assert (said["row"]["number"], said["head"], said["path"]) == (1, None, [])
    assert said["trouble"]


@pytest.mark.parametrize("number", ["999999", "x", "-1", "9" * 40, "1.0", "%00"])
def test_rows_that_are_none(world: World, number: str) -> None:
    answer = world.viewer.get(f"/v1/admin/audit/{number}")
    assert (answer.status_code, problem(answer)) == (404, "audit-row-unknown")


def test_who_saw_which_head(world: World) -> None:
    def report(version: int) -> None:
        bundle = {"epoch": 1, "version": version, "issued_at": 1}
        sent = world.proxy.post("/v1/proxies/reports", {**edge_report(version), "bundle": bundle})
        assert sent.status_code == 200, sent.text

    assert world.proxy
    world.new_caller("proxy", "proxy-2")
    taken = Copy.read(world.proxy.get("/v1/bundle").data)
    carried = verify_head(
        taken.parts["head"].decode(), roots=[root(world)], trust_domain=TRUST_DOMAIN, now=world.clock()
    ).head
    report(1)
    world.enrolled()
    said = document(world.viewer, "/v1/admin/audit/witnesses")
    seen = {edge["name"]: (edge["log"], edge["size"]) for edge in said["edges"]}
    assert seen == {"proxy-1": (1, carried.size), "proxy-2": (None, None)}
    assert said["size"] > carried.size
    report(77)  # no bundle that there is
    said = document(world.viewer, "/v1/admin/audit/witnesses")
    assert {edge["name"]: edge["size"] for edge in said["edges"]} == {"proxy-1": None, "proxy-2": None}


def test_a_disabled_edge_is_no_witness(world: World) -> None:
    assert world.proxy
    world.admin.post("/v1/admin/proxies/proxy-1/disable", {"v": 1})
    assert document(world.viewer, "/v1/admin/audit/witnesses")["edges"] == []
