"""How the authority stands, for whoever may look: no key's secret, and nothing that only its machine should tell."""

from __future__ import annotations

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from attestd.registry import audit
from tests import ek_ca
from tests.service import World


def test_what_there_is_and_what_comes_next(world: World) -> None:
    shown = world.viewer.get("/v1/admin/authority").json
    assert [(key["kind"], key["state"]) for key in shown["keys"]] == [
        ("root", "current"),
        ("issuer", "current"),
        *[(kind, state) for kind in ("bundle", "audit", "token", "sealing") for state in ("current", "next")],
    ]
    assert {due["kind"]: due["stage"] for due in shown["due"]} == {
        "root": "prepare",
        "issuer": "prepare",
        **dict.fromkeys(("bundle", "audit", "token", "sealing"), "activate"),
    }
    assert shown["lifetimes"]["device"] == 3600
    assert shown["lifetimes"]["token"] == 600
    root = world.hierarchy.root
    assert shown["certificates"][0] == {
        "kind": "root",
        "subject": root.subject.rfc4514_string(),
        "issuer": root.subject.rfc4514_string(),
        "sha256": root.fingerprint(hashes.SHA256()).hex(),
        "not_before": int(root.not_valid_before_utc.timestamp()),
        "not_after": int(root.not_valid_after_utc.timestamp()),
    }
    kinds = [one["kind"] for one in shown["certificates"]]
    assert kinds == ["root", "issuer", "bundle", "bundle", "audit", "audit"]


def test_no_secret_is_told(world: World) -> None:
    told = world.viewer.get("/v1/admin/authority").data.decode()
    folder = world.hierarchy.folder
    sealing = json.loads((folder / "keys" / "sealing.json").read_bytes())
    secrets = [key["key"] for key in sealing["keys"]]
    assert secrets
    assert not [secret for secret in secrets if secret in told]
    assert str(folder) not in told, "nor where the instance is"
    assert "PRIVATE" not in told


def test_a_key_that_is_away_is_said_to_be(world: World) -> None:
    (world.hierarchy.folder / "keys" / "root.pem").unlink()
    keys = world.viewer.get("/v1/admin/authority").json["keys"]
    assert {key["place"] for key in keys if key["kind"] == "root"} == {"elsewhere"}
    assert {key["place"] for key in keys if key["kind"] != "root"} == {"file"}


def test_looking_leaves_no_row(world: World) -> None:
    viewer = world.viewer
    with world.registry.reading() as c:
        before = audit.page(c)
    viewer.get("/v1/admin/authority")
    with world.registry.reading() as c:
        assert audit.page(c) == before


@pytest.mark.database
def test_who_depends_on_a_maker(world: World) -> None:
    """All machines count under the certificates above theirs; one that is retired no more."""
    first, second = world.enrolled(), world.enrolled()
    makers = {maker["sha256"] for maker in world.viewer.get("/v1/admin/trust").json["makers"]}
    counted = world.viewer.get("/v1/admin/trust/dependents").json["makers"]
    assert {entry["devices"] for entry in counted} == {2}
    assert makers <= {entry["sha256"] for entry in counted}
    other = ek_ca.maker("Second")
    world.admin.post("/v1/admin/trust", other.root.certificate, content_type="application/pkix-cert")
    unknown = x509.load_der_x509_certificate(other.root.certificate).fingerprint(hashes.SHA256()).hex()
    assert unknown not in {entry["sha256"] for entry in world.viewer.get("/v1/admin/trust/dependents").json["makers"]}
    world.operator.post(f"/v1/admin/devices/{world.row(first).id}/retire", {"v": 1})
    assert {entry["devices"] for entry in world.viewer.get("/v1/admin/trust/dependents").json["makers"]} == {1}
    world.operator.post(f"/v1/admin/devices/{world.row(second).id}/retire", {"v": 1})
    assert world.viewer.get("/v1/admin/trust/dependents").json["makers"] == []
