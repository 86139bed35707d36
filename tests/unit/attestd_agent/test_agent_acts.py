"""The agent's acts against a software TPM and a service that verifies everything."""

from __future__ import annotations

from attestd.protocol.messages import WaitAnswer
from attestd.tpm.chain import TrustAnchors
from attestd_agent.records import Enrolled
from tests.software_tpm import SoftwareTpm
from tests.unit.attestd_agent.conftest import MakeAgent
from tests.unit.attestd_agent.fake_service import FakeService


def enrolled(answer: Enrolled | WaitAnswer) -> Enrolled:
    assert isinstance(answer, Enrolled)
    return answer


def test_enrolls_with_the_maker_s_certificate(
    make_agent: MakeAgent, tpm: SoftwareTpm, service: FakeService, anchors: TrustAnchors
) -> None:
    service.anchors = anchors
    found = enrolled(make_agent(tpm).enroll())
    assert found.record.ek == "rsa-2048"
    assert found.leaf == service.issued[0]


def test_attests(make_agent: MakeAgent, tpm: SoftwareTpm, service: FakeService) -> None:
    agent = make_agent(tpm)
    first = enrolled(agent.enroll())
    second = enrolled(agent.attest())
    assert second.leaf == service.issued[1]
    assert second.ck == first.ck
