"""Firmware versions: the certificate's, the quote's, and when the latter may be believed."""

from __future__ import annotations

import pytest

from attestd.tpm.firmware import Firmware, qualified_name, read_certified, read_dotted, read_quoted
from attestd.tpm.objects import parse_public
from tests import ek_ca as ca
from tests.forger import Forger

AK = parse_public(Forger().ak.public)
EK = parse_public(ca.ek_area(ca.ec_key("firmware ek").public_key()))
ENDORSEMENT, OWNER, PLATFORM = (bytes.fromhex(handle) for handle in ("4000000b", "40000001", "4000000c"))
VERSION = 0x0007_0002_0001_0000


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("id:00070055", "7.85"),
        ("id:073E", "7.62"),
        ("id:053e", "5.62"),
        ("id:00490004", "73.4"),
        ("id:20160511", "8214.1297"),
        ("id:7", None),
        ("id:073", None),
        ("id:073EAA", None),
        ("073E", None),
        ("id:07zz", None),
        ("7.62", None),
        ("id:07\u0663\u0664", None),
        ("", None),
    ],
)
def test_the_certificate_s_version(written: str, read: str | None) -> None:
    found = read_certified(written)
    assert (None if found is None else str(found)) == read


@pytest.mark.parametrize("text", ["7", "7.", ".7", "7.1.2.3.4", "7.x", "7. 1", "123456.1", "-7.1", "", "7.\u0661"])
def test_text_that_is_no_version(text: str) -> None:
    assert read_dotted("7.61") == Firmware((7, 61))
    assert read_dotted("7.2.0.1") == Firmware((7, 2, 0, 1))
    assert read_dotted(text) is None


@pytest.mark.parametrize(
    ("version", "first", "last", "within"),
    [
        ("7.61", "7.0", "7.61", True),
        ("7.62", "7.0", "7.61", False),
        ("6.99", "7.0", "7.61", False),
        ("7.61.9.9", "7.0", "7.61", True),
        ("7.2.0.1", "7.2.0.1", "7.2.0.1", True),
        ("7.2.0.2", "7.2.0.1", "7.2.0.1", False),
        ("7.2", "7.2.0.1", "7.2.0.1", True),
        ("7.3", "7.2.0.1", "7.2.0.9", False),
        ("7.1", "7.2.0.1", "7.2.0.9", False),
        ("73.4", "73.4", "73.4", True),
    ],
)
def test_what_is_not_known_of_a_version_may_be_anything(version: str, first: str, last: str, within: bool) -> None:
    found, begin, end = (read_dotted(text) for text in (version, first, last))
    assert found
    assert begin
    assert end
    assert found.may_be_within(begin, end) is within


# ---- The TPM's own word -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parent", [ENDORSEMENT, PLATFORM, qualified_name(EK, parent=ENDORSEMENT)], ids=["endorsement", "platform", "the EK"]
)
def test_a_key_of_a_plain_hierarchy_tells_the_version(parent: bytes) -> None:
    signer = qualified_name(AK, parent=parent)
    assert read_quoted(VERSION, qualified_signer=signer, ak=AK, ek=EK) == Firmware((7, 2, 1, 0))


@pytest.mark.parametrize(
    "signer",
    [
        pytest.param(qualified_name(AK, parent=OWNER), id="a primary key of the owner"),
        pytest.param(qualified_name(AK, parent=qualified_name(EK, parent=OWNER)), id="below a key of the owner"),
        pytest.param(qualified_name(EK, parent=ENDORSEMENT), id="another key's Name"),
        pytest.param(AK.name, id="a plain Name"),
        pytest.param(b"", id="none"),
    ],
)
def test_a_version_that_may_be_obfuscated_is_not_believed(signer: bytes) -> None:
    assert read_quoted(VERSION, qualified_signer=signer, ak=AK, ek=EK) is None


def test_below_the_ek_counts_for_this_ek_alone() -> None:
    other = parse_public(ca.ek_area(ca.ec_key("another firmware ek").public_key()))
    signer = qualified_name(AK, parent=qualified_name(other, parent=ENDORSEMENT))
    assert read_quoted(VERSION, qualified_signer=signer, ak=AK, ek=EK) is None
    assert read_quoted(VERSION, qualified_signer=signer, ak=AK) is None
    assert read_quoted(VERSION, qualified_signer=signer, ak=AK, ek=other) is not None
