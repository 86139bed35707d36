"""Why an edge refused a crossing, in words. A reason that has none here is shown by its own name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_WORDS: Final[Mapping[str, str]] = {
    "crossing-denied": "No policy permits it",
    "no-credential": "No credential was presented",
    "device-suspended": "The device is quarantined",
    "device-revoked": "The device’s credentials do not stand: retired, or not known yet",
    "credential-revoked": "The credential was revoked",
    "certificate-expired": "The certificate has ended",
    "certificate-not-yet-valid": "The certificate has not begun",
    "certificate-forged": "The certificate was not signed by this authority",
    "token-expired": "The token has ended",
    "token-forged": "The token was not signed by this service",
    "bound-elsewhere": "The token is bound to another key",
    "proof-missing": "The token came without a proof of its key",
    "proof-replayed": "A proof was used twice",
    "status-unknown": "The edge does not know this device yet",
    "facts-missing": "The credential says nothing about the device’s state",
    "not-a-device": "The credential is no device’s",
    "bundle-stale": "The edge heard nothing for too long",
    "no-bundle": "The edge never heard from this service",
    "receipt-not-kept": "No receipt could be written",
    "receipts-full": "There was no room for receipts",
    "labels-disagree": "Two labels of the data contradict each other",
    "labels-refused": "The labels of the data can’t be read",
    "hop-incomplete": "The reverse proxy did not say all that it has to",
    "tokens-not-accepted": "This boundary takes certificates only",
    "edge-failed": "The edge failed",
    "other": "Other reasons",
}


def why(reason: str) -> str:
    """What a refusal's name says."""
    found = _WORDS.get(reason)
    return found or reason[:1].upper() + reason[1:].replace("-", " ").replace("_", " ")
