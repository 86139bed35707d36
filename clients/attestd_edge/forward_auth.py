"""The edge as an answer to a reverse proxy's question: may this request go on? (nginx's auth_request and its like)

- `GET /auth/<boundary>`, or `/auth` where only one is configured. The hop describes the request in X-Forwarded-Method,
  -Proto, -Host and -Uri, once each, and the client's certificate in the configured header; where the boundary says so,
  the data's labels in Attestd-Labels, too. The client's own Data-Labels are its claims, and no more. 200 with the
  identity in headers, or 401, 403, 503 with a problem document.
- `/envoy/<boundary>/…`, where Envoy is the hop: its HTTP mode (envoy/http_mode.py).
- `GET /healthz`: the process answers. `GET /readyz`: it can decide; 503 while it has no fresh bundle.
- `GET /metrics`: Prometheus.

Everything here believes its peer, so it must be served on a listener that only the hop can reach: `listen` opens those.
No I/O: a head in, octets out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from attestd.credentials.identity import VerifiedIdentity
from attestd.policy import Boundary
from attestd_edge import metrics
from attestd_edge.decide import Request
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.envoy.http_mode import PREFIX, HttpMode
from attestd_edge.heads import Answer, Head, HeadReader, write
from attestd_edge.hop import CertificateSource, Door, Headers, HopIncomplete, OnlyPeerHop, Peer
from attestd_edge.labels import claims_of, labels_of
from attestd_edge.memo import Memo
from attestd_edge.problems import MEDIA_TYPE, URN, Refusal
from attestd_edge.receipts.crossings import claimed_digest
from attestd_edge.server import Later
from attestd_edge.settings import Guarded, Settings, SettingsInvalid

_AUTH: Final = "/auth"
_HOP: Final = Peer()  # the listener has authenticated it
_ID: Final = "Attestd-Request-Id"
_REQUEST_ID: Final = "x-request-id"
_URI: Final = "x-forwarded-uri"
_ID_LINE: Final = b"\r\nX-Request-Id: "  # as the shipped configurations spell it; any other spelling is only slower
_URI_LINE: Final = b"\r\nX-Forwarded-Uri: "
_VISIBLE: Final = re.compile(rb"[!-~]+")
_OK: Final = b"HTTP/1.1 200 OK\r\n"
# How many questions are remembered, how many octets they may take together, and what the objects made of one take
# beside its octets (tests/unit/attestd_edge/test_edge_memory.py weighs them).
QUESTIONS: Final = 32 * 1024
QUESTIONS_OCTETS: Final = 64 << 20
_QUESTION_OBJECTS: Final = 4 * 1024


@dataclass(slots=True)
class _Question:
    """What was asked at a boundary, as far as it can come again: all but the path and the hop's number for it."""

    guarded: Guarded
    headers: Headers
    keep_alive: bool
    asked: Asked | None = None  # once it was read
    identity: VerifiedIdentity | None = None  # that `told` is about
    told: bytes = b""  # the answer behind the request's id


class ForwardAuth:
    """What the edge answers to its hop.

    Most questions of a hop are earlier ones of the same client over again, but for the request's id and its path. What
    reading the rest gave is remembered by its octets; judging it is not left out (docs/adr/0041).
    """

    def __init__(self, edge: Edge, settings: Settings) -> None:
        """Raises SettingsInvalid without a boundary."""
        if not settings.boundaries:
            raise SettingsInvalid("There is no boundary to guard.", expected="at least one [[boundary]]")
        self._edge = edge
        self._door = Door(CertificateSource(settings.certificate_header), OnlyPeerHop())
        self._envoy = (
            HttpMode(edge, settings.boundaries) if settings.certificate_header is CertificateSource.ENVOY else None
        )
        self._routes = {f"{_AUTH}/{name}": guarded for name, guarded in settings.boundaries.items()}
        if len(settings.boundaries) == 1:
            self._routes[_AUTH] = next(iter(settings.boundaries.values()))
        self._known: Memo[bytes, _Question] = Memo(QUESTIONS, octets=QUESTIONS_OCTETS)

    def start(self) -> None:
        """Begins to refresh in the background."""
        self._edge.start()

    def stop(self) -> None:
        """Ends that and keeps what has to be kept. Waits for it."""
        self._edge.stop()

    def answer(self, octets: bytes, reader: HeadReader) -> Answer | Later:
        """The answer to a whole head, which `reader` reads if it was not read before; or what waits for the disk and
        has it then. Raises HeadRefused."""
        told = _told_of(octets)
        if told is not None and (question := self._known.get(told.rest)) is not None:
            return self._judge(question, told)
        head = reader.read(octets)
        bodiless = head.method == "HEAD"
        guarded = self._routes.get(head.target.partition("?")[0])
        if guarded is None:
            status, headers, body = self._elsewhere(head)
            return Answer(write(status, headers, body, bodiless=bodiless), head.keep_alive)
        question = _Question(guarded, head.headers, head.keep_alive)
        answer = self._judge(question, None, bodiless=bodiless)
        if question.told and told is not None and told.is_all_of(head.headers):
            self._known.keep(told.rest, question, octets=_QUESTION_OBJECTS + 2 * len(told.rest))
        return answer

    def _elsewhere(self, head: Head) -> tuple[int, list[tuple[str, str]], bytes]:
        if self._envoy is not None and head.target.startswith(PREFIX):
            return self._envoy.answer(head.method, head.target, lambda: head.headers)
        path = head.target.partition("?")[0]
        if path == "/healthz":
            return _json(200, {"status": "alive"})
        if path == "/readyz":
            ready, why = self._edge.readiness()
            return _json(200 if ready else 503, {"status": "ready" if ready else "not ready", "detail": why})
        if path == "/metrics":
            return 200, [("Content-Type", metrics.MEDIA_TYPE)], self._edge.metrics.text()
        # Not 404: a reverse proxy that asks at the wrong place must refuse, and some take a 404 for an upstream's.
        document = {"type": f"{URN}no-such-boundary", "title": "No such boundary is configured here", "status": 403}
        return 403, [("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store")], json.dumps(document).encode()

    def _judge(self, question: _Question, told: _Told | None, *, bodiless: bool = False) -> Answer | Later:
        """`told`: what this request says for itself, if the question came before; else its headers say all."""
        answer = self._edge.admit_at_once(question.guarded.boundary, lambda: self._read(question, told))
        if callable(answer):
            later = answer
            return lambda: Answer(self._write(question, later(), bodiless=bodiless), question.keep_alive)
        return Answer(self._write(question, answer, bodiless=bodiless), question.keep_alive)

    def _write(self, question: _Question, answer: Admitted | Refusal, *, bodiless: bool) -> bytes:
        boundary = question.guarded.boundary
        if not isinstance(answer, Admitted):
            return write(answer.status, answer.headers, answer.body, bodiless=bodiless)
        if answer.headers:  # a nonce, for this answer alone
            return write(200, [(_ID, answer.request_id), *_identity(answer.identity, boundary), *answer.headers])
        if question.identity is not answer.identity:
            question.identity = answer.identity
            question.told = write(200, _identity(answer.identity, boundary)).removeprefix(_OK)
        return b"%b%b: %b\r\n%b" % (_OK, _ID.encode("ascii"), answer.request_id.encode("ascii"), question.told)

    def _read(self, question: _Question, told: _Told | None) -> Asked:
        if told is not None and (asked := question.asked) is not None:
            return asked.again(told.target, told.request_id)
        headers = question.headers
        request = Request(
            method=_told(headers, "x-forwarded-method"),
            origin=f"{_told(headers, 'x-forwarded-proto')}://{_told(headers, 'x-forwarded-host')}",
            target=_told(headers, _URI),
            labels=labels_of(question.guarded, headers, door=self._door, peer=_HOP),
            claims=claims_of(headers),
        )
        question.asked = Asked(
            self._door.present(headers, _HOP), request, headers.one(_REQUEST_ID), claimed_digest(headers)
        )
        return question.asked


@dataclass(slots=True)
class _Told:
    """A head as two lines that change from one request to the next, and the rest of it."""

    rest: bytes
    target: str
    request_id: str | None

    def is_all_of(self, headers: Headers) -> bool:
        """Whether a reader found the same in these two lines, and no more of their names in the rest."""
        ids = () if self.request_id is None else (self.request_id,)
        return headers.values.get(_URI) == (self.target,) and headers.values.get(_REQUEST_ID, ()) == ids


def _told_of(octets: bytes) -> _Told | None:
    """None for a head that is not of the shipped configurations' form: it is read as a whole each time."""
    begin = octets.find(_URI_LINE)
    end = octets.find(b"\r\n", begin + 2)
    target = octets[begin + len(_URI_LINE) : end]
    if begin < 0 or _VISIBLE.fullmatch(target) is None:
        return None
    rest, request_id = octets[:begin] + octets[end:], None
    begin = rest.find(_ID_LINE)
    if begin >= 0:
        end = rest.find(b"\r\n", begin + 2)
        number = rest[begin + len(_ID_LINE) : end]
        if not number.isalnum():
            return None
        rest, request_id = rest[:begin] + rest[end:], number.decode("ascii")
    return _Told(rest, target.decode("ascii"), request_id)


def _identity(identity: VerifiedIdentity, boundary: Boundary) -> list[tuple[str, str]]:
    return [
        ("Attestd-Identity", str(identity.spiffe_id)),
        ("Attestd-Tier", identity.tier.value),
        ("Attestd-Site", str(identity.site)),
        ("Attestd-Device", str(identity.device_id)),
        ("Attestd-Credential", identity.kind),
        ("Attestd-Boundary", boundary.name),
        ("Cache-Control", "no-store"),
    ]


def _told(headers: Headers, name: str) -> str:
    """What the hop must say exactly once. Raises HopIncomplete or HeaderDuplicated."""
    value = headers.one(name)
    if not value:
        raise HopIncomplete(f"The reverse proxy did not send {name}.")
    return value


def _json(status: int, members: dict[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
    return status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], json.dumps(members).encode()
