"""The `[nats]` part of an edge's configuration.

[nats]
server = "tls://nats.munich.example.org:4222"   # this site's nats-server
ca = "nats/ca.pem"                              # that its certificate is checked by
keys = "nats"                                   # the folder that `attestd-edge nats keys` made
account = "FIELD"                               # the account of nats-server that devices are put into
origin = "https://nats.munich.example.org"      # what proofs name; left out: certificates only
lifetime = 300                                  # seconds that one login lasts at most

[[nats.grant]]                                  # what devices may do there, as far as policy permits it
boundary = "field-to-munich"
publish = ["field.{site}.{device}.>"]
subscribe = ["orders.{site}.{device}.>", "_INBOX.{device}.>"]
labels = { class = "telemetry" }                # of what goes there, besides the boundary's own

[nats.carry]                                    # what crosses from there; left out: nothing is carried
boundary = "munich-to-cloud"
stream = "FIELD"
from = "field.{site}.{device}.>"
to = "cleared.{site}.{device}.>"
withheld = "withheld.{site}.{device}.>"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from attestd.broker.addresses import check_address
from attestd.errors import InputTooLarge, MalformedInput
from attestd.policy.situations import LabelsMalformed, read_labels
from attestd.protocol.encoding import Members
from attestd_edge.nats.subjects import Template
from attestd_edge.settings import Guarded, Receipted, Settings, SettingsInvalid, read_origin

MIN_LIFETIME, DEFAULT_LIFETIME, MAX_LIFETIME = 10, 300, 900  # seconds
MAX_GRANTS, MAX_PATTERNS = 64, 64
_ACCOUNT = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_STREAM = _ACCOUNT
KEY_NAMES = ("issuer", "sealing", "callout", "watch", "carry")  # of the files <name>.seed in nats.keys


@dataclass(frozen=True, slots=True)
class Grant:
    """Subjects that policy is asked about, one by one, at a boundary."""

    guarded: Guarded
    publish: tuple[Template, ...]
    subscribe: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class Carriage:
    """What is carried over a boundary: from the site's stream, under other subjects, or aside."""

    guarded: Guarded
    stream: str
    source: Template
    target: Template
    withheld: Template


@dataclass(frozen=True, slots=True)
class NatsSettings:
    """Everything that the NATS side of an edge is told."""

    server: str
    ca: Path | None
    keys: Path
    account: str
    origin: str | None
    lifetime: timedelta
    grants: tuple[Grant, ...]
    carriage: Carriage | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises SettingsInvalid."""
        if settings.nats is None:
            raise SettingsInvalid("There is no [nats].", expected="[nats]; docs/nats.md shows one")
        try:
            return cls._read(Members(settings.nats, "nats"), settings)
        except (MalformedInput, InputTooLarge) as error:
            raise SettingsInvalid(error.detail, seen=error.seen, expected=error.expected) from error

    @classmethod
    def _read(cls, table: Members, settings: Settings) -> Self:
        server = table.text("server")
        ca = settings.folder / table.text("ca") if "ca" in table else None
        check_address("nats.server", server, ca, SettingsInvalid)
        lifetime = table.seconds("lifetime") if "lifetime" in table else DEFAULT_LIFETIME
        if not MIN_LIFETIME <= lifetime <= MAX_LIFETIME:
            raise SettingsInvalid(
                "nats.lifetime is out of bounds.", seen=lifetime, expected=f"{MIN_LIFETIME} to {MAX_LIFETIME} seconds"
            )
        origin = read_origin(table.text("origin")) if "origin" in table else None
        if origin is not None and settings.audience is None:
            raise SettingsInvalid("nats.origin needs an audience.", expected="tokens.audience and tokens.origins")
        grants = tuple(_grant(grant, settings) for grant in table.objects("grant", most=MAX_GRANTS))
        if not grants:
            raise SettingsInvalid("There is nothing to grant.", expected="at least one [[nats.grant]]")
        carriage = _carriage(table.object("carry"), settings, grants) if "carry" in table else None
        found = cls(
            server=server,
            ca=ca,
            keys=settings.folder / table.text("keys"),
            account=_named(table.text("account"), _ACCOUNT, "nats.account"),
            origin=origin,
            lifetime=timedelta(seconds=lifetime),
            grants=grants,
            carriage=carriage,
        )
        table.done()
        return found


def _named(text: str, pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(text):
        raise SettingsInvalid(f"{name} is not a name.", seen=repr(text[:80]), expected="letters, digits, _ and -")
    return text


def _boundary(table: Members, settings: Settings) -> Guarded:
    name = table.text("boundary")
    if (guarded := settings.boundaries.get(name)) is None:
        raise SettingsInvalid("No such boundary is configured.", seen=repr(name), expected=sorted(settings.boundaries))
    return guarded


def _grant(table: Members, settings: Settings) -> Grant:
    patterns = dict(table.items())
    guarded = _labelled(_boundary(table, settings), patterns.get("labels", {}))
    found = Grant(guarded, _templates(patterns, "publish"), _templates(patterns, "subscribe"))
    if unknown := sorted(patterns.keys() - {"boundary", "publish", "subscribe", "labels"}):
        raise SettingsInvalid(f"nats.grant.{unknown[0]} is not a setting.")
    if found.guarded.receipts is not Receipted.NOTHING:
        raise SettingsInvalid(
            "A grant's messages cross without this edge, so they can't have receipts.",
            seen=found.guarded.boundary.name,
            expected="a boundary without `receipts`; what nats.carry carries may have them",
        )
    if not found.publish and not found.subscribe:
        raise SettingsInvalid("A [[nats.grant]] grants nothing.", expected="publish, subscribe or both")
    return found


def _labelled(guarded: Guarded, labels: object) -> Guarded:
    """The boundary with a grant's labels besides its own: two grants may be of different data."""
    try:
        told = read_labels(labels) if isinstance(labels, dict) else None
    except LabelsMalformed as error:
        raise SettingsInvalid(f"nats.grant.labels: {error.detail}", seen=error.seen) from error
    if told is None:
        raise SettingsInvalid("nats.grant.labels is not a table.", expected='{ class = "telemetry" }')
    for name in told.keys() & guarded.labels.keys():
        if told[name] != guarded.labels[name]:
            raise SettingsInvalid(
                f"nats.grant.labels contradicts boundary {guarded.boundary.name}.",
                seen=f"{name}: {told[name]!r} and {guarded.labels[name]!r}",
            )
    return replace(guarded, labels=MappingProxyType({**guarded.labels, **told}))


def _templates(patterns: Mapping[str, Any], name: str) -> tuple[Template, ...]:
    texts = patterns.get(name, [])
    if not isinstance(texts, list) or len(texts) > MAX_PATTERNS or not all(isinstance(text, str) for text in texts):
        raise SettingsInvalid(f"nats.grant.{name} is not a list of subjects.", expected=f"at most {MAX_PATTERNS}")
    return tuple(Template.parse(text) for text in texts)


def _carriage(table: Members, settings: Settings, grants: Sequence[Grant]) -> Carriage:
    found = Carriage(
        _boundary(table, settings),
        _named(table.text("stream"), _STREAM, "nats.carry.stream"),
        Template.parse(table.text("from")),
        Template.parse(table.text("to")),
        Template.parse(table.text("withheld")),
    )
    table.done()
    places = {token for _, token in found.source.places()}
    if not {"{site}", "{device}"} <= places:
        raise SettingsInvalid("nats.carry.from does not say whose a message is.", expected="{site} and {device} in it")
    for template in (found.target, found.withheld):
        if {token for _, token in template.places()} - places or "*" in template.tokens:
            raise SettingsInvalid(
                "What is carried can't be named so.", seen=template, expected=f"names of {found.source}"
            )
        if (template.tokens[-1] == ">") != (found.source.tokens[-1] == ">"):
            raise SettingsInvalid("The subjects end differently.", seen=f"{found.source} and {template}")
        if template.meets(found.source):
            raise SettingsInvalid("What is carried would be carried again.", seen=f"{found.source} and {template}")
    # A message's subject is all that says whose it is, so a device must not be able to write another's.
    for grant in grants:
        for template in grant.publish:
            if template.meets(found.source) and not template.tells_apart(found.source):
                raise SettingsInvalid(
                    "Devices could send under each other's names here.",
                    seen=template,
                    expected=f"{{site}} and {{device}} where {found.source} has them",
                )
            if template.meets(found.target) or template.meets(found.withheld):
                raise SettingsInvalid(
                    "Devices could send past the boundary here.", seen=template, expected="other subjects than carry's"
                )
    return found
