"""Those who knock: `python -m tests.load.attackers ATTACK PORT ROOT TELL NUMBER [--name=value …]`, until stdin ends.

A process of its own, so that attackers share no interpreter with the devices that are watched. It writes the file TELL
when all of its connections have begun, and again and again until its end, with what they saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attestd.protocol.encoding import b64decode, b64encode, write_object
from attestd.protocol.signed import sign_flattened

HOST = "127.0.0.1"
URL = "https://attestd.example:8443/v1/renewals"


class Attack:
    """Some connections that do one thing, from `sources` addresses of 127.<network + number>.0.0/16."""

    def __init__(self, port: int, root: str, number: int, said: dict[str, str]) -> None:
        self.port, self.number = port, number
        self.connections = int(said.get("connections", "100"))
        self.network = int(said.get("network", "20")) + number
        self.sources = int(said.get("sources", "1"))
        self.kid = said.get("kid", "nobody")
        self.path = said.get("path", "/v1/renewals")
        self.trust = ssl.create_default_context(cafile=root)
        self.seen: Counter[str] = Counter()
        self.begun = 0
        self.ended = False
        self.threads: ThreadPoolExecutor | None = None

    def source(self, n: int) -> str:
        n %= self.sources
        return f"127.{self.network}.{n >> 8}.{(n & 255) or 255}"

    async def connect(self, n: int, *, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            HOST,
            self.port,
            ssl=self.trust if tls else None,
            server_hostname=HOST if tls else None,
            ssl_handshake_timeout=60 if tls else None,
            local_addr=(self.source(n), 0),
        )

    async def again(self, n: int, once: Callable[[int], Awaitable[None]]) -> None:
        """One attacker, who comes back whenever it is put out."""
        first = True
        while True:
            try:
                await once(n)
                self.seen["ended"] += 1
            except (OSError, EOFError, ssl.SSLError, ValueError) as error:
                self.seen[type(error).__name__] += 1
                await asyncio.sleep(0.2)
            if first:
                self.begun += 1
                first = False

    def begin(self) -> None:
        self.begun += 1

    # ---- Slow ones --------------------------------------------------------------------------------------------

    async def sockets(self, n: int) -> None:
        """Connects, and says nothing."""
        reader, writer = await self.connect(n, tls=False)
        self.begin()
        await reader.read(1)
        writer.close()

    async def handshakes(self, n: int) -> None:
        """Begins a TLS handshake, and stops in its first message."""
        reader, writer = await self.connect(n, tls=False)
        writer.write(bytes.fromhex("16030100f0010000ec0303"))
        self.begin()
        await reader.read(1)
        writer.close()

    async def idle(self, n: int) -> None:
        """Shakes hands, and asks nothing."""
        reader, writer = await self.connect(n)
        self.begin()
        await reader.read(1)
        writer.close()

    async def headers(self, n: int) -> None:
        """A header a second, without an end."""
        _, writer = await self.connect(n)
        writer.write(b"POST /v1/renewals HTTP/1.1\r\nHost: a\r\n")
        self.begin()
        await self._trickle(writer, b"X-A: b\r\n")

    async def bodies(self, n: int) -> None:
        """An octet of the body a second."""
        _, writer = await self.connect(n)
        writer.write(self._head(5000))
        self.begin()
        await self._trickle(writer, b"{")

    async def unread(self, n: int) -> None:
        """Asks and asks, and takes no answer."""
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.bind((self.source(n), 0))
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (HOST, self.port))
        reader, writer = await asyncio.open_connection(sock=plain, ssl=self.trust, server_hostname=HOST)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        self.begin()
        while not writer.is_closing():
            writer.write(b"GET /v1/root HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
            await asyncio.wait_for(writer.drain(), 120)
            await asyncio.sleep(0.01)

    async def _trickle(self, writer: asyncio.StreamWriter, drop: bytes) -> None:
        while not writer.is_closing():
            await asyncio.sleep(1)
            writer.write(drop)
            await writer.drain()

    # ---- Large ones -------------------------------------------------------------------------------------------

    async def announced(self, n: int) -> None:
        """Announces 1 GB and sends what is taken of it."""
        await self._gigabyte(n, self._head(10**9), b"x" * 0x10000)

    async def chunked(self, n: int) -> None:
        """Sends chunks without an end."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        await self._gigabyte(
            n, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        )

    async def _gigabyte(self, n: int, head: bytes, piece: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self.threads is None:
            self.threads = ThreadPoolExecutor(self.connections)
        self.begin()
        await loop.run_in_executor(self.threads, self._send, n, head, piece)

    def _send(self, n: int, head: bytes, piece: bytes) -> None:
        """Blocking: an asyncio stream does not say that nobody takes what is written to it."""
        plain = socket.create_connection((HOST, self.port), 10, source_address=(self.source(n), 0))
        with self.trust.wrap_socket(plain, server_hostname=HOST) as connection:
            connection.sendall(head)
            for _ in range(15_000):
                if self.ended:
                    return
                connection.sendall(piece)
                self.seen["octets"] += len(piece)

    # ---- Many -------------------------------------------------------------------------------------------------

    async def garbage(self, n: int) -> None:
        """Posts what is nearly a signed request, as fast as it is answered."""
        await self._flood(n, lambda _: write_object({"protected": "e30", "payload": "e30", "signature": "AA"}))

    async def impostors(self, n: int) -> None:
        """Names a device that exists, with fresh nonces and without its key."""

        def body(nonce: bytes) -> bytes:
            return sign_flattened(
                b'{"v":1}', sign=lambda _: os.urandom(64), alg="ES256", kid=self.kid, url=URL, nonce=nonce or b"\0" * 61
            )

        await self._flood(n, body)

    async def enrollments(self, n: int) -> None:
        """Begins enrollments that come to nothing."""
        ek = b64encode(os.urandom(120))
        message = write_object({"v": 1, "ek": {"public": ek, "certificates": []}, "ak": {"public": ek}})
        await self._flood(n, lambda _: message)

    async def reads(self, n: int) -> None:
        """Asks for nonces."""
        await self._flood(n, lambda _: b"")

    async def _flood(self, n: int, body: Callable[[bytes], bytes]) -> None:
        reader, writer = await self.connect(n)
        self.begin()
        nonce = b""
        while True:
            content = body(nonce)
            writer.write((self._head(len(content)) if content else self._ask()) + content)
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen[head.split(b" ", 2)[1].decode()] += 1
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or b"0"))
            text = head.partition(b"replay-nonce: ")[2].partition(b"\r\n")[0].decode()
            nonce = b64decode(text, name="nonce") if text else b""

    def _head(self, length: int) -> bytes:
        head = f"POST {self.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {length}\r\n\r\n".encode()

    def _ask(self) -> bytes:
        return f"GET {self.path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


async def _main(attack: Attack, name: str, tell: Path) -> None:
    once = getattr(attack, name)
    _tasks = [asyncio.create_task(attack.again(n, once)) for n in range(attack.connections)]
    while attack.begun < attack.connections:
        await asyncio.sleep(0.05)
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    while not stop.done():
        _tell(attack, tell)
        await asyncio.wait({stop}, timeout=0.5)
    attack.ended = True
    _tell(attack, tell)
    os._exit(0)  # the connections end with the process, whatever state they are in


def _tell(attack: Attack, tell: Path) -> None:
    draft = tell.with_suffix(".new")
    draft.write_text(json.dumps(attack.seen))
    draft.rename(tell)


if __name__ == "__main__":
    name, port, root, tell, number = sys.argv[1:6]
    said = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[6:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(Attack(int(port), root, int(number), said), name, Path(tell)))
