"""One connection to NATS: the server is checked by its authority, and this side logs in with a key."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.errors import Error as NatsError

from attestd.broker.addresses import BrokerMisconfigured
from attestd.broker.nkeys import Kind, NkeyMalformed, SigningKey
from attestd.errors import Unavailable

_CONNECT: Final = 3  # seconds
_PING: Final = 5  # seconds
_MAX_CREDENTIALS: Final = 64 * 1024  # octets
_SEED = re.compile(r"^SU[A-Z2-7]{56}$", re.MULTILINE | re.ASCII)
_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+([A-Za-z0-9_.=-]+)\s+-+END NATS USER JWT-", re.ASCII)


class BrokerUnreachable(Unavailable):
    """The message broker can't be reached"""

    remedy = "Check the network, the address and nats-server itself; everything else goes on without it."


class KeyClient(Client):  # type: ignore[misc]
    """nats-py's client that logs in with an nkey. It can do so by itself only with a package that comes as source."""

    def __init__(self, key: SigningKey, jwt: str = "") -> None:
        """`jwt`: what an account's operator says about the key, where nats-server does not know it by itself."""
        super().__init__()
        self.login: dict[str, Any] = {"signature_cb": lambda challenge: base64.b64encode(key.sign(challenge.encode()))}
        if jwt:
            self.login["user_jwt_cb"] = lambda: jwt.encode("ascii")
        else:
            self._public_nkey = key.public  # what CONNECT names; without a user and password it would say nothing
            self.login |= {"user": key.public, "password": "-"}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where it is, whom it is checked by, and as whom this side logs in: read anew for each connection.

    `credentials`: a seed (`SU…`) or a `.creds` file. `certificate` and `key`: what is shown where nats-server asks for
    a certificate.
    """

    address: str
    ca: Path | None
    credentials: Path
    certificate: Path | None = None
    key: Path | None = None

    def client(self) -> KeyClient:
        """Raises BrokerMisconfigured."""
        try:
            text = self.credentials.read_bytes()[: _MAX_CREDENTIALS + 1].decode("ascii", "replace")
        except OSError as error:
            raise BrokerMisconfigured(f"{self.credentials} can't be read.", seen=error.strerror) from None
        seed, jwt = _SEED.search(text), _JWT.search(text)
        try:
            return KeyClient(SigningKey.from_seed(seed[0] if seed else "", Kind.USER), jwt[1] if jwt else "")
        except NkeyMalformed as error:
            raise BrokerMisconfigured(f"{self.credentials} holds no user's key: {error}") from None

    def tls(self) -> ssl.SSLContext | None:
        """Raises BrokerMisconfigured."""
        if self.ca is None:
            return None
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None and self.key is not None:
                context.load_cert_chain(str(self.certificate), str(self.key))
        except OSError as error:  # ssl.SSLError is one
            raise BrokerMisconfigured(f"The connection's certificates can't be used: {error}") from None
        return context

    async def connect(self, name: str, ended: Callable[[], Awaitable[None]], *, inbox: str) -> Client:
        """A connection that does not come back by itself; `ended` is called once it broke.

        Raises BrokerMisconfigured or BrokerUnreachable.
        """
        client, tls = self.client(), self.tls()
        more: dict[str, Any] = {}
        if tls is not None:
            more = {"tls": tls, "tls_hostname": urlsplit(self.address).hostname}
        refused: list[Exception] = []

        async def failed(error: Exception) -> None:
            refused.append(error)
            del refused[:-1]

        try:
            await asyncio.wait_for(
                client.connect(
                    self.address,
                    name=name,
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
        except (TimeoutError, NatsError, OSError) as error:
            why = refused[0] if refused else error
            raise BrokerUnreachable(f"{self.address}: {type(why).__name__}: {why}"[:300]) from error
        if not client.is_connected:  # nats-py takes a connection that ends at once for one that was let in
            raise BrokerUnreachable(f"{self.address} ended the connection at once.")
        return client


async def close(client: Client) -> None:
    """Ends a connection, which may be broken."""
    try:
        await asyncio.wait_for(client.close(), _CONNECT)
    except (TimeoutError, NatsError, OSError):
        return
