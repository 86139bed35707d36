"""TOML that people read and that reads back as what it was written from."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.appraisal.manifests import ReferenceManifest
from attestd.appraisal.writing import write_toml

WHOLE: dict[str, Any] = {
    "name": "bike-4",
    "stage": "monitor",
    "not_before": 1_793_491_200,
    "not_after": 1_809_129_600,
    "match": {"tier": "device", "labels": {"ring": "canary", "site/row": "7"}, "manufacturer": "INFINEON"},
    "pcrs": {"sha256": {"0": ["11" * 32, "22" * 32], "14": ["44" * 32], "2": ["33" * 32]}},
    "boot": {
        "secure_boot": True,
        "loaders": ["aa" * 32, "bb" * 32],
        "sbat_level": {"at_least": 2023012900},
        "kernel_command_lines": ['root="x" \\ \x7f ü quiet'],
        "doubts": [],
    },
    "runtime": {
        "violations": "any",
        "otherwise": "listed",
        "digests": ["sha256:" + "cc" * 32],
        "files": {"/bin/two words": ["sha256:" + "dd" * 32], '/opt/"q"\n': ["sha512:" + "ee" * 64]},
        "rules": [{"path": "/var/**", "is": "ignore"}, {"path": "/opt/**", "is": "listed"}],
        "buffers": [{"name": "kexec-cmdline", "is": "listed", "digests": ["sha256:" + "ff" * 32]}],
    },
}


def test_a_whole_manifest_reads_back() -> None:
    manifest = ReferenceManifest.from_members(WHOLE)
    again = ReferenceManifest.from_toml(write_toml(WHOLE, {"": ["A draft."]}).encode())
    assert again.digest == manifest.digest


def test_it_is_in_the_order_in_which_people_read_it() -> None:
    text = write_toml(dict(sorted(WHOLE.items())))
    heads = [line for line in text.splitlines() if line.startswith("[")]
    assert text.startswith('name = "bike-4"\nstage = "monitor"\nnot_before = 2026-11-01T00:00:00Z\n')
    assert heads[:4] == ["[match]", "[pcrs.sha256]", "[boot]", "[runtime]"]
    assert heads.count("[[runtime.rules]]") == 2
    assert 'labels = { ring = "canary", "site/row" = "7" }' in text
    assert text.index("\n2 = ") < text.index("\n14 = ")


def test_comments_stand_before_what_they_speak_of() -> None:
    notes = {"": ["Head"], "boot": ["Boot"], "boot.loaders": ["Loaders", "more"], "pcrs.sha256": ["Values"]}
    text = write_toml(WHOLE, notes)
    assert text.startswith("# Head\n\nname")
    assert "\n# Boot\n[boot]\n" in text
    assert "\n# Loaders\n# more\nloaders = [" in text
    assert "\n# Values\n[pcrs.sha256]\n" in text
    assert tomllib.loads(text)["boot"] == WHOLE["boot"]


def test_a_comment_can_t_become_anything_else() -> None:
    text = write_toml(WHOLE, {"": ['x\nstage = "enforce"\r\n[match]\x00\u2028']})
    assert ReferenceManifest.from_toml(text.encode()).digest == ReferenceManifest.from_members(WHOLE).digest


def test_a_time_beyond_what_toml_can_say() -> None:
    late = {**WHOLE, "not_after": (1 << 40) - 1}
    assert ReferenceManifest.from_toml(write_toml(late).encode()).not_after == (1 << 40) - 1


def test_what_no_manifest_holds() -> None:
    with pytest.raises(TypeError):
        write_toml({"name": 1.5})


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = TEXTS | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1)
TREES = st.dictionaries(
    TEXTS,
    st.recursive(
        PLAIN | st.lists(PLAIN, max_size=4),
        lambda inner: (
            st.dictionaries(TEXTS, inner, max_size=4)
            | st.lists(st.dictionaries(TEXTS, inner, max_size=3), min_size=1, max_size=3)
        ),
        max_leaves=12,
    ),
    max_size=5,
)


@given(TREES)
def test_whatever_is_written_reads_back(members: dict[str, Any]) -> None:
    found = tomllib.loads(write_toml(members))
    for name in ("not_before", "not_after"):
        if isinstance(found.get(name), datetime):
            found[name] = int(found[name].astimezone(UTC).timestamp())
    assert found == members
