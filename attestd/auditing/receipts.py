"""Receipts examined, whoever gives them: the service's own, a file that an auditor was given, an edge's disk.

A file is JSON Lines: first what it is, then for each chain a line that says where the chain stands, with the proof that
the audit trail says so, and after it the chain's receipts. `examine` believes nothing of it but what a pinned root
stands behind, and names every receipt that is wrong or missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from attestd.credentials.receipt_chains import (
    ChainBroken,
    Position,
    ReceiptMissing,
    ReceiptRepeated,
    TimeRanBackwards,
    VerifiedChain,
    begin_chain,
    follow_chain,
    read_receipt,
)
from attestd.credentials.receipts import CHAIN_ID, DIGEST, MAX_RECEIPT, Beginning, Receipt, digest_of
from attestd.credentials.transparency import InclusionProof
from attestd.credentials.x509 import Authorities
from attestd.errors import AttestdError, MalformedInput, Unauthenticated
from attestd.ids import TrustDomain
from attestd.protocol.encoding import Members, b64encode, read_object, write_object

KIND: Final = "attestd-receipts"
ACT: Final = "receive-receipts"
MAX_LINE: Final = 4 * MAX_RECEIPT  # octets
_MAX_LOST: Final = 1000


class NotReceipts(MalformedInput):
    """This file holds no receipts"""

    remedy = "Give the file that `attestd audit receipts export` wrote, whole."


class AnchorWrong(Unauthenticated):
    """The proof is about something else than this chain of receipts"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and with which receipt: its chain, and its number if it is one."""

    kind: str
    chain: str
    seq: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Given:
    """A chain as it is given, before its receipts. `end` is its last number and that one's digest, by whoever gives it;
    `lost` are stretches that the edge did not have any more when the service wanted them; `first` is the number from
    which on receipts must be there."""

    chain: str
    beginning: str | None
    end: tuple[int, bytes] | None = None
    lost: tuple[tuple[int, int], ...] = ()
    anchor: InclusionProof | None = None
    first: int = 0

    def to_members(self) -> dict[str, Any]:
        """As files have it."""
        said: dict[str, Any] = {
            "chain": self.chain,
            "beginning": self.beginning or "",
            "first": self.first,
            "lost": [f"{start}-{end}" for start, end in self.lost],
        }
        if self.end is not None:
            said |= {"last": self.end[0], "digest": b64encode(self.end[1])}
        if self.anchor is not None:
            said["anchor"] = self.anchor.to_members()
        return said

    @classmethod
    def read(cls, members: Members) -> Self:
        """Raises MalformedInput or InputTooLarge."""
        chain = members.text("chain", limit=32)
        if not CHAIN_ID.fullmatch(chain):
            raise NotReceipts("This is not a chain's name.", seen=repr(chain))
        end = None
        if "last" in members:
            end = members.integer("last"), members.octets("digest", limit=DIGEST, least=DIGEST)
        anchor = None
        if "anchor" in members:
            anchor = InclusionProof.parse(write_object(dict(members.object("anchor").items())))
        found = cls(
            chain,
            members.text("beginning", limit=MAX_RECEIPT) or None,
            end,
            tuple(_stretch(text) for text in members.texts("lost", most=_MAX_LOST, limit=64)),
            anchor,
            members.integer("first"),
        )
        members.done()
        return found


@dataclass(slots=True)
class Examined:
    """What became of one chain."""

    chain: str
    edge: str = ""
    why: str = ""
    first: int | None = None
    last: int | None = None
    count: int = 0
    refusals: int = 0
    omitted: int = 0
    anchored: bool = False
    end: Position | None = None
    after: tuple[str, int, bytes] | None = None
    findings: list[Finding] = field(default_factory=list)

    def find(self, kind: str, seq: int | None, text: str) -> None:
        where = "" if seq is None else f", receipt {seq}"
        self.findings.append(Finding(kind, self.chain, seq, f"Chain {self.chain}{where}: {text}"))


@dataclass(frozen=True, slots=True)
class Pinned:
    """What an auditor trusts: root certificates (DER), for one trust domain."""

    roots: Sequence[bytes]
    trust_domain: TrustDomain

    def authorities(self) -> Authorities:
        return Authorities.load(self.roots, trust_domain=self.trust_domain)


# ---- One chain --------------------------------------------------------------------------------------------------


def examine(given: Given, lines: Iterable[str], pinned: Pinned) -> Examined:
    """Follows one chain from its beginning to its end, and on behind whatever is wrong. No receipt makes it raise."""
    seen = Examined(given.chain)
    rest = iter(lines)
    beginning = given.beginning or next(rest, None)
    if beginning is None:
        seen.find("empty", None, "there is nothing")
        return seen
    # 1. It began at an edge.
    try:
        known, receipt, at = begin_chain(beginning, authorities=pinned.authorities())
    except AttestdError as error:
        seen.find("beginning", 0, f"its beginning proves nothing: {error}")
        return seen
    if known.id != given.chain:
        seen.find("beginning", 0, f"its beginning is that of {known.id}")
        return seen
    assert isinstance(receipt.said, Beginning)  # noqa: S101 - the first one is
    seen.edge, seen.why, seen.after = str(known.edge), receipt.said.why, receipt.said.after
    # 2. The audit trail's word about its end, where there is one.
    end = _anchored(given, pinned, seen) or given.end
    # 3. Each receipt follows the one before it.
    walk = _Walk(given, known, end, at, seen)
    if given.first == 0:
        walk.count(at)
    for jws in rest:
        if jws != beginning or seen.count > 1:
            walk.step(jws)
    seen.end = walk.at
    # 4. It ends where it is known to.
    if end is not None and walk.at.seq < end[0]:
        seen.find("cut", walk.at.seq + 1, f"receipts {walk.at.seq + 1} to {end[0]} are missing at its end")
    return seen


def _anchored(given: Given, pinned: Pinned, seen: Examined) -> tuple[int, bytes] | None:
    """The last number and digest that the audit trail proves."""
    if given.anchor is None:
        return None
    refusal: AttestdError | None = None
    for root in pinned.roots:
        try:
            given.anchor.verify(root, now=None)
            end = _end_in(given.anchor, given.chain)
        except AttestdError as error:
            refusal = error
            continue
        seen.anchored = True
        return end
    seen.find("anchor", None, f"the audit trail's proof of it does not hold: {refusal}")
    return None


def _end_in(anchor: InclusionProof, chain: str) -> tuple[int, bytes]:
    """What the proven row says. Raises AnchorWrong or MalformedInput."""
    entry = anchor.entry
    detail = entry.get("detail")
    if entry.get("act") != ACT or entry.get("subject") != chain or not isinstance(detail, dict):
        raise AnchorWrong(seen=f"{entry.get('act')} {entry.get('subject')}", expected=f"{ACT} {chain}")
    members = Members(detail, "detail")
    return members.integer("last"), members.octets("digest", limit=DIGEST, least=DIGEST)


@dataclass(slots=True)
class _Walk:
    """One chain, receipt by receipt. `unreadable`: lines since the last good one, whose places nobody knows."""

    given: Given
    known: VerifiedChain
    end: tuple[int, bytes] | None
    at: Position
    seen: Examined
    unreadable: int = 0

    def step(self, jws: str) -> None:
        try:
            receipt, at = self._next(jws)
        except ReceiptRepeated as error:
            self.seen.find("repeated", None, f"a receipt is out of its place, or there twice: {error}")
            return
        except AttestdError as error:
            self.unreadable += 1
            text = f"it is not what the edge signed: {type(error).title()}; {error}"
            self.seen.find("forged", max(self.at.seq + 1, self.given.first) + self.unreadable - 1, text)
            return
        self.unreadable, self.at = 0, at
        self.count(at)
        self.seen.omitted += receipt.omitted
        self.seen.refusals += 0 if isinstance(receipt.said, Beginning) or receipt.said.allowed else 1

    def count(self, at: Position) -> None:
        """One that is there."""
        seen = self.seen
        seen.first = at.seq if seen.first is None else seen.first
        seen.last = at.seq
        seen.count += 1
        if self.end is not None and at.seq == self.end[0] and at.digest != self.end[1]:
            word = "the audit trail" if seen.anchored else "who gave it"
            seen.find("forked", at.seq, f"{word} knows another receipt in this place")

    def _next(self, jws: str) -> tuple[Receipt, Position]:
        """The next receipt; what is wrong with its place is found, and it is gone on from there.

        Raises ReceiptRepeated, and what `read_receipt` raises.
        """
        at = self.at
        try:
            return follow_chain(self.known, at, jws)
        except ReceiptMissing:
            receipt = read_receipt(self.known, jws)
            start = max(at.seq + 1, self.given.first)
            if receipt.seq > start and receipt.seq - start != self.unreadable:
                self._find_missing(start, receipt.seq - 1)
            if receipt.time < at.time:
                self.seen.find("time", receipt.seq, f"it is of {receipt.time}, and one before it of {at.time}")
        except (ChainBroken, TimeRanBackwards) as error:
            receipt = read_receipt(self.known, jws)
            self.seen.find("broken" if isinstance(error, ChainBroken) else "time", receipt.seq, str(error))
        return receipt, Position(receipt.seq, digest_of(jws), max(receipt.time, at.time))

    def _find_missing(self, start: int, end: int) -> None:
        named = f"receipt {start} is missing" if start == end else f"receipts {start} to {end} are missing"
        if any(first <= start and end <= last for first, last in self.given.lost):
            self.seen.find("lost", start, f"{named}; the edge said so when the service wanted them again")
        else:
            self.seen.find("missing", start, named)


# ---- Several chains ---------------------------------------------------------------------------------------------


def link(chains: Sequence[Examined]) -> list[Finding]:
    """Where a chain says that it goes on from another one: that one is there, and ends so."""
    by_name = {one.chain: one for one in chains}
    findings = []
    for one in chains:
        if one.after is None:
            continue
        name, seq, digest = one.after
        before = by_name.get(name)
        if before is None:
            text = f"Chain {one.chain} goes on from receipt {seq} of {name}, which is not here."
            findings.append(Finding("unlinked", one.chain, None, text))
        elif before.end is not None and before.end.seq < seq:
            text = f"Chain {name}: {one.chain} goes on from its receipt {seq}; here it ends with {before.end.seq}."
            findings.append(Finding("cut", name, before.end.seq + 1, text))
        elif before.end is not None and before.end.seq == seq and before.end.digest != digest:
            text = f"Chain {name}, receipt {seq}: {one.chain} goes on from another receipt in this place."
            findings.append(Finding("forked", name, seq, text))
    return findings


# ---- Files ------------------------------------------------------------------------------------------------------


def header(trust_domain: TrustDomain) -> bytes:
    """A file's first line."""
    return write_object({"v": 1, "kind": KIND, "trust_domain": str(trust_domain)}) + b"\n"


def write_chain(given: Given, receipts: Iterable[str]) -> Iterator[bytes]:
    """A chain's lines."""
    yield write_object({"v": 1, "begin": given.to_members()}) + b"\n"
    for jws in receipts:
        yield jws.encode("ascii") + b"\n"


def read_file(lines: Iterable[bytes]) -> tuple[TrustDomain, Iterator[tuple[Given, list[str]]]]:
    """Whose receipts these are, by their own word, and the chains with their receipts.

    Raises NotReceipts, MalformedInput or InputTooLarge, also while the chains are read.
    """
    lines = iter(lines)
    first = Members(read_object(next(lines, b""), limit=MAX_LINE, name="first line"), "first line")
    first.version()
    if (kind := first.text("kind", limit=64)) != KIND:
        raise NotReceipts(seen=repr(kind), expected=KIND)
    trust_domain = TrustDomain(first.text("trust_domain", limit=255))
    first.done()
    return trust_domain, _chains(lines)


def _chains(lines: Iterator[bytes]) -> Iterator[tuple[Given, list[str]]]:
    given: Given | None = None
    receipts: list[str] = []
    for line in lines:
        if line.startswith(b"{"):
            if given is not None:
                yield given, receipts
            members = Members(read_object(line.rstrip(b"\n"), limit=MAX_LINE, name="line"), "line")
            members.version()
            given, receipts = Given.read(members.object("begin")), []
            members.done()
        elif given is None:
            raise NotReceipts("A receipt comes before its chain.")
        else:
            receipts.append(line.decode("ascii", "replace").rstrip("\n"))
    if given is not None:
        yield given, receipts


def _stretch(text: str) -> tuple[int, int]:
    start, _, end = text.partition("-")
    if not (start.isascii() and start.isdigit() and end.isascii() and end.isdigit() and len(text) < 40):
        raise NotReceipts("This is no stretch of numbers.", seen=repr(text))
    return int(start), int(end)
