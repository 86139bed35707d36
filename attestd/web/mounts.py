"""What is mounted beside the API: whoever asks for no address of the API's gets to it.

The service knows none of its clients. What wants to be mounted makes itself known by an entry point of the group
`attestd.mounts`, a function `mount(api, url)` that returns a WSGI application; it is loaded when somebody asks for the
first page, so that an instance at which nobody looks pays nothing for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from threading import Lock
from typing import Any, Final, cast
from wsgiref.types import StartResponse, WSGIApplication

GROUP: Final = "attestd.mounts"
_OURS: Final = ("/v1/", "/.well-known/")
_OURS_WHOLE: Final = frozenset({"/v1", "/healthz", "/readyz", "/metrics"})

_log = logging.getLogger("attestd.mounts")

Load = Callable[[], WSGIApplication | None]


def is_api(path: str) -> bool:
    """Whether this address is the API's own, whatever is mounted."""
    return path.startswith(_OURS) or path in _OURS_WHOLE


def installed(api: WSGIApplication, url: str) -> Load:
    """What is installed beside the service, found when it is called; None if nothing is, or if it can't be loaded."""

    def load() -> WSGIApplication | None:
        for entry in entry_points(group=GROUP):
            try:
                return cast("WSGIApplication", entry.load()(api, url))
            except Exception as error:  # noqa: BLE001 - the API goes on without it
                _log.error("%s can't be mounted", entry.name, exc_info=error)
        return None

    return load


class Mounts:
    """A WSGI application: the API, and beside it what `load` returns, loaded once."""

    def __init__(self, api: WSGIApplication, load: Load) -> None:
        self._api, self._load = api, load
        self._mounted: WSGIApplication | None = None
        self._loaded = False
        self._lock = Lock()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if is_api(environ.get("PATH_INFO", "")):
            return self._api(environ, start_response)
        if not self._loaded:
            with self._lock:
                if not self._loaded:
                    self._mounted = self._load()
                    self._loaded = True
        return (self._mounted or self._api)(environ, start_response)
