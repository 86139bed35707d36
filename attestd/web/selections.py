"""The admin API's door for many devices at once: what an operator selected, each as it was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flask import Blueprint, Response

from attestd.ids import DeviceId, Site, Tier
from attestd.operations.selections import MAX_SELECTED, SELECTABLE, Selected, Selection
from attestd.protocol.encoding import MalformedJson, Members
from attestd.registry.states import Event
from attestd.web.admin_views import answer, device_members
from attestd.web.bodies import read_message, read_reason
from attestd.web.context import Service, exchange
from attestd.web.labels import read_labelling, read_labels
from attestd.web.touching import require_touch

_MAX_VERSION: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class _Selections:
    service: Service

    def select(self) -> Response:
        """POST /v1/admin/devices/selection"""
        current = exchange()
        message = read_message(current.body)
        selection = _selection(message)
        dry_run = message.boolean("dry_run") if "dry_run" in message else False
        reason = read_reason(message)
        message.done()
        if not dry_run:
            require_touch(self.service, current)
        verbs = self.service.selections
        outcome = verbs.preview(selection) if dry_run else verbs.carry_out(selection, current.act(reason))
        domain = self.service.settings.trust_domain
        return answer(
            {
                "act": selection.event.value,
                "dry_run": dry_run,
                "done": [device_members(device, domain) for device in outcome.done],
                "left": [{"id": one, "problem": why.slug(), "detail": str(why)} for one, why in outcome.left],
            }
        )


def _selection(message: Members) -> Selection:
    event = _event(message.text("act", limit=16))
    if event is Event.LABEL:
        labelling, revoke = read_labelling(message)
        return Selection(event, _devices(message), labelling=labelling, revoke=revoke)
    labels = read_labels(message) if "labels" in message else None
    return Selection(
        event=event,
        devices=_devices(message),
        tier=Tier.parse(message.text("tier", limit=16)) if "tier" in message else None,
        site=Site(message.text("site", limit=64)) if "site" in message else None,
        labels=labels,
    )


def _devices(message: Members) -> list[Selected]:
    return [_selected(entry) for entry in message.objects("devices", most=MAX_SELECTED)]


def _selected(entry: Members) -> Selected:
    found = Selected(DeviceId(entry.text("id", limit=64)), entry.integer("version"))
    entry.done()
    if not 0 < found.version < _MAX_VERSION:
        raise MalformedJson("version is out of range.", seen=found.version, expected=f"1 to {_MAX_VERSION - 1}")
    return found


def _event(text: str) -> Event:
    for event in SELECTABLE:
        if event.value == text:
            return event
    expected = ", ".join(sorted(event.value for event in SELECTABLE))
    raise MalformedJson("This can't be done to a selection.", seen=repr(text), expected=expected)


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Selections(service)
    routes = Blueprint("selections", __name__, url_prefix="/v1/admin")
    routes.post("/devices/selection")(door.select)
    return routes
