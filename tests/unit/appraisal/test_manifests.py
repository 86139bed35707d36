"""Reference manifests: read whole or refused by the member's name; the same document has the same digest anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from attestd.appraisal.manifests import MAX_MANIFEST, ManifestInvalid, ReferenceManifest, Stage, Subject
from attestd.errors import AttestdError, InputTooLarge
from attestd.ids import Tier

TOML = """
name = "bike-4"
stage = "enforce"
not_before = 2026-11-01T00:00:00Z
not_after = 2027-05-01T02:00:00+02:00

[match]
tier = "device"
labels = {{ model = "bike-4", ring = "canary" }}
manufacturer = "INFINEON"
tpm_model = "SLB9670"

[pcrs.sha256]
7 = ["{good}", "{other}"]

[boot]
secure_boot = true
loaders = ["{good}"]
sbat_level = {{ at_least = 2023012900 }}
doubts = []
""".format(good="ab" * 32, other="cd" * 32)

GOOD: dict[str, Any] = {
    "name": "bike-4",
    "stage": "enforce",
    "match": {"tier": "device", "labels": {"model": "bike-4"}},
    "pcrs": {"sha256": {"7": ["ab" * 32]}},
    "boot": {"secure_boot": [True]},
}
BIKE = Subject(Tier.DEVICE, {"model": "bike-4", "ring": "canary", "colour": "red"}, "INFINEON", "SLB9670")


def test_what_people_write_is_read_whole() -> None:
    manifest = ReferenceManifest.from_toml(TOML.encode())
    assert (manifest.name, manifest.stage) == ("bike-4", Stage.ENFORCE)
    assert (manifest.not_before, manifest.not_after) == (1793491200, 1809129600)
    assert manifest.pcrs == {"sha256": {7: {b"\xab" * 32, b"\xcd" * 32}}}
    assert set(manifest.boot) == {"secure_boot", "loaders", "sbat_level", "doubts"}
    assert manifest.policy_id == f"bike-4@sha256:{manifest.digest}"
    assert ReferenceManifest.from_json(manifest.document) == manifest


def test_one_document_has_one_digest_however_it_is_written() -> None:
    first = ReferenceManifest.from_members(GOOD)
    assert ReferenceManifest.from_members(dict(reversed(GOOD.items()))).digest == first.digest
    assert ReferenceManifest.from_members(GOOD | {"name": "bike-5"}).digest != first.digest
    assert first.at_stage(Stage.ENFORCE) == first
    watched = first.at_stage(Stage.MONITOR)
    assert (watched.stage, watched.pcrs, watched.boot) == (Stage.MONITOR, first.pcrs, first.boot)


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"name": "../bike"}, "name"),
        ({"stage": "enforced"}, "stage"),
        ({"not_before": 5, "not_after": 4}, "end"),
        ({"not_before": 0}, "not_before"),
        ({"match": {"tier": "moon"}}, "tier"),
        ({"match": {"labels": {"a b": "c"}}}, "labels"),
        ({"match": {"labels": {"a": 1}}}, "labels"),
        ({"match": {"serial": "1"}}, "match"),
        ({"pcrs": {"md5": {"0": ["00"]}}}, "bank"),
        ({"pcrs": {"sha256": {}}}, "pcrs.sha256"),
        ({"pcrs": {"sha256": {"24": ["ab" * 32]}}}, "index"),
        ({"pcrs": {"sha256": {"07": ["ab" * 32]}}}, "index"),
        ({"pcrs": {"sha256": {"7": []}}}, "pcrs.sha256.7"),
        ({"pcrs": {"sha256": {"7": "ab" * 32}}}, "pcrs.sha256.7"),
        ({"pcrs": {"sha256": {"7": ["ab" * 31]}}}, "digest"),
        ({"pcrs": {"sha256": {"7": ["zz" * 32]}}}, "digest"),
        ({"boot": {"Secure Boot": True}}, "fact"),
        ({"boot": {"secure_boot": []}}, "secure_boot"),
        ({"boot": {"secure_boot": [1.5]}}, "secure_boot"),
        ({"boot": {"secure_boot": None}}, "secure_boot"),
        ({"boot": {"sbat_level": {"at_most": 1}}}, "at_least"),
        ({"boot": {"sbat_level": {"at_least": 1, "or": 2}}}, "sbat_level"),
        ({"boot": {"loaders": ["x"] * 4097}}, "loaders"),
        ({"boot": {"kernel_command_line": "x" * 4097}}, "kernel_command_line"),
        ({"boot": {}, "pcrs": {}}, "nothing"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_can_not_be_meant_is_refused_by_name(lie: dict[str, Any], said: str) -> None:
    with pytest.raises(AttestdError) as refused:
        ReferenceManifest.from_members(GOOD | lie)
    assert said in str(refused.value)


def test_a_draft_may_be_empty_and_nothing_else() -> None:
    empty = {"name": "bike-4", "stage": "learn"}
    assert ReferenceManifest.from_members(empty).pcrs == {}
    with pytest.raises(ManifestInvalid):
        ReferenceManifest.from_members(empty | {"stage": "monitor"})


@pytest.mark.parametrize("text", ["name = ", "\xff", "not_before = 2026-11-01T00:00:00\nname='a'\nstage='learn'"])
def test_what_is_not_toml_is_refused(text: str) -> None:
    with pytest.raises(ManifestInvalid):
        ReferenceManifest.from_toml(text.encode("latin-1"))


def test_size_is_bounded() -> None:
    with pytest.raises(InputTooLarge):
        ReferenceManifest.from_toml(b"#" * (MAX_MANIFEST + 1))


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"tier": "device"}, True),
        ({"tier": "edge"}, False),
        ({"labels": {"ring": "canary", "model": "bike-4"}}, True),
        ({"labels": {"ring": "wide"}}, False),
        ({"labels": {"absent": ""}}, False),
        ({"manufacturer": "INFINEON", "tpm_model": "SLB9670"}, True),
        ({"manufacturer": "AMD"}, False),
        ({"tpm_model": "SLB9665"}, False),
    ],
)
def test_a_manifest_speaks_of_those_who_match_in_all(match: dict[str, Any], fits: bool) -> None:
    manifest = ReferenceManifest.from_members(GOOD | {"match": match})
    assert manifest.applies(BIKE, 1) is fits


def test_a_manifest_speaks_for_its_time_alone() -> None:
    manifest = ReferenceManifest.from_members(GOOD | {"not_before": 100, "not_after": 200})
    assert [manifest.applies(BIKE, at) for at in (99, 100, 200, 201)] == [False, True, True, False]


def test_values_are_good_by_type_too() -> None:
    flag = ReferenceManifest.from_members(GOOD).boot["secure_boot"]
    assert flag.covers(True)
    assert not flag.covers(False)
    assert not flag.covers(1)
    level = ReferenceManifest.from_members(GOOD | {"boot": {"sbat_level": {"at_least": 3}}}).boot["sbat_level"]
    assert [level.covers(value) for value in (2, 3, 4, True, "4")] == [False, True, True, False, False]
