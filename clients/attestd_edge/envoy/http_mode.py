"""Envoy's HTTP mode (ext_authz' http_service): the request itself, without its body, under a path of ours.

`<method> /envoy/<boundary><the request's path and query>`; `path_prefix: /envoy/<boundary>` makes that of it. Method
and target are the request line's, the host is Host, the scheme X-Forwarded-Proto, the certificate
X-Forwarded-Client-Cert, all as Envoy sends them; the client's own are overwritten there (deploy/envoy/envoy-http.yaml).
200 lets the request on.

It is open only where the configuration says that Envoy is the hop (`certificate_header = "x-forwarded-client-cert"`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attestd_edge.decide import Request
from attestd_edge.edge import Admitted, Asked, Edge
from attestd_edge.envoy import forwarded
from attestd_edge.envoy.answers import identity_headers, no_such_boundary
from attestd_edge.hop import CERTIFICATE_HEADERS, CertificateSource, Door, Headers, HopIncomplete, OnlyPeerHop, Peer
from attestd_edge.labels import FROM_HOP, claims_of, labels_of
from attestd_edge.receipts.crossings import claimed_digest
from attestd_edge.settings import Guarded

PREFIX: Final = "/envoy/"
Answer = tuple[int, list[tuple[str, str]], bytes]
_DOOR: Final = Door(CertificateSource.ENVOY, OnlyPeerHop())
# Envoy takes the headers that this one names out of the request that goes on; it did not show us which of them came.
_REMOVED: Final = ("X-Envoy-Auth-Headers-To-Remove", ",".join(sorted({FROM_HOP, forwarded.NAME, *CERTIFICATE_HEADERS})))


class HttpMode:
    """Answers Envoy's HTTP client."""

    def __init__(self, edge: Edge, boundaries: Mapping[str, Guarded]) -> None:
        self._edge = edge
        self._boundaries = boundaries

    def answer(self, method: str, target: str, read_headers: Callable[[], Headers]) -> Answer:
        """`target`: path and query of the request line, as they came, beginning with PREFIX."""
        name, slash, rest = target.removeprefix(PREFIX).partition("/")
        guarded = self._boundaries.get(name)
        if guarded is None:
            # Not 404: a proxy that asks at the wrong place must refuse.
            return 403, *no_such_boundary()
        answer = self._edge.admit(guarded.boundary, lambda: _read(method, slash + rest, read_headers(), guarded))
        if not isinstance(answer, Admitted):
            return answer.status, list(answer.headers), answer.body
        headers = identity_headers(answer, guarded.boundary)
        return 200, [*headers, _REMOVED, ("Cache-Control", "no-store"), *answer.headers], b""


def _read(method: str, target: str, headers: Headers, guarded: Guarded) -> Asked:
    peer = Peer()
    request = Request(
        method=method,
        origin=f"{_told(headers, 'x-forwarded-proto')}://{_told(headers, 'host')}",
        target=target,
        labels=labels_of(guarded, headers, door=_DOOR, peer=peer),
        claims=claims_of(headers),
    )
    return Asked(_DOOR.present(headers, peer), request, headers.one("x-request-id"), claimed_digest(headers))


def _told(headers: Headers, name: str) -> str:
    value = headers.one(name)
    if not value:
        raise HopIncomplete(
            f"Envoy did not send {name}.", remedy="Let the filter be as in deploy/envoy/envoy-http.yaml."
        )
    return value
