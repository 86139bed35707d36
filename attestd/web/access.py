"""Who may call what: one table (docs/protocol.md, section 9), and the hook that lets nobody through who is not in it.

A route that the table does not name is denied to everybody. Operators and edge proxies sign their calls
(`Authorization: Attestd …`, docs/protocol.md, section 2); a device's request is proven by the verb that it asks for,
since its answer may have to be looked up first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from flask import Flask, Request, Response, g, request

from attestd.appraisal.manifests import MAX_MANIFEST
from attestd.callers import Caller, CallerDisabled, CallerUnknown
from attestd.errors import Forbidden, MalformedInput, Unauthenticated
from attestd.protocol.demanded import HEADER
from attestd.protocol.encoding import b64decode, b64encode
from attestd.protocol.messages import MAX_BEGIN, MAX_BODY, MAX_COMPLETE, MAX_SMALL
from attestd.protocol.signed import SCHEME, SignedEnvelope
from attestd.registry import inventory, operators, sessions
from attestd.web.bodies import LARGE, Permits, read_body, require_media_type
from attestd.web.context import Exchange, Service, exchange
from attestd.web.touching import path_of, require_touch


class SignatureMissing(Unauthenticated):
    """The call is not signed"""

    remedy = "Sign the call as docs/protocol.md, section 2, describes; `attestd` and `attestd-edge` do."


class RoleTooLow(Forbidden):
    """The caller's role does not allow this"""

    remedy = "Ask an admin of this service to do it, or for another role."


class RouteNotListed(Forbidden):
    """Nobody may call this"""

    remedy = "Report this to the project: the route is missing from the table of callers."


class Who(Enum):
    """Who may call a route. Operators' roles include the ones before: viewer, operator, admin."""

    PUBLIC = "public"
    DEVICE = "device"
    PROXY = "proxy"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


_RANKS: Final[Mapping[str, int]] = {"viewer": 1, "operator": 2, "admin": 3}
# Whose answers say, beside each nonce, what an attestation should hold.
DEVICES: Final = frozenset({Who.PUBLIC, Who.DEVICE})
# What a console's page says of a look that nobody asked for: it refreshed itself. Whoever lies with it ends sooner.
UNATTENDED: Final = "Attestd-Unattended"
_SIGNED_CALLS: Final = frozenset({Who.PROXY, Who.VIEWER, Who.OPERATOR, Who.ADMIN})

_JSON: Final = frozenset({"application/json"})
_JWS: Final = frozenset({"application/jose+json", "application/json"})
_INVENTORY: Final = frozenset({"text/csv", "application/jsonl"})
_CERTIFICATES: Final = frozenset(
    {"application/pem-certificate-chain", "application/pkix-cert", "application/octet-stream"}
)

# A JWS holds its payload in base64url, and a header and a signature beside it.
_SIGNED_BODY: Final = MAX_BODY * 4 // 3 + MAX_SMALL
_SIGNED_SMALL: Final = 2 * MAX_SMALL
_POLICY: Final = 512 * 1024
_REPORT: Final = 256 * 1024
_SELECTION: Final = 128 * 1024  # a thousand devices by name and version
_RECEIPTS: Final = 640 * 1024
_TRUST: Final = 4 * 1024 * 1024
_MANIFEST: Final = frozenset({"application/toml", "application/json"})


@dataclass(frozen=True, slots=True)
class Door:
    """What a route takes: from whom, bodies of which media types and of how many octets (0: no body).

    `nonce`: every answer, problems included, carries a fresh Replay-Nonce for the next signed request. `verb` counts
    what devices asked for by its outcome. `touch`: a session of the console confirms this act with a passkey
    (docs/sign-in.md); where that depends on what is asked, the view calls `touching.require_touch`.
    """

    who: Who
    accepts: frozenset[str] = frozenset()
    limit: int = 0
    nonce: bool = True
    verb: str = ""
    touch: bool = False


def _bare(who: Who, *, touch: bool = False) -> Door:
    return Door(who, touch=touch)


def _acts(who: Who, limit: int = MAX_SMALL, *, touch: bool = False) -> Door:
    return Door(who, _JSON, limit, touch=touch)


DOORS: Final[Mapping[str, Door]] = {
    # Devices
    "POST /v1/enrollments": Door(Who.PUBLIC, _JSON, MAX_BEGIN, verb="begin"),
    "POST /v1/enrollments/complete": Door(Who.PUBLIC, _JSON, MAX_COMPLETE, verb="enroll"),
    "GET /v1/nonce": Door(Who.PUBLIC),
    "GET /v1/time": Door(Who.PUBLIC, nonce=False),
    "GET /v1/demands/<id>": Door(Who.PUBLIC, nonce=False),
    "POST /v1/attestations": Door(Who.DEVICE, _JWS, _SIGNED_BODY, verb="attest"),
    "POST /v1/renewals": Door(Who.DEVICE, _JWS, _SIGNED_SMALL, verb="renew"),
    "POST /v1/tokens": Door(Who.DEVICE, _JWS, _SIGNED_SMALL, verb="token"),
    # Publishing
    "GET /v1/root": Door(Who.PUBLIC, nonce=False),
    "GET /v1/jwks": Door(Who.PUBLIC, nonce=False),
    "GET /.well-known/jwks.json": Door(Who.PUBLIC, nonce=False),
    "GET /v1/crl": Door(Who.PUBLIC, nonce=False),
    "GET /v1/status-list": Door(Who.PUBLIC, nonce=False),
    "GET /v1/openapi.json": Door(Who.PUBLIC, nonce=False),
    "GET /v1/policy/schema": Door(Who.PUBLIC, nonce=False),
    "GET /v1/bundle": _bare(Who.PROXY),
    "GET /v1/bundle/stream": _bare(Who.PROXY),
    "GET /v1/audit/consistency": _bare(Who.PROXY),
    "POST /v1/proxies/renewals": _acts(Who.PROXY),
    "POST /v1/proxies/reports": _acts(Who.PROXY, _REPORT),
    "POST /v1/receipts": _acts(Who.PROXY, _RECEIPTS),
    # People: how they sign in, and what is their own
    "GET /v1/admin/sign-in": Door(Who.PUBLIC),
    "POST /v1/admin/sign-in/passkey/begin": _acts(Who.PUBLIC),
    "POST /v1/admin/sign-in/passkey": _acts(Who.PUBLIC, 2 * MAX_SMALL),  # signed by the session key in the message
    "POST /v1/admin/sign-in/invitation/begin": _acts(Who.PUBLIC),
    "POST /v1/admin/sign-in/invitation": _acts(Who.PUBLIC, 2 * MAX_SMALL),  # the same
    "POST /v1/admin/sign-in/oidc/begin": _acts(Who.PUBLIC),
    "POST /v1/admin/sign-in/oidc": _acts(Who.PUBLIC),  # the same
    "GET /v1/admin/session": _bare(Who.VIEWER),
    "DELETE /v1/admin/session": _bare(Who.VIEWER),
    "GET /v1/admin/sessions": _bare(Who.VIEWER),
    "POST /v1/admin/sessions/<id>/revoke": _acts(Who.VIEWER),
    "GET /v1/admin/passkeys": _bare(Who.VIEWER),
    "POST /v1/admin/passkeys/begin": _acts(Who.VIEWER),  # with a touch, unless there is no passkey yet
    "POST /v1/admin/passkeys": _acts(Who.VIEWER, 2 * MAX_SMALL),
    "POST /v1/admin/passkeys/<id>/remove": _acts(Who.VIEWER, touch=True),
    "POST /v1/admin/touch/begin": _acts(Who.VIEWER),
    "GET /v1/admin/invitations": _bare(Who.ADMIN),
    "POST /v1/admin/invitations": _acts(Who.ADMIN, touch=True),
    "POST /v1/admin/invitations/<id>/withdraw": _acts(Who.ADMIN),
    # Operators
    "GET /v1/admin/overview": _bare(Who.VIEWER),
    "GET /v1/admin/counts": _bare(Who.VIEWER),
    "GET /v1/admin/devices": _bare(Who.VIEWER),
    "GET /v1/admin/devices/<id>": _bare(Who.VIEWER),
    "GET /v1/admin/devices/<id>/evidence": _bare(Who.OPERATOR),
    "GET /v1/admin/labels": _bare(Who.VIEWER),
    "GET /v1/admin/causes": _bare(Who.VIEWER),
    "GET /v1/admin/sites": _bare(Who.VIEWER),
    "POST /v1/admin/devices/find": _acts(Who.OPERATOR),
    "GET /v1/admin/devices/<id>/history": _bare(Who.VIEWER),
    "GET /v1/admin/devices/<id>/attestations/<number>": _bare(Who.VIEWER),
    "GET /v1/admin/devices/<id>/attestations/<number>/events": _bare(Who.VIEWER),
    "GET /v1/admin/devices/<id>/attestations/<number>/files": _bare(Who.VIEWER),
    "GET /v1/admin/devices/<id>/endorsement": _bare(Who.VIEWER),
    "GET /v1/admin/devices/<id>/edges": _bare(Who.VIEWER),
    "POST /v1/admin/devices/import": Door(Who.OPERATOR, _INVENTORY, inventory.MAX_FILE),
    "POST /v1/admin/devices/demand": _acts(Who.OPERATOR, 2 * MAX_SMALL),  # it may name 250 ids
    "POST /v1/admin/devices/selection": _acts(Who.OPERATOR, _SELECTION),  # the same
    "POST /v1/admin/devices/<id>/demand": _acts(Who.OPERATOR),
    "POST /v1/admin/devices/<id>/approve": _acts(Who.OPERATOR),
    "POST /v1/admin/devices/<id>/label": _acts(Who.OPERATOR, touch=True),  # policies may go by labels
    "POST /v1/admin/devices/<id>/reject": _acts(Who.OPERATOR),
    "POST /v1/admin/devices/<id>/quarantine": _acts(Who.OPERATOR),
    "POST /v1/admin/devices/<id>/release": _acts(Who.OPERATOR, touch=True),
    "POST /v1/admin/devices/<id>/retire": _acts(Who.OPERATOR, touch=True),
    "POST /v1/admin/devices/<id>/replace": _acts(Who.OPERATOR, touch=True),
    "POST /v1/admin/devices/release-cohort": _acts(Who.OPERATOR),  # with a touch, unless it is a dry run
    "GET /v1/admin/brake": _bare(Who.VIEWER),
    "GET /v1/admin/brake/causes": _bare(Who.VIEWER),
    "POST /v1/admin/brake/engage": _acts(Who.OPERATOR, touch=True),
    "POST /v1/admin/brake/release": _acts(Who.OPERATOR, touch=True),
    "GET /v1/admin/credentials": _bare(Who.VIEWER),
    "POST /v1/admin/credentials/<serial>/revoke": _acts(Who.OPERATOR, touch=True),
    "GET /v1/admin/audit": _bare(Who.VIEWER),
    "GET /v1/admin/audit/<number>": _bare(Who.VIEWER),
    "GET /v1/admin/audit/head": _bare(Who.VIEWER),
    "GET /v1/admin/audit/witnesses": _bare(Who.VIEWER),
    "GET /v1/admin/audit/consistency": _bare(Who.VIEWER),
    "GET /v1/admin/audit/<number>/proof": _bare(Who.VIEWER),
    "GET /v1/admin/events": _bare(Who.VIEWER),
    "GET /v1/admin/receipts": _bare(Who.VIEWER),
    "GET /v1/admin/receipts/chains": _bare(Who.VIEWER),
    "GET /v1/admin/operators": _bare(Who.VIEWER),
    "POST /v1/admin/operators": _acts(Who.ADMIN, touch=True),
    "POST /v1/admin/operators/<name>/disable": _acts(Who.ADMIN, touch=True),
    "GET /v1/admin/authority": _bare(Who.VIEWER),
    "GET /v1/admin/trust": _bare(Who.VIEWER),
    "GET /v1/admin/trust/dependents": _bare(Who.VIEWER),
    "POST /v1/admin/trust": Door(Who.ADMIN, _CERTIFICATES, _TRUST, touch=True),
    "DELETE /v1/admin/trust/<sha256>": _bare(Who.ADMIN, touch=True),
    "GET /v1/admin/boundaries": _bare(Who.VIEWER),
    "GET /v1/admin/policy": _bare(Who.VIEWER),
    "PUT /v1/admin/policy": _acts(Who.ADMIN, _POLICY, touch=True),
    "GET /v1/admin/policy/versions": _bare(Who.VIEWER),
    "GET /v1/admin/policy/versions/<number>": _bare(Who.VIEWER),
    "POST /v1/admin/policy/rollback": _acts(Who.ADMIN, touch=True),
    "POST /v1/admin/policy/check": _acts(Who.VIEWER, _POLICY),
    "POST /v1/admin/policy/dry-run": _acts(Who.VIEWER, _POLICY),
    "GET /v1/admin/references": _bare(Who.VIEWER),
    "POST /v1/admin/references": Door(Who.ADMIN, _MANIFEST, MAX_MANIFEST, touch=True),
    "POST /v1/admin/references/learn": _acts(Who.ADMIN),
    "GET /v1/admin/references/<number>": _bare(Who.VIEWER),
    "GET /v1/admin/references/<number>/refusals": _bare(Who.VIEWER),
    "POST /v1/admin/references/<number>/promote": _acts(Who.ADMIN, touch=True),
    "POST /v1/admin/references/<number>/withdraw": _acts(Who.ADMIN, touch=True),
    "GET /v1/admin/proxies": _bare(Who.VIEWER),
    "GET /v1/admin/proxies/<name>": _bare(Who.VIEWER),
    "POST /v1/admin/proxies": _acts(Who.ADMIN, touch=True),
    "POST /v1/admin/proxies/<name>/disable": _acts(Who.ADMIN, touch=True),
    # Health: public, so none of it names a device, an operator or a site.
    "GET /healthz": Door(Who.PUBLIC, nonce=False),
    "GET /readyz": Door(Who.PUBLIC, nonce=False),
    "GET /metrics": Door(Who.PUBLIC, nonce=False),
}


def signed_url(service: Service, asked: Request) -> str:
    """The URL that the sender of this request must have signed.

    The Host header may choose among the service's own origins, and nothing else: a request for `localhost` is signed
    for `localhost`. Whatever else it says (a load balancer's inner name, an attacker's), the public address counts.
    """
    server = service.settings.server
    called = f"https://{asked.host}"
    return (called if called in server.origins else server.url) + path_of(asked)


def register(app: Flask, service: Service) -> None:
    """Puts the hooks in: who is let in, and what every answer of a route carries."""
    permits = Permits()

    def admit() -> None:
        """1. The table names the route. 2. The body fits the route. 3. The caller is who may call it.
        4. A person confirmed it."""
        if request.url_rule is None:
            return  # nothing is here, or not by this method: Flask raises that next
        method = "GET" if request.method == "HEAD" else request.method
        door = DOORS.get(f"{method} {request.url_rule.rule}")  # 1
        if door is None:
            raise RouteNotListed
        current = exchange()
        current.door = door
        if door.accepts:
            require_media_type(request, door.accepts)  # 2
        unverified = _authorization(service, door) if door.who in _SIGNED_CALLS else ""

        def large() -> None:
            current.release = permits.take()

        current.body = read_body(request, limit=door.limit, large=large)
        if door.who in _SIGNED_CALLS:
            current.signed_by = _prove(service, unverified, current, door.who)  # 3
            if door.touch:
                require_touch(service, current)  # 4

    def furnish(response: Response) -> Response:
        current = exchange()
        if current.door is not None and current.door.nonce:
            response.headers["Replay-Nonce"] = b64encode(service.lifecycle.nonce(current.now))
            if current.door.who in DEVICES and (demanded := service.attestations.demanded(current.now)) is not None:
                response.headers[HEADER] = demanded
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    def let_go(_error: BaseException | None) -> None:
        current: Exchange | None = g.get("exchange")
        if current is not None and current.release is not None:
            current.release()
            current.release = None

    app.before_request(admit)
    app.after_request(furnish)
    app.teardown_request(let_go)


def _authorization(service: Service, door: Door) -> str:
    """The Authorization header, seen to be a signature. Before a large body is read, its key must be an operator's:
    a stranger can't have the service hold one."""
    authorization = request.headers.get("Authorization", "")
    if not authorization:
        raise SignatureMissing(expected=f"Authorization: {SCHEME} <header>..<signature>")
    if door.limit > LARGE:
        try:
            thumbprint = b64decode(SignedEnvelope.parse_detached(authorization, b"").unverified_kid, name="kid")
        except MalformedInput:
            raise CallerUnknown from None
        with service.registry.reading() as c:
            operator = operators.by_thumbprint(c, thumbprint)
            session = sessions.by_thumbprint(c, thumbprint) if operator is None else None
        if operator is None and session is None:
            raise CallerUnknown("No operator with this key is registered.")
        if operator is not None and operator.disabled_at is not None:
            raise CallerDisabled("This operator has been disabled.")
    return authorization


def _prove(service: Service, authorization: str, current: Exchange, who: Who) -> Caller:
    """The caller, proven and allowed. Raises Unauthenticated's children and RoleTooLow."""
    envelope = SignedEnvelope.parse_detached(authorization, current.body)
    url, seen = signed_url(service, request), UNATTENDED not in request.headers
    caller = service.callers.require(envelope, url=url, method=request.method, now=current.now, seen=seen)
    current.signed_by = caller  # so that a refusal is logged with the name of who was refused
    require_role(caller, who)
    return caller


def require_role(caller: Caller, who: Who) -> None:
    """Raises RoleTooLow unless this caller is a proxy, or an operator of at least this role, as `who` says."""
    if not (caller.role == "proxy" if who is Who.PROXY else _RANKS.get(caller.role, 0) >= _RANKS[who.value]):
        raise RoleTooLow("The caller's role does not allow this.", seen=caller.role, expected=who.value)
