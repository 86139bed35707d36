"""The edge and a message broker: what it brings is verified as everything is, and the service is asked beside it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator

import pytest

from attestd.broker.links import BrokerUnreachable
from attestd.broker.messages import BundleMessage
from attestd_edge.refresh import Refresher
from attestd_edge.views import BundleUnusable
from tests import authority as a
from tests.unit.attestd_edge.test_edge_history import LEAVES, head
from tests.unit.attestd_edge.test_edge_history import Service as Log
from tests.unit.attestd_edge.test_edge_refresh import fake, files, service  # noqa: F401

Step = BundleMessage | None | Callable[[], BundleMessage | None]


class Broker:
    """Brings what it is told to, then the connection ends."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.knew: list[str | None] = []

    def follow(self, known: Callable[[], str | None]) -> Generator[BundleMessage | None, None, None]:
        for step in self.steps:
            self.knew.append(known())
            yield step() if callable(step) else step
        raise BrokerUnreachable("The connection ended.")


@pytest.fixture
def hearing(store, service, files, fake):  # noqa: F811
    """A refresher that has asked the service once."""
    from attestd_edge.identity import ProxyIdentity

    def made() -> Refresher:
        refresher = Refresher(
            store,
            service,
            load_identity=lambda: ProxyIdentity.load(*files),
            certificate_file=files[1],
            trust_domain=a.TRUST_DOMAIN,
            chance=lambda: 0.5,
        )
        refresher.tick()
        fake.asked.clear()
        return refresher

    return made


def delta_of(fake, **changes) -> BundleMessage:  # noqa: F811
    """What the service publishes next."""
    base = fake.etag.strip('"')
    fake.publish(**changes)
    return BundleMessage(fake.etag.strip('"'), base, None, fake.deltas[f'"{base}"'])


ALIVE = BundleMessage("2.5")


def asked(fake) -> int:  # noqa: F811
    return fake.asked.count("GET /v1/bundle")


def test_a_delta_is_taken_and_nobody_is_asked(hearing, store, fake):  # noqa: F811
    refresher = hearing()
    broker = Broker(ALIVE, delta_of(fake, version=6), ALIVE)
    refresher.hear(broker)
    assert store.name == "2.6"
    assert fake.asked == []
    assert broker.knew == ["2.5", "2.5", "2.6"]
    assert refresher.connection == "listening"


def test_a_whole_copy_is_taken(hearing, store, fake):  # noqa: F811
    refresher = hearing()
    fake.publish(version=7)
    refresher.hear(Broker(BundleMessage("2.7", None, None, fake.content)))
    assert (store.name, fake.asked) == ("2.7", [])


def test_without_the_service(hearing, store, fake):  # noqa: F811
    refresher = hearing()
    delta, fake.down = delta_of(fake, version=6), True
    refresher.tick()
    assert refresher.connection == "cut off"
    refresher.hear(Broker(delta))
    assert (store.name, refresher.connection) == ("2.6", "listening")


def test_who_publishes_is_not_heard_yet(hearing, fake):  # noqa: F811
    """Until then the service is asked, or an edge would be deaf at a broker that nobody publishes to."""
    refresher = hearing()
    refresher.hear(Broker(None))
    assert asked(fake) == 1
    assert refresher.connection == "connected"
    refresher = hearing()
    refresher.hear(Broker(ALIVE, None))
    assert asked(fake) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: BundleMessage(told.name, told.base),  # a notice
        lambda told: BundleMessage(told.name, told.base, None, told.content[:-1]),
        lambda told: BundleMessage(told.name, None, None, told.content),
        lambda told: BundleMessage(told.name, told.base, None, told.content.replace(b"2.5", b"2.4")),
    ],
)
def test_what_does_not_lead_on_is_said_once_and_the_service_is_asked(hearing, store, fake, caplog, spoil):  # noqa: F811
    caplog.set_level(logging.WARNING, "attestd_edge.refresh")
    refresher = hearing()
    told = spoil(delta_of(fake, version=6))
    refresher.hear(Broker(ALIVE, told, told, told))
    assert store.name == "2.6"
    assert asked(fake) == 1
    assert sum("not taken" in one.getMessage() for one in caplog.records) == (1 if told.content else 0)


def test_a_service_that_does_not_help_is_asked_ever_more_slowly(hearing, store, fake, watch):  # noqa: F811
    refresher = hearing()
    notice, fake.down = BundleMessage("2.6"), True
    tried: list[float] = []
    fetch_once = refresher._fetch_once

    def noted() -> None:
        tried.append(watch.counted)
        fetch_once()

    refresher._fetch_once = noted  # type: ignore[method-assign]

    def later() -> BundleMessage:
        watch.pass_(0.5)
        return notice

    refresher.hear(Broker(notice, *[later] * 100))
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert len(pauses) >= 3
    assert pauses == sorted(pauses)
    assert pauses[-1] > 10
    assert store.name == "2.5"


def test_an_older_one_is_nothing_new(hearing, store, fake):  # noqa: F811
    refresher = hearing()
    delta = delta_of(fake, version=6)
    refresher.hear(Broker(delta, delta, BundleMessage("2.5"), BundleMessage("1.9", None, None, b"{}")))
    assert (store.name, fake.asked) == ("2.6", [])


def test_a_broker_that_keeps_news_away_is_found_out(hearing, store, fake, watch):  # noqa: F811
    refresher = hearing()
    fake.publish(version=6)

    def later() -> BundleMessage:
        watch.pass_(store.view().bundle.stale_after / 5)
        return ALIVE

    refresher.hear(Broker(ALIVE, later))
    assert (store.name, asked(fake)) == ("2.5", 0)
    refresher.hear(Broker(ALIVE, later))
    assert (store.name, asked(fake)) == ("2.6", 1)


def test_without_a_broker_the_service_pushes(hearing, watch):
    refresher = hearing()
    assert refresher._may_hear()
    refresher.hear(Broker())
    assert not refresher._may_hear()
    watch.pass_(60)
    assert refresher._may_hear()
    refresher.hear(Broker(ALIVE))  # it was there: what ends is tried again at once
    assert refresher._may_hear()


class TestHistory:
    """Each of these bundles carries a head of the audit trail; it grows from 7 entries to 13."""

    @pytest.fixture
    def grown(self, hearing, fake):  # noqa: F811
        fake.publish(version=5, audit_head=head(7))
        refresher = hearing()
        return refresher, delta_of(fake, version=6, audit_head=head(13))

    def told(self, delta: BundleMessage, path) -> BundleMessage:
        return BundleMessage(delta.name, delta.base, None, delta.content, {(2, 7, 13): path})

    def test_the_proof_comes_along(self, grown, store, fake):  # noqa: F811
        refresher, delta = grown
        fake.down = True
        refresher.hear(Broker(self.told(delta, Log().prove(2, 7, 13))))
        assert store.name == "2.6"
        assert store.history.known.head.size == 13
        assert len(LEAVES) >= 13

    def test_without_a_proof_and_without_the_service_nothing_is_taken(self, grown, store, fake):  # noqa: F811
        refresher, delta = grown
        fake.down = True
        refresher.hear(Broker(delta))
        assert (store.name, store.history.known.head.size) == ("2.5", 7)

    def test_a_proof_of_something_else(self, grown, store, fake):  # noqa: F811
        refresher, delta = grown
        fake.down = True
        first, *others = Log().prove(2, 7, 13)
        refresher.hear(Broker(self.told(delta, (bytes([first[0] ^ 1]) + first[1:], *others))))
        assert (store.name, store.history.known.head.size) == ("2.5", 7)
        assert store.history.refusals == 1


def test_a_bundle_that_is_genuine_and_not_understood(hearing, store, fake, caplog):  # noqa: F811
    """Nothing older is used in its place, and it is said why."""
    refresher = hearing()
    refresher.hear(Broker(delta_of(fake, version=6, policy="permit (everything);")))
    assert "bundle-unusable" in caplog.text
    with pytest.raises(BundleUnusable):
        store.view()
