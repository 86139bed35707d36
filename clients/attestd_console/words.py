"""Plain words for what the service says in names: states, results, acts and refusals.

A state is a shape, a word and a colour, always all three. Whatever has no entry here is shown by its own name, so
that a newer service is still readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Look(NamedTuple):
    """`tone` is the colour's class, `shape` the icon."""

    tone: str
    shape: str
    word: str


_LOOKS: Final[Mapping[str, Look]] = {
    # Results of appraisal (RFC 9711's tiers)
    "affirming": Look("ok", "ok", "Affirming"),
    "warning": Look("warn", "warn", "Warning"),
    "contraindicated": Look("bad", "bad", "Contraindicated"),
    "none": Look("none", "none", "None"),
    # Devices' states
    "pending": Look("pend", "half", "Pending"),
    "approved": Look("pend", "ring", "Approved"),
    "active": Look("ok", "ok", "Active"),
    "quarantined": Look("bad", "quar", "Quarantined"),
    "rejected": Look("none", "dash", "Rejected"),
    "retired": Look("none", "dash", "Retired"),
    "replaced": Look("none", "dash", "Replaced"),
    "overdue": Look("none", "clock", "Overdue"),
    # What edges do
    "allow": Look("ok", "ok", "Allowed"),
    "allowed": Look("ok", "ok", "Allowed"),
    "deny": Look("bad", "bad", "Denied"),
    "denied": Look("bad", "bad", "Denied"),
    "stale": Look("warn", "warn", "Stale"),
    "fresh": Look("ok", "ok", "Up to date"),
    # How edges stand
    "current": Look("ok", "ok", "Up to date"),
    "behind": Look("warn", "warn", "Behind"),
    "silent": Look("warn", "warn", "Not heard"),
    "never": Look("none", "none", "Never heard"),
    "disabled": Look("none", "dash", "Disabled"),
    # Credentials
    "valid": Look("ok", "ok", "Valid"),
    "suspended": Look("bad", "quar", "Suspended"),
    "revoked": Look("bad", "bad", "Revoked"),
    "expired": Look("none", "clock", "Expired"),
    # Reference values
    "learn": Look("pend", "half", "Learning"),
    "monitor": Look("pend", "ring", "Monitoring"),
    "enforce": Look("ok", "ok", "Enforced"),
    "withdrawn": Look("none", "dash", "Withdrawn"),
}


def look(name: str | None) -> Look:
    """How a state or result is shown."""
    if not name:
        return _LOOKS["none"]
    found = _LOOKS.get(name)
    return found or Look("none", "none", name[:1].upper() + name[1:].replace("-", " ").replace("_", " "))


def sentence(text: str) -> str:
    """With its full stop."""
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


# What a refused sign-in means to the person who tried. Not: which check failed.
SIGN_IN: Final[Mapping[str, tuple[str, str]]] = {
    "passkey-unknown": (
        "That passkey is not known here.",
        "It may belong to another instance. Use another one, or ask an admin for a one-time link.",
    ),
    "passkey-refused": (
        "That passkey’s answer does not fit.",
        "Try again. If it stays so, use another passkey, or ask an admin for a one-time link.",
    ),
    "passkey-copied": (
        "That passkey seems to exist twice.",
        "Its counter went backwards, so it is not taken. Use another one, and tell an admin.",
    ),
    "passkey-taken": ("That passkey is somebody’s already.", "Make another one for this name."),
    "session-over": ("You were signed out.", "Sessions are short on purpose. Sign in again to go on."),
    "caller-unknown": ("You were signed out.", "Sessions are short on purpose. Sign in again to go on."),
    "caller-disabled": ("Your access was ended.", "An admin of this instance can say why."),
    "operator-disabled": ("Your access was ended.", "An admin of this instance can say why."),
    "ceremony-over": (
        "That took too long, or was begun in another browser.",
        "A sign-in has to be finished within minutes, where it was begun. Try again.",
    ),
    "challenge-late": ("That took too long.", "A sign-in has to be finished within minutes. Try again."),
    "ceremony-spent": ("This sign-in was finished already.", "Begin again."),
    "challenge-foreign": ("This sign-in was begun elsewhere.", "Begin again, here."),
    "code-refused": (
        "Your identity provider does not know this sign-in.",
        "Its answer was used already, is too old, or belongs to another one. Begin again.",
    ),
    "id-token-refused": (
        "What your identity provider says does not prove who you are.",
        "Begin again. If it stays so, an admin finds the reason in the service’s log.",
    ),
    "not-invited": (
        "Nobody here is known by that identity.",
        "Ask an admin for an invitation, and choose this provider on the page that its link opens; or for a role for "
        "one of your groups.",
    ),
    "provider-unreachable": (
        "Your identity provider does not answer as it should.",
        "Try again in a while, or use a passkey.",
    ),
    "provider-odd": (
        "Your identity provider is not what this instance expects.",
        "An admin has to correct its settings. A passkey works meanwhile.",
    ),
    "unknown-provider": ("That identity provider is not known here.", "Choose one of those below."),
    "return-elsewhere": (
        "The service expects the console at another address.",
        "An admin sets console.origin in attestd.toml to the one that you use.",
    ),
    "cancelled": ("No passkey was used.", "The browser’s window was closed, or it found no passkey. Try again."),
    "invitation-over": (
        "This link was used already, or is over.",
        "It works once. Ask an admin for another one: People and sessions, Invite.",
    ),
    "unknown-invitation": (
        "This link is not known here.",
        "Check that it was copied whole. It works once; an admin can make another one.",
    ),
    "passkeys-unavailable": (
        "There are no passkeys at this address.",
        "They belong to a host name: an admin sets console.origin in attestd.toml to one.",
    ),
}
