"""What every answer tells the browser: take nothing from elsewhere, run nothing that is not a file of ours."""

from __future__ import annotations

from typing import Final

from flask import Response

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",  # no script here makes markup from text
    )
)

_HEADERS: Final = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # Not `no-referrer`: browsers would send our own forms with `Origin: null`, which is what a forger's says, too.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Permissions-Policy",
        "publickey-credentials-get=(self), publickey-credentials-create=(self), clipboard-write=(self), "
        "camera=(), microphone=(), geolocation=(), payment=(), usb=(), serial=(), hid=()",
    ),
)


def secure(response: Response) -> Response:
    for name, value in _HEADERS:
        response.headers[name] = value
    # A page shows what only this person may see. Who goes back sees it anew, or signs in.
    response.headers.setdefault("Cache-Control", "no-store")
    return response
