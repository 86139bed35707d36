"""Labels: what fits into a credential, and nothing that could break one."""

from __future__ import annotations

import pytest

from attestd.registry.labels import (
    MAX_TOTAL,
    MAX_VALUE,
    Labelling,
    LabelsUnchanged,
    MalformedLabels,
    NoLabelNamed,
    parse_labels,
)


@pytest.mark.parametrize(
    "labels",
    [{}, {"rack": "2"}, {"A.b_c/d-9": "with spaces, ümlauts; and = signs"}, {"a" * 63: "x" * MAX_VALUE}, {"empty": ""}],
    ids=str,
)
def test_accepted(labels: dict[str, str]) -> None:
    assert parse_labels(labels) == labels


@pytest.mark.parametrize(
    "labels",
    [
        {"": "x"},
        {"a b": "x"},
        {"-a": "x"},
        {"ä": "x"},
        {"a\n": "x"},
        {"a" * 64: "x"},
        {"a": "x" * (MAX_VALUE + 1)},
        {"a": "line\nbreak"},
        {"a": "zero\x00"},
        {"a": "\u202eright to left"},
        {"a": 1},
        {"a": None},
        {"good": "x", "a": ["x"]},
    ],
    ids=str,
)
def test_refused(labels: dict[str, object]) -> None:
    with pytest.raises(MalformedLabels):
        parse_labels(labels)


def test_together_they_fit_into_a_credential() -> None:
    labels = {f"{n}": "x" * 100 for n in range(4)}
    room = MAX_TOTAL - len('{"0":"","1":"","2":"","3":"","4":""}') - 400
    assert parse_labels(labels | {"4": "y" * room})
    with pytest.raises(MalformedLabels, match="together"):
        parse_labels(labels | {"4": "y" * (room + 1)})


# ---- Changing them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "removed", "new"),
    [
        ({"ring": "stable"}, set(), {"ring": "stable", "rack": "2"}),
        ({"site-class": "a"}, set(), {"ring": "canary", "rack": "2", "site-class": "a"}),
        ({}, {"ring"}, {"rack": "2"}),
        ({"a": "1"}, {"ring", "rack", "no such"[:2]}, {"a": "1"}),
        ({}, {"ring", "rack"}, {}),
    ],
)
def test_what_is_not_named_stays(values: dict[str, str], removed: set[str], new: dict[str, str]) -> None:
    assert Labelling(values, removed).of({"ring": "canary", "rack": "2"}) == new


def test_something_is_to_be_named() -> None:
    with pytest.raises(NoLabelNamed):
        Labelling()


@pytest.mark.parametrize(
    ("values", "removed"), [({"a b": "x"}, set()), ({}, {"a b"}), ({"a": "1"}, {"a"}), ({"a": "\u202e"}, {"b"})]
)
def test_a_change_is_well_formed(values: dict[str, str], removed: set[str]) -> None:
    with pytest.raises(MalformedLabels):
        Labelling(values, removed)


@pytest.mark.parametrize(("values", "removed"), [({"ring": "canary"}, set()), ({}, {"nothing"})])
def test_a_change_changes_something(values: dict[str, str], removed: set[str]) -> None:
    with pytest.raises(LabelsUnchanged):
        Labelling(values, removed).of({"ring": "canary"})


def test_with_those_that_stay_they_fit_into_a_credential() -> None:
    had = {f"{n}": "x" * 100 for n in range(4)}
    room = MAX_TOTAL - len('{"0":"","1":"","2":"","3":"","4":""}') - 400
    assert Labelling({"4": "y" * room}).of(had)
    with pytest.raises(MalformedLabels, match="together"):
        Labelling({"4": "y" * (room + 1)}).of(had)
    assert Labelling({"4": "y" * (room + 1)}, {"0"}).of(had)
