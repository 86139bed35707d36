"""Chains of receipts, followed from their beginning (docs/protocol.md, "Receipts").

    chain, _, at = begin_chain(first, authorities=…)
    receipt, at = follow_chain(chain, at, second)

Who follows a chain knows after each step that everything up to there is whole. Where it ends, a chain does not say: who
has heard of a later receipt knows that one is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.credentials.certificates import ParsedCertificate
from attestd.credentials.delegation import standard_base64
from attestd.credentials.jwk import jwk_thumbprint
from attestd.credentials.jws import MAX_HEADER, UnverifiedJws
from attestd.credentials.receipts import MAX_RECEIPT, NOTHING, RECEIPT_TYP, Receipt, digest_of
from attestd.credentials.x509 import MAX_CHAIN, Authorities, verify_chain
from attestd.errors import Conflict, Unauthenticated
from attestd.ids import SpiffeId
from attestd.protocol.encoding import b64encode


class NotAnEdge(Unauthenticated):
    """This chain of receipts was not begun by an edge"""

    remedy = "Only an edge proxy's own key begins a chain."


class KeyOfAnotherChain(Unauthenticated):
    """This receipt is signed with another key than its chain's"""

    remedy = "An edge with a new key begins a new chain."


class ReceiptOfAnotherChain(Conflict):
    """This receipt belongs to another chain"""


class ReceiptMissing(Conflict):
    """A receipt is missing"""

    remedy = "Give the receipts of a chain whole and in their order."


class ReceiptRepeated(Conflict):
    """This receipt's place in the chain is taken"""

    remedy = "Give the receipts of a chain once each and in their order."


class ChainBroken(Conflict):
    """This receipt does not follow the one before it"""

    remedy = "The chain was changed, or goes on otherwise elsewhere: compare both with the service's audit trail."


class TimeRanBackwards(Conflict):
    """This receipt is older than the one before it"""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a chain stands: the number, the digest and the time of its last receipt."""

    seq: int
    digest: bytes
    time: int


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain that an edge of this trust domain began; made by `begin_chain`, or kept from then."""

    id: str
    edge: SpiffeId
    key: ec.EllipticCurvePublicKey = field(repr=False)

    @property
    def kid(self) -> str:
        return jwk_thumbprint(self.key)

    @property
    def site_and_name(self) -> tuple[str, str]:
        """The edge's."""
        return self.edge.path[1], self.edge.path[2]


def begin_chain(jws: str, *, authorities: Authorities) -> tuple[VerifiedChain, Receipt, Position]:
    """The chain that this receipt begins, proven to be an edge's.

    The certificate is judged at the time that the receipt states, so that old chains stay evidence; whether the edge
    may still speak, who takes a delivery asks elsewhere. Raises MalformedInput, InputTooLarge, Unauthenticated.
    """
    # 1. It brings certificates; what it says is believed only once they and the signature are proven.
    signed = UnverifiedJws.read(jws, typ=RECEIPT_TYP, limit=MAX_RECEIPT, name="receipt")
    header = signed.unverified_header
    chain = tuple(standard_base64(text) for text in header.texts("x5c", most=MAX_CHAIN, limit=MAX_HEADER))
    kid = header.text("kid", limit=64)
    if not chain:
        raise NotAnEdge("The chain's first receipt has no certificate.")
    key = ParsedCertificate.parse(chain[0]).key
    receipt = Receipt.parse(signed.verified_by(key))
    # 2. They are an edge's, and were good then.
    verified = verify_chain(chain, authorities=authorities, now=datetime.fromtimestamp(receipt.time, UTC))
    path = verified.spiffe_id.path
    if len(path) != 3 or path[0] != "proxy":
        raise NotAnEdge(seen=verified.spiffe_id, expected="/proxy/<site>/<name>")
    if kid != jwk_thumbprint(key):
        raise KeyOfAnotherChain(seen=repr(kid), expected=jwk_thumbprint(key))
    # 3. It is a first one.
    if receipt.seq != 0 or receipt.prev != NOTHING:
        raise ReceiptMissing("This is not the first receipt of a chain.", seen=receipt.seq, expected="0")
    return VerifiedChain(receipt.chain, verified.spiffe_id, key), receipt, Position(0, digest_of(jws), receipt.time)


def read_receipt(chain: VerifiedChain, jws: str) -> Receipt:
    """A receipt of this chain, proven genuine; its place is not looked at.

    Raises MalformedInput, InputTooLarge, Unauthenticated, ReceiptOfAnotherChain.
    """
    signed = UnverifiedJws.read(jws, typ=RECEIPT_TYP, limit=MAX_RECEIPT, name="receipt")
    if (kid := signed.unverified_header.text("kid", limit=64)) != chain.kid:
        raise KeyOfAnotherChain(seen=repr(kid), expected=chain.kid)
    if "x5c" in signed.unverified_header:
        raise ReceiptRepeated("The chain begins twice.")
    receipt = Receipt.parse(signed.verified_by(chain.key))
    if receipt.chain != chain.id:
        raise ReceiptOfAnotherChain(seen=receipt.chain, expected=chain.id)
    return receipt


def follow_chain(chain: VerifiedChain, at: Position, jws: str, *, over_gaps: bool = False) -> tuple[Receipt, Position]:
    """The next receipt of a chain that stands at `at`. With `over_gaps` there may be some missing before it; the caller
    sees that by its number.

    Raises what `read_receipt` raises, ReceiptMissing, ReceiptRepeated, ChainBroken, TimeRanBackwards.
    """
    receipt = read_receipt(chain, jws)
    # 1. Its number is the next one.
    if receipt.seq <= at.seq:
        raise ReceiptRepeated(seen=f"receipt {receipt.seq}", expected=f"receipt {at.seq + 1}")
    if receipt.seq > at.seq + 1 and not over_gaps:
        raise ReceiptMissing(seen=f"receipt {receipt.seq}", expected=f"receipt {at.seq + 1}")
    # 2. It follows that very one.
    if receipt.seq == at.seq + 1 and receipt.prev != at.digest:
        raise ChainBroken(
            f"Receipt {receipt.seq} does not follow the receipt {at.seq} that is here.",
            seen=b64encode(receipt.prev),
            expected=b64encode(at.digest),
        )
    # 3. Time went on.
    if receipt.time < at.time:
        raise TimeRanBackwards(seen=f"receipt {receipt.seq} of {receipt.time}", expected=f"at least {at.time}")
    return receipt, Position(receipt.seq, digest_of(jws), receipt.time)
