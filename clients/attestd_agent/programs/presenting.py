"""The rules by which a program shows its device's identity: to named origins only, with each edge's own nonce.

Nothing here knows an HTTP library; `httpx_auth` and `requests_auth` are its two hands.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, Self

from attestd.credentials.dpop import MalformedUri, normal_uri
from attestd.errors import Forbidden
from attestd_agent.programs.origins import origin_of, read_origins
from attestd_agent.programs.voice import Voice

# What is put on a request, and must not go on to anybody else with it.
HEADERS = ("Authorization", "DPoP")
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}", re.ASCII)  # RFC 9449, section 8.1
_CHALLENGE = re.compile(r"(?:^|,)\s*DPoP(?:\s|,|$)", re.ASCII | re.IGNORECASE)


class OriginNotNamed(Forbidden):
    """This device's identity is not for that origin"""

    remedy = "Name the origin where the program is set up, or send this request without the device's identity."


class Speaker(Protocol):
    """Makes a token and a proof for one request: `voice.Voice`, or `session.DeviceSession` in the same process."""

    def dpop_headers(self, method: str, url: str, *, audience: str, edge_nonce: str = "") -> dict[str, str]:
        """`Authorization` and `DPoP` for one request."""


class Presenter:
    """One program's way to present its device to these origins. Safe for threads; holds the edges' last nonces."""

    def __init__(self, speaker: Speaker, *, audience: str, origins: Iterable[str]) -> None:
        """Raises OriginInvalid unless each is `https://…`, or `http://` on this very machine."""
        self._speaker = speaker
        self._audience = audience
        self._origins = read_origins(origins)
        self._nonces: dict[str, str] = {}
        self._lock = threading.Lock()

    @classmethod
    def over(cls, socket: str | Path, *, audience: str, origins: Iterable[str]) -> Self:
        """By the agent's door on this machine (`attestd-agent serve`)."""
        return cls(Voice(Path(socket)), audience=audience, origins=origins)

    def names(self, url: str) -> bool:
        """Whether this URL's origin is one to present to."""
        try:
            return origin_of(url) in self._origins
        except MalformedUri:
            return False

    def sign(self, method: str, url: str) -> dict[str, str]:
        """The headers for this very request. Raises MalformedUri, OriginNotNamed, or what the speaker raises."""
        origin = origin_of(url)
        if origin not in self._origins:
            raise OriginNotNamed(seen=origin, expected=", ".join(sorted(self._origins)))
        with self._lock:
            nonce = self._nonces.get(origin, "")
        # The proof says nothing about the query (RFC 9449, 4.2), so nobody else need hear of it.
        return self._speaker.dpop_headers(method, normal_uri(url), audience=self._audience, edge_nonce=nonce)

    def learn(self, url: str, nonce: str | None) -> None:
        """Keeps the DPoP-Nonce of an answer for the next request to the same origin (RFC 9449, section 8.2)."""
        if nonce is not None and _NONCE.fullmatch(nonce) and self.names(url):
            with self._lock:
                self._nonces[origin_of(url)] = nonce

    def may_try_again(self, url: str, status: int, challenge: str | None, *, presented: bool) -> bool:
        """Whether a refusal is one that a new proof could mend: the edge wants its nonce, or was shown nothing, or was
        shown a proof of an earlier request that was redirected there (then it was not `presented`)."""
        if status != 401 or challenge is None or not _CHALLENGE.search(challenge) or not self.names(url):
            return False
        return not presented or 'error="use_dpop_nonce"' in challenge
