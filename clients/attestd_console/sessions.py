"""What a browser holds: a seed from which its session's key is made, and nothing that anybody else could use.

The seed is in a cookie that only this origin gets (`__Host-`), that no script can read, and that ends with the browser.
The key is made from it for each request; the service knows the public half. While somebody signs in, another seed waits
in a cookie of its own: made anew at every beginning, and the session's only when the service has said yes. So nobody
can plant a seed in a browser and have it signed in.

Everything else that a browser brings back (a sentence to show once, the token in a form) is bound to the seed by an
HMAC, each with a key of its own.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Final, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Request, Response

from attestd.credentials.requests import SoftwareKey
from attestd.errors import Forbidden, MalformedInput
from attestd.protocol.encoding import b64decode, b64encode
from attestd_console.returning import local

SESSION: Final = "__Host-attestd"
PENDING: Final = "__Host-attestd-pending"
SAID: Final = "__Host-attestd-said"
SEED: Final = 32  # octets
CEREMONY: Final = 600  # seconds in which somebody may sign in after having begun
_SAID_FOR: Final = 60  # seconds
_SAID_MOST: Final = 600  # characters
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


class FormNotOurs(Forbidden):
    """This form was not sent from a page of yours"""

    remedy = "Open the page again, and send the form from there."


@dataclass(frozen=True)
class Seed:
    """The secret of one browser session."""

    octets: bytes

    @classmethod
    def fresh(cls) -> Self:
        return cls(os.urandom(SEED))

    @classmethod
    def read(cls, text: str) -> Self | None:
        """From a cookie's value; None for anything but a seed in its one spelling."""
        try:
            octets = b64decode(text, name="cookie") if len(text) <= 2 * SEED else b""
        except MalformedInput:
            return None
        return cls(octets) if len(octets) == SEED else None

    @property
    def text(self) -> str:
        return b64encode(self.octets)

    @cached_property
    def key(self) -> SoftwareKey:
        """The session key: a scalar in 1..n-1, from 64 bits more than it needs, so that none is likelier."""
        derived = HKDF(hashes.SHA256(), 40, salt=None, info=b"attestd console session key").derive(self.octets)
        scalar = int.from_bytes(derived) % (_ORDER - 1) + 1
        return SoftwareKey(ec.derive_private_key(scalar, ec.SECP256R1()))

    @property
    def public(self) -> str:
        """The session key's SubjectPublicKeyInfo, as the service is told it."""
        return b64encode(self.key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def mac(self, purpose: bytes, content: bytes = b"") -> str:
        inner = hmac.digest(self.octets, b"attestd console " + purpose, sha256)
        return b64encode(hmac.digest(inner, content, sha256))

    @property
    def form_token(self) -> str:
        return self.mac(b"forms")


def seed_of(request: Request) -> Seed | None:
    """The session's seed, if the browser has one. Whether a session belongs to it, the service knows."""
    return Seed.read(request.cookies.get(SESSION, ""))


def pending_of(request: Request) -> tuple[Seed, str] | None:
    """The seed of whoever is signing in, and the page that they wanted."""
    text, _, wanted = request.cookies.get(PENDING, "").partition(".")
    seed = Seed.read(text)
    return None if seed is None else (seed, local(_text(wanted)))


def begin(response: Response, seed: Seed, wanted: str = "/") -> None:
    """Somebody begins to sign in; `wanted`: where to go then."""
    _set(response, PENDING, f"{seed.text}.{b64encode(local(wanted).encode())}", CEREMONY)


def promote(response: Response, seed: Seed) -> None:
    """The service said yes: from now on this is the browser's session."""
    _set(response, SESSION, seed.text, None)
    drop(response, PENDING)


def drop(response: Response, *names: str) -> None:
    for name in names:
        response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="Lax")


def say(response: Response, seed: Seed, sentence: str) -> None:
    """`sentence` is shown once, on the next page that this browser opens."""
    said = sentence[:_SAID_MOST].encode()
    _set(response, SAID, f"{b64encode(said)}.{seed.mac(b'said', said)}", _SAID_FOR)


def said(request: Request, seed: Seed) -> str:
    """The sentence that waits to be shown, if this console put it there."""
    text, _, proof = request.cookies.get(SAID, "").partition(".")
    sentence = _text(text)
    proven = hmac.compare_digest(proof.encode(), seed.mac(b"said", sentence.encode()).encode())
    return sentence if sentence and proven else ""


def require_same_origin(request: Request) -> None:
    """A change comes from a page of this console. Browsers say where a request comes from; one that says nothing at
    all is none. Raises FormNotOurs."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site != "same-origin":
        raise FormNotOurs("The request came from another site.", seen=f"Sec-Fetch-Site: {site[:40]}")
    if origin is not None and origin.lower() != f"https://{request.host}".lower():
        raise FormNotOurs(
            "The request came from another origin.", seen=origin[:200], expected=f"https://{request.host}"
        )
    if site is None and origin is None:
        raise FormNotOurs("The request does not say where it came from.", expected="Origin or Sec-Fetch-Site")


def require_form_token(request: Request, seed: Seed) -> None:
    """The form holds the token of this session. Raises FormNotOurs."""
    sent = request.form.get("csrf", "")
    if not hmac.compare_digest(sent.encode(), seed.form_token.encode()):
        raise FormNotOurs("The form's token is not this session's.")


def _text(encoded: str) -> str:
    try:
        return b64decode(encoded).decode() if len(encoded) <= 4 * _SAID_MOST else ""
    except (MalformedInput, UnicodeDecodeError):
        return ""


def _set(response: Response, name: str, value: str, seconds: int | None) -> None:
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="Lax")
