"""What operators do: every act over HTTP, who is named in the audit trail, what contradicts and what is malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attestd.ids import DeviceId, EkHash
from attestd.registry import audit, devices
from attestd.registry.audit import AuditRecord
from tests.forger import Forger
from tests.service import SoftDevice, World, problem

OBJECT = {
    "id",
    "state",
    "state_version",
    "state_reason",
    "tier",
    "site",
    "spiffe_id",
    "serial_number",
    "labels",
    "manufacturer",
    "model",
    "firmware_version",
    "endorsement",
    "attested_at",
    "attestation_good_until",
    "result",
    "source",
    "created_at",
    "updated_at",
}


def waiting(world: World) -> SoftDevice:
    device = world.device()
    assert device.enroll().status_code == 202
    return device


def act(world: World, device: SoftDevice, verb: str, **message: Any) -> Any:
    return world.operator.post(f"/v1/admin/devices/{world.row(device).id}/{verb}", {"v": 1, **message})


def trail(world: World, name: str) -> AuditRecord:
    """The newest audit row of this act."""
    with world.registry.reading() as c:
        return next(row for row in audit.page(c) if row.act == name)


# ---- Acts on devices --------------------------------------------------------------------------------------------


def test_approving(world: World) -> None:
    device = waiting(world)
    answer = act(world, device, "approve", tier="edge", site="shop-9", labels={"line": "2"}, reason="seen it")
    assert answer.status_code == 200
    found = answer.json["device"]
    assert set(found) == OBJECT
    assert (found["state"], found["tier"], found["site"], found["labels"]) == (
        "approved",
        "edge",
        "shop-9",
        {"line": "2"},
    )
    assert found["spiffe_id"] == f"spiffe://fleet.example/edge/shop-9/{found['id']}"
    row = trail(world, "approve")
    assert (row.actor, row.subject, row.request_id) == (
        "operator:operator-1",
        found["id"],
        answer.headers["X-Request-Id"],
    )
    assert row.detail["reason"] == "seen it"


def test_approving_twice(world: World) -> None:
    device = waiting(world)
    act(world, device, "approve", tier="device", site="shop-1")
    answer = act(world, device, "approve", tier="cloud", site="shop-2")
    assert (answer.status_code, problem(answer)) == (409, "transition-refused")
    assert world.row(device).tier == "device"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, "malformed-json"),
        ({"tier": "device"}, "malformed-json"),
        ({"site": "shop-1"}, "malformed-json"),
        ({"tier": "moon", "site": "shop-1"}, "malformed-name"),
        ({"tier": "device", "site": "Shop 1"}, "malformed-name"),
        ({"tier": "device", "site": ""}, "malformed-name"),
        ({"tier": "device", "site": 1}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "labels": {"a": 1}}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "labels": ["a"]}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "labels": {"A B": "x"}}, "malformed-labels"),
        ({"tier": "device", "site": "shop-1", "labels": {"a": "\u0007"}}, "malformed-labels"),
        ({"tier": "device", "site": "shop-1", "reason": "two\nlines"}, "reason-unprintable"),
        ({"tier": "device", "site": "shop-1", "reason": None}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "ek_hash": "00" * 32}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "expected_version": "1"}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "expected_version": True}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "expected_version": 0}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "expected_version": 1 << 63}, "malformed-json"),
        ({"tier": "device", "site": "shop-1", "v": 2}, "unsupported-version"),
    ],
)
def test_a_malformed_approval_changes_nothing(world: World, message: dict[str, Any], expected: str) -> None:
    device = waiting(world)
    answer = act(world, device, "approve", **message)
    assert (answer.status_code, problem(answer)) == (400, expected)
    assert world.row(device).state == "pending"


def test_a_reason_that_is_too_long(world: World) -> None:
    answer = act(world, waiting(world), "reject", reason="x" * 501)
    assert (answer.status_code, problem(answer)) == (413, "input-too-large")


@pytest.mark.parametrize(
    "path", ["/v1/admin/devices/UPPER", "/v1/admin/devices/%2e%2e", "/v1/admin/devices/" + "x" * 65]
)
def test_a_malformed_id(world: World, path: str) -> None:
    answer = world.viewer.get(path)
    assert (answer.status_code, problem(answer)) in ((400, "malformed-name"), (401, "request-misdirected"))


def test_rejecting(world: World) -> None:
    device = waiting(world)
    answer = act(world, device, "reject", reason="nobody knows it")
    assert (answer.status_code, answer.json["device"]["state"]) == (200, "rejected")
    assert answer.json["device"]["state_reason"] == "nobody knows it"
    assert trail(world, "reject").actor == "operator:operator-1"


def test_quarantine_release_retire(world: World) -> None:
    device = world.enrolled()
    for verb, state in (("quarantine", "quarantined"), ("release", "active"), ("retire", "retired")):
        answer = act(world, device, verb, reason=f"because {verb}")
        assert (answer.status_code, answer.json["device"]["state"]) == (200, state)
        assert trail(world, verb).detail["reason"] == f"because {verb}"


@pytest.mark.parametrize("verb", ["approve", "quarantine", "retire", "replace"])
def test_an_operator_acts_on_what_was_seen(world: World, verb: str) -> None:
    device = waiting(world) if verb == "approve" else world.enrolled()
    more: dict[str, Any] = {
        "approve": {"tier": "device", "site": "shop-1"},
        "replace": {"ek_hash": EkHash.of(b"new").hex()},
    }.get(verb, {})
    seen = world.row(device).state_version
    for stale in (seen + 1, seen + 2):
        answer = act(world, device, verb, expected_version=stale, **more)
        assert (answer.status_code, problem(answer)) == (409, "state-changed")
    assert world.row(device).state_version == seen
    assert act(world, device, verb, expected_version=seen, **more).status_code == 200


def test_replacing_a_tpm(world: World) -> None:
    device = world.enrolled()
    new = world.device(Forger())
    answer = act(world, device, "replace", ek_hash=new.ek_hash.hex(), reason="the board died")
    assert (answer.status_code, answer.json["device"]["state"]) == (200, "approved")
    assert "ek_hash" not in answer.json["device"]
    refused = device.enroll()
    assert (refused.status_code, problem(refused)) == (403, "endorsement-key-blocked")
    assert new.enroll().status_code == 200
    assert new.id == device.id


def test_an_ek_hash_that_is_none(world: World) -> None:
    answer = act(world, world.enrolled(), "replace", ek_hash="zz")
    assert (answer.status_code, problem(answer)) == (400, "malformed-name")


def test_an_unknown_device(world: World) -> None:
    for verb in ("reject", "quarantine", "release", "retire"):
        answer = world.operator.post(f"/v1/admin/devices/none/{verb}", {"v": 1})
        assert (answer.status_code, problem(answer)) == (404, "unknown-device")


def test_a_message_may_leave_its_version_out(world: World) -> None:
    assert world.operator.post(f"/v1/admin/devices/{world.enrolled().id}/quarantine", {}).status_code == 200


# ---- The inventory ----------------------------------------------------------------------------------------------


def test_importing_csv_and_json_lines(world: World) -> None:
    hashes = [EkHash.of(b"%d" % number).hex() for number in range(3)]
    text = "ek_hash,tier,site,serial_number\n" + "".join(f"{h},device,shop-1,S{n}\n" for n, h in enumerate(hashes))
    answer = world.operator.post("/v1/admin/devices/import", text.encode(), content_type="text/csv")
    assert (answer.status_code, answer.json) == (200, {"v": 1, "added": 3, "unchanged": 0})
    lines = "\n".join(
        json.dumps({"ek_hash": h, "tier": "device", "site": "shop-1", "serial_number": f"S{n}"})
        for n, h in enumerate(hashes)
    )
    answer = world.operator.post("/v1/admin/devices/import", lines.encode(), content_type="application/jsonl")
    assert answer.json == {"v": 1, "added": 0, "unchanged": 3}
    assert trail(world, "import-inventory").actor == "operator:operator-1"


def test_an_inventory_s_errors_are_named_by_line_and_nothing_is_imported(world: World) -> None:
    text = f"ek_hash,tier,site\n{EkHash.of(b'1').hex()},device,shop-1\n{EkHash.of(b'2').hex()},moon,shop-1\n"
    answer = world.operator.post("/v1/admin/devices/import", text.encode(), content_type="text/csv")
    assert (answer.status_code, problem(answer)) == (400, "inventory-invalid")
    assert [error["line"] for error in answer.json["errors"]] == [3]
    assert world.viewer.get("/v1/admin/devices").json["devices"] == []


def test_an_inventory_that_contradicts_the_registry(world: World) -> None:
    device = world.enrolled()
    text = f"ek_hash,tier,site\n{device.ek_hash.hex()},cloud,shop-7\n"
    answer = world.operator.post("/v1/admin/devices/import", text.encode(), content_type="text/csv")
    assert (answer.status_code, problem(answer)) == (409, "inventory-conflicts")
    assert [error["line"] for error in answer.json["errors"]] == [2]


def test_an_inventory_of_another_type(world: World) -> None:
    answer = world.operator.post("/v1/admin/devices/import", b"ek_hash,tier,site\n", content_type="application/json")
    assert (answer.status_code, problem(answer)) == (415, "content-type-wrong")


# ---- Credentials ------------------------------------------------------------------------------------------------


def test_revoking(world: World) -> None:
    device = world.enrolled()
    serial = world.viewer.get(f"/v1/admin/credentials?device={device.id}").json["credentials"][0]["serial"]
    answer = world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1, "reason": "leaked"})
    assert (answer.status_code, answer.json["serial"]) == (200, serial)
    listed = world.viewer.get(f"/v1/admin/credentials?device={device.id}").json["credentials"]
    assert (listed[0]["revoked_at"], listed[0]["revoked_because"]) == (int(world.clock().timestamp()), "leaked")
    again = world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1})
    assert (again.status_code, problem(again)) == (409, "already-revoked")


def test_an_operator_can_t_revoke_an_admin_s_credential(world: World) -> None:
    world.caller("admin")
    listed = world.viewer.get("/v1/admin/credentials").json["credentials"]
    serial = next(entry["serial"] for entry in listed if entry["subject"].endswith("/admin/admin-1"))
    answer = world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1})
    assert (answer.status_code, problem(answer)) == (403, "role-too-low")
    assert world.admin.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1}).status_code == 200


@pytest.mark.parametrize(
    ("serial", "status", "name"), [("12ab", 404, "unknown-credential"), ("xyz", 400, "malformed-name")]
)
def test_revoking_what_is_none(world: World, serial: str, status: int, name: str) -> None:
    answer = world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1})
    assert (answer.status_code, problem(answer)) == (status, name)


# ---- Looking at devices -----------------------------------------------------------------------------------------


def test_a_page_of_devices(world: World) -> None:
    text = "id,ek_hash,tier,site\n" + "".join(
        f"d{n},{EkHash.of(b'%d' % n).hex()},{tier},{site}\n"
        for n, (tier, site) in enumerate([("device", "a"), ("edge", "a"), ("device", "b"), ("cloud", "b")])
    )
    world.operator.post("/v1/admin/devices/import", text.encode(), content_type="text/csv")

    def ids(query: str) -> list[str]:
        return [device["id"] for device in world.viewer.get(f"/v1/admin/devices?{query}").json["devices"]]

    assert ids("state=&q=") == ["d0", "d1", "d2", "d3"]
    assert ids("tier=device") == ["d0", "d2"]
    assert ids("site=b&tier=cloud") == ["d3"]
    assert ids("state=active") == []
    assert ids("q=D1") == ["d1"]
    first = world.viewer.get("/v1/admin/devices?limit=3").json
    assert first["after"] == "d2"
    second = world.viewer.get("/v1/admin/devices?limit=3&after=d2").json
    assert ([device["id"] for device in second["devices"]], second["after"]) == (["d3"], None)
    assert set(first["devices"][0]) == OBJECT


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=ten",
        "limit=1&limit=2",
        "order=id",
        "ek_hash=" + "00" * 32,
        "q=" + "x" * 201,
        "limit=%D9%A1",
        "q=a%00b",
        "after=%00",
    ],
)
def test_a_query_that_is_refused(world: World, query: str) -> None:
    answer = world.viewer.get(f"/v1/admin/devices?{query}")
    assert (answer.status_code, problem(answer)) == (400, "query-malformed")


@pytest.mark.parametrize("query", ["tier=moon", "site=A%20B", "after=%20"])
def test_a_name_in_a_query_that_is_refused(world: World, query: str) -> None:
    answer = world.viewer.get(f"/v1/admin/devices?{query}")
    assert (answer.status_code, problem(answer)) == (400, "malformed-name")


def test_one_device_s_page(world: World) -> None:
    device = world.enrolled()
    document = world.operator.get(f"/v1/admin/devices/{device.id}").json
    assert set(document["device"]) == OBJECT | {"ek_hash"}
    assert document["device"]["ek_hash"] == device.ek_hash.hex()
    assert [entry["subject"] for entry in document["credentials"]] == [document["device"]["spiffe_id"]]
    assert [row["act"] for row in document["audit"]] == ["enroll", "approve", "ask"]


def test_an_ek_hash_is_shown_nowhere_else(world: World) -> None:
    device = world.enrolled()
    for path in ("devices", f"devices?q={device.id}", "credentials", "audit", "overview"):
        assert device.ek_hash.hex() not in world.admin.get(f"/v1/admin/{path}").text
    assert device.ek_hash.hex() not in world.viewer.get(f"/v1/admin/devices/{device.id}").text


def test_the_audit_trail(world: World) -> None:
    device = world.enrolled()
    rows = world.viewer.get(f"/v1/admin/audit?subject={device.id}").json["audit"]
    assert [row["act"] for row in rows] == ["enroll", "approve", "ask"]
    numbers = [row["number"] for row in world.viewer.get("/v1/admin/audit").json["audit"]]
    page = world.viewer.get("/v1/admin/audit?limit=2").json
    assert page["before"] == numbers[1]
    page = world.viewer.get(f"/v1/admin/audit?limit=2&before={page['before']}").json
    assert [row["number"] for row in page["audit"]] == numbers[2:4]
    page = world.viewer.get(f"/v1/admin/audit?after={numbers[1]}").json
    assert [row["number"] for row in page["audit"]] == [numbers[0]]


def test_operators_and_the_overview(world: World) -> None:
    world.enrolled()
    found = world.viewer.get("/v1/admin/operators").json["operators"]
    assert {(entry["name"], entry["role"]) for entry in found} == {("operator-1", "operator"), ("viewer-1", "viewer")}
    told = {"name", "role", "created_at", "disabled_at", "key", "passkeys", "identities", "seen_at"}
    assert all(set(entry) == told for entry in found)
    overview = world.viewer.get("/v1/admin/overview").json
    assert overview["devices"] == {
        "pending": 0,
        "approved": 0,
        "rejected": 0,
        "active": 1,
        "quarantined": 0,
        "retired": 0,
    }
    assert (overview["trust_domain"], overview["policy_version"], overview["bundle"]) == ("fleet.example", 1, None)


def test_credentials_are_paged(world: World) -> None:
    device = world.enrolled()
    device.renew()
    device.renew()
    first = world.viewer.get(f"/v1/admin/credentials?device={device.id}&limit=2").json
    second = world.viewer.get(f"/v1/admin/credentials?device={device.id}&limit=2&before={first['before']}").json
    assert (len(first["credentials"]), len(second["credentials"]), second["before"]) == (2, 1, None)


def test_reading_leaves_no_trace(world: World) -> None:
    device = world.enrolled()
    viewer = world.viewer
    with world.registry.reading() as c:
        before = audit.page(c)
    for path in ("overview", "devices", f"devices/{device.id}", "credentials", "audit", "operators", "trust", "policy"):
        assert viewer.get(f"/v1/admin/{path}").status_code == 200
    with world.registry.reading() as c:
        assert audit.page(c) == before
        assert devices.by_id(c, DeviceId(device.id)).state == "active"


# ---- Members that nobody asked for --------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["reject", "quarantine", "release", "retire", "replace"])
def test_an_unknown_member_is_refused(world: World, verb: str) -> None:
    device = world.enrolled()
    more = {"ek_hash": EkHash.of(b"new").hex()} if verb == "replace" else {}
    answer = act(world, device, verb, force=True, **more)
    assert (answer.status_code, problem(answer)) == (400, "malformed-json")
    assert world.row(device).state == "active"


def test_an_unknown_member_of_a_revocation_is_refused(world: World) -> None:
    device = world.enrolled()
    serial = world.viewer.get(f"/v1/admin/credentials?device={device.id}").json["credentials"][0]["serial"]
    answer = world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1, "force": True})
    assert (answer.status_code, problem(answer)) == (400, "malformed-json")
