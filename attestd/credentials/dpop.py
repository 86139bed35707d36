"""Proof of possession for one request (RFC 9449): the check at the edge, the making in the agent.

The edge asks for its own nonce in every proof (section 9), so a proof is fresh by the edge's clock and the device's
clock does not matter: `iat` must be there (section 4.2) and is not compared (section 4.3, step 11 allows either).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from attestd.credentials.jwk import read_jwk_and_thumbprint
from attestd.credentials.jws import UnverifiedJws, sign_jws
from attestd.errors import InputTooLarge, Limited, MalformedInput, Unauthenticated
from attestd.protocol.encoding import Members, b64decode, b64encode, read_object, write_object
from attestd.protocol.signed import Sign

DPOP_TYP: Final = "dpop+jwt"
MAX_PROOF = 4 * 1024  # characters
MAX_URI = 2048  # characters
NONCE_LIFETIME = 300  # seconds
_NONCE_LABEL = b"attestd/edge-nonce/1\x00"


class ProofRefused(Unauthenticated):
    """The proof does not belong to this request"""

    remedy = "Make a new proof for each request: its method, its URL, its token, the edge's last nonce."


class ProofMalformed(ProofRefused):
    """The proof can't be read"""


class ProofKeyWrong(ProofRefused):
    """The proof is made with another key than the token is bound to"""


class ProofForAnotherRequest(ProofRefused):
    """The proof is for another method or URL"""


class ProofForAnotherToken(ProofRefused):
    """The proof is for another token"""


class ProofReplayed(ProofRefused):
    """The proof was used before"""


class FreshNonceNeeded(Unauthenticated):
    """The proof lacks a current nonce of this edge"""

    remedy = "Repeat the request with the nonce from the DPoP-Nonce header (RFC 9449, section 8)."


class ReplayCacheFull(Limited):
    """Too many proofs were presented here lately"""


class EdgeNonces:
    """Nonces without state: a time and its HMAC under a secret that all processes behind one address may share.

    Replays are noticed by ReplayCache, in one process. Where several processes serve one address, give each its own
    secret, or a proof could be used once in each.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 32:
            raise ValueError("the nonces' secret takes at least 32 octets")
        self._secret = secret

    def issue(self, now: datetime) -> str:
        """The nonce of this second: for the DPoP-Nonce header of any answer."""
        seconds = int(now.timestamp()).to_bytes(5, "big")
        return b64encode(seconds + self._tag(seconds))

    def check(self, nonce: str, now: datetime) -> None:
        """Returns if `nonce` was issued here within the last 300 s, else raises FreshNonceNeeded."""
        try:
            data = b64decode(nonce, name="nonce")
        except MalformedInput:
            raise FreshNonceNeeded from None
        if not hmac.compare_digest(data[5:], self._tag(data[:5])):
            raise FreshNonceNeeded
        if not 0 <= int(now.timestamp()) - int.from_bytes(data[:5], "big") < NONCE_LIFETIME:
            raise FreshNonceNeeded

    def _tag(self, seconds: bytes) -> bytes:
        return hmac.digest(self._secret, _NONCE_LABEL + seconds, "sha256")[:16]


class ReplayCache:
    """The proofs used within a nonce's lifetime, in bounded memory: what can't be remembered is refused, not forgotten.

    Two generations: a proof is remembered for one to two lifetimes. One key may fill a share only, so that one device
    can't shut out the others. Safe for threads; about 100 octets an entry.
    """

    def __init__(self, *, capacity: int = 1 << 18, per_key: int = 1 << 14) -> None:
        self._capacity = capacity
        self._per_key = per_key
        self._lock = threading.Lock()
        self._turned_at = 0.0
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._counts: Counter[str] = Counter()

    def spend(self, jkt: str, jti: str, *, now: datetime) -> None:
        """Remembers this proof, or raises ProofReplayed or ReplayCacheFull."""
        entry = hashlib.sha256(f"{jkt}.{jti}".encode()).digest()[:16]
        with self._lock:
            self._turn(now.timestamp())
            if entry in self._young or entry in self._old:
                raise ProofReplayed
            if len(self._young) >= self._capacity or self._counts[jkt] >= self._per_key:
                raise ReplayCacheFull(retry_after=NONCE_LIFETIME)
            self._young.add(entry)
            self._counts[jkt] += 1

    def _turn(self, now: float) -> None:
        elapsed = now - self._turned_at
        if elapsed < 0:  # the clock went backwards: keep what there is for longer
            self._turned_at = now
        elif elapsed >= NONCE_LIFETIME:
            self._old = self._young if elapsed < 2 * NONCE_LIFETIME else set()
            self._young, self._counts, self._turned_at = set(), Counter(), now


def verify_dpop(
    proof: str,
    *,
    method: str,
    uri: str,
    token: str,
    jkt: str,
    nonces: EdgeNonces,
    replays: ReplayCache,
    now: datetime,
) -> str:
    """The proof's `jti`, if the holder of the key `jkt` made it for this request with this token, and never before.

    `uri` is the URL that the client used, scheme and host included; its query is ignored. The steps are RFC 9449's,
    section 4.3. The replay cache is asked last: nobody but the token's owner can put anything into it.
    Raises Unauthenticated (FreshNonceNeeded: answer with a nonce) or ReplayCacheFull.
    """
    try:
        # 2, 4, 5 and 7. A well-formed JWS of this type and algorithm, with a public and no private key in its header.
        signed = UnverifiedJws.read(proof, typ=DPOP_TYP, limit=MAX_PROOF, name="DPoP proof")
        key, thumbprint = read_jwk_and_thumbprint(dict(signed.unverified_header.object("jwk").items()))
        # 12, second half. The key is the token's. Before its signature, which only then is worth the time.
        if not hmac.compare_digest(thumbprint, jkt):
            raise ProofKeyWrong
        # 6. Signed by that key.
        claims = Members(read_object(signed.verified_by(key), limit=MAX_PROOF, name="proof's claims"), "proof")
        # 3, 8 and 9. For this method and URL; what section 4.2 requires is there, and nothing else.
        if (seen := claims.text("htm", limit=32)) != method:
            raise ProofForAnotherRequest("The proof is for another method.", seen=repr(seen), expected=method)
        if (stated := normal_uri(claims.text("htu", limit=MAX_URI))) != (asked := normal_uri(uri)):
            raise ProofForAnotherRequest("The proof is for another URL.", seen=stated, expected=asked)
        # 12, first half. With this token.
        hashed = claims.octets("ath", limit=32, least=32)
        if not hmac.compare_digest(hashed, hashlib.sha256(token.encode("ascii")).digest()):
            raise ProofForAnotherToken
        # 10 and 11. Fresh, by a time that we manage.
        claims.integer("iat")
        nonce = claims.text("nonce", limit=128) if "nonce" in claims else ""
        if not (jti := claims.text("jti", limit=128)):
            raise ProofMalformed("The proof has no id.", expected="jti: 1 to 128 characters")
        claims.done()
    except (MalformedInput, InputTooLarge) as error:
        raise ProofMalformed(error.detail, seen=error.seen, expected=error.expected) from error
    nonces.check(nonce, now)
    # Section 11.1. Once.
    replays.spend(jkt, jti, now=now)
    return jti


def make_dpop(
    *,
    sign: Sign,
    jwk: Mapping[str, str],
    method: str,
    uri: str,
    token: str,
    nonce: str,
    now: datetime,
    entropy: Callable[[int], bytes],
) -> str:
    """A proof for one request (section 4.2); `sign` is the key of `jwk`, `nonce` the edge's last one, "" at first."""
    claims = {
        "jti": b64encode(entropy(16)),
        "htm": method,
        "htu": normal_uri(uri),
        "iat": int(now.timestamp()),
        "ath": b64encode(hashlib.sha256(token.encode("ascii")).digest()),
        **({"nonce": nonce} if nonce else {}),
    }
    return sign_jws({"jwk": dict(jwk)}, write_object(claims), typ=DPOP_TYP, sign=sign)


# RFC 3986: scheme, host, port, path, query, fragment; without userinfo, which has no place in an HTTP request's target.
_URI = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/(?:[a-z0-9._~!$&'()*+,;=:@-]|%[0-9a-f]{2})*)*)(?:\?[^#]*)?(?:#.*)?",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class MalformedUri(MalformedInput):
    """This is not a URL of an HTTP request"""

    remedy = "Give the whole URL: scheme, host and path."


def normal_uri(uri: str) -> str:
    """One spelling for all equivalent URLs, without query and fragment (RFC 9449, 4.3; RFC 3986, 6.2.2 and 6.2.3).

    Case of scheme, host and percent-encodings, encoded unreserved characters, dot segments, default port, empty path.
    """
    match = _URI.fullmatch(uri) if len(uri) <= MAX_URI else None
    if match is None:
        raise MalformedUri(seen=repr(uri[:80]), expected="https://<host>/<path>")
    scheme, host = match["scheme"].lower(), match["host"].lower()
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS[scheme]
    if not 0 < port < 1 << 16:
        raise MalformedUri("This is not a port.", seen=port)
    authority = host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    return f"{scheme}://{authority}{_without_dots(_ENCODED.sub(_normal_encoding, match['path']))}"


def _normal_encoding(match: re.Match[str]) -> str:
    character = chr(int(match[0][1:], 16))
    return character if _UNRESERVED.fullmatch(character) else match[0].upper()


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4, for a path that is empty or begins with a slash."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
