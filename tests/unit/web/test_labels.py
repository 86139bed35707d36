"""Labels are changed after approval, and all that goes by labels follows."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509

from attestd.credentials.facts import FACTS_OID, Facts
from attestd.registry import audit, issued
from tests.authenticator import Person
from tests.service import SoftDevice, World, problem

pytestmark = pytest.mark.database


@pytest.fixture
def device(world: World) -> SoftDevice:
    return world.enrolled(labels={"ring": "canary", "rack": "2"})


def label(world: World, device: SoftDevice, role: str = "operator", /, **said: Any) -> Any:
    return world.caller(role).post(f"/v1/admin/devices/{device.id}/label", {"v": 1, **said})


def certified(world: World, device: SoftDevice) -> dict[str, str]:
    """The labels in the newest certificate that it was given."""
    assert device.answer is not None
    certificate = x509.load_pem_x509_certificates(device.answer.chain.encode())[0]
    extension = certificate.extensions.get_extension_for_oid(FACTS_OID).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    return dict(Facts.from_extension(extension.value).labels)


def found(world: World, query: str) -> list[str]:
    return [one["id"] for one in world.viewer.get(f"/v1/admin/devices?{query}").json["devices"]]


def test_what_is_not_named_stays_and_the_trail_tells_both(world: World, device: SoftDevice) -> None:
    answer = label(world, device, labels={"ring": "stable", "dock": "ä 7"}, remove=["rack"], reason="moved")
    assert answer.json["device"]["labels"] == world.row(device).labels == {"ring": "stable", "dock": "ä 7"}
    with world.registry.reading() as c:
        row = audit.page(c, limit=1)[0]
    assert (row.act, row.actor, row.subject) == ("label", "operator:operator-1", device.id)
    assert row.detail == {
        "version": world.row(device).state_version,
        "old": {"ring": "canary", "rack": "2"},
        "new": {"ring": "stable", "dock": "ä 7"},
        "revoked": 0,
        "reason": "moved",
    }


def test_what_it_is_found_by_follows(world: World, device: SoftDevice) -> None:
    assert found(world, "label=ring=canary") == found(world, "q=canary") == [device.id]
    label(world, device, labels={"ring": "stable"}, remove=["rack"])
    assert found(world, "label=ring=canary") == found(world, "q=canary") == found(world, "label=rack") == []
    assert found(world, "label=ring=stable") == found(world, "q=stable") == [device.id]


def test_its_next_certificate_says_them_and_it_is_asked_to_attest(
    world: World, device: SoftDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attestd.web.demands._EVERY", -1.0)
    monkeypatch.setattr("attestd.web.demands._SHARE", 0)
    until = world.row(device).attestation_good_until
    assert certified(world, device) == {"ring": "canary", "rack": "2"}
    label(world, device, labels={"ring": "stable"})
    assert world.get(f"/v1/demands/{device.id}").status_code == 200
    assert world.row(device).attestation_good_until == until  # nothing is held against it
    world.clock.advance(seconds=1)
    assert device.attest().status_code == 200
    assert certified(world, device) == {"ring": "stable", "rack": "2"}
    assert world.get(f"/v1/demands/{device.id}").status_code == 204


def test_a_renewal_says_them_too(world: World, device: SoftDevice) -> None:
    label(world, device, labels={"ring": "stable"})
    assert device.renew().status_code == 200
    assert certified(world, device)["ring"] == "stable"


@pytest.mark.parametrize("revoke", [False, True])
def test_certificates_with_the_old_ones_end_where_that_is_asked(world: World, device: SoftDevice, revoke: bool) -> None:
    assert label(world, device, labels={"ring": "stable"}, revoke=revoke).status_code == 200
    with world.registry.reading() as c:
        newest = issued.page(c, device_id=world.row(device).id, limit=1)[0]
        row = audit.page(c, limit=1)[0]
    assert (newest.revoked_at is not None) is revoke
    assert row.detail["revoked"] == int(revoke)
    world.clock.advance(seconds=1)
    assert device.attest().status_code == 200  # its key is as good as before


def test_of_a_device_that_changed_meanwhile(world: World, device: SoftDevice) -> None:
    version = world.row(device).state_version
    assert problem(label(world, device, labels={"a": "b"}, expected_version=version + 1)) == "state-changed"
    assert label(world, device, labels={"a": "b"}, expected_version=version).status_code == 200
    assert problem(label(world, device, labels={"c": "d"}, expected_version=version)) == "state-changed"
    assert "c" not in world.row(device).labels


def test_an_approved_one_is_labelled_and_one_that_waits_is_not(world: World) -> None:
    waiting = world.device()
    waiting.enroll()
    path = f"/v1/admin/devices/{world.row(waiting).id}/label"
    message = {"v": 1, "labels": {"a": "b"}}
    assert problem(world.operator.post(path, message)) == "transition-refused"
    world.approve(waiting)
    assert world.operator.post(path, message).status_code == 200
    world.operator.post(path.replace("label", "retire"), {"v": 1})
    assert problem(world.operator.post(path, {"v": 1, "labels": {"a": "c"}})) == "transition-refused"


@pytest.mark.parametrize(
    ("said", "slug"),
    [
        ({}, "no-label-named"),
        ({"labels": {}, "remove": []}, "no-label-named"),
        ({"labels": {"a b": "x"}}, "malformed-labels"),
        ({"labels": {"a": "\u202e"}}, "malformed-labels"),
        ({"labels": {"a": "x" * 129}}, "malformed-labels"),
        ({"labels": {"a": 1}}, "malformed-json"),
        ({"labels": {"ring": "x"}, "remove": ["ring"]}, "malformed-labels"),
        ({"labels": {f"l{n}": "x" * 100 for n in range(5)}}, "malformed-labels"),
        ({"labels": {"ring": "canary"}}, "labels-unchanged"),
        ({"remove": ["nothing"]}, "labels-unchanged"),
        ({"labels": {"a": "b"}, "tier": "edge"}, "malformed-json"),
        ({"labels": {"a": "b"}, "expected_version": 0}, "malformed-json"),
    ],
)
def test_what_is_no_change(world: World, device: SoftDevice, said: dict[str, Any], slug: str) -> None:
    before = world.row(device)
    answer = label(world, device, **said)
    assert (answer.status_code, problem(answer)) == (409 if slug == "labels-unchanged" else 400, slug)
    assert world.row(device) == before


def test_it_takes_an_operator_and_a_touch(world: World, device: SoftDevice) -> None:
    assert problem(label(world, device, "viewer", labels={"a": "b"})) == "role-too-low"
    ada = Person(world, "ada", "operator")
    path, message = f"/v1/admin/devices/{device.id}/label", {"v": 1, "labels": {"a": "b"}}
    assert problem(ada.post(path, message)) == "touch-missing"
    assert "a" not in world.row(device).labels
    assert ada.confirmed("POST", path, message).status_code == 200
    assert world.row(device).labels["a"] == "b"


# ---- What goes by labels ----------------------------------------------------------------------------------------

MANIFEST = """
name = "bike-4"
stage = "learn"
[match]
labels = { ring = "canary" }
"""


def test_what_asks_for_labels_is_told(world: World) -> None:
    told = world.viewer.get("/v1/admin/labels").json
    assert told["policy"]["names"] == told["references"] == []
    text = 'permit (principal, action, resource) when { principal.hasTag("ring") && principal.getTag("ring") == "a" };'
    world.admin.put("/v1/admin/policy", {"v": 1, "text": text})
    world.admin.post("/v1/admin/references", MANIFEST.encode(), content_type="application/toml")
    told = world.viewer.get("/v1/admin/labels").json
    assert told["policy"] == {"version": 2, "names": ["ring"], "whole": False}
    assert [(one["name"], one["stage"], one["labels"]) for one in told["references"]] == [
        ("bike-4", "learn", {"ring": "canary"})
    ]


def test_a_policy_that_looks_at_all_of_a_device_may_look_at_any_label(world: World) -> None:
    text = 'permit (principal, action, resource) unless { principal == Device::"x" };'
    world.admin.put("/v1/admin/policy", {"v": 1, "text": text})
    assert world.viewer.get("/v1/admin/labels").json["policy"]["whole"] is True


def test_whom_a_manifest_is_for_follows(world: World) -> None:
    """One that is for another ring judges the next attestation, and the one before no more."""
    device = world.enrolled(labels={"ring": "stable"})
    refusing = MANIFEST.replace("learn", "monitor") + "[pcrs.sha256]\n7 = ['" + "ab" * 32 + "']\n"
    added = world.admin.post("/v1/admin/references", refusing.encode(), content_type="application/toml")
    assert added.status_code == 201, added.text

    def watched() -> int:
        number = added.json["reference"]["number"]
        return int(world.viewer.get(f"/v1/admin/references/{number}/refusals").json["total"])

    world.clock.advance(seconds=5)
    assert device.attest().status_code == 200
    assert watched() == 0
    label(world, device, labels={"ring": "canary"})
    world.clock.advance(seconds=5)
    assert device.attest().status_code == 200
    assert watched() == 1
