"""envoy.service.auth.v3.Authorization, and grpc.health.v1.Health beside it, over an edge.

Messages come as octets and are parsed here, so that also what is no message gets a refusal. Envoy takes any failure of
the call for one, too (`failure_mode_allow: false`), but a client then learns nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.message import DecodeError

from attestd_edge.edge import Admitted, Edge
from attestd_edge.envoy import checks
from attestd_edge.problems import EdgeFailed, refusal
from attestd_edge.settings import Guarded, SettingsInvalid

logger = logging.getLogger("attestd_edge.envoy")

_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # grpc.health.v1.HealthCheckResponse, its one member


class Authorization:
    """Answers Envoy's questions about the boundaries that are configured."""

    def __init__(
        self, edge: Edge, boundaries: Mapping[str, Guarded], *, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Raises SettingsInvalid without a boundary."""
        if not boundaries:
            raise SettingsInvalid("There is no boundary to guard.", expected="at least one [[boundary]]")
        self._edge = edge
        self._boundaries = boundaries
        self._entropy = entropy

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What a gRPC server is given."""
        check = grpc.unary_unary_rpc_method_handler(lambda octets, _: self.check(octets).SerializeToString())
        health = grpc.unary_unary_rpc_method_handler(lambda _octets, _context: self.health())
        return (
            grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": check}),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),
        )

    def check(self, octets: bytes) -> CheckResponse:
        """One question, answered: whatever is wrong with it, or with us, is a refusal."""
        try:
            return self._judge(octets)
        except DecodeError:
            record = {"request_id": self._entropy(8).hex(), "octets": len(octets)}
            logger.warning("refused: Envoy's question is no CheckRequest", extra={"attestd": record})
        except Exception:  # the door stays shut on what nobody foresaw
            record = {"request_id": self._entropy(8).hex()}
            logger.exception("a question could not be answered", extra={"attestd": record})
        return checks.refused(refusal(EdgeFailed(), request_id=str(record["request_id"]), nonce=None))

    def _judge(self, octets: bytes) -> CheckResponse:
        attributes = CheckRequest.FromString(octets).attributes
        guarded = self._boundaries.get(name := checks.boundary_of(attributes))
        if guarded is None:
            logger.warning("refused: the route names no boundary of ours: %r", name[:80])
            return checks.boundary_unknown()
        answer = self._edge.admit(guarded.boundary, lambda: checks.read(attributes, guarded))
        if isinstance(answer, Admitted):
            return checks.allowed(answer, guarded, checks.names_of(attributes))
        return checks.refused(answer)

    def health(self) -> bytes:
        """Whether the edge can decide. Envoy may leave it unasked: what can't be decided is refused anyway."""
        ready, _ = self._edge.readiness()
        return _SERVING if ready else _NOT_SERVING
