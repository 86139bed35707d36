"""Subjects that name their device."""

from __future__ import annotations

import pytest

from attestd.ids import DeviceId, Site, Tier
from attestd_edge.nats.subjects import SubjectMalformed, Template, read_name, write_name

FIELD = Template.parse("field.{site}.{device}.>")


@pytest.mark.parametrize(
    "text", ["field.{site}.{device}.>", "a", "*.b", "$JS.API.INFO", "_INBOX.{device}.>", "{tier}.x", ">"]
)
def test_subjects_that_can_be_filled_in(text):
    assert str(Template.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "a..b", "a.>.b", "a b", "a.{name}", "a.x{site}", "a.**", "a\n", "é", "a.", "a." * 400 + "a", "a~b"],
)
def test_what_is_no_subject(text):
    with pytest.raises(SubjectMalformed):
        Template.parse(text)


def test_filled_in_for_one_device():
    assert FIELD.fill(Tier.DEVICE, Site("munich"), DeviceId("bike-1")) == "field.munich.bike-1.>"
    assert Template.parse("{tier}.x").fill(Tier.EDGE, Site("a"), DeviceId("b")) == "edge.x"


def test_no_two_names_meet():
    """Dots are borders between tokens, and names may hold them."""
    near = [("a", "b.c"), ("a.b", "c"), ("a", "b"), ("a.b.c", "d"), ("a", "b-c"), ("a", "b_c")]
    filled = {FIELD.fill(Tier.DEVICE, Site(site), DeviceId(device)) for site, device in near}
    assert len(filled) == len(near)
    assert all(subject.count(".") == 3 for subject in filled)
    assert read_name(write_name("a.b-c_d")) == "a.b-c_d"


@pytest.mark.parametrize(
    ("subject", "found"),
    [
        ("field.munich.bike-1.t", ({"{site}": "munich", "{device}": "bike-1"}, "t")),
        ("field.munich.bike-1.t.u", ({"{site}": "munich", "{device}": "bike-1"}, "t.u")),
        ("field.munich.bike-1", None),
        ("field.munich", None),
        ("other.munich.bike-1.t", None),
    ],
)
def test_names_in_a_subject(subject, found):
    assert FIELD.names_in(subject) == found


def test_a_name_that_comes_twice_is_one_name():
    template = Template.parse("{device}.to.{device}")
    assert template.names_in("a.to.a") == ({"{device}": "a"}, "")
    assert template.names_in("a.to.b") is None


def test_moved_to_another_template():
    names, rest = FIELD.names_in("field.munich.a~b.t.u") or ({}, "")
    assert Template.parse("cleared.{device}.{site}.>").moved(names, rest) == "cleared.a~b.munich.t.u"


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("field.>", "field.{site}.x", True),
        ("field.{site}.x", "field.*.x", True),
        ("field.a.x", "field.b.x", False),
        ("field.a", "field.a.b", False),
        (">", "a", True),
        ("{device}.a", "b.a", True),
        ("{device}.a", "b.c", False),
    ],
)
def test_subjects_that_meet(one, other, meet):
    assert Template.parse(one).meets(Template.parse(other)) is meet
    assert Template.parse(other).meets(Template.parse(one)) is meet


@pytest.mark.parametrize(
    ("mine", "apart"),
    [
        ("field.{site}.{device}.>", True),
        ("field.{site}.{device}.t", True),
        ("field.{site}.*.>", False),
        ("field.{site}.>", False),
        ("field.{device}.{site}.>", False),
        ("*.{site}.{device}.x", True),
        ("field.munich.{device}.x", False),
        (">", False),
    ],
)
def test_who_can_write_under_another_name(mine, apart):
    assert Template.parse(mine).tells_apart(FIELD) is apart
