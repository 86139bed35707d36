"""What a site collected, judged as it crosses: by what is known of its sender now, not when it was sent.

A message's subject says whose it is, because nats-server let nobody else write there. Nothing else about it is
believed: not its headers, not its content.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from hashlib import sha256

from attestd.credentials.bundle import Bundle
from attestd.credentials.identity import StatusUnknown, VerifiedIdentity
from attestd.credentials.receipts import Crossed
from attestd.errors import AttestdError, Forbidden, MalformedInput, Unavailable
from attestd.ids import DeviceId
from attestd.policy import Decision
from attestd_edge.decide import CrossingDenied
from attestd_edge.nats.ledger import Ledger, LedgerUnusable
from attestd_edge.nats.login import PUBLISH, decide_subject
from attestd_edge.nats.settings import Carriage
from attestd_edge.nats.subjects import read_name
from attestd_edge.receipts import crossings
from attestd_edge.settings import Guarded
from attestd_edge.views import BoundaryStale, View, check_fresh


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
    """A message's fate, the subject under which it goes on (its own while it waits), and why; who sent it and what
    policy said, as far as that was asked."""

    fate: Fate
    subject: str
    why: str
    device: str
    asked: str = ""  # the subject that policy was asked about
    identity: VerifiedIdentity | None = None
    decision: Decision | None = None

    def receipt(self, guarded: Guarded, bundle: Bundle, *, message_id: str, content: bytes) -> Crossed:
        """What a receipt says of this message, which is not to wait any longer. `message_id` is the same for a message
        that is carried again."""
        boundary = guarded.boundary
        if self.identity is None or self.decision is None:
            said = crossings.unjudged(boundary, None, request_id=message_id, problem=self.why)
        else:
            said = crossings.decided(
                boundary, self.identity, self.decision, bundle, request_id=message_id, problem=self.why
            )
        path = "/" + self.asked.replace(".", "/")
        return replace(said, method=PUBLISH, path=path, labels=guarded.labels, digest=sha256(content).digest())


def judge_message(ledger: Ledger, carriage: Carriage, view: View, subject: str, now: datetime) -> Judged:
    """Never raises: what can't be judged waits, and what can't be known is withheld."""
    identity: VerifiedIdentity | None = None
    decision: Decision | None = None
    named = carriage.source.names_in(subject)
    if named is None:
        return Judged(Fate.LATER, subject, "subject-unknown", "")
    names, rest = named
    device = names["{device}"]
    target = carriage.target.moved(names, rest)
    try:
        check_fresh(view.bundle, now)
        known = ledger.known(DeviceId(read_name(device)))
        if known is None:
            raise SenderUnknown
        identity = known.stands(view)
        if carriage.source.filled_for(identity).removesuffix(">") + rest != subject:
            raise SenderUnknown("The message's subject is not its sender's.")
        decision = decide_subject(view, carriage.guarded, identity, PUBLISH, target, now=now)
        if not decision.allowed and view.standing(carriage.guarded.staleness, now) is not None:
            raise BoundaryStale  # no word about the message: it waits until something is heard
        if not decision.allowed:
            raise CrossingDenied("; ".join(decision.reasons))
    except (Unavailable, StatusUnknown, LedgerUnusable) as error:
        return Judged(Fate.LATER, subject, type(error).slug(), device)
    except (AttestdError, MalformedInput) as error:
        withheld = carriage.withheld.moved(names, rest)
        return Judged(Fate.WITHHELD, withheld, type(error).slug(), device, target, identity, decision)
    return Judged(Fate.CARRIED, target, "", device, target, identity, decision)
