"""A site that hears nothing: logins and carries at a boundary that notices before the bundle is stale."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

pytest.importorskip("nacl", reason="PyNaCl is not installed")

from attestd.credentials.bundle import BundleStale
from attestd.credentials.dpop import ReplayCache
from attestd.credentials.x509 import device_identity, verify_chain
from attestd_edge.decide import CrossingDenied
from attestd_edge.nats.carry import Fate, judge_message
from attestd_edge.nats.ledger import Connection
from attestd_edge.nats.login import ask_policy, log_in
from attestd_edge.nats.request import LoginRequest
from attestd_edge.views import Staleness
from tests import authority as a

POLICY = """
@id("home") permit (principal, action == Action::"cross", resource);
@id("alarms") @when_stale("alarms") permit (principal, action == Action::"cross", resource)
when { context.method == "SUBSCRIBE" };
"""
SUBJECT = "field.munich.bike-1.t"


@pytest.fixture
def view(with_policy):
    return with_policy(POLICY)


@pytest.fixture
def at(view, settings):
    """`at(600, rule)`: what a login that long after the bundle was signed is given."""

    def login(seconds, rule):
        grants = tuple(replace(grant, guarded=replace(grant.guarded, staleness=rule)) for grant in settings.grants)
        chain = (a.leaf(), a.ISSUER.der)
        request = LoginRequest("N1", "X1", "U1", 7, "Client", "127.0.0.1", "", chain, None, None)
        return log_in(
            view,
            replace(settings, grants=grants),
            request,
            audience=None,
            replays=ReplayCache(),
            now=a.NOW + timedelta(seconds=seconds),
        )

    return login


def test_while_it_hears_everything_is_granted(at):
    login = at(0, Staleness(600, "alarms"))
    assert (bool(login.permissions.publish), bool(login.permissions.subscribe)) == (True, True)


def test_what_was_granted_ends_when_the_boundary_notices(at):
    """The login after that is another one."""
    assert at(0, None).until == a.NOW + timedelta(seconds=300)
    assert at(400, Staleness(600, "alarms")).until == a.NOW + timedelta(seconds=600)
    assert at(700, Staleness(600, "alarms")).until == a.NOW + timedelta(seconds=1000)


def test_then_the_class_alone(at):
    login = at(700, Staleness(600, "alarms"))
    assert (bool(login.permissions.publish), bool(login.permissions.subscribe)) == (False, True)


def test_or_nothing(at):
    with pytest.raises(CrossingDenied, match="has not heard"):
        at(700, Staleness(600))
    with pytest.raises(BundleStale):
        at(3600, Staleness(600, "alarms"))


@pytest.mark.parametrize("rule", [Staleness(600), Staleness(600, "alarms"), Staleness(600, "nobody-s")])
def test_a_message_waits_until_something_is_heard(view, settings, ledger, rule):
    """That nothing was heard says nothing about the message: it is not withheld."""
    carriage = settings.carriage
    assert carriage is not None
    carriage = replace(carriage, guarded=replace(carriage.guarded, staleness=rule))
    chain = verify_chain([a.leaf(), a.ISSUER.der], authorities=view.authorities, now=a.NOW)
    identity = device_identity(chain, status=view.bundle.status, revoked=view.bundle.revoked)
    _, permissions = ask_policy(view, settings.grants, identity, a.NOW)
    ledger.enter(identity, Connection("N1", 7, identity.device_id, permissions, a.NOW + timedelta(minutes=5)))
    assert judge_message(ledger, carriage, view, SUBJECT, a.NOW + timedelta(seconds=599)).fate is Fate.CARRIED
    found = judge_message(ledger, carriage, view, SUBJECT, a.NOW + timedelta(seconds=600))
    assert (found.fate, found.why) == (Fate.LATER, "boundary-stale")
