"""Reference manifests at their door: viewers look, admins change."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.ids import DeviceId
from attestd.operations.references import NOTICED
from attestd.protocol.encoding import write_object
from attestd.registry import audit, evidence, references
from attestd.registry.evidence import GOOD, Kept
from attestd.web import admin_references
from tests.service import World, problem

MANIFEST: dict[str, Any] = {"name": "bike-4", "stage": "monitor", "pcrs": {"sha256": {"0": ["11" * 32]}}}
TOML = b'name = "bike-4"\nstage = "monitor"\n[pcrs.sha256]\n0 = ["' + b"11" * 32 + b'"]\n'
WHERE = "/v1/admin/references"


def add(world: World, query: str = "", **members: Any) -> Any:
    return world.admin.post(WHERE + query, MANIFEST | members)


def added(world: World, query: str = "", **members: Any) -> dict[str, Any]:
    answer = add(world, query, **members)
    assert answer.status_code == 201, answer.text
    return dict(answer.json["reference"])


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, problem(answer)


# ---- Adding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind"), [(TOML, "application/toml"), (write_object(MANIFEST), "application/json")], ids=["toml", "json"]
)
def test_adding_in_either_form(world: World, body: bytes, kind: str) -> None:
    answer = world.admin.post(WHERE, body, content_type=kind)
    assert answer.status_code == 201
    found = answer.json["reference"]
    assert (found["name"], found["stage"], found["until"], found["counts"]) == ("bike-4", "monitor", None, True)
    assert found["added_by"] == "operator:admin-1"
    shown = world.viewer.get(f"{WHERE}/{found['number']}")
    assert (shown.json["document"], shown.json["reference"]) == (MANIFEST, found)


@pytest.mark.parametrize(
    ("body", "kind", "name"),
    [
        (b"name = ", "application/toml", "manifest-invalid"),
        (TOML.replace(b"monitor", b"rule"), "application/toml", "manifest-invalid"),
        (TOML, "application/json", "malformed-json"),
        (write_object(MANIFEST), "application/toml", "manifest-invalid"),
        (write_object(MANIFEST | {"more": 1}), "application/json", "malformed-json"),
        (b'{"name":"a","name":"b"}', "application/json", "malformed-json"),
        (b"", "application/json", "malformed-json"),
    ],
)
def test_what_is_no_manifest_is_not_added(world: World, body: bytes, kind: str, name: str) -> None:
    assert refused(world.admin.post(WHERE, body, content_type=kind)) == (400, name)
    assert world.viewer.get(f"{WHERE}?all=true").json["references"] == []


def test_toml_that_would_take_too_long_to_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_references, "_MAX_TOML", len(TOML))
    assert world.admin.post(WHERE, TOML, content_type="application/toml").status_code == 201
    answer = world.admin.post(WHERE, TOML + b"\n", content_type="application/toml")
    assert refused(answer) == (413, "input-too-large")
    large = write_object(MANIFEST | {"name": "x" * 63})
    assert world.admin.post(WHERE, large, content_type="application/json").status_code == 201


@pytest.mark.parametrize(
    "query",
    [
        "overlap=x",
        "overlap=-1",
        "overlap=999999999999",
        "accept_refusals=many",
        "unwatched=yes",
        "reason=a%0Ab",
        "reason=" + "x" * 501,
        "stage=enforce",
        "overlap=1&overlap=2",
    ],
)
def test_a_query_of_another_form(world: World, query: str) -> None:
    assert add(world, f"?{query}").status_code == 400
    added(world, "?overlap=0&accept_refusals=0&unwatched=false&reason=because")


def test_what_stands_in_the_query_counts(world: World) -> None:
    first = added(world, stage="enforce")
    second = added(world, "?overlap=60&reason=new+image", stage="enforce", pcrs={"sha256": {"0": ["22" * 32]}})
    listed = {each["number"]: each for each in world.viewer.get(WHERE).json["references"]}
    assert listed[first["number"]]["until"] == second["added_at"] + 60
    with world.registry.reading() as c:
        row = next(row for row in audit.page(c) if row.subject == f"reference {second['number']}")
    assert (row.act, row.actor, row.detail["reason"]) == ("add-reference", "operator:admin-1", "new image")


def test_enforcing_at_once_is_refused_where_it_could_lock_devices_out(world: World) -> None:
    world.enrolled()
    answer = add(world, stage="enforce")
    assert refused(answer) == (409, "nobody-watched")
    assert "1 active devices" in answer.json["seen"]
    added(world, "?unwatched=true", stage="enforce")


# ---- Looking ----------------------------------------------------------------------------------------------------


def test_those_that_count_and_all(world: World) -> None:
    first = added(world)
    second = added(world, pcrs={"sha256": {"0": ["22" * 32]}})
    assert [each["number"] for each in world.viewer.get(WHERE).json["references"]] == [second["number"]]
    every = world.viewer.get(f"{WHERE}?all=true").json["references"]
    assert [(each["number"], each["counts"]) for each in every] == [(second["number"], True), (first["number"], False)]


def test_pages_of_versions(world: World) -> None:
    numbers = [added(world, name=f"n{n}")["number"] for n in range(3)]
    page = world.viewer.get(f"{WHERE}?limit=2").json
    assert ([each["number"] for each in page["references"]], page["before"]) == (numbers[:0:-1], numbers[1])
    page = world.viewer.get(f"{WHERE}?limit=2&before={numbers[1]}").json
    assert ([each["number"] for each in page["references"]], page["before"]) == (numbers[:1], None)


@pytest.mark.parametrize("path", ["7", "7/refusals", "x", "-1", "9" * 19])
def test_what_is_not_there(world: World, path: str) -> None:
    assert refused(world.viewer.get(f"{WHERE}/{path}")) == (404, "unknown-manifest")


def test_what_a_watched_manifest_would_refuse(world: World) -> None:
    stored = added(world)
    world.clock.advance(minutes=1)
    ids = sorted(world.enrolled().id for _ in range(3))
    now = int(world.clock().timestamp())
    with world.registry.reading() as c:
        digest = references.by_number(c, stored["number"]).digest
    for device_id, reasons in zip(ids, (["PCR 0 is odd."], ["PCR 0 is odd."], []), strict=True):
        world.registry.act(*references.watching(DeviceId(device_id), digest, reasons, now=now))
    page = world.viewer.get(f"{WHERE}/{stored['number']}/refusals?limit=1").json
    assert page["devices"] == [{"id": ids[0], "at": now, "reasons": ["PCR 0 is odd."]}]
    assert (page["total"], page["after"], page["reference"]) == (2, ids[0], stored)
    assert page["prospect"] == {
        "watched_since": stored["added_at"] + NOTICED,
        "refused": 2,
        "unheard": 0,
        "held": 0,
        "more": False,
    }
    page = world.viewer.get(f"{WHERE}/{stored['number']}/refusals?after={ids[0]}").json
    assert ([each["id"] for each in page["devices"]], page["after"], page["prospect"]) == ([ids[1]], None, None)


def test_a_manifest_that_is_not_watched_foresees_nothing(world: World) -> None:
    stored = added(world, stage="enforce")
    page = world.viewer.get(f"{WHERE}/{stored['number']}/refusals").json
    assert (page["total"], page["prospect"]) == (0, None)


# ---- Promoting, withdrawing -------------------------------------------------------------------------------------


def test_promoting_and_going_back(world: World) -> None:
    stored = added(world)
    answer = world.admin.post(f"{WHERE}/{stored['number']}/promote", {"stage": "enforce", "reason": "it holds"})
    assert answer.status_code == 200
    assert answer.json["reference"]["stage"] == "enforce"
    back = world.admin.post(f"{WHERE}/{answer.json['reference']['number']}/promote", {"stage": "monitor"})
    assert [each["stage"] for each in world.viewer.get(WHERE).json["references"]] == ["monitor"]
    assert back.json["reference"]["digest"] == stored["digest"]


def test_promoting_is_guarded(world: World) -> None:
    world.enrolled()
    where = f"{WHERE}/{added(world)['number']}/promote"
    assert refused(world.admin.post(where, {"stage": "enforce"})) == (409, "would-refuse")
    assert world.admin.post(where, {"stage": "enforce", "accept_refusals": 1}).status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"stage": "rule"},
        {"stage": "enforce", "overlap": -1},
        {"stage": "enforce", "overlap": "7d"},
        {"stage": "enforce", "accept_refusals": -1},
        {"stage": "enforce", "accept_refusals": True},
        {"stage": "enforce", "unwatched": 1},
        {"stage": "enforce", "more": 1},
    ],
)
def test_a_promotion_of_another_form(world: World, message: dict[str, Any]) -> None:
    where = f"{WHERE}/{added(world)['number']}/promote"
    assert refused(world.admin.post(where, message)) == (400, "malformed-json")
    assert world.admin.post(where, {"stage": "enforce", "overlap": 0, "unwatched": False}).status_code == 200


def test_withdrawing(world: World) -> None:
    where = f"{WHERE}/{added(world)['number']}/withdraw"
    answer = world.admin.post(where, {"v": 1, "reason": "leaked"})
    assert (answer.status_code, answer.json["reference"]["counts"]) == (200, False)
    assert world.viewer.get(WHERE).json["references"] == []
    assert refused(world.admin.post(where, {"v": 1})) == (404, "unknown-manifest")


def test_acts_are_an_admin_s(world: World) -> None:
    number = added(world)["number"]
    for path, message in (
        ("", MANIFEST),
        ("/learn", {"devices": [], "name": "x"}),
        (f"/{number}/promote", {"stage": "enforce"}),
        (f"/{number}/withdraw", {}),
    ):
        assert refused(world.operator.post(WHERE + path, message)) == (403, "role-too-low")


# ---- Learning ---------------------------------------------------------------------------------------------------


def golden(world: World) -> str:
    device = world.enrolled()
    kept = Kept(
        verdict=GOOD,
        at=int(world.clock().timestamp()),
        inputs=write_object({"pcrs": {"sha256": {"0": "00" * 32, "1": "01" * 32, "2": "02" * 32}}}),
        boot="1.0",
        boot_log=None,
        boot_pcrs=None,
        boot_facts={"secure_boot": True, "dbx_digest": "ab", "doubts": []},
        ima_entries=None,
        runtime_state=None,
        result=b"{}",
    )
    world.registry.act(*evidence.keeping(device.id, kept, ima=None, new_boot=True))
    return str(device.id)


def test_learning_a_draft(world: World) -> None:
    device_id = golden(world)
    answer = world.admin.post(f"{WHERE}/learn", {"devices": [device_id], "name": "bike-5"})
    assert answer.status_code == 200
    assert answer.json["document"]["boot"] == {"secure_boot": True}
    assert set(answer.json["document"]["pcrs"]["sha256"]) == {"0", "2"}
    assert device_id in answer.json["notes"][""][0]
    assert answer.json["devices"] == [
        {
            "id": device_id,
            "attested_at": int(world.clock().timestamp()),
            "eventlog": True,
            "ima": False,
            "why": "",
        }
    ]
    assert world.viewer.get(f"{WHERE}?all=true").json["references"] == []
    world.admin.post(WHERE, answer.json["document"] | {"stage": "monitor"})
    assert len(world.viewer.get(WHERE).json["references"]) == 1


def test_learning_what_was_asked_for(world: World) -> None:
    message = {
        "devices": [golden(world)],
        "name": "bike-5",
        "pcrs": [1],
        "facts": ["dbx_digest"],
        "runtime": True,
        "match": {"tier": "edge", "labels": {"ring": "canary"}},
    }
    answer = world.admin.post(f"{WHERE}/learn", message)
    assert answer.json["document"] == {
        "name": "bike-5",
        "stage": "learn",
        "match": message["match"],
        "pcrs": {"sha256": {"1": ["01" * 32]}},
        "boot": {"dbx_digest": ["ab"]},
    }
    assert "IMA list" in answer.json["devices"][0]["why"]


@pytest.mark.parametrize(
    ("lie", "status", "name"),
    [
        ({"devices": []}, 400, "too-many-golden"),
        ({"devices": ["nobody"]}, 404, "unknown-device"),
        ({"devices": ["x"] * 33}, 413, "input-too-large"),
        ({"devices": ["../x"]}, 400, "malformed-name"),
        ({"name": "*"}, 400, "manifest-invalid"),
        ({"pcrs": [10]}, 400, "not-to-learn"),
        ({"pcrs": ["0"]}, 400, "malformed-json"),
        ({"facts": ["loaders"]}, 400, "not-to-learn"),
        ({"match": {"site": "x"}}, 400, "malformed-json"),
        ({"match": {"tier": "sky"}}, 400, "malformed-name"),
        ({"runtime": "yes"}, 400, "malformed-json"),
        ({"more": 1}, 400, "malformed-json"),
        ({"pcrs": [], "facts": []}, 409, "nothing-stable"),
    ],
)
def test_what_can_t_be_learned(world: World, lie: dict[str, Any], status: int, name: str) -> None:
    message = {"devices": [golden(world)], "name": "bike-5"}
    assert refused(world.admin.post(f"{WHERE}/learn", message | lie)) == (status, name)
    assert world.admin.post(f"{WHERE}/learn", message).status_code == 200


def test_learning_from_a_device_without_evidence(world: World) -> None:
    device = world.enrolled()
    with world.registry.acting() as c:
        evidence.forget(c, [device.id])
    answer = world.admin.post(f"{WHERE}/learn", {"devices": [device.id], "name": "bike-5"})
    assert refused(answer) == (409, "nothing-to-learn")
