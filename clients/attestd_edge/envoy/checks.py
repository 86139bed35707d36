"""envoy.service.auth.v3: a CheckRequest becomes a question for the edge, and the edge's answer a CheckResponse.

Whose word is what (docs/adr/0040-envoy.md):
- `source.certificate` is Envoy's: it takes it from the TLS connection. It counts as the client's certificate.
- `context_extensions` are the route's: `attestd-boundary` names the boundary, `attestd-labels` the labels of the data.
- `request.http`: method, scheme, host and path are the client's, as Envoy has normalised them; they are what is judged.
- `request.http.headers` are the client's. Of them count Authorization, DPoP and Data-Labels; X-Request-Id is Envoy's. A
  certificate header, `attestd-*` or X-Forwarded-Client-Cert among them is nothing, and is removed on the way on.
- `source.principal` is nobody's: it stands in a certificate that Envoy does not verify.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.struct_pb2 import Struct
from google.rpc.code_pb2 import OK, PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE
from google.rpc.status_pb2 import Status

from attestd.errors import Misconfigured
from attestd_edge.decide import Request
from attestd_edge.edge import Admitted, Asked
from attestd_edge.envoy.answers import NO_SUCH_BOUNDARY, identity_headers, no_such_boundary, to_remove
from attestd_edge.hop import CertificateSource, Door, HeaderDuplicated, Headers, OnlyPeerHop, Peer, is_reserved
from attestd_edge.labels import FROM_HOP, claims_of, labels_of
from attestd_edge.problems import Refusal
from attestd_edge.receipts.crossings import claimed_digest
from attestd_edge.settings import Guarded

BOUNDARY: Final = "attestd-boundary"
LABELS: Final = "attestd-labels"
_CODES: Final = {401: UNAUTHENTICATED, 403: PERMISSION_DENIED, 503: UNAVAILABLE}
_DOOR: Final = Door(CertificateSource.NGINX, OnlyPeerHop())
# Envoy joins equal headers by commas; in a value of these there is none.
_WHOLE: Final = frozenset({"authorization", "dpop", "x-request-id"})


class EnvoyIncomplete(Misconfigured):
    """Envoy does not say what is being asked"""

    remedy = "Let the filter envoy.filters.http.ext_authz be as in deploy/envoy/envoy.yaml, on an HTTP listener."


class EnvoyContradicts(Misconfigured):
    """Envoy says the same thing in two ways"""

    remedy = "Leave the headers as Envoy sends them: in `headers`, or in `header_map` with encode_raw_headers."


def boundary_of(attributes: AttributeContext) -> str:
    """The boundary's name, as the route tells it; empty without one."""
    return str(attributes.context_extensions.get(BOUNDARY, ""))


def read(attributes: AttributeContext, guarded: Guarded) -> Asked:
    """What is asked about this boundary. Raises AttestdError."""
    if not attributes.request.HasField("http"):
        raise EnvoyIncomplete("There is no HTTP request in Envoy's question.")
    http = attributes.request.http
    for name, value in (("method", http.method), ("scheme", http.scheme), ("host", http.host), ("path", http.path)):
        if not value:
            raise EnvoyIncomplete(f"Envoy did not send the request's {name}.")
    headers = Headers.of([*_believed(attributes), *((n, v) for n, v in _sent(http) if not is_reserved(n))])
    peer = Peer()
    request = Request(
        method=http.method,
        origin=f"{http.scheme}://{http.host}",
        target=http.path,
        labels=labels_of(guarded, headers, door=_DOOR, peer=peer),
        claims=claims_of(headers),
    )
    return Asked(_DOOR.present(headers, peer), request, headers.one("x-request-id"), claimed_digest(headers))


def _believed(attributes: AttributeContext) -> Iterator[tuple[str, str]]:
    """What Envoy and its configuration say, as any other authenticated hop would in headers."""
    if attributes.source.certificate:
        yield "x-client-cert", attributes.source.certificate
    if labels := attributes.context_extensions.get(LABELS):
        yield FROM_HOP, labels


def _sent(http: AttributeContext.HttpRequest) -> Iterator[tuple[str, str]]:
    """The client's headers. Raises EnvoyContradicts, and HeaderDuplicated for two that Envoy has made one of."""
    if http.headers and http.header_map.headers:
        raise EnvoyContradicts
    for header in http.header_map.headers:
        if header.value and header.raw_value:
            raise EnvoyContradicts
        yield header.key, header.value or header.raw_value.decode("latin-1")
    for name, value in http.headers.items():
        if "," in value and name.lower() in _WHOLE:
            raise HeaderDuplicated(seen=name, expected="once")
        yield name, value


def names_of(attributes: AttributeContext) -> list[str]:
    """The names of the client's headers."""
    http = attributes.request.http
    return [*http.headers, *(header.key for header in http.header_map.headers)]


def allowed(answer: Admitted, guarded: Guarded, names: Iterable[str]) -> CheckResponse:
    """It may go on, with our word in its headers and nobody else's; `names`: those of its headers."""
    told = identity_headers(answer, guarded.boundary)
    metadata = Struct()
    metadata.update({name.removeprefix("Attestd-").lower().replace("-", "_"): value for name, value in told})
    return CheckResponse(
        status=Status(code=OK),
        ok_response=OkHttpResponse(
            headers=_set(told),
            headers_to_remove=to_remove(names, told),
            response_headers_to_add=_set(answer.headers),
        ),
        dynamic_metadata=metadata,
    )


def refused(answer: Refusal) -> CheckResponse:
    """It may not."""
    return _denied(answer.status, answer.slug, answer.headers, answer.body)


def boundary_unknown() -> CheckResponse:
    """The route names no boundary, or none of ours."""
    headers, body = no_such_boundary()
    return _denied(NO_SUCH_BOUNDARY, "no-such-boundary", headers, body)


def _denied(status: int, slug: str, headers: Iterable[tuple[str, str]], body: bytes) -> CheckResponse:
    return CheckResponse(
        status=Status(code=_CODES[status], message=slug),
        denied_response=DeniedHttpResponse(
            status=HttpStatus(code=status),
            headers=_set(headers),
            body=body.decode(),
        ),
    )


def _set(headers: Iterable[tuple[str, str]]) -> list[HeaderValueOption]:
    """Over whatever is there: appended to a client's own, our word would be one of two."""
    return [
        HeaderValueOption(
            header=HeaderValue(key=name.lower(), value=value),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in headers
    ]
