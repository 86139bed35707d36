"""How a bundle travels and is kept: a signed statement, its signer's certificates, and the parts that the statement
names by their digests; or a delta, which says what is different from a copy that the receiver has.

Nothing here is verified: `bundle.verify_copy` does that, with the statement's signature and the digests. A delta needs
no signature of its own: what it leads to is a copy like any other, and must verify like any other (docs/adr/0037).

    {"v": 1, "statement": JWS, "signer": [DER, ...], "parts": {"keys": text, "policy": text, "status": ZLIB stream,
     "revoked": octets, "head": text}}
    {"v": 1, "base": "2.5", "statement": JWS, "signer"?: [...], "parts": {name: the same, or
     for "status" {"octets": length, "set": patch}, for "revoked" {"add": octets, "remove": octets}}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from attestd.credentials.certificates import MAX_CERTIFICATE
from attestd.credentials.delegation import MAX_CROSSES
from attestd.credentials.patches import (
    patched_serials,
    patched_status,
    serials_patch,
    status_patch,
)
from attestd.credentials.status import MAX_OCTETS, StatusList
from attestd.errors import Unauthenticated
from attestd.protocol.encoding import MalformedJson, Members, b64encode, read_object, write_object

DELTA: Final = "attestd-delta"  # the instance manipulation of RFC 3229 by which one is asked for
MAX_COPY: Final = 48 * 1024 * 1024  # octets: 67 million devices' states at their least compressible
MAX_STATEMENT: Final = 4096  # characters
KEYS: Final = "keys"
POLICY: Final = "policy"
STATUS: Final = "status"
REVOKED: Final = "revoked"
HEAD: Final = "head"
PARTS: Final = (KEYS, POLICY, STATUS, REVOKED, HEAD)
_MAX_TEXT: Final = 1024 * 1024  # characters of a part that is text
_MAX_SERIALS: Final = 16 * 1024 * 1024  # octets
_BASE = re.compile(r"(0|[1-9][0-9]{0,15})\.(0|[1-9][0-9]{0,15})", re.ASCII)


class DeltaMisfit(Unauthenticated):
    """This delta is not for the bundle that is here"""

    remedy = "Fetch the whole bundle; an edge does so by itself."


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Copy:
    """A whole bundle, unverified. `parts`: their octets by name; the status list's and the serials' uncompressed."""

    statement: str
    signer: tuple[bytes, ...]  # DER: the signer's certificate, then what stands between it and a root
    parts: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Raises MalformedInput or InputTooLarge."""
        members = Members(read_object(data, limit=MAX_COPY, name="bundle"), "bundle")
        members.version()
        parts = members.object("parts")
        found = cls(
            members.text("statement", limit=MAX_STATEMENT),
            _signer(members),
            MappingProxyType({name: _part(parts, name) for name in PARTS if name in parts}),
        )
        parts.done()
        members.done()
        return found

    def to_bytes(self) -> bytes:
        """As `read` takes it."""
        parts = {name: _written(name, octets) for name, octets in self.parts.items()}
        signer = [b64encode(der) for der in self.signer]
        return write_object({"v": 1, "statement": self.statement, "signer": signer, "parts": parts})

    def since(self, base: Self, name: str) -> bytes:
        """The delta that leads from `base`, whose epoch and version are `name`, to this."""
        parts = {part: _changed(part, base.parts.get(part), octets) for part, octets in self.parts.items()}
        signer = {} if self.signer == base.signer else {"signer": [b64encode(der) for der in self.signer]}
        changed = {part: change for part, change in parts.items() if change is not None}
        return write_object({"v": 1, "base": name, "statement": self.statement, **signer, "parts": changed})

    def after(self, delta: Delta) -> Copy:
        """What the delta leads to. Raises MalformedInput or InputTooLarge."""
        parts = dict(self.parts)
        for name, octets in delta.whole.items():
            parts[name] = octets
        if delta.status is not None:
            parts[STATUS] = patched_status(parts.get(STATUS, b""), *delta.status)
        if delta.revoked is not None:
            parts[REVOKED] = patched_serials(parts.get(REVOKED, b""), *delta.revoked)
        return Copy(delta.statement, self.signer if delta.signer is None else delta.signer, MappingProxyType(parts))


@dataclass(frozen=True, slots=True)
class Delta:
    """What is different from the copy of epoch and version `base`, unverified."""

    base: tuple[int, int]
    statement: str
    signer: tuple[bytes, ...] | None
    whole: Mapping[str, bytes] = field(default_factory=_nothing)
    status: tuple[bytes, int] | None = None
    revoked: tuple[bytes, bytes] | None = None

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Raises MalformedInput or InputTooLarge."""
        members = Members(read_object(data, limit=MAX_COPY, name="delta"), "delta")
        members.version()
        base, parts = read_name(members.text("base", limit=40)), members.object("parts")
        whole, patches = {}, {}
        for name in PARTS:
            if name in parts:
                if name in (STATUS, REVOKED) and not parts.is_text(name):
                    patches[name] = parts.object(name)
                else:
                    whole[name] = _part(parts, name)
        status = revoked = None
        if (patch := patches.get(STATUS)) is not None:
            status = patch.octets("set", limit=MAX_COPY), patch.number("octets", most=MAX_OCTETS)
        if (patch := patches.get(REVOKED)) is not None:
            revoked = patch.octets("add", limit=_MAX_SERIALS), patch.octets("remove", limit=_MAX_SERIALS)
        signer = _signer(members) if "signer" in members else None
        found = cls(
            base,
            members.text("statement", limit=MAX_STATEMENT),
            signer,
            MappingProxyType(whole),
            status,
            revoked,
        )
        for read in (*patches.values(), parts, members):
            read.done()
        return found


def read_name(text: str) -> tuple[int, int]:
    """Epoch and version as `2.5`. Raises MalformedInput."""
    match = _BASE.fullmatch(text)
    if match is None:
        raise MalformedJson("This names no bundle.", seen=repr(text[:40]), expected="<epoch>.<version>")
    return int(match[1]), int(match[2])


def _signer(members: Members) -> tuple[bytes, ...]:
    return members.many_octets("signer", limit=MAX_CERTIFICATE, most=1 + MAX_CROSSES)


def _part(parts: Members, name: str) -> bytes:
    if name == STATUS:
        return StatusList.decode(parts.text(name, limit=MAX_COPY)).octets
    if name == REVOKED:
        return parts.octets(name, limit=_MAX_SERIALS)
    return parts.text(name, limit=_MAX_TEXT).encode("utf-8")


def _written(name: str, octets: bytes) -> str:
    if name == STATUS:
        return StatusList(octets).encode()
    return b64encode(octets) if name == REVOKED else octets.decode("utf-8")


def _changed(name: str, before: bytes | None, after: bytes) -> str | dict[str, Any] | None:
    """How a delta tells this part: not at all, as a patch, or whole if that is not longer."""
    if before == after:
        return None
    if before is None or name not in (STATUS, REVOKED):
        return _written(name, after)
    if name == REVOKED:
        came, went = serials_patch(before, after)
        patch: dict[str, Any] = {"add": b64encode(came), "remove": b64encode(went)}
        return patch if len(came) + len(went) < len(after) else _written(name, after)
    patch = {"octets": len(after), "set": b64encode(status_patch(before, after))}
    if len(patch["set"]) < _LONG_PATCH:
        return patch
    whole = _written(name, after)
    return patch if len(patch["set"]) < len(whole) else whole


_LONG_PATCH = 1024  # characters, from which on it is looked at whether the whole list is shorter
