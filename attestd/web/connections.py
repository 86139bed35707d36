"""This process's connections, which the HTTP server underneath counts and cannot tell apart.

Two things that it has no setting for are done from outside, on duplicates of its descriptors, which name the very same
connections and can't be mistaken for later ones:

- A client that takes nothing of its answer would hold its connection for ever. The kernel has a limit (RFC 5482;
  tcp(7), TCP_USER_TIMEOUT), which connections inherit from the listening socket.
- Past its number of connections the server accepts nobody, whoever holds them. So before that, the sources that hold
  the most are cut down to what leaves room: each source keeps as many connections as the others, or what it has.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from attestd.web.sources import source_of

_log = logging.getLogger("attestd.web.connections")
_DESCRIPTORS: Final = Path("/proc/self/fd")  # Linux; elsewhere there is no such folder and nothing is looked after
_LOOK_EVERY: Final = 0.5  # seconds
_FULL: Final = 0.75  # of the connections: from here on the largest holders are cut
_LEFT: Final = 0.5  # of the connections, about: what is left afterwards


class Warden:
    """Looks after one process's connections to `port`."""

    def __init__(
        self,
        port: int,
        *,
        most: int,
        send_time: float,
        spared: Callable[[str], bool] = lambda source: False,
        closed: Callable[[int], object] = lambda count: None,
    ) -> None:
        """`most` connections; `spared` sources are never cut: trusted proxies, this machine."""
        self._port, self._most, self._send_time = port, most, send_time
        self._spared, self._closed = spared, closed

    async def watch(self) -> None:
        """Until it is cancelled."""
        if not _DESCRIPTORS.is_dir():
            return
        while not self._bound_sending():
            await asyncio.sleep(0.05)
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            # Counting is one look at a folder. Only when they are many is each of them asked, in a thread.
            if len(os.listdir(_DESCRIPTORS)) > self._most * _FULL:  # noqa: PTH208 - without thousands of Path objects
                await asyncio.to_thread(self.thin_out)

    def thin_out(self) -> int:
        """Ends connections of the sources that hold the most, if there are too many; how many."""
        held: dict[str, list[socket.socket]] = {}
        try:
            for connection in _sockets():
                try:
                    here, peer = connection.getsockname(), connection.getpeername()
                except OSError:  # listening, or ended
                    connection.close()
                    continue
                if connection.family in (socket.AF_INET, socket.AF_INET6) and here[1] == self._port:
                    held.setdefault(source_of(peer[0]), []).append(connection)
                else:
                    connection.close()
            return self._cut(held)
        finally:
            for connections in held.values():
                for connection in connections:
                    connection.close()  # our duplicate alone

    def _cut(self, held: Mapping[str, list[socket.socket]]) -> int:
        counts = {source: len(connections) for source, connections in held.items() if not self._spared(source)}
        room = int(self._most * _LEFT)
        if sum(len(connections) for connections in held.values()) <= self._most * _FULL:
            return 0
        share = fair_share(counts.values(), room)
        ended = 0
        for source, count in counts.items():
            for connection in held[source][: max(0, count - share)]:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                ended += 1
        if ended:
            self._closed(ended)
            _log.warning("connections were ended", extra={"members": {"ended": ended, "left_each": share}})
        return ended

    def _bound_sending(self) -> bool:
        """Limits how long connections wait for the other side, once the process listens."""
        done = False
        for found in _sockets():
            with found, suppress(OSError):
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and found.getsockname()[1] == self._port:
                    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._send_time * 1000))
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    done = True
        return done


def fair_share(counts: Iterable[int], room: int) -> int:
    """The largest share, at least 1, for which `room` holds everybody's connections cut down to it."""
    left = room
    remaining = sorted(counts)
    for position, count in enumerate(remaining):
        share = max(1, left // (len(remaining) - position))
        if count > share:
            return share
        left -= count
    return room  # they all fit


def _sockets() -> Iterator[socket.socket]:
    """Duplicates of this process's sockets; who takes one closes it."""
    ours: set[int] = set()  # the listing's own descriptor is free again, and the first duplicate takes its number
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208
        with suppress(OSError):
            if int(name) not in ours and os.readlink(f"{_DESCRIPTORS}/{name}").startswith("socket:"):  # noqa: PTH115
                duplicate = os.dup(int(name))
                ours.add(duplicate)
                yield socket.socket(fileno=duplicate)
