"""A bundle as one message of NATS: its content is what travels over HTTP too, and its headers say where it belongs.

Whoever may publish can write any of this. So all of it is a hint: what counts is verified in the content, by who takes
it up (docs/adr/0042-bundles-over-nats.md).

| subject | what | |
|---|---|---|
| `attestd.bundle.<trust domain>.delta` | a delta, or headers alone: a notice | leads on from the one before |
| `attestd.bundle.<trust domain>.whole` | a whole copy | the last one only |
| `attestd.bundle.<trust domain>.alive` | the newest one's name | each second, from every service; not kept |

| header | |
|---|---|
| `Attestd-Bundle` | the name of the bundle that it leads to: epoch and version, as in `2.5` |
| `Attestd-Base` | the name of the one that a delta begins at |
| `Attestd-Whole` | of a delta or notice: the last whole copy's name, and its `Attestd-Next` |
| `Attestd-Next` | of a whole copy: deltas from it have this number in the stream, or a higher one |
| `Attestd-Proofs` | that the audit trail only grew, from each of these sizes to that of the bundle's head, as JSON |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from attestd.errors import InputTooLarge, MalformedInput
from attestd.ids import TrustDomain
from attestd.protocol.encoding import Members, b64encode, read_object, write_object

STREAM: Final = "ATTESTD_BUNDLES"
SUBJECTS: Final = ("attestd.bundle.*.delta", "attestd.bundle.*.whole")
ALIVE_EVERY: Final = 1.0  # seconds
KEPT: Final = 128  # messages of a subject
WHOLE_AFTER: Final = 32  # deltas; well below what is kept, so that who has the last copy finds all that follow it
MOST_PROOFS: Final = 32  # of one message
MAX_MESSAGE: Final = 64 * 1024 * 1024  # octets; nats-server takes no more
_MAX_HEADERS: Final = 128 * 1024  # characters of one
_HASH, _MAX_PATH, _MAX_SIZE = 32, 64, 1 << 53
_NAME = re.compile(r"(0|[1-9][0-9]{0,15})\.(0|[1-9][0-9]{0,15})", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)

Proofs = Mapping[tuple[int, int, int], Sequence[bytes]]  # of (log, first size, second size)


def _no_proofs() -> Proofs:
    return MappingProxyType({})


class MessageMalformed(MalformedInput):
    """This message is no bundle's"""

    remedy = "Look at who else may publish there; the service writes no such messages."


def delta_subject(trust_domain: TrustDomain) -> str:
    """Where each new bundle is told."""
    return f"attestd.bundle.{_token(trust_domain)}.delta"


def whole_subject(trust_domain: TrustDomain) -> str:
    """Where the last whole copy is."""
    return f"attestd.bundle.{_token(trust_domain)}.whole"


def alive_subject(trust_domain: TrustDomain) -> str:
    """Where services say that they publish, and which bundle is the newest."""
    return f"attestd.bundle.{_token(trust_domain)}.alive"


def _token(trust_domain: TrustDomain) -> str:
    """A name with dots in it would be several tokens; no name holds a tilde."""
    return str(trust_domain).replace(".", "~")


def order(name: str | None) -> tuple[int, int]:
    """Bundles by their names, the older ones first; none is older than any."""
    match = _NAME.fullmatch(name or "")
    return (int(match[1]), int(match[2])) if match is not None else (-1, -1)


@dataclass(frozen=True, slots=True)
class Whole:
    """The last whole copy: its name, and from which number on the stream has deltas that follow it."""

    name: str
    next: int


@dataclass(frozen=True, slots=True)
class BundleMessage:
    """One message, unverified. With `base` it is a delta, else a whole copy; without `content` it is a notice: there is
    a newer bundle, and it is not to be had so."""

    name: str
    base: str | None = None
    whole: Whole | None = None
    content: bytes = field(default=b"", repr=False)
    proofs: Proofs = field(default_factory=_no_proofs, repr=False)

    @property
    def is_delta(self) -> bool:
        return self.base is not None

    def headers(self) -> dict[str, str]:
        """As `read` takes them."""
        found = {"Attestd-Bundle": self.name}
        if self.base is not None:
            found["Attestd-Base"] = self.base
        if self.whole is not None:
            found["Attestd-Whole"], found["Attestd-Next"] = self.whole.name, str(self.whole.next)
        if self.proofs:
            found["Attestd-Proofs"] = _write_proofs(self.proofs)
        return found

    @classmethod
    def read(cls, headers: Mapping[str, str] | None, content: bytes | None) -> Self:
        """Raises MalformedInput or InputTooLarge."""
        told = headers or {}
        content = content or b""
        if len(content) > MAX_MESSAGE:
            raise InputTooLarge(
                "The message is too large.", seen=len(content), expected=f"at most {MAX_MESSAGE} octets"
            )
        name, base = _name(told, "Attestd-Bundle"), _name(told, "Attestd-Base")
        if name is None:
            raise MessageMalformed(expected="the header Attestd-Bundle")
        whole, number = _name(told, "Attestd-Whole"), told.get("Attestd-Next", "")
        if (whole is None) != (number == "") or (number and not _NUMBER.fullmatch(number)):
            raise MessageMalformed("It is not said what follows the last copy.", seen=repr(number[:40]))
        return cls(
            name=name,
            base=base,
            whole=Whole(whole, int(number)) if whole is not None else None,
            content=content,
            proofs=_read_proofs(told["Attestd-Proofs"]) if "Attestd-Proofs" in told else _no_proofs(),
        )


def _name(told: Mapping[str, str], header: str) -> str | None:
    text = told.get(header)
    if text is not None and not _NAME.fullmatch(text):
        raise MessageMalformed(f"{header} names no bundle.", seen=repr(text[:40]), expected="<epoch>.<version>")
    return text


def _write_proofs(proofs: Proofs) -> str:
    """All of one message lead to one head."""
    (log, _, second), *_ = proofs
    told = [{"first": first, "path": [b64encode(step) for step in path]} for (_, first, _), path in proofs.items()]
    return write_object({"v": 1, "log": log, "second": second, "from": told}).decode("ascii")


def _read_proofs(text: str) -> Proofs:
    members = Members(read_object(text.encode("utf-8", "replace"), limit=_MAX_HEADERS, name="proofs"), "proofs")
    members.version()
    log, second = members.number("log", most=_MAX_SIZE), members.number("second", most=_MAX_SIZE)
    found: dict[tuple[int, int, int], Sequence[bytes]] = {}
    for one in members.objects("from", most=MOST_PROOFS):
        found[log, one.number("first", most=_MAX_SIZE), second] = one.many_octets("path", limit=_HASH, most=_MAX_PATH)
        one.done()
    members.done()
    return MappingProxyType(found)
