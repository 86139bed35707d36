"""Texts of devices: what can't be seen is shown as what it is, and everything else stays."""

from __future__ import annotations

import pytest

from attestd_console.visible import visible


@pytest.mark.parametrize("text", ["", "gw-1", "Gerät 7", "装置", "a\N{NO-BREAK SPACE}b", "<b>"])
def test_what_can_be_seen_stays(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b", "a⟨U+0000⟩b"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("a\nb", "a⟨U+000A⟩b"),
        ("\u202egnp.exe", "⟨U+202E⟩gnp.exe"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("a\u200bb", "a⟨U+200B⟩b"),
        ("\ufeffx", "⟨U+FEFF⟩x"),
        ("\u2028", "⟨U+2028⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),
        ("z\u0300", "z◌\u0300"),
    ],
)
def test_what_can_not_be_seen_is_named(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_it_is_bounded() -> None:
    assert len(visible("x" * 10_000)) == 300
    assert visible("x" * 10, 5) == "xxxx…"
