"""Every page of the console with something on it, in a real browser: axe finds nothing and nothing sticks out, in
light, dark and phone width, and from 320 to 1920 px."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import PHONE, overflow, require_browser, violations
from tests.sights import NO_PAGES, SIGHTS, Sight
from tests.stage import Stage

pytestmark = [pytest.mark.once, pytest.mark.timeout(600)]
WIDTHS = (320, 390, 640, 1024, 1920)
CONTRAST = ["color-contrast"]
# What another width may change: the rest of axe's rules look at the same markup.
LAID_OUT = [*CONTRAST, "target-size", "scrollable-region-focusable", "link-in-text-block", "bypass", "list", "listitem"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    require_browser()
    with Stage(tmp_path_factory.mktemp("sights")) as stage:
        yield stage


@pytest.mark.parametrize("sight", SIGHTS, ids=lambda sight: sight.name)
def test_every_page_can_be_read(sight: Sight, stage: Stage) -> None:
    page = stage.show(sight)
    try:
        assert page.locator("h1").count() == 1
        assert violations(page) == []
        page.emulate_media(color_scheme="dark")
        assert violations(page, rules=CONTRAST) == []
        page.set_viewport_size(PHONE)
        assert violations(page, rules=LAID_OUT) == []
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert overflow(page) <= 0, width
    finally:
        page.close()


def test_every_address_is_seen(stage: Stage) -> None:
    """A page that is added without a line in tests/sights.py is not looked at."""
    addresses = stage.fleet.app.url_map.bind("localhost")
    seen = set()
    for sight in SIGHTS:
        if sight.name != "not-found":
            rule, _ = addresses.match(sight.at(stage.fleet).partition("?")[0], return_rule=True)
            seen.add(rule.rule)
    there = {rule.rule for rule in stage.fleet.app.url_map.iter_rules() if "GET" in (rule.methods or ())}
    assert there - NO_PAGES - seen == set()
    assert there >= NO_PAGES
