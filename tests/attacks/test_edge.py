"""Attacks at the boundary: a real service publishes, a real edge decides, and a device (or a thief) wants to cross.

The edge's own functions are tested one by one in tests/unit/attestd_edge, with an authority made for tests; here
everything that counts is what the service really issued, so that the two sides can't be wrong in the same way.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestd.ca.bundles import sign_bundle
from attestd.ca.hierarchy import Hierarchy, create_hierarchy
from attestd.credentials.bundle import Bundle, verify_copy
from attestd.credentials.copies import Copy
from attestd.credentials.dpop import EdgeNonces, ReplayCache, make_dpop
from attestd.credentials.jwk import public_jwk
from attestd.credentials.requests import SoftwareKey
from attestd.errors import AttestdError
from attestd.ids import Site, Tier, TrustDomain
from attestd.policy import Boundary
from attestd.protocol.encoding import b64decode, b64encode
from attestd.protocol.signed import Sign
from attestd.registry import issued
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import Request, TokenRules
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.hop import CertificateSource, Door, Headers, MutualTlsHop, Peer, UnixSocketHop
from attestd_edge.settings import Guarded
from attestd_edge.store import BundleStore
from tests.service import SITE, TRUST_DOMAIN, SoftDevice, World

ORIGIN = "https://shop.example"
HOME = Boundary("field-to-shop", Tier.DEVICE, Site(SITE), Tier.EDGE, Site(SITE))


class Gate:
    """An edge at the device's home boundary, with the bundle that the service publishes now."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.rules = TokenRules("edge", frozenset({ORIGIN}), EdgeNonces(os.urandom(32)), ReplayCache())
        self.store = self.open()
        self.fetch()
        self.edge = Edge(self.store, tokens=self.rules, boundaries={HOME.name: Guarded(HOME, {})})

    def open(self, **lies: Any) -> BundleStore:
        now = self.world.clock
        clock = EdgeClock(now, lambda: now().timestamp(), now() - timedelta(days=1))
        told = {"roots": [der(self.world.hierarchy.root)], "trust_domain": TRUST_DOMAIN, "clock": clock, **lies}
        return BundleStore(self.folder, **told)

    def published(self) -> bytes:
        return self.world.service.publication.bundle(self.world.clock()).content

    def fetch(self) -> None:
        self.adopt(self.published())

    def adopt(self, content: bytes) -> bool:
        """A bundle from wherever, with the service's own proof that its trail only grew."""
        return self.store.adopt(content, prove=self.world.service.publication.audit.consistency)

    def bundle(self) -> Bundle:
        """The published bundle, read."""
        return verify_copy(
            Copy.read(self.published()),
            roots=[der(self.world.hierarchy.root)],
            trust_domain=TRUST_DOMAIN,
            floor=(0, 0),
            now=self.world.clock(),
        )

    def crosses(
        self,
        headers: dict[str, str] | list[tuple[str, str]],
        *,
        peer: Peer | None = None,
        door: Door | None = None,
        boundary: Boundary = HOME,
        method: str = "GET",
        target: str = "/orders",
        origin: str = ORIGIN,
    ) -> str:
        """ "" if it may cross, else the refusal's name."""
        pairs = list(headers.items()) if isinstance(headers, dict) else headers
        through = door or Door(CertificateSource.TLS)
        answer = self.edge.admit(
            boundary,
            lambda: Asked(through.present(Headers.of(pairs), peer or Peer()), Request(method, origin, target)),
        )
        if isinstance(answer, Admitted):
            return ""
        return str(json.loads(answer.body)["type"]).rpartition(":")[2]

    def proof(self, device: SoftDevice, token: str, **lies: Any) -> str:
        private = device.tpm.ck.private
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        said = {
            "sign": device.sign,
            "jwk": public_jwk(private.public_key()),
            "method": "GET",
            "uri": f"{ORIGIN}/orders",
            "token": token,
            "nonce": self.rules.nonces.issue(self.world.clock()),
            "now": self.world.clock(),
            "entropy": os.urandom,
            **lies,
        }
        return make_dpop(**said)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def chain_of(device: SoftDevice) -> tuple[bytes, ...]:
    assert device.answer is not None
    return tuple(der(found) for found in x509.load_pem_x509_certificates(device.answer.chain.encode()))


def tls(device: SoftDevice) -> Peer:
    """The device at the other end of a TLS connection."""
    return Peer(chain=chain_of(device))


def token_of(device: SoftDevice, binding: str = "dpop") -> str:
    answer = device.token(binding=binding)
    assert answer.status_code == 200, answer.text
    return str(answer.get_json()["token"])


@pytest.fixture
def device(world: World) -> SoftDevice:
    return world.enrolled()


@pytest.fixture
def gate(world: World, device: SoftDevice, tmp_path: Path) -> Iterator[Gate]:
    """Made after the device was enrolled, so that the bundle knows of it."""
    made = Gate(world, tmp_path / "edge")
    yield made
    made.edge.stop()


# ---- Bound tokens -----------------------------------------------------------------------------------------------


def test_a_proven_token_crosses_once_a_proof(gate: Gate, device: SoftDevice) -> None:
    token = token_of(device)
    proof = gate.proof(device, token)
    headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
    assert gate.crosses(headers) == ""
    assert gate.crosses(headers) == "proof-replayed"
    assert gate.crosses({**headers, "DPoP": gate.proof(device, token)}) == ""


def test_a_bound_token_is_no_bearer_s(gate: Gate, world: World, device: SoftDevice) -> None:
    """A thief of the token: without the key, with its own key, or beside its own certificate."""
    thief = world.enrolled()
    gate.fetch()
    token = token_of(device)
    assert gate.crosses({"Authorization": f"Bearer {token}"}) != ""
    assert gate.crosses({"Authorization": f"DPoP {token}"}) == "proof-missing"
    assert gate.crosses({"Authorization": f"DPoP {token}", "DPoP": gate.proof(thief, token)}) == "proof-key-wrong"
    assert gate.crosses({"Authorization": f"Bearer {token}"}, peer=tls(thief)) == "bound-elsewhere"
    mutual = token_of(device, "tls")
    assert gate.crosses({"Authorization": f"Bearer {mutual}"}, peer=tls(thief)) == "bound-elsewhere"
    assert gate.crosses({"Authorization": f"Bearer {mutual}"}) == "bound-elsewhere"
    assert gate.crosses({"Authorization": f"Bearer {mutual}"}, peer=tls(device)) == ""


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "DELETE"},
        {"target": "/payments"},
        {"target": "/orders/1"},
        {"origin": "https://other.example"},
        {"origin": "http://shop.example"},
    ],
    ids=str,
)
def test_a_proof_for_another_request(gate: Gate, device: SoftDevice, asked: dict[str, Any]) -> None:
    token = token_of(device)
    headers = {"Authorization": f"DPoP {token}", "DPoP": gate.proof(device, token)}
    assert gate.crosses(headers, **asked) in ("proof-for-another-request", "origin-unknown")


def test_a_proof_for_another_token(gate: Gate, device: SoftDevice) -> None:
    first, second = token_of(device), token_of(device)
    headers = {"Authorization": f"DPoP {first}", "DPoP": gate.proof(device, second)}
    assert gate.crosses(headers) == "proof-for-another-token"


@pytest.mark.parametrize("nonce", ["", "AAAA"])
def test_a_proof_made_ahead(gate: Gate, device: SoftDevice, nonce: str) -> None:
    """Whoever had the key for a moment can't stock proofs: each carries the edge's nonce of now."""
    token = token_of(device)
    headers = {"Authorization": f"DPoP {token}", "DPoP": gate.proof(device, token, nonce=nonce)}
    assert gate.crosses(headers) == "fresh-nonce-needed"
    stocked = gate.proof(device, token)
    gate.world.clock.advance(minutes=9)
    gate.fetch()
    assert gate.crosses({**headers, "DPoP": stocked}) != ""


def test_another_edge_s_nonce(gate: Gate, world: World, device: SoftDevice, tmp_path: Path) -> None:
    other = Gate(world, tmp_path / "other")
    token = token_of(device)
    proof = other.proof(device, token)
    assert other.crosses({"Authorization": f"DPoP {token}", "DPoP": proof}) == ""
    assert gate.crosses({"Authorization": f"DPoP {token}", "DPoP": proof}) == "fresh-nonce-needed"


# ---- Tokens by the wrong key ------------------------------------------------------------------------------------


def token_signer(hierarchy: Hierarchy) -> Sign:
    """Signs as the token key does."""
    return hierarchy.token_key.key.sign


def resigned(token: str, sign: Callable[[bytes], bytes], **changed: Any) -> str:
    """The token's words under another signature; `changed` replaces header members."""
    head, body, _ = token.split(".")
    header = json.loads(b64decode(head)) | changed
    head = b64encode(json.dumps(header).encode())
    return f"{head}.{body}.{b64encode(sign(f'{head}.{body}'.encode()))}"


def test_a_token_signed_by_another_key_of_the_house(gate: Gate, world: World, device: SoftDevice) -> None:
    """Bundle, issuing and device keys are real keys of this trust domain, and sign no tokens."""
    token = token_of(device)
    house = world.hierarchy
    again = resigned(token, token_signer(house))
    assert gate.crosses({"Authorization": f"DPoP {again}", "DPoP": gate.proof(device, again)}) == ""
    for sign in (house.bundle_signer.sign, house.issuer.sign, device.sign, world.admin.key.sign):
        for kid in (None, "bundle", b64encode(bytes(32))):
            forged = resigned(token, sign, **({} if kid is None else {"kid": kid}))
            headers = {"Authorization": f"DPoP {forged}", "DPoP": gate.proof(device, forged)}
            assert gate.crosses(headers) in ("signature-wrong", "token-key-unknown")


@pytest.mark.parametrize("changed", [{"alg": "none"}, {"alg": "HS256"}, {"typ": "JWT"}, {"typ": "dpop+jwt"}], ids=str)
def test_a_token_with_a_header_of_the_sender_s_choice(
    gate: Gate, world: World, device: SoftDevice, changed: dict[str, str]
) -> None:
    forged = resigned(token_of(device), token_signer(world.hierarchy), **changed)
    headers = {"Authorization": f"DPoP {forged}", "DPoP": gate.proof(device, forged)}
    assert gate.crosses(headers) in ("algorithm-not-allowed", "type-confused", "token-malformed")


def test_a_proof_is_no_token_and_a_request_no_proof(gate: Gate, device: SoftDevice) -> None:
    token = token_of(device)
    proof = gate.proof(device, token)
    assert gate.crosses({"Authorization": f"DPoP {proof}", "DPoP": proof}) != ""
    assert gate.crosses({"Authorization": f"DPoP {token}", "DPoP": token}) != ""


# ---- Certificates and the hop -----------------------------------------------------------------------------------

RFC9440 = CertificateSource.RFC9440


def forwarded(device: SoftDevice) -> dict[str, str]:
    leaf, *issuers = (f":{base64.b64encode(item).decode()}:" for item in chain_of(device))
    return {"Client-Cert": leaf, "Client-Cert-Chain": ", ".join(issuers)}


def test_a_certificate_header_counts_from_the_hop_alone(gate: Gate, world: World, device: SoftDevice) -> None:
    """The certificate is public: whoever saw it can write the header. Only the hop's word is worth something."""
    hop_socket = Door(RFC9440, UnixSocketHop())
    assert gate.crosses(forwarded(device), door=hop_socket, peer=Peer(unix=True)) == ""
    assert gate.crosses(forwarded(device), door=hop_socket, peer=Peer()) == "no-credential"
    known = b64encode(x509.load_der_x509_certificate(chain_of(device)[0]).fingerprint(hashes.SHA256()))
    hop_tls = Door(RFC9440, MutualTlsHop([known]))
    assert gate.crosses(forwarded(device), door=hop_tls, peer=tls(device)) == ""
    assert gate.crosses(forwarded(device), door=hop_tls, peer=tls(world.enrolled())) == "no-credential"
    assert gate.crosses(forwarded(device), door=Door(CertificateSource.TLS), peer=Peer()) == "no-credential"


def test_a_certificate_header_that_comes_twice(gate: Gate, world: World, device: SoftDevice) -> None:
    door, peer = Door(RFC9440, UnixSocketHop()), Peer(unix=True)
    mine, others = forwarded(device), forwarded(world.enrolled())
    gate.fetch()
    pairs = [("client-cert", mine["Client-Cert"]), ("Client-Cert", others["Client-Cert"])]
    assert gate.crosses(pairs, door=door, peer=peer) == "header-duplicated"
    assert gate.crosses({**mine, "X-Client-Cert": "x"}, door=door, peer=peer) == "header-duplicated"


def test_a_certificate_without_its_signature(gate: Gate, device: SoftDevice) -> None:
    """The edge verifies the chain again: a hop that only forwards what it saw is no authority."""
    leaf, *issuers = chain_of(device)
    touched = bytearray(leaf)
    touched[-1] ^= 1
    assert gate.crosses({}, peer=Peer(chain=(leaf, *issuers))) == ""
    assert gate.crosses({}, peer=Peer(chain=(bytes(touched), *issuers))) != ""
    assert gate.crosses({}, peer=Peer(chain=tuple(issuers))) != ""
    assert gate.crosses({}, peer=Peer(chain=(der(gate.world.hierarchy.root),))) != ""


def test_an_operator_s_and_a_proxy_s_certificate_cross_nothing(gate: Gate, world: World) -> None:
    world.caller("proxy")
    world.caller("admin")
    gate.fetch()
    issuer = der(world.hierarchy.issuer.certificate)
    with world.registry.reading() as c:
        others = [entry for entry in issued.page(c) if entry.device_id is None]
    assert {entry.profile for entry in others} == {"proxy", "admin"}
    for entry in others:
        assert gate.crosses({}, peer=Peer(chain=(entry.der, issuer))) in ("not-a-device", "purpose-wrong")


def test_a_stranger_s_authority_of_the_same_name(gate: Gate, device: SoftDevice, tmp_path: Path) -> None:
    """Another hierarchy for this very trust domain, made by anybody with `attestd init`: names are no keys."""
    create_hierarchy(tmp_path / "stranger", TRUST_DOMAIN, now=gate.world.clock(), entropy=os.urandom)
    stranger = Hierarchy.load(tmp_path / "stranger")
    with pytest.raises(AttestdError):
        gate.adopt(sign_bundle(raised(gate.bundle()), stranger.bundle_signer).to_bytes())
    genuine = x509.load_der_x509_certificate(chain_of(device)[0])
    builder = x509.CertificateBuilder(
        stranger.issuer.certificate.subject,
        genuine.subject,
        genuine.public_key(),
        genuine.serial_number,
        genuine.not_valid_before_utc,
        genuine.not_valid_after_utc,
        list(genuine.extensions),
    )
    copied = (stranger.issuer.sign_certificate(builder), der(stranger.issuer.certificate))
    assert gate.crosses({}, peer=Peer(chain=copied)) != ""
    assert gate.crosses({}, peer=Peer(chain=(*copied, der(stranger.root)))) != ""
    assert gate.crosses({}, peer=tls(device)) == ""


# ---- State, boundaries, time ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "name"), [("quarantine", "device-suspended"), ("retire", "device-revoked"), ("replace", "device-")]
)
@pytest.mark.parametrize("by", ["certificate", "token"])
def test_who_lost_trust_crosses_nothing_more(  # noqa: PLR0917 - fixtures and parameters
    gate: Gate, world: World, device: SoftDevice, act: str, name: str, by: str
) -> None:
    token = token_of(device)

    def tries() -> str:
        if by == "certificate":
            return gate.crosses({}, peer=tls(device))
        return gate.crosses({"Authorization": f"DPoP {token}", "DPoP": gate.proof(device, token)})

    assert tries() == ""
    more = {"ek_hash": world.device().ek_hash.hex()} if act == "replace" else {}
    world.operator.post(f"/v1/admin/devices/{device.id}/{act}", {"v": 1, **more})
    gate.fetch()
    assert tries().startswith(name) or tries() == "credential-revoked"


def test_a_revoked_certificate_takes_its_tokens_along(gate: Gate, world: World, device: SoftDevice) -> None:
    token = token_of(device)
    serial = f"{x509.load_der_x509_certificate(chain_of(device)[0]).serial_number:040x}"
    assert world.operator.post(f"/v1/admin/credentials/{serial}/revoke", {"v": 1}).status_code == 200
    gate.fetch()
    assert gate.crosses({}, peer=tls(device)) == "credential-revoked"
    headers = {"Authorization": f"DPoP {token}", "DPoP": gate.proof(device, token)}
    assert gate.crosses(headers) == "credential-revoked"


def test_a_device_of_another_site_and_of_another_tier(gate: Gate, world: World) -> None:
    elsewhere, wrong_tier = world.enrolled(site="shop-2"), world.enrolled(tier="edge")
    gate.fetch()
    assert gate.crosses({}, peer=tls(elsewhere)) == "crossing-denied"
    assert gate.crosses({}, peer=tls(wrong_tier)) == "crossing-denied"
    other = Boundary("other", Tier.DEVICE, Site("shop-2"), Tier.EDGE, Site("shop-2"))
    assert gate.crosses({}, peer=tls(elsewhere), boundary=other) == ""


def test_credentials_end(gate: Gate, device: SoftDevice) -> None:
    token = token_of(device)
    gate.world.clock.advance(minutes=11)
    gate.fetch()
    assert gate.crosses({"Authorization": f"DPoP {token}", "DPoP": gate.proof(device, token)}) == "token-expired"
    assert gate.crosses({}, peer=tls(device)) == ""
    gate.world.clock.advance(days=2)
    gate.fetch()
    assert gate.crosses({}, peer=tls(device)) == "certificate-expired"


# ---- Bundles ----------------------------------------------------------------------------------------------------


def test_a_stale_bundle_lets_nobody_cross(gate: Gate, device: SoftDevice) -> None:
    """An edge that is kept from hearing of a quarantine stops in time, rather than going on for ever."""
    gate.world.clock.advance(seconds=gate.bundle().stale_after - 1)
    assert gate.crosses({}, peer=tls(device)) == ""
    gate.world.clock.advance(seconds=2)
    assert gate.crosses({}, peer=tls(device)) == "bundle-stale"
    gate.fetch()
    assert gate.crosses({}, peer=tls(device)) == ""


def test_a_bundle_from_before_a_quarantine(gate: Gate, world: World, device: SoftDevice) -> None:
    before = gate.published()
    world.operator.post(f"/v1/admin/devices/{device.id}/quarantine", {"v": 1})
    gate.fetch()
    with pytest.raises(AttestdError, match=r"older|rolled|before|behind"):
        gate.adopt(before)
    assert gate.crosses({}, peer=tls(device)) == "device-suspended"
    # Nor does a restart help, nor the old file put back on the disk.
    (gate.folder / "bundle.json").write_bytes(before)
    reopened = gate.open()
    with pytest.raises(AttestdError):
        reopened.load()
    assert Edge(reopened, tokens=None).readiness()[0] is False


def raised(bundle: Bundle, **changed: Any) -> Bundle:
    """A later bundle."""
    return replace(bundle, version=bundle.version + 1, **changed)


def test_a_bundle_signed_by_the_wrong_key(gate: Gate, world: World) -> None:
    """Token, issuing, root and device keys sign no bundles; nor does a stranger's with our certificate beside it."""
    house = world.hierarchy
    honest = raised(gate.bundle())
    copy = sign_bundle(honest, house.bundle_signer)
    parts = copy.statement.split(".")
    stranger = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
    for sign in (token_signer(house), house.issuer.sign, world.enrolled().sign, stranger.sign):
        forged = f"{parts[0]}.{parts[1]}.{b64encode(sign(f'{parts[0]}.{parts[1]}'.encode()))}"
        with pytest.raises(AttestdError):
            gate.adopt(replace(copy, statement=forged).to_bytes())
    with pytest.raises(AttestdError):
        gate.adopt(sign_bundle(honest, house.issuer).to_bytes())  # with the issuer's own certificate beside it
    assert gate.adopt(copy.to_bytes())


def test_a_signed_time_is_no_bundle(gate: Gate, world: World) -> None:
    """The same key signs times for anybody's nonce; whatever the nonce says, it is no bundle."""
    for path in ("/v1/time?nonce=" + b64encode(os.urandom(16)), "/v1/jwks", "/v1/root"):
        with pytest.raises(AttestdError):
            gate.adopt(world.get(path).data)
        with pytest.raises(AttestdError):
            gate.adopt(replace(Copy.read(gate.published()), statement=world.get(path).text).to_bytes())


@pytest.mark.parametrize(
    "changed",
    [{"trust_domain": TrustDomain("other.example")}, {"issued_at": 1 << 40}, {"roots": ()}, {"policy": "permit ("}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_genuine_bundle_that_is_wrong(gate: Gate, world: World, device: SoftDevice, changed: dict[str, Any]) -> None:
    """Signed by the right key. What is not for this edge changes nothing; what it can't read lets nobody cross."""
    with pytest.raises((AttestdError, ValueError, OverflowError)):
        gate.adopt(sign_bundle(raised(gate.bundle(), **changed), world.hierarchy.bundle_signer).to_bytes())
    assert (gate.crosses({}, peer=tls(device)) == "") is ("policy" not in changed)


def test_a_device_that_the_bundle_does_not_know(gate: Gate, world: World) -> None:
    """An index outside the status list is not valid by default."""
    later = world.enrolled()
    assert gate.crosses({}, peer=tls(later)) != ""
    gate.fetch()
    assert gate.crosses({}, peer=tls(later)) == ""


def test_nothing_of_an_ek_comes_to_an_edge(gate: Gate, device: SoftDevice) -> None:
    """An EK hash is a lifelong tracker: it is in no bundle, certificate or token."""
    token = token_of(device)
    copy = Copy.read(gate.published())
    bundle = b64decode(copy.statement.split(".")[1]) + b"".join(copy.parts.values())
    for text in (bundle, b64decode(token.split(".")[1]), *chain_of(device)):
        for form in (device.ek_hash.hex().encode(), b64encode(device.ek_hash).encode(), bytes(device.ek_hash)):
            assert form not in text


def test_a_clock_set_back_revives_nothing(gate: Gate, device: SoftDevice) -> None:
    gate.world.clock.advance(days=2)
    gate.fetch()
    gate.crosses({}, peer=tls(device))
    now: datetime = gate.world.clock.now
    gate.world.clock.now = now - timedelta(days=2)
    assert gate.crosses({}, peer=tls(device)) == "certificate-expired"
