"""What each worker process of `attestd serve` runs: the application behind its front. Made in every process."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path

from attestd.ca.sealing import SealingKeys
from attestd.cli import counting, descriptors
from attestd.cli.following import follow_keys
from attestd.cli.instance import Instance, now, open_instance
from attestd.cli.nursery import DIR_VARIABLE, STREAMS_END
from attestd.config import LimitSettings
from attestd.errors import Unavailable
from attestd.issuance.challenges import NonceExpired, NonceInvalid, RequestNonce
from attestd.registry import proxies
from attestd.registry.engine import Registry
from attestd.web.app import Service, create_app
from attestd.web.baton import Baton
from attestd.web.bundle_stream import KIND as BUNDLES
from attestd.web.bundle_stream import BundleSource
from attestd.web.connections import Warden
from attestd.web.event_stream import KIND as EVENTS
from attestd.web.event_stream import MOST, MOST_EACH, EventSource, still_allowed
from attestd.web.front import Front, Limits
from attestd.web.logs import configure
from attestd.web.mounts import Mounts, installed
from attestd.web.pressure import Pressure
from attestd.web.sources import Proxies, within
from attestd.web.streams import Streams
from attestd.web.vetting import OpenNonce, Rates, Vetting

_log = logging.getLogger(__name__)
_OPEN_AGAIN = 1.0  # seconds


def create_front() -> Front:
    """The ASGI application of the instance that `ATTESTD_DIR` names."""
    configure(sys.stderr)
    _end_with_supervisor()
    baton = Baton()
    instance = _opened(baton)
    follow_keys(instance.hierarchy)
    return front_of(instance, baton)


def _end_with_supervisor() -> None:
    """Nobody would stop or replace this process any more, and the port would stay taken. It ends at once: who waits
    for an answer asks again, as after any crash."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return

    def watch() -> None:
        supervisor.join()
        os._exit(1)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def _opened(baton: Baton) -> Instance:
    """The instance. A database that is away, or a disk that is full, comes back; a worker that ended for it would be
    made again at once, over and over."""
    while True:
        try:
            counting.reserve()
            return open_instance(Path(os.environ[DIR_VARIABLE]), os.environ, waiting=baton.waiting)
        except Unavailable as error:
            members = {"problem": error.slug(), "detail": error.detail, "remedy": error.what_to_do}
            _log.error("the instance can't be opened", extra={"members": members})
            time.sleep(_OPEN_AGAIN)


def front_of(instance: Instance, baton: Baton | None = None) -> Front:
    """An instance's application behind the front that its settings describe. `baton`: the one that its registry puts
    down where it waits."""
    server, said = instance.settings.server, instance.settings.limits
    pressure = Pressure()
    own = said.networks["unlimited"] + said.networks["trusted_proxies"]
    warden = Warden(
        server.port,
        most=descriptors.connections(said.connections),
        send_time=said.send_timeout.total_seconds(),
        spared=lambda source: within(source, own),
        closed=pressure.closed,
    )
    background: list[asyncio.Task[None]] = []  # a task that nobody holds may vanish
    streams = _streams(instance.service, descriptors.connections(said.connections))

    def started() -> None:
        background.append(asyncio.ensure_future(warden.watch()))
        with suppress(ValueError, RuntimeError):  # not in a process's first thread: then nobody sends signals either
            asyncio.get_running_loop().add_signal_handler(STREAMS_END, end)

    def end() -> None:
        for each in streams.values():
            each.end()

    api = create_app(instance.service).wsgi_app

    mounted = instance.settings.console.enabled

    return Front(
        Mounts(api, installed(api, server.url)) if mounted else api,
        threads=server.threads,
        limits=Limits(
            body_time=server.request_timeout.total_seconds(),
            small_time=said.body_timeout.total_seconds(),
            max_wait=said.max_wait.total_seconds(),
            waiting=said.waiting,
            answer_time=server.request_timeout.total_seconds(),
        ),
        vetting=_vetting(said, instance.hierarchy.sealing, pages=mounted),
        proxies=Proxies(said.networks["trusted_proxies"], said.proxy_header.encode("ascii")),
        told=pressure.told,
        baton=baton,
        streams=streams,
        started=started,
    )


def _streams(service: Service, connections: int) -> dict[str, Streams]:
    """Together they leave more than a third of the connections to others."""
    bundles = BundleSource(service.publication, partial(_allowed, service.registry))
    events = EventSource(service.newsroom, still_allowed(service.callers))
    return {
        BUNDLES: Streams(bundles, clock=now, most=connections // 2),
        EVENTS: Streams(events, clock=now, most=min(MOST, connections // 8), most_each=MOST_EACH),
    }


def _allowed(registry: Registry, names: Iterable[str], moment: datetime) -> frozenset[str]:
    with registry.reading() as c:
        return proxies.allowed(c, names, now=int(moment.timestamp()))


def _vetting(said: LimitSettings, sealing: SealingKeys, *, pages: bool) -> Vetting:
    networks = said.networks["unlimited"]

    @lru_cache(maxsize=4096)
    def unlimited(source: str) -> bool:
        return within(source.partition("/")[0], networks)

    rates = Rates(
        reads=(said.reads, said.reads_burst),
        enrollments=(said.enrollments, said.enrollments_burst),
        failures=(said.failures, said.failures_burst),
    )
    return Vetting(rates, open_nonce=_opener(sealing), unlimited=unlimited, pages=pages)


def _opener(sealing: SealingKeys) -> OpenNonce:
    def open_nonce(sealed: bytes) -> bytes | None:
        try:
            nonce = RequestNonce.open(sealed, sealing)
            nonce.require_alive(now())
        except (NonceInvalid, NonceExpired):
            return None
        return nonce.id

    return open_nonce
