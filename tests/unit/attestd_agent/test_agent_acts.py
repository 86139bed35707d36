"""The agent's acts against a software TPM and a service that verifies everything."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from attestd.credentials.x509 import UnknownIssuer
from attestd.errors import AttestdError, Unauthenticated
from attestd.protocol.messages import CredentialAnswer, WaitAnswer
from attestd.tpm.chain import TrustAnchors
from attestd_agent.agent import Agent, CredentialNotOurs, NotEnrolled
from attestd_agent.clock import DeviceClock
from attestd_agent.failures import KeysNotOfThisTpm
from attestd_agent.records import ChainNotOfThisKey, Enrolled, MalformedChain
from attestd_agent.server import Server, ServerRefused
from attestd_agent.transport import ServerUnreachable, Transport
from tests.forger import forge_ck
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.conftest import MakeAgent
from tests.unit.attestd_agent.fake_service import Answer, Authority, FakeService, on, problem, utc_now


def enrolled(answer: Enrolled | WaitAnswer) -> Enrolled:
    assert isinstance(answer, Enrolled)
    return answer


@pytest.fixture
def agent(make_agent: MakeAgent, tpm: SoftwareTpm) -> Agent:
    return make_agent(tpm)


# ---- Enrollment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa-2048", "ecc-p384-high"])
def test_enrolls_by_the_maker_s_certificate(
    make_agent: MakeAgent, tpm: SoftwareTpm, service: FakeService, anchors: TrustAnchors, kind: str
) -> None:
    service.anchors = anchors
    found = enrolled(make_agent(tpm, ek=kind).enroll())
    assert found.record.ek == kind
    assert found.leaf == service.issued[0]


def test_enrolls_by_the_inventory(make_agent: MakeAgent, blank_tpm: SoftwareTpm, service: FakeService) -> None:
    found = enrolled(make_agent(blank_tpm, ek="ecc-p256").enroll())
    assert found.leaf == service.issued[0]


def test_what_is_remembered_is_what_the_service_said(agent: Agent, service: FakeService) -> None:
    service.selection = {"sha256": (0, 7, 10)}
    found = enrolled(agent.enroll())
    now = agent.clock.now().timestamp()
    kept = agent.state.load()
    assert kept is not None
    record = kept.record
    assert record == found.record
    assert (record.device_id, record.server) == (service.device_id, service.url)
    assert record.selection == {"sha256": (0, 7, 10)}
    assert record.result == {"status": "affirming"}
    assert abs(record.expires_at - now - service.lifetime) < 10
    assert abs(record.renew_at - now - service.renew_after) < 10  # the dice say 0.5: no jitter
    assert agent.state.floor() == int(found.leaf.not_valid_before_utc.timestamp())
    assert agent.clock.floor == found.leaf.not_valid_before_utc


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.9), (0.25, 0.95), (1.0, 1.1)])
def test_renewal_is_jittered_by_a_tenth(agent: Agent, service: FakeService, chance: float, factor: float) -> None:
    agent.random = lambda: chance
    record = enrolled(agent.enroll()).record
    assert abs(record.renew_at - record.obtained_at - service.renew_after * factor) <= 1


def test_renewal_is_never_after_the_end(agent: Agent, service: FakeService) -> None:
    service.renew_after = service.lifetime
    agent.random = lambda: 1.0
    record = enrolled(agent.enroll()).record
    assert record.renew_at == record.expires_at


def test_a_device_that_waits_is_told_and_remembers(agent: Agent, service: FakeService) -> None:
    service.state = "pending"
    answer = agent.enroll()
    assert answer == WaitAnswer("pending", 30)
    waiting = agent.state.waiting()
    assert waiting is not None
    assert (waiting.state, waiting.server) == ("pending", service.url)
    assert waiting.retry_at - waiting.since == 30
    assert agent.state.load() is None
    service.state = "approved"
    enrolled(agent.enroll())
    assert agent.state.waiting() is None


def test_since_when_it_waits_is_kept_over_polls(agent: Agent, service: FakeService) -> None:
    service.state = "pending"
    agent.enroll()
    first = agent.state.waiting()
    assert first is not None
    with agent.state.exclusive():
        from dataclasses import replace

        agent.state.save_waiting(replace(first, since=first.since - 1000))
    agent.enroll()
    again = agent.state.waiting()
    assert again is not None
    assert again.since == first.since - 1000


def test_enrolling_again_makes_new_keys_with_the_same_endorsement_key(
    make_agent: MakeAgent, blank_tpm: SoftwareTpm
) -> None:
    first = enrolled(make_agent(blank_tpm, ek="ecc-p256").enroll())
    second = enrolled(make_agent(blank_tpm).enroll())
    assert second.record.ek == "ecc-p256"
    assert (second.ak, second.ck) != (first.ak, first.ck)


def test_enrolling_mends_a_broken_state(agent: Agent) -> None:
    enrolled(agent.enroll())
    agent.state.chain_path.write_bytes(b"")
    enrolled(agent.enroll())
    assert agent.state.load() is not None


@pytest.mark.parametrize("wants", [(), ("eventlog",), ("eventlog", "ima"), ("ima", "something-new")])
def test_the_logs_that_are_wanted_are_sent(
    agent: Agent, service: FakeService, tmp_path: Path, wants: tuple[str, ...]
) -> None:
    (tmp_path / "eventlog").write_bytes(b"events")
    (tmp_path / "ima").write_bytes(b"measurements")
    service.wants = wants
    agent.enroll()
    agent.attest()
    for quote in service.evidence:
        assert quote.eventlog == (b"events" if "eventlog" in wants else None)
        assert quote.ima == (b"measurements" if "ima" in wants else None)


# ---- Afterwards -----------------------------------------------------------------------------------------------------


def test_attests_with_the_same_keys_and_a_new_certificate(agent: Agent, service: FakeService) -> None:
    first = enrolled(agent.enroll())
    second = enrolled(agent.attest())
    assert second.leaf == service.issued[1]
    assert (second.ak, second.ck) == (first.ak, first.ck)
    kept = agent.state.load()
    assert kept is not None
    assert kept.leaf == second.leaf


def test_attests_after_a_reboot_and_after_the_end(
    make_agent: MakeAgent, blank_tpm: SoftwareTpm, service: FakeService
) -> None:
    from tests.unit.attestd_agent.conftest import ready

    service.lifetime, service.renew_after = 1, 1
    agent = make_agent(blank_tpm)
    enrolled(agent.enroll())
    blank_tpm.reboot()
    ready(blank_tpm)
    service.lifetime = 3600
    enrolled(agent.attest())


def test_renews_without_a_quote(agent: Agent, service: FakeService) -> None:
    first = enrolled(agent.enroll())
    second = enrolled(agent.renew())
    assert len(service.evidence) == 1
    assert second.ck == first.ck
    assert second.leaf == service.issued[1]


def test_rekeys(agent: Agent, service: FakeService) -> None:
    first = enrolled(agent.enroll())
    second = enrolled(agent.renew(new_key=True))
    assert second.ck != first.ck
    assert second.ak == first.ak
    assert second.leaf == service.issued[1]
    enrolled(agent.attest())


@pytest.mark.parametrize("act", ["attest", "renew", "token"])
def test_without_a_credential_there_is_nothing_to_do(agent: Agent, service: FakeService, act: str) -> None:
    acts: dict[str, Callable[[], Any]] = {
        "attest": agent.attest,
        "renew": agent.renew,
        "token": lambda: agent.token("readings"),
    }
    with pytest.raises(NotEnrolled):
        acts[act]()
    assert service.requests == []


def test_a_quarantined_device_gets_a_result_and_keeps_what_it_has(agent: Agent, service: FakeService) -> None:
    first = enrolled(agent.enroll())
    service.state = "quarantined"
    assert agent.attest() == WaitAnswer("quarantined", 30)
    kept, waiting = agent.state.load(), agent.state.waiting()
    assert kept is not None
    assert kept.leaf == first.leaf
    assert waiting is not None
    assert waiting.state == "quarantined"


@pytest.mark.parametrize("path", ["/v1/renewals", "/v1/tokens"])
@pytest.mark.parametrize("new_key", [False, True])
def test_attests_by_itself_where_no_attestation_counts(
    agent: Agent, service: FakeService, path: str, new_key: bool
) -> None:
    """As after the service was restored from a backup: the first refusal says what to do."""
    enrolled(agent.enroll())
    service.hooks.append(on(path, problem("attestation-overdue", 403)))
    if path == "/v1/tokens":
        assert agent.token("readings").token
    else:
        enrolled(agent.renew(new_key=new_key))
    assert service.asked("/v1/attestations") == 1


def test_a_refusal_for_another_reason_stays_one(agent: Agent, service: FakeService) -> None:
    enrolled(agent.enroll())
    service.hooks.append(on("/v1/renewals", problem("device-quarantined", 403)))
    with pytest.raises(ServerRefused):
        agent.renew()
    assert service.asked("/v1/attestations") == 0


def test_a_token(agent: Agent) -> None:
    agent.enroll()
    assert agent.token("readings").token.startswith("token.readings.dpop")
    assert agent.token("readings", binding="tls").token.startswith("token.readings.tls")


def test_another_tpm_s_state_is_refused_by_name(
    make_agent: MakeAgent, tpm: SoftwareTpm, blank_tpm: SoftwareTpm
) -> None:
    make_agent(tpm).enroll()
    with pytest.raises(KeysNotOfThisTpm):
        make_agent(blank_tpm).attest()


# ---- What a wrong answer can't do -----------------------------------------------------------------------------------


def _answered(service: FakeService, change: Callable[[CredentialAnswer], CredentialAnswer]) -> None:
    """The next attestation is answered with a changed credential."""

    def answer(handler: Any) -> Answer:
        real = service.answer(handler.command, handler.path, service.requests[-1][2])
        return Answer(200, change(CredentialAnswer.parse(real.body)).to_bytes())

    service.hooks.append(on("/v1/attestations", answer))


def _foreign_chain(answer: CredentialAnswer) -> str:
    other = FakeService(Authority(utc_now()))
    from attestd.tpm.objects import parse_public

    return CredentialAnswer.parse(other._credential(parse_public(forge_ck().public).key).body).chain  # type: ignore[arg-type]


def _with(**changes: Any) -> Callable[[CredentialAnswer], CredentialAnswer]:
    from dataclasses import replace

    return lambda answer: replace(
        answer, **{name: value(answer) if callable(value) else value for name, value in changes.items()}
    )


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (_with(chain="nonsense"), MalformedChain),
        (_with(chain=""), MalformedChain),
        (_with(chain=_foreign_chain), ChainNotOfThisKey),
        (_with(chain=lambda a: a.chain[: a.chain.index("-----END CERTIFICATE-----") + 26]), UnknownIssuer),
        (_with(device_id="device-2"), CredentialNotOurs),
        (_with(spiffe_id="spiffe://example.org/device/yard/device-2"), CredentialNotOurs),
        (_with(spiffe_id="spiffe://example.org/edge/yard/device-1"), CredentialNotOurs),
        (_with(spiffe_id="spiffe://elsewhere.org/device/yard/device-1"), Unauthenticated),
    ],
    ids=[
        "no PEM",
        "no chain",
        "another key",
        "no issuer",
        "another id",
        "another name",
        "another tier",
        "other domain",
    ],
)
def test_a_wrong_answer_changes_nothing(
    agent: Agent, service: FakeService, change: Any, refusal: type[AttestdError]
) -> None:
    first = enrolled(agent.enroll())
    _answered(service, lambda answer: answer)
    second = enrolled(agent.attest())  # the accepted twin
    assert second.leaf != first.leaf
    _answered(service, change)
    with pytest.raises(refusal):
        agent.attest()
    kept = agent.state.load()
    assert kept is not None
    assert kept.leaf == second.leaf


def test_another_device_s_whole_credential_changes_nothing(agent: Agent, service: FakeService) -> None:
    first = enrolled(agent.enroll())

    def answer(handler: Any) -> Answer:
        service.answer(handler.command, handler.path, service.requests[-1][2])
        service.device_id = "device-2"
        return service._credential(first.ck.key)

    service.hooks.append(on("/v1/attestations", answer))
    with pytest.raises(CredentialNotOurs):
        agent.attest()
    kept = agent.state.load()
    assert kept is not None
    assert kept.leaf == first.leaf


def test_a_name_for_another_id_is_refused_at_enrollment(agent: Agent, service: FakeService) -> None:
    service.spiffe_id = "spiffe://example.org/device/yard/device-2"
    with pytest.raises(CredentialNotOurs):
        agent.enroll()
    assert agent.state.load() is None
    service.spiffe_id = None
    enrolled(agent.enroll())


def test_a_chain_of_another_authority_changes_nothing(agent: Agent, service: FakeService) -> None:
    first = enrolled(agent.enroll())
    stranger = FakeService(Authority(utc_now()))

    def change(answer: CredentialAnswer) -> CredentialAnswer:
        return CredentialAnswer.parse(stranger._credential(first.ck.key).body)

    _answered(service, change)
    with pytest.raises(Unauthenticated):
        agent.attest()
    kept = agent.state.load()
    assert kept is not None
    assert kept.leaf == first.leaf


@pytest.mark.parametrize("offset", [timedelta(days=-400), timedelta(hours=-3), timedelta(hours=3), timedelta(days=400)])
def test_a_clock_that_is_off_neither_refuses_nor_delays_a_credential(
    make_agent: MakeAgent, tpm: SoftwareTpm, service: FakeService, offset: timedelta
) -> None:
    agent = make_agent(tpm)
    agent.clock = DeviceClock(
        system=lambda: max(utc_now() + offset, utc_now() - timedelta(days=20)),
        boot=lambda: 0.0,
        floor=utc_now() - timedelta(days=3000),
    )
    record = enrolled(agent.enroll()).record
    assert record.expires_at - record.obtained_at == service.lifetime
    assert record.renew_at - record.obtained_at == service.renew_after


def test_a_lost_clock_is_mended_before_anything_is_said(
    make_agent: MakeAgent, tpm: SoftwareTpm, service: FakeService
) -> None:
    agent = make_agent(tpm)
    lost = DeviceClock(
        system=lambda: utc_now() - timedelta(days=20000), boot=lambda: 0.0, floor=utc_now() - timedelta(days=3)
    )
    agent.clock = lost
    agent.server = Server(Transport(service.url, service.root_pem, lost), service.root_pem, entropy=os.urandom)
    enrolled(agent.enroll())
    assert [path.partition("?")[0] for _, path, _ in service.requests][:2] == ["/v1/time", "/v1/nonce"]
    assert agent.state.floor() > (utc_now() - timedelta(minutes=5)).timestamp()
    again = DeviceClock(system=lost.now, boot=lambda: 0.0, floor=utc_now() - timedelta(days=3))
    assert not again.needs_time


def test_a_token_mends_a_lost_clock_too(agent: Agent, service: FakeService) -> None:
    agent.enroll()
    lost = DeviceClock(
        system=lambda: utc_now() - timedelta(days=20000), boot=lambda: 0.0, floor=utc_now() - timedelta(days=3)
    )
    agent.clock = lost
    agent.server = Server(Transport(service.url, service.root_pem, lost), service.root_pem, entropy=os.urandom)
    agent.token("readings")
    assert service.asked("/v1/time") == 1
    assert agent.state.floor() == int(lost.floor.timestamp())


def test_a_dead_service_leaves_everything(agent: Agent, service: FakeService) -> None:
    first = enrolled(agent.enroll())
    service.stop()
    for act in (agent.attest, agent.renew, agent.enroll):
        with pytest.raises(ServerUnreachable):
            act()
    service.start()
    kept = agent.state.load()
    assert kept is not None
    assert kept.leaf == first.leaf
    enrolled(agent.attest())


def test_a_refusal_leaves_everything(agent: Agent, service: FakeService) -> None:
    first = enrolled(agent.enroll())
    service.registered = None
    with pytest.raises(ServerRefused) as refused:
        agent.attest()
    assert refused.value.problem == "device-unknown"
    kept = agent.state.load()
    assert kept is not None
    assert kept.leaf == first.leaf
