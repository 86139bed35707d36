"""The WSGI application: hooks in their order, then one blueprint a door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response

from attestd.web import (
    access,
    admin,
    admin_device,
    admin_evidence,
    admin_fleet,
    admin_references,
    admin_settings,
    admin_views,
    audit,
    authority,
    boundaries,
    demands,
    devices,
    edges,
    event_stream,
    fleet,
    health,
    labels,
    logs,
    once,
    openapi,
    people,
    policy_trials,
    problems,
    publishing,
    receipts,
    selections,
    sign_in,
)
from attestd.web.context import Service

__all__ = ["Service", "create_app"]

# The API answers programs; a browser that lands here shall make nothing of it.
_SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)


class _Application(Flask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Nothing here is a coroutine; Flask would look at each hook and view again for every request."""
        return func


def create_app(service: Service) -> Flask:
    """The application around these verbs. Make one a process, after forking.

    Hooks before a view run in this order, those after it in the opposite one: the log's is first and last.
    """
    app = _Application("attestd", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # OPTIONS is answered by 405 with Allow: no browser calls this
    app.url_map.merge_slashes = False  # no redirects: a signature names one URL

    logs.register(app, service)
    health.register(app, service)
    app.after_request(_secure)
    access.register(app, service)
    once.register(app, service)
    problems.register(app)

    for door in (
        *(devices, demands, publishing, openapi),
        *(
            admin,
            admin_fleet,
            admin_views,
            admin_device,
            admin_evidence,
            admin_references,
            admin_settings,
            authority,
            selections,
            labels,
            audit,
            receipts,
            edges,
            fleet,
            event_stream,
            boundaries,
            policy_trials,
        ),
        *(sign_in, people),
    ):
        app.register_blueprint(door.blueprint(service))
    return app


def _secure(response: Response) -> Response:
    for name, value in _SECURITY_HEADERS:
        response.headers.add(name, value)
    return response
