"""Attempts in words: what they say is what is decided, and what nobody knows is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from attestd.errors import AttestdError
from attestd.policy import PolicySet, default_policy
from attestd.policy.situations import LabelsMalformed, Situation, read_labels
from attestd.protocol.encoding import Members, read_object, write_object

WHOLE: dict[str, Any] = {
    "device": {
        "id": "bike-1",
        "tier": "device",
        "site": "munich",
        "labels": {"fleet": "bikes"},
        "trust": {"instance-identity": "affirming", "executables": 3},
        "boot": {"secure_boot": True, "dbx_count": 4, "tpm.maker": "IFX"},
        "attested_at": "2026-03-01T11:59:00Z",
    },
    "boundary": {
        "name": "field-to-munich",
        "from": {"tier": "device", "site": "munich"},
        "to": {"tier": "edge", "site": "munich"},
    },
    "method": "POST",
    "path": "/telemetry",
    "labels": {"residency": "EU"},
    "claims": {"origin-site": "munich"},
    "at": "2026-03-01T12:00:00Z",
}


def read(members: dict[str, Any]) -> Situation:
    return Situation.read(Members(members, "attempt"))


def changed(path: str, value: Any) -> dict[str, Any]:
    members = copy.deepcopy(WHOLE)
    *tables, name = path.split(".")
    target = members
    for table in tables:
        target = target[table]
    if value is ...:
        del target[name]
    else:
        target[name] = value
    return members


def decides(condition: str, members: dict[str, Any]) -> bool:
    text = f'permit (principal, action == Action::"cross", resource) when {{ {condition} }};'
    return read(members).decide(PolicySet.parse(text, 1)).allowed


def test_what_is_written_is_read_again():
    for members in (WHOLE, changed("boundary.from.site", ...)):
        again = read(read_object(write_object(read(members).to_members()), limit=10_000))
        assert again == read(members)


def test_a_token_too():
    members = {"device": WHOLE["device"], "audience": "billing", "at": WHOLE["at"]}
    text = '@id("t") permit (principal, action == Action::"token", resource == Audience::"billing");'
    situation = read(members)
    assert read(situation.to_members()) == situation
    assert situation.decide(PolicySet.parse(text, 1)).policy_ids == ("t",)
    assert not read(members | {"audience": "other"}).decide(PolicySet.parse(text, 1)).allowed


@pytest.mark.parametrize(
    ("condition", "path", "lie"),
    [
        ('principal.id == "bike-1"', "device.id", "bike-2"),
        ('principal == Device::"bike-1"', "device.id", "bike-2"),
        ('principal.tier == Tier::"device"', "device.tier", "edge"),
        ('principal.site == "munich"', "device.site", "berlin"),
        ('principal.hasTag("fleet") && principal.getTag("fleet") == "bikes"', "device.labels", {}),
        ('principal.trust.instance_identity == Trust::"affirming"', "device.trust.instance-identity", "warning"),
        ('principal.trust.executables == Trust::"affirming"', "device.trust.executables", 96),
        ('principal.boot.flags.hasTag("secure_boot")', "device.boot.secure_boot", "true"),
        ('principal.boot.numbers.hasTag("dbx_count")', "device.boot.dbx_count", True),
        ('principal.boot.texts.hasTag("tpm.maker")', "device.boot", {}),
        ('principal has attested_at && principal.attested_at < datetime("2026-03-01T12:00:00Z")',
         "device.attested_at", "2026-03-01T12:00:00Z"),
        ('resource == Boundary::"field-to-munich"', "boundary.name", "other"),
        ('resource.from.tier == Tier::"device"', "boundary.from.tier", "edge"),
        ("resource.from has site", "boundary.from.site", ...),
        ('resource.to.tier == Tier::"edge"', "boundary.to.tier", "cloud"),
        ('resource.to.site == "munich"', "boundary.to.site", "berlin"),
        ('context.method == "POST"', "method", "GET"),
        ('context.path == "/telemetry"', "path", "/"),
        ('context.labels.hasTag("residency") && context.labels.getTag("residency") == "EU"', "labels.residency", "US"),
        ('context.claims.hasTag("origin-site")', "claims", {}),
        ('context.now == datetime("2026-03-01T12:00:00Z")', "at", "2026-03-01T12:00:01Z"),
    ],
)  # fmt: skip
def test_each_member_counts(condition, path, lie):
    assert decides(condition, WHOLE)
    assert not decides(condition, changed(path, lie))


def test_labels_and_claims_are_not_each_other():
    for mine, other in (("labels", "claims"), ("claims", "labels")):
        members = changed(mine, {"x": "y"}) | {other: {}}
        assert decides(f'context.{mine}.hasTag("x")', members)
        assert not decides(f'context.{other}.hasTag("x")', members)


@pytest.mark.parametrize(
    ("path", "lie"),
    [
        ("at", ...), ("at", "yesterday"), ("at", 5), ("device", ...), ("device.id", "a/b"), ("device.tier", "moon"),
        ("device.site", ...), ("device.site", "A B"), ("device.trust.executables", "good"), ("device.trust.hard", 2),
        ("device.trust.executables", 1000), ("device.trust.executables", True), ("device.labels", {"a b": "c"}),
        ("device.labels.a", 1), ("device.boot.x", 1.5), ("device.boot.x", None), ("device.attested_at", 0),
        ("device.attested_at", True), ("at", "0001-01-01T00:00:00+14:00"),
        ("device.attested_at", "1960-01-01"), ("device.tpm", "x"), ("boundary", ...), ("boundary", "field-to-munich"),
        ("boundary.name", "A"), ("boundary.from", ...), ("boundary.from.country", "de"), ("boundary.to.site", ...),
        ("method", 1), ("path", "x" * 8193), ("labels", {"a b": "c"}), ("labels", {"a": "\n"}), ("labels", ["a"]),
        ("claims", {"a": 1}), ("claims", {f"a{n}": "" for n in range(17)}), ("audiance", "x"), ("audience", "x"),
    ],
)  # fmt: skip
def test_what_is_no_attempt(path, lie):
    read(WHOLE)
    with pytest.raises(AttestdError):
        read(changed(path, lie))


@pytest.mark.parametrize("labels", [{"": "a"}, {"-a": "b"}, {"a": "x" * 257}, {"a": "\x7f"}, {"a": None}, {"a\n": "b"}])
def test_labels_that_are_none(labels):
    assert read_labels({"a": "x" * 256, "A/b.c_d-e": ""}) == {"a": "x" * 256, "A/b.c_d-e": ""}
    with pytest.raises(LabelsMalformed):
        read_labels(labels)


def test_a_moment_without_a_zone_is_utc():
    assert read(changed("at", "2026-03-01T12:00:00")).now == read(WHOLE).now
    assert read(changed("at", "2026-03-01T13:00:00+01:00")).now == read(WHOLE).now


def test_the_default_policy_by_words():
    policies = PolicySet.parse(default_policy(), 1)
    assert read(WHOLE).decide(policies).allowed
    assert not read(changed("device.site", "berlin")).decide(policies).allowed


def test_a_time_that_is_none_fails_no_record():
    """A credential's number of seconds may be beyond the calendar; what is decided then is denied, and told."""
    beyond = changed("device.attested_at", 1 << 39)
    assert read(read(beyond).to_members()) == read(beyond)
    timed = 'permit (principal, action == Action::"cross", resource) when { principal has attested_at };'
    decision = read(beyond).decide(PolicySet.parse(timed, 1))
    assert not decision.allowed
    assert "engine failed" in decision.reasons[0]
