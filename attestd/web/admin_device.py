"""One device's past, for operators: its timeline, its attestations opened, by what its TPM is endorsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Response

from attestd.appraisal.explanation import Explained, Explanation
from attestd.ids import DeviceId
from attestd.operations.chains import EndorsementChain, Link, endorsement_chain
from attestd.operations.opening import KnownDigest, Opened, open_attestation, open_list
from attestd.operations.timeline import KINDS, MAX_PAGE, TOP, Place, timeline
from attestd.registry.attestations import AttestationUnknown
from attestd.web.admin_views import MAY_SEE_EK, NUMBER, Query, QueryMalformed, answer
from attestd.web.context import Service, exchange

_ONLY: Final = "differing"


@dataclass(frozen=True, slots=True)
class _Past:
    service: Service

    def history(self, id: str) -> Response:
        """GET /v1/admin/devices/<id>/history: the newest first"""
        query = Query("before", "limit", "only")
        before, limit, only = query.text("before", limit=80), query.limit(), query.text("only", limit=16)
        if only is not None and only not in KINDS:
            raise QueryMalformed("This is no kind of entry.", seen=repr(only), expected=", ".join(KINDS))
        place = TOP if before is None else Place.parse(before)
        with self.service.registry.reading() as c:
            entries, goes_on = timeline(c, DeviceId(id), before=place, limit=min(limit, MAX_PAGE), only=only)
        return answer(
            {
                "entries": [entry.to_members() for entry in entries],
                "before": None if goes_on is None else str(goes_on),
            }
        )

    def attestation(self, id: str, number: str) -> Response:
        """GET /v1/admin/devices/<id>/attestations/<number>: what it came to, and what differs"""
        Query()
        opened = self._open(id, number)
        run = opened.run
        return answer(
            {
                "number": opened.number,
                "at": opened.at,
                "run": {
                    "first": run.first,
                    "last": run.last,
                    "first_at": run.first_at,
                    "last_at": run.last_at,
                    "ended_at": run.ended_at,
                    "boot": run.boot.rsplit(".", 1)[0],
                },
                "result": dict(opened.result),
                "explanation": None if opened.explanation is None else _explanation(opened, opened.explanation),
            }
        )

    def events(self, id: str, number: str) -> Response:
        """GET /v1/admin/devices/<id>/attestations/<number>/events: all of the boot's, page by page"""
        query = Query("after", "limit")
        after, limit = query.number("after") or 0, query.limit()
        opened = self._open(id, number)
        events = () if opened.explanation is None else opened.explanation.events or ()
        found = [each.to_members() for each in events if each.event.number > after][: limit + 1]
        page = found[:limit]
        return answer({"events": page, "after": page[-1]["number"] if len(found) > limit else None})

    def files(self, id: str, number: str) -> Response:
        """GET /v1/admin/devices/<id>/attestations/<number>/files: what ran since, as it was judged"""
        query = Query("after", "limit", "only")
        only = query.text("only", limit=16)
        if only not in (None, _ONLY):
            raise QueryMalformed("only is none that is known.", seen=repr(only), expected=_ONLY)
        found = open_list(
            self.service.registry,
            self.service.attestations.appraiser.contents,
            DeviceId(id),
            _number(number),
            after=query.number("after") or 0,
            limit=query.limit(),
            differing=only is not None,
        )
        return answer(
            {
                "entries": [
                    {"number": one.number, "path": one.path, "digest": one.digest, "why": one.why}
                    for one in found.entries
                ],
                "total": found.total,
                "after": found.entries[-1].number if found.more else None,
            }
        )

    def endorsement(self, id: str) -> Response:
        """GET /v1/admin/devices/<id>/endorsement"""
        Query()
        appraiser = self.service.attestations.appraiser
        chain = endorsement_chain(self.service.registry, appraiser.contents, appraiser.chips, DeviceId(id))
        return answer(_chain(chain, may_see_ek=exchange().caller.role in MAY_SEE_EK))

    def _open(self, id: str, number: str) -> Opened:
        contents = self.service.attestations.appraiser.contents
        return open_attestation(self.service.registry, contents, DeviceId(id), _number(number))


def _number(text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise AttestationUnknown(seen=repr(text[:40]))
    return int(text)


def _explanation(opened: Opened, found: Explanation) -> dict[str, Any]:
    quote, record, files = found.quote, opened.record, found.runtime
    return {
        "quote": {
            "reset_count": quote.clock.reset_count,
            "restart_count": quote.clock.restart_count,
            "clock": quote.clock.clock,
            "safe": quote.clock.safe,
            "qualified_by": "" if record is None else record.qualifying_data.hex(),
            "firmware_version": quote.firmware_version,
        },
        "manifests": [
            {
                "name": manifest.name,
                "digest": manifest.digest,
                "number": None if (stored := opened.versions.get(manifest.digest)) is None else stored.number,
                "ends": manifest.not_after if stored is None else stored.until,
            }
            for manifest in found.manifests
        ],
        "chain": [{"stage": stage.value, "standing": standing.value} for stage, standing in found.chain.items()],
        "differences": [_difference(each, opened.known) for each in found.differences],
        "more_differences": found.more,
        "pcrs": [dict(pcr) for pcr in found.pcrs],
        "log": None
        if found.events is None
        else {"events": len(found.events), "standings": found.counts(), "folded": found.folded()},
        "log_kept": opened.log_kept,
        "facts": {name: value for name, value in found.facts.items() if isinstance(value, str | bool | int)},
        "files": None
        if files is None
        else {
            "entries": files.replay.entries,
            "violations": files.replay.violations,
            "files": files.files,
            "ignored": files.ignored,
            "buffers": files.buffers,
            "refused": files.refused,
            "refusals": [
                {"entry": one.entry, "path": one.path, "digest": one.digest, "why": one.why} for one in files.refusals
            ],
        },
        "list_kept": opened.list_kept,
    }


def _difference(each: Explained, known: dict[str, KnownDigest] | Any) -> dict[str, Any]:
    members = each.to_members()
    found = known.get(members["digest"])
    return members | {
        "known": None
        if found is None
        else {
            "devices": found.shown.count,
            "some": [str(device) for device in found.shown.devices],
            "manifests": [
                {"number": stored.number, "name": stored.name, "stage": stored.stage, "until": stored.until}
                for stored in found.manifests
            ],
            "looked": found.looked,
        }
    }


def _chain(chain: EndorsementChain, *, may_see_ek: bool) -> dict[str, Any]:
    return {
        "kind": chain.kind,
        "certificates": [_link(link, may_see_ek=may_see_ek) for link in chain.links],
        "quirks": list(chain.quirks),
        "advisories": [
            {
                "id": found.id,
                "claim": found.claim,
                "means": found.means,
                "source": found.source,
                "accepted": found.id in chain.accepted,
            }
            for found in chain.advisories
        ],
    }


def _link(link: Link, *, may_see_ek: bool) -> dict[str, Any]:
    """The TPM's own certificate names one machine for life, as its EK hash does."""
    members: dict[str, Any] = {
        "subject": link.subject if may_see_ek or not link.own else "",
        "not_after": link.not_after,
        "own": link.own,
        "trusted": link.trusted,
        "root": link.root,
        "kept": link.certificate is not None,
    }
    return members | ({"sha256": link.sha256.hex()} if may_see_ek or not link.own else {})


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    past = _Past(service)
    routes = Blueprint("admin_device", __name__, url_prefix="/v1/admin/devices/<id>")
    routes.get("/history")(past.history)
    routes.get("/attestations/<number>")(past.attestation)
    routes.get("/attestations/<number>/events")(past.events)
    routes.get("/attestations/<number>/files")(past.files)
    routes.get("/endorsement")(past.endorsement)
    return routes
