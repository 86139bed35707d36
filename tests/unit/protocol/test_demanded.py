"""What an attestation should hold, as a header."""

from __future__ import annotations

import pytest

from attestd.protocol.demanded import MAX_HEADER, Demanded, EvidenceHeaderMalformed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("-", Demanded({})),
        ("- ima", Demanded({}, ("ima",))),
        ("sha256:0", Demanded({"sha256": (0,)})),
        ("sha256:0,1,23+sha1:10 eventlog ima", Demanded({"sha256": (0, 1, 23), "sha1": (10,)}, ("eventlog", "ima"))),
        ("sha256:0 a b c d e f g h", Demanded({"sha256": (0,)}, tuple("abcdefgh"))),
    ],
)
def test_what_is_written_is_read(text: str, wanted: Demanded) -> None:
    assert Demanded.parse(text) == wanted
    assert wanted.to_header() == text


def test_a_bank_without_pcrs_is_left_out() -> None:
    assert Demanded({"sha256": (), "sha384": (1,)}).to_header() == "sha384:1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ima",
        "sha256",
        "sha256:",
        "sha256:24",
        "sha256:1,0",
        "sha256:1,1",
        "sha256:0+sha256:1",
        "sha256:0,+sha1:1",
        "md5sum:0",
        "sha256:٣",
        "sha256:0 EVENTLOG",
        "sha256:0  ima",
        "sha256:0 ima\n",
        "sha256:0 a b c d e f g h i",
        "sha256:0 " + "a" * MAX_HEADER,
    ],
)
def test_what_can_not_be_meant(text: str) -> None:
    with pytest.raises(EvidenceHeaderMalformed):
        Demanded.parse(text)
