"""What the overview says in words: the answer first, then what needs somebody, by cause.

Everything comes from `GET /v1/admin/overview`. What is not known is not guessed at: a shared reason is said to be
shared, and what follows from it is the reader's to decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode
from zlib import crc32

from attestd_console import figures, reasons, words
from attestd_console.visible import visible

STEP: Final = 1800  # seconds of one bar
_BARS: Final = 48
_SITES: Final = 3  # overdue ones that have a line of their own
_CAUSES: Final = 8

Members = Mapping[str, Any]


class Todo(NamedTuple):
    """One thing that needs somebody."""

    state: str
    heading: str
    meaning: str
    href: str
    label: str
    about: str  # the same, as long as it is the same thing

    @property
    def id(self) -> str:
        """By which a page that looks again knows it."""
        return f"todo-{crc32(f'{self.state} {self.about}'.encode()):08x}"


class Fact(NamedTuple):
    """How the service itself stands in one respect; `href`: where more is said."""

    name: str
    value: str
    detail: str
    href: str = ""


class Lead(NamedTuple):
    """The first sentence: how many of how many, and what keeps the others out."""

    trusted: int
    devices: int
    rest: str


def lead(found: Members) -> Lead:
    """What a person wants to know first."""
    total = _total(found)
    parts = [
        f"{figures.count(total[name])} {name}" for name in ("quarantined", "overdue", "contraindicated") if total[name]
    ]
    said = [f"{figures.share(total['affirming'], total['devices'])}."]
    said.append(f"Not trusted now: {', '.join(parts)}." if parts else "None is quarantined or overdue.")
    if total["warning"]:
        said.append(f"With a warning: {figures.count(total['warning'])}.")
    if total["none"]:
        said.append(f"Nothing to compare with: {figures.count(total['none'])}.")
    if held := int(found["service"]["brake"]["held"]):
        said.append(f"Held by the brake: {figures.count(held)}.")
    if waiting := int(found["devices"].get("pending", 0)):
        said.append(f"Waiting to join: {figures.count(waiting)}.")
    return Lead(total["affirming"], total["devices"], " ".join(said))


def _total(found: Members) -> dict[str, int]:
    names = ("devices", "affirming", "warning", "contraindicated", "none", "overdue", "quarantined")
    return {name: sum(int(share.get(name, 0)) for share in found["tiers"].values()) for name in names}


# ---- Needs you --------------------------------------------------------------------------------------------------


def todos(found: Members, now: float) -> list[Todo]:
    """The most urgent first."""
    needs = found["needs"]
    return [
        *_brake(found["service"]["brake"], now),
        *_quarantined(needs["quarantined"], now),
        *_overdue(needs, _total(found)["overdue"], now),
        *_waiting(int(found["devices"].get("pending", 0))),
    ]


def _brake(brake: Members, now: float) -> list[Todo]:
    if brake["engaged_at"] is None:
        return []
    held = f"{_devices(brake['held'])} {_be(brake['held'])} held back" if brake["held"] else "None is held back yet"
    meaning = f"Since {figures.ago(brake['engaged_at'], now)} no result quarantines a device. {held}."
    return [Todo("warning", "The brake on quarantines is engaged", meaning, "/brake", "Decide", "brake")]


def _quarantined(causes: Sequence[Members], now: float) -> list[Todo]:
    """By reason; sites that share it are one line."""

    def reason(cause: Members) -> tuple[str, str]:
        return str(cause["why"]), str(cause["by"] or "")

    alike = [list(group) for _, group in groupby(sorted(causes, key=reason), key=reason)]
    alike.sort(key=lambda group: -sum(cause["count"] for cause in group))
    found = [_one_cause(group, now) for group in alike[:_CAUSES]]
    if left := alike[_CAUSES:]:
        count = sum(cause["count"] for group in left for cause in group)
        query = "/fleet?state=quarantined&group=cause"
        more = f"{_devices(count)} {_be(count)} quarantined for {len(left)} other reasons"
        found.append(
            Todo("quarantined", more, "Each reason has a line in the fleet's list.", query, "Group by cause", "others")
        )
    return found


def _one_cause(group: Sequence[Members], now: float) -> Todo:
    count = sum(cause["count"] for cause in group)
    since = min(cause["since"] for cause in group)
    why, by = str(group[0]["why"]), group[0]["by"]
    said = words.sentence(f"An operator decided this: “{why}”" if by == "operator" and why else reasons.line(why))
    said = said or "No reason was given."
    about = f"{by} {why}"
    site = str(group[0]["site"])
    where = f"at {site}" if len(group) == 1 and site else f"at {len(group)} sites" if len(group) > 1 else ""
    if count == 1:
        example = str(group[0]["example"])
        name = visible(group[0]["serial_number"] or figures.short(example), 64)
        heading = f"{name} {where} is quarantined".replace("  ", " ")
        meaning = f"{said} Since {figures.ago(since, now)}."
        return Todo("quarantined", heading, meaning, f"/fleet/{quote(example, safe='')}", "See why", about)
    heading = f"{_devices(count)} {where} were quarantined for the same reason".replace("  ", " ")
    query = {"state": "quarantined", "site": site if len(group) == 1 else "", "group": "cause"}
    href = "/fleet?" + urlencode({name: value for name, value in query.items() if value})
    meaning = f"{said} The first {figures.ago(since, now)}."
    return Todo("quarantined", heading, meaning, href, f"Compare the {count:,}", about)


def _overdue(needs: Members, total: int, now: float) -> list[Todo]:
    sites = needs["overdue"]
    found = [_overdue_site(site, now) for site in sites[:_SITES]]
    rest = total - sum(site["count"] for site in sites[:_SITES])
    others = int(needs["overdue_sites"]) - len(sites[:_SITES])
    if rest > 0 and others > 0:
        heading = f"{_devices(rest)} at {others:,} other {'site' if others == 1 else 'sites'} {_be(rest)} overdue"
        meaning = "Their results no longer count, so nothing is renewed for them until they attest."
        found.append(Todo("overdue", heading, meaning, "/fleet?overdue=yes", "Show them", "others"))
    return found


def _overdue_site(site: Members, now: float) -> Todo:
    where = site["site"]
    heading = f"{_devices(site['count'])} {'at ' + where if where else 'without a site'} {_be(site['count'])} overdue"
    since = f"The first since {figures.ago(site['since'], now)}."
    href = "/fleet?" + urlencode({"overdue": "yes", **({"site": where} if where else {})})
    return Todo("overdue", heading, f"{_edges(site['edges'], now)} {since}", href, "Open site", str(where))


def _edges(edges: Sequence[Members], now: float) -> str:
    """What is known of the site's connection, by its edges' reports."""
    if not edges:
        return "No edge of this site is known, so nobody can say whether its uplink is well."
    edge = edges[0]
    name = edge["name"]
    if edge["heard_at"] is None:
        return f"Its edge {name} has never reported."
    heard = figures.ago(edge["heard_at"], now)
    if edge["state"] != "silent":
        return f"Its edge {name} was heard {heard}: the site has an uplink."
    version = "" if edge["bundle_version"] is None else f" It goes on deciding from bundle {edge['bundle_version']:,}."
    return f"Its edge {name} was last heard {heard}.{version}"


def _waiting(count: int) -> list[Todo]:
    if not count:
        return []
    heading = f"{_devices(count)} {'waits' if count == 1 else 'wait'} for approval"
    meaning = "They get nothing before somebody says where they belong."
    return [Todo("pending", heading, meaning, "/approvals", "Review", "approvals")]


def _devices(count: int) -> str:
    return f"{count:,} {'device' if count == 1 else 'devices'}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


# ---- Over time --------------------------------------------------------------------------------------------------


def buckets(results: Sequence[Members], now: float) -> list[dict[str, int]]:
    """The last day in half hours, the oldest first; one without results is there, too."""
    last = int(now) - int(now) % STEP
    found = {
        last - STEP * back: {"at": last - STEP * back, "all": 0, "warning": 0, "contraindicated": 0}
        for back in range(_BARS - 1, -1, -1)
    }
    for each in results:
        bucket = found.get(int(each["at"]))
        if bucket is not None:
            bucket["all"] += int(each["count"])
            if each["status"] in ("warning", "contraindicated"):
                bucket[str(each["status"])] += int(each["count"])
    return list(found.values())


def sums(bars: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(bar[name] for bar in bars) for name in ("all", "warning", "contraindicated")}


def finding(bars: Sequence[Mapping[str, int]]) -> str:
    """What the picture shows, for who does not see it."""
    total = sums(bars)
    if not total["all"]:
        return "No attestation results in the last 24 hours."
    said = f"Attestation results of the last 24 hours: {total['all']:,} in all, {total['warning']:,} with a warning, "
    said += f"{total['contraindicated']:,} contraindicated."
    worst = max(bars, key=lambda bar: bar["contraindicated"])
    if worst["contraindicated"] > 1:
        from_then = figures.clock(worst["at"])[:5]
        said += f" Most of those in one half hour: {worst['contraindicated']:,} from {from_then} on."
    return said


def refusals(found: Sequence[Members]) -> list[dict[str, Any]]:
    """By reason, with where."""
    return [
        {"heading": _why(str(each["why"])), "count": int(each["count"]), "where": _where(each), "tone": "bad"}
        for each in found
    ]


def _why(why: str) -> str:
    """A problem's name, or sentences of a result; "others" is what the service counts together."""
    if why == "others":
        return "Other reasons"
    return reasons.line(why) if " " in why else reasons.refusal(why).removesuffix(".")


def _where(refusal: Members) -> str:
    sites, devices = refusal["sites"], refusal["devices"]
    verb = "on enrolling" if refusal["verb"] == "enroll" else ""
    place = sites[0]["site"] if len(sites) == 1 else f"{len(sites)} sites, most at {sites[0]['site']}" if sites else ""
    who = figures.short(devices[0]) if len(devices) == 1 else ""
    return ", ".join(part for part in (verb, place, who) if part) or "devices that are not known"


# ---- Ends and health --------------------------------------------------------------------------------------------

_KINDS: Final = {
    "root": "Root CA",
    "issuer": "Issuing CA",
    "bundle": "Signer of bundles",
    "audit": "Signer of the audit trail",
    "cross": "Cross certificate",
    "reference manifest": "Reference values",
}


def endings(found: Members, now: float) -> list[dict[str, str]]:
    """What ends within a month, the first first."""
    rows = [
        {
            "heading": f"{_KINDS.get(each['what'], each['what'])} {each['name']}",
            "left": figures.span(each["ends"] - now),
            "where": figures.exact(each["ends"]),
        }
        for each in found["soon"][:5]
    ]
    makers = found["makers"]
    if makers["count"]:
        first = makers["first"][0]
        named = "TPM maker’s CA" if makers["count"] == 1 else f"{makers['count']:,} TPM makers’ CAs"
        rows.append({"heading": named, "left": figures.span(first["ends"] - now), "where": first["subject"]})
    hour = found["next_hour"]
    least = "" if hour["exact"] else "at least "
    rows.append(
        {
            "heading": "Certificates, next hour",
            "left": f"{least}{hour['count']:,}",
            "where": "devices renew theirs by themselves",
        }
    )
    return rows


def health(found: Members, now: float) -> list[Fact]:
    """Each figure with the time or the thing that it is for."""
    service = found["service"]
    audit, edges, brake = service["audit"], service["edges"], service["brake"]
    bundle = found["bundle"]
    behind = edges["behind"]
    late = ""
    if behind:
        version = behind[0]["bundle_version"]
        late = f"{behind[0]['name']} has {'none' if version is None else format(version, ',')}"
    lately = [each["count"] for each in found["results"] if now - STEP * 2 < each["at"] <= now - STEP]
    on = brake["engaged_at"] is not None
    held = f"{brake['held']:,} held back" if on else f"{brake['recent']:,} quarantined in the last minute"
    database = service["database"]
    return [
        Fact("Results", f"{sum(lately) / STEP:.1f} a second", "over the last whole half hour"),
        _pace(service["attestations"], now),
        Fact("Database", _milliseconds(database["microseconds"]), f"{database['kind']}, one question just now"),
        Fact(
            "Audit seal",
            "up to date" if not audit["unsealed"] else f"{figures.span(audit['lag'])} behind",
            f"{audit['size']:,} rows sealed",
        ),
        Fact(
            f"Edges on bundle {bundle['version']:,}" if bundle else "Edges",
            f"{edges['newest']:,} of {edges['count']:,}" if edges["count"] else "none",
            late,
        ),
        Fact("Brake", "Engaged" if on else "Off" if brake["enabled"] else "Not used", held, "/brake"),
        Fact("Signing key", service["signing_key"].capitalize(), "of the issuing CA"),
    ]


def _pace(pace: Members, now: float) -> Fact:
    """How long attestations take, as the process that answered this has seen it."""
    if pace["microseconds"] is None:
        return Fact("Attestations", "none lately", "at the process that answers this")
    over = figures.span(max(now - pace["since"], 1))
    took = f"95 of 100 at most; {pace['count']:,} in {over}, one process"
    return Fact("Attestations", _milliseconds(pace["microseconds"]), took)


def _milliseconds(microseconds: int) -> str:
    return f"{max(microseconds / 1000, 0.1):.1f} ms"


def worries(found: Members) -> list[str]:
    """What is not as it should be with the service itself."""
    service = found["service"]
    said = []
    if service["audit"]["lag"] > 60:
        said.append("audit trail is not sealed")
    if service["brake"]["engaged_at"] is not None:
        said.append("brake engaged")
    if behind := service["edges"]["count"] - service["edges"]["newest"]:
        said.append(f"{behind:,} {'edge' if behind == 1 else 'edges'} behind")
    return said
