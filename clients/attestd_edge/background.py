"""What an edge does beside judging, each in a thread of its own, made from its settings. Each has its own way to the
service: a connection is one thread's."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from attestd_edge.identity import ProxyIdentity
from attestd_edge.receipts.delivery import Delivery
from attestd_edge.receipts.keeper import Keeper
from attestd_edge.receipts.tallies import Tallies
from attestd_edge.refresh import Feed, Refresher
from attestd_edge.reports.counts import CountFile
from attestd_edge.reports.guarding import guarding
from attestd_edge.reports.reporter import Reporter
from attestd_edge.service import Service
from attestd_edge.settings import Settings
from attestd_edge.store import BundleStore

if TYPE_CHECKING:
    from attestd_edge.edge import Edge


def refresher(settings: Settings, store: BundleStore, feed: Feed | None) -> Refresher:
    """Keeps the bundle current."""
    return Refresher(
        store,
        Service(settings.server, roots=store.roots),
        load_identity=lambda: ProxyIdentity.load(settings.key, settings.certificate),
        certificate_file=settings.certificate,
        trust_domain=settings.trust_domain,
        chance=random.random,
        feed=feed,
    )


def delivery(settings: Settings, store: BundleStore, tallies: Tallies) -> Delivery:
    """Writes receipts and delivers them."""

    def load() -> ProxyIdentity:
        return ProxyIdentity.load(settings.key, settings.certificate)

    keeper = Keeper(
        store.folder,
        load_identity=load,
        identity_files=(settings.key, settings.certificate),
        clock=store.clock,
        octets=settings.receipts_octets,
        entropy=os.urandom,
        tallies=tallies,
    )
    return Delivery(keeper, store, Service(settings.server, roots=store.roots), load_identity=load, tallies=tallies)


def reporter(settings: Settings, store: BundleStore, edge: Edge) -> Reporter:
    """Counts on the disk and tells the service."""
    return Reporter(
        CountFile(store.folder, edge.judged, entropy=os.urandom),
        store,
        Service(settings.server, roots=store.roots),
        load_identity=lambda: ProxyIdentity.load(settings.key, settings.certificate),
        standings=edge.standings,
        waiting=edge.receipts_waiting,
        connected=edge.connected,
        returned=edge.heard_again,
        chance=random.random,
        guarding=guarding(settings.boundaries),
    )
