"""An opened attestation, made ready to be shown: what differs first, what is as expected folded.

Whatever a device gave goes through `visible`; templates escape it on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attestd_console import figures, reasons
from attestd_console.visible import visible
from attestd_console.words import Look, look

MAX_DIFFERENCES: Final = 12  # shown in the box
MAX_ROWS: Final = 60  # of the folded events

STANDINGS: Final[Mapping[str, Look]] = {
    "expected": Look("ok", "ok", "as expected"),
    "differs": Look("bad", "bad", "differs"),
    "suspect": Look("warn", "warn", "in a PCR that differs"),
    "unproven": Look("warn", "warn", "not proven"),
    "unjudged": Look("none", "none", "no reference value speaks of it"),
    "unrelied": Look("none", "none", "not relied on"),
}
_STAGES: Final[Mapping[str, str]] = {
    "firmware": "Firmware",
    "settings": "Settings",
    "secure-boot": "Secure Boot",
    "boot-loader": "Boot programs",
    "kernel": "Kernel",
    "files": "Running files",
}
_CLAIMS: Final[Mapping[str, str]] = {
    "instance-identity": "Instance identity",
    "configuration": "Configuration",
    "executables": "Executables",
    "file-system": "File system",
    "hardware": "Hardware",
    "runtime-opaque": "Runtime memory",
    "storage-opaque": "Storage",
    "sourced-data": "Sourced data",
}
_TRUTHS: Final = {True: "on", False: "off"}


@dataclass(frozen=True, slots=True)
class Why:
    """The first thing on the page. `tone` colours the box."""

    tone: str
    shape: str
    heading: str
    said: str


def claims(result: Mapping[str, Any]) -> list[tuple[str, Look]]:
    """The claims of the trustworthiness vector, with words (draft-ietf-rats-ar4si-09, section 2.3)."""
    return [(_CLAIMS.get(name, visible(name, 40)), look(_tier(value))) for name, value in result["vector"].items()]


def _tier(value: int) -> str:
    if 2 <= value < 32:
        return "affirming"
    if 32 <= value < 96:
        return "warning"
    return "contraindicated" if 96 <= value < 128 else "none"


def why(
    device: Mapping[str, Any],
    answer: Mapping[str, Any] | None,
    runs: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    *,
    held: bool = False,
    now: float,
) -> Why:
    """Why the device stands as it does, by its newest result and by what operators did. `held`: by the brake."""
    state, newest = str(device["state"]), runs[0] if runs else None
    shown = look(state)
    found, ordered = list(newest["reasons"]) if newest else [], False
    if answer is not None and answer.get("explanation") and newest and answer["number"] == newest["last"]:
        found, ordered = reasons.in_order(found, answer["explanation"]["differences"]), True
    headline = reasons.headline(found, ordered=ordered)
    when = _when(newest, now)
    if state == "quarantined":
        quarantine = next((e for e in entries if e.get("kind") == "act" and e["act"] == "quarantine"), None)
        by_person = quarantine is not None and not str(quarantine["actor"]).startswith(("device:", "attestd"))
        if by_person and quarantine is not None:
            who = past_actor(str(quarantine["actor"]))
            because = f": “{visible(device['state_reason'])}”" if device.get("state_reason") else ""
            ago = figures.ago(quarantine["at"], now)
            return Why("bad", "quar", f"Quarantined by {who}{because}", f"{ago}. {when} {_result(newest)}")
        since = f" Quarantined {figures.ago(quarantine['at'], now)}, in the same transaction." if quarantine else ""
        heading = headline or "Its result must not be trusted"
        return Why("bad", "quar", heading, f"{when}{since} Its certificate is suspended.")
    if state == "active" and newest is not None and newest["status"] == "contraindicated":
        if held:
            return Why("bad", "bad", headline, f"{when} The brake holds this result: the device stays active for now.")
        return Why(
            "bad", "bad", headline, f"{when} An operator let it stay active all the same; its next result counts."
        )
    if state in ("retired", "rejected"):
        because = visible(device.get("state_reason") or "no reason was given")
        return Why("none", shown.shape, f"{shown.word}: {because}", "It holds no credential that counts.")
    if newest is None:
        return Why("none", shown.shape, "It has not attested yet", "So nothing is known of what it runs.")
    if device.get("attestation_good_until") is not None and device["attestation_good_until"] <= now:
        return Why("none", "clock", "It did not attest in time", f"{when} {_result(newest)}")
    result = look(newest["status"])
    if newest["status"] == "affirming":
        return Why("ok", "ok", "Everything that reference values speak of is as they say", when)
    return Why(result.tone, result.shape, headline or "Nothing was affirmed", when)


def edges(found: Mapping[str, Any], now: float) -> tuple[str, str]:
    """Which edges refuse the device, as far as they said: the look of it, and a sentence. Empty where there is none."""
    total, refuse, others = int(found["edges"]), int(found["refuse"]), found["others"]
    if not total:
        return "none", ""
    if refuse == total:
        who = "The one edge that there is refuses" if total == 1 else f"All {total:,} edges refuse"
        return "affirming", f"{who} the device, by what {'it' if total == 1 else 'they'} reported."
    first = others[0]
    heard = f"last reported {figures.ago(first['heard_at'], now)}" if first["heard_at"] else "has never reported"
    more = f", and {total - refuse - 1:,} more" if total - refuse > 1 else ""
    known = f"{refuse:,} of {total:,} edges {'refuses' if refuse == 1 else 'refuse'} the device, by what they reported."
    return "warning", f"{known} Not known yet of {visible(first['name'], 64)}, which {heard}{more}."


def past_actor(actor: str) -> str:
    return visible(actor.removeprefix("operator:"), 80)


def _when(newest: Mapping[str, Any] | None, now: float) -> str:
    if newest is None:
        return "It has not attested yet."
    since = f", the same since {figures.exact(newest['first_at'])}" if newest["count"] > 1 else ""
    return f"It attested {figures.ago(newest['at'], now)}{since}."


def _result(newest: Mapping[str, Any] | None) -> str:
    if newest is None:
        return ""
    told = reasons.headline(newest["reasons"])
    return f"The result was {look(newest['status']).word.lower()}" + (
        f": {told[:1].lower()}{told[1:]}." if told else "."
    )


def view(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the template shows of an attestation."""
    found = answer["explanation"]
    common = {
        "number": answer["number"],
        "at": answer["at"],
        "run": answer["run"],
        "status": answer["result"]["status"],
        "claims": claims(answer["result"]),
        "policies": [visible(name.split("@")[0], 63) for name in answer["result"].get("policies", ())],
        "reasons": [reasons.sentence(reason) for reason in answer["result"]["reasons"]],
        "kept": found is not None,
    }
    if found is None:
        return common
    differences = [_difference(each) for each in found["differences"]]
    return {
        **common,
        "chain": [_link(link, found) for link in found["chain"]],
        "differences": differences[:MAX_DIFFERENCES],
        "more": len(differences[MAX_DIFFERENCES:]) + found["more_differences"],
        "quote": found["quote"],
        "banks": _banks(found["pcrs"]),
        "log": found["log"],
        "rows": [_row(row) for row in found["log"]["folded"][:MAX_ROWS]] if found["log"] else [],
        "log_kept": found["log_kept"],
        "differing_events": found["log"]["standings"].get("differs", 0) if found["log"] else 0,
        "differing_pcrs": sum(pcr["standing"] == "differs" for pcr in found["pcrs"]),
        "files": _files(found["files"]),
        "files_look": STANDINGS[next(link["standing"] for link in found["chain"] if link["stage"] == "files")],
        "list_kept": found["list_kept"],
        "manifests": found["manifests"],
    }


def _link(link: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    stage = link["stage"]
    shown = STANDINGS.get(link["standing"], STANDINGS["unjudged"])
    own = [each for each in found["differences"] if each["stage"] == stage]
    detail = shown.word
    if own and link["standing"] == "differs":
        pcr = own[0]["pcr"]
        detail = reasons.cause(own[0]["reason"]) + ("" if pcr is None else f". PCR {pcr}")
    elif stage == "firmware" and found["facts"].get("firmware_version"):
        detail = f"{visible(found['facts']['firmware_version'], 64)}, {shown.word}"
    elif stage == "secure-boot" and "secure_boot" in found["facts"]:
        detail = f"{_TRUTHS[bool(found['facts']['secure_boot'])]}, {shown.word}"
    return {"name": _STAGES.get(stage, stage), "tone": shown.tone, "shape": shown.shape, "detail": detail}


def _difference(each: Mapping[str, Any]) -> Mapping[str, Any]:
    """One row of what differs."""
    where = [] if each["event"] is None else [f"Event {figures.count(each['event'])}"]
    where += [] if each["pcr"] is None else [f"PCR {each['pcr']}"]
    return {
        "where": ", ".join(where) or "The whole boot",
        "cause": reasons.sentence(each["reason"]),
        "name": visible(each["name"], 160),
        "type": each["type"] or "",
        "relied": each["relied"],
        "digest": each["digest"],
        "value": _value(each["fact"], each["value"]),
        "expected": [_expected(each["fact"], each["digest"], one) for one in each["expected"]],
        "known": _known(each["known"]),
        "anchor": "" if each["pcr"] is None else f"pcr{each['pcr']}",
    }


def _value(fact: str | None, value: Any) -> str:
    if value is None:
        return "nothing that shows it"
    if isinstance(value, bool):
        return f"{(fact or '').replace('_', ' ')}: {_TRUTHS[value]}"
    if isinstance(value, dict):
        return visible(", ".join(str(part) for part in value.values()), 200)
    return visible(value, 200)


def _expected(fact: str | None, digest: str | None, one: Mapping[str, Any]) -> Mapping[str, Any]:
    values = [str(value) for value in one["values"]] if digest else [_value(fact, value) for value in one["values"]]
    if one["at_least"] is not None:
        values = [f"at least {one['at_least']}"]
    return {
        "manifest": visible(one["manifest"], 63),
        "ends": one["ends"],
        "values": values or ["none"],
        "digests": bool(digest) and bool(one["values"]),
        "more": one["more"],
    }


_LOOKED: Final = 64
_OF_NEWEST: Final = ", of the newest 64"


def _known(known: Mapping[str, Any] | None) -> str:
    """What else is known of a digest; nothing beyond what was looked at."""
    if known is None:
        return ""
    count = known["devices"]
    most = "at least " if count >= 1000 else ""
    said = (
        f"{most}{figures.count(count)} other device{'' if count == 1 else 's'} showed it, too"
        if count
        else "no other device showed it while it was unknown"
    )
    if not known["manifests"]:
        return f"{said}; no reference manifest lists it{_OF_NEWEST if known['looked'] >= _LOOKED else ''}"
    named = {f"{visible(found['name'], 63)} ({_stage(found)})" for found in known["manifests"]}
    return f"{said}; listed in {', '.join(sorted(named)[:3])}"


def _stage(found: Mapping[str, Any]) -> str:
    return "ended" if found["until"] is not None else look(found["stage"]).word.lower()


def _banks(pcrs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    banks: dict[str, list[Mapping[str, Any]]] = {}
    for pcr in pcrs:
        shown = STANDINGS.get(pcr["standing"], STANDINGS["unjudged"])
        banks.setdefault(pcr["bank"], []).append({**pcr, "look": shown})
    return [{"name": name.upper().replace("SHA", "SHA-"), "bank": name, "pcrs": own} for name, own in banks.items()]


def _row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if "number" in row:
        return {**row, "name": visible(row["name"], 160)}
    shown = STANDINGS.get(row["standing"] or "", None)
    one = row["first"] == row["last"]
    which = f"event {row['first']}" if one else f"events {row['first']} to {row['last']}"
    words = "stand in several ways" if shown is None else shown.word
    return {"gap": f"{which}: {words}", "look": shown or STANDINGS["unjudged"]}


def _files(files: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if files is None:
        return None
    refusals = [
        {
            "entry": one["entry"],
            "path": visible(one["path"]),
            "digest": visible(one["digest"], 200),
            "why": visible(one["why"]),
        }
        for one in files["refusals"]
    ]
    return {**files, "refusals": refusals}
