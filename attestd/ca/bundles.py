"""Signing what edges decide with, and the time for devices that can't know it (docs/protocol.md, sections 5 and 7).

Both are signed by a key that the root delegated to nothing else; its certificate travels in `x5c` (RFC 7515, section
4.1.6: base64, not base64url). `credentials.bundle` reads them.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives import serialization

from attestd.ca.signer import Signer
from attestd.credentials.bundle import BUNDLE_TYP, TIME_TYP, Bundle
from attestd.credentials.jws import sign_jws
from attestd.protocol.encoding import b64encode, write_object


def sign_bundle(bundle: Bundle, signer: Signer) -> str:
    """The bundle as a compact JWS."""
    return sign_jws(_header(signer), bundle.to_bytes(), typ=BUNDLE_TYP, sign=signer.sign)


def sign_time(nonce: bytes, now: datetime, signer: Signer) -> str:
    """The time in whole seconds, in answer to `nonce`, as a compact JWS."""
    payload = write_object({"nonce": b64encode(nonce), "time": int(now.timestamp())})
    return sign_jws(_header(signer), payload, typ=TIME_TYP, sign=signer.sign)


def _header(signer: Signer) -> dict[str, Any]:
    certificate = signer.certificate.public_bytes(serialization.Encoding.DER)
    return {"x5c": [base64.b64encode(certificate).decode("ascii")]}
