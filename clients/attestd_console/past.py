"""A device's past for its page: the strip of seven days, and the timeline's entries in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attestd_console import figures, reasons
from attestd_console.visible import visible
from attestd_console.words import look

DAYS: Final = 7
_WIDTH: Final = 720
# Height grows with severity, for those who don't see the colour.
_HEIGHTS: Final[Mapping[str, int]] = {"ok": 6, "none": 6, "warn": 10, "bad": 16}
_BASE: Final = 16
_LEAST: Final = 4


@dataclass(frozen=True, slots=True)
class Band:
    """One stretch of the strip, in its own units."""

    x: float
    width: float
    y: int
    height: int
    tone: str


@dataclass(frozen=True, slots=True)
class Strip:
    """`finding` says what it shows; `days` are the marks below, each with its place."""

    bands: tuple[Band, ...]
    days: tuple[tuple[float, str], ...]
    finding: str


@dataclass(frozen=True, slots=True)
class Told:
    """One entry of the timeline. `link`: what it leads to; `times` how often it happened in a row."""

    at: int
    first_at: int
    tone: str
    shape: str
    text: str
    sub: str
    strong: bool = False
    link: str = ""
    digest: str = ""


def strip(runs: Sequence[Mapping[str, Any]], *, now: float, until: int | None) -> Strip:
    """Results over seven days, the newest first in `runs`; `until`: how long the newest one counts.

    Between a result and the next one the state is that of the first; after the newest one has run out it is not known.
    """
    begin, span = now - DAYS * 86400, DAYS * 86400
    bands: list[Band] = []
    held: dict[str, float] = {}
    end = min(now, float(until)) if until is not None and runs and runs[0]["status"] == "affirming" else now
    for run in runs:
        first = max(float(run["first_at"]), begin)
        if end > first:
            tone = look(run["status"]).tone
            height = _HEIGHTS.get(tone, 6)
            x = _WIDTH * (first - begin) / span
            # What is odd is seen, however short it was.
            width = max(_WIDTH * (end - first) / span - 1.5, 1 if tone == "ok" else _LEAST)
            x = min(x, _WIDTH - width)
            bands.append(Band(round(x, 1), round(width, 1), _BASE - height, height, tone))
            held[run["status"]] = held.get(run["status"], 0) + end - first
        end = min(end, float(run["first_at"]))
        if end <= begin:
            break
    days = tuple(
        (round(_WIDTH * day / DAYS, 1), "now" if day == DAYS else figures.exact(begin + day * 86400).split(" ")[0])
        for day in range(DAYS + 1)
    )
    return Strip(tuple(reversed(bands)), days, _finding(held))


def _finding(held: Mapping[str, float]) -> str:
    odd = [
        f"{figures.span(seconds)} {look(status).word.lower()}"
        for status, seconds in held.items()
        if status not in ("affirming", "none")
    ]
    if odd:
        return f"{DAYS} days: {', '.join(odd)}"
    if held.get("affirming"):
        return f"{DAYS} days: affirming, as long as it attested"
    return f"{DAYS} days: nothing was affirmed" if held else f"No attestation in {DAYS} days"


# ---- The timeline -----------------------------------------------------------------------------------------------

# Acts on a device: tone, shape, words. `{}` is who did it.
_ACTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "ask": ("pend", "half", "Asked to join"),
    "approve": ("pend", "ring", "Approved by {}"),
    "reject": ("none", "dash", "Rejected by {}"),
    "enroll": ("ok", "ring", "Enrolled"),
    "quarantine": ("bad", "quar", "Quarantined by {}"),
    "release": ("ok", "ring", "Released by {}"),
    "retire": ("none", "dash", "Retired by {}"),
    "replace-tpm": ("warn", "person", "TPM replaced by {}"),
    "demand": ("none", "person", "Asked to attest now by {}"),
    "label": ("none", "person", "Labels changed by {}"),
    "hold": ("warn", "warn", "A contraindicated result was held by the brake"),
    "rekey": ("none", "cert", "A new credential key"),
    "revoke": ("bad", "bad", "Certificate revoked by {}"),
    "refuse-attestation": ("bad", "bad", "Attestation refused"),
    "refuse-enrollment": ("bad", "bad", "Enrollment refused"),
    "export-evidence": ("none", "down", "Evidence exported by {}"),
    "overdue": ("none", "clock", "Overdue: it did not attest in time"),
    "expiring": ("warn", "clock", "Its certificate is about to end"),
    "import-inventory": ("none", "person", "Imported from an inventory by {}"),
    "restore": ("none", "dash", "Restored from a backup"),
}


def restarts(runs: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Which runs, by their first attestation, began after a restart, and what the TPM counted."""
    found = {}
    for run, before in itertools.pairwise(runs):
        if run["boot"] != before["boot"]:
            (resets, starts), (resets_before, starts_before) = (_counts(each["boot"]) for each in (run, before))
            if resets != resets_before:
                found[run["first"]] = f"After a restart: the TPM's reset count went from {resets_before} to {resets}."
            else:
                found[run["first"]] = f"After sleep: the TPM's restart count went from {starts_before} to {starts}."
    return found


def _counts(boot: str) -> tuple[str, str]:
    resets, _, starts = boot.partition(".")
    return resets, starts


def told(entry: Mapping[str, Any], here: str, restarted: Mapping[int, str] | None = None) -> Told:
    """One entry in words. `here` is the device's page; `restarted` as `restarts` has it."""
    if entry.get("kind") == "attestation":
        return _attestation(entry, here, (restarted or {}).get(entry["first"], ""))
    return _KINDS.get(str(entry.get("kind")), _unknown)(entry, here)


def _attestation(entry: Mapping[str, Any], here: str, restart: str) -> Told:
    shown = look(entry["status"])
    first, last, count = entry["first"], entry["last"], entry["count"]
    which = (
        f"Attestation {figures.count(last)}"
        if first == last
        else (f"Attestations {figures.count(first)} to {figures.count(last)}")
    )
    times = f" {figures.count(count)} times the same, since {figures.exact(entry['first_at'])}." if count > 1 else ""
    why = reasons.headline(entry["reasons"])
    sub = (f"{why}." if why else "As expected.") + times + (f" {restart}" if restart else "")
    return Told(
        entry["at"], entry["first_at"], shown.tone, shown.shape, f"{which}: {shown.word.lower()}", sub,
        link=f"{here}?att={last}#att",
    )  # fmt: skip


def _credential(entry: Mapping[str, Any], here: str) -> Told:
    revoked = entry.get("revoked_at") is not None
    count = entry["count"]
    text = "Certificate issued, revoked since" if revoked else "Certificate issued"
    sub = f"valid until {figures.exact(entry['not_after'])}"
    if count > 1:
        text = f"{figures.count(count)} certificates issued, one after another"
        sub = f"the newest {sub}"
    tone = "bad" if revoked else "ok"
    return Told(entry["at"], entry["first_at"], tone, "cert", text, sub, digest=str(entry["serial"]))


def _crossing(entry: Mapping[str, Any], here: str) -> Told:
    allowed = entry.get("decision") == "allow"
    count = entry["count"]
    times = f", {figures.count(count)} times in a row" if count > 1 else ""
    what = " ".join(visible(entry[name], 80) for name in ("method", "path") if entry.get(name))
    sub = f"{visible(entry.get('boundary') or 'a boundary', 64)} at {visible(entry.get('edge') or '', 64)}"
    if what:
        sub += f", {what}"
    if entry.get("problem"):
        sub += f": {visible(entry['problem'], 64).replace('-', ' ')}"
    text = f"Crossing {'allowed' if allowed else 'refused'}{times}"
    return Told(entry["at"], entry["first_at"], "ok" if allowed else "bad", "cross", text, sub)


def _act(entry: Mapping[str, Any], here: str) -> Told:
    name, detail = str(entry["act"]), entry.get("detail") or {}
    actor = visible(entry["actor"], 80)
    itself = actor == "attestd" or actor.startswith("device:")
    tone, shape, words = _ACTS.get(name, ("none", "person", name.replace("-", " ").capitalize() + " by {}"))
    text = words.format("its result" if itself and name in ("quarantine", "release") else _who(actor))
    if entry["count"] > 1:
        text += f", {figures.count(entry['count'])} times in a row"
    return Told(
        entry["at"], entry["first_at"], tone, shape, text, _detail(name, detail),
        strong=name in ("quarantine", "release", "retire", "replace-tpm", "approve"),
        link="" if itself else f"/audit/{int(entry['number'])}",
    )  # fmt: skip


def _detail(name: str, detail: Mapping[str, Any]) -> str:
    if name.startswith("refuse-"):
        return reasons.refusal(str(detail.get("why", "")), str(detail.get("detail", "")))
    if because := detail.get("because"):
        return f"{reasons.headline([str(reason) for reason in because])}."
    said = [f"“{visible(detail['reason'])}”"] if detail.get("reason") else []
    if name == "approve" and detail.get("tier"):
        said.append(f"as {visible(detail['tier'], 64)} at {visible(detail.get('site', ''), 64)}")
    if name == "label":
        said.append(_relabelled(detail.get("old") or {}, detail.get("new") or {}))
    if detail.get("was") and name != "enroll":
        said.append(f"was {visible(detail['was'], 40)}")
    return ", ".join(said)


def _relabelled(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What is different now, with what it was."""
    said = []
    for name in sorted({*old, *new}):
        was, now = (visible(labels.get(name), 64) for labels in (old, new))
        if name not in new:
            said.append(f"{visible(name, 64)} removed (was {was})")
        elif name not in old:
            said.append(f"{visible(name, 64)}={now}")
        elif old[name] != new[name]:
            said.append(f"{visible(name, 64)}={now} (was {was})")
    return ", ".join(said)


def _who(actor: str) -> str:
    return "the service" if actor == "attestd" else actor.removeprefix("operator:")


def _unknown(entry: Mapping[str, Any], here: str) -> Told:
    return Told(int(entry.get("at", 0)), int(entry.get("first_at", 0)), "none", "dot", visible(entry.get("kind")), "")


_KINDS: Final = {"credential": _credential, "crossing": _crossing, "act": _act}
