"""An origin behind an edge's rules for tokens, and a device's key in software: what programs talk to and with."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.dpop import EdgeNonces, FreshNonceNeeded, ReplayCache, make_dpop, verify_dpop
from attestd.credentials.jwk import jwk_thumbprint, public_jwk
from attestd.credentials.requests import SoftwareKey
from attestd.errors import AttestdError

AUDIENCE = "edge"


class SoftwareSpeaker:
    """Makes what a device's session makes, with a key in software."""

    def __init__(self) -> None:
        self.key = SoftwareKey(ec.generate_private_key(ec.SECP256R1()))
        self.asked: list[tuple[str, str, str]] = []

    def dpop_headers(self, method: str, url: str, *, audience: str, edge_nonce: str = "") -> dict[str, str]:
        self.asked.append((method, url, audience))
        token = f"token-for-{audience}"
        proof = make_dpop(
            sign=self.key.sign, jwk=public_jwk(self.key.public_key), method=method, uri=url, token=token,
            nonce=edge_nonce, now=datetime.now(UTC), entropy=os.urandom,
        )  # fmt: skip
        return {"Authorization": f"DPoP {token}", "DPoP": proof}


class Guarded(ThreadingHTTPServer):
    """`/…` answers whom the rules admit; `/to?url=…&status=…` redirects without asking; `/open` is open to all."""

    daemon_threads = True

    def __init__(self, jkt: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jkt = jkt
        self.forget()
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self.never_content = False

    def forget(self) -> None:
        """As an edge that starts anew: what nonces it gave are nobody's."""
        self.nonces, self.replays = EdgeNonces(os.urandom(32)), ReplayCache()

    @property
    def statuses(self) -> list[str]:
        """What was answered, in turn."""
        return [headers["answered"] for _, _, headers, _ in self.seen]

    @contextmanager
    def running(self) -> Iterator[Guarded]:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Guarded
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, more = self._judge(headers)
        self.server.seen.append((self.command, self.path, headers | {"answered": str(status)}, body))
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("DPoP-Nonce", self.server.nonces.issue(datetime.now(UTC)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _judge(self, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        asked = urlsplit(self.path)
        if asked.path == "/to":
            where = parse_qs(asked.query)
            return int(where.get("status", ["302"])[0]), {"Location": where["url"][0]}
        if asked.path == "/open":
            return 200, {}
        if asked.path == "/basic":
            return 401, {"WWW-Authenticate": 'Basic realm="DPoP"'}
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme != "DPoP" or "dpop" not in headers:
            return 401, {"WWW-Authenticate": 'DPoP algs="ES256"'}
        nonces = EdgeNonces(os.urandom(32)) if self.server.never_content else self.server.nonces
        try:
            verify_dpop(
                headers["dpop"], method=self.command, uri=self.server.origin + self.path, token=token,
                jkt=self.server.jkt, nonces=nonces, replays=self.server.replays, now=datetime.now(UTC),
            )  # fmt: skip
        except FreshNonceNeeded:
            return 401, {"WWW-Authenticate": 'DPoP error="use_dpop_nonce", algs="ES256"'}
        except AttestdError:
            return 401, {"WWW-Authenticate": 'DPoP error="invalid_dpop_proof", algs="ES256"'}
        return 200, {}

    def log_message(self, *_: object) -> None:
        """Nothing."""


def guarded_for(speaker: SoftwareSpeaker) -> Guarded:
    return Guarded(jwk_thumbprint(speaker.key.public_key))
