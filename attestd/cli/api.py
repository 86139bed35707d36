"""The admin API as the commands use it: every call signed with the operator's key.

Against a running service the calls go over HTTPS; without one, to the same application in this process, so that a
stopped instance can be looked after, too. Either way they pass the same door and leave the same audit rows.

Who is elsewhere needs no folder of an instance: a key of their own, and the credential that an admin handed them, whose
last certificate is the root that the service must prove itself by.
"""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from attestd.ca.keyfiles import read_public, read_secret
from attestd.cli.answering import running_url, trusting
from attestd.cli.options import Remote, elsewhere
from attestd.config import Settings
from attestd.credentials.dpop import MalformedUri, normal_uri
from attestd.credentials.requests import SoftwareKey
from attestd.errors import AttestdError, Misconfigured, Unavailable
from attestd.protocol.encoding import b64decode
from attestd.protocol.signed import sign_detached

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_MAX_FILE = 16 * 1024  # octets of a key, or of a credential


class NoOperatorKey(Misconfigured):
    """There is no operator's key here"""

    remedy = "Run the command where the instance is, or `attestd admin renew` if its key was lost."


class ServiceUnreachable(Unavailable):
    """The service does not answer"""

    remedy = "Start it with `attestd serve`, or look at its log."


class CredentialUnusable(Misconfigured):
    """This credential is not one to call a service with"""

    remedy = "Use the file that `attestd operators add … --out FILE` wrote for your key, whole."


class CredentialOver(Misconfigured):
    """This credential has ended"""

    remedy = (
        "Ask an admin to repeat `attestd operators add NAME --role ROLE --key FILE --out FILE` with your public key."
    )


class CallRefused(AttestdError):
    """The service refused this"""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(
            str(problem.get("detail") or problem.get("title")),
            seen=problem.get("seen"),
            expected=problem.get("expected"),
            remedy=problem.get("remedy"),
        )
        self.problem = problem


@dataclass(frozen=True, slots=True)
class AdminApi:
    """Signed calls to one service."""

    client: httpx.Client
    base: str  # the service's public URL: what the signatures name
    key: SoftwareKey

    @classmethod
    def connect(cls, dir: Path) -> Self:
        """To the service that the options before the command name, to the running one of the instance in this folder,
        or to its application in this process."""
        if (where := elsewhere.get()) is not None:
            return cls.remote(where, now=datetime.now(UTC))
        settings = Settings.load(dir, os.environ)
        key_file = dir / "admin" / "admin.key"
        if not key_file.exists():
            raise NoOperatorKey(f"{key_file} does not exist.")
        key = SoftwareKey.from_pem(read_secret(key_file, limit=_MAX_FILE))
        running = running_url(dir)
        if running is not None:
            return cls(httpx.Client(base_url=running, verify=trusting(dir), timeout=_TIMEOUT), running, key)
        # Only now: a running service is asked without loading one's own.
        from attestd.cli.instance import open_instance
        from attestd.web.app import create_app

        application = create_app(open_instance(dir, os.environ).service)
        transport = httpx.WSGITransport(application)
        return cls(httpx.Client(base_url=settings.server.url, transport=transport), settings.server.url, key)

    @classmethod
    def remote(cls, where: Remote, *, now: datetime) -> Self:
        """To a service elsewhere. Its TLS certificate must lead to the root in the caller's credential.

        Raises CredentialUnusable, CredentialOver, MalformedUri, and what reading the key raises.
        """
        base = normal_uri(where.server).removesuffix("/")
        if not base.startswith("https://") or base.count("/") != 2:
            raise MalformedUri("This is not a service's address.", seen=where.server, expected="https://HOST[:PORT]")
        key = SoftwareKey.from_pem(read_secret(where.key, limit=_MAX_FILE))
        root = pinned_root(read_public(where.credential, limit=_MAX_FILE), key=key, now=now)
        trust = ssl.create_default_context(cadata=root)  # this root, and none of the system's
        return cls(httpx.Client(base_url=base, verify=trust, timeout=_TIMEOUT), base, key)

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """GET `/v1/admin<path>`; members of `query` that are None are left out."""
        wanted = {name: value for name, value in query.items() if value not in (None, "")}
        return self._call("GET", f"{path}?{urlencode(wanted)}" if wanted else path, b"", "application/json")

    def post(self, path: str, message: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._call("POST", path, json.dumps(message or {}).encode(), "application/json")

    def put(self, path: str, message: dict[str, Any]) -> dict[str, Any]:
        return self._call("PUT", path, json.dumps(message).encode(), "application/json")

    def delete(self, path: str) -> dict[str, Any]:
        return self._call("DELETE", path, b"", "application/json")

    def upload(self, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        return self._call("POST", path, body, content_type)

    def _call(self, method: str, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        path = f"/v1/admin{path}"
        try:
            nonce = b64decode(self.client.get("/v1/nonce").headers["Replay-Nonce"], name="Replay-Nonce")
            authorization = sign_detached(
                body,
                sign=self.key.sign,
                alg="ES256",
                kid=self.key.thumbprint,
                method=method,
                url=self.base + path,
                nonce=nonce,
            )
            headers = {"Authorization": authorization, "Content-Type": content_type}
            answer = self.client.request(method, path, content=body, headers=headers)
        except (httpx.HTTPError, KeyError) as error:
            raise ServiceUnreachable(f"{self.base} does not answer as it should.", seen=error) from None
        if answer.status_code >= 400:
            raise CallRefused(_document(answer))
        return _document(answer)


def pinned_root(credential: bytes, *, key: SoftwareKey, now: datetime) -> str:
    """The root (PEM) of an operator's credential: the leaf, what stands above it, and the root.

    Raises CredentialUnusable, also for another key's credential, and CredentialOver.
    """
    try:
        chain = x509.load_pem_x509_certificates(credential)
        mine = chain[0].public_key() == key.public_key
        _require_path(chain)
    except (ValueError, TypeError, x509.InvalidVersion, InvalidSignature, UnsupportedAlgorithm):
        raise CredentialUnusable(
            "This file is not a whole chain of certificates.", expected="PEM: yours, its issuers, the root"
        ) from None
    if not mine:
        raise CredentialUnusable("This credential is for another key.")
    if chain[0].not_valid_after_utc <= now:
        raise CredentialOver(seen=f"ended {chain[0].not_valid_after_utc:%Y-%m-%d %H:%M:%SZ}")
    return chain[-1].public_bytes(serialization.Encoding.PEM).decode("ascii")


def _require_path(chain: list[x509.Certificate]) -> None:
    """From the first to the last, which is signed by itself. Between them there may be what one root says for another.

    Raises ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm.
    """
    root = chain[-1]
    root.verify_directly_issued_by(root)
    below = chain[0]
    for issuer in chain[1:]:
        try:
            below.verify_directly_issued_by(root)
        except (ValueError, InvalidSignature):
            below.verify_directly_issued_by(issuer)
            below = issuer
        else:
            return
    if below != root:
        raise ValueError("the chain does not lead to its last certificate")


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json() if answer.content else {}
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ServiceUnreachable("The service's answer can't be read.", seen=f"status {answer.status_code}")
    return document
