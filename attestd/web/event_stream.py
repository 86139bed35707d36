"""What happened, told to operators who watch: on which topics something is different, and of which
devices. It says where to look again and nothing of what is there; who may see that is asked where it is shown.

Sessions and operators listen, by their keys' thumbprints (RFC 7638); whether each still counts is asked again every
few seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from flask import Blueprint, Response

from attestd.callers import Callers
from attestd.credentials.jwk import jwk_thumbprint
from attestd.operations.news import News, Newsroom
from attestd.protocol.encoding import write_object
from attestd.web.admin_views import Query
from attestd.web.context import Service, exchange
from attestd.web.streams import ALIVE, MEDIA_TYPE, begun, event

KIND: Final = "events"
MOST: Final = 256  # in one worker process: people, and some programs
MOST_EACH: Final = 8  # of one key: a browser's session has a stream for each page that is seen
_LOOK: Final = 1.0  # seconds


class EventSource:
    """The news, and what leads to them."""

    def __init__(self, newsroom: Newsroom, allowed: Callable[[frozenset[str], datetime], frozenset[str]]) -> None:
        """`allowed`: which of these keys may still listen."""
        self._newsroom, self._allowed = newsroom, allowed
        self.every = _LOOK

    def newest(self, now: datetime) -> str:
        """The newest place."""
        del now
        return str(self._newsroom.look())

    def since(self, place: str) -> tuple[str, bytes]:
        """All that happened since, as one event."""
        newest, news = self._newsroom.since(int(place))
        return str(newest), written(news)

    def allowed(self, listening: frozenset[str], now: datetime) -> frozenset[str]:
        """Whose sessions and keys still count."""
        return self._allowed(listening, now)


def written(news: News) -> bytes:
    """The event; its id is the highest number of the audit rows that it tells of."""
    return event("changed", str(news.number), write_object(news.to_members()))


def still_allowed(callers: Callers) -> Callable[[frozenset[str], datetime], frozenset[str]]:
    """Which keys may still call as operators."""

    def allowed(listening: frozenset[str], now: datetime) -> frozenset[str]:
        return frozenset(key for key in listening if callers.is_operator(key, now))

    return allowed


@dataclass(frozen=True, slots=True)
class _Events:
    service: Service

    def stream(self) -> Response:
        """GET /v1/admin/events: what happened since then, if that is asked, and from now on what does. `streams` goes
        on from here."""
        since = Query("since").number("since")
        newsroom, key = self.service.newsroom, jwk_thumbprint(exchange().caller.key)
        place = newsroom.look()  # before what happened: what is in between is told twice, and not left out
        news = None if since is None else newsroom.recent(since)
        begin = ALIVE if news is None else written(news)
        return Response(begin, content_type=MEDIA_TYPE, headers=begun(KIND, key, str(place)))


def blueprint(service: Service) -> Blueprint:
    """This door's route."""
    door = _Events(service)
    routes = Blueprint("events", __name__)
    routes.get("/v1/admin/events")(door.stream)
    return routes
