"""Messages that were not let across, in the hands of an operator: looked at, put back to be judged anew, or dropped.

Nobody lets one across past policy. Whoever wants it to cross changes what kept it (releases the device, changes the
policy); put back, it is judged by the state of then, and gets its receipt, as every message does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from attestd.broker.links import BrokerUnreachable, close
from attestd.errors import Conflict
from attestd_edge.nats.keys import Keys
from attestd_edge.nats.links import connected, tls_to
from attestd_edge.nats.settings import Carriage, NatsSettings
from attestd_edge.nats.subjects import read_name
from attestd_edge.settings import Settings, SettingsInvalid

SUBJECT_HEADER: Final = "Attestd-Subject"  # under which it was sent
WHY_HEADER: Final = "Attestd-Withheld"
COLLECTED_HEADER: Final = "Attestd-Collected"
_OURS: Final = ("nats-", "attestd-")  # headers that NATS and edges speak with
_ANSWER: Final = 5.0  # seconds that nats-server may take


class NotWithheld(Conflict):
    """There is no such message among those that were withheld"""

    remedy = "Look at them again: `attestd-edge nats withheld list`. The stream's limits may have ended it."


class CameFromElsewhere(Conflict):
    """It is not known under which subject this message was sent"""

    remedy = "Drop it, or send it again from where it came."


def stream_of(carriage: Carriage) -> str:
    """Where withheld messages are."""
    return f"{carriage.stream}_WITHHELD"


@dataclass(frozen=True, slots=True)
class WithheldMessage:
    """One of them. `number` is its own in the stream, for good; `why` the problem that kept it."""

    number: int
    subject: str
    device: str
    why: str
    collected: str
    withheld: str
    content: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)

    def members(self) -> dict[str, Any]:
        """For people and programs, without the content, which is not theirs to see."""
        return {
            "number": self.number,
            "device": self.device,
            "why": self.why,
            "subject": self.subject,
            "collected": self.collected,
            "withheld": self.withheld,
            "octets": len(self.content),
        }


class Withheld:
    """One site's. Its connection is the carrier's user's."""

    def __init__(self, js: JetStreamContext, carriage: Carriage) -> None:
        self._js, self._carriage = js, carriage

    async def every(self) -> AsyncIterator[WithheldMessage]:
        """All of them, the oldest first."""
        number = 1
        while (found := await self._from(number)) is not None:
            yield found
            number = found.number + 1

    async def release(self, number: int) -> WithheldMessage:
        """Puts it back among those that wait to be judged, under its own subject. Raises NotWithheld or
        CameFromElsewhere."""
        found = await self._one(number)
        if self._carriage.source.names_in(found.subject) is None:
            raise CameFromElsewhere(seen=repr(found.subject[:80]), expected=str(self._carriage.source))
        # First there, then not here: what is put back twice after a failure is one message by its id.
        headers = found.headers | {"Nats-Msg-Id": f"{stream_of(self._carriage)}/{number}/{found.withheld}"}
        await self._js.publish(found.subject, found.content, stream=self._carriage.stream, headers=headers)
        await self._js.delete_msg(stream_of(self._carriage), number)
        return found

    async def drop(self, number: int) -> WithheldMessage:
        """Ends it. Raises NotWithheld."""
        found = await self._one(number)
        await self._js.delete_msg(stream_of(self._carriage), number)
        return found

    async def chosen(self, numbers: Sequence[int], *, device: str | None, every: bool) -> list[int]:
        """Those numbers; or all, of one device or of any."""
        if not every and device is None:
            return list(numbers)
        return [one.number async for one in self.every() if device in (None, one.device)]

    async def _one(self, number: int) -> WithheldMessage:
        found = await self._from(number)
        if found is None or found.number != number:
            raise NotWithheld(seen=str(number))
        return found

    async def _from(self, number: int) -> WithheldMessage | None:
        """The first with this number or a higher one."""
        try:
            found = await self._js.get_msg(
                stream_of(self._carriage), seq=number, subject=self._carriage.withheld.all(), next=True
            )
        except NotFoundError:
            return None
        return self._read(found)

    def _read(self, found: RawStreamMsg) -> WithheldMessage:
        headers: dict[str, str] = dict(found.headers or {})
        subject = headers.get(SUBJECT_HEADER, "")
        named = self._carriage.withheld.names_in(found.subject or "")
        return WithheldMessage(
            number=int(found.seq or 0),
            subject=subject,
            device=read_name(named[0].get("{device}", "")) if named is not None else "",
            why=headers.get(WHY_HEADER, ""),
            collected=headers.get(COLLECTED_HEADER, ""),
            withheld=found.time.isoformat() if found.time is not None else "",
            content=found.data or b"",
            headers={name: value for name, value in headers.items() if not name.lower().startswith(_OURS)},
        )


async def visit(settings: Settings, act: Callable[[Withheld], Awaitable[None]]) -> None:
    """`act` with what this site has withheld. Raises SettingsInvalid, FileUnreadable, NkeyMalformed, BrokerUnreachable
    and what `act` raises."""
    said = NatsSettings.of(settings)
    if said.carriage is None:
        raise SettingsInvalid("Nothing is carried from here.", expected="[nats.carry]")
    key, tls = Keys.load(said.keys).carry, tls_to(said, settings.key, settings.certificate)
    try:
        client = await connected("withheld", said, key, tls, asyncio.Event())
        try:
            await act(Withheld(client.jetstream(timeout=_ANSWER), said.carriage))
        finally:
            await close(client)
    except (TimeoutError, NatsError, OSError) as error:
        raise BrokerUnreachable(f"{said.server}: {type(error).__name__}: {error}"[:300]) from error
