"""Numbers and times as people read them."""

from __future__ import annotations

import pytest

from attestd_console import figures


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (2640, "44 min"),
        (3600, "1 h"),
        (7920, "2 h 12 min"),
        (39600 + 1200, "11 h"),
        (86400, "1 d"),
        (90000, "1 d 1 h"),
        (4 * 86400 + 7200, "4 d"),
        (-5, "0 s"),
    ],
)
def test_a_span_has_two_units_at_most(seconds: int, said: str) -> None:
    assert figures.span(seconds) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (0, 0, "–"),
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (41873, 42318, "98.9 %"),
        (999_999, 1_000_000, "99.99 %"),
        (1, 1_000_000, "0.01 %"),
        (1, 2, "50.0 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_none(part: int, whole: int, said: str) -> None:
    assert figures.share(part, whole) == said


@pytest.mark.parametrize("unix", [-1, 0, 1780315200, 1 << 40, 1 << 62])
def test_any_time_that_a_device_says_can_be_shown(unix: int) -> None:
    assert figures.exact(unix).endswith("UTC")
    assert figures.machine(unix).endswith("Z")


@pytest.mark.parametrize(
    ("most", "top"), [(0, 2), (1, 2), (2, 2), (3, 4), (5, 6), (9, 10), (13, 20), (1001, 2000), (860, 1000)]
)
def test_a_scale_fits_what_is_shown(most: int, top: int) -> None:
    assert figures.scale(most) == top


@pytest.mark.parametrize(("number", "said"), [(0, "0"), (500, "500"), (1000, "1k"), (2500, "2.5k"), (3_000_000, "3M")])
def test_an_axis_is_brief(number: int, said: str) -> None:
    assert figures.brief(number) == said


def test_a_digest_keeps_both_ends() -> None:
    assert figures.short("0123456789abcdef0123") == "01234567…0123"
    assert figures.short("short") == "short"


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("id:00070055", "7.85"),
        ("id:073E", "7.62"),
        ("id:0007005", "id:0007005"),
        ("id:0007005g", "id:0007005g"),
        ("00070055", "00070055"),
        ("1.16", "1.16"),
        ("", ""),
    ],
)
def test_a_chip_s_firmware_is_a_number_that_advisories_use(version: str, said: str) -> None:
    assert figures.firmware(version) == said
