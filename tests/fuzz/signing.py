"""Signs what an API fuzzer sends, between it and the application: so that it gets past every door, as whom it likes.

The caller is named by the header X-Sign-As: an operator's role, "proxy", "device" or "nobody". A device's request is
made of the body that was sent, as its payload.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIEnvironment

from attestd.protocol.signed import sign_detached, sign_flattened
from tests.service import URL, SoftDevice, World

HEADER = "X-Sign-As"


class Signing:
    """The application as this World's callers reach it."""

    def __init__(self, world: World, device: SoftDevice) -> None:
        self.world, self.device = world, device
        self.app: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]] = world.app.wsgi_app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        who = environ.pop("HTTP_X_SIGN_AS", "nobody")
        if who != "nobody":
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = self._as_device(environ, body) if who == "device" else self._as_caller(environ, body, who)
            environ["wsgi.input"] = io.BytesIO(body)
            if body or environ.get("CONTENT_LENGTH"):
                environ["CONTENT_LENGTH"] = str(len(body))
        return self.app(environ, start_response)

    def _url(self, environ: WSGIEnvironment) -> str:
        path = quote(environ["PATH_INFO"].encode("latin-1"))
        return f"{URL}{path}" + (f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else "")

    def _as_caller(self, environ: WSGIEnvironment, body: bytes, role: str) -> bytes:
        key = self.world.caller(role).key
        said: dict[str, Any] = {"alg": "ES256", "kid": key.thumbprint, "method": environ["REQUEST_METHOD"]}
        environ["HTTP_AUTHORIZATION"] = sign_detached(
            body, sign=key.sign, url=self._url(environ), nonce=self.world.nonce(), **said
        )
        return body

    def _as_device(self, environ: WSGIEnvironment, body: bytes) -> bytes:
        return sign_flattened(
            body,
            sign=self.device.sign,
            alg="ES256",
            kid=self.device.id,
            url=self._url(environ),
            nonce=self.world.nonce(),
        )
