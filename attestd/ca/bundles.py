"""Signing what edges decide with, the time for devices that can't know it, and heads of the audit trail
(docs/protocol.md, sections 5, 7 and 8).

Each is signed by a key that the root delegated to nothing else. For times and heads its certificate travels in `x5c`
(RFC 7515, section 4.1.6: base64, not base64url), for bundles beside the statement, which names it. `credentials` has
the readers: `bundle`, `times` and `transparency`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.ca.signer import Signer
from attestd.credentials.bundle import BUNDLE_TYP, Bundle
from attestd.credentials.copies import Copy
from attestd.credentials.jws import sign_jws
from attestd.credentials.times import TIME_TYP
from attestd.credentials.transparency import HEAD_TYP, Head
from attestd.protocol.encoding import b64encode, write_object


def sign_bundle(bundle: Bundle, signer: Signer, above: Sequence[x509.Certificate] = ()) -> Copy:
    """The bundle with its signed statement. `above`: what other roots say for the signer's (`crosses_above`)."""
    parts = bundle.parts()
    chain = tuple(one.public_bytes(serialization.Encoding.DER) for one in (signer.certificate, *above))
    header = {"x5t#S256": b64encode(sha256(chain[0]).digest())}
    statement = sign_jws(header, bundle.statement(parts).to_bytes(), typ=BUNDLE_TYP, sign=signer.sign)
    return Copy(statement, chain, parts)


def sign_time(nonce: bytes, now: datetime, signer: Signer, above: Sequence[x509.Certificate] = ()) -> str:
    """The time in whole seconds, in answer to `nonce`, as a compact JWS."""
    payload = write_object({"nonce": b64encode(nonce), "time": int(now.timestamp())})
    return sign_jws(_header(signer, above), payload, typ=TIME_TYP, sign=signer.sign)


def sign_head(head: Head, signer: Signer, above: Sequence[x509.Certificate] = ()) -> str:
    """A head of the audit trail as a compact JWS; `signer` is the hierarchy's `audit_signer`."""
    return sign_jws(_header(signer, above), head.to_bytes(), typ=HEAD_TYP, sign=signer.sign)


def _header(signer: Signer, above: Sequence[x509.Certificate]) -> dict[str, Any]:
    chain = [one.public_bytes(serialization.Encoding.DER) for one in (signer.certificate, *above)]
    return {"x5c": [base64.b64encode(der).decode("ascii") for der in chain]}
