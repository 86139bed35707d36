"""The protocol's derivations (docs/protocol.md, sections 1 and 2). One wrong octet here and nothing interoperates.

Labels are ASCII followed by one zero octet. The concatenations are unambiguous because every part but the last
variable one has a fixed size: `nonce` is 32 octets (enrollment) or a sealed token of one fixed size (afterwards),
`id` 16 octets, the EK hash 32, and Names of AK and CK 34 each (SHA-256 is the only nameAlg accepted for them).
"""

from __future__ import annotations

import hashlib
import hmac

_CERTIFY = b"attestd/certify/1\x00"
_QUOTE = b"attestd/quote/1\x00"
_IDENTIFY = b"attestd/identify/1\x00"


def enrollment_certify_data(*, nonce: bytes, id: bytes, ek_hash: bytes, ak_name: bytes, ck_name: bytes) -> bytes:
    """qualifyingData of the credential key's certification during enrollment (section 1)."""
    return hashlib.sha256(_CERTIFY + nonce + id + ek_hash + ak_name + ck_name).digest()


def enrollment_quote_data(*, nonce: bytes, id: bytes, ek_hash: bytes, ak_name: bytes, ck_name: bytes) -> bytes:
    """qualifyingData of the enrollment's quote (section 1)."""
    return hashlib.sha256(_QUOTE + nonce + id + ek_hash + ak_name + ck_name).digest()


def enrollment_identify_data(*, nonce: bytes, id: bytes, ek_hash: bytes, ak_name: bytes) -> bytes:
    """qualifyingData of the AK's certification by an identity key, whose hash is `ek_hash` (section 1)."""
    return hashlib.sha256(_IDENTIFY + nonce + id + ek_hash + ak_name).digest()


def device_certify_data(*, nonce: bytes, device_id: str, ak_name: bytes, ck_name: bytes) -> bytes:
    """qualifyingData of a new credential key's certification when a known device re-keys (section 2)."""
    return hashlib.sha256(_CERTIFY + nonce + device_id.encode("ascii") + ak_name + ck_name).digest()


def device_quote_data(*, nonce: bytes, device_id: str, ak_name: bytes, ck_name: bytes) -> bytes:
    """qualifyingData of a known device's quote (section 2)."""
    return hashlib.sha256(_QUOTE + nonce + device_id.encode("ascii") + ak_name + ck_name).digest()


def completion_proof(*, secret: bytes, body: bytes) -> bytes:
    """HMAC-SHA256(secret, SHA-256(body)): only who activated the credential can make it (section 1)."""
    return hmac.digest(secret, hashlib.sha256(body).digest(), "sha256")


def request_digest(body: bytes) -> bytes:
    """SHA-256 of a request's exact octets: what a retry must match."""
    return hashlib.sha256(body).digest()
