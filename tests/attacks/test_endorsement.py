"""Attacks on who vouches for a TPM: stolen certificates, relays, and genuine TPMs that are somebody else's.

A maker's chain proves *a* TPM and never *yours* (Parno 2008); the rest of an EK certificate's odd inputs is tested
file by file in tests/unit/tpm. Each lie here is told at the HTTP door, beside the truth that passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from attestd.protocol.derivations import completion_proof
from attestd.protocol.messages import CompleteRequest
from attestd.registry.states import State
from tests import ek_ca
from tests.attacks.ledger import Ledger, refused
from tests.forger import Forger, ForgerRefused, forge_ek
from tests.service import SoftDevice, World

BEGIN = "/v1/enrollments"
Count = Callable[[], Ledger]


def begins(device: SoftDevice) -> bool:
    return device.world.post(BEGIN, device.begin_request().to_bytes()).status_code == 200


def refuses(device: SoftDevice, name: str, status: int = 403) -> bool:
    return refused(device.world.post(BEGIN, device.begin_request().to_bytes()), status, name)


# ---- Certificates that are somebody else's ----------------------------------------------------------------------


def test_a_stolen_certificate_for_the_thief_s_own_key(world: World) -> None:
    victim = world.device()
    thief = world.device(certificates=victim.certificates)
    assert begins(victim)
    assert refuses(thief, "certificate-for-another-key")


def test_a_stolen_certificate_and_public_key_without_the_tpm(world: World, ledger: Count) -> None:
    """EK certificates are public. Whoever has one gets a challenge, and nobody but the TPM can answer it."""
    victim = world.enrolled()
    before = ledger()
    thief = world.device(
        Forger(ek=replace(victim.tpm.ek, private=forge_ek().private)), certificates=victim.certificates
    )
    challenge = thief.begin()
    with pytest.raises(ForgerRefused):
        thief.tpm.activate(challenge.credential_blob, challenge.secret)
    body = thief.evidence(challenge).to_bytes()
    guess = CompleteRequest(challenge.challenge, body, completion_proof(secret=bytes(32), body=body))
    assert refused(world.post(f"{BEGIN}/complete", guess.to_bytes()), 403, "activation-proof-wrong")
    assert ledger() == before
    assert victim.attest().status_code == 200


def test_a_relay_to_the_victim_s_tpm_activates_nothing_for_another_key(world: World, ledger: Count) -> None:
    """Known EK, the attacker's AK: the victim's TPM holds no key of that Name, so it releases no secret."""
    victim = world.enrolled()
    attacker = world.device(Forger(ek=victim.tpm.ek), certificates=victim.certificates)
    before = ledger()
    challenge = attacker.begin()
    with pytest.raises(ForgerRefused):
        victim.tpm.activate(challenge.credential_blob, challenge.secret)  # in the victim's TPM: its own AK
    assert ledger() == before


def test_a_cuckoo_is_a_device_of_its_own(world: World) -> None:
    """A genuine TPM of the same maker waits for approval under its own id, whatever it would like to be."""
    victim = world.enrolled()
    cuckoo = world.device()
    assert cuckoo.enroll().status_code == 202
    assert world.row(cuckoo).id != victim.id
    assert world.row(cuckoo).state is State.PENDING
    assert cuckoo.answer is None


def test_a_cuckoo_can_not_sign_as_the_victim(world: World, ledger: Count) -> None:
    victim, cuckoo = world.enrolled(), world.enrolled()
    before = ledger()
    assert refused(cuckoo.attest(kid=victim.id), 401, "signature-wrong")
    assert ledger() == before
    assert cuckoo.attest().status_code == 200


def test_registering_again_from_another_tpm_changes_no_keys(world: World, ledger: Count) -> None:
    """Keylime CVE-2025-13609: an id was taken over by registering it from another TPM."""
    victim = world.enrolled()
    keys = world.row(victim).ck_public
    other = world.device(Forger(ak=victim.tpm.ak, ck=victim.tpm.ck))  # even with the victim's public areas
    assert other.enroll().status_code == 202
    assert world.row(victim).ck_public == keys
    assert victim.renew().status_code == 200


def test_an_id_of_the_inventory_belongs_to_one_ek(world: World) -> None:
    mine, other = world.device(), world.device()
    line = f"id,ek_hash,tier,site\nbike-1,{mine.ek_hash.hex()},device,shop-1\n".encode()
    assert world.operator.post("/v1/admin/devices/import", line, content_type="text/csv").status_code == 200
    again = f"id,ek_hash,tier,site\nbike-1,{other.ek_hash.hex()},device,shop-1\n".encode()
    taken = world.operator.post("/v1/admin/devices/import", again, content_type="text/csv")
    assert refused(taken, 409, "inventory-conflicts")
    assert mine.enroll().status_code == 200
    assert mine.id == "bike-1"
    assert other.enroll().status_code == 202


def test_the_inventory_s_hash_is_of_exactly_this_key(world: World) -> None:
    """Without a certificate the hash is all there is: a public area that differs in one bit is another one."""
    mine = world.device(certificates=[])
    line = f"ek_hash,tier,site\n{mine.ek_hash.hex()},device,shop-1\n".encode()
    assert world.operator.post("/v1/admin/devices/import", line, content_type="text/csv").status_code == 200
    other = SoftDevice(world, Forger(), [])
    assert refuses(other, "no-endorsement")
    assert mine.enroll().status_code == 200


def test_one_chip_with_two_endorsement_keys_is_approved_twice(world: World) -> None:
    """Chips have an RSA and an ECC EK. The second one does not inherit the first one's approval, nor its id."""
    first = world.enrolled()
    second = world.device(Forger(ek=forge_ek("L-1"), ak=first.tpm.ak, ck=first.tpm.ck))
    assert second.enroll().status_code == 202
    assert world.row(second).id != world.row(first).id


def test_a_second_endorsement_key_does_not_end_a_quarantine(world: World) -> None:
    first = world.enrolled()
    world.operator.post(f"/v1/admin/devices/{first.id}/quarantine", {"v": 1})
    second = world.device(Forger(ek=forge_ek("L-1"), ak=first.tpm.ak, ck=first.tpm.ck))
    assert second.enroll().status_code == 202
    assert world.row(first).state is State.QUARANTINED
    assert refused(first.renew(), 403, "device-quarantined")


# ---- Chains -----------------------------------------------------------------------------------------------------


def test_a_chain_that_brings_its_own_root(world: World) -> None:
    """A root in the request is no trust anchor, also when it has the trusted one's name."""
    impostor = ek_ca.MakerCa("Maker Root", ek_ca.ec_key("impostor")).self_signed()
    tpm = Forger()
    leaf = impostor.ek_certificate(tpm.ek.private.public_key())
    device = world.device(tpm, certificates=[leaf, impostor.certificate])
    assert refuses(device, "issuer-key-differs")
    assert begins(world.device())


def test_the_real_chain_beside_a_self_signed_leaf(world: World) -> None:
    """The honest intermediate and root next to a leaf that they did not sign prove nothing."""
    impostor = ek_ca.MakerCa("Maker Intermediate", ek_ca.ec_key("impostor"))
    tpm = Forger()
    leaf = impostor.ek_certificate(tpm.ek.private.public_key())
    device = world.device(tpm, certificates=[*world.maker.chain(leaf), world.maker.root.certificate])
    answer = world.post(BEGIN, device.begin_request().to_bytes())
    assert answer.status_code == 403, answer.text


def test_a_tpm_s_certificate_certifies_no_other_tpm(world: World) -> None:
    """An EK certificate is a leaf; with its key nobody makes more TPMs."""
    genuine = world.device()
    fake = Forger()
    as_ca = ek_ca.MakerCa("", genuine.tpm.ek.private)
    leaf = as_ca.ek_form(fake.ek.private.public_key()).but(issuer=ek_ca.EMPTY_NAME).sign(as_ca.key)
    device = world.device(fake, certificates=[leaf, *genuine.certificates])
    answer = world.post(BEGIN, device.begin_request().to_bytes())
    assert answer.status_code == 403, answer.text
    assert begins(genuine)


def test_a_certificate_outside_its_dates(world: World) -> None:
    device = world.device()
    assert begins(device)
    world.clock.now = ek_ca.END + timedelta(seconds=1)
    assert refuses(device, "maker-certificate-expired")


def test_a_certificate_outside_its_own_dates(world: World) -> None:
    """The leaf alone, under CAs that are within theirs."""
    tpm = Forger()
    form = world.maker.intermediate.ek_form(tpm.ek.private.public_key())
    key = world.maker.intermediate.key
    day = timedelta(days=1)
    for name, lie in (
        ("maker-certificate-expired", form.but(not_after=world.clock() - day)),
        ("maker-certificate-not-yet-valid", form.but(not_before=world.clock() + day)),
    ):
        assert refuses(world.device(tpm, certificates=world.maker.chain(lie.sign(key))), name)
    assert begins(world.device(tpm, certificates=world.maker.chain(form.sign(key))))


def test_a_critical_extension_that_is_not_understood(world: World) -> None:
    """The profile's critical SAN is read; nothing else that is critical is waved through with it."""
    tpm = Forger()
    form = world.maker.intermediate.ek_form(tpm.ek.private.public_key())
    key = world.maker.intermediate.key
    for critical, fine in ((None, True), (True, False)):
        leaf = form.with_extension(ek_ca.Extension("1.2.3.4.5", ek_ca.NULL, critical)).sign(key)
        device = world.device(tpm, certificates=world.maker.chain(leaf))
        assert begins(device) if fine else refuses(device, "unhandled-critical-extension")


def test_an_empty_trust_store_trusts_nobody(world: World) -> None:
    """Absence fails: without anchors there is nothing to verify against (pypi/warehouse's rule)."""
    device = world.device()
    assert begins(device)
    listed = world.viewer.get("/v1/admin/trust").get_json()
    for maker in next(value for value in listed.values() if isinstance(value, list)):
        assert world.admin.delete(f"/v1/admin/trust/{maker['sha256']}").status_code in (200, 204)
    assert refuses(device, "no-trust-anchors")


def test_nobody_who_may_not_adds_a_maker(world: World) -> None:
    other = ek_ca.maker("Attacker")
    pem = {"content_type": "application/pkix-cert"}
    tpm = Forger()
    device = world.device(tpm, certificates=other.chain(other.intermediate.ek_certificate(tpm.ek.private.public_key())))
    for caller, status in ((world.operator, 403), (world.viewer, 403), (world.proxy, 401)):
        assert caller.post("/v1/admin/trust", other.root.certificate, **pem).status_code == status
        assert refuses(device, "untrusted-maker")
    assert world.admin.post("/v1/admin/trust", other.root.certificate, **pem).status_code == 200
    assert begins(device)


def test_a_tpm_s_own_certificate_is_no_maker(world: World) -> None:
    leaf = world.device().certificates[0]
    answer = world.admin.post("/v1/admin/trust", leaf, content_type="application/pkix-cert")
    assert answer.status_code == 400, answer.text


# ---- States -----------------------------------------------------------------------------------------------------


def test_a_maker_s_word_alone_gives_no_credential(world: World, ledger: Count) -> None:
    """The default is approval: asking any number of times is one row that waits."""
    device = world.device()
    for _ in range(3):
        assert device.enroll().status_code == 202
    assert len(ledger().devices) == 1
    assert not ledger().certificates
    assert device.answer is None


def test_a_replaced_tpm_signs_nothing_more(world: World, ledger: Count) -> None:
    old, new = world.enrolled(), world.device()
    world.operator.post(f"/v1/admin/devices/{old.id}/replace", {"v": 1, "ek_hash": new.ek_hash.hex()})
    before = ledger()
    assert refused(old.attest(), 401, "device-unknown")
    assert refused(old.renew(), 401, "device-unknown")
    assert refused(old.token(), 401, "device-unknown")
    assert refused(old.enroll(), 403, "endorsement-key-blocked")
    assert ledger() == before
    assert new.enroll().status_code == 200
    assert new.id == old.id


def test_a_replaced_tpm_does_not_come_back_through_inventory_or_replacement(world: World) -> None:
    old, new, third = world.enrolled(), world.device(), world.enrolled()
    world.operator.post(f"/v1/admin/devices/{old.id}/replace", {"v": 1, "ek_hash": new.ek_hash.hex()})
    line = f"ek_hash,tier,site\n{old.ek_hash.hex()},device,shop-1\n".encode()
    back = world.operator.post("/v1/admin/devices/import", line, content_type="text/csv")
    assert refused(back, 409, "inventory-conflicts")
    back = world.operator.post(f"/v1/admin/devices/{third.id}/replace", {"v": 1, "ek_hash": old.ek_hash.hex()})
    assert refused(back, 409, "ek-blocked")


def test_one_tpm_does_not_replace_another_device_s(world: World, ledger: Count) -> None:
    first, second = world.enrolled(), world.enrolled()
    before = ledger()
    taken = world.operator.post(f"/v1/admin/devices/{first.id}/replace", {"v": 1, "ek_hash": second.ek_hash.hex()})
    assert refused(taken, 409, "ek-taken")
    assert ledger() == before


@pytest.mark.parametrize("act", ["reject", "quarantine", "retire"])
def test_enrolling_again_improves_no_state(world: World, act: str, tmp_path: Path) -> None:
    device = world.device()
    device.enroll()
    if act != "reject":
        world.approve(device)
        device.enroll()
    device.answer = None
    world.operator.post(f"/v1/admin/devices/{world.row(device).id}/{act}", {"v": 1})
    device.enroll()
    assert device.answer is None
    assert world.row(device).state in (State.REJECTED, State.QUARANTINED, State.PENDING)
