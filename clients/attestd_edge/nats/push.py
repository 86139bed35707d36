"""`[edge.push]`: the message broker that brings bundles besides the service.

[edge.push]
nats = "tls://nats.cloud.example.org:4222"
ca = "nats/cloud-ca.pem"                        # that its certificate is checked by
credentials = "nats/listen.seed"                # of the user that may read bundles there, or a .creds file

The proxy's own certificate is shown where nats-server asks for one.
"""

from __future__ import annotations

from attestd.broker.addresses import check_address
from attestd.broker.links import Broker
from attestd.errors import InputTooLarge, MalformedInput
from attestd.protocol.encoding import Members
from attestd_edge.nats.feed import Feed
from attestd_edge.settings import Settings, SettingsInvalid


def feed_of(settings: Settings) -> Feed:
    """What `[edge.push]` names. Raises SettingsInvalid or BrokerMisconfigured."""
    try:
        table = Members(settings.push or {}, "edge.push")
        address = table.text("nats")
        ca = settings.folder / table.text("ca") if "ca" in table else None
        credentials = settings.folder / table.text("credentials")
        table.done()
    except (MalformedInput, InputTooLarge) as error:
        raise SettingsInvalid(error.detail, seen=error.seen, expected=error.expected) from error
    check_address("edge.push.nats", address, ca, SettingsInvalid)
    shown = (settings.certificate, settings.key) if ca is not None else (None, None)
    broker = Broker(address, ca, credentials, *shown)
    broker.client()
    return Feed(broker, settings.trust_domain)
