"""DER elements: written in their one spelling, taken apart without a doubt."""

from __future__ import annotations

import pytest
from asn1crypto import core

from attestd.ca.der import content, elements, oid, tlv

SIZES = (0, 1, 127, 128, 255, 256, 65535, 65536)


@pytest.mark.parametrize("size", SIZES)
def test_an_element_of_any_size(size: int) -> None:
    inside = b"\x05" * size
    written = tlv(0x04, inside)
    assert written == core.OctetString(inside).dump()
    assert content(written) == inside
    assert elements(tlv(0x30, written * 3)) == [written] * 3


@pytest.mark.parametrize("dotted", ["0.39", "1.2.840.10045.4.3.2", "2.5.29.15", "2.999.127.128.16383.16384.2097152"])
def test_object_identifiers(dotted: str) -> None:
    assert oid(dotted) == core.ObjectIdentifier(dotted).dump()


@pytest.mark.parametrize(
    "octets",
    ["", "30", "3001", "300100ff", "3081", "308101", "3082", "30820001", "3084ffffffff"],
)
def test_what_is_no_element_is_refused(octets: str) -> None:
    for read in (content, elements):
        with pytest.raises((ValueError, IndexError)):
            read(bytes.fromhex(octets))


@pytest.mark.parametrize("octets", ["300104", "30020401", "3004040005", "3003048201", "30050400308201"])
def test_elements_end_with_their_container(octets: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        elements(bytes.fromhex(octets))


def test_every_truncation_is_noticed() -> None:
    whole = tlv(0x30, tlv(0x02, b"\x05") + tlv(0x04, b"x" * 200) + tlv(0x30, tlv(0x05, b"")))
    for at in range(len(whole)):
        with pytest.raises((ValueError, IndexError)):
            elements(whole[:at])
