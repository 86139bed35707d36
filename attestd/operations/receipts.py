"""Edges' receipts are taken: verified, found to go on from what is here, stored, and anchored in the audit trail.

Steps of `take` (docs/protocol.md, "Receipts"):
1. the chain is the caller's own, begun by a certificate of this service for this edge;
2. what is here already is the same, octet by octet, and is passed over;
3. each further receipt is signed by the chain's key, is the next one, and follows the one before it;
4. they are stored with an audit row that names the last one's digest: once that row is sealed, nobody can drop, change
   or put in a receipt before it, the owner of this database included.

A refusal leaves an audit row, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.hierarchy import Hierarchy
from attestd.credentials.receipt_chains import Position, ReceiptMissing, VerifiedChain, begin_chain, follow_chain
from attestd.credentials.receipts import (
    CHAIN_ID,
    MAX_RECEIPT,
    Beginning,
    Crossed,
    Receipt,
    ReceiptMalformed,
    digest_of,
    read_unverified,
)
from attestd.credentials.x509 import Authorities
from attestd.errors import AttestdError, Conflict, Forbidden, InputTooLarge, MalformedInput, Unauthenticated
from attestd.ids import Site, SpiffeId, TrustDomain
from attestd.operations.act import Act
from attestd.protocol.encoding import Members, b64encode
from attestd.registry import receipts
from attestd.registry.engine import Registry
from attestd.registry.receipts import StoredChain, StoredReceipt

MAX_RECEIPTS: Final = 1000  # in one delivery
_AHEAD: Final = timedelta(minutes=5)  # by which an edge's clock may be ahead of ours


class ChainOfAnotherEdge(Forbidden):
    """This chain of receipts is another edge's"""

    remedy = "An edge delivers what it wrote itself; give each edge a state folder and a key of its own."


class ChainForked(Conflict):
    """This chain of receipts goes on otherwise here"""

    remedy = (
        "The edge's disk was restored or copied, or somebody signs with its key: compare both with the audit trail."
    )


class ChainRefused(Conflict):
    """This chain of receipts is not whole, or not an edge's"""

    remedy = "The edge begins another chain; look at what is left of this one in its state folder."


class ReceiptsAheadOfTime(Conflict):
    """These receipts are from the future"""

    remedy = "Correct the edge's clock, or the service's; the edge keeps them until then."


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message of an edge, unverified."""

    chain: str
    lines: tuple[str, ...]
    lost: bool  # the edge says that it has no more than this

    @classmethod
    def read(cls, message: Members) -> Delivered:
        """Raises MalformedInput or InputTooLarge."""
        chain = message.text("chain", limit=32)
        if not CHAIN_ID.fullmatch(chain):
            raise ReceiptMalformed("This is not a chain's name.", seen=repr(chain))
        lines = message.texts("receipts", most=MAX_RECEIPTS, limit=MAX_RECEIPT)
        lost = message.boolean("lost") if "lost" in message else False
        message.done()
        return cls(chain, lines, lost)


@dataclass(slots=True)
class _Growing:
    """A chain while a delivery is read."""

    known: VerifiedChain
    at: Position
    taken: list[tuple[Receipt, str]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ReceiptBook:
    """Takes deliveries. One object serves any number of requests in any process."""

    trust_domain: TrustDomain
    registry: Registry
    hierarchy: Hierarchy

    def take(self, delivered: Delivered, *, edge: str, site: Site, act: Act) -> int:
        """The number of the receipt that is wanted next. An empty delivery asks for it.

        Raises ChainOfAnotherEdge, ChainForked, ChainRefused, ReceiptMissing, ReceiptsAheadOfTime, DeliveredElsewhere.
        """
        with self.registry.reading() as c:
            stored = receipts.chain(c, delivered.chain)
        with self._refusing(delivered, act):
            if stored is not None and (stored.edge, stored.site) != (edge, site):
                raise ChainOfAnotherEdge(seen=delivered.chain)
            if not delivered.lines:
                return 0 if stored is None else stored.next
            growing = self._read(delivered, stored, SpiffeId.of_proxy(self.trust_domain, site, edge))
        if not growing.taken and stored is not None:
            return stored.next
        if growing.at.time > (act.now + _AHEAD).timestamp():
            raise ReceiptsAheadOfTime(seen=growing.at.time, expected=f"at most {int((act.now + _AHEAD).timestamp())}")
        return self._store(growing, stored, edge=edge, site=site, act=act)

    def _read(self, delivered: Delivered, stored: StoredChain | None, caller: SpiffeId) -> _Growing:
        lines: Sequence[str] = delivered.lines
        # 1. Whose?
        if stored is None:
            with _named(0):
                if (first := read_unverified(lines[0])).seq != 0:
                    raise ReceiptMissing(seen=f"receipt {first.seq}", expected="receipt 0")
                known, beginning, at = begin_chain(lines[0], authorities=self._authorities())
            if known.edge != caller:
                raise ChainOfAnotherEdge(seen=known.edge, expected=caller)
            if known.id != delivered.chain:
                raise ChainRefused(seen=known.id, expected=delivered.chain)
            growing = _Growing(known, at, [(beginning, lines[0])])
            lines = lines[1:]
        else:
            growing = _Growing(
                VerifiedChain(stored.chain, caller, _key(stored.public_key)),
                Position(stored.next - 1, stored.digest, stored.last_at),
            )
            # 2. What is here already.
            lines = self._further(lines, stored)
        # 3. What follows.
        for jws in lines:
            with _named(growing.at.seq + 1):
                receipt, at = follow_chain(growing.known, growing.at, jws, over_gaps=delivered.lost)
            if receipt.seq > growing.at.seq + 1:
                growing.lost.append((growing.at.seq + 1, receipt.seq - 1))
            growing.at = at
            growing.taken.append((receipt, jws))
        return growing

    def _further(self, lines: Sequence[str], stored: StoredChain) -> Sequence[str]:
        """The lines after those that are here. Raises ChainForked if one of those is another. What was forgotten since
        can't be compared; nothing is changed by it."""
        known: list[tuple[int, str]] = []
        for place, jws in enumerate(lines):
            with _named(place):
                seq = read_unverified(jws).seq
            if seq >= stored.next:
                lines = lines[place:]
                break
            known.append((seq, jws))
        else:
            lines = ()
        if known:
            with self.registry.reading() as c:
                here = {**receipts.texts(c, stored.chain, min(known)[0], max(known)[0]), 0: stored.beginning}
            for seq, jws in known:
                last = seq == stored.next - 1  # of which the digest is never forgotten
                if (digest_of(jws) != stored.digest) if last else (here.get(seq, jws) != jws):
                    raise ChainForked(f"Receipt {seq} of {stored.chain} is another one here.")
        return lines

    def _store(self, growing: _Growing, stored: StoredChain | None, *, edge: str, site: Site, act: Act) -> int:
        at = growing.at
        first = growing.taken[0][0]
        lost = () if stored is None else tuple(stored.lost)
        if stored is None:
            assert isinstance(first.said, Beginning)  # noqa: S101 - `Receipt.parse` saw to it
            base = StoredChain(
                chain=growing.known.id,
                edge=edge,
                site=site,
                public_key=_spki(growing.known.key),
                beginning=growing.taken[0][1],
                why=first.said.why,
                began_at=first.time,
                next=0,
                digest=b"",
                last_at=0,
                heard_at=0,
            )
        else:
            base = stored
        grown = replace(
            base, next=at.seq + 1, digest=at.digest, last_at=at.time, heard_at=act.at, lost=(*lost, *growing.lost)
        )
        detail = {
            "edge": edge,
            "first": first.seq,
            "last": at.seq,
            "count": len(growing.taken),
            "digest": b64encode(at.digest),
        }
        if growing.lost:
            detail["lost"] = [list(stretch) for stretch in growing.lost]
        with self.registry.acting() as c:
            if stored is None:
                receipts.begin(c, grown)
            else:
                receipts.advance(c, stored, grown)
            receipts.add_all(c, [_row(receipt, jws, edge, act.at) for receipt, jws in growing.taken])
            act.note(c, "receive-receipts", growing.known.id, **detail)
        return grown.next

    @contextmanager
    def _refusing(self, delivered: Delivered, act: Act) -> Iterator[None]:
        """What is refused is written down, by its name."""
        try:
            yield
        except AttestdError as error:
            with self.registry.acting() as c:
                act.note(c, "refuse-receipts", delivered.chain, problem=error.slug(), detail=str(error)[:500])
            raise

    def _authorities(self) -> Authorities:
        keys = self.hierarchy.keys
        issuers = (*(issuer.certificate for issuer in keys.issuers), *keys.crosses)
        return Authorities.load(map(_der, keys.roots), map(_der, issuers), trust_domain=self.trust_domain)


@contextmanager
def _named(seq: int) -> Iterator[None]:
    """What is wrong with a receipt, as a refusal of its chain; a missing one is a matter of its own."""
    try:
        yield
    except ReceiptMissing:
        raise
    except (MalformedInput, InputTooLarge, Unauthenticated, Conflict) as error:
        raise ChainRefused(f"Receipt {seq}, {error.slug()}: {error}") from error


def _row(receipt: Receipt, jws: str, edge: str, now: int) -> StoredReceipt:
    said = receipt.said
    crossed = said if isinstance(said, Crossed) else None
    who = crossed.who if crossed is not None else None
    return StoredReceipt(
        chain=receipt.chain,
        seq=receipt.seq,
        edge=edge,
        at=receipt.time,
        boundary=None if crossed is None else crossed.where.boundary,
        device_id=None if who is None else who.path[-1],
        decision=None if crossed is None else ("allow" if crossed.allowed else "deny"),
        received_at=now,
        jws=jws,
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key(spki: bytes) -> ec.EllipticCurvePublicKey:
    key = serialization.load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - written by `_spki`
    return key
