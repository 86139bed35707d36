"""What an attestation should hold now: told by a header of every answer that carries a nonce, so before each quote.

    Attestd-Evidence: sha256:0,1,2,3,4,5,6,7,10+sha1:10 eventlog ima

The PCR selection is in the words of tpm2-tools (banks joined by `+`), or `-` for none; then the logs that are wanted.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

from attestd.errors import MalformedInput
from attestd.protocol.evidence import BANKS, PcrSelection

HEADER: Final = "Attestd-Evidence"
EVENT_LOG: Final = "eventlog"
IMA: Final = "ima"
MAX_HEADER: Final = 600  # characters: four banks of 24 PCRs, and logs
_BANK: Final = re.compile(r"([a-z0-9]{4,8}):(\d{1,2}(?:,\d{1,2}){0,23})", re.ASCII)
_LOG: Final = re.compile(r"[a-z0-9]{1,20}", re.ASCII)


class EvidenceHeaderMalformed(MalformedInput):
    """What the service wants of an attestation can't be read"""

    remedy = "Update the agent, or ask the service's operator which versions it speaks."


class Demanded(NamedTuple):
    """`logs` are names, of which an agent may not know all."""

    pcrs: PcrSelection
    logs: tuple[str, ...] = ()

    def to_header(self) -> str:
        banks = [f"{bank}:{','.join(map(str, indices))}" for bank, indices in self.pcrs.items() if indices]
        return " ".join(("+".join(banks) or "-", *self.logs))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises EvidenceHeaderMalformed."""
        selection, *logs = text.split(" ") if len(text) <= MAX_HEADER else [""]
        pcrs: dict[str, tuple[int, ...]] = {}
        for part in selection.split("+") if selection != "-" else ():
            found = _BANK.fullmatch(part)
            indices = tuple(map(int, found[2].split(","))) if found else ()
            if found is None or found[1] not in BANKS or found[1] in pcrs or sorted(set(indices)) != list(indices):
                raise EvidenceHeaderMalformed(seen=repr(part[:80]), expected="sha256:0,1,2")
            if indices[-1] > 23:
                raise EvidenceHeaderMalformed(seen=indices[-1], expected="PCRs 0 to 23")
            pcrs[found[1]] = indices
        if len(logs) > 8 or not all(map(_LOG.fullmatch, logs)):
            raise EvidenceHeaderMalformed(seen=repr(text[:80]), expected="names of logs after the PCRs")
        return cls(pcrs, tuple(logs))
