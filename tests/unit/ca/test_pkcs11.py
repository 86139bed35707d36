"""Keys in a PKCS #11 token (SoftHSM2): they sign what files' keys sign, and a token that is away is named and found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from attestd.ca import pkcs11
from attestd.ca.authorities import Lifetimes
from attestd.ca.certificates import issue
from attestd.ca.hierarchy import Hierarchy, create_hierarchy, examine
from attestd.ca.keystore import open_store
from attestd.ca.manifest import TokenPlace, read_manifest
from attestd.ca.pkcs11 import (
    KeyNotInToken,
    KeyToken,
    KeyTokenLocked,
    KeyTokenRefused,
    KeyTokenUnavailable,
    TokenSigner,
)
from attestd.ca.readback import SignedBytesDiffer
from attestd.ca.revocation import build_crl
from attestd.ca.rotation import Pace, Rotation
from attestd.ca.unlocking import PinMissing, SecretFileExposed, Unlocking
from attestd.credentials.jws import SignatureWrong, verify_es256
from attestd.ids import Serial
from tests.softhsm import LABEL, MODULE, PIN, SoftHsm, softhsm

from .conftest import DOMAIN, NOW, Specify, counted

pytestmark = pytest.mark.skipif(not Path(MODULE).exists(), reason="softhsm2 is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A token and the folder of an instance whose keys are in it: copied for each test."""
    folder = tmp_path_factory.mktemp("token")
    with softhsm(folder / "hsm") as token:
        create_hierarchy(
            folder / "instance",
            DOMAIN,
            now=NOW,
            entropy=counted("token"),
            unlocking=token.unlocking,
            place=token.place,
        )
    return folder / "hsm" / "tokens", folder / "instance"


@pytest.fixture
def token(tmp_path: Path, made: tuple[Path, Path]) -> Iterator[SoftHsm]:
    with softhsm(tmp_path / "hsm") as found:
        shutil.rmtree(found.folder / "tokens")
        shutil.copytree(made[0], found.folder / "tokens")
        yield found


@pytest.fixture
def folder(tmp_path: Path, made: tuple[Path, Path]) -> Path:
    path = tmp_path / "instance"
    shutil.copytree(made[1], path)
    (path / "keys").chmod(0o700)
    return path


@pytest.fixture
def house(token: SoftHsm, folder: Path) -> Hierarchy:
    return Hierarchy.load(folder, token.unlocking)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pkcs11, "_PAUSE", 0.0)


# ---- What a token's keys sign -----------------------------------------------------------------------------------


def test_no_signing_key_is_in_a_file(house: Hierarchy) -> None:
    assert [path.name for path in (house.folder / "keys").iterdir()] == ["sealing.json"]
    manifest = json.loads((house.folder / "ca/hierarchy.json").read_text())
    assert manifest["pkcs11"] == {"module": MODULE, "token": LABEL}
    assert manifest["issuers"][0]["key"].startswith("attestd-issuer-")
    assert examine(house.folder, NOW, Unlocking(pin_file=house._unlocking.pin_file)) == ()


def test_certificates_are_read_back_like_any_other(house: Hierarchy, specify: Specify) -> None:
    issued = issue(specify(), house.issuer)
    x509.load_der_x509_certificate(issued.der).verify_directly_issued_by(house.issuer.certificate)


def test_crls_tokens_and_bundles(house: Hierarchy) -> None:
    crl = build_crl(
        [(Serial(7), 1, "keyCompromise")], house.issuer, number=1, now=NOW, next_update=NOW + timedelta(hours=1)
    )
    assert x509.load_der_x509_crl(crl).is_signature_valid(house.issuer.public_key)
    for key in (house.token_key.key, house.bundle_signer, house.audit_signer):
        verify_es256(key.public_key, signature=key.sign(b"data"), message=b"data")


def test_a_token_that_signs_something_else_is_found(
    house: Hierarchy, specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = KeyToken.sign
    monkeypatch.setattr(KeyToken, "sign", lambda self, label, data: honest(self, label, data + b"!"))
    with pytest.raises((SignatureWrong, SignedBytesDiffer)):
        issue(specify(), house.issuer)
    with pytest.raises(SignatureWrong):
        house.token_key.key.sign(b"data")


def test_nothing_shows_the_pin(house: Hierarchy) -> None:
    assert PIN not in f"{house.issuer!r} {house.token_key!r} {vars(house.issuer)!r}"


# ---- Rotation ---------------------------------------------------------------------------------------------------


def test_keys_rotate_within_the_token(house: Hierarchy, token: SoftHsm) -> None:
    first = house.issuer
    assert isinstance(first, TokenSigner)
    for hours in (1, 2, 3):
        rotation = Rotation(
            house.folder,
            token.unlocking,
            Lifetimes(),
            lambda kind: Pace(60, 60),
            lambda entry: None,
            NOW + timedelta(hours=hours),
            counted(f"{hours}"),
        )
        rotation.do("issuers", *rotation.plan("issuers", None, at_once=False))
        assert house.refresh()
    assert house.issuer.certificate != first.certificate
    with pytest.raises(KeyNotInToken):  # its private key was destroyed
        first.sign(b"data")
    house.issuer.sign(b"data")


# ---- Away, and back ---------------------------------------------------------------------------------------------


def test_a_token_that_goes_away_is_named_and_found_again(house: Hierarchy, token: SoftHsm) -> None:
    token.pull()
    for _ in range(2):
        with pytest.raises(KeyTokenUnavailable):
            house.issuer.sign(b"data")
    token.insert()
    verify_es256(house.issuer.public_key, signature=house.issuer.sign(b"data"), message=b"data")
    house.token_key.key.sign(b"data")


def test_threads_take_turns(house: Hierarchy, token: SoftHsm) -> None:
    """Also while the token goes away and comes back under them: each signature is right, or refused by name."""
    errors: list[Exception] = []
    good = []

    def sign(number: int) -> None:
        for round_ in range(30):
            data = f"{number} {round_}".encode()
            try:
                signature = house.bundle_signer.sign(data)
                verify_es256(house.bundle_signer.public_key, signature=signature, message=data)
                good.append(1)
            except KeyTokenUnavailable:
                pass
            except Exception as error:  # noqa: BLE001 - any other is a failure
                errors.append(error)

    threads = [threading.Thread(target=sign, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    token.pull()
    token.insert()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert good
    house.bundle_signer.sign(b"afterwards")


def test_another_process_signs_with_the_same_keys(house: Hierarchy, token: SoftHsm) -> None:
    """A worker is a fresh process."""
    code = (
        "import sys, pathlib; from attestd.ca.hierarchy import Hierarchy; from attestd.ca.unlocking import Unlocking\n"
        "house = Hierarchy.load(pathlib.Path(sys.argv[1]), Unlocking(pin_file=pathlib.Path(sys.argv[2])))\n"
        "print(house.issuer.sign(b'data').hex())"
    )
    command = [sys.executable, "-c", code, str(house.folder), str(token.pin_file)]
    done = subprocess.run(command, env=os.environ | token.environ, capture_output=True, text=True, check=True)
    verify_es256(house.issuer.public_key, signature=bytes.fromhex(done.stdout.strip()), message=b"data")


def test_a_missing_module_token_or_key_is_named(token: SoftHsm, folder: Path) -> None:
    path = folder / "ca/hierarchy.json"
    good = path.read_text()
    for change, named in (
        (lambda m: m["pkcs11"].update(module="/nowhere.so"), KeyTokenUnavailable),
        (lambda m: m["pkcs11"].update(token="another"), KeyTokenUnavailable),
        (lambda m: m["issuers"][0].update(key="another"), KeyNotInToken),
    ):
        members = json.loads(good)
        change(members)
        path.write_text(json.dumps(members))
        with pytest.raises(named):
            Hierarchy.load(folder, token.unlocking)
    path.write_text(good)
    assert Hierarchy.load(folder, token.unlocking)


# ---- The PIN ----------------------------------------------------------------------------------------------------


def test_a_wrong_pin_is_tried_once(token: SoftHsm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    note = KeyToken._note_refusal
    monkeypatch.setattr(KeyToken, "_note_refusal", lambda self: (tried.append(1), note(self))[1])
    token.put_pin("111111")
    for _ in range(5):
        KeyToken._known.clear()  # as other processes would
        with pytest.raises(KeyTokenRefused) as caught:
            Hierarchy.load(folder, token.unlocking)
        assert "111111" not in f"{caught.value!r} {caught.value.what_to_do}"
    assert tried == [1]
    token.put_pin(PIN)
    assert Hierarchy.load(folder, token.unlocking).issuer.sign(b"data")


def test_the_last_attempt_is_a_persons(token: SoftHsm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SoftHSM never says so of itself: another flag stands for it."""
    monkeypatch.setattr(pkcs11, "_WORN", ("TOKEN_INITIALIZED",))
    with pytest.raises(KeyTokenLocked):
        Hierarchy.load(folder, token.unlocking)


def test_a_missing_or_exposed_pin_file_is_named(token: SoftHsm, folder: Path) -> None:
    with pytest.raises(PinMissing):
        Hierarchy.load(folder)
    token.pin_file.chmod(0o644)
    with pytest.raises(SecretFileExposed):
        Hierarchy.load(folder, token.unlocking)


def test_new_keys_are_made_where_the_old_ones_are(house: Hierarchy, token: SoftHsm) -> None:
    manifest = read_manifest(house.folder)
    assert manifest.place == TokenPlace(MODULE, LABEL)
    key, label = open_store(house.folder, manifest, token.unlocking, counted("more")).make("issuer-2")
    assert label is not None
    assert label.startswith("attestd-issuer-2-")
    with pytest.raises(Exception, match="not the key"):
        key.certified(house.issuer.certificate)
