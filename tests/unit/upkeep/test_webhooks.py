"""Webhooks: told once it is sealed, in order, signed, again until it is taken, and by one process at a time."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from attestd.config import SettingInvalid, Settings, WebhookSettings
from attestd.registry import audit, followers
from attestd.registry.engine import Registry
from attestd.upkeep.webhooks import Deliveries, Webhook
from tests.service import World

SECRET = b"s" * 32


class Receiver:
    """What came, and what is answered."""

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []
        self.status = 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.seen.append(request)
        if self.status == 0:
            raise httpx.ConnectTimeout("nobody there")
        return httpx.Response(self.status)

    @property
    def acts(self) -> list[str]:
        return [json.loads(request.content)["data"]["act"] for request in self.seen]


class Site:
    """A service's trail, and webhooks that follow it."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.now = self.world.clock()
        secret = folder / "hook.secret"
        secret.write_bytes(b"whsec_" + base64.b64encode(SECRET) + b"\n")
        secret.chmod(0o600)
        self.secret = secret
        self.happens()  # what making this world left in the trail

    def clock(self) -> datetime:
        return self.now

    @property
    def registry(self) -> Registry:
        return self.world.service.registry

    def happens(self, *acts: str) -> None:
        """Rows are written and sealed."""
        with self.registry.acting() as c:
            for act in acts:
                audit.append(c, at=1, actor="ada", act=act, subject="till-1", request_id=None, detail={"reason": act})
        self.world.service.publication.audit.seal(self.now)

    def deliveries(self, receiver: Receiver, *, events: tuple[str, ...] = ("*",)) -> Deliveries:
        hook = WebhookSettings("pager", "https://pager.example/x", str(self.secret), events)
        settings = _with_hooks(self.world.service.settings, hook)
        made = Deliveries(self.registry, settings, client=httpx.Client(transport=httpx.MockTransport(receiver)))
        made.deliver(self.clock)  # it begins here, at the trail's end
        return made


def _with_hooks(settings: Settings, *hooks: WebhookSettings) -> Settings:
    return replace(settings, webhooks=hooks)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.world.close()


def test_what_happens_is_told_in_order_and_once(site: Site) -> None:
    receiver = Receiver()
    hooks = site.deliveries(receiver)
    site.happens("approve", "quarantine")
    assert hooks.deliver(site.clock) == 2
    site.happens("release")
    assert hooks.deliver(site.clock) == 1
    assert hooks.deliver(site.clock) == 0
    assert receiver.acts == ["approve", "quarantine", "release"]
    event = json.loads(receiver.seen[1].content)
    assert event["type"] == "attestd.quarantine"
    assert event["data"]["subject"] == "till-1"
    assert event["data"]["detail"] == {"reason": "quarantine"}


def test_the_receiver_can_tell_who_speaks(site: Site) -> None:
    receiver = Receiver()
    hooks = site.deliveries(receiver)
    site.happens("quarantine")
    hooks.deliver(site.clock)
    (request,) = receiver.seen
    number, at = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    tag = hmac.new(SECRET, f"{number}.{at}.".encode() + request.content, hashlib.sha256).digest()
    assert request.headers["webhook-signature"] == "v1," + base64.b64encode(tag).decode()
    assert at == str(int(site.now.timestamp()))


def test_only_what_was_asked_for(site: Site) -> None:
    receiver = Receiver()
    hooks = site.deliveries(receiver, events=("quarantine", "release"))
    site.happens("approve", "quarantine", "token", "release")
    hooks.deliver(site.clock)
    assert receiver.acts == ["quarantine", "release"]


def test_what_nobody_asked_for_keeps_nothing_back(site: Site) -> None:
    """A busy service commits hundreds of acts a second, of which a receiver wants few."""
    receiver = Receiver()
    hooks = site.deliveries(receiver, events=("quarantine",))
    site.happens(*["attest"] * 300, "quarantine", *["attest"] * 300)
    assert hooks.deliver(site.clock) == 1
    assert hooks.deliver(site.clock) == 0


def test_a_round_tells_a_few_and_the_next_goes_on_where_it_was(site: Site) -> None:
    receiver = Receiver()
    hooks = site.deliveries(receiver)
    site.happens(*[f"act-{number}" for number in range(25)])
    assert [hooks.deliver(site.clock) for _ in range(4)] == [10, 10, 5, 0]
    assert receiver.acts == [f"act-{number}" for number in range(25)]


@pytest.mark.parametrize("status", [500, 301, 0])
def test_what_was_not_taken_is_told_again_later_and_nothing_before_it(site: Site, status: int) -> None:
    receiver = Receiver()
    hooks = site.deliveries(receiver)
    site.happens("approve", "quarantine")
    receiver.status = status
    assert hooks.deliver(site.clock) == 0
    assert hooks.deliver(site.clock) == 0
    assert receiver.acts == ["approve"], "it is not asked again at once"
    receiver.status = 204
    site.now += timedelta(seconds=3)
    assert hooks.deliver(site.clock) == 2
    assert receiver.acts == ["approve", "approve", "quarantine"]


def test_pauses_grow_and_end(site: Site) -> None:
    receiver = Receiver()
    hooks = site.deliveries(receiver)
    site.happens("approve")
    receiver.status = 503
    for _ in range(2000):
        hooks.deliver(site.clock)
        site.now += timedelta(seconds=2)
    assert 10 < len(receiver.seen) < 25


def test_one_process_at_a_time_and_another_after_it(site: Site) -> None:
    first, second = Receiver(), Receiver()
    hooks = site.deliveries(first)
    others = site.deliveries(second)
    site.happens("approve")
    now = int(site.now.timestamp())
    with site.registry.acting() as c:
        assert followers.hold(c, "pager", now=now, until=now + 60) is not None
    assert others.deliver(site.clock) == 0, "somebody holds it"
    site.now += timedelta(seconds=61)  # and died
    assert others.deliver(site.clock) == 1
    assert hooks.deliver(site.clock) == 0
    assert (first.acts, second.acts) == ([], ["approve"])


def test_rows_that_were_archived_meanwhile_are_passed_over(site: Site) -> None:
    receiver = Receiver()
    hooks = site.deliveries(receiver)
    site.happens("approve", "quarantine")
    with site.registry.acting() as c:
        rows = [row for row in audit.page(c, limit=10) if row.act == "approve" and row.subject == "till-1"]
        leaf = rows[0].leaf
        assert leaf is not None
        audit.remove_archived(c, leaf, leaf + 1)
    hooks.deliver(site.clock)
    assert receiver.acts == ["quarantine"]


@pytest.mark.parametrize(
    ("url", "secret", "said"),
    [
        ("http://pager.example/", b"whsec_" + base64.b64encode(SECRET), "url"),
        ("pager", b"whsec_" + base64.b64encode(SECRET), "url"),
        ("https://pager.example/", b"whsec_" + base64.b64encode(b"short"), "secret"),
        ("https://pager.example/", b"not base64!", "secret"),
    ],
)
def test_a_webhook_that_could_not_be_trusted_is_refused(tmp_path: Path, url: str, secret: bytes, said: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(secret)
    path.chmod(0o600)
    with pytest.raises(SettingInvalid) as refused:
        Webhook.of(WebhookSettings("pager", url, "secret"), tmp_path)
    assert said in str(refused.value)
    assert "c2" not in str(refused.value)


def test_showing_a_webhook_shows_no_secret(site: Site) -> None:
    hook = Webhook.of(WebhookSettings("pager", "http://127.0.0.1:1/", site.secret.name), site.secret.parent)
    assert "ss" not in repr(hook)
