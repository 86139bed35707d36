"""What an audit row says, in a sentence: who did what to whom, and why.

Every act that the service notes has its words here. One of a newer service is shown by its own name, so that nothing
is hidden; where a subject leads to a page, it is a link.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from attestd.ids import DeviceId, MalformedName

DEVICE, NAME, NOTHING = "device", "name", ""


class Words(NamedTuple):
    """`verb` is set in bold; `about`: what the subject is; `then`: what follows the subject."""

    verb: str
    about: str = NAME
    then: str = ""


ACTS: Final[Mapping[str, Words]] = {
    # Devices by themselves
    "ask": Words("asked to join", DEVICE, "and waits for approval"),
    "enroll": Words("enrolled", DEVICE),
    "refuse-enrollment": Words("refused the enrollment", DEVICE),
    "attest": Words("attested", DEVICE),
    "refuse-attestation": Words("refused the attestation", DEVICE),
    "renew": Words("renewed the certificate of", DEVICE),
    "rekey": Words("changed the key of", DEVICE),
    "refuse-rekey": Words("refused another key for", DEVICE),
    "token": Words("issued a token to", DEVICE),
    "overdue": Words("found overdue", DEVICE),
    # Devices by operators, or by what their evidence says
    "approve": Words("approved", DEVICE),
    "reject": Words("rejected", DEVICE),
    "quarantine": Words("quarantined", DEVICE),
    "release": Words("released", DEVICE),
    "retire": Words("retired", DEVICE),
    "replace-tpm": Words("replaced the TPM of", DEVICE),
    "demand": Words("asked for an attestation of", DEVICE),
    "label": Words("changed the labels of", DEVICE),
    "export-evidence": Words("exported the evidence of", DEVICE),
    "hold": Words("held back the quarantine of", DEVICE, "because the brake is engaged"),
    "import-inventory": Words("imported an inventory", NOTHING),
    "release-cohort": Words("released a cohort", NOTHING),
    "engage-brake": Words("engaged the brake on quarantines", NOTHING),
    "release-brake": Words("released the brake on quarantines", NOTHING),
    "revoke": Words("revoked the certificate"),
    # Policy and reference values
    "set-policy": Words("put into force"),
    "rollback-policy": Words("put into force again, as"),
    "add-reference": Words("added"),
    "promote-reference": Words("took to another stage"),
    "withdraw-reference": Words("withdrew"),
    "learn-reference": Words("learned a draft of"),
    # Trust and the authority
    "trust-makers": Words("trusted certificates of TPM makers", NOTHING),
    "distrust-maker": Words("stopped trusting a TPM maker's certificate", NOTHING),
    "expiring": Words("noticed that it ends soon:"),
    "prepare-key": Words("prepared the next key:"),
    "activate-key": Words("put the next key into use:"),
    "retire-key": Words("retired the former key:"),
    "encrypt-keys": Words("encrypted the authority's keys", NOTHING),
    "certify-service": Words("issued the service's own certificate", NOTHING),
    # People
    "register-operator": Words("registered the operator"),
    "add-operator": Words("added the operator"),
    "disable-operator": Words("disabled the operator"),
    "invite": Words("invited"),
    "withdraw-invitation": Words("withdrew the invitation of"),
    "accept-invitation": Words("accepted the invitation as"),
    "bind-identity": Words("bound to an identity at a provider:"),
    "change-role": Words("changed the role of"),
    "end-sessions": Words("ended all sessions of"),
    "sign-in": Words("signed in", NOTHING),
    "sign-out": Words("signed out", NOTHING),
    "end-session": Words("ended a session of"),
    "add-passkey": Words("added a passkey of"),
    "remove-passkey": Words("removed a passkey of"),
    "passkey-copied": Words("found a passkey that may have been copied, of"),
    # Edges
    "add-proxy": Words("added the edge"),
    "renew-proxy": Words("renewed the certificate of the edge"),
    "disable-proxy": Words("disabled the edge"),
    "edge-silent": Words("no longer hears the edge"),
    "edge-back": Words("hears again the edge"),
    "miss-reports": Words("misses reports of the edge"),
    "receive-receipts": Words("took receipts of chain"),
    "refuse-receipts": Words("refused receipts of chain"),
    # The instance
    "backup": Words("made a backup", NOTHING),
    "restore": Words("restored the registry from a backup", NOTHING),
}

_WHY: Final = ("because", "reason", "why", "problem", "result")
# Names of details, as people call them. What is not here is shown by its own name.
_NAMES: Final[Mapping[str, str]] = {
    "because": "Because",
    "reason": "Reason given",
    "why": "Refused because",
    "detail": "In full",
    "problem": "Refused because",
    "version": "State version",
    "serial": "Certificate",
    "result": "Result",
    "site": "Site",
    "tier": "Tier",
    "until": "Until",
    "address": "From",
    "method": "By",
    "agent": "Browser",
    "fate": "What it held is",
    "jti": "Token",
    "audience": "For",
    "first": "First",
    "last": "Last",
    "cohort": "Which",
}


class Actor(NamedTuple):
    """`kind`: operator, device, edge, or the service itself."""

    name: str
    kind: str
    href: str = ""


class Told(NamedTuple):
    """A row's sentence in its parts: verb, subject and where that leads, and what comes after, with what parts it."""

    verb: str
    subject: str
    href: str
    after: str


def told(row: Mapping[str, Any]) -> Told:
    """What a row says."""
    act, subject, detail = str(row["act"]), str(row["subject"]), row.get("detail") or {}
    words = ACTS.get(act)
    if words is None:
        return Told(act.replace("-", " "), subject, "", _because(detail))
    after = "".join(f" {part}" for part in (words.then, *_place(act, detail)) if part)
    shown = "" if words.about == NOTHING else subject
    return Told(words.verb, shown, _page_of(subject, words.about), after + _because(detail))


def actor(text: str) -> Actor:
    """Who, without the prefix that programs tell them apart by."""
    kind, colon, name = text.partition(":")
    if colon and kind == "operator":
        return Actor(name, kind)
    if colon and kind == "device":
        return Actor(name, kind, _page_of(name, DEVICE))
    if colon and kind == "proxy":
        return Actor(f"edge {name}", "edge")
    return Actor(text, "service" if text.startswith("attestd") else "other")


def facts(detail: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything that a row holds beside its sentence, by names that people read."""
    return [
        (_NAMES.get(name, name[:1].upper() + name[1:].replace("_", " ").replace("-", " ")), "; ".join(_words(value)))
        for name, value in detail.items()
    ]


def _because(detail: Mapping[str, Any]) -> str:
    for name in _WHY:
        if detail.get(name):
            return ": " + "; ".join(_words(detail[name]))
    return ""


def _place(act: str, detail: Mapping[str, Any]) -> Iterator[str]:
    """What makes the sentence whole for some acts."""
    if act == "approve" and "tier" in detail:
        yield f"into {detail['tier']}, {detail.get('site', '')}"
    if act == "sign-in" and "method" in detail:
        yield {"passkey": "with a passkey", "oidc": "by single sign-on", "invitation": "by a one-time link"}.get(
            str(detail["method"]), str(detail["method"])
        )
    if act == "token" and "audience" in detail:
        yield f"for {detail['audience']}"
    if act in ("add-operator", "register-operator", "invite", "accept-invitation") and "role" in detail:
        yield f"as {detail['role']}"
    if act == "import-inventory" and "added" in detail:
        yield f"of {detail['added']} new devices"
    if act == "release-cohort" and "released" in detail:
        yield f"of {detail['released']} devices"


def _page_of(subject: str, about: str) -> str:
    if about == DEVICE:
        try:
            return f"/fleet/{quote(DeviceId(subject), safe='')}"
        except MalformedName:
            return ""
    return ""


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"{name} {', '.join(_words(inner))}"
    elif isinstance(value, list):
        for inner in value:
            yield " ".join(_words(inner))
    elif value is None:
        yield "none"
    elif isinstance(value, bool):
        yield "yes" if value else "no"
    else:
        yield str(value)
