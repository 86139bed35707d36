"""Labels: what fits into a credential, and nothing that could break one."""

from __future__ import annotations

import pytest

from attestd.registry.labels import MAX_TOTAL, MAX_VALUE, MalformedLabels, parse_labels


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
