"""What operators look at: one device, credentials, the audit trail. Lists are paged by keyset, never by number.

An EK hash is shown in one place only, one device's own page, to those who may replace its TPM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Response, request

from attestd.errors import MalformedInput
from attestd.ids import DeviceId, SpiffeId, TrustDomain
from attestd.protocol.encoding import write_object
from attestd.registry import audit, brake, devices, identities, issued, operators, passkeys, sessions
from attestd.registry.audit import AuditRecord
from attestd.registry.brake import Held
from attestd.registry.causes import Cause
from attestd.registry.devices import Device
from attestd.registry.issued import Issued
from attestd.web.context import Service, exchange

JSON: Final = "application/json"
MAX_PAGE: Final = 1000
_DEFAULT_PAGE: Final = 100
_RECENT: Final = 20  # credentials and audit rows on a device's own page
NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
MAY_SEE_EK: Final = frozenset({"operator", "admin"})


class QueryMalformed(MalformedInput):
    """The query can't be read"""

    remedy = "Use the parameters that are expected, each once."


def answer(members: Mapping[str, Any], status: int = 200) -> Response:
    """A JSON answer of version 1."""
    return Response(write_object({"v": 1, **members}), status=status, content_type=JSON)


def device_members(device: Device, trust_domain: TrustDomain) -> dict[str, Any]:
    """A device as lists show it; times are unix seconds."""
    spiffe_id = None
    if device.tier is not None and device.site is not None:
        spiffe_id = str(SpiffeId.of_device(trust_domain, device.tier, device.site, device.id))
    return {
        "id": device.id,
        "state": device.state.value,
        "state_version": device.state_version,
        "state_reason": device.state_reason,
        "tier": None if device.tier is None else device.tier.value,
        "site": device.site,
        "spiffe_id": spiffe_id,
        "serial_number": device.serial_number,
        "labels": dict(device.labels),
        "manufacturer": device.manufacturer,
        "model": device.model,
        "firmware_version": device.firmware_version,
        "endorsement": device.endorsement,
        "attested_at": device.attested_at,
        "attestation_good_until": device.attestation_good_until,
        "result": None if device.result is None else dict(device.result),
        "source": device.source,
        "created_at": device.created_at,
        "updated_at": device.updated_at,
    }


def held_members(held: Held) -> dict[str, Any]:
    """A result that the brake holds."""
    return {"device_id": held.device_id, "at": held.at, "result": dict(held.result)}


def cause_members(cause: Cause) -> dict[str, Any]:
    """Devices that are as they are for one reason."""
    return {
        "kind": cause.kind,
        "why": cause.why,
        "count": cause.count,
        "sites": [{"site": site, "count": count} for site, count in cause.sites],
        "devices": list(cause.ids),
        "since": cause.since,
    }


def _credential_members(credential: Issued) -> dict[str, Any]:
    return {
        "number": credential.number,
        "serial": str(credential.serial),
        "device_id": credential.device_id,
        "subject": credential.subject,
        "profile": credential.profile,
        "not_before": credential.not_before,
        "not_after": credential.not_after,
        "revoked_at": credential.revoked_at,
        "revoked_because": credential.revoked_because,
    }


def audit_members(row: AuditRecord) -> dict[str, Any]:
    return {
        "number": row.number,
        "at": row.at,
        "actor": row.actor,
        "act": row.act,
        "subject": row.subject,
        "request_id": row.request_id,
        "detail": dict(row.detail),
        "leaf": row.leaf,
    }


class Query:
    """This request's query: each parameter known, and there once. Empty ones count as absent."""

    def __init__(self, *known: str) -> None:
        found = {name: values for name, values in request.args.lists() if any(values)}
        if unknown := sorted(set(found) - set(known)):
            raise QueryMalformed(
                "The query has unknown parameters.", seen=", ".join(unknown)[:200], expected=", ".join(known)
            )
        if repeated := sorted(name for name, values in found.items() if len(values) > 1):
            raise QueryMalformed("A parameter comes twice.", seen=", ".join(repeated))
        self._found = {name: values[0] for name, values in found.items()}

    def text(self, name: str, *, limit: int = 200) -> str | None:
        value = self._found.get(name)
        if value is not None and len(value) > limit:
            raise QueryMalformed(f"{name} is too long.", seen=f"{len(value)} characters", expected=f"at most {limit}")
        if value is not None and "\0" in value:
            raise QueryMalformed(f"{name} holds a NUL character.")
        return value

    def number(self, name: str) -> int | None:
        value = self._found.get(name)
        if value is None:
            return None
        if not NUMBER.fullmatch(value):
            raise QueryMalformed(f"{name} is not a number.", seen=repr(value[:40]), expected="digits")
        return int(value)

    def limit(self) -> int:
        """How many entries the caller wants."""
        wanted = self.number("limit")
        if wanted is None:
            return _DEFAULT_PAGE
        if not 1 <= wanted <= MAX_PAGE:
            raise QueryMalformed("limit is out of range.", seen=wanted, expected=f"1 to {MAX_PAGE}")
        return wanted


@dataclass(frozen=True, slots=True)
class _Views:
    service: Service

    def show_device(self, id: str) -> Response:
        """GET /v1/admin/devices/<id>"""
        Query()
        device_id = DeviceId(id)
        with self.service.registry.reading() as c:
            device = devices.by_id(c, device_id)
            credentials = issued.page(c, device_id=device_id, limit=_RECENT)
            rows = audit.page(c, subject=str(device_id), limit=_RECENT)
            held = brake.held_against(c, [device_id]).get(device_id)
        members = device_members(device, self.service.settings.trust_domain)
        if exchange().caller.role in MAY_SEE_EK:
            members["ek_hash"] = device.ek_hash.hex()
        return answer(
            {
                "device": members,
                "held": None if held is None else held_members(held),
                "credentials": [_credential_members(entry) for entry in credentials],
                "audit": [audit_members(row) for row in rows],
            }
        )

    def list_credentials(self) -> Response:
        """GET /v1/admin/credentials"""
        query = Query("device", "before", "limit")
        device, limit = query.text("device"), query.limit()
        with self.service.registry.reading() as c:
            found = issued.page(
                c,
                device_id=None if device is None else DeviceId(device),
                before=query.number("before"),
                limit=limit,
            )
        return answer(
            {
                "credentials": [_credential_members(entry) for entry in found],
                "before": found[-1].number if len(found) == limit else None,
            }
        )

    def list_operators(self) -> Response:
        """GET /v1/admin/operators"""
        Query()
        with self.service.registry.reading() as c:
            found = operators.every(c)
            held, known, seen = passkeys.counts(c), identities.issuers(c), sessions.last_seen(c)
        return answer(
            {
                "operators": [
                    {
                        "name": operator.name,
                        "role": operator.role.value,
                        "created_at": operator.created_at,
                        "disabled_at": operator.disabled_at,
                        "key": operator.key is not None,
                        "passkeys": held.get(operator.name, 0),
                        "identities": known.get(operator.name, []),
                        "seen_at": seen.get(operator.name),
                    }
                    for operator in found
                ]
            }
        )


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    views = _Views(service)
    routes = Blueprint("admin_views", __name__, url_prefix="/v1/admin")
    routes.get("/devices/<id>")(views.show_device)
    routes.get("/credentials")(views.list_credentials)
    routes.get("/operators")(views.list_operators)
    return routes
