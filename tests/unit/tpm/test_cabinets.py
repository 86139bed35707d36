"""Cabinet files: what is read, what is refused, and what a hostile one can cost."""

from __future__ import annotations

import os
import random

import pytest

from attestd.errors import AttestdError
from attestd.tpm import cabinets
from attestd.tpm.cabinets import (
    MAX_CABINET,
    CabinetDamaged,
    CabinetTooLarge,
    CabinetUnsupported,
    MalformedCabinet,
    unpack,
)
from tests.cabinet_writer import BLOCK, cabinet

FILES = {
    "AMD\\RootCA\\root.crt": b"-----BEGIN CERTIFICATE-----" * 3000,
    "version.txt": b"1",
    "empty.cer": b"",
    "odd.der": random.Random(7).randbytes(50_003),
}


def unpacked(data: bytes) -> dict[str, bytes]:
    return {file.name: file.content for file in unpack(data)}


@pytest.mark.parametrize("kind", [0, 1], ids=["stored", "MSZIP"])
@pytest.mark.parametrize("reserved", [None, (20, 0, 0), (0, 5, 3), (1, 2, 4)])
@pytest.mark.parametrize("checked", [True, False])
def test_files_come_out_as_they_went_in(kind: int, reserved: tuple[int, int, int] | None, checked: bool) -> None:
    assert unpacked(cabinet(FILES, kind=kind, reserved=reserved, checked=checked)) == FILES


def test_a_signature_may_follow() -> None:
    assert unpacked(cabinet(FILES, after=b"\x30\x82" + bytes(1000))) == FILES


def test_windows_reach_back_into_the_block_before() -> None:
    """The same random octets twice: only with the window can the second block be as small as it is."""
    noise = os.urandom(20_000)
    files = {"a": bytes(BLOCK - 20_000) + noise, "b": noise}
    data = cabinet(files)
    assert len(data) < 22_000
    assert unpacked(data) == files


@pytest.mark.parametrize(
    ("lies", "refusal"),
    [
        pytest.param({"signature": b"MSCE"}, MalformedCabinet, id="another signature"),
        pytest.param({"major": 2}, CabinetUnsupported, id="another version"),
        pytest.param({"flags": 1}, CabinetUnsupported, id="begins in another cabinet"),
        pytest.param({"flags": 2}, CabinetUnsupported, id="goes on in another cabinet"),
        pytest.param({"kind": 2}, CabinetUnsupported, id="Quantum"),
        pytest.param({"kind": 0x1503}, CabinetUnsupported, id="LZX"),
        pytest.param({"total": 1 << 31}, MalformedCabinet, id="larger than it is"),
        pytest.param({"files_at": 1 << 31}, MalformedCabinet, id="files beyond the end"),
        pytest.param({"data_at": 1 << 31}, MalformedCabinet, id="data beyond the end"),
        pytest.param({"count": 9}, MalformedCabinet, id="more files than there are"),
        pytest.param({"count": cabinets.MAX_FILES + 1}, CabinetTooLarge, id="too many files"),
        pytest.param({"folders": 65}, CabinetTooLarge, id="too many folders"),
        pytest.param({"folder": 1}, MalformedCabinet, id="a file of no folder"),
        pytest.param({"folder": 0xFFFD}, MalformedCabinet, id="a file of the cabinet before"),
        pytest.param({"length": 1 << 30}, MalformedCabinet, id="a file beyond its folder"),
        pytest.param({"offset": 1 << 30}, MalformedCabinet, id="a file that begins beyond its folder"),
        pytest.param({"end": b"x" * 300}, MalformedCabinet, id="a name without an end"),
        pytest.param({"packed": 65_535}, MalformedCabinet, id="a block beyond the end"),
        pytest.param({"unpacked": BLOCK + 1, "checked": False}, MalformedCabinet, id="a block larger than a block"),
        pytest.param({"unpacked": 5, "checked": False}, MalformedCabinet, id="a block larger than it says"),
        pytest.param({"data_count": 65_535}, MalformedCabinet, id="more blocks than there are"),
        pytest.param({"spoil": 1}, CabinetDamaged, id="a wrong checksum"),
        pytest.param({"blocks": [b"XX123"], "checked": False}, MalformedCabinet, id="a block without CK"),
        pytest.param({"blocks": [b"CK\xff\xff"], "checked": False}, MalformedCabinet, id="a block that is no deflate"),
        pytest.param({"blocks": [], "checked": False}, MalformedCabinet, id="no blocks"),
    ],
)
def test_one_lie_in_a_cabinet(lies: dict[str, object], refusal: type[AttestdError]) -> None:
    files = {"a.cer": b"certificate" * 50}
    assert unpacked(cabinet(files)) == files
    with pytest.raises(refusal):
        unpack(cabinet(files, **lies))  # type: ignore[arg-type]


def test_the_size_of_a_cabinet_is_bounded() -> None:
    with pytest.raises(CabinetTooLarge):
        unpack(b"MSCF" + bytes(MAX_CABINET - 3))


def test_what_comes_out_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros shrink a thousandfold; files may overlap, so the same octets can be asked for again and again."""
    monkeypatch.setattr(cabinets, "MAX_UNPACKED", 4 * BLOCK)
    fits = {"a": bytes(4 * BLOCK)}
    assert unpacked(cabinet(fits)) == fits
    with pytest.raises(CabinetTooLarge):
        unpack(cabinet({"a": bytes(4 * BLOCK + 1)}))
    with pytest.raises(CabinetTooLarge):
        unpack(cabinet({"a": bytes(2 * BLOCK), "b": b"", "c": b""}, length=2 * BLOCK, offset=0))


def test_a_cut_or_spoilt_cabinet_never_raises_anything_else() -> None:
    data, chance = cabinet(FILES, reserved=(20, 0, 0)), random.Random(1)
    for _ in range(300):
        spoilt = bytearray(data)
        for _ in range(chance.choice((1, 2, 5))):
            spoilt[chance.randrange(min(len(spoilt), 400))] = chance.randrange(256)
        try:
            unpack(bytes(spoilt[: chance.choice((len(spoilt), chance.randrange(len(spoilt))))]))
        except (MalformedCabinet, CabinetTooLarge):
            continue
