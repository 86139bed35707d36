"""The inventory file: read whole or not at all, with every error at its line."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestd.errors import AttestdError
from attestd.ids import DeviceId, EkHash, Site, Tier
from attestd.registry import inventory
from attestd.registry.inventory import (
    MAX_LINE,
    InventoryEmpty,
    InventoryEntry,
    InventoryInvalid,
    InventoryTooLarge,
    parse_inventory,
)

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
HEADER = "ek_hash,serial_number,tier,site,labels,id"


# Any machine, any load, always the same cases.
RANDOM = settings(deadline=None, derandomize=True, database=None)


def csv(*rows: str, header: str = HEADER) -> bytes:
    return "\n".join((header, *rows)).encode()


def lines(*members: dict[str, object]) -> bytes:
    return "\n".join(json.dumps(member) for member in members).encode()


def errors(data: bytes) -> list[tuple[int, str]]:
    with pytest.raises(InventoryInvalid) as invalid:
        parse_inventory(data)
    assert not invalid.value.more
    return list(invalid.value.errors)


def one_error(data: bytes) -> tuple[int, str]:
    (found,) = errors(data)
    return found


FULL = InventoryEntry(
    line=2,
    ek_hash=EkHash.parse(A),
    tier=Tier.EDGE,
    site=Site("shop-7"),
    serial_number="SN 1",
    labels={"rack": "2", "owner": "ops"},
    device_id=DeviceId("till-1"),
)


# ---- Accepted ---------------------------------------------------------------------------------------------------


def test_csv() -> None:
    data = csv(f"{A},SN 1,edge,shop-7,rack=2;owner=ops,till-1", f"{B.upper()},,device,shop-8,,")
    bare = InventoryEntry(line=3, ek_hash=EkHash.parse(B), tier=Tier.DEVICE, site=Site("shop-8"))
    assert parse_inventory(data) == (FULL, bare)


def test_csv_with_a_column_a_label() -> None:
    data = csv(f"shop-7,{A},2,edge,ops,SN 1,till-1", header="site,ek_hash,label.rack,tier,label.owner,serial_number,id")
    assert parse_inventory(data) == (FULL,)


def test_csv_with_both_ways_to_give_labels() -> None:
    data = csv(f"{A},edge,s,rack=2,ops", f"{B},edge,s,,", header="ek_hash,tier,site,labels,label.owner")
    assert [entry.labels for entry in parse_inventory(data)] == [{"rack": "2", "owner": "ops"}, {}]


def test_json_lines() -> None:
    full = {
        "ek_hash": A,
        "tier": "edge",
        "site": "shop-7",
        "serial_number": "SN 1",
        "labels": {"rack": "2", "owner": "ops"},
        "id": "till-1",
    }
    bare = {"ek_hash": B, "tier": "device", "site": "shop-8"}
    nulls = {"ek_hash": C, "tier": "device", "site": "shop-8", "serial_number": None, "id": None}
    first, second, third = parse_inventory(b"\n" + lines(full, bare, nulls))
    assert first == FULL
    assert (second.line, second.serial_number, second.labels, second.device_id) == (3, None, {}, None)
    assert (third.line, third.serial_number, third.device_id) == (4, None, None)


@pytest.mark.parametrize(
    "data",
    [
        csv(f"{A},,edge,s,,"),
        b"\xef\xbb\xbf" + csv(f"{A},,edge,s,,"),
        csv(f"{A},,edge,s,,").replace(b"\n", b"\r\n") + b"\r\n",
        b"\n\n" + csv("", f"{A},,edge,s,,", "   ", ""),
        csv(f'"{A}","",edge,"s","",""'),
        csv(f" {A} , , edge , s , , ", header=" ek_hash , serial_number, tier, site, labels, id "),
        csv(f"{A},,edge,s,;;,"),
        b"\xef\xbb\xbf" + lines({"ek_hash": A, "tier": "edge", "site": "s"}),
        lines({"ek_hash": A, "tier": "edge", "site": "s"}) + b"\r\n\r\n",
    ],
    ids=["plain", "BOM", "CRLF", "blank lines", "quoted", "spaces", "no labels", "JSON with BOM", "JSON with CRLF"],
)
def test_spellings_of_the_same(data: bytes) -> None:
    (entry,) = parse_inventory(data)
    assert (entry.ek_hash, entry.tier, entry.site, entry.serial_number) == (EkHash.parse(A), Tier.EDGE, "s", None)


def test_quotes_keep_commas() -> None:
    (entry,) = parse_inventory(csv(f'{A},"SN,""1""",edge,s,"x=1,2",'))
    assert (entry.serial_number, entry.labels) == ('SN,"1"', {"x": "1,2"})


# ---- Refused: the file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n \r\n", csv(), csv("", " ")], ids=repr)
def test_a_file_that_names_no_device(data: bytes) -> None:
    with pytest.raises(InventoryEmpty):
        parse_inventory(data)


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    data = csv(f"{A},,edge,s,,")
    monkeypatch.setattr(inventory, "MAX_FILE", len(data))
    assert parse_inventory(data)
    with pytest.raises(InventoryTooLarge):
        parse_inventory(data + b"\n")


def test_a_line_that_is_too_long() -> None:
    row = f"{A},,edge,s,,"
    room = MAX_LINE - len(row) - 1
    assert parse_inventory(csv(row + " " * room, f"{B},,edge,s,,"))
    line, what = one_error(csv(row + " " * (room + 1), f"{B},,edge,s,,"))
    assert (line, "longer" in what) == (2, True)


def test_a_line_that_is_not_utf_8() -> None:
    line, what = one_error(csv(f"{A},,edge,s,,") + b"\n" + B.encode() + b",\xff,edge,s,,")
    assert (line, what) == (3, "the line is not UTF-8")


def test_utf_16_is_not_utf_8() -> None:
    assert errors(csv(f"{A},,edge,s,,").decode().encode("utf-16"))[0] == (1, "the line is not UTF-8")


# ---- Refused: the header ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("ek_hash,tier,site,colour", "unknown columns: 'colour'"),
        ("ek_hash,tier,site,EK_HASH", "unknown columns: 'EK_HASH'"),
        ("ek_hash,tier,site,", "unknown columns: ''"),
        ("ek_hash,tier,site,label.", "unknown columns: 'label.'"),
        ("ek_hash,tier,site,label.a b", "unknown columns: 'label.a b'"),
        ("ek_hash;tier;site", "unknown columns: 'ek_hash;tier;site'"),
        (f"{A},edge,s,x", "unknown columns"),
        ("ek_hash,tier", "missing columns: site"),
        ("id", "missing columns: ek_hash, tier, site"),
        ("ek_hash,tier,site,tier", "columns named twice: tier"),
        ("ek_hash,tier,site,label.a,label.a", "columns named twice: label.a"),
        ('ek_hash,tier,"site', "not CSV"),
    ],
)
def test_headers(header: str, what: str) -> None:
    line, said = one_error(csv(f"{A},edge,s,x", header=header))
    assert line == 1
    assert said.startswith(what)


# ---- Refused: entries -------------------------------------------------------------------------------------------

GOOD = {"ek_hash": A, "tier": "edge", "site": "s", "serial_number": "1", "id": "till-1", "labels": {"a": "b"}}


def as_csv(members: dict[str, object]) -> bytes:
    labels = ";".join(f"{name}={value}" for name, value in members["labels"].items())  # type: ignore[attr-defined]
    return csv(
        f"{members['ek_hash']},{members['serial_number']},{members['tier']},{members['site']},{labels},{members['id']}"
    )


@pytest.mark.parametrize("write", [as_csv, lines])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"ek_hash": ""}, "ek_hash is missing"),
        ({"ek_hash": "a" * 63}, "ek_hash: This is not an EK hash"),
        ({"ek_hash": "g" * 64}, "ek_hash: This is not an EK hash"),
        ({"tier": " "}, "tier is missing"),
        ({"tier": "Edge"}, "tier: This is not a tier"),
        ({"site": ""}, "site is missing"),
        ({"site": "Shop 7"}, "site: This is not a site"),
        ({"site": ".."}, "site: This is not a site"),
        ({"id": "Till 1"}, "id: This is not a device id"),
        ({"serial_number": "x" * 65}, "serial_number: This is not a serial number"),
        ({"serial_number": "a\tb"}, "serial_number: This is not a serial number"),
        ({"labels": {"a b": "x"}}, "labels: This is not a label's name"),
        ({"labels": {"a": "x" * 129}}, "labels: The label a has no usable value"),
    ],
    ids=str,
)
def test_one_wrong_field(write: object, change: dict[str, object], what: str) -> None:
    assert len(parse_inventory(write(GOOD))) == 1  # type: ignore[operator]
    line, said = one_error(write(GOOD | change))  # type: ignore[operator]
    assert line == (2 if write is as_csv else 1)
    assert said.startswith(what)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (f"{A},,edge,s,", "5 columns where the header has 6"),
        (f"{A},,edge,s,,,", "7 columns where the header has 6"),
        (f'{A},"x,edge,s,,', "not CSV"),
        (f'{A},"x"y,edge,s,,', "not CSV"),
        (f"{A},,edge,s,rack,", "labels: 'rack' is not name=value"),
        (f"{A},,edge,s,a=1;a=2,", "labels: 'a' is given twice"),
    ],
)
def test_rows(row: str, what: str) -> None:
    line, said = one_error(csv(row, f"{B},,edge,s,,"))
    assert line == 2
    assert said.startswith(what)


def test_a_label_given_in_both_ways() -> None:
    data = csv(f"{A},edge,s,a=1,2", header="ek_hash,tier,site,labels,label.a")
    assert one_error(data) == (2, "labels: 'a' is given twice")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "The line is not JSON"),
        ("[]", "The line is not an object"),
        ('"x"', "The line is not an object"),
        (f'{{"ek_hash":"{B}","tier":"edge","site":"s","site":"t"}}', "A member name appears twice"),
        (f'{{"ek_hash":"{B}","tier":"edge","site":"s","colour":"red"}}', "unknown members: 'colour'"),
        (f'{{"ek_hash":"{B}","tier":"edge","site":7}}', "site: not a string"),
        (f'{{"ek_hash":"{B}","tier":"edge","site":"s","labels":[]}}', "labels is not an object"),
        (f'{{"ek_hash":"{B}","tier":"edge","site":"s","labels":{{"a":1}}}}', "labels: The label a has no usable value"),
        ('{"a":' * 20 + "1" + "}" * 20, "The line is nested too deeply"),
    ],
)
def test_json_members(line: str, what: str) -> None:
    number, said = one_error(lines({"ek_hash": A, "tier": "edge", "site": "s"}) + b"\n" + line.encode())
    assert number == 2
    assert said.startswith(what)


def test_a_wrong_ek_hash_is_not_repeated() -> None:
    """With one digit too many it still tells which TPM it is, and errors get into logs."""
    _, what = one_error(csv(f"{A}f,,edge,s,,"))
    assert "aaaa" not in what
    assert "65 characters" in what


def test_duplicates_name_both_lines() -> None:
    found = errors(csv(f"{A},,edge,s,,x", f"{B},,edge,s,,y", f"{A.upper()},,edge,s,,z", f"{C},,edge,s,,x"))
    assert found == [(4, "this EK hash is on line 2 already"), (5, "this id is on line 2 already")]


def test_duplicates_in_json_lines() -> None:
    entry = {"ek_hash": A, "tier": "edge", "site": "s"}
    assert errors(lines(entry, entry)) == [(2, "this EK hash is on line 1 already")]


def test_the_same_serial_number_may_come_from_two_makers() -> None:
    assert len(parse_inventory(csv(f"{A},1,edge,s,,", f"{B},1,edge,s,,"))) == 2


# ---- All errors, within bounds ----------------------------------------------------------------------------------


def test_every_error_is_collected() -> None:
    found = errors(csv("x,,nowhere,,,", f"{A},,edge,s,,", "y,,edge,s,,"))
    assert [(line, what.split(":")[0]) for line, what in found] == [
        (2, "ek_hash"),
        (2, "tier"),
        (2, "site is missing"),
        (4, "ek_hash"),
    ]


@pytest.mark.parametrize(("count", "more"), [(99, False), (100, True), (5000, True)])
def test_reading_ends_at_a_hundred_errors(count: int, more: bool) -> None:
    with pytest.raises(InventoryInvalid) as invalid:
        parse_inventory(csv(*(f"{n},,edge,s,," for n in range(count))))
    assert len(invalid.value.errors) == min(count, 100)
    assert invalid.value.more is more
    assert "line 2" in str(invalid.value)


def test_a_large_file_takes_little_time() -> None:
    data = csv(*(f"{n:064x},,edge,s,rack={n}," for n in range(20_000)))
    start = time.process_time()
    assert len(parse_inventory(data)) == 20_000
    assert time.process_time() - start < 10


@RANDOM
@given(st.binary(max_size=600))
def test_any_octets_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(AttestdError):
        assert parse_inventory(data)


@RANDOM
@given(st.lists(st.text(max_size=40), max_size=6), st.integers(0, 5))
def test_any_cells_are_read_or_refused(cells: list[str], blanks: int) -> None:
    with contextlib.suppress(AttestdError):
        parse_inventory(csv(",".join(cells), "," * blanks, ",".join((A, *cells))))


@RANDOM
@given(
    st.dictionaries(st.sampled_from([*GOOD, "other"]), st.none() | st.text(max_size=9) | st.integers() | st.just({}))
)
def test_any_members_are_read_or_refused(members: dict[str, object]) -> None:
    with contextlib.suppress(AttestdError):
        parse_inventory(lines(GOOD, members))
