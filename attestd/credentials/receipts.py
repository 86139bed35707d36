"""Receipts: what an edge let cross a boundary, signed by its own key and chained (docs/protocol.md, "Receipts").

A receipt is a compact JWS, header `{alg, kid, typ}`. Its payload names the chain, its place in it, and in `prev` the
SHA-256 of the receipt before it, signature included: so none can be taken out, put in, moved or changed without all
that follow being signed again. The first of a chain says why it began and brings the edge's certificate (`x5c`).

Here is what a receipt says; `receipt_chains` follows chains.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from attestd.credentials.jws import UnverifiedJws, sign_jws
from attestd.errors import MalformedInput
from attestd.ids import Site, SpiffeId, Tier
from attestd.protocol.encoding import MalformedJson, Members, b64decode, b64encode, read_object, write_object
from attestd.protocol.signed import Sign

RECEIPT_TYP: Final = "attestd-receipt+jws"
MAX_RECEIPT: Final = 256 * 1024  # characters
DIGEST: Final = 32  # octets
NOTHING: Final = bytes(DIGEST)  # what the first of a chain follows
_MAX_SEQ: Final = 1 << 53
_MAX_TIME: Final = 1 << 40
_MAX_POLICIES: Final = 1000
_MAX_LABELS: Final = 64
# How an edge keeps chains in its state folder: `receipts/<chain>/`, with a file for each stretch, named by its first
# number, a receipt a line; and beside them the chain's first one, which stays.
SPOOL_FOLDER: Final = "receipts"
BEGINNING_FILE: Final = "beginning.jws"
SEGMENT_FILE: Final = re.compile(r"([0-9]{16})\.jws", re.ASCII)
CHAIN_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_WORD: Final = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)

# Why a chain began: the edge had none, its key is another, its clock went back, the end of the chain before could not
# be read, or the service knows that chain to go on otherwise (the edge's disk was restored).
Why = Literal["start", "new-key", "clock", "damaged", "restored"]
WHYS: Final[tuple[Why, ...]] = ("start", "new-key", "clock", "damaged", "restored")


class ReceiptMalformed(MalformedInput):
    """This is not a receipt"""

    remedy = "Give it as the edge wrote it, one receipt a line."


@dataclass(frozen=True, slots=True)
class Where:
    """A boundary by its names."""

    boundary: str
    from_tier: Tier
    from_site: Site | None
    to_tier: Tier
    to_site: Site

    def to_members(self) -> dict[str, Any]:
        start = {"tier": self.from_tier.value} | ({"site": str(self.from_site)} if self.from_site else {})
        return {"name": self.boundary, "from": start, "to": {"tier": self.to_tier.value, "site": str(self.to_site)}}

    @classmethod
    def read(cls, members: Members) -> Self:
        start, end = members.object("from"), members.object("to")
        found = cls(
            str(Site(members.text("name", limit=64))),
            Tier.parse(start.text("tier", limit=16)),
            Site(start.text("site", limit=64)) if "site" in start else None,
            Tier.parse(end.text("tier", limit=16)),
            Site(end.text("site", limit=64)),
        )
        for used in (start, end, members):
            used.done()
        return found


@dataclass(frozen=True)
class Crossed:
    """One crossing, and what the edge decided. Without `who` nobody proved who it was; then it was refused.

    `problem` names a refusal. `digest` is the SHA-256 of what crossed where the edge saw it, `digest_claimed` what the
    sender said it is.
    """

    where: Where
    allowed: bool
    request_id: str
    problem: str = ""
    who: SpiffeId | None = None
    credential: str = ""
    method: str = ""
    path: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    policies: tuple[str, ...] = ()
    policy_version: int | None = None
    bundle: tuple[int, int] | None = None  # epoch and version
    digest: bytes | None = None
    digest_claimed: bytes | None = None

    def to_members(self) -> dict[str, Any]:
        """What `read` reads; what there is nothing to say of is left out."""
        said: dict[str, Any] = {
            "boundary": self.where.to_members(),
            "decision": "allow" if self.allowed else "deny",
            "request_id": self.request_id,
            "problem": self.problem,
            "who": None if self.who is None else str(self.who),
            "credential": self.credential,
            "method": self.method,
            "path": self.path,
            "labels": dict(self.labels),
            "policies": list(self.policies),
            "policy_version": self.policy_version,
            "bundle": None if self.bundle is None else {"epoch": self.bundle[0], "version": self.bundle[1]},
            "digest": None if self.digest is None else b64encode(self.digest),
            "digest_claimed": None if self.digest_claimed is None else b64encode(self.digest_claimed),
        }
        return {name: value for name, value in said.items() if value not in (None, "", {}, [])}

    @classmethod
    def read(cls, members: Members) -> Self:
        verdict = members.text("decision", limit=16)
        if verdict not in ("allow", "deny"):
            raise ReceiptMalformed("This is no decision.", seen=repr(verdict), expected="allow or deny")
        bundle = members.object("bundle") if "bundle" in members else None
        found = cls(
            where=Where.read(members.object("boundary")),
            allowed=verdict == "allow",
            request_id=members.text("request_id", limit=512),
            problem=_word(members, "problem") if "problem" in members else "",
            who=SpiffeId.parse(members.text("who", limit=2048)) if "who" in members else None,
            credential=_text(members, "credential", 256),
            method=_text(members, "method", MAX_RECEIPT),
            path=_text(members, "path", MAX_RECEIPT),
            labels=_labels(members),
            policies=members.texts("policies", most=_MAX_POLICIES) if "policies" in members else (),
            policy_version=_number(members, "policy_version") if "policy_version" in members else None,
            bundle=None if bundle is None else (_number(bundle, "epoch"), _number(bundle, "version")),
            digest=_digest(members, "digest"),
            digest_claimed=_digest(members, "digest_claimed"),
        )
        if bundle is not None:
            bundle.done()
        # Whoever crosses is known, with what policy said of it: a receipt that leaves this out proves nothing.
        if found.allowed and (found.who is None or found.policy_version is None or found.problem):
            raise ReceiptMalformed("A crossing was allowed to nobody, or by no policy.")
        if not found.allowed and not found.problem:
            raise ReceiptMalformed("A refusal does not say what it is.")
        return found


@dataclass(frozen=True, slots=True)
class Beginning:
    """Why a chain began, and after which receipt of another chain, if the edge had one."""

    why: Why
    after: tuple[str, int, bytes] | None = None  # chain, number and digest of the last one there

    def to_members(self) -> dict[str, Any]:
        said: dict[str, Any] = {"why": self.why}
        if self.after is not None:
            chain, seq, digest = self.after
            said["after"] = {"chain": chain, "seq": seq, "digest": b64encode(digest)}
        return said

    @classmethod
    def read(cls, members: Members) -> Self:
        why = members.text("why", limit=16)
        if why not in WHYS:
            raise ReceiptMalformed("A chain does not begin so.", seen=repr(why), expected=", ".join(WHYS))
        after = None
        if "after" in members:
            other = members.object("after")
            after = (_chain(other), _number(other, "seq"), other.octets("digest", limit=DIGEST, least=DIGEST))
            other.done()
        members.done()
        return cls(next(known for known in WHYS if known == why), after)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says. `seq` counts from 0, `time` is the edge's, in unix seconds.

    `omitted`: refusals since the receipt before this one that got none (docs/receipts.md); never crossings.
    """

    chain: str
    seq: int
    prev: bytes
    time: int
    said: Crossed | Beginning
    omitted: int = 0

    def to_bytes(self) -> bytes:
        """The JWS payload."""
        kind = "crossing" if isinstance(self.said, Crossed) else "begin"
        members = {
            "v": 1,
            "chain": self.chain,
            "seq": self.seq,
            "prev": b64encode(self.prev),
            "time": self.time,
            kind: self.said.to_members(),
        }
        return write_object(members | ({"omitted": self.omitted} if self.omitted else {}))

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """From the JWS payload. Raises MalformedInput or InputTooLarge."""
        members = Members(read_object(payload, limit=MAX_RECEIPT, name="receipt"), "receipt")
        members.version()
        said: Crossed | Beginning
        if "begin" in members:
            said = Beginning.read(members.object("begin"))
        else:
            crossing = members.object("crossing")
            said = Crossed.read(crossing)
            crossing.done()
        parsed = cls(
            _chain(members),
            _number(members, "seq"),
            members.octets("prev", limit=DIGEST, least=DIGEST),
            _number(members, "time", most=_MAX_TIME),
            said,
            _number(members, "omitted") if "omitted" in members else 0,
        )
        members.done()
        if (parsed.seq == 0) != isinstance(said, Beginning):
            raise ReceiptMalformed("A chain begins with its first receipt, and with no other.", seen=parsed.seq)
        return parsed


def digest_of(jws: str) -> bytes:
    """What the next receipt's `prev` is."""
    return sha256(jws.encode("ascii", "replace")).digest()


def sign_receipt(receipt: Receipt, *, kid: str, sign: Sign, certificates: Sequence[bytes] = ()) -> str:
    """`certificates`: for a beginning, the edge's chain (DER, leaf first)."""
    header: dict[str, Any] = {"kid": kid}
    if certificates:
        header["x5c"] = [base64.b64encode(der).decode("ascii") for der in certificates]
    return sign_jws(header, receipt.to_bytes(), typ=RECEIPT_TYP, sign=sign)


def key_named(jws: str) -> str:
    """The `kid` of a receipt, unverified. Raises MalformedInput, InputTooLarge or Unauthenticated."""
    signed = UnverifiedJws.read(jws, typ=RECEIPT_TYP, limit=MAX_RECEIPT, name="receipt")
    return signed.unverified_header.text("kid", limit=64)


def read_unverified(jws: str) -> Receipt:
    """What a receipt claims: for who counts and looks for it, never for who believes it. Raises MalformedInput or
    InputTooLarge."""
    parts = jws.split(".", 3)
    if len(parts) != 3 or len(jws) > MAX_RECEIPT:
        raise ReceiptMalformed
    return Receipt.parse(b64decode(parts[1], name="payload"))


def _chain(members: Members) -> str:
    text = members.text("chain", limit=32)
    if not CHAIN_ID.fullmatch(text):
        raise ReceiptMalformed("This is not a chain's name.", seen=repr(text), expected="32 hexadecimal digits")
    return text


def _number(members: Members, name: str, *, most: int = _MAX_SEQ) -> int:
    value = members.integer(name)
    if not 0 <= value <= most:
        raise MalformedJson(f"{name} is out of range.", expected=f"0 to {most}")
    return value


def _word(members: Members, name: str) -> str:
    text = members.text(name, limit=64)
    if not _WORD.fullmatch(text):
        raise ReceiptMalformed(f"{name} is no name of ours.", seen=repr(text))
    return text


def _text(members: Members, name: str, limit: int) -> str:
    return members.text(name, limit=limit) if name in members else ""


def _digest(members: Members, name: str) -> bytes | None:
    return members.octets(name, limit=DIGEST, least=DIGEST) if name in members else None


def _labels(members: Members) -> Mapping[str, str]:
    if "labels" not in members:
        return MappingProxyType({})
    labels = members.object("labels")
    names = [name for name, _ in labels.items()]
    if len(names) > _MAX_LABELS:
        raise ReceiptMalformed("There are too many labels.", seen=len(names), expected=f"at most {_MAX_LABELS}")
    return MappingProxyType({name: labels.text(name, limit=1024) for name in names})
