"""What an attestation holds: a quote by the service's newest words, and of the logs what the service does not know.

The quote comes first. IMA's list only grows, and is read afterwards: read before, it could lack an entry that is in the
quoted PCR 10 already.

A refusal may say that the service knows less than it said (another boot, another policy), or wants other PCRs by now:
then everything is sent once more at once, whole or by the new words. Each of the two is done once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from attestd.protocol.demanded import EVENT_LOG, IMA, Demanded
from attestd.protocol.derivations import device_quote_data
from attestd.protocol.evidence import MAX_LOG, Lately, QuoteEvidence
from attestd.protocol.messages import MAX_BODY, AttestationRequest
from attestd.tpm.imalist import MalformedImaList, position_of
from attestd_agent.bootlogs import BootLogs, warn_too_large
from attestd_agent.records import Enrolled
from attestd_agent.server import ServerRefused

if TYPE_CHECKING:
    from attestd_agent.device import Device

_log = logging.getLogger(__name__)
_NOTHING: Final = Lately()
# The service can't go on from what it knows: these ask for all of it.
_SEND_WHOLE: Final = frozenset(
    {"another-boot", "another-policy", "another-list-form", "bank-not-replayed", "entries-missing"}
    | {"event-log-unknown", "evidence-incomplete"}
)
_OTHER_PCRS: Final = "pcr-selection-mismatch"
# Octets of logs that a message has room for, in base64url, beside the quote.
_MAX_LOGS: Final = (MAX_BODY - 64 * 1024) // 4 * 3


def read_logs(logs: BootLogs, wants: Iterable[str], known: Lately = _NOTHING) -> dict[str, Any]:
    """The wanted logs as QuoteEvidence takes them, without what is `known`. To be called after the quote.

    What can't be read or is too large is left out, with a warning: the service decides without it.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(wants):
        data = logs.read(name)
        if data is None:
            continue
        members = _eventlog(data, known) if name == EVENT_LOG else _ima(data, known)
        room = min(MAX_LOG, _MAX_LOGS - len(found.get("eventlog", b"")) - len(found.get("ima", b"")))
        if (size := len(members.get(name, b""))) > room:
            warn_too_large(name, size, room)
        else:
            found |= members
    return found


def _eventlog(data: bytes, known: Lately) -> dict[str, Any]:
    digest = sha256(data).digest()
    return {"eventlog_sha256": digest} if digest == known.eventlog else {EVENT_LOG: data}


def _ima(data: bytes, known: Lately) -> dict[str, Any]:
    """From the first entry on that is not known. With fewer entries it is another boot's list."""
    try:
        at = position_of(data, known.ima)
    except MalformedImaList as broken:
        _log.warning("the IMA list can't be read", extra={"why": str(broken)})
        at = None  # the service names what is wrong with it
    return {IMA: data} if not at else {IMA: data[at:], "ima_from": known.ima}


@dataclass
class Statement:
    """One attestation of one device, made anew for each nonce that it is tried with."""

    device: Device
    known: Enrolled
    logs: BootLogs
    demanded: Callable[[], Demanded | None]  # what the service said last; None: it never does
    lately: Lately  # what the service knows
    _cured: set[str] = field(default_factory=set)

    def build(self, nonce: bytes) -> bytes:
        """The payload. Raises EvidenceHeaderMalformed."""
        known, demanded = self.known, self.demanded()
        if demanded is None:  # an older service; what it said at the enrollment counts
            demanded = Demanded(known.record.selection, known.record.wants)
        data = device_quote_data(
            nonce=nonce, device_id=known.record.device_id, ak_name=known.ak.name, ck_name=known.ck.name
        )
        quoted = self.device.quote(known.ak, data, demanded.pcrs)
        logs = read_logs(self.logs, demanded.logs, self.lately)
        return AttestationRequest(QuoteEvidence(quoted.attest, quoted.signature, quoted.pcrs, **logs)).to_bytes()

    def can_mend(self, refused: ServerRefused) -> bool:
        """Whether it is to be sent once more at once, in another form, which is set up here."""
        problem = refused.problem
        if problem in _SEND_WHOLE:
            cure, self.lately = "whole", _NOTHING
        elif problem == _OTHER_PCRS and self.demanded() is not None:
            cure = "selection"
        else:
            return False
        if cure in self._cured:
            return False
        self._cured.add(cure)
        _log.info("attesting once more", extra={"problem": problem, "cure": cure})
        return True
