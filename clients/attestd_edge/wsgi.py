"""The edge before a WSGI application (PEP 3333).

    from attestd_edge.edge import Edge
    from attestd_edge.hop import CertificateSource, UnixSocketHop
    from attestd_edge.wsgi import EdgeMiddleware

    edge = Edge.from_file("/etc/attestd-edge/edge.toml")
    app = EdgeMiddleware(app, edge, "field-to-munich", certificate_source=CertificateSource.NGINX, hop=UnixSocketHop())

The application finds a VerifiedIdentity in `environ["attestd.identity"]`, and no request comes to it without one.

WSGI has no standard place for the client's certificate. With CertificateSource.TLS it is taken from the key that
`certificate_key` names, in PEM, as Apache's and some servers' SSL_CLIENT_CERT; no request header can set such a key.
Servers that have no such key need a hop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address
from types import TracebackType
from typing import Any

from attestd.policy import Boundary
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import Request
from attestd_edge.edge import Asked, ConnectionAged, Edge
from attestd_edge.hop import CertificateSource, Door, Headers, Hop, Peer, from_pem, is_reserved
from attestd_edge.labels import NOTHING, claims_of, labels_of
from attestd_edge.paths import encode_path
from attestd_edge.problems import Refusal
from attestd_edge.receipts.crossings import claimed_digest

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

MAX_AGE = timedelta(minutes=15)
_PHRASES = {401: "Unauthorized", 403: "Forbidden", 503: "Service Unavailable"}


class EdgeMiddleware:
    """Lets the application see only what may cross `boundary`."""

    def __init__(
        self,
        app: App,
        edge: Edge,
        boundary: Boundary | str,
        *,
        certificate_source: CertificateSource | None = None,
        certificate_key: str = "SSL_CLIENT_CERT",
        hop: Hop | None = None,
        labels: Callable[[Environ], Mapping[str, str]] | None = None,
        max_age: timedelta = MAX_AGE,
    ) -> None:
        """`labels` tells what data a request carries, beside the configured labels of a boundary named here; what it
        tells otherwise than they do is refused (labels.py).
        An answer that streams is cut after `max_age`, or when its credential ends.

        Raises HopUnauthenticated for a certificate header without a hop, SettingsInvalid for an unknown boundary.
        """
        self._app = app
        self._edge = edge
        self._boundary = edge.boundary(boundary)
        self._door = Door(certificate_source, hop)
        self._certificate_key = certificate_key
        self._guarded = edge.boundaries.get(boundary) if isinstance(boundary, str) else None
        self._told = labels
        self._max_age = max_age

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        answer = self._edge.admit(self._boundary, lambda: self._read(environ))
        if isinstance(answer, Refusal):
            headers = [*answer.headers, ("Content-Length", str(len(answer.body)))]
            start_response(f"{answer.status} {_PHRASES[answer.status]}", headers)
            return [answer.body]
        for key in [key for key in environ if key.startswith("HTTP_") and is_reserved(key.removeprefix("HTTP_"))]:
            del environ[key]
        environ["attestd.identity"] = answer.identity
        environ["attestd.request_id"] = answer.request_id

        def start(status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Any:
            both = [*headers, *answer.headers]
            return start_response(status, both, exc_info) if exc_info else start_response(status, both)

        clock = self._edge.store.clock
        end = min(clock.now() + self._max_age, answer.identity.not_after)
        return _Aging(self._app(environ, start), clock, end)

    def _read(self, environ: Environ) -> Asked:
        # A server joins duplicates with a comma, which none of the headers that count may hold outside a chain.
        headers = Headers.of(
            (key.removeprefix("HTTP_").replace("_", "-"), value)
            for key, value in environ.items()
            if key.startswith("HTTP_") and isinstance(value, str)
        )
        pem = environ.get(self._certificate_key)
        peer = Peer(
            unix=_over_unix_socket(environ),
            chain=(from_pem(pem),) if self._door.source is CertificateSource.TLS and pem else (),
        )
        told = self._told(environ) if self._told is not None else NOTHING
        request = Request(
            method=environ["REQUEST_METHOD"],
            origin=f"{environ['wsgi.url_scheme']}://{environ.get('HTTP_HOST') or environ['SERVER_NAME']}",
            target=_target(environ),
            labels=labels_of(self._guarded, headers, door=self._door, peer=peer, told=told),
            claims=claims_of(headers),
        )
        return Asked(self._door.present(headers, peer), request, digest_claimed=claimed_digest(headers))


def _target(environ: Environ) -> str:
    """Path and query. The path is what the application will see, encoded again, so that policy judges the same one."""
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
    query = environ.get("QUERY_STRING", "")
    return encode_path(path) + (f"?{query}" if query else "")


def _over_unix_socket(environ: Environ) -> bool:
    """Servers give an IP address for every TCP peer, and for a Unix socket's something else: nothing, or a word."""
    try:
        ip_address(environ["REMOTE_ADDR"])
    except KeyError:
        return False
    except ValueError:
        return True
    return False


class _Aging:
    """An application's answer that ends at `end`: the verdict was about the start of the request (section 6)."""

    def __init__(self, chunks: Iterable[bytes], clock: EdgeClock, end: datetime) -> None:
        self._chunks, self._clock, self._end = chunks, clock, end

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if self._clock.now() >= self._end:
                raise ConnectionAged(expected=f"an end before {self._end.isoformat()}")
            yield chunk

    def close(self) -> None:
        if (close := getattr(self._chunks, "close", None)) is not None:
            close()
