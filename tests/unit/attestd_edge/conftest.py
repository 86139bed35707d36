"""An edge at the boundary of munich, with the tests' own authority: bike-1 may cross until one thing is a lie."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestd.credentials.dpop import EdgeNonces, ReplayCache
from attestd.ids import Site, Tier
from attestd.policy import Boundary, default_policy
from attestd_edge.clock import EdgeClock
from attestd_edge.decide import Presented, Request, TokenRules, judge
from attestd_edge.edge import Edge
from attestd_edge.settings import Guarded
from attestd_edge.store import BundleStore
from attestd_edge.views import View
from tests import authority as a

ORIGIN = "https://shop.example.org"


class Watch:
    """A wall clock and a monotonic one, to be moved together or apart."""

    def __init__(self) -> None:
        self.wall = a.NOW
        self.counted = 1000.0

    def clock(self, floor: datetime = a.NOW - timedelta(days=3650)) -> EdgeClock:
        return EdgeClock(lambda: self.wall, lambda: self.counted, floor)

    def pass_(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.counted += seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def boundary() -> Boundary:
    return Boundary("field-to-munich", Tier.DEVICE, Site("munich"), Tier.EDGE, Site("munich"))


@pytest.fixture
def bundle() -> Callable[..., Any]:
    """`bundle(version=6)`: the authority's, with the default policy."""
    return lambda **lies: a.bundle(**{"policy": default_policy(), **lies})


@pytest.fixture
def view(bundle) -> View:
    return View.of(bundle(), pinned=[a.ROOT.der])


@pytest.fixture
def rules() -> TokenRules:
    return TokenRules(a.AUDIENCE, frozenset({ORIGIN}), EdgeNonces(b"s" * 32), ReplayCache())


@pytest.fixture
def ask(view, boundary, rules) -> Callable[..., Any]:
    """`ask(chain=…)` judges GET https://shop.example.org/orders."""

    def judged(
        *,
        chain: tuple[bytes, ...] = (),
        token: str | None = None,
        proof: str | None = None,
        scheme: Any = "dpop",
        now: datetime = a.NOW,
        target: str = "/orders",
        method: str = "GET",
        origin: str = ORIGIN,
        **other: Any,
    ) -> Any:
        return judge(
            other.get("view", view),
            boundary=other.get("boundary", boundary),
            presented=Presented(chain, token, scheme, proof),
            request=Request(method, origin, target, other.get("labels", {})),
            tokens=other.get("tokens", rules),
            now=now,
        )

    return judged


@pytest.fixture
def prove(rules) -> Callable[..., str]:
    """A proof with the edge's current nonce; `prove(token, htm="POST")` lies."""

    def proof(token: str, **lies: Any) -> str:
        return a.proof(token, **{"nonce": rules.nonces.issue(a.NOW), **lies})

    return proof


@pytest.fixture
def store(tmp_path: Path, watch: Watch) -> BundleStore:
    return BundleStore(tmp_path, roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=watch.clock())


@pytest.fixture
def edge(store, bundle, boundary, rules) -> Edge:
    """An edge with a bundle, without a service behind it."""
    store.adopt(a.signed_bundle(bundle()))
    return Edge(store, tokens=rules, boundaries={boundary.name: Guarded(boundary, {"class": "telemetry"})})
