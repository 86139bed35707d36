"""Copies and deltas: what leads from one bundle to another, in few octets, and what leads nowhere."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.credentials.copies import Copy, Delta, read_name
from attestd.credentials.patches import (
    PatchMalformed,
    patched_serials,
    patched_status,
    serials_patch,
    status_patch,
)
from attestd.credentials.status import MAX_OCTETS, Status, StatusList
from attestd.errors import AttestdError, InputTooLarge, MalformedInput
from attestd.ids import Serial
from tests import authority as a

BASE = a.copy_of()


def delta(**lies: Any) -> dict[str, Any]:
    """A suspension and a serial number, as members."""
    after = a.copy_of(a.bundle(version=6, status=a.StatusList.of({3: Status.SUSPENDED}, 16), revoked=SERIALS))
    return a.without({**json.loads(after.since(BASE, "2.5")), **lies})


SERIALS = frozenset((Serial(0xBAD), Serial(0xBAE)))


# ---- Patches ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_status_patch_leads_from_any_list_to_any_other(old: bytes, new: bytes) -> None:
    assert patched_status(old, status_patch(old, new), len(new)) == new


@given(st.sets(st.binary(min_size=20, max_size=20)), st.sets(st.binary(min_size=20, max_size=20)))
def test_a_patch_of_serial_numbers_leads_from_any_to_any_other(old: set[bytes], new: set[bytes]) -> None:
    before, after = (b"".join(sorted(serials)) for serials in (old, new))
    assert patched_serials(before, *serials_patch(before, after)) == after


def test_one_state_among_a_million_takes_some_octets() -> None:
    old = StatusList.of({}, 1_000_000).octets
    new = StatusList.of({987_654: Status.SUSPENDED}, 1_000_000).octets
    patch = status_patch(old, new)
    assert len(patch) == 4
    assert patched_status(old, patch, len(new)) == new


def test_what_a_patch_does_not_mention_is_invalid() -> None:
    assert StatusList(patched_status(b"", b"", 2))[5] is Status.INVALID


@pytest.mark.parametrize(
    ("patch", "size"),
    [
        (b"\x80", 1),  # ends within a number
        (b"\x80\x00", 1),  # longer than it has to be
        (b"\x10", 1),  # entry 4 of 4
        (b"\x00\x00\x00\x00\x00", 1),
        (b"\xff" * 9 + b"\x01", 1),
    ],
)
def test_what_is_no_patch_of_a_status_list(patch: bytes, size: int) -> None:
    assert patched_status(b"", b"\x0c", size)  # entry 3 of 4
    with pytest.raises(PatchMalformed):
        patched_status(b"", patch, size)


def test_a_patched_list_is_bounded() -> None:
    with pytest.raises(InputTooLarge):
        patched_status(b"", b"", MAX_OCTETS + 1)


def test_what_is_no_patch_of_serial_numbers() -> None:
    one, two = b"1" * 20, b"2" * 20
    assert patched_serials(one, two, one) == two
    for came, went in ((one, b""), (b"", two), (two[:19], b""), (b"", one + b"x")):
        with pytest.raises(PatchMalformed):
            patched_serials(one, came, went)


# ---- Deltas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lies",
    [
        {},
        {"policy": "forbid(principal, action, resource);"},
        {"status": StatusList.of({3: Status.SUSPENDED}, 16)},
        {"status": StatusList.of({}, 4000)},
        {"status": StatusList(b"")},
        {"revoked": frozenset()},
        {"revoked": SERIALS},
        {"token_keys": {}},
        {"audit_head": "a.b.c"},
    ],
)
def test_a_delta_leads_to_the_very_same_copy(lies: dict[str, Any]) -> None:
    after = replace(a.copy_of(a.bundle(version=6, **lies)), signer=BASE.signer)
    octets = after.since(BASE, "2.5")
    assert BASE.after(Delta.read(octets)) == after
    assert len(octets) < len(after.to_bytes())


def test_a_delta_names_only_what_changed() -> None:
    after = replace(a.copy_of(a.bundle(version=6, status=StatusList.of({}, 16))), signer=BASE.signer)
    members = json.loads(after.since(BASE, "2.5"))
    assert members.keys() == {"v", "base", "statement", "parts"}
    assert members["parts"].keys() == {"status"}
    assert Delta.read(after.since(BASE, "2.5")).base == (2, 5)


def test_a_list_that_changed_everywhere_travels_whole() -> None:
    old = a.copy_of(a.bundle(status=StatusList(bytes(range(256)) * 16)))
    new = a.copy_of(a.bundle(version=6, status=StatusList(b"\xaa" * 4096)))
    members = json.loads(new.since(old, "2.5"))
    assert isinstance(members["parts"]["status"], str)
    assert old.after(Delta.read(new.since(old, "2.5"))).parts == new.parts


@pytest.mark.parametrize(
    "lie",
    [
        *({name: ...} for name in ("v", "base", "statement", "parts")),
        {"v": 2},
        {"more": 1},
        {"base": "2"},
        {"base": "2.05"},
        {"base": 2.5},
        {"signer": "x"},
        {"parts": {"status": 5}},
        {"parts": {"status": {"octets": 4}}},
        {"parts": {"status": {"octets": -1, "set": ""}}},
        {"parts": {"status": {"octets": MAX_OCTETS + 1, "set": ""}}},
        {"parts": {"status": {"octets": 4, "set": "", "more": 1}}},
        {"parts": {"revoked": {"add": ""}}},
        {"parts": {"revoked": {"add": "", "remove": "", "more": ""}}},
        {"parts": {"policy": {"octets": 4, "set": ""}}},
        {"parts": {"more": ""}},
    ],
)
def test_one_lie_in_a_delta(lie: dict[str, Any]) -> None:
    Delta.read(json.dumps(delta()).encode())
    with pytest.raises(MalformedInput):
        Delta.read(json.dumps(delta(**lie)).encode())


@given(st.binary(max_size=300))
def test_random_octets_are_no_delta(data: bytes) -> None:
    with pytest.raises(AttestdError):
        Delta.read(data)


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "01.1", "1.1.1", "1.-1", "1." + "9" * 17, "١.١"])
def test_what_names_no_bundle(text: str) -> None:
    assert read_name("0.10") == (0, 10)
    with pytest.raises(MalformedInput):
        read_name(text)


def test_a_copy_is_small() -> None:
    """A million devices, a thousand of them suspended anywhere, and a thousand revoked certificates."""
    states = {number * 997 % 1_000_000: Status.SUSPENDED for number in range(1000)}
    revoked = frozenset(Serial(1 + number * (1 << 140)) for number in range(1000))
    copy = a.copy_of(a.bundle(status=StatusList.of(states, 1_000_000), revoked=revoked))
    assert len(copy.to_bytes()) < 100_000
    assert Copy.read(copy.to_bytes()) == copy
