"""Rotation: each stage in its turn, at its time, and nothing that is still needed is forgotten."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from attestd.ca.authorities import ChainBroken, Lifetimes
from attestd.ca.hierarchy import AuditSignersMissing, Hierarchy, complete_hierarchy, examine, jwks
from attestd.ca.keystore import RootKeyAbsent
from attestd.ca.manifest import Entry, ManifestMalformed, read_manifest
from attestd.ca.rotation import (
    Due,
    KeysBusy,
    Pace,
    Rotating,
    Rotation,
    Stage,
    StageImpossible,
    StageNotDue,
    StillNeeded,
    alone,
    due,
)
from attestd.ca.sealing import SealKeyUnknown
from attestd.ca.unlocking import NOTHING
from attestd.credentials.transparency import AUDIT_EKU

from .conftest import NOW, Entropy, counted

PACE = Pace(publish=300, keep=600)
KINDS: tuple[Rotating, ...] = ("issuers", "bundle_signers", "audit_signers", "token_keys", "sealing_keys")


def at(instance: Path, minutes: float, *, needed: bool = False) -> Rotation:
    def in_use(entry: Entry) -> None:
        if needed:
            raise StillNeeded

    moment = NOW + timedelta(minutes=minutes)
    return Rotation(instance, NOTHING, Lifetimes(), lambda kind: PACE, in_use, moment, counted(f"{minutes}"))


def step(rotation: Rotation, kind: Rotating, stage: Stage | None = None, *, at_once: bool = False) -> Stage:
    return rotation.do(kind, *rotation.plan(kind, stage, at_once=at_once)).stage


def states(instance: Path, kind: Rotating) -> list[str]:
    if kind == "sealing_keys":
        return [key["state"] for key in json.loads((instance / "keys/sealing.json").read_text())["keys"]]
    return [entry.state for entry in read_manifest(instance).entries[kind]]


@pytest.mark.parametrize(
    ("held", "comes"),
    [
        (["current"], Due("prepare", 0)),
        (["current", "next"], Due("activate", 1300)),
        (["current", "old"], Due("retire", 1600)),
        (["current", "next", "old"], Due("retire", 1600)),
    ],
)
def test_what_is_due(held: list[str], comes: Due) -> None:
    assert due([Entry("k", state, 1000) for state in held], PACE) == comes  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_turn(instance: Path, kind: Rotating) -> None:
    seen = []
    for hour in range(1, 7):
        seen.append(step(at(instance, hour * 60), kind))
        Hierarchy.load(instance)
        assert examine(instance, NOW + timedelta(hours=hour)) == ()
    begin = 0 if kind == "issuers" else 1
    assert seen == [("prepare", "activate", "retire")[(begin + n) % 3] for n in range(6)]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_done_too_early(instance: Path, kind: Rotating) -> None:
    if kind == "issuers":
        step(at(instance, 0), kind)
    before = states(instance, kind)
    with pytest.raises(StageNotDue):
        step(at(instance, 4.9), kind)
    assert states(instance, kind) == before
    assert step(at(instance, 5), kind) == "activate"
    if kind != "issuers":  # those are kept for as long as their certificates count
        with pytest.raises(StageNotDue):
            step(at(instance, 14.9), kind)
    assert step(at(instance, 15), kind) == "retire"


def test_now_is_now(instance: Path) -> None:
    assert [step(at(instance, 0), "token_keys", at_once=True) for _ in range(3)] == ["activate", "retire", "prepare"]


def test_an_issuer_that_is_needed_stays_whatever_is_said(instance: Path) -> None:
    step(at(instance, 0), "issuers")
    step(at(instance, 10), "issuers")
    for at_once in (False, True):
        with pytest.raises(StillNeeded):
            step(at(instance, 9999, needed=True), "issuers", at_once=at_once)
    assert states(instance, "issuers") == ["current", "old"]


@pytest.mark.parametrize(("stage", "kind"), [("activate", "issuers"), ("retire", "issuers"), ("prepare", "token_keys")])
def test_a_stage_that_has_nothing_to_do_is_refused(instance: Path, stage: Stage, kind: Rotating) -> None:
    with pytest.raises(StageImpossible):
        step(at(instance, 999), kind, stage, at_once=True)


def test_a_rotation_may_begin_while_an_old_key_is_kept(instance: Path) -> None:
    """A second key leaked: nobody waits for the first one's certificates."""
    stages: tuple[Stage, ...] = ("prepare", "activate", "prepare", "activate")
    for minute, stage in enumerate(stages):
        step(at(instance, minute, needed=True), "issuers", stage, at_once=True)
    assert states(instance, "issuers") == ["current", "old", "old"]
    assert len(Hierarchy.load(instance).issuers) == 3


# ---- What follows from it ---------------------------------------------------------------------------------------


def test_a_hierarchy_in_use_follows(instance: Path, entropy: Entropy) -> None:
    house = Hierarchy.load(instance)
    sealing, sealed = house.sealing, house.sealing.seal(b"x", purpose="p", entropy=entropy)
    first, kids = house.issuer.certificate, {key.kid for key in house.token_keys}
    assert not house.refresh()
    step(at(instance, 0), "issuers")
    assert house.refresh()
    assert not house.refresh()
    assert house.issuer.certificate == first
    step(at(instance, 10), "issuers")
    step(at(instance, 10), "token_keys")
    step(at(instance, 10), "sealing_keys")
    assert house.refresh()
    assert house.issuer.certificate != first == house.issuers[1].certificate
    assert {key["kid"] for key in jwks(house)["keys"]} == kids
    assert house.sealing is sealing
    assert sealing.open(sealed, purpose="p") == b"x"  # the old key opens
    assert sealing.seal(b"x", purpose="p", entropy=entropy)[1:9] != sealed[1:9]
    step(at(instance, 60), "sealing_keys")
    house.refresh()
    with pytest.raises(SealKeyUnknown):
        sealing.open(sealed, purpose="p")


def test_what_did_not_change_is_not_opened_again(instance: Path) -> None:
    house = Hierarchy.load(instance)
    signer = house.bundle_signer
    step(at(instance, 0), "issuers")
    house.refresh()
    assert house.bundle_signer is signer


def test_keys_that_broke_stay_in_use_until_they_are_mended(instance: Path) -> None:
    house = Hierarchy.load(instance)
    manifest = instance / "ca/hierarchy.json"
    good = manifest.read_text()
    manifest.write_text("{")
    for _ in range(2):
        with pytest.raises(ManifestMalformed):
            house.refresh()
    assert house.issuer.sign(b"data")
    manifest.write_text(good)
    house.refresh()
    assert house.issuer.sign(b"data")


def test_a_chain_names_the_issuer_that_signed(instance: Path) -> None:
    """Also for a certificate that was signed a moment before the issuer changed."""
    house = Hierarchy.load(instance)
    first = house.issuer
    step(at(instance, 0), "issuers")
    step(at(instance, 10), "issuers")
    house.refresh()
    for issuer in (first, house.issuer):
        (above,) = x509.load_pem_x509_certificates(house.chain_above(issuer.key_identifier).encode())
        assert above == issuer.certificate


def test_a_retired_key_is_gone_from_the_disk(instance: Path) -> None:
    step(at(instance, 10), "token_keys")
    assert (instance / "keys/token-1.pem").exists()
    step(at(instance, 60), "token_keys")
    assert not (instance / "keys/token-1.pem").exists()


def test_what_needs_the_root_says_so_and_changes_nothing(instance: Path) -> None:
    (instance / "keys/root.pem").unlink()
    before = sorted(path.name for path in instance.rglob("*"))
    with pytest.raises(RootKeyAbsent):
        step(at(instance, 0), "issuers")
    assert sorted(path.name for path in instance.rglob("*")) == before
    step(at(instance, 10), "bundle_signers")  # this stage needs no signature


def test_nothing_outlives_its_root(instance: Path, hierarchy: Hierarchy) -> None:
    late = hierarchy.root.not_valid_after_utc - timedelta(days=5)
    rotation = replace(at(instance, 0), now=late)
    step(rotation, "issuers")
    made = Hierarchy.load(instance).issuers[1].certificate
    assert made.not_valid_after_utc == hierarchy.root.not_valid_after_utc


def test_one_command_at_a_time(instance: Path) -> None:
    with alone(instance), pytest.raises(KeysBusy), alone(instance):
        pass
    with alone(instance):
        pass


# ---- Signers of audit heads -------------------------------------------------------------------------------------


@pytest.fixture
def older(instance: Path) -> Path:
    """An instance of the first release, which had no signers of audit heads."""
    path = instance / "ca/hierarchy.json"
    members = json.loads(path.read_text())
    del members["audit_signers"]
    for listed in members.values():
        for entry in listed if isinstance(listed, list) else ():
            del entry["since"]
    path.write_text(json.dumps(members))
    for name in ("audit-1", "audit-2"):
        for folder in ("ca", "keys"):
            (instance / folder / f"{name}.pem").unlink()
    return instance


def test_audit_signers_are_for_heads_alone(hierarchy: Hierarchy) -> None:
    for signer in hierarchy.audit_signers:
        purposes = signer.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert (purposes.critical, list(purposes.value)) == (True, [AUDIT_EKU])


def test_a_bundle_signer_is_no_audit_signer(instance: Path) -> None:
    path = instance / "ca/hierarchy.json"
    members = json.loads(path.read_text())
    members["audit_signers"], members["bundle_signers"] = members["bundle_signers"], members["audit_signers"]
    path.write_text(json.dumps(members))
    with pytest.raises(ChainBroken, match="something else than"):
        Hierarchy.load(instance)


def test_an_older_instance_says_what_it_lacks_and_is_completed(older: Path, entropy: Entropy) -> None:
    with pytest.raises(AuditSignersMissing) as caught:
        Hierarchy.load(older)
    assert "attestd upgrade" in caught.value.what_to_do
    assert [type(problem) for problem in examine(older, NOW)] == [AuditSignersMissing]
    issuer = x509.load_pem_x509_certificate((older / "ca/issuer.pem").read_bytes())
    assert len(complete_hierarchy(older, now=NOW, entropy=entropy)) == 2
    house = Hierarchy.load(older)
    assert house.issuer.certificate == issuer
    assert [entry.state for entry in read_manifest(older).entries["audit_signers"]] == ["current", "next"]
    assert complete_hierarchy(older, now=NOW, entropy=entropy) == ()


def test_completing_needs_the_root_and_may_be_interrupted(older: Path, entropy: Entropy) -> None:
    key = older / "keys/root.pem"
    away = key.rename(older / "root.away")
    with pytest.raises(RootKeyAbsent):
        complete_hierarchy(older, now=NOW, entropy=entropy)
    away.rename(key)
    calls = 0

    def dying(size: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return entropy(size)

    with pytest.raises(KeyboardInterrupt):
        complete_hierarchy(older, now=NOW, entropy=dying)
    assert complete_hierarchy(older, now=NOW, entropy=entropy)
    assert Hierarchy.load(older).audit_signer
