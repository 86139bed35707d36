"""What each worker process of `attestd serve` runs: the application behind its front. Made anew in every process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from attestd.cli.instance import open_instance
from attestd.web.app import create_app
from attestd.web.front import Front, Limits
from attestd.web.logs import configure

DIR_VARIABLE = "ATTESTD_DIR"


def create_front() -> Front:
    """The ASGI application of the instance that `ATTESTD_DIR` names."""
    configure(sys.stderr)
    instance = open_instance(Path(os.environ[DIR_VARIABLE]), os.environ)
    server = instance.settings.server
    limits = Limits(body_time=server.request_timeout.total_seconds())
    return Front(create_app(instance.service).wsgi_app, threads=server.threads, limits=limits)
