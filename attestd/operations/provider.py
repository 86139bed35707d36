"""One OpenID provider: what it says of itself, its keys, the exchange of a code, and what an ID token proves.

OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3; Discovery 1.0; RFC 7636 (PKCE), RFC 9207 (issuer identification),
RFC 9700 (security). The provider is named by the settings, so it is asked; what it answers is read within bounds, over
TLS that is checked, without following redirects, and kept for a while. Nothing it says is believed but what an ID token
proves that is signed by its key, for this client, for this sign-in, now.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from attestd.ca.keyfiles import read_public, read_secret
from attestd.config import OidcSettings
from attestd.errors import MalformedInput, Misconfigured, Unauthenticated, Unavailable
from attestd.protocol.encoding import b64decode, read_object

if TYPE_CHECKING:
    import httpx
    from joserfc.jwk import Key

# Asymmetric ones alone: a public key is no secret to sign with, and nothing unsigned says anything.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KINDS: Final = ("RSA", "EC", "OKP")
_MAX_ANSWER: Final = 256 * 1024  # octets
_MAX_TOKEN: Final = 32 * 1024
_MAX_KEYS: Final = 64
_MAX_SECRET: Final = 4096
_TIMEOUT: Final = 5.0  # seconds for the connection, and for each piece
_DEADLINE: Final = 10.0  # seconds for an answer
_METADATA_FOR: Final = 3600.0  # seconds that what a provider says of itself is kept
_KEYS_FOR: Final = 600.0
_NEW_KEYS_EVERY: Final = 30.0  # seconds between two looks for a key that is not known yet
_LEEWAY: Final = 60  # seconds that clocks may differ
_MAX_SUBJECT: Final = 255  # characters (Core, section 2)


class ProviderUnreachable(Unavailable):
    """The identity provider does not answer as it should"""

    remedy = "Try again, or sign in with a passkey; the service's log says what the provider answered."


class ProviderOdd(Misconfigured):
    """The identity provider is not what the settings say"""

    remedy = "Correct [console.oidc.NAME] in attestd.toml: issuer, client_id, client_secret_file."


class CodeRefused(Unauthenticated):
    """The identity provider does not know this sign-in"""

    remedy = "Begin to sign in again."


class IdTokenRefused(Unauthenticated):
    """The identity provider's token does not prove who signs in"""

    remedy = "Begin to sign in again. If it stays so, ask an admin to look at the service's log."


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """Who signed in, by the provider's word: `subject` is its own lasting name for the person."""

    issuer: str
    subject: str
    claims: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Metadata:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    names_issuer: bool  # in the answer to the browser (RFC 9207)
    by_post: bool  # how the client proves itself


class Provider:
    """Asks, and remembers. One a process; any number of threads."""

    def __init__(
        self,
        settings: OidcSettings,
        folder: Path,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`folder` is the instance's. `transport` is the network; `waiting` is entered around its answers."""
        self.settings, self._folder = settings, folder
        self._transport, self._clock, self._waiting = transport, clock, waiting
        self._lock = threading.Lock()
        self._metadata: tuple[float, _Metadata] | None = None
        self._keys: tuple[float, list[Key]] | None = None

    # ---- The way there ----------------------------------------------------------------------------------------

    def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes. Raises ProviderUnreachable, ProviderOdd."""
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        return str(
            prepare_grant_uri(
                self._described().authorization_endpoint,
                self.settings.client_id,
                "code",
                redirect_uri,
                " ".join(self.settings.scopes),
                state,
                nonce=nonce,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
            )
        )

    def require_issuer(self, named: str | None) -> None:
        """The answer came from this provider and no other (RFC 9207, section 2.4). Raises CodeRefused."""
        if named is None and not self._described().names_issuer:
            return
        if named != self.settings.issuer:
            raise CodeRefused(
                "The answer came from another provider.", seen=repr(named)[:200], expected=self.settings.issuer
            )

    # ---- The way back -----------------------------------------------------------------------------------------

    def redeem(self, code: str, *, redirect_uri: str, verifier: str, nonce: str, now: datetime) -> VerifiedToken:
        """Who the code stands for. Raises CodeRefused, IdTokenRefused, ProviderUnreachable, ProviderOdd."""
        metadata = self._described()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        auth: tuple[str, str] | None = None
        secret = self._secret()
        if secret and not metadata.by_post:  # RFC 6749, section 2.3.1: both are form-encoded first
            auth = quote(self.settings.client_id, safe=""), quote(secret, safe="")
        else:
            form |= {"client_id": self.settings.client_id} | ({"client_secret": secret} if secret else {})
        answer = self._ask("POST", metadata.token_endpoint, form=form, auth=auth, may_refuse=True)
        token = answer.get("id_token")
        if not isinstance(token, str) or len(token) > _MAX_TOKEN:
            raise IdTokenRefused("The provider gave no ID token.")
        access = answer.get("access_token")
        return self.verify(token, nonce=nonce, access_token=access if isinstance(access, str) else "", now=now)

    def verify(self, token: str, *, nonce: str, access_token: str = "", now: datetime) -> VerifiedToken:
        """Core, section 3.1.3.7. Raises IdTokenRefused.

        1. It is signed, by a key of this provider's that fits an algorithm of ours. 2. Issuer, audience, authorized
        party, times, nonce and the access token's hash are right. 3. It names somebody.
        """
        from authlib.oidc.core import CodeIDToken
        from joserfc.errors import JoseError

        header, claims = self._signed(token)  # 1
        checked = CodeIDToken(
            claims,
            header,
            options={
                "iss": {"essential": True, "value": self.settings.issuer},
                "aud": {"essential": True, "value": self.settings.client_id},
            },
            params={"nonce": nonce, "client_id": self.settings.client_id, "access_token": access_token or None},
        )
        try:
            checked.validate(now=int(now.timestamp()), leeway=_LEEWAY)  # 2
        except (JoseError, ValueError, TypeError) as error:
            raise IdTokenRefused(f"The ID token is not for this sign-in: {_named(error)}.") from None
        if checked.get("azp", self.settings.client_id) != self.settings.client_id:
            raise IdTokenRefused("The ID token was given to another client.")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT or not subject.isprintable():  # 3
            raise IdTokenRefused("The ID token names nobody.")
        return VerifiedToken(self.settings.issuer, subject, claims)

    def _signed(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Header and claims, once a key that fits has signed them. Raises IdTokenRefused."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        algorithm, kid = _unverified_header(token)
        if algorithm not in ALGORITHMS:
            raise IdTokenRefused("The ID token is signed by no algorithm of ours.", seen=algorithm[:20])
        for refresh in (False, True):
            for key in self._candidates(kid, refresh=refresh):
                try:
                    decoded = jwt.decode(token, key, algorithms=[algorithm])
                except (JoseError, ValueError, TypeError):
                    continue
                return dict(decoded.header), dict(decoded.claims)
        raise IdTokenRefused("The ID token is signed by no key of the provider's.")

    def _candidates(self, kid: str | None, *, refresh: bool) -> list[Key]:
        return [key for key in self._known_keys(refresh=refresh) if kid is None or key.kid in (kid, None)]

    # ---- What it says of itself -------------------------------------------------------------------------------

    def _described(self) -> _Metadata:
        with self._lock:
            if self._metadata is not None and self._clock() < self._metadata[0]:
                return self._metadata[1]
        issuer = self.settings.issuer
        said = self._ask("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != issuer:  # Discovery, section 4.3
            raise ProviderOdd(seen=repr(said.get("issuer"))[:200], expected=issuer)
        methods = said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        known = isinstance(methods, list)
        metadata = _Metadata(
            self._endpoint(said, "authorization_endpoint"),
            self._endpoint(said, "token_endpoint"),
            self._endpoint(said, "jwks_uri"),
            said.get("authorization_response_iss_parameter_supported") is True,
            known and "client_secret_basic" not in methods and "client_secret_post" in methods,
        )
        with self._lock:
            self._metadata = self._clock() + _METADATA_FOR, metadata
        return metadata

    def _endpoint(self, said: Mapping[str, Any], name: str) -> str:
        """HTTPS, or HTTP where the issuer itself is one of this machine."""
        url = said.get(name)
        allowed = {"https", urlsplit(self.settings.issuer).scheme}
        if not isinstance(url, str) or len(url) > 2048 or urlsplit(url).scheme not in allowed:
            raise ProviderOdd(f"The provider names no {name}.", seen=repr(url)[:120], expected="https://…")
        return url

    def _known_keys(self, *, refresh: bool) -> list[Key]:
        """Kept for a while; a token by an unknown key is a reason to look again, now and then."""
        from joserfc.errors import JoseError
        from joserfc.jwk import import_key

        with self._lock:
            kept = self._keys
        if kept is not None:
            age = self._clock() - kept[0]
            if age < (_NEW_KEYS_EVERY if refresh else _KEYS_FOR):
                return [] if refresh else kept[1]
        listed = self._ask("GET", self._described().jwks_uri).get("keys")
        found: list[Key] = []
        for entry in listed[:_MAX_KEYS] if isinstance(listed, list) else []:
            if not isinstance(entry, dict) or entry.get("kty") not in _KINDS or entry.get("use", "sig") != "sig":
                continue
            try:
                found.append(import_key({name: value for name, value in entry.items() if name != "d"}))
            except (JoseError, ValueError, TypeError, KeyError):
                continue  # one that is not understood is none (RFC 7517, section 5)
        with self._lock:
            self._keys = self._clock(), found
        return found

    # ---- The network ------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        may_refuse: bool = False,
    ) -> dict[str, Any]:
        """One JSON object. Raises ProviderUnreachable; CodeRefused for a 4xx where it `may_refuse`."""
        import httpx

        deadline = self._clock() + _DEADLINE
        content = bytearray()
        try:
            with (
                self._waiting(),
                httpx.Client(
                    transport=self._transport,
                    verify=self._trust() if url.startswith("https:") else True,
                    timeout=_TIMEOUT,
                    follow_redirects=False,
                    trust_env=False,
                ) as client,
                client.stream(method, url, data=form, auth=auth, headers={"Accept": "application/json"}) as answer,
            ):
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > _MAX_ANSWER or self._clock() > deadline:
                        raise ProviderUnreachable("The provider's answer is too long, or too slow.")
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise ProviderUnreachable(f"{self.settings.name} does not answer.", seen=type(error).__name__) from error
        if may_refuse and 400 <= status < 500:
            raise CodeRefused(seen=f"status {status} of {self.settings.name}")
        if status != 200:
            raise ProviderUnreachable(f"{self.settings.name} answers otherwise.", seen=f"status {status}")
        try:
            return read_object(bytes(content), limit=_MAX_ANSWER, name="provider's answer")
        except MalformedInput as malformed:
            raise ProviderUnreachable(malformed.detail) from None

    def _trust(self) -> ssl.SSLContext:
        if not self.settings.ca:
            return ssl.create_default_context()
        pem = read_public(self._folder / self.settings.ca, limit=_MAX_ANSWER).decode("ascii", "replace")
        return ssl.create_default_context(cadata=pem)

    def _secret(self) -> str:
        if not self.settings.client_secret_file:
            return ""
        data = read_secret(self._folder / self.settings.client_secret_file, limit=_MAX_SECRET)
        return data.decode("utf-8", "replace").strip()


def _unverified_header(token: str) -> tuple[str, str | None]:
    """The algorithm and the key's name, as the token says. Raises IdTokenRefused."""
    try:
        header = read_object(b64decode(token.partition(".")[0], name="header"), limit=4096, name="header")
    except MalformedInput:
        raise IdTokenRefused("The ID token can't be read.") from None
    algorithm, kid = header.get("alg"), header.get("kid")
    return algorithm if isinstance(algorithm, str) else "", kid if isinstance(kid, str) else None


def _named(error: Exception) -> str:
    """Which claim it was: the library's short text, without values."""
    return str(getattr(error, "claim", "") or getattr(error, "description", "") or type(error).__name__)[:80]
