"""Audit: the tree's head and who saw it, then rows in plain words; an opened row shows its path and how to verify it.

Filters are the address: who, act, but (acts left out), device, since, until, q. `open` opens a row in its place.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from flask import Blueprint, Response, abort, request

from attestd.errors import MalformedInput
from attestd.protocol.encoding import b64decode
from attestd_console import telling
from attestd_console.api import Api, Refused, at
from attestd_console.console import Console
from attestd_console.merkle import drawn

TOPICS: Final = (
    *("devices", "approvals", "attestations", "policy", "references", "people", "proxies", "trust", "brake"),
    "receipts",
)
_PAGE: Final = 25
_EXPORTED: Final = 10_000  # rows of one file
_SPANS: Final = {"h": 3600, "d": 86400}
_AGO: Final = re.compile(r"([0-9]{1,4})([hd])", re.ASCII)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would take for one
ROUTINE: Final = "renew,attest,token"


class TimeUnreadable(MalformedInput):
    """This is not a time"""

    remedy = "Write it like today, 24h, 7d, 2026-11-23 or 2026-11-23T16:24."


@dataclass(frozen=True, slots=True)
class _Filters:
    """What the address asks for; `query` is how the service is asked."""

    who: str
    act: str
    but: str
    device: str
    since: str
    until: str
    q: str

    @classmethod
    def of_request(cls) -> _Filters:
        return cls(**{name: request.args.get(name, "").strip() for name in cls.__slots__})

    def query(self, now: float) -> dict[str, object]:
        """Raises TimeUnreadable."""
        who = self.who
        if who and ":" not in who and not who.startswith("attestd"):
            who = f"operator:{who}"
        return {
            "actor": who,
            "act": self.act,
            "but": self.but,
            "subject": self.device,
            "since": _moment(self.since, now),
            "until": _moment(self.until, now),
            "text": self.q,
        }

    def chips(self) -> list[tuple[str, str, str]]:
        """Name in the address, word, value: of what is set beside the words that are searched for."""
        words = {"who": "by", "act": "only", "but": "not", "device": "about", "since": "since", "until": "until"}
        found = [(name, word, getattr(self, name)) for name, word in words.items() if getattr(self, name)]
        return [(name, word, "routine of devices" if value == ROUTINE else value) for name, word, value in found]


def routes(console: Console) -> Blueprint:
    page = Blueprint("audit", __name__)

    @page.get("/audit")
    def audit() -> Response:
        api, filters = console.api(), _Filters.of_request()
        wanted = filters.query(console.now)
        after = request.args.get("after", "")
        found = api.get("/v1/admin/audit", **wanted, before=after, limit=_PAGE)
        opened = _number(request.args.get("open", ""))
        return console.page(
            "audit.html",
            topics=TOPICS,
            filters=filters,
            found=found,
            head=_head(api),
            opened=None if opened is None else _opened(api, opened),
            first=not after,
            routine=ROUTINE,
            acts=sorted(telling.ACTS),
            **_SAID,
        )

    @page.get("/audit.csv")
    def export() -> Response:
        wanted = _Filters.of_request().query(console.now)
        text = "".join(_csv(console.api(), wanted))
        return _file(text.encode(), "audit.csv", "text/csv; charset=utf-8")

    @page.get("/audit/head")
    def head() -> Response:
        answer = console.api().call("GET", "/v1/admin/audit/head")
        size = answer.json()["size"]
        return _file(answer.content, f"head-{int(size)}.json", "application/json")

    @page.get("/audit/<number>")
    def row(number: str) -> Response:
        found = _opened(console.api(), _number(number) or abort(404))
        return console.page("audit_row.html", topics=(), opened=found, **_SAID)

    @page.get("/audit/<number>/proof")
    def proof(number: str) -> Response:
        """As the service wrote it, to the octet: what `attestd audit verify` reads."""
        wanted = _number(number) or abort(404)
        answer = console.api().call("GET", at("v1", "admin", "audit", wanted, "proof"))
        return _file(answer.content, f"proof-{wanted}.json", "application/json")

    return page


_SAID: Final[Mapping[str, Any]] = {"told": telling.told, "actor": telling.actor, "facts": telling.facts}


def _head(api: Api) -> dict[str, Any] | None:
    """The newest head and who saw it; None where the tree can't be sealed now: the page shows its rows all the same."""
    try:
        head = api.get("/v1/admin/audit/head")
        edges = api.get("/v1/admin/audit/witnesses")["edges"]
    except Refused as refusal:
        if refusal.status < 500:
            raise
        return None
    seen = [edge for edge in edges if edge["log"] == head["log"]]
    return {
        "size": head["size"],
        "root": b64decode(head["root"]).hex(),
        "time": head["time"],
        "edges": len(edges),
        "seen": len(seen),
        "least": min((edge["size"] for edge in seen), default=0),
    }


def _opened(api: Api, number: int) -> dict[str, Any]:
    found = api.get(at("v1", "admin", "audit", number))
    head = found["head"]
    leaf_hash = b64decode(found["leaf_hash"])
    path = [b64decode(step) for step in found["path"]]
    return {
        **found,
        "leaf_hash": leaf_hash.hex(),
        "picture": None if head is None else drawn(found["row"]["leaf"], head["size"], path, b64decode(head["root"])),
    }


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and 0 < len(text) <= 18 else None


def _moment(text: str, now: float) -> int | None:
    """Raises TimeUnreadable."""
    if not text:
        return None
    if text == "today":
        return int(now) // 86400 * 86400
    if (ago := _AGO.fullmatch(text)) is not None:
        return max(0, int(now) - int(ago[1]) * _SPANS[ago[2]])
    try:
        found = datetime.fromisoformat(text)
        return max(0, int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()))
    except (ValueError, OverflowError):
        raise TimeUnreadable(seen=repr(text[:40])) from None


def _csv(api: Api, wanted: Mapping[str, object]) -> Iterator[str]:
    before: int | None = None
    left = _EXPORTED
    yield _line("row", "time", "who", "act", "subject", "why", "request")
    while left > 0:
        page = api.get("/v1/admin/audit", **wanted, before=before, limit=min(left, 1000))
        for row in page["audit"]:
            when = datetime.fromtimestamp(row["at"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            why = telling.told(row).after.strip(": ")
            yield _line(row["number"], when, row["actor"], row["act"], row["subject"], why, row["request_id"] or "")
        left -= len(page["audit"])
        before = page["before"]
        if before is None:
            return
    yield _line("", "", "", f"There is more: rows below {before}", "", "", "")


def _line(*cells: object) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(["'" + text if text.startswith(_FORMULA) else text for text in map(str, cells)])
    return out.getvalue()


def _file(content: bytes, name: str, kind: str) -> Response:
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, content_type=kind, headers=disposition)
