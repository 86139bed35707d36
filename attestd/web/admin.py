"""The admin API, /v1/admin: everything that operators see and do. The command line and the console have no other way.

Here are the fleet's acts; `admin_views` has what is only looked at, `admin_settings` who and what is trusted.
An act answers with the device as it is afterwards. Messages are JSON objects of version 1; unknown members are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response

from attestd.ids import DeviceId, EkHash, Serial, Site, Tier
from attestd.registry import issued
from attestd.registry.devices import Device
from attestd.registry.states import Event
from attestd.web.access import Who, require_role
from attestd.web.admin_views import answer, device_members
from attestd.web.bodies import Said, only_reason, read_message
from attestd.web.context import Service, exchange
from attestd.web.labels import read_labels


@dataclass(frozen=True, slots=True)
class _Fleet:
    service: Service

    def import_inventory(self) -> Response:
        """POST /v1/admin/devices/import"""
        current = exchange()
        imported = self.service.operations.import_inventory(current.body, current.act())
        return answer({"added": imported.added, "unchanged": imported.unchanged})

    def approve(self, id: str) -> Response:
        """POST /v1/admin/devices/<id>/approve"""
        current = exchange()
        message = read_message(current.body)
        tier = Tier.parse(message.text("tier", limit=16))
        site = Site(message.text("site", limit=64))
        labels = read_labels(message) if "labels" in message else None
        said = Said.read(message)
        message.done()
        device = self.service.operations.approve(
            DeviceId(id),
            tier=tier,
            site=site,
            labels=labels,
            act=current.act(said.reason),
            expected_version=said.expected_version,
        )
        return self._device(device)

    def reject(self, id: str) -> Response:
        """POST /v1/admin/devices/<id>/reject"""
        return self._change(id, Event.REJECT)

    def quarantine(self, id: str) -> Response:
        """POST /v1/admin/devices/<id>/quarantine"""
        return self._change(id, Event.QUARANTINE)

    def release(self, id: str) -> Response:
        """POST /v1/admin/devices/<id>/release"""
        return self._change(id, Event.RELEASE)

    def retire(self, id: str) -> Response:
        """POST /v1/admin/devices/<id>/retire"""
        return self._change(id, Event.RETIRE)

    def demand(self, id: str) -> Response:
        """POST /v1/admin/devices/<id>/demand; of many devices at once: `demands`"""
        current = exchange()
        message = read_message(current.body)
        said = Said.read(message)
        message.done()
        device = self.service.operations.demand(
            DeviceId(id), act=current.act(said.reason), expected_version=said.expected_version
        )
        return self._device(device)

    def replace(self, id: str) -> Response:
        """POST /v1/admin/devices/<id>/replace"""
        current = exchange()
        message = read_message(current.body)
        ek_hash = EkHash.parse(message.text("ek_hash", limit=64))
        said = Said.read(message)
        message.done()
        device = self.service.operations.replace_tpm(
            DeviceId(id), ek_hash, act=current.act(said.reason), expected_version=said.expected_version
        )
        return self._device(device)

    def revoke(self, serial: str) -> Response:
        """POST /v1/admin/credentials/<serial>/revoke: operators' and proxies' own ones are an admin's business"""
        current = exchange()
        reason = only_reason(current.body)
        number = Serial.parse(serial)
        with self.service.registry.reading() as c:
            of_a_device = issued.by_serial(c, number).device_id is not None
        if not of_a_device:
            require_role(current.caller, Who.ADMIN)
        self.service.operations.revoke(number, current.act(reason))
        return answer({"serial": str(number)})

    def _change(self, id: str, event: Event) -> Response:
        current = exchange()
        message = read_message(current.body)
        said = Said.read(message)
        message.done()
        device = self.service.operations.change_state(
            DeviceId(id), event, act=current.act(said.reason), expected_version=said.expected_version
        )
        return self._device(device)

    def _device(self, device: Device) -> Response:
        return answer({"device": device_members(device, self.service.settings.trust_domain)})


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    fleet = _Fleet(service)
    routes = Blueprint("admin", __name__, url_prefix="/v1/admin")
    routes.post("/devices/import")(fleet.import_inventory)
    routes.post("/devices/<id>/approve")(fleet.approve)
    routes.post("/devices/<id>/reject")(fleet.reject)
    routes.post("/devices/<id>/quarantine")(fleet.quarantine)
    routes.post("/devices/<id>/release")(fleet.release)
    routes.post("/devices/<id>/retire")(fleet.retire)
    routes.post("/devices/<id>/demand")(fleet.demand)
    routes.post("/devices/<id>/replace")(fleet.replace)
    routes.post("/credentials/<serial>/revoke")(fleet.revoke)
    return routes
