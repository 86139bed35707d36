"""A small authority of the tests' own, which can lie in any one field: certificates, tokens, proofs, bundles, times.

Each maker gives the honest thing; a keyword makes one lie. Keys are fixed, so that a failure looks the same each time.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestd.credentials.bundle import Bundle
from attestd.credentials.copies import Copy
from attestd.credentials.delegation import BUNDLE_EKU
from attestd.credentials.facts import FACTS_OID, Facts
from attestd.credentials.jwk import jwk_thumbprint, public_jwk
from attestd.credentials.status import Status, StatusList
from attestd.credentials.transparency import AUDIT_EKU, Head
from attestd.ids import Serial, TrustDomain

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
TRUST_DOMAIN = TrustDomain("example.org")
BIKE = "spiffe://example.org/device/munich/bike-1"
TOKEN_ISSUER = "https://attestd.example.org"
AUDIENCE = "https://shop.example.org"
STATUS_LIST = "https://attestd.example.org/v1/status-list"

FACTS = Facts(
    vector={"instance-identity": 2, "executables": 2},
    labels={"fleet": "bikes"},
    boot={"secure_boot": True},
    status_index=7,
    attested_at=int(NOW.timestamp()) - 60,
)
STATUS = StatusList.of({8: Status.SUSPENDED, 9: Status.INVALID}, 16)

PrivateKey = ec.EllipticCurvePrivateKey


def p256(number: int) -> PrivateKey:
    """A fixed key for each number."""
    return ec.derive_private_key(number + (1 << 200), ec.SECP256R1())


ROOT_KEY, ISSUER_KEY, LEAF_KEY, SIGNER_KEY, TOKEN_KEY, STRANGER_KEY, LOWER_KEY = (p256(n) for n in range(1, 8))
AUDIT_KEY = p256(60)


def es256(key: PrivateKey) -> Callable[[bytes], bytes]:
    """r ‖ s, made without the code under test."""

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def usage(**named: bool) -> x509.KeyUsage:
    nothing = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False)
    return x509.KeyUsage(**{**nothing, **named})


@dataclass(frozen=True)
class Ca:
    """A certificate that signs others, and its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


Extensions = list[tuple[x509.ExtensionType, bool]]


def certificate(
    *,
    subject: str,
    key: PrivateKey,
    issuer: Ca | None,
    extensions: Extensions,
    not_before: datetime,
    not_after: datetime,
    issuer_name: str | None = None,
    signed_by: PrivateKey | None = None,
    serial: int | None = None,
    public_key: Any = None,
    algorithm: Any = None,
    issuer_key_id: bytes | None = None,
    key_ids: bool = True,
) -> x509.Certificate:
    issuing_key = key if issuer is None else issuer.key
    issuing_name = name(subject) if issuer is None else issuer.certificate.subject
    public = public_key or key.public_key()
    number = serial or int.from_bytes(
        hashlib.sha256(f"{subject}{key.private_numbers().private_value}".encode()).digest()[:19], "big"
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuing_name if issuer_name is None else name(issuer_name))
        .public_key(public)
        .serial_number(number)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    if key_ids:
        above = x509.SubjectKeyIdentifier.from_public_key(issuing_key.public_key()).digest
        extensions = [
            *extensions,
            (x509.SubjectKeyIdentifier.from_public_key(public), False),
            (x509.AuthorityKeyIdentifier(issuer_key_id or above, None, None), False),
        ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signed_by or issuing_key, algorithm or hashes.SHA256())


def ca(
    subject: str = "issuer",
    *,
    key: PrivateKey = ISSUER_KEY,
    issuer: Ca | None = None,
    is_ca: bool = True,
    path_length: int | None = None,
    constraints: bool = True,
    key_usage: x509.KeyUsage | None = usage(key_cert_sign=True, crl_sign=True),  # noqa: B008
    purposes: Sequence[x509.ObjectIdentifier] | None = None,
    uris: Sequence[str] = (),
    more: Extensions | None = None,
    not_before: datetime = NOW - 10 * DAY,
    not_after: datetime = NOW + 10 * DAY,
    **lies: Any,
) -> Ca:
    """An authority's certificate: self-signed unless `issuer` is given."""
    extensions: Extensions = list(more or [])
    if constraints:
        extensions.append((x509.BasicConstraints(is_ca, path_length if is_ca else None), True))
    if key_usage is not None:
        extensions.append((key_usage, True))
    if purposes is not None:
        extensions.append((x509.ExtendedKeyUsage(purposes), False))
    if uris:
        extensions.append((x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris]), False))
    made = certificate(
        subject=subject,
        key=key,
        issuer=issuer,
        extensions=extensions,
        not_before=not_before,
        not_after=not_after,
        **lies,
    )
    return Ca(made, key)


ROOT = ca("root", key=ROOT_KEY, path_length=2)
ISSUER = ca("issuer", issuer=ROOT, path_length=0)


def leaf(
    *,
    issuer: Ca = ISSUER,
    key: PrivateKey = LEAF_KEY,
    uris: Sequence[str] = (BIKE,),
    names: Sequence[x509.GeneralName] = (),
    constraints: x509.BasicConstraints | None = x509.BasicConstraints(False, None),  # noqa: B008
    key_usage: x509.KeyUsage | None = usage(digital_signature=True),  # noqa: B008
    key_usage_critical: bool = True,
    purposes: Sequence[x509.ObjectIdentifier] | None = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    facts: Facts | bytes | None = FACTS,
    facts_critical: bool = False,
    more: Extensions | None = None,
    not_before: datetime = NOW - HOUR,
    not_after: datetime = NOW + HOUR,
    subject: str = "",
    **lies: Any,
) -> bytes:
    """A device's certificate, as DER. `facts`: octets are put into the extension as they are."""
    extensions: Extensions = list(more or [])
    general = [x509.UniformResourceIdentifier(uri) for uri in uris] + list(names)
    if general:
        extensions.append((x509.SubjectAlternativeName(general), True))
    if constraints is not None:
        extensions.append((constraints, True))
    if key_usage is not None:
        extensions.append((key_usage, key_usage_critical))
    if purposes is not None:
        extensions.append((x509.ExtendedKeyUsage(purposes), False))
    if isinstance(facts, bytes):
        extensions.append((x509.UnrecognizedExtension(FACTS_OID, facts), facts_critical))
    elif facts is not None:
        extensions.append((facts.to_extension(), facts_critical))
    made = certificate(
        subject=subject,
        key=key,
        issuer=issuer,
        extensions=extensions,
        not_before=not_before,
        not_after=not_after,
        **lies,
    )
    return made.public_bytes(serialization.Encoding.DER)


def rewritten(der: bytes, key: PrivateKey, rewrite: Callable[[Any], None]) -> bytes:
    """The certificate after `rewrite` changed its TBS part in ways that no builder allows, signed again by `key`."""
    parsed = asn1.Certificate.load(der)
    tbs = parsed["tbs_certificate"]
    rewrite(tbs)
    parsed["tbs_certificate"] = tbs
    parsed["signature_value"] = key.sign(tbs.dump(force=True), ec.ECDSA(hashes.SHA256()))
    return bytes(parsed.dump(force=True))


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


# ---- JWS ---------------------------------------------------------------------------------------------------------


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def octets(value: Any) -> bytes:
    """As the service spells it, or the exact octets."""
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def without(members: dict[str, Any]) -> dict[str, Any]:
    """Drops the members that a lie set to `...`."""
    return {key: value for key, value in members.items() if value is not ...}


def compact(header: Any, payload: Any, sign: Callable[[bytes], bytes]) -> str:
    """Header and payload as objects, or as the exact octets."""
    signing_input = f"{b64(octets(header))}.{b64(octets(payload))}"
    return f"{signing_input}.{b64(sign(signing_input.encode()))}"


def token_header(**lies: Any) -> dict[str, Any]:
    return without({"alg": "ES256", "typ": "at+jwt", "kid": "t1", **lies})


def token_claims(**lies: Any) -> dict[str, Any]:
    now, facts = int(NOW.timestamp()), lies.get("attestd", FACTS.to_members())
    index = facts.get("idx", FACTS.status_index) if isinstance(facts, Mapping) else FACTS.status_index
    return without(
        {
            "iss": TOKEN_ISSUER,
            "sub": BIKE,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": "token-1",
            "cnf": {"jkt": jwk_thumbprint(LEAF_KEY.public_key())},
            "srl": f"{77:040x}",
            "attestd": FACTS.to_members(),
            "status": {"status_list": {"idx": index, "uri": STATUS_LIST}},
            **lies,
        }
    )


def token(*, key: PrivateKey = TOKEN_KEY, header: Any = None, claims: Any = None, **lies: Any) -> str:
    """A token bound to LEAF_KEY; `lies` change claims, `...` takes one out."""
    return compact(
        token_header() if header is None else header, token_claims(**lies) if claims is None else claims, es256(key)
    )


def proof_claims(**lies: Any) -> dict[str, Any]:
    return without(
        {"jti": "proof-1", "htm": "GET", "htu": "https://shop.example.org/orders", "iat": int(NOW.timestamp()), **lies}
    )


def proof_header(*, key: PrivateKey = LEAF_KEY, **lies: Any) -> dict[str, Any]:
    return without({"alg": "ES256", "typ": "dpop+jwt", "jwk": public_jwk(key.public_key()), **lies})


def proof(for_token: str, *, key: PrivateKey = LEAF_KEY, header: Any = None, claims: Any = None, **lies: Any) -> str:
    """A DPoP proof by LEAF_KEY for GET https://shop.example.org/orders."""
    honest = {"ath": b64(hashlib.sha256(for_token.encode()).digest()), **lies}
    return compact(
        proof_header(key=key) if header is None else header,
        proof_claims(**honest) if claims is None else claims,
        es256(key),
    )


# ---- Bundles and times ---------------------------------------------------------------------------------------------


def signer(
    *,
    issuer: Ca = ROOT,
    purposes: Sequence[x509.ObjectIdentifier] | None = (BUNDLE_EKU,),
    not_before: datetime = NOW - 5 * DAY,
    not_after: datetime = NOW + 5 * DAY,
    **lies: Any,
) -> bytes:
    """The certificate of the key that signs bundles and times."""
    honest: dict[str, Any] = {"key": SIGNER_KEY, "uris": (), "facts": None, "subject": "bundles", **lies}
    return leaf(issuer=issuer, purposes=purposes, not_before=not_before, not_after=not_after, **honest)


def bundle(**lies: Any) -> Bundle:
    honest: dict[str, Any] = {
        "trust_domain": TRUST_DOMAIN,
        "epoch": 2,
        "version": 5,
        "issued_at": int(NOW.timestamp()),
        "stale_after": 3600,
        "roots": (ROOT.der,),
        "issuers": (ISSUER.der,),
        "token_issuer": TOKEN_ISSUER,
        "token_keys": {"t1": public_jwk(TOKEN_KEY.public_key())},
        "policy_version": 3,
        "policy": "permit(principal, action, resource);",
        "status": STATUS,
        "revoked": frozenset((Serial(0xBAD),)),
    }
    return Bundle(**{**honest, **lies})


def delegated(
    payload: Any, *, typ: str, certificates: Sequence[bytes] | None = None, key: PrivateKey = SIGNER_KEY, **lies: Any
) -> str:
    """A bundle or time answer, signed by the key that the root delegated."""
    chain = [signer()] if certificates is None else certificates
    header = {"alg": "ES256", "typ": typ, "x5c": [base64.b64encode(der).decode() for der in chain], **lies}
    return compact(without(header), payload, es256(key))


def copy_of(
    made: Bundle | None = None,
    *,
    statement: Any = None,
    parts: Mapping[str, bytes | None] | None = None,
    certificates: Sequence[bytes] | None = None,
    key: PrivateKey = SIGNER_KEY,
    **header: Any,
) -> Copy:
    """A bundle as it travels. `statement` lies in what is signed (members, or octets), `parts` beside it."""
    content = made or bundle()
    honest = content.parts()
    payload = content.statement(honest).to_bytes()
    if isinstance(statement, Mapping):
        payload = without({**json.loads(payload), **statement})
    elif statement is not None:
        payload = statement
    chain = [signer()] if certificates is None else list(certificates)
    named = {"x5t#S256": b64(sha256(chain[0]).digest())} if chain else {}
    signed = compact(without({"alg": "ES256", "typ": "attestd-bundle+jws", **named, **header}), payload, es256(key))
    shown = {name: octets for name, octets in {**honest, **(parts or {})}.items() if octets is not None}
    return Copy(signed, tuple(chain), shown)


def signed_bundle(made: Bundle | None = None, **lies: Any) -> bytes:
    """As an edge fetches and keeps it."""
    return copy_of(made, **lies).to_bytes()


def signed_time(*, nonce: bytes = b"n" * 32, time: Any = None, payload: Any = None, **lies: Any) -> str:
    seconds = int(NOW.timestamp()) if time is None else time
    content = {"nonce": b64(nonce), "time": seconds} if payload is None else payload
    return delegated(content, typ=lies.pop("typ", "attestd-time+jws"), **lies)


# ---- Heads of an audit trail ---------------------------------------------------------------------------------------


def head(**lies: Any) -> Head:
    honest: dict[str, Any] = {
        "trust_domain": TRUST_DOMAIN,
        "log": 2,
        "size": 5,
        "root": b"r" * 32,
        "at": int(NOW.timestamp()),
    }
    return Head(**{**honest, **lies})


def audit_signer(**lies: Any) -> bytes:
    """The certificate of the key that signs heads."""
    return signer(**{"purposes": (AUDIT_EKU,), "key": AUDIT_KEY, "subject": "audit", **lies})


def signed_head(made: Head | None = None, *, payload: Any = None, **lies: Any) -> str:
    content = (made or head()).to_bytes() if payload is None else payload
    honest = {"typ": "attestd-audit-head+jws", "key": AUDIT_KEY, "certificates": [audit_signer()]}
    return delegated(content, **{**honest, **lies})
