"""This service's own connections to nats-server: one for each account that it is in, each made anew when it breaks."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.errors import Error as NatsError

from attestd.broker.links import KeyClient, close
from attestd.broker.nkeys import SigningKey
from attestd_edge.nats.settings import NatsSettings

logger = logging.getLogger("attestd_edge.nats")

_CONNECT = 3  # seconds
_PAUSE = 1.0  # seconds before another attempt
_PING = 5  # seconds


def tls_to(settings: NatsSettings, key: Path, certificate: Path) -> ssl.SSLContext | None:
    """The server is checked by nats.ca; this side shows the proxy's certificate, as it is on disk now."""
    if settings.ca is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(settings.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(certificate), str(key))
    return context


async def keep(
    name: str,
    settings: NatsSettings,
    key: SigningKey,
    make_tls: Callable[[], ssl.SSLContext | None],
    use: Callable[[Client], Awaitable[None]],
    *,
    inbox: str = "_INBOX.attestd",
) -> None:
    """Connects as the user of `key` and lets `use` work until the connection ends; then again, for ever.

    Each attempt reads the proxy's certificate anew, which is renewed beside. What fails again and again is said once.
    """
    said = ""
    while True:
        closed = asyncio.Event()
        try:
            client = await connected(name, settings, key, make_tls(), closed, inbox=inbox)
        except (TimeoutError, NatsError, OSError, ssl.SSLError) as error:
            if said != (said := f"{type(error).__name__}: {error}"):
                logger.warning("%s: nats-server does not let this service in: %s", name, said)
            await asyncio.sleep(_PAUSE)
            continue
        said = ""
        logger.info("%s: connected", name)
        work = asyncio.ensure_future(use(client))
        end = asyncio.ensure_future(closed.wait())
        try:
            await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not work.cancelled() and (error_of := work.exception()) is not None:
                logger.warning("%s: begins anew: %s: %s", name, type(error_of).__name__, error_of)
            else:
                logger.warning("%s: the connection ended", name)
        finally:
            work.cancel()
            end.cancel()
            await asyncio.gather(work, end, return_exceptions=True)
            await close(client)
        await asyncio.sleep(_PAUSE)


async def connected(
    name: str,
    settings: NatsSettings,
    key: SigningKey,
    tls: ssl.SSLContext | None,
    closed: asyncio.Event,
    *,
    inbox: str = "_INBOX.attestd",
) -> Client:
    """As the user of `key`; it does not come back by itself, and sets `closed` once it broke."""

    async def ended() -> None:
        closed.set()

    async def failed(error: Exception) -> None:
        logger.debug("%s: %s", name, error)

    more: dict[str, Any] = {}
    if tls is not None:
        more = {"tls": tls, "tls_hostname": urlsplit(settings.server).hostname}
    client = KeyClient(key)
    await asyncio.wait_for(
        client.connect(
            settings.server,
            name=f"attestd-edge {name}",
            **client.login,
            allow_reconnect=False,
            connect_timeout=_CONNECT,
            max_reconnect_attempts=0,
            ping_interval=_PING,
            max_outstanding_pings=2,
            closed_cb=ended,
            disconnected_cb=ended,
            error_cb=failed,
            inbox_prefix=inbox.encode(),
            **more,
        ),
        2 * _CONNECT,
    )
    return client
