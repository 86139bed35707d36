"""The admin API as the commands use it: every call signed with the operator's key.

Against a running service the calls go over HTTPS; without one, to the same application in this process, so that a
stopped instance can be looked after, too. Either way they pass the same door and leave the same audit rows.
"""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import httpx

from attestd.ca.keyfiles import read_secret
from attestd.config import Settings
from attestd.credentials.requests import SoftwareKey
from attestd.errors import AttestdError, Misconfigured, Unavailable
from attestd.protocol.encoding import b64decode
from attestd.protocol.signed import sign_detached

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class NoOperatorKey(Misconfigured):
    """There is no operator's key here"""

    remedy = "Run the command where the instance is, or `attestd admin renew` if its key was lost."


class ServiceUnreachable(Unavailable):
    """The service does not answer"""

    remedy = "Start it with `attestd serve`, or look at its log."


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
        """To the running service of this instance, or to its application in this process."""
        settings = Settings.load(dir, os.environ)
        key_file = dir / "admin" / "admin.key"
        if not key_file.exists():
            raise NoOperatorKey(f"{key_file} does not exist.")
        key = SoftwareKey.from_pem(read_secret(key_file, limit=16 * 1024))
        running = running_url(dir)
        if running is not None:
            return cls(httpx.Client(base_url=running, verify=trusting(dir), timeout=_TIMEOUT), running, key)
        # Only now: a running service is asked without loading one's own.
        from attestd.cli.instance import open_instance
        from attestd.web.app import create_app

        application = create_app(open_instance(dir, os.environ).service)
        transport = httpx.WSGITransport(application)
        return cls(httpx.Client(base_url=settings.server.url, transport=transport), settings.server.url, key)

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


def running_url(dir: Path) -> str | None:
    """Where this instance's service answers, by the note that `attestd serve` leaves; None if it is not running."""
    try:
        note = json.loads((dir / "run" / "service.json").read_text("utf-8"))
        url = str(note["local_url"])
        httpx.get(f"{url}/healthz", verify=trusting(dir), timeout=2.0).raise_for_status()
    except (OSError, ValueError, KeyError, httpx.HTTPError):
        return None
    return url


def trusting(dir: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(dir / "ca" / "root.pem"))


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json() if answer.content else {}
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ServiceUnreachable("The service's answer can't be read.", seen=f"status {answer.status_code}")
    return document
