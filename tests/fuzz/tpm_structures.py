"""TPM structures from devices. What is read must be read alike by tpm2-pytss, and only what was signed is believed."""

from __future__ import annotations

import hashlib
from functools import cache
from math import prod
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from attestd.errors import MalformedInput
from attestd.tpm.activation import VerifiedAk, recall_ak, vet_ak
from attestd.tpm.attest import verify_certified_key, verify_quote
from attestd.tpm.ektemplates import check_ek_template
from attestd.tpm.makecred import protect, share_seed
from attestd.tpm.objects import parse_public, parse_signature
from attestd.tpm.statements import parse_certification, parse_quote
from attestd.tpm.weak_keys import has_roca_fingerprint
from attestd.tpm.wire import Reader, sized
from tests import forger as f
from tests.fuzz.harness import Target, once

try:
    import tpm2_pytss.types as pytss
except ImportError:  # the agent's own dependency, which needs libtss2: without it, no second opinion
    pytss = None

NONCE = bytes(range(32))
PCRS = {"sha256": {index: bytes([index]) * 32 for index in (0, 4, 7)}}
SELECTION = {"sha256": (0, 4, 7)}
EK_TEMPLATES = ("L-1", "L-2", "H-1", "H-2", "H-3")


@cache
def _tpm() -> f.Forger:
    return f.Forger()


@cache
def _ak() -> VerifiedAk:
    return recall_ak(_tpm().ak.public)


@once
def _aks() -> list[bytes]:
    kinds: list[dict[str, Any]] = [
        {},
        {"kind": "p384", "scheme": (f.ECDSA, f.SHA384)},
        {"kind": "rsa2048", "scheme": (f.RSASSA, f.SHA256)},
        {"kind": "rsa2048", "scheme": (f.RSAPSS, f.SHA256), "exponent": 65537},
    ]
    return [f.forge_key(**kind).public for kind in kinds]


@once
def _eks() -> list[bytes]:
    return [f.forge_ek(template).public for template in EK_TEMPLATES]


@once
def _publics() -> list[bytes]:
    return [*_aks(), *_eks(), _tpm().ck.public]


@once
def _signatures() -> list[bytes]:
    keys = [f.forge_key(), f.forge_key("p384", scheme=(f.ECDSA, f.SHA384)), f.forge_key("rsa2048")]
    return [key.sign(b"message") for key in keys]


@once
def _certifications() -> list[bytes]:
    return [_tpm().certify(NONCE).attest]


@once
def _quotes() -> list[bytes]:
    two_banks = {**PCRS, "sha384": {1: bytes(48)}}
    return [_tpm().quote(NONCE, pcrs).attest for pcrs in (PCRS, two_banks)]


@once
def _signed_quotes() -> list[bytes]:
    made = _tpm().quote(NONCE, PCRS)
    return [f.tpm2b(made.attest) + made.signature]


@once
def _signed_certifications() -> list[bytes]:
    made = _tpm().certify(NONCE)
    return [f.tpm2b(_tpm().ck.public) + f.tpm2b(made.attest) + made.signature]


# ---- What the targets do -----------------------------------------------------------------------------------------


def _second_opinion(kind: str, data: bytes) -> None:
    """tpm2-pytss reads these octets, all of them, and writes the same ones."""
    if pytss is not None:
        theirs, size = getattr(pytss, kind).unmarshal(data)
        assert size == len(data), f"{kind}: {size} of {len(data)} octets"
        assert theirs.marshal() == data, kind


def _public(data: bytes) -> None:
    public = parse_public(data)
    assert public.area == data
    assert public.name == data[2:4] + hashlib.new(public.name_alg.name, data).digest()
    _second_opinion("TPMT_PUBLIC", data)


def _vetted(data: bytes) -> None:
    public = vet_ak(data).public
    assert public.area == data


def _endorsement_key(data: bytes) -> None:
    """A secret can be wrapped for every EK of an accepted template."""
    public = parse_public(data)
    check_ek_template(public)
    seed, shared = share_seed(public, entropy=bytes)
    blob = protect(public, seed=seed, name=bytes(34), secret=bytes(32))
    assert shared
    assert blob


def _signature(data: bytes) -> None:
    parse_signature(data)
    _second_opinion("TPMT_SIGNATURE", data)


def _certification(data: bytes) -> None:
    parse_certification(data)
    _second_opinion("TPMS_ATTEST", data)


def _quote(data: bytes) -> None:
    parse_quote(data)
    _second_opinion("TPMS_ATTEST", data)


def _sized(data: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:2], "big")
    return data[2 : 2 + size], data[2 + size :]


def _verified_quote(data: bytes) -> None:
    """Of all octets that there are, only those that the AK signed are a quote."""
    attest, signature = _sized(data)
    quote = verify_quote(
        _ak(), attest=attest, signature=signature, qualifying_data=NONCE, pcrs=PCRS, selection=SELECTION
    )
    assert attest == _sized(_signed_quotes()[0])[0]
    assert quote.pcrs == PCRS


def _verified_key(data: bytes) -> None:
    public, rest = _sized(data)
    attest, signature = _sized(rest)
    key = verify_certified_key(_ak(), public=public, attest=attest, signature=signature, qualifying_data=NONCE)
    assert (key.public.area, attest) == (_tpm().ck.public, _sized(_sized(_signed_certifications()[0])[1])[0])


def _reader(data: bytes) -> None:
    """The reader under all of them: what it gave is what there was, and `done` means done."""
    reader = Reader(data, "structure")
    given = b""
    while len(given) < len(data):
        given += sized(reader.sized(limit=4096))
    reader.done()
    assert given == data


def _roca(data: bytes) -> None:
    """RSALib's mark, found in another way: the powers of 65537 are those whose order divides that of 65537."""
    try:
        key = rsa.RSAPublicNumbers(65537, int.from_bytes(data, "big")).public_key()
    except ValueError:
        raise MalformedInput from None
    modulus = key.public_numbers().n
    marked = all(pow(modulus, order, prime) == 1 for prime, order in _ORDERS)
    assert has_roca_fingerprint(key) is marked


def _order(prime: int) -> int:
    return next(order for order in range(1, prime) if pow(65537, order, prime) == 1)


_ORDERS = [(p, _order(p)) for p in range(3, 168, 2) if all(p % q for q in range(3, p, 2))]


@once
def _moduli() -> list[bytes]:
    """One with the mark, which needs no prime factors, and one without."""
    m = prod(p for p in range(2, 168) if all(p % q for q in range(2, p)))
    marked = (3 << 1022) // m * m + pow(65537, 777, m)
    return [marked.to_bytes(128, "big"), (marked + 2).to_bytes(128, "big")]


@once
def _buffers() -> list[bytes]:
    return [f.tpm2b(b"one") + f.tpm2b(b"") + f.tpm2b(bytes(300))]


TARGETS = (
    Target("tpm-reader", _reader, _buffers, limit=1024),
    Target("tpm-public", _public, _publics, limit=1024),
    Target("tpm-attestation-key", _vetted, _aks, limit=1024),
    Target("tpm-endorsement-key", _endorsement_key, _eks, limit=1024),
    Target("tpm-signature", _signature, _signatures, limit=1024),
    Target("tpm-certification", _certification, _certifications, limit=1024),
    Target("tpm-quote", _quote, _quotes, limit=1024),
    Target("tpm-verified-quote", _verified_quote, _signed_quotes, limit=1024),
    Target("tpm-verified-key", _verified_key, _signed_certifications, limit=1024),
    Target("roca-modulus", _roca, _moduli, limit=512, refuses=False),
)
