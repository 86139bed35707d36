"""What an operator may do to one device: what it does, what it does not, and what will follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Deed:
    """One act. `states` in which it can be done; `touch`: it asks for a fresh passkey.

    `question` names the device by `{}`; `effects` are (icon, sentence); labels say what comes of pressing them.
    """

    name: str
    label: str
    states: frozenset[str]
    touch: bool
    question: str
    effects: tuple[tuple[str, str], ...]
    do: str
    leave: str
    said: str
    asks_why: bool = True

    def fits(self, device: Mapping[str, Any]) -> bool:
        """Whether it can be done to this device now. The service decides."""
        return device["state"] in self.states


_WRITTEN: Final = ("person", "It is written to the audit trail with your name.")

DEEDS: Final[Mapping[str, Deed]] = {
    deed.name: deed
    for deed in (
        Deed(
            name="demand",
            label="Attest now",
            states=frozenset({"active", "quarantined"}),
            touch=False,
            question="Ask {} to attest now?",
            effects=(
                ("clock", "It asks for this every few seconds, if it runs and reaches the service."),
                ("cert", "Its last result stops counting soon: if it does not attest, it becomes overdue."),
                _WRITTEN,
            ),
            do="Ask it to attest",
            leave="Leave it",
            said="It was asked to attest. The page shows what came of it when it has.",
            asks_why=False,
        ),
        Deed(
            name="release",
            label="Release",
            states=frozenset({"quarantined"}),
            touch=True,
            question="Release {}?",
            effects=(
                ("ring", "It becomes active."),
                ("cert", "Its certificate is valid again at every edge that is reached."),
                _WRITTEN,
            ),
            do="Touch passkey and release",
            leave="Keep quarantined",
            said="It is released.",
        ),
        Deed(
            name="quarantine",
            label="Quarantine",
            states=frozenset({"active"}),
            touch=False,
            question="Quarantine {}?",
            effects=(
                ("quar", "Its certificate is suspended, and every edge that is reached refuses it."),
                ("none", "An edge that is cut off lets it cross until it hears of this, or its policy ends that."),
                ("ring", "It stays known. You can release it; a good attestation alone does not."),
                _WRITTEN,
            ),
            do="Quarantine it",
            leave="Leave it active",
            said="It is quarantined.",
        ),
        Deed(
            name="label",
            label="Label",
            states=frozenset({"approved", "active", "quarantined"}),
            touch=True,
            question="Change the labels of {}?",
            effects=(
                ("clock", "It is asked to attest. Reference values that are for its new labels judge it then."),
                ("cert", "Its next certificate says the new labels; every edge goes by them from then on."),
                ("none", "The certificate that it has says the old ones until it ends, unless you revoke it here."),
                _WRITTEN,
            ),
            do="Touch passkey and change",
            leave="Leave its labels",
            said="Its labels are changed. Its next certificate says so.",
            asks_why=False,
        ),
        Deed(
            name="replace",
            label="Replace TPM",
            states=frozenset({"approved", "active", "quarantined", "retired"}),
            touch=True,
            question="Give the name of {} to another TPM?",
            effects=(
                ("ring", "Its id, place and labels go to the TPM with the EK hash that you give."),
                ("bad", "The TPM that it has now is blocked for good, and its certificates are revoked."),
                ("half", "The new one has to enroll before it can do anything."),
                _WRITTEN,
            ),
            do="Touch passkey and replace",
            leave="Keep its TPM",
            said="Its name is for the other TPM now. It has to enroll.",
        ),
        Deed(
            name="retire",
            label="Retire",
            states=frozenset({"approved", "active", "quarantined", "rejected"}),
            touch=True,
            question="Retire {} for good?",
            effects=(
                ("dash", "It leaves the fleet, and its certificates are revoked."),
                ("half", "If it ever asks again, it waits for approval like a stranger."),
                _WRITTEN,
            ),
            do="Touch passkey and retire",
            leave="Keep it",
            said="It is retired.",
        ),
    )
}


def predicted(deed: Deed, device: Mapping[str, Any], newest: Mapping[str, Any] | None) -> str:
    """What will follow that the effects don't say, by what is known now; empty, where nothing is."""
    status = "" if newest is None else str(newest["status"])
    if deed.name == "release":
        if status == "contraindicated":
            return (
                "What its newest attestation showed must not be trusted, and nothing newer is known. If that has not "
                "changed, its next attestation will quarantine it again."
            )
        if status == "affirming":
            return "Its newest attestation was good."
        return "No reference values affirmed its newest attestation, and none contradicted it."
    if deed.name == "label" and device["state"] == "quarantined":
        return "It is quarantined, and stays so: it gets no certificate until it is released."
    if deed.name == "quarantine" and status == "affirming":
        return "Its newest attestation was good. Nobody but an operator will release it."
    if deed.name == "demand" and device["state"] == "quarantined":
        return "A good result does not release it by itself, unless your settings say so."
    return ""
