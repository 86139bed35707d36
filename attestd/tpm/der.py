"""DER, cut but not interpreted: where each element of a certificate begins and ends.

ITU-T X.690, section 8.1 (identifier and length octets), in the subset that certificates use: tags below 31, definite
lengths. Elements keep the very octets they were cut from, so that what is verified is what was signed.

Everything read here is untrusted. Nothing recurses, no more is copied than was given, and the only error is
`MalformedCertificate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from attestd.errors import MalformedInput


class MalformedCertificate(MalformedInput):
    """A certificate can't be read"""

    remedy = "Send the certificate's DER octets as the TPM or its maker gave them."


BOOLEAN, INTEGER, BITS, OCTETS, OID, SEQUENCE, SET = 0x01, 0x02, 0x03, 0x04, 0x06, 0x30, 0x31


class Element(NamedTuple):
    """One element: its tag octet, its content and its whole encoding."""

    tag: int
    content: bytes
    raw: bytes


def element(data: bytes, at: int = 0) -> Element:
    """The element that begins at `at`; octets may follow it."""
    return _cut(data, at)[0]


def _cut(data: bytes, at: int) -> tuple[Element, int]:
    """The element that begins at `at`, and where it ends."""
    size = len(data)
    if at + 2 > size or data[at] & 0x1F == 0x1F:
        raise MalformedCertificate("A certificate ends too early, or holds a tag that no certificate has.")
    begin, length = at + 2, data[at + 1]
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3:  # a count of zero is BER's indefinite form
            raise MalformedCertificate("A certificate holds a length that can't be read.", seen=f"0x{length:02x}")
        begin += count
        length = int.from_bytes(data[at + 2 : begin], "big")
    end = begin + length
    if end > size:
        raise MalformedCertificate("A certificate ends too early.", seen=f"{size - begin} octets", expected=length)
    return Element(data[at], data[begin:end], data[at:end]), end


def whole(data: bytes) -> Element:
    """The one element that these octets are."""
    found = element(data)
    if len(found.raw) != len(data):
        raise MalformedCertificate("Octets follow an element of a certificate.", seen=len(data) - len(found.raw))
    return found


def children(parent: Element) -> list[Element]:
    """The elements that make up a constructed element's content, to its last octet."""
    content, found, at = parent.content, [], 0
    size = len(content)
    while at < size:
        item, at = _cut(content, at)
        found.append(item)
    return found


def expect(items: Sequence[Element], *tags: int) -> Sequence[Element]:
    """These elements, if they have these tags and no others."""
    if tuple([item.tag for item in items]) != tags:
        raise MalformedCertificate(
            "A certificate's parts are not those of a certificate.",
            seen=" ".join(f"{item.tag:02x}" for item in items[:12]),
            expected=" ".join(f"{tag:02x}" for tag in tags),
        )
    return items


def octets_of(bits: Element) -> bytes:
    """A BIT STRING's octets; keys and signatures have no unused bits (X.690, section 8.6)."""
    if bits.content[:1] != b"\0":
        raise MalformedCertificate("A bit string in a certificate does not hold whole octets.")
    return bits.content[1:]


def read_oid(content: bytes) -> str:
    """An OBJECT IDENTIFIER's content in dotted form (X.690, section 8.19)."""
    if not content or content[-1] & 0x80 or len(content) > 64:
        raise MalformedCertificate("A certificate holds an object identifier that can't be read.")
    arcs, value = [], 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


# String types of names (RFC 5280, section 4.1.2.4) and how Python calls their encodings.
_ENCODINGS = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}


def read_name(name: Element) -> tuple[tuple[str, str], ...]:
    """A Name's attributes as (OID, text), in the order of their encoding; the order within a SET is not judged."""
    found = []
    for relative in children(name):
        for attribute in children(relative):
            parts = children(attribute)
            if len(parts) != 2 or parts[0].tag != OID or parts[1].tag not in _ENCODINGS:
                raise MalformedCertificate("A certificate holds a name that can't be read.")
            try:
                text = parts[1].content.decode(_ENCODINGS[parts[1].tag])
            except UnicodeDecodeError:
                raise MalformedCertificate("A name in a certificate is not text of its kind.") from None
            found.append((read_oid(parts[0].content), text))
    return tuple(found)


_SHORT = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
}
_MOST_SHOWN = 240  # characters


def shown_name(raw: bytes) -> str:
    """A DER name for people: bounded, printable, never compared."""
    try:
        attributes = read_name(element(raw))
    except MalformedCertificate:
        return f"an unreadable name of {len(raw)} octets"
    text = ", ".join(f"{_SHORT.get(oid, oid)}={value}" for oid, value in attributes) or "an empty name"
    return "".join(c if c.isprintable() else "?" for c in text)[:_MOST_SHOWN]
