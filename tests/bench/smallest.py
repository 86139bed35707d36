"""The smallest JSON view there is, in the same server as the service's: what nobody's view is faster than."""

from __future__ import annotations

from flask import Flask

from attestd.web.front import Front
from attestd.web.vetting import Vetting


def create_front() -> Front:
    app = Flask("smallest")

    @app.get("/")
    def smallest() -> dict[str, bool]:
        return {"ok": True}

    return Front(app.wsgi_app, threads=8, vetting=Vetting(unlimited=lambda _source: True))
