"""What programs on the device use: tokens kept while they are good, proofs that the TPM signs."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from attestd.credentials.dpop import EdgeNonces, FreshNonceNeeded, ProofForAnotherRequest, ReplayCache, verify_dpop
from attestd.credentials.jwk import jwk_thumbprint
from attestd.credentials.jws import verify_es256
from attestd_agent.agent import Agent, NotEnrolled
from attestd_agent.clock import DeviceClock
from attestd_agent.session import DeviceSession, LastingSession
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.conftest import MakeAgent
from tests.unit.attestd_agent.fake_service import FakeService

URL = "https://edge.test/readings"


@pytest.fixture
def agent(make_agent: MakeAgent, tpm: SoftwareTpm) -> Agent:
    found = make_agent(tpm)
    found.enroll()
    return found


@pytest.fixture
def session(agent: Agent) -> DeviceSession:
    return DeviceSession(agent)


def test_without_a_credential_there_is_no_session(make_agent: MakeAgent, tpm: SoftwareTpm) -> None:
    with pytest.raises(NotEnrolled):
        DeviceSession(make_agent(tpm)).dpop_headers("GET", URL, audience="readings")


def test_the_proof_holds_at_an_edge(session: DeviceSession) -> None:
    nonces, replays, now = EdgeNonces(os.urandom(32)), ReplayCache(), datetime.now(UTC)

    def present(headers: dict[str, str], method: str = "GET") -> None:
        scheme, _, token = headers["Authorization"].partition(" ")
        assert scheme == "DPoP"
        verify_dpop(
            headers["DPoP"],
            method=method,
            uri=URL,
            token=token,
            jkt=jwk_thumbprint(session.enrolled.ck.key),
            nonces=nonces,
            replays=replays,
            now=now,
        )

    with pytest.raises(FreshNonceNeeded):
        present(session.dpop_headers("GET", URL, audience="readings"))
    nonce = nonces.issue(now)
    present(session.dpop_headers("GET", URL, audience="readings", edge_nonce=nonce))
    with pytest.raises(ProofForAnotherRequest):
        present(session.dpop_headers("GET", URL, audience="readings", edge_nonce=nonce), method="POST")


def test_it_signs_with_the_credential_key(session: DeviceSession) -> None:
    verify_es256(session.enrolled.ck.key, signature=session.sign(b"data"), message=b"data")


def test_a_token_is_asked_for_once_for_each_audience(session: DeviceSession, service: FakeService) -> None:
    first = session.token("readings")
    assert session.token("readings") == first
    assert session.token("commands") != first
    assert session.token("readings", binding="tls") != first
    assert service.asked("/v1/tokens") == 3


def test_a_token_is_renewed_before_its_end(agent: Agent, service: FakeService) -> None:
    now = [datetime.now(UTC)]
    agent.clock = DeviceClock(system=lambda: now[0], boot=lambda: 0.0, floor=now[0])
    session = DeviceSession(agent)
    first = session.token("readings")
    now[0] += timedelta(seconds=569)
    assert session.token("readings") == first
    now[0] += timedelta(seconds=2)
    assert session.token("readings") != first
    assert service.asked("/v1/tokens") == 2


def test_a_new_certificate_means_a_new_token(agent: Agent, session: DeviceSession) -> None:
    first = session.token("readings")
    agent.attest()
    assert session.token("readings") != first


def test_it_follows_the_daemon_to_a_new_key(agent: Agent, session: DeviceSession) -> None:
    before = session.enrolled.ck
    agent.renew(new_key=True)
    assert session.enrolled.ck != before
    verify_es256(session.enrolled.ck.key, signature=session.sign(b"data"), message=b"data")


def test_it_opens_from_the_state_folder_alone(
    agent: Agent, session: DeviceSession, tpm: SoftwareTpm, service: FakeService, tmp_path: Path
) -> None:
    opened = DeviceSession.open(tmp_path / "state", tcti=tpm.tcti)
    assert opened.enrolled.leaf == session.enrolled.leaf
    assert opened.token("readings").startswith("token.readings")
    assert opened.chain_path.read_text() == session.enrolled.chain
    assert opened.key_path.read_bytes() == session.enrolled.ck.to_pem()


def test_one_that_lasts_is_opened_when_it_is_needed_and_anew_with_another_root(session: DeviceSession) -> None:
    roots, opened = [b"first"], []

    def open_one() -> DeviceSession:
        opened.append(roots[0])
        if len(opened) == 1:
            raise NotEnrolled
        return session

    lasting = LastingSession(open_one, roots=lambda: roots[0])
    with pytest.raises(NotEnrolled):
        lasting.dpop_headers("GET", URL, audience="readings")
    for _ in range(2):
        assert lasting.dpop_headers("GET", URL, audience="readings")["DPoP"]
    roots[0] = b"second"
    assert lasting.dpop_headers("GET", URL, audience="readings")["DPoP"]
    assert opened == [b"first", b"first", b"second"]
