"""What a site collected, judged as it crosses: by what is known of its sender now, not when it was sent.

A message's subject says whose it is, because nats-server let nobody else write there. Nothing else about it is
believed: not its headers, not its content.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from attestd.credentials.identity import StatusUnknown
from attestd.errors import AttestdError, Forbidden, MalformedInput, Unavailable
from attestd.ids import DeviceId
from attestd_edge.decide import CrossingDenied, View, check_fresh
from attestd_edge.nats.ledger import Ledger, LedgerUnusable
from attestd_edge.nats.login import PUBLISH, decide_subject
from attestd_edge.nats.settings import Carriage
from attestd_edge.nats.subjects import read_name


class SenderUnknown(Forbidden):
    """It is not known here who sent this message"""

    remedy = "Nothing crosses without its sender; look at the message in the withheld stream."


class Fate(Enum):
    """What becomes of a message."""

    CARRIED = "carried"
    WITHHELD = "withheld"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Judged:
    """A message's fate, the subject under which it goes on (its own while it waits), and why."""

    fate: Fate
    subject: str
    why: str
    device: str


def judge_message(ledger: Ledger, carriage: Carriage, view: View, subject: str, now: datetime) -> Judged:
    """Never raises: what can't be judged waits, and what can't be known is withheld."""
    named = carriage.source.names_in(subject)
    if named is None:
        return Judged(Fate.LATER, subject, "subject-unknown", "")
    names, rest = named
    device = names["{device}"]
    try:
        check_fresh(view.bundle, now)
        known = ledger.known(DeviceId(read_name(device)))
        if known is None:
            raise SenderUnknown
        identity = known.stands(view)
        if carriage.source.filled_for(identity).removesuffix(">") + rest != subject:
            raise SenderUnknown("The message's subject is not its sender's.")
        target = carriage.target.moved(names, rest)
        decision = decide_subject(view, carriage.guarded, identity, PUBLISH, target, now=now)
        if not decision.allowed:
            raise CrossingDenied("; ".join(decision.reasons))
    except (Unavailable, StatusUnknown, LedgerUnusable) as error:
        return Judged(Fate.LATER, subject, type(error).slug(), device)
    except (AttestdError, MalformedInput) as error:
        return Judged(Fate.WITHHELD, carriage.withheld.moved(names, rest), type(error).slug(), device)
    return Judged(Fate.CARRIED, target, "", device)
