"""Beside the API in `attestd serve`: the console as one more WSGI application in the same process."""

from __future__ import annotations

from wsgiref.types import WSGIApplication

from attestd_console.api import Service
from attestd_console.app import create_app
from attestd_console.console import Console


def mount(api: WSGIApplication, url: str) -> WSGIApplication:
    """The console of the service whose application is `api`, and whose public address is `url`.

    It calls the API as it would from elsewhere, signatures and all; only the way there is short.
    """
    return create_app(Console(Service.inside(api, url))).wsgi_app
