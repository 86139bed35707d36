"""Who may vouch for a TPM: the store, what came with the request, what was fetched, the inventory, and quirks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from attestd.config import EndorsementSettings, SettingInvalid
from attestd.issuance.issuers import Issuers
from attestd.issuance.trust import Trust
from attestd.tpm.chain import QuirkRefused, UntrustedMaker
from attestd.tpm.endorsement import CertificateForAnotherKey
from attestd.tpm.vouching import BadCertificateSignature, IssuerKeyDiffers
from tests import ek_ca as ca
from tests.service import World

pytestmark = pytest.mark.once
KEY = ca.ec_key("trust ek").public_key()
ROOT, MIDDLE = ca.maker().root, ca.maker().intermediate
HINT = ca.Extension(
    "1.3.6.1.5.5.7.1.1",
    ca.seq(ca.seq(ca.oid("1.3.6.1.5.5.7.48.2"), ca.der(0x86, b"http://pki.example/ca.crt"))),
)
FORM = MIDDLE.ek_form(KEY).with_extension(HINT)
LEAF = FORM.sign(MIDDLE.key)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    world = World(tmp_path)
    yield world
    world.close()


class Counted:
    """A network that serves one certificate, and counts."""

    def __init__(self, served: bytes = MIDDLE.certificate) -> None:
        self.served, self.count = served, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.count += 1
        return httpx.Response(200, content=self.served)


def trust_of(world: World, network: Counted | None = None, **settings: Any) -> Trust:
    told = replace(EndorsementSettings(fetch_issuers_from=("pki.example",)), **settings)
    issuers = Issuers(
        told, transport=httpx.MockTransport(network or Counted()), resolve=lambda host, port: ["93.184.216.34"]
    )
    return Trust(world.registry, told, issuers=issuers)


def endorse(trust: Trust, *certificates: bytes, key: ca.PublicKey = KEY) -> Any:
    return trust.endorse(ca.ek_area(key), certificates, now=ca.NOW)


def test_an_intermediate_that_is_missing_is_fetched(world: World) -> None:
    network = Counted()
    found = endorse(trust_of(world, network), LEAF)
    assert (found.kind, found.manufacturer, network.count) == ("certificate", "IFX", 1)


def test_nothing_is_fetched_where_nothing_is_missing(world: World) -> None:
    network = Counted()
    trust = trust_of(world, network)
    assert endorse(trust, LEAF, MIDDLE.certificate)
    world.service.operations.add_makers(MIDDLE.certificate, world.act)
    assert endorse(trust, LEAF)
    assert network.count == 0


def test_nothing_is_fetched_unless_settings_name_hosts(world: World) -> None:
    network = Counted()
    with pytest.raises(UntrustedMaker):
        endorse(trust_of(world, network, fetch_issuers_from=()), LEAF)
    assert network.count == 0


def test_nothing_is_fetched_for_a_certificate_that_proves_nothing_anyway(world: World) -> None:
    network = Counted()
    trust = trust_of(world, network)
    with pytest.raises(CertificateForAnotherKey):
        endorse(trust, LEAF, key=ca.ec_key("another trust ek").public_key())
    assert network.count == 0


def test_a_fetched_root_is_no_root(world: World) -> None:
    stranger = ca.maker("Stranger").root
    leaf = stranger.ek_form(KEY).with_extension(HINT).sign(stranger.key)
    network = Counted(stranger.certificate)
    with pytest.raises(UntrustedMaker):
        endorse(trust_of(world, network), leaf)
    assert network.count == 1


def test_a_fetched_certificate_that_signed_nothing_of_this(world: World) -> None:
    forged = FORM.sign(MIDDLE.key, spoil=True)
    with pytest.raises(BadCertificateSignature):
        endorse(trust_of(world), forged)


def test_a_ca_with_a_new_key_is_fetched_beside_the_one_of_the_store(world: World) -> None:
    old = replace(MIDDLE, key=ca.ec_key("old middle")).certified_by(ROOT).certificate
    world.service.operations.add_makers(old, world.act)
    with pytest.raises(IssuerKeyDiffers):
        endorse(trust_of(world, fetch_issuers_from=()), LEAF)
    assert endorse(trust_of(world), LEAF)


# ---- Quirks -----------------------------------------------------------------------------------------------------


def test_a_setting_refuses_quirks(world: World) -> None:
    odd = FORM.but(serial=ca.integer(0)).sign(MIDDLE.key)
    assert endorse(trust_of(world), odd).quirks == ("odd-serial",)
    with pytest.raises(QuirkRefused):
        endorse(trust_of(world, refuse_quirks=("odd-serial",)), odd)


def test_chips_for_tpm_1_2_can_be_let_through(world: World) -> None:
    key = ca.rsa_key("trust ek").public_key()
    old = MIDDLE.ek_form(key).but(spki=ca.oaep_spki(key)).without("2.5.29.15").sign(MIDDLE.key)
    assert "tpm12-profile" in endorse(trust_of(world, refuse_quirks=()), old, MIDDLE.certificate, key=key).quirks


@pytest.mark.parametrize("name", ["sha1", "SHA1-SIGNATURE", "sha1-signature "])
def test_a_quirk_of_an_unknown_name(world: World, name: str) -> None:
    with pytest.raises(SettingInvalid):
        trust_of(world, refuse_quirks=(name,))
