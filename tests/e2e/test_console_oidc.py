"""Signing in through an identity provider in a real browser: out to another site and back, with what browsers do to
cookies, redirects and referrers on the way. What each lie comes to is in tests/unit/attestd_console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestd.config import ConsoleSettings
from tests.browser import Browser, chromium, overflow, require_browser, served, violations
from tests.console import console_app
from tests.openid_provider import ADA, OpenIdProvider, configure
from tests.service import World

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_browser()
    folder: Path = tmp_path_factory.mktemp("oidc")
    world = World(folder / "instance")
    yield world
    world.close()


@pytest.fixture(scope="module")
def provider(world: World) -> Iterator[OpenIdProvider]:
    provider = OpenIdProvider(lambda: world.clock().timestamp())
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def opened(world: World, provider: OpenIdProvider) -> Iterator[tuple[str, Browser]]:
    with served(console_app(world).wsgi_app) as here, chromium(here.root) as browser:
        world.configure(console=ConsoleSettings(origin=here.origin))
        configure(world, provider)
        yield here.origin, browser


@pytest.fixture
def page(opened: tuple[str, Browser]) -> Iterator[Any]:
    origin, browser = opened
    yield browser.page(origin)
    browser.close_pages()


def test_out_to_the_provider_and_back_to_the_page_that_was_wanted(provider: OpenIdProvider, page: Any) -> None:
    provider.person = dict(ADA)
    page.goto("/approvals")
    page.get_by_role("button", name="Continue with Harbour SSO").click()
    page.wait_for_url("**/approvals")
    assert page.get_by_role("heading", level=1).inner_text() == "Approvals"
    assert page.get_by_text("ada").first.is_visible()
    page.goto("/")
    assert page.url.endswith("/")  # the session stays
    assert page.complaints == []


def test_who_is_refused_there_is_told_here_and_can_try_again(provider: OpenIdProvider, page: Any) -> None:
    provider.person = None
    page.goto("/sign-in?next=/fleet")
    page.get_by_role("button", name="Continue with Harbour SSO").click()
    page.wait_for_url("**/sign-in/return?**")
    told = page.get_by_text("The identity provider did not sign you in.")
    assert told.is_visible()
    assert "no" not in page.locator("#told b").all_inner_texts()
    assert violations(page) == []
    assert overflow(page) <= 0
    provider.person = dict(ADA)
    page.get_by_role("button", name="Continue with Harbour SSO").click()
    page.wait_for_url(lambda url: "/sign-in" not in url and "/authorize" not in url)
    assert page.get_by_text("ada").first.is_visible()


def test_a_link_that_somebody_else_began_signs_nobody_in(
    provider: OpenIdProvider, opened: tuple[str, Browser], page: Any
) -> None:
    """The sender is signed in at the provider, stops before coming back, and sends the address on."""
    provider.person = dict(ADA)
    origin, browser = opened
    thief = browser.page(origin)
    asked: list[str] = []

    def stop(route: Any) -> None:
        asked.append(route.request.url)
        route.abort()

    thief.route("**/authorize?**", stop)
    thief.goto("/sign-in")
    with thief.expect_event("requestfailed", lambda request: "/authorize?" in request.url):
        thief.get_by_role("button", name="Continue with Harbour SSO").click()
    answer = page.goto(provider.consent(asked[0]))
    assert answer.status == 400
    assert page.get_by_text("begun in another browser").is_visible()
    page.goto("/fleet")
    assert "/sign-in" in page.url
