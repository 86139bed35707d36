"""The supervisor of `attestd serve`: of its worker processes, and of all that is done by the clock."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from attestd.cli import counting, descriptors, nursery
from attestd.cli.answering import is_alive, trusting
from attestd.cli.following import follow_keys
from attestd.cli.instance import Instance, describe, now, open_instance
from attestd.cli.output import emit, report
from attestd.cli.tls import ServiceTls
from attestd.cli.workers import Workers
from attestd.config import SettingInvalid
from attestd.errors import AttestdError
from attestd.upkeep.retention import sweep
from attestd.upkeep.watching import watch

if TYPE_CHECKING:
    from attestd.distribution import Distribution
    from attestd.upkeep.webhooks import Deliveries

_BACKLOG = 4096  # connections that the kernel completes while none is taken; net.core.somaxconn bounds it too
_HEAD = 32 * 1024  # octets of a request's line and headers, and of what one connection buffers
_SWEEP_EVERY = timedelta(minutes=1)
_SEAL_EVERY = 1.0  # seconds; webhooks are told as often
_ASK_AGAIN = 0.02  # seconds


def supervise(dir: Path, *, as_json: bool) -> None:
    """Serves until a signal ends it. Raises what opening the instance raises."""
    instance = open_instance(dir, os.environ)
    _Supervisor(instance, lambda: _announce(instance, as_json)).run()


def _announce(instance: Instance, as_json: bool) -> None:
    said = describe(instance) | {"pid": os.getpid()}
    emit(said, as_json=as_json, text=f"attestd answers at {said['url']} (trust domain {said['trust_domain']})")


def _webhooks_of(instance: Instance) -> Deliveries | None:
    """Who is to be told; None, and no HTTP client loaded, for an instance that tells nobody."""
    if not instance.settings.webhooks:
        return None
    from attestd.upkeep.webhooks import Deliveries

    return Deliveries(instance.registry, instance.settings)


def _distribution_of(instance: Instance) -> Distribution | None:
    """Who publishes bundles besides; None, and no NATS client loaded, where nothing is said of it. Raises
    SettingInvalid, BrokerMisconfigured or BrokerMissing."""
    said, folder = instance.settings.distribution, instance.settings.dir
    if not said.nats:
        return None
    from attestd.broker.addresses import check_address, require_client

    require_client()
    from attestd.broker.links import Broker
    from attestd.distribution import Distribution

    def file(name: str) -> Path | None:
        return folder / name if name else None

    check_address("distribution.nats", said.nats, file(said.ca), SettingInvalid)
    shown = file(said.certificate), file(said.key)
    broker = Broker(said.nats, file(said.ca), folder / said.credentials, *shown)
    broker.client()
    return Distribution(instance.service.publication, broker, instance.settings.trust_domain, clock=now)


class _Supervisor:
    """Workers, their TLS certificate, and the note that tells other commands where the service is."""

    def __init__(self, instance: Instance, announce: Callable[[], None]) -> None:
        self._instance = instance
        self._announce = announce
        self._ended = threading.Event()
        self._tls = ServiceTls(instance)
        self._run = instance.settings.dir / "run"
        self._webhooks = _webhooks_of(instance)
        self._distribution = _distribution_of(instance)

    def run(self) -> None:
        server, limits = self._instance.settings.server, self._instance.settings.limits
        self._tls.ensure(now())
        workers = Workers(
            "attestd",
            address=server.host,
            port=server.port,
            interface=Interfaces.ASGI,
            workers=server.workers,
            # HTTP/2 has no limit on how long a connection may stay silent, nor has the choice between the two.
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(limits.header_timeout.total_seconds() * 1000), max_buffer_size=_HEAD
            ),
            backlog=_BACKLOG,
            backpressure=descriptors.connections(limits.connections),
            websockets=False,
            ssl_cert=self._tls.chain_file,
            ssl_key=self._tls.key_file,
            log_level=LogLevels.warning,
            respawn_failed_workers=True,
            workers_kill_timeout=int(server.request_timeout.total_seconds()) + 5,
            process_name=None,
        )
        workers.on_startup(self._started)
        workers.on_shutdown(self._ended.set)
        try:
            workers.serve(target_loader=nursery.front, wrap_loader=False)
        finally:
            self._ended.set()
            (self._run / "service.json").unlink(missing_ok=True)

    def _started(self) -> None:
        threading.Thread(target=self._say_when_answering, daemon=True).start()
        threading.Thread(target=self._look_after, daemon=True).start()
        follow_keys(self._instance.hierarchy, changed=lambda: self._renew_certificate(now()), ended=self._ended)
        threading.Thread(target=self._seal, daemon=True).start()
        if self._webhooks is not None:
            threading.Thread(target=self._tell, daemon=True).start()
        if self._distribution is not None:
            threading.Thread(target=self._distribution.run, args=(self._ended,), daemon=True).start()

    def _say_when_answering(self) -> None:
        url = self._instance.settings.server.local_url
        context = trusting(self._instance.settings.dir)
        while not self._ended.wait(_ASK_AGAIN):
            if not is_alive(url, context, timeout=5.0):
                continue
            note = self._run / "service.json"
            with suppress(OSError):  # without the note, commands do without the service
                draft = note.with_suffix(".new")
                draft.write_text(json.dumps({"local_url": url, "pid": os.getpid()}), "utf-8")
                draft.rename(note)
            self._announce()
            return

    def _seal(self) -> None:
        """Seals the audit rows that were committed. Of several services on one database any one does."""
        self._every_second(lambda: self._instance.service.publication.audit.seal(now()))

    def _tell(self) -> None:
        """Tells webhooks what was sealed."""
        webhooks = self._webhooks
        if webhooks is not None:
            self._every_second(lambda: webhooks.deliver(now))

    def _every_second(self, care: Callable[[], object]) -> None:
        said = ""
        while not self._ended.wait(_SEAL_EVERY):
            try:
                care()
                said = ""
            except AttestdError as error:
                if str(error) != said:
                    report(error)  # once; how far behind it is, metrics say
                said = str(error)

    def _look_after(self) -> None:
        """Every minute: tells who is overdue and what ends, forgets what expired, and renews the TLS certificate ahead
        of time (workers then restart)."""
        while not self._ended.wait(_SWEEP_EVERY.total_seconds()):
            for care in (self._watch, self._forget, self._renew_certificate):
                try:
                    care(now())
                except AttestdError as error:
                    report(error)  # the next minute tries again
            counting.tidy()

    def _watch(self, at: datetime) -> None:
        """Whose result stopped counting, and what will end."""
        instance = self._instance
        done = watch(instance.registry, instance.settings, instance.hierarchy, now=at, pause=self._ended.wait)
        for error in done.errors:
            report(error)  # the next minute tries again

    def _forget(self, at: datetime) -> None:
        """What no request can ask for any more, and what is past its retention."""
        for error in sweep(self._instance.registry, self._instance.settings, now=at, pause=self._ended.wait).errors:
            report(error)  # the next minute tries again

    def _renew_certificate(self, at: datetime) -> None:
        if self._tls.ensure(at):
            os.kill(os.getpid(), signal.SIGHUP)
