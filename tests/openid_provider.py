"""A small OpenID provider over real HTTP on loopback, which tells whatever lies a test wants.

provider = OpenIdProvider()                        # provider.issuer is http://127.0.0.1:…
code = provider.authorize(url, {"sub": "ada", "groups": ["ops"]})   # what a browser does at the provider's page
provider.close()
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, Key, RSAKey

from attestd.config import OidcSettings
from tests.service import World

CLIENT, SECRET = "attestd-console", "a secret: 100% ours"
ADA = {"sub": "00u1", "preferred_username": "Ada@example.org", "groups": ["fleet-ops", "all"]}
ROLES = {"admin": ("fleet-admins",), "operator": ("fleet-ops",), "viewer": ("all", "everybody")}


class OpenIdProvider:
    """`lies` replace claims, the header, or what it says of itself; `now` is what its clock says."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.keys: list[Key] = [ECKey.generate_key("P-256", {"kid": "one", "use": "sig"})]
        self.lies: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.described: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any], dict[str, Any]], str] = self._sign
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.person: dict[str, Any] | None = None  # who sits before its page; None: nobody consents
        self._codes: dict[str, tuple[dict[str, str], dict[str, Any]]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                if self.path.startswith("/authorize?"):
                    self.send_response(302)
                    self.send_header("Location", provider.consent(provider.issuer + self.path))
                    self.end_headers()
                    return
                pages: dict[str, Any] = {
                    "/.well-known/openid-configuration": provider.description,
                    "/keys": {"keys": [key.as_dict(private=False) for key in provider.keys]},
                }
                self._answer(200 if self.path in pages else 404, pages.get(self.path, {}))

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                length = int(self.headers.get("Content-Length", "0"))
                form = {name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
                self._answer(*provider.token(form, self.headers.get("Authorization")))

            def _answer(self, status: int, members: Mapping[str, Any]) -> None:
                body = json.dumps(members).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def description(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "response_types_supported": ["code"],
            **self.described,
        }

    def authorize(self, url: str, claims: Mapping[str, Any]) -> str:
        """The person consents; the code that the browser brings back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(24)
        self._codes[code] = asked, dict(claims)
        return code

    def consent(self, url: str) -> str:
        """Where its page sends a browser back to: with a code for `person`, or with a refusal."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        answer = {"state": asked["state"]}
        if self.person is None:
            answer |= {"error": "access_denied", "error_description": "<b>no</b>"}
        else:
            answer["code"] = self.authorize(url, self.person)
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    def token(self, form: Mapping[str, str], authorization: str | None) -> tuple[int, dict[str, Any]]:
        """The token endpoint: each code once, for who asked for it and holds its verifier."""
        self.authorizations.append(authorization)
        asked, claims = self._codes.pop(form.get("code", ""), ({}, {}))
        challenge = _b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if not asked or challenge != asked["code_challenge"] or form.get("redirect_uri") != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        now = int(self.now())
        said = {
            "iss": self.issuer,
            "aud": asked["client_id"],
            "exp": now + 300,
            "iat": now,
            "nonce": asked.get("nonce"),
            **claims,
            **self.lies,
        }
        said = {name: value for name, value in said.items() if value is not None}
        header = {"alg": "ES256", "kid": self.keys[0].kid, **self.header}
        return 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": self.sign(header, said)}

    def _sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        return jwt.encode(header, claims, self.keys[0], algorithms=[header["alg"]])


def configure(world: World, *providers: OpenIdProvider, **members: Any) -> None:
    """One table for each, called sso, sso-1, …; roles by groups unless it is said otherwise."""
    secret = world.settings.dir / "sso.secret"
    if not secret.exists():
        secret.touch(0o600)
        secret.write_text(f"{SECRET}\n")
    given = {"client_secret_file": "sso.secret", "roles_claim": "groups", "roles": ROLES, **members}
    names = ["sso", *(f"sso-{n}" for n in range(1, len(providers)))]
    world.configure(
        providers=tuple(
            OidcSettings(name, each.issuer, CLIENT, label="Harbour SSO", **given)
            for name, each in zip(names, providers, strict=True)
        )
    )


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    """alg none."""
    return f"{_b64(json.dumps(header | {'alg': 'none'}).encode())}.{_b64(json.dumps(claims).encode())}."


def rsa_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
