"""The hierarchy on disk: made once, whole or not at all; read with every mismatch named."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.ca.authorities import AuthorityExpired, AuthorityExpiring, ChainBroken, Lifetimes
from attestd.ca.hierarchy import (
    Hierarchy,
    HierarchyExists,
    HierarchyMissing,
    KeyReused,
    ManifestMalformed,
    create_hierarchy,
    examine,
    jwks,
)
from attestd.ca.keyfiles import KeyFileExists, KeyFileExposed, KeyFileMissing
from attestd.ca.profiles import LifetimesContradict
from attestd.ca.sealing import SealingKeysMalformed
from attestd.ca.signer import CertificateFileMalformed, KeyFileMalformed, KeyMismatch, NotAnAuthority
from attestd.credentials.jwk import jwk_thumbprint, read_jwk
from attestd.errors import AttestdError
from attestd.ids import TrustDomain

from .conftest import DOMAIN, NOW, Entropy, counted

DAY = timedelta(days=1)
SECRETS = {"root", "issuer", "bundle-1", "bundle-2", "audit-1", "audit-2", "token-1", "token-2"}
CERTIFICATES = {"root", "issuer", "bundle-1", "bundle-2", "audit-1", "audit-2"}


# ---- Making it --------------------------------------------------------------------------------------------------


def test_what_is_on_disk(hierarchy: Hierarchy) -> None:
    folder = hierarchy.folder
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "keys").iterdir()} == {
        **{f"{name}.pem": 0o600 for name in SECRETS},
        "sealing.json": 0o600,
    }
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "ca").iterdir()} == {
        **{f"{name}.pem": 0o644 for name in CERTIFICATES},
        "hierarchy.json": 0o644,
    }
    made = {"since": int(NOW.timestamp())}
    current, following = made | {"state": "current"}, made | {"state": "next"}
    assert json.loads((folder / "ca/hierarchy.json").read_text()) == {
        "v": 1,
        "trust_domain": "example.org",
        "roots": [{"name": "root", **current}],
        "issuers": [{"name": "issuer", **current}],
        "bundle_signers": [{"name": "bundle-1", **current}, {"name": "bundle-2", **following}],
        "audit_signers": [{"name": "audit-1", **current}, {"name": "audit-2", **following}],
        "token_keys": [{"name": "token-1", **current}, {"name": "token-2", **following}],
    }
    listed = json.loads((folder / "keys/sealing.json").read_text())["keys"]
    assert [key["state"] for key in listed] == ["current", "next"]


def test_the_current_ones_come_first(hierarchy: Hierarchy) -> None:
    again = Hierarchy.load(hierarchy.folder)
    assert again.root == hierarchy.root
    assert again.issuer.certificate == hierarchy.issuer.certificate
    assert again.bundle_signer.certificate == hierarchy.bundle_signers[0].certificate
    assert [key.state for key in again.token_keys] == ["current", "next"]
    assert again.token_key.kid == hierarchy.token_key.kid
    assert again.trust_domain == DOMAIN


def test_rotation_needs_no_new_format(instance: Path) -> None:
    """The next becomes current and the current old: one change of one file."""
    before = Hierarchy.load(instance)
    edit(instance, lambda m: m["token_keys"][0].update(state="old") or m["token_keys"][1].update(state="current"))
    after = Hierarchy.load(instance)
    assert [key.state for key in after.token_keys] == ["current", "old"]
    assert after.token_key.kid == before.token_keys[1].kid
    assert {key["kid"] for key in jwks(after)["keys"]} == {key.kid for key in before.token_keys}


def test_the_key_set(hierarchy: Hierarchy) -> None:
    document = jwks(hierarchy)
    assert [key["kid"] for key in document["keys"]] == [key.kid for key in hierarchy.token_keys]
    for jwk, key in zip(document["keys"], hierarchy.token_keys, strict=True):
        assert set(jwk) == {"kty", "crv", "x", "y", "kid", "use", "alg"}  # public members only
        assert (jwk["use"], jwk["alg"]) == ("sig", "ES256")
        public = read_jwk({name: jwk[name] for name in ("kty", "crv", "x", "y")})
        assert jwk["kid"] == jwk_thumbprint(public) == key.kid
    for kid, members in hierarchy.token_jwks.items():
        assert jwk_thumbprint(read_jwk(members)) == kid


def test_nothing_is_overwritten(instance: Path, entropy: Entropy) -> None:
    before = {path: path.read_bytes() for path in instance.rglob("*") if path.is_file()}
    with pytest.raises(HierarchyExists):
        create_hierarchy(instance, DOMAIN, now=NOW, entropy=entropy)
    (instance / "ca/hierarchy.json").unlink()  # as if it had been interrupted
    with pytest.raises(KeyFileExists):
        create_hierarchy(instance, DOMAIN, now=NOW, entropy=entropy)
    for path, data in before.items():
        assert path.name == "hierarchy.json" or path.read_bytes() == data


def test_lifetimes_that_contradict_each_other_write_nothing(tmp_path: Path, entropy: Entropy) -> None:
    for lifetimes, said in (
        (Lifetimes(root=DAY, issuer=2 * DAY, bundle_signer=DAY), "issuer 2 d ≤ root 1 d: VIOLATED"),
        (Lifetimes(root=DAY, issuer=DAY, bundle_signer=2 * DAY), "bundle signer 2 d ≤ root 1 d: VIOLATED"),
    ):
        with pytest.raises(LifetimesContradict, match=said):
            create_hierarchy(tmp_path, DOMAIN, now=NOW, entropy=entropy, lifetimes=lifetimes)
    assert list(tmp_path.iterdir()) == []
    create_hierarchy(
        tmp_path, DOMAIN, now=NOW, entropy=entropy, lifetimes=Lifetimes(root=DAY, issuer=DAY, bundle_signer=DAY)
    )


def test_a_folder_that_others_enter_gets_no_keys(tmp_path: Path, entropy: Entropy) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(KeyFileExposed):
        create_hierarchy(tmp_path, DOMAIN, now=NOW, entropy=entropy)
    assert list((tmp_path / "keys").iterdir()) == []


# ---- Reading it -------------------------------------------------------------------------------------------------


def edit(instance: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = instance / "ca/hierarchy.json"
    members = json.loads(path.read_text())
    change(members)
    path.write_text(json.dumps(members))


def problems(folder: Path) -> list[AttestdError]:
    return list(examine(folder, NOW))


def test_a_sound_instance_has_no_problem(instance: Path) -> None:
    assert problems(instance) == []


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(HierarchyMissing) as caught:
        Hierarchy.load(tmp_path)
    assert "attestd init" in caught.value.what_to_do
    assert [type(problem) for problem in problems(tmp_path)] == [HierarchyMissing]


FILES = [f"keys/{name}.pem" for name in sorted(SECRETS - {"root"})] + [
    f"ca/{name}.pem" for name in sorted(CERTIFICATES)
]


@pytest.mark.parametrize("file", [*FILES, "keys/sealing.json"])
def test_each_missing_file_is_named(instance: Path, file: str) -> None:
    (instance / file).unlink()
    with pytest.raises(KeyFileMissing, match=file):
        Hierarchy.load(instance)
    assert any(isinstance(problem, KeyFileMissing) and file in problem.detail for problem in problems(instance))


@pytest.mark.parametrize("file", [*FILES, "keys/root.pem", "keys/sealing.json"])
def test_each_spoilt_file_is_named(instance: Path, file: str) -> None:
    (instance / file).write_bytes(b"spoilt")
    named = (KeyFileMalformed, CertificateFileMalformed, SealingKeysMalformed)
    with pytest.raises(named, match=file):
        Hierarchy.load(instance)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_each_exposed_key_is_named_with_the_command_that_mends_it(instance: Path, name: str) -> None:
    path = instance / f"keys/{name}.pem"
    path.chmod(0o640)
    with pytest.raises(KeyFileExposed):
        Hierarchy.load(instance)
    (problem,) = problems(instance)
    assert f"chmod 600 {path}" in problem.what_to_do


def test_an_exposed_folder_is_named(instance: Path) -> None:
    (instance / "keys").chmod(0o750)
    with pytest.raises(KeyFileExposed, match="0750"):
        Hierarchy.load(instance)


@pytest.mark.parametrize("name", sorted(CERTIFICATES))
def test_each_key_must_be_its_certificates(instance: Path, name: str) -> None:
    shutil.copy(instance / "keys/token-1.pem", instance / f"keys/{name}.pem")
    (instance / f"keys/{name}.pem").chmod(0o600)
    with pytest.raises(KeyMismatch, match=f"keys/{name}.pem"):
        Hierarchy.load(instance)


def test_a_key_serves_one_purpose(instance: Path) -> None:
    for source, target in (("issuer", "token-2"), ("token-1", "token-2")):
        shutil.copy(instance / f"keys/{source}.pem", instance / f"keys/{target}.pem")
        with pytest.raises(KeyReused):
            Hierarchy.load(instance)


def test_the_roots_key_may_be_elsewhere(instance: Path) -> None:
    (instance / "keys/root.pem").unlink()
    assert Hierarchy.load(instance).root
    assert problems(instance) == []


def test_another_instances_files_do_not_fit(instance: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = create_hierarchy(tmp_path_factory.mktemp("other"), DOMAIN, now=NOW, entropy=counted("other")).folder
    for name in ("issuer", "bundle-1"):
        kept = {kind: (instance / f"{kind}/{name}.pem").read_bytes() for kind in ("ca", "keys")}
        for kind in kept:
            shutil.copy(other / f"{kind}/{name}.pem", instance / f"{kind}/{name}.pem")
        with pytest.raises(ChainBroken, match=f"{name}.pem names an issuer"):
            Hierarchy.load(instance)
        for kind, data in kept.items():
            (instance / f"{kind}/{name}.pem").write_bytes(data)
    Hierarchy.load(instance)


@pytest.mark.parametrize(
    ("wrong", "place"), [("issuer", "bundle-1"), ("bundle-1", "issuer"), ("root", "issuer"), ("issuer", "root")]
)
def test_certificates_in_each_others_place_are_refused(instance: Path, wrong: str, place: str) -> None:
    for kind in ("ca", "keys"):
        shutil.copy(instance / f"{kind}/{wrong}.pem", instance / f"{kind}/{place}.pem")
    with pytest.raises(ChainBroken):
        Hierarchy.load(instance)


def test_another_trust_domain_is_refused(instance: Path) -> None:
    edit(instance, lambda m: m.update(trust_domain="example.net"))
    with pytest.raises(ChainBroken, match="another trust domain"):
        Hierarchy.load(instance)
    assert TrustDomain("example.net") in {problem.expected for problem in problems(instance)}


MANIFEST_LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "version": lambda m: m.update(v=2),
    "no trust domain": lambda m: m.pop("trust_domain"),
    "no name of a trust domain": lambda m: m.update(trust_domain="Example"),
    "a member more": lambda m: m.update(more=1),
    "a kind less": lambda m: m.pop("token_keys"),
    "no current one": lambda m: m["token_keys"][0].update(state="old"),
    "two current ones": lambda m: m["token_keys"][1].update(state="current"),
    "no root": lambda m: m.update(roots=[]),
    "a state that is not one": lambda m: m["token_keys"][1].update(state="new"),
    "a name that is a path": lambda m: m["token_keys"][1].update(name="../keys/token-2"),
    "an empty name": lambda m: m["token_keys"][1].update(name=""),
    "a name twice": lambda m: m["token_keys"][1].update(name="token-1"),
    "a member more in an entry": lambda m: m["token_keys"][1].update(more=1),
    "an entry that is not one": lambda m: m["token_keys"].append("token-3"),
    "too many entries": lambda m: m["token_keys"].extend({"name": f"t-{n}", "state": "old"} for n in range(20)),
}


@pytest.mark.parametrize("lie", MANIFEST_LIES)
def test_a_manifest_that_is_wrong_in_one_point_is_refused(instance: Path, lie: str) -> None:
    edit(instance, MANIFEST_LIES[lie])
    with pytest.raises(ManifestMalformed):
        Hierarchy.load(instance)
    assert [type(problem) for problem in problems(instance)] == [ManifestMalformed]


def test_everything_that_is_wrong_is_told_at_once(instance: Path) -> None:
    (instance / "keys/sealing.json").chmod(0o644)
    (instance / "keys/token-2.pem").unlink()
    (instance / "ca/bundle-2.pem").write_bytes(b"spoilt")
    found = {type(problem) for problem in problems(instance)}
    assert found == {KeyFileExposed, KeyFileMissing, CertificateFileMalformed}


def test_a_broken_root_is_not_hidden_by_what_follows(instance: Path) -> None:
    (instance / "ca/root.pem").unlink()
    with pytest.raises(KeyFileMissing, match="root"):
        Hierarchy.load(instance)
    assert [type(problem) for problem in problems(instance)] == [KeyFileMissing]


def test_authorities_outside_their_time_are_told(instance: Path, hierarchy: Hierarchy) -> None:
    def at(moment: Any) -> list[tuple[type[AttestdError], str]]:
        return [(type(problem), problem.detail.split(" attestd ")[0][3:]) for problem in examine(instance, moment)]

    begins, ends = hierarchy.issuer.certificate.not_valid_before_utc, hierarchy.issuer.certificate.not_valid_after_utc
    assert at(begins) == at(begins + (ends - begins) * 10 / 12) == []
    assert {kind for kind, _ in at(begins - timedelta(seconds=1))} == {AuthorityExpired}
    assert len(at(begins - timedelta(seconds=1))) == 6
    assert {kind for kind, _ in at(ends - 30 * DAY)} == {AuthorityExpiring}
    assert len(at(ends - 30 * DAY)) == 5
    assert {kind for kind, _ in at(ends + DAY)} == {AuthorityExpired}


def test_a_root_without_a_trust_domain_is_refused(instance: Path, hierarchy: Hierarchy) -> None:
    from cryptography.hazmat.primitives import hashes

    from attestd.ca.signer import load_key

    key, root = load_key(instance / "keys/root.pem"), hierarchy.root
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
    )
    for extension in root.extensions:
        if extension.oid != x509.SubjectAlternativeName.oid:
            builder = builder.add_extension(extension.value, extension.critical)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (instance / "ca/root.pem").write_bytes(pem)
    with pytest.raises(NotAnAuthority):
        Hierarchy.load(instance)
