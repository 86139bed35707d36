"""The admin API's door for labels: changing a device's, and what asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flask import Blueprint, Response

from attestd.ids import DeviceId
from attestd.operations.labels import Labels
from attestd.protocol.encoding import Members
from attestd.registry.labels import Labelling
from attestd.web.admin_views import Query, answer, device_members
from attestd.web.bodies import Said, read_message
from attestd.web.context import Service, exchange

MAX_NAMES: Final = 128  # of labels to remove: more than fit onto a device
MAX_NAME: Final = 64  # characters


def read_labels(message: Members) -> dict[str, str]:
    """Names and values as they came; the registry says which are well formed."""
    members = message.object("labels")
    return {name: members.text(name, limit=1024) for name, _ in members.items()}


def read_labelling(message: Members) -> tuple[Labelling, bool]:
    """What to set and to remove, and whether certificates that say the old labels end with it. Raises NoLabelNamed,
    MalformedLabels."""
    values = read_labels(message) if "labels" in message else {}
    removed = message.texts("remove", most=MAX_NAMES, limit=MAX_NAME) if "remove" in message else ()
    revoke = message.boolean("revoke") if "revoke" in message else False
    return Labelling(values, frozenset(removed)), revoke


@dataclass(frozen=True, slots=True)
class _Door:
    service: Service
    labels: Labels

    def change(self, id: str) -> Response:
        """POST /v1/admin/devices/<id>/label"""
        current = exchange()
        message = read_message(current.body)
        labelling, revoke = read_labelling(message)
        said = Said.read(message)
        message.done()
        device = self.labels.relabel(
            DeviceId(id),
            labelling,
            revoke=revoke,
            act=current.act(said.reason),
            expected_version=said.expected_version,
        )
        return answer({"device": device_members(device, self.service.settings.trust_domain)})

    def asked_for(self) -> Response:
        """GET /v1/admin/labels: what in force asks for labels"""
        Query()
        asks, matched = self.labels.asked_for(now=int(exchange().now.timestamp()))
        return answer(
            {
                "policy": {"version": asks.version, "names": list(asks.names), "whole": asks.whole},
                "references": [
                    {"number": one.number, "name": one.name, "stage": one.stage, "labels": dict(one.labels)}
                    for one in matched
                ],
            }
        )


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Door(service, Labels(service.registry, service.lifecycle.policies))
    routes = Blueprint("labels", __name__, url_prefix="/v1/admin")
    routes.post("/devices/<id>/label")(door.change)
    routes.get("/labels")(door.asked_for)
    return routes
