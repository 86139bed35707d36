"""Operators are added and disabled by admins, at once and for every process, and never to the last admin."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.credentials.requests import SoftwareKey
from attestd.ids import Serial
from attestd.registry import audit, issued, operators
from attestd.registry.engine import Registry
from attestd.web.app import create_app
from tests.service import Caller, World, problem, wire

OPERATORS = "/v1/admin/operators"


def new_key() -> SoftwareKey:
    return SoftwareKey(ec.generate_private_key(ec.SECP256R1()))


def pem(key: SoftwareKey) -> str:
    return key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def add(world: World, name: str = "ada", role: str = "operator", key: SoftwareKey | None = None) -> Caller:
    key = key or new_key()
    answer = world.admin.post(OPERATORS, {"v": 1, "name": name, "role": role, "public_key": pem(key)})
    assert answer.status_code == 201, answer.text
    return Caller(world, key)


def refused(world: World, **lies: str) -> tuple[int, str]:
    message = {"v": 1, "name": "ada", "role": "operator", "public_key": pem(new_key()), **lies}
    answer = world.admin.post(OPERATORS, message)
    return answer.status_code, problem(answer)


def disable(world: World, name: str, by: Caller | None = None) -> tuple[int, str]:
    answer = (by or world.admin).post(f"{OPERATORS}/{name}/disable", {"v": 1, "reason": "left"})
    return answer.status_code, "" if answer.status_code == 200 else problem(answer)


def test_a_new_operator_may_do_what_the_role_says(world: World) -> None:
    world.caller("admin")
    ada, eve = add(world), add(world, "eve", "viewer")
    device = world.enrolled()
    assert eve.get("/v1/admin/overview").status_code == 200
    assert problem(eve.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})) == "role-too-low"
    assert ada.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1}).status_code == 200
    assert problem(ada.post(OPERATORS, {"v": 1})) == "role-too-low"


def test_the_answer_holds_the_chain_and_the_root(world: World) -> None:
    key = new_key()
    answer = world.admin.post(OPERATORS, {"v": 1, "name": "ada", "role": "viewer", "public_key": pem(key)}).json
    chain = x509.load_pem_x509_certificates((answer["chain"] + answer["root"]).encode())
    assert chain[0].public_key() == key.public_key
    assert chain[-1] == world.hierarchy.root
    for certificate, issuer in pairwise(chain):
        certificate.verify_directly_issued_by(issuer)
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://fleet.example/admin/ada"]
    with world.registry.reading() as c:
        assert issued.by_serial(c, Serial(chain[0].serial_number)).profile == "admin"


def test_each_act_is_in_the_trail_with_the_caller_s_name(world: World) -> None:
    add(world)
    disable(world, "ada")
    with world.registry.reading() as c:
        disabled, added = audit.page(c, subject="ada")[:2]
    assert (added.act, added.actor, added.detail["role"]) == ("add-operator", "operator:admin-1", "operator")
    assert (disabled.act, disabled.actor) == ("disable-operator", "operator:admin-1")
    assert disabled.detail["reason"] == "left"


@pytest.mark.parametrize(
    ("lie", "problem_name"),
    [
        ({"name": "Ada"}, "malformed-name"),
        ({"name": ""}, "malformed-name"),
        ({"name": "a/b"}, "malformed-name"),
        ({"role": "owner"}, "unknown-role"),
        ({"role": ""}, "unknown-role"),
        ({"role": "proxy"}, "unknown-role"),
        ({"public_key": "key"}, "unusable-public-key"),
        ({"more": "x"}, "malformed-json"),
    ],
)
def test_what_can_t_be_added(world: World, lie: dict[str, str], problem_name: str) -> None:
    assert refused(world, **lie) == (400, problem_name)


def test_a_private_key_is_not_taken_for_a_public_one(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    answer = world.admin.post(OPERATORS, {"v": 1, "name": "ada", "role": "viewer", "public_key": private})
    assert problem(answer) == "unusable-public-key"
    assert private[40:80] not in answer.text


def test_a_name_and_a_key_are_one_operator_s(world: World) -> None:
    ada = add(world)
    assert refused(world) == (409, "operator-taken")  # another key for a name that is in use
    assert refused(world, name="bob", public_key=pem(ada.key)) == (409, "operator-taken")
    assert refused(world, role="admin", public_key=pem(ada.key)) == (409, "operator-taken")  # no promotion by the way
    assert refused(world, name="eve", public_key=pem(world.proxy.key)) == (409, "operator-taken")
    assert ada.get("/v1/admin/overview").status_code == 200


def test_adding_again_renews(world: World) -> None:
    ada = add(world)
    world.clock.advance(days=60)
    world.add_caller("admin", world.new_caller("admin", "admin-2"))
    add(world, key=ada.key)
    world.clock.advance(days=60)
    assert ada.get("/v1/admin/overview").status_code == 200


def test_disabling_counts_from_the_next_call_on_in_every_process(world: World, tmp_path: Path) -> None:
    """A second process is a second application over the same database, with everything that it has ever read."""
    ada = add(world)
    registry = Registry.open(world.settings.database_url)
    elsewhere = create_app(wire(world.settings, world.hierarchy, registry, world.clock))
    path = "/v1/admin/overview"

    def call_elsewhere() -> int:
        headers = {"Authorization": ada.authorize("GET", path)}
        return elsewhere.test_client().get(path, headers=headers).status_code

    assert (ada.get(path).status_code, call_elsewhere()) == (200, 200)
    assert disable(world, "ada") == (200, "")
    assert problem(ada.get(path)) == "caller-disabled"
    assert call_elsewhere() == 401
    registry.close()


def test_a_disabled_operator_s_credential_is_revoked(world: World) -> None:
    add(world)
    with world.registry.reading() as c:
        serial = Serial(x509.load_der_x509_certificate(operators.by_name(c, "ada").key.certificate).serial_number)
        assert not issued.is_revoked(c, serial)
    disable(world, "ada")
    with world.registry.reading() as c:
        assert issued.is_revoked(c, serial)


def test_disabling_twice_or_nobody(world: World) -> None:
    add(world)
    assert disable(world, "ada") == (200, "")
    assert disable(world, "ada") == (404, "unknown-operator")
    assert disable(world, "nobody") == (404, "unknown-operator")


def test_who_was_disabled_is_added_anew_with_a_key_and_a_role(world: World) -> None:
    before = add(world, role="admin")
    disable(world, "ada")
    after = add(world, role="viewer")
    assert after.get("/v1/admin/overview").status_code == 200
    assert problem(after.post(OPERATORS, {"v": 1})) == "role-too-low"
    assert problem(before.get("/v1/admin/overview")) == "caller-unknown"
    listed = {entry["name"]: entry for entry in world.viewer.get(OPERATORS).json["operators"]}
    assert (listed["ada"]["role"], listed["ada"]["disabled_at"]) == ("viewer", None)


def test_the_last_admin_stays(world: World) -> None:
    assert disable(world, "admin-1") == (409, "last-admin")
    ada = add(world, role="admin")
    assert disable(world, "admin-1", by=ada) == (200, "")
    assert disable(world, "ada", by=ada) == (409, "last-admin")
    assert ada.get("/v1/admin/overview").status_code == 200


def test_an_admin_whose_credential_ended_is_no_other_admin(world: World) -> None:
    world.caller("admin")
    world.clock.advance(days=50)
    ada = add(world, role="admin")
    world.clock.advance(days=50)  # admin-1's ended, which was for 90 days
    assert disable(world, "ada", by=ada) == (409, "last-admin")


def test_two_admins_who_disable_each_other_at_once(world: World) -> None:
    ada = add(world, role="admin")
    answers: list[tuple[int, str]] = []
    barrier = threading.Barrier(2)

    def run(name: str, by: Caller) -> None:
        barrier.wait()
        answers.append(disable(world, name, by=by))

    both = [
        threading.Thread(target=run, args=("ada", world.admin)),
        threading.Thread(target=run, args=("admin-1", ada)),
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    with world.registry.reading() as c:
        assert len([entry for entry in operators.every(c) if entry.role == "admin" and not entry.disabled_at]) == 1
    assert sorted(status for status, _ in answers) in ([200, 401], [200, 409])
