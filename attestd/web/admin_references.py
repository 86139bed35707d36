"""Reference manifests at the admin API: viewers look, admins change, for manifests decide whom to trust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Response, request

from attestd.appraisal.learning import Wish
from attestd.appraisal.manifests import MAX_MANIFEST, ReferenceManifest, Stage, read_match
from attestd.errors import InputTooLarge
from attestd.ids import DeviceId
from attestd.operations.learning import MAX_GOLDEN, Learning
from attestd.operations.references import OVERLAP, Accepted, Prospect, References
from attestd.protocol.encoding import MAX_SECONDS, MalformedJson, Members, read_object
from attestd.registry import references
from attestd.registry.references import StoredManifest, UnknownManifest
from attestd.web.admin_views import NUMBER, Query, QueryMalformed, answer
from attestd.web.bodies import ReasonUnprintable, only_reason, read_message, read_reason
from attestd.web.context import Service, exchange

TOML: Final = "application/toml"
_MAX_REASON: Final = 500
_MAX_TOML: Final = 1024 * 1024  # octets: it is read slowly, so what is larger comes as JSON
_MAX_COUNT: Final = 10**9
_MAX_FACTS: Final = 128
_TRUTHS: Final = {"true": True, "false": False}


def _members(stored: StoredManifest, now: int) -> dict[str, Any]:
    return {
        "number": stored.number,
        "name": stored.name,
        "stage": stored.stage,
        "digest": stored.digest,
        "added_at": stored.added_at,
        "added_by": stored.added_by,
        "until": stored.until,
        "counts": stored.until is None or stored.until > now,
    }


def _foreseen(prospect: Prospect) -> dict[str, Any]:
    return {
        "watched_since": prospect.watched_since,
        "refused": prospect.refused,
        "unheard": prospect.unheard,
        "held": prospect.held,
        "more": prospect.more,
    }


@dataclass(frozen=True, slots=True)
class _Door:
    service: Service
    verbs: References
    learning: Learning

    def list_all(self) -> Response:
        """GET /v1/admin/references: those that count, with `all` also those that did"""
        query = Query("all", "before", "limit")
        limit, now = query.limit(), int(exchange().now.timestamp())
        with self.service.registry.reading() as c:
            found = references.page(
                c,
                counting_at=None if _truth(query, "all") else now,
                before=query.number("before"),
                limit=limit,
            )
        return answer(
            {
                "references": [_members(stored, now) for stored in found],
                "before": found[-1].number if len(found) == limit else None,
            }
        )

    def show(self, number: str) -> Response:
        """GET /v1/admin/references/<number>"""
        Query()
        stored = self._stored(number)
        document = read_object(stored.document, limit=MAX_MANIFEST)
        return answer({"reference": _members(stored, int(exchange().now.timestamp())), "document": document})

    def refusals(self, number: str) -> Response:
        """GET /v1/admin/references/<number>/refusals: what a watched manifest would have refused; on the first page
        also what enforcing it would do now"""
        query = Query("after", "limit")
        after, limit, now = query.text("after"), query.limit(), int(exchange().now.timestamp())
        stored = self._stored(number)
        with self.service.registry.reading() as c:
            total, found = references.would_refuse(
                c, stored.digest, after=None if after is None else DeviceId(after), limit=limit
            )
        prospect = None
        if after is None and stored.stage == Stage.MONITOR:
            prospect = self.verbs.prospect(ReferenceManifest.from_json(stored.document), now=now)
        return answer(
            {
                "reference": _members(stored, now),
                "total": total,
                "devices": [{"id": each.device_id, "at": each.at, "reasons": list(each.reasons)} for each in found],
                "after": found[-1].device_id if len(found) == limit else None,
                "prospect": None if prospect is None else _foreseen(prospect),
            }
        )

    def add(self) -> Response:
        """POST /v1/admin/references: the body is the manifest itself; what is said of it stands in the query"""
        query = Query("overlap", "accept_refusals", "unwatched", "reason")
        overlap = query.number("overlap")
        if overlap is not None and overlap > MAX_SECONDS:
            raise QueryMalformed("overlap is not a duration.", seen=overlap, expected=f"0 to {MAX_SECONDS} seconds")
        accepted = Accepted(query.number("accept_refusals") or 0, _truth(query, "unwatched"))
        reason = query.text("reason", limit=_MAX_REASON) or ""
        if not reason.isprintable():
            raise ReasonUnprintable(seen=repr(reason[:80]))
        current = exchange()
        if request.mimetype == TOML and len(current.body) > _MAX_TOML:
            raise InputTooLarge(
                "The manifest is too large for TOML: send it as JSON.",
                seen=len(current.body),
                expected=f"at most {_MAX_TOML} octets",
            )
        read = ReferenceManifest.from_toml if request.mimetype == TOML else ReferenceManifest.from_json
        stored = self.verbs.add(
            read(current.body),
            current.act(reason),
            overlap=OVERLAP if overlap is None else overlap,
            accepted=accepted,
        )
        return self._answer(stored, status=201)

    def promote(self, number: str) -> Response:
        """POST /v1/admin/references/<number>/promote"""
        current = exchange()
        message = read_message(current.body)
        stage = _stage(message.text("stage", limit=16))
        overlap = message.seconds("overlap") if "overlap" in message else OVERLAP
        refusals = message.integer("accept_refusals") if "accept_refusals" in message else 0
        if not 0 <= refusals <= _MAX_COUNT:
            raise MalformedJson("accept_refusals is not a number of devices.", expected=f"0 to {_MAX_COUNT}")
        unwatched = message.boolean("unwatched") if "unwatched" in message else False
        reason = read_reason(message)
        message.done()
        stored = self.verbs.promote(
            _number(number), stage, current.act(reason), overlap=overlap, accepted=Accepted(refusals, unwatched)
        )
        return self._answer(stored)

    def withdraw(self, number: str) -> Response:
        """POST /v1/admin/references/<number>/withdraw"""
        current = exchange()
        reason = only_reason(current.body)
        return self._answer(self.verbs.withdraw(_number(number), current.act(reason)))

    def learn(self) -> Response:
        """POST /v1/admin/references/learn: a draft, which is stored nowhere"""
        current = exchange()
        message = read_message(current.body)
        device_ids = [DeviceId(each) for each in message.texts("devices", most=MAX_GOLDEN, limit=64)]
        name = message.text("name", limit=63)
        match = read_match(message.object("match")) if "match" in message else None
        wish = _wish(message)
        message.done()
        learned = self.learning.learn(device_ids, name, current.act(), wish=wish, match=match)
        return answer(
            {
                "document": learned.draft.members,
                "notes": {where: list(lines) for where, lines in learned.draft.notes.items()},
                "devices": [
                    {
                        "id": source.device_id,
                        "attested_at": source.attested_at,
                        "eventlog": source.has_log,
                        "ima": source.has_list,
                        "why": source.why,
                    }
                    for source in learned.sources
                ],
            }
        )

    def _stored(self, number: str) -> StoredManifest:
        with self.service.registry.reading() as c:
            return references.by_number(c, _number(number))

    def _answer(self, stored: StoredManifest, status: int = 200) -> Response:
        return answer({"reference": _members(stored, int(exchange().now.timestamp()))}, status=status)


def _number(text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise UnknownManifest(seen=repr(text[:40]))
    return int(text)


def _truth(query: Query, name: str) -> bool:
    value = query.text(name)
    if value is not None and value not in _TRUTHS:
        raise QueryMalformed(f"{name} is neither true nor false.", seen=repr(value[:40]))
    return _TRUTHS.get(value or "false", False)


def _stage(text: str) -> Stage:
    try:
        return Stage(text)
    except ValueError:
        raise MalformedJson("This is not a stage.", seen=repr(text), expected=", ".join(Stage)) from None


def _wish(message: Members) -> Wish:
    pcrs = facts = None
    if "pcrs" in message:
        pcrs = frozenset(message.integers("pcrs", most=24))
    if "facts" in message:
        facts = frozenset(message.texts("facts", most=_MAX_FACTS, limit=64))
    return Wish(pcrs, facts, message.boolean("runtime") if "runtime" in message else False)


def blueprint(service: Service) -> Blueprint:
    """This door's routes."""
    door = _Door(service, References(service.settings, service.registry), Learning(service.registry))
    routes = Blueprint("admin_references", __name__, url_prefix="/v1/admin/references")
    routes.get("")(door.list_all)
    routes.post("")(door.add)
    routes.post("/learn")(door.learn)
    routes.get("/<number>")(door.show)
    routes.get("/<number>/refusals")(door.refusals)
    routes.post("/<number>/promote")(door.promote)
    routes.post("/<number>/withdraw")(door.withdraw)
    return routes
