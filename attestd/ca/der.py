"""DER (X.690), as much of it as certificates and key files need: elements written, and taken apart again.

What is taken apart is what the library wrote, or reads too: whether each length is in its one spelling is its question.
"""

from __future__ import annotations

from functools import cache


def tlv(tag: int, content: bytes) -> bytes:
    """One element (X.690, sections 8.1 and 10.1)."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


@cache
def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER (X.690, section 8.19)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        content += bytes(reversed(septets))
    return tlv(0x06, bytes(content))


def content(der: bytes) -> bytes:
    """What is inside the one element that `der` is. Raises ValueError, IndexError."""
    size, start = der[1], 2  # tags of one octet are all there are
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    if start + size != len(der):
        raise ValueError("an element is cut off or followed by something")
    return der[start:]


def elements(der: bytes) -> list[bytes]:
    """The elements directly inside the one element that `der` is. Raises ValueError, IndexError."""
    inside, at, found = content(der), 0, []
    while at < len(inside):
        size, end = inside[at + 1], at + 2
        if size & 0x80:
            end += size & 0x7F
            size = int.from_bytes(inside[at + 2 : end], "big")
        end += size
        found.append(inside[at:end])
        at = end
    if at != len(inside):
        raise ValueError("an element reaches beyond its container")
    return found
