"""One question after the other: who is let in, with what, and how each lie is refused."""

from __future__ import annotations

import base64
import json
import logging
import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("nacl", reason="PyNaCl is not installed")

from attestd.credentials.dpop import ReplayCache
from attestd.credentials.jwk import public_jwk
from attestd.credentials.status import Status, StatusList
from attestd.ids import Serial
from attestd_edge.edge import Edge
from attestd_edge.nats.callout import Callout
from attestd_edge.nats.ledger import Ledger, LedgerUnusable
from attestd_edge.nats.present import login_options
from attestd_edge.nats.tallies import Tallies
from attestd_edge.store import BundleStore
from tests import authority as a
from tests.nats_asker import NONCE, USER, Asker, read
from tests.unit.attestd_edge.nats.conftest import ORIGIN

CHAIN = [a.leaf(), a.ISSUER.der, a.ROOT.der]
CLOSED = '@id("closed") forbid (principal, action == Action::"cross", resource);'


class Gate:
    """A callout and the server that asks it."""

    def __init__(self, callout: Callout, asker: Asker, store: BundleStore, bundle, watch) -> None:
        self.callout, self.asker, self.store, self.bundle, self.watch = callout, asker, store, bundle, watch

    def ask(self, **lies):
        """The answer's own claims."""
        answer = self.callout.answer(self.asker.ask(**lies), sender=self.asker.xkey)
        assert answer is not None
        return self.asker.opened(answer)["nats"]

    def refusal(self, **lies) -> str:
        """Why it is not let in."""
        said = self.ask(**lies)
        assert "jwt" not in said
        return said["error"].partition(" ")[0]

    def let_in(self, **lies):
        """The leave's claims."""
        said = self.ask(**lies)
        assert "error" not in said, said
        return read(said["jwt"])

    def forbid(self, when: str) -> None:
        """One policy more."""
        forbid = f'@id("more") forbid (principal, action == Action::"cross", resource) when {{ {when} }};'
        self.publish(policy=self.bundle().policy + forbid, policy_version=4)

    def publish(self, **lies) -> None:
        version = self.store.view().bundle.version + 1
        self.store.adopt(a.signed_bundle(self.bundle(**{"version": version, **lies})))


@pytest.fixture
def gate(tmp_path: Path, watch, bundle, settings, keys, asker, ledger):  # noqa: PLR0917
    (tmp_path / "store").mkdir()
    store = BundleStore(tmp_path / "store", roots=[a.ROOT.der], trust_domain=a.TRUST_DOMAIN, clock=watch.clock())
    store.adopt(a.signed_bundle(bundle()))
    edge = Edge(store, tokens=None)
    drawn = iter(range(1 << 40))
    callout = Callout(
        edge, settings, a.AUDIENCE, keys, ledger, Tallies(edge.metrics.registry), ReplayCache(),
        lambda: watch.wall, lambda size: next(drawn).to_bytes(size, "big"),
    )  # fmt: skip
    return Gate(callout, asker, store, bundle, watch)


def proven(
    token: str, *, challenge: str = NONCE, key: a.PrivateKey = a.LEAF_KEY, origin: str = ORIGIN, jti: bytes = b"j"
):
    """What a device sends with this token: CONNECT's options."""
    options = login_options(
        lambda: token, sign=a.es256(key), jwk=public_jwk(key.public_key()), origin=origin,
        now=lambda: a.NOW, entropy=lambda size: b"j" * size,
    )  # fmt: skip
    proof = options["signature_cb"](challenge).decode()
    return {"connect_opts__jwt": options["token"](), "connect_opts__sig": proof}


def test_a_certificate_lets_in_with_its_own_subjects(gate):
    leave = gate.let_in(chain=CHAIN)
    assert leave["sub"] == USER
    assert leave["aud"] == "FIELD"
    assert leave["name"] == a.BIKE
    assert leave["nats"]["pub"] == {"allow": ["field.munich.bike-1.>"]}
    assert leave["nats"]["sub"] == {"allow": ["orders.munich.bike-1.>"]}
    assert leave["exp"] == int(a.NOW.timestamp()) + 300


def test_a_bound_token_with_a_proof_over_the_servers_challenge(gate):
    assert gate.let_in(**proven(a.token()))["name"] == a.BIKE


def test_a_proof_in_base64url_as_other_clients_send_it(gate):
    said = proven(a.token())
    said["connect_opts__sig"] = base64.urlsafe_b64encode(said["connect_opts__sig"].encode()).decode().rstrip("=")
    assert gate.let_in(**said)["name"] == a.BIKE


def test_a_token_bound_to_the_certificate_beside_it(gate):
    from attestd.credentials.x509 import Authorities, verify_chain

    authorities = Authorities.load([a.ROOT.der], [a.ISSUER.der], trust_domain=a.TRUST_DOMAIN)
    leaf = verify_chain(CHAIN, authorities=authorities, now=a.NOW)
    token = a.token(cnf={"x5t#S256": leaf.thumbprint}, srl=str(leaf.serial))
    assert gate.let_in(chain=CHAIN, connect_opts__jwt=token)["name"] == a.BIKE
    assert gate.refusal(connect_opts__jwt=token) == "proof-missing"


@pytest.mark.parametrize(
    ("presented", "error"),
    [
        ({}, "no-credential"),
        ({"connect_opts__jwt": a.token()}, "proof-missing"),  # never a bearer token
        ({"connect_opts__auth_token": a.token()}, "proof-missing"),
        ({"chain": CHAIN, "connect_opts__jwt": a.token()}, "bound-elsewhere"),
        ({"connect_opts__jwt": a.token(), "connect_opts__sig": "c2ln"}, "proof-malformed"),
        ({"connect_opts__jwt": a.token(), "connect_opts__sig": "!"}, "proof-missing"),
        (proven(a.token(), challenge="another-nonce"), "fresh-nonce-needed"),
        (proven(a.token(), challenge=""), "fresh-nonce-needed"),
        ({**proven(a.token(), challenge=""), "client_info__nonce": ...}, "fresh-nonce-needed"),
        ({**proven(a.token()), "client_info__nonce": ""}, "fresh-nonce-needed"),
        (proven(a.token(), key=a.STRANGER_KEY), "proof-key-wrong"),
        (proven(a.token(), origin="https://nats.berlin.example.org"), "proof-for-another-request"),
        ({**proven(a.token()), "connect_opts__jwt": a.token(jti="token-2")}, "proof-for-another-token"),
        (proven(a.token(aud="https://another.example.org")), "token-audience-wrong"),
        (proven(a.token(exp=int(a.NOW.timestamp()))), "token-expired"),
        (proven(a.token(key=a.STRANGER_KEY)), "signature-wrong"),
        (proven(a.token(iss="https://evil.example.org")), "token-issuer-wrong"),
        ({"chain": [a.leaf(not_after=a.NOW - timedelta(seconds=1)), a.ISSUER.der]}, "certificate-expired"),
        ({"chain": [a.leaf(issuer=a.ca("issuer", key=a.STRANGER_KEY)), a.ISSUER.der]}, "issuer-mismatch"),
        ({"chain": [a.leaf(uris=["spiffe://example.org/proxy/munich/edge-1"], facts=None)]}, "not-a-device"),
        ({"chain": [a.leaf(uris=["spiffe://example.org/device/berlin/bike-1"])]}, "crossing-denied"),
        ({"chain": [a.leaf(uris=["spiffe://example.org/edge/munich/bike-1"])]}, "crossing-denied"),
        ({"chain": [a.leaf(facts=replace(a.FACTS, status_index=8))]}, "device-suspended"),
        ({"chain": [a.leaf(facts=replace(a.FACTS, status_index=9))]}, "device-revoked"),
        ({"chain": [a.leaf(facts=replace(a.FACTS, status_index=99))]}, "status-unknown"),
        ({"chain": [a.leaf(serial=0xBAD)]}, "credential-revoked"),
        ({"chain": [a.leaf(facts=replace(a.FACTS, vector={"instance-identity": 96}))]}, "crossing-denied"),
    ],
)
def test_one_lie_is_refused_by_name(gate, presented, error):
    assert gate.refusal(**presented) == error


def test_a_proof_is_good_once(gate):
    said = proven(a.token())
    assert gate.let_in(**said)
    assert gate.refusal(**said) == "proof-replayed"


def test_a_proof_beside_another_machines_certificate(gate):
    other = a.leaf(uris=["spiffe://example.org/device/munich/bike-2"])
    assert gate.refusal(chain=[other, a.ISSUER.der], **proven(a.token())) == "credentials-disagree"


def test_without_an_origin_tokens_count_for_nothing(gate, configured):
    gate.callout = replace(gate.callout, settings=configured(origin=...))
    assert gate.let_in(chain=CHAIN)
    assert gate.refusal(**proven(a.token())) == "tokens-not-accepted"
    assert gate.refusal(chain=CHAIN, connect_opts__jwt=a.token()) == "tokens-not-accepted"


def test_a_leave_ends_with_the_credential(gate):
    leave = gate.let_in(chain=[a.leaf(not_after=a.NOW + timedelta(seconds=40)), a.ISSUER.der])
    assert leave["exp"] == int(a.NOW.timestamp()) + 40


def test_a_leave_ends_before_the_bundle_is_stale(gate):
    gate.publish(stale_after=60)
    assert gate.let_in(chain=CHAIN)["exp"] == int(a.NOW.timestamp()) + 60


def test_what_ends_at_once_is_no_leave(gate):
    short = a.leaf(not_after=a.NOW + timedelta(seconds=1))
    assert gate.refusal(chain=[short, a.ISSUER.der]) == "login-too-short"


def test_nobody_is_let_in_by_a_stale_bundle(gate):
    gate.watch.pass_(3600)
    late = [a.leaf(not_after=a.NOW + timedelta(hours=2)), a.ISSUER.der]
    now = int(gate.watch.wall.timestamp())
    assert gate.refusal(chain=late, top__iat=now, top__exp=now + 2) == "bundle-stale"


def test_policy_gives_each_subject(gate):
    gate.forbid('context.method == "PUBLISH"')
    leave = gate.let_in(chain=CHAIN)
    assert leave["nats"]["pub"] == {"deny": [">"]}
    assert leave["nats"]["sub"] == {"allow": ["orders.munich.bike-1.>"]}


def test_the_example_of_the_documentation(gate):
    page = (Path(__file__).resolve().parents[4] / "docs" / "nats.md").read_text()
    policy = page[page.index('@id("affirmed-may-send")') :].partition("};")[0] + "};"
    gate.publish(policy=gate.bundle().policy + policy, policy_version=4)
    assert gate.let_in(chain=CHAIN)["nats"]["pub"] == {"allow": ["field.munich.bike-1.>"]}
    unaffirmed = replace(a.FACTS, vector={"instance-identity": 2})
    leave = gate.let_in(chain=[a.leaf(facts=unaffirmed), a.ISSUER.der])
    assert leave["nats"]["pub"] == {"deny": [">"]}
    assert leave["nats"]["sub"] == {"allow": ["orders.munich.bike-1.>"]}


def test_policy_sees_the_subject_as_a_path(gate):
    gate.forbid('context.path like "/field/munich/bike-1/*"')
    leave = gate.let_in(chain=CHAIN)
    assert leave["nats"]["pub"] == {"deny": [">"]}


def test_policy_sees_the_boundarys_labels(gate):
    gate.forbid('context.labels.hasTag("class") && context.labels.getTag("class") == "telemetry"')
    assert gate.refusal(chain=CHAIN) == "crossing-denied"


def test_without_any_permit_nobody_is_let_in(gate):
    gate.publish(policy=CLOSED, policy_version=4)
    assert gate.refusal(chain=CHAIN) == "crossing-denied"


def test_a_dot_in_a_name_is_no_border(gate):
    """`a.b` must not be able to write what `a` may."""
    dotted = gate.let_in(chain=[a.leaf(uris=["spiffe://example.org/device/munich/a.b"]), a.ISSUER.der])
    assert dotted["nats"]["pub"] == {"allow": ["field.munich.a~b.>"]}


def test_a_leaf_node_is_let_in_as_a_leaf_node_only(gate):
    leave = gate.let_in(chain=CHAIN, client_info__kind="Leafnode")
    assert leave["nats"]["allowed_connection_types"] == ["LEAFNODE"]


def test_what_can_not_be_written_down_is_not_let_in(gate, monkeypatch):
    def full(*_):
        raise LedgerUnusable("no space left")

    monkeypatch.setattr(Ledger, "enter", full)
    assert gate.refusal(chain=CHAIN) == "ledger-unusable"


def test_what_nobody_foresaw_is_a_refusal(gate, monkeypatch):
    monkeypatch.setattr("attestd_edge.nats.callout.log_in", lambda *_, **__: 1 / 0)
    assert gate.refusal(chain=CHAIN) == "edge-failed"


def test_what_is_no_question_gets_no_answer(gate, monkeypatch):
    assert gate.callout.answer(b"", sender=gate.asker.xkey) is None
    assert gate.callout.answer(gate.asker.ask(), sender=None) is None
    monkeypatch.setattr("attestd_edge.nats.callout.read_request", lambda *_, **__: 1 / 0)
    assert gate.callout.answer(gate.asker.ask(), sender=gate.asker.xkey) is None


def test_the_log_says_who_and_why_and_no_secret(gate, caplog):
    with caplog.at_level(logging.INFO, "attestd_edge.decisions.nats"):
        gate.let_in(chain=CHAIN)
        said = proven(a.token(exp=int(a.NOW.timestamp())))
        gate.refusal(**said)
    told = json.dumps([record.__dict__.get("attestd") for record in caplog.records]) + caplog.text
    assert a.BIKE in told
    assert "cross-at-home" in told
    assert "token-expired" in told
    assert said["connect_opts__jwt"] not in told
    assert said["connect_opts__sig"] not in told


def test_the_server_hears_no_more_than_the_kind_of_refusal(gate):
    said = gate.ask(chain=[a.leaf(facts=replace(a.FACTS, status_index=8))])["error"]
    assert said.startswith("device-suspended (")
    assert "bike" not in said


def test_a_login_is_written_down_before_the_answer(gate, ledger):
    gate.let_in(chain=CHAIN, client_info__id=12)
    ((connection, known),) = ledger.connections()
    assert (connection.server, connection.number, connection.device) == (gate.asker.id, 12, "bike-1")
    assert connection.permissions.publish == ("field.munich.bike-1.>",)
    assert known.facts == a.FACTS


def together(gate, *asked) -> list[str]:
    """What each of these questions was answered: "let in", or the problem."""
    answers = gate.callout.answer_all([(gate.asker.ask(**one), gate.asker.xkey) for one in asked])
    said = [gate.asker.opened(answer)["nats"] for answer in answers]
    return ["let in" if "jwt" in one else one["error"].partition(" ")[0] for one in said]


FIRST, STRANGER, SECOND = ({"chain": CHAIN, "client_info__id": 1}, {"client_info__id": 2}, {"chain": CHAIN})


def test_logins_that_are_answered_together(gate, ledger):
    assert together(gate, FIRST, STRANGER, SECOND) == ["let in", "no-credential", "let in"]
    assert [found.number for found, _ in ledger.connections()] == [1, 7]


@pytest.mark.parametrize("when", ["BEGIN", "COMMIT", "INSERT"])
def test_logins_that_can_not_be_written_down_together(gate, ledger, monkeypatch, caplog, when):
    """Each is then written by itself; nobody is let in, or said to be, before that."""
    caplog.set_level(logging.INFO, "attestd_edge.decisions.nats")
    real, refused = ledger._database, []

    class Failing:
        """Fails once; at INSERT as a full disk does, which ends the transaction."""

        def execute(self, statement, *values):
            if statement.startswith(when) and not refused:
                refused.append(statement)
                if real.in_transaction:
                    real.execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
            return real.execute(statement, *values)

        def __getattr__(self, name):
            return getattr(real, name)

    monkeypatch.setattr(ledger, "_database", Failing())
    assert together(gate, FIRST, SECOND) == ["let in", "let in"]
    assert [found.number for found, _ in ledger.connections()] == [1, 7]
    assert [row[0] for row in real.execute("SELECT number FROM connection ORDER BY number")] == [1, 7]
    assert [record.getMessage() for record in caplog.records] == ["let in", "let in"]


def test_nobody_is_let_in_while_nothing_can_be_written_down(gate, ledger):
    ledger._database.execute("PRAGMA query_only = ON")
    assert together(gate, FIRST, SECOND) == ["ledger-unusable", "ledger-unusable"]
    assert ledger.connections() == []


def test_counts(gate):
    gate.let_in(chain=CHAIN)
    gate.refusal()
    text = gate.callout.edge.metrics.text().decode()
    assert 'attestd_edge_nats_logins_total{outcome="allowed",reason=""} 1.0' in text
    assert 'attestd_edge_nats_logins_total{outcome="refused",reason="no-credential"} 1.0' in text


def test_the_states_of_a_newer_bundle_count(gate):
    assert gate.let_in(chain=CHAIN)
    gate.publish(status=StatusList.of({7: Status.SUSPENDED}, 16))
    assert gate.refusal(chain=CHAIN) == "device-suspended"
    gate.publish(revoked=frozenset((Serial(0xBAD),)))
    assert gate.let_in(chain=CHAIN)
